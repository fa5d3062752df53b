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

"""PyTorch as a device for the networks: on the CPU here, its GPU kernels in Triton's interpreter.

What is not run here is a GPU: CUDA graphs, streams, the compiled kernels (test_gpu.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from aliked_ros.backends.cpu.backend import CpuBackend
from aliked_ros.backends.create import create_backend
from aliked_ros.backends.gpu.backend import DeviceBackend
from aliked_ros.backends.gpu.torch import TorchDevice, TorchNetwork
from aliked_ros.backends.gpu.torch_operations import GpuOperations
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.matcher import LightGlueMatcher
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.networks import aliked, lightglue
from aliked_ros.networks.fold import LightGlueShape
from aliked_ros.system.nvidia import GpuError
from aliked_ros.types import Image, Matches, UInt8Array
from helpers import ROOT
from helpers.parity import common
from helpers.torch_networks import device_extractor, device_match_head, device_matcher, distances

CONFIG = FrontendConfig(max_keypoints=256, precision="float32")
SEGMENTS = (range(0, 3), range(3, 6), range(6, 9))


@pytest.fixture(scope="module")
def backend() -> Iterator[DeviceBackend]:
    backend = DeviceBackend(CONFIG, TorchDevice("cpu"))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def on_the_cpu() -> Iterator[CpuBackend]:
    backend = CpuBackend(CONFIG)
    yield backend
    backend.close()


def pairs(matches: Matches) -> set[tuple[int, int]]:
    columns = (matches.reference_indices.tolist(), matches.current_indices.tolist())
    return set(zip(*columns, strict=True))


# The device


def test_features_and_matches_are_those_of_the_cpu(
    backend: DeviceBackend, on_the_cpu: CpuBackend, tum_images: Callable[[int], UInt8Array]
) -> None:
    image = tum_images(0)
    mask = np.ones(image.shape[:2], np.uint8)
    mask[:, :320] = 0
    odd = np.ascontiguousarray(image[:333, :450])
    ours, theirs = Extractor(CONFIG, backend), Extractor(CONFIG, on_the_cpu)
    for pixels, where in ((image, mask), (image, None), (image[..., 1].copy(), None), (odd, None)):
        found, expected = ours.extract(pixels, where), theirs.extract(pixels, where)
        share, cosine = common(found, expected)
        assert len(found) == len(expected) == 256
        assert share >= 0.99
        assert cosine > 0.9999
    for confidence in (-1.0, 0.95):
        config = replace(CONFIG, depth_confidence=confidence)
        features = [ours.extract(tum_images(i)) for i in (0, 5)]
        found = LightGlueMatcher(config, backend).match(*features)
        expected = LightGlueMatcher(config, on_the_cpu).match(*features)
        assert len(pairs(found) & pairs(expected)) >= 0.97 * len(expected)
        assert (found.layers == 9) == (confidence < 0)


def test_lightglue_begins_before_the_features_are_waited_for(
    backend: DeviceBackend,
    tum_images: Callable[[int], UInt8Array],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extractor, matcher = Extractor(CONFIG, backend), LightGlueMatcher(CONFIG, backend)
    before = extractor.extract(tum_images(0))
    expected = matcher.match(before, extractor.extract(tum_images(1)))
    asked: list[str] = []
    run, fetch = TorchNetwork.run, TorchDevice.fetch

    def fetched(device: TorchDevice, *arrays: Any) -> Callable[[], Any]:
        asked.append("fetch")
        wait = fetch(device, *arrays)
        return lambda: (asked.append("wait"), wait())[1]

    monkeypatch.setattr(TorchNetwork, "run", lambda one: (asked.append("run"), run(one)))
    monkeypatch.setattr(TorchDevice, "fetch", fetched)
    now = extractor.extract(tum_images(1), reference=before)
    assert asked == ["run", "fetch", "run", "wait"], "ALIKED, its results, LightGlue"
    found = matcher.match(before, now)
    assert asked[4:6] == ["fetch", "wait"], "whether LightGlue is sure after its first segment"
    assert pairs(found) == pairs(expected)
    assert found.layers == expected.layers


def test_it_goes_on_after_memory_was_given_back(tum_images: Callable[[int], UInt8Array]) -> None:
    config = replace(CONFIG, precision="auto")  # half, on a device
    backend = DeviceBackend(config, TorchDevice("cpu"))
    assert backend.identity["precision"] == "float16"
    pipeline = Pipeline(config, open_backend=lambda *_: backend)
    tracked = []
    for i in range(4):
        result = pipeline.process(Image(tum_images(i), float(i)))
        tracked.append(int((result.tracks.lengths > 1).sum()))
        if i == 1:
            backend.release()
    assert min(tracked[1:]) > 80
    pipeline.close()


def test_an_array_that_was_given_back_cannot_be_used() -> None:
    device = TorchDevice("cpu")
    array = device.zeros((3,), np.dtype(np.float32))
    device.write(array, np.arange(3, dtype=np.float32))
    assert device.read(array)[0].tolist() == [0, 1, 2]
    array.free()
    with pytest.raises(BackendError, match="it was given back"):
        device.read(array)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_reference_runs_on_the_cpu() -> None:
    with pytest.raises(GpuError, match=r"PyTorch .* finds no GPU that it can use; run nvidia-smi"):
        TorchDevice()
    backend = create_backend(FrontendConfig(backend="torch"))
    assert backend.description.endswith(", float32, cpu")
    backend.close()


# What only a GPU runs


class AsTensorRtDivides(TorchFunctionMode):
    """Divisions are products with the reciprocal, in float32, whatever the numbers are."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.div, torch.Tensor.div, torch.Tensor.__truediv__):
            by = torch.as_tensor(args[1]).to(torch.float32)
            result = torch.as_tensor(args[0]).to(torch.float32) * by.reciprocal()
            return result.trunc().to(args[0].dtype) if kwargs else result
        return function(*args, **(kwargs or {}))


