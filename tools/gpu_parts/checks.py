# Copyright 2026 aliked_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Does it work, and is it right."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from contextlib import closing
from typing import Any

import numpy as np

from aliked_ros.backends.admission import LIMITS, check_features
from aliked_ros.backends.gpu.backend import DeviceBackend, DeviceExtractor, DeviceLightGlue
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import AlikedError, BackendError
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.matcher import LightGlueMatcher
from aliked_ros.models.device_export import GraphPrecision
from gpu_parts import ROOT, Run, Skipped, carried


def precisions(run: Run) -> tuple[GraphPrecision, ...]:
    """What is tried; CPUs compute half precision a hundred times slower."""
    return ("float32", "float16") if run.on_gpu else ("float32",)


def device_backend(run: Run, precision: GraphPrecision | None = None) -> DeviceBackend:
    """The networks in PyTorch, without the comparison with a CPU backend of this machine.

    ``parity`` compares them with carried results instead, and ``admission`` does the former.
    precision: None: half, where that is tried.
    """
    from aliked_ros.backends.gpu.torch import TorchDevice

    for kind in (DeviceExtractor, DeviceLightGlue):
        setattr(kind, "_admit", lambda *_: None)  # noqa: B010
    config = FrontendConfig(
        max_keypoints=run.bundle.facts["top_k"],
        precision=precision or precisions(run)[-1],
        depth_confidence=-1.0,
    )
    return DeviceBackend(config, TorchDevice(run.place), print)


def kernels(run: Run) -> None:
    """Compile every Triton kernel; on a GPU compare each stage with plain operations, too."""
    try:
        import torch
        import triton  # noqa: F401
    except ImportError as error:
        raise Skipped(str(error)) from error
    if run.on_gpu:
        from aliked_ros.backends.gpu import triton_aliked, triton_lightglue

        place = torch.device(run.place)
        for network, module in (("ALIKED", triton_aliked), ("LightGlue", triton_lightglue)):
            for half in (False, True):
                begin = time.monotonic()
                module.check(place, half=half)
                run.report(network=network, half=half, seconds=time.monotonic() - begin)
        return
    model = run.bundle.facts["models"][-1]  # the smallest
    command = [sys.executable, str(ROOT / "test/lab/kernel_compiler.py"), model, "90"]
    done = subprocess.run(command, env=carried(), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    printed = done.stdout
    sizes = {line.split()[1]: int(line.split()[2]) for line in printed.splitlines()}
    run.report(capability="9.0", bytes_of_code=sizes)


def sizes(run: Run) -> None:
    """The kernels at sizes that no block divides, and with few points or none."""
    import torch

    from aliked_ros.backends.gpu import triton_aliked, triton_lightglue

    place = torch.device(run.place)
    for size, top_k in (((65, 64), 1), ((97, 131), 17), ((64, 2047), 333)):
        triton_aliked.check(place, half=True, size=size, top_k=top_k)
        run.report(network="ALIKED", size=size, top_k=top_k)
    for rows, points in ((1, (1, 1)), (17, (17, 0)), (333, (333, 1)), (2047, (2047, 2000))):
        triton_lightglue.check(place, True, rows, points)
        run.report(network="LightGlue", rows=rows, points=points)


def parity(run: Run) -> None:
    """Features and matches against the CPU's: every model and size, both precisions."""
    bundle, wrong = run.bundle, []
    for model in bundle.facts["models"]:
        for precision in precisions(run):
            with closing(device_backend(run, precision)) as backend:
                top_k = bundle.facts["top_k"]
                config = FrontendConfig(max_keypoints=top_k, model=model, matcher="nearest")
                extractor = Extractor(config, backend)
                for name in bundle.facts["compared"]:
                    features = extractor.extract(bundle.image(name))
                    expected = bundle.features(model, name)
                    try:
                        said = check_features(
                            f"{model} {name} {precision}",
                            (features.keypoints, features.scores, features.descriptors),
                            (expected.keypoints, expected.scores, expected.descriptors),
                            precision,
                        )
                    except BackendError as error:
                        said = str(error)
                        wrong.append(said)
                    run.report(model=model, image=name, precision=precision, figures=said)
                if model == "aliked-n16":
                    wrong += _matches(run, backend, precision)
    assert not wrong, f"{len(wrong)} comparisons are out of their limits, e.g. {wrong[0]}"


def _matches(run: Run, backend: DeviceBackend, precision: GraphPrecision) -> list[str]:
    """LightGlue on the CPU's own features."""
    wrong = []
    matcher = LightGlueMatcher(backend.config, backend)
    for one, other in run.bundle.facts["pairs"]:
        pair = (run.bundle.features("aliked-n16", name) for name in (one, other))
        matches = matcher.match(*pair)
        rows = (matches.reference_indices.tolist(), matches.current_indices.tolist())
        found, expected = set(zip(*rows, strict=True)), run.bundle.matches(one, other)
        share = len(found & expected) / max(len(found | expected), 1)
        run.report(pair=[one, other], precision=precision, in_common=share, expected=len(expected))
        if share < LIMITS[precision].matches:
            wrong.append(f"matches of {one} and {other} in {precision}: {share:.3f} in common")
    return wrong


def admission(run: Run) -> None:
    """The backend as a node opens it, compared with a CPU backend of this machine."""
    from aliked_ros.backends.create import create_backend

    image = run.bundle.images()[0]
    for precision in precisions(run):
        config = FrontendConfig(backend="torch", precision=precision)
        try:
            with closing(create_backend(config, print)) as backend:
                features = Extractor(config, backend).extract(image)
                LightGlueMatcher(config, backend).match(features, features)
                run.report(precision=precision, identity=backend.identity, count=len(features))
        except AlikedError as error:
            run.report(precision=precision, refused=str(error))
            raise


def tests(run: Run) -> None:
    """Those of ``test/gpu`` that need no field data; the CPU's side of them is ONNX Runtime."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise Skipped("onnxruntime is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "test/gpu"]
    environment = {**carried(), "ALIKED_ROS_DATA": str(run.output / "none")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # whatever that machine has
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    run.report(summary=done.stdout.strip().splitlines()[-1:])
    assert done.returncode == 0, (done.stdout + done.stderr)[-500:]


def noise(*shape: int) -> np.ndarray[Any, Any]:
    """Pixels."""
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
