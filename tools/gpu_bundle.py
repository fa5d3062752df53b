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

"""Write the bundle of a first run on a GPU (``first_gpu_run.py``): at most 60 MB.

    python tools/gpu_bundle.py --output build/gpu_bundle

A folder with the package, its graphs, the weights as xz, a dozen images, and what the CPU backend
finds in them in single precision. Images come from the field data (beside the clone, or the folder
that ALIKED_ROS_DATA names). Wheels that the other machine lacks are made where the tools for it
are here; ``bundle.json`` says what was left out.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import platformdirs
import threadpoolctl
from gpu_parts import ROOT, SIZE_LIMIT

from aliked_ros.backends.cpu.backend import CpuBackend
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.matcher import LightGlueMatcher
from aliked_ros.models.registry import fetch
from aliked_ros.types import Features, UInt8Array

CARRIED = (
    "aliked_ros", "models", "tools/gpu_parts", "tools/first_gpu_run.py", "package.xml", "LICENSE",
    "NOTICE", "pyproject.toml", "test/conftest.py", "test/gpu", "test/helpers",
    "test/lab/kernel_compiler.py",
)  # fmt: skip
MODELS = ("aliked-n16", "aliked-n32", "aliked-t16")
# sequence, images of it by number, size (width, height) that they are brought to
SOURCES = (
    ("tum_fr1_xyz/rgb", range(0, 12, 2), (640, 480)),
    ("realsense_desk/rgb", range(0, 9, 3), (848, 480)),
    ("kitti_00_first40/image_0", range(0, 9, 3), (1241, 376)),
)
PYTHON = "python3.12"  # of the machine with the GPU, for wheels that are compiled
CUDA = os.environ.get("CUDA_HOME", "/usr/local/cuda")
COMPILED = ("pycuda", "pytools", "siphash24")
# float32 numbers: four bytes in a row belong together
XZ = ({"id": lzma.FILTER_LZMA2, "preset": 1, "lc": 0, "lp": 2, "pb": 2},)


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu_bundle")
    parser.add_argument(
        "--small", action="store_true", help="for a rehearsal: small images, no wheels"
    )
    options = parser.parse_args()
    folder: Path = options.output.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    carry_the_package(folder)
    inside = folder / "bundle"
    images = carry_images(inside / "images", options.small)
    models = MODELS[:1] if options.small else MODELS
    top_k = 100 if options.small else 1024
    facts = {
        **commit(),
        "date": time.strftime("%Y-%m-%d"),
        "top_k": top_k,
        "models": models,
        **carry_results(inside / "expected.npz", images, models, top_k),
        "left_out": [] if options.small else carry_wheels(inside / "wheels"),
    }
    carry_weights(inside / "weights", models, options.small)
    (inside / "bundle.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    for left_out in facts["left_out"]:
        print(f"left out: {left_out}")
    print(f"{folder}: {size / 1e6:.1f} MB. On the machine with the GPU, in that folder:")
    print("    python3 tools/first_gpu_run.py --output results")
    if size > SIZE_LIMIT and not options.small:
        sys.exit(f"error: the bundle has {size} bytes, more than {SIZE_LIMIT}")


def carry_the_package(folder: Path) -> None:
    """Sources, without what Python and tests leave beside them."""
    left = shutil.ignore_patterns("__pycache__", "*.pyc", ".pytest_cache")
    for name in CARRIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=left)
        else:
            shutil.copyfile(source, target)
    site = folder / "bundle" / "site"
    site.mkdir(parents=True)
    for module in (platformdirs, threadpoolctl):  # pure Python, which that machine may lack
        assert module.__file__ is not None
        source = Path(module.__file__)
        if source.name == "__init__.py":
            shutil.copytree(source.parent, site / source.parent.name, ignore=left)
        else:
            shutil.copyfile(source, site / source.name)


def carry_images(folder: Path, small: bool) -> dict[str, UInt8Array]:
    """A few images of each sequence, by name, as RGB."""
    data = Path(os.environ.get("ALIKED_ROS_DATA") or ROOT.parent / "shared") / "data"
    folder.mkdir(parents=True)
    images = {}
    for sequence, numbers, size in SOURCES[: 1 if small else None]:
        files = sorted((data / sequence).glob("*.png"))
        if not files:
            sys.exit(f"error: there are no images in {data / sequence}: set ALIKED_ROS_DATA")
        for number in list(numbers)[: 2 if small else None]:
            pixels = cv2.imread(str(files[number]), cv2.IMREAD_COLOR)
            assert pixels is not None, files[number]
            fitted = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
            if small:
                fitted = np.ascontiguousarray(fitted[:128, : size[0] // 4])
            name = f"{sequence.split('_')[0]}_{number}"
            cv2.imwrite(str(folder / f"{name}.png"), fitted, [cv2.IMWRITE_PNG_COMPRESSION, 9])
            images[name] = np.ascontiguousarray(fitted[..., ::-1])
    return images


def carry_results(
    path: Path, images: dict[str, UInt8Array], models: tuple[str, ...], top_k: int
) -> dict[str, Any]:
    """The CPU's features of the first image of each size, its matches of two of them."""
    shapes = {image.shape: name for name, image in reversed(images.items())}
    compared = sorted(shapes.values(), key=list(images).index)
    first, second = list(images)[:2]
    arrays: dict[str, Any] = {}
    config = FrontendConfig(precision="float32", max_keypoints=top_k, depth_confidence=-1.0)
    with closing(CpuBackend(config)) as backend:
        for model in models:
            extractor = Extractor(
                FrontendConfig(max_keypoints=top_k, model=model, matcher="nearest"), backend
            )
            for name in (*compared, second) if model == "aliked-n16" else compared:
                features = extractor.extract(images[name])
                arrays[f"{model}/{name}/keypoints"] = features.keypoints
                arrays[f"{model}/{name}/scores"] = features.scores
                arrays[f"{model}/{name}/descriptors"] = features.descriptors.astype(np.float16)

        def carried(name: str) -> Features:
            height, width = images[name].shape[:2]
            kinds = ("keypoints", "scores", "descriptors")
            values = [arrays[f"aliked-n16/{name}/{kind}"].astype(np.float32) for kind in kinds]
            keypoints, scores, descriptors = values
            return Features(keypoints, scores, descriptors, width, height, "aliked-n16")

        matches = LightGlueMatcher(config, backend).match(carried(first), carried(second))
    rows = np.stack([matches.reference_indices, matches.current_indices], axis=1)
    arrays[f"matches/{first}-{second}"] = rows
    np.savez_compressed(path, **arrays)
    return {"images": list(images), "compared": compared, "pairs": [[first, second]]}