def test_rows_and_columns_are_exact_at_every_width() -> None:
    """The cells of an image's map, numbered row by row."""
    for width in range(64, 2049):
        across = width // aliked.CELL
        rows = torch.arange(1281, dtype=torch.int32)
        numbers = torch.cat([rows * across, rows * across + across - 1])
        with AsTensorRtDivides():
            found = aliked._quotient(numbers, across)
        assert torch.equal(found, rows.repeat(2)), width


@pytest.mark.parametrize("size", [(240, 424), (480, 848)])
def test_the_first_column_stays_where_it_is(size: tuple[int, int]) -> None:
    """Sizes of cameras at which such a division is wrong for some rows."""
    score_map = torch.rand(size, generator=torch.Generator().manual_seed(0))
    score_map[:, 2] += torch.rand(size[0], generator=torch.Generator().manual_seed(1)) + 1
    given = (score_map, torch.ones(size, dtype=torch.bool), torch.zeros(1), 200)
    expected = aliked.detect(*given)
    with AsTensorRtDivides():
        found = aliked.detect(*given)
    assert (expected[0][:, 0] < 10).sum() > 50
    torch.testing.assert_close(found[0], expected[0], atol=1e-3, rtol=0)


def test_the_operations_of_a_gpu_give_the_same_matches() -> None:
    shape = LightGlueShape(128, 9)
    generator = torch.Generator().manual_seed(0)
    inputs = lightglue.segment_inputs(shape, SEGMENTS[0], 100, half=False)
    for name, tensor in inputs.items():
        if tensor.ndim == 2:
            inputs[name] = 64 * torch.rand(tensor.shape, generator=generator)
    for side in "01":
        inputs[f"count{side}"][0] = 90 - int(side)
        descriptors = torch.randn((100, 128), generator=generator)
        inputs[f"descriptors{side}"] = torch.nn.functional.normalize(descriptors, dim=1)
    with torch.inference_mode():
        expected = device_matcher(SEGMENTS[0], half=False)(*inputs.values())
        found = device_matcher(SEGMENTS[0], False, GpuOperations())(*inputs.values())
        ends = (inputs["count0"], inputs["count1"], torch.full((1,), 0.01))
        pairs = [
            device_match_head(2, False, operations)(result[0], *ends)[0]
            for operations, result in ((lightglue.PLAIN, expected), (GpuOperations(), found))
        ]
    torch.testing.assert_close(found[0][:, :89], expected[0][:, :89], atol=2e-4, rtol=0)
    assert torch.equal(*pairs)


@pytest.mark.parametrize("half", [False, True])
def test_the_networks_never_leave_the_device(half: bool) -> None:
    """A tensor on another device, or a shape that depends on values, would raise here."""
    extractor = device_extractor(aliked.FoldedALIKED, "aliked-n16", half)
    cases = [(extractor, aliked.example_inputs(250, 330, 3, 500))] + [
        (
            device_matcher(layers, half, GpuOperations()),
            lightglue.segment_inputs(LightGlueShape(128, 9), layers, 500, half),
        )
        for layers in SEGMENTS
    ]
    head = device_match_head(8, half, GpuOperations())
    cases.append((head, lightglue.head_inputs(500, half)))
    for module, inputs in cases:
        with torch.inference_mode(), torch.device("meta"):
            outputs = module.to("meta")(*(tensor.to("meta") for tensor in inputs.values()))
        assert {output.device.type for output in outputs} == {"meta"}


class Launches(TorchDispatchMode):
    """Counts what a GPU would launch: all operations but views and those that only take room."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        self.count += not (function.is_view or "empty" in name or name == "_unsafe_view")
        return function(*args, **(kwargs or {}))


class Kernel:
    """Stands for one of Triton's: one launch."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda *_, **__: torch.zeros(())


def test_launches_of_aliked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is launched between a convolution and the next but one pass for bias and ELU."""
    triton = pytest.importorskip("triton", reason="make setup GROUP=test")
    from aliked_ros.backends.gpu import triton_aliked, triton_kernels

    kernels = {n: k for n, k in vars(triton_kernels).items() if n[0] != "_"}
    for name, kernel in kernels.items():
        if isinstance(kernel, triton.runtime.jit.KernelInterface):
            monkeypatch.setattr(triton_kernels, name, Kernel())
    inputs = aliked.example_inputs(480, 640, 3, 500)
    module = device_extractor(triton_aliked.TritonALIKED, "aliked-n16", half=True).to("meta")
    with torch.inference_mode(), torch.device("meta"), Launches() as counted:
        module(*(tensor.to("meta") for tensor in inputs.values()))
    assert counted.count == 65


def test_launches_of_lightglue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten for each of nine layers, where PyTorch's operations take 24 to 26."""
    pytest.importorskip("triton", reason="make setup GROUP=test")
    from aliked_ros.backends.gpu import torch_operations, triton_attention, triton_lightglue

    def launches(operations: lightglue.Operations, layers: range) -> int:
        inputs = lightglue.segment_inputs(LightGlueShape(128, 9), layers, 500, half=True)
        module = device_matcher(layers, True, operations).to("meta")
        with torch.inference_mode(), torch.device("meta"), Launches() as counted:
            module(*(tensor.to("meta") for tensor in inputs.values()))
            return counted.count

    def attention(query: Any, key: Any, value: Any, **_: Any) -> Any:
        return query.transpose(1, 2).clone().transpose(1, 2)

    monkeypatch.setattr(torch_operations.F, "scaled_dot_product_attention", attention)
    for name in ("encode", "attend", "norm_gelu", "count_undecided"):
        monkeypatch.setattr(triton_attention, name, Kernel())
    found = {
        type(operations).__name__: [launches(operations, layers) for layers in SEGMENTS]
        for operations in (GpuOperations(), triton_lightglue.TritonOperations())
    }
    assert found == {"GpuOperations": [100, 84, 76], "TritonOperations": [36, 33, 30]}