def carry_weights(folder: Path, models: tuple[str, ...], small: bool) -> None:
    """As xz; in a rehearsal only the small ones, which takes no time."""
    folder.mkdir()
    for source in fetch([*models, "aliked-lightglue"]).values():
        if small and source.stat().st_size > 4 << 20:
            (folder / source.name).symlink_to(source)
            continue
        with lzma.open(folder / f"{source.name}.xz", "wb", filters=XZ) as packed:
            packed.write(source.read_bytes())


def carry_wheels(folder: Path) -> list[str]:
    """What is compiled for the other machine's Python; what was left out, and why."""
    python = shutil.which(PYTHON)
    if python is None:
        return [f"{', '.join(COMPILED)}: there is no {PYTHON} here"]
    pip = [python, "-m", "pip"]
    with tempfile.TemporaryDirectory() as work:
        try:
            # pycuda wants cuRAND's headers, and a driver to link with: an empty one will do
            _quietly([*pip, "install", "--no-deps", "--target", f"{work}/site", "nvidia-curand"])
            driver = ["-o", f"{work}/libcuda.so", "-Wl,-soname,libcuda.so.1", "-x", "c", os.devnull]
            _quietly(["cc", "-shared", *driver])
            headers = [*map(str, Path(work).glob("site/nvidia/*/include")), CUDA + "/include"]
            variables = {"CUDA_ROOT": CUDA, "CPATH": ":".join(headers), "LIBRARY_PATH": work}
            _quietly([*pip, "wheel", "--no-deps", "-w", str(folder), *COMPILED], variables)
        except (OSError, subprocess.CalledProcessError) as error:
            said = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1]
            return [f"{', '.join(COMPILED)}: {said}"]
    return []


def _quietly(command: list[str], variables: dict[str, str] | None = None) -> None:
    environment = os.environ | (variables or {})
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)


def commit() -> dict[str, str]:
    """Of these sources."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"commit": done.stdout.strip() or "unknown"}


if __name__ == "__main__":
    main()