def run_program(name: str, *arguments: object, **variables: str) -> str:
    """What a program beside this file prints; Triton's compiler and interpreter need one each."""
    pytest.importorskip("triton", reason="make setup GROUP=test")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | variables
    environment |= {"PYTHONPATH": str(ROOT / "test"), "OMP_NUM_THREADS": "1"}  # of few numbers
    command = [sys.executable, Path(__file__).with_name(name), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize(("model", "half"), [("aliked-n16", False), ("aliked-t16", True)])
def test_kernels_compute_what_plain_operations_do(
    model: str, half: bool, tmp_path: Path, tum_images: Callable[[int], UInt8Array]
) -> None:
    """On an image whose sides are no multiples of 32, with a mask."""
    pixels = np.ascontiguousarray(tum_images(0)[200:299, 240:390])
    inputs = aliked.example_inputs(*pixels.shape, 80)
    inputs["image"] = torch.from_numpy(pixels)[None]
    inputs["mask"][:, :40] = 0
    inputs["threshold"][0] = 0.2
    given, made = tmp_path / "inputs.pt", tmp_path / "outputs.pt"
    torch.save({"model": model, "half": half, "inputs": inputs}, given)
    run_program("kernel_interpreter.py", given, made, TRITON_INTERPRET="1")
    keypoints, scores, descriptors, count = torch.load(made)
    with torch.inference_mode():
        network = device_extractor(aliked.FoldedALIKED, model, half)
        expected = network(*inputs.values())
    assert torch.equal(count, expected[3])
    assert 10 < int(count) < 80
    used = slice(int(count))
    near = distances(keypoints[used], expected[0][used]).min(1)
    order = near.indices
    assert near.values.max() < (0.05 if half else 1e-4)
    assert (scores[used] - expected[1][used][order]).abs().max() < (5e-3 if half else 1e-5)
    cosines = (descriptors[used].float() * expected[2][used][order].float()).sum(1)
    assert cosines.min() > (0.99 if half else 0.999999)
    assert keypoints[used, 0].min() > 37


@pytest.mark.long
@pytest.mark.parametrize(("network", "kernels"), [("aliked", 13), ("lightglue", 4)])
def test_the_self_test_sees_every_broken_kernel(network: str, kernels: int) -> None:
    """Else a kernel that a compiler gets wrong would serve, rather than plain operations."""
    printed = run_program("kernel_self_test.py", network, TRITON_INTERPRET="1").splitlines()
    assert printed[:2] == ["float32: right", "float16: right"]
    assert len(printed) == 2 + kernels
    for line in printed[2:]:
        assert "Triton self-test failed: " in line, line


@pytest.mark.long
@pytest.mark.parametrize(("network", "cases"), [("aliked", 3), ("lightglue", 12)])
def test_kernels_are_right_at_any_size(network: str, cases: int) -> None:
    """One keypoint, none, and numbers of rows and pixels that no block divides."""
    printed = run_program("kernel_self_test.py", network, "sizes", TRITON_INTERPRET="1")
    lines = printed.splitlines()
    assert len(lines) == cases
    assert all(line.endswith(" right") for line in lines), printed


def test_switches_of_the_process_are_as_they_were() -> None:
    """The old and the new ones for TF32, which do not go together; each in its own process."""
    program = """
import os, warnings
from torch import backends
from aliked_ros.backends.gpu.torch import single_precision
warnings.simplefilter("ignore")
product, cases = backends.cuda.matmul, (
    "0", "backends.fp32_precision = 'tf32'", "backends.cudnn.conv.fp32_precision = 'ieee'",
    "product.fp32_precision = 'tf32'", "product.allow_tf32 = True",
)
def switches():
    return backends.fp32_precision, backends.cudnn.conv.fp32_precision, product.fp32_precision
for case in cases:
    child = os.fork()
    if child == 0:
        exec(case)
        known = switches()
        with single_precision():
            within = switches()
        print(case, within[1:] == ("ieee", "ieee"), switches() == known, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.count("True True") == 5, done.stdout + done.stderr


@pytest.mark.long
def test_kernels_compile(tmp_path: Path) -> None:
    """For a GPU that is not here (an H100), by Triton's own compiler and assembler."""
    printed = run_program("kernel_compiler.py", "aliked-n16", 90, TRITON_CACHE_DIR=str(tmp_path))
    rows = [line.split() for line in printed.splitlines()]
    assert len({kernel for _, kernel, *_ in rows}) == 13 + 4
    assert max(int(shared) for *_, shared in rows) <= 99 << 10  # of compute capability 8.6
