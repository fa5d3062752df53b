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

"""The published networks as ONNX files for OpenCV 5's own ALIKED and LightGlue.

Each is made and tried in a separate process, because OpenCV's importer may crash (it does on
exports of torch's newer exporter). It has no DeformConv either. So these come from torch's older
exporter, with deformable convolutions as nine bilinear reads.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from aliked_ros.benchmark.dense import DenseAliked
from aliked_ros.errors import AlikedError, BackendError
from aliked_ros.models.registry import weights_path
from aliked_ros.networks.aliked import ALIKED
from aliked_ros.networks.lightglue import LightGlue, filter_matches

ALIKED_FILE, LIGHTGLUE_FILE = "opencv_aliked.onnx", "opencv_lightglue.onnx"
_OPSET = 17
_THRESHOLD = 0.1  # least probability of a match, as published


class OpenCvAliked(nn.Module):
    """The dense form; keypoints from -1 at the first pixel's centre to 1 at the last one's."""

    def __init__(self, network: ALIKED, top_k: int) -> None:
        super().__init__()
        self.dense = DenseAliked(network, top_k)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """1×3×H×W in [0, 1] → keypoints N×2, descriptors N×128, scores N."""
        keypoints, scores, descriptors = self.dense(image)
        last = torch.tensor([image.shape[3] - 1, image.shape[2] - 1])
        return keypoints / last * 2 - 1, descriptors, scores


class OpenCvLightGlue(nn.Module):
    """All nine layers for two images, with the example's number of points."""

    def __init__(self, network: LightGlue) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, kpts0: Tensor, kpts1: Tensor, desc0: Tensor, desc1: Tensor
    ) -> tuple[Tensor, Tensor]:
        """1×N×2 in about [-1, 1] and 1×N×128 of each image → pairs M×2 int64, probabilities M."""
        assignment, _, _ = self.network((kpts0[0], kpts1[0]), (desc0[0], desc1[0]), -1.0, -1.0)
        rows, columns, probability = filter_matches(assignment, _THRESHOLD)
        return torch.stack([rows, columns], dim=1), probability


class _FixedShapes(TorchFunctionMode):
    """Replaces functions whose result shapes the exporter loses by reshapes to constants."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in (Tensor.unflatten, Tensor.flatten, Tensor.repeat_interleave):
            return func(*args, **(kwargs or {}))
        x, at = args[0], args[1]
        shape = [int(side) for side in x.shape]
        if func is Tensor.repeat_interleave:  # of the last axis, in the positional encoding
            return torch.stack([x] * at, -1).reshape(*shape[:-1], shape[-1] * at)
        at %= len(shape)
        if func is Tensor.flatten:
            return x.reshape(*shape[:at], -1)
        return x.reshape(*shape[:at], *args[2], *shape[at + 1 :])


def export_aliked(model: str, width: int, height: int, top_k: int, path: Path) -> None:
    """Write an ALIKED for ``cv2.ALIKED.create``, for one image size and ``top_k`` keypoints."""
    network = OpenCvAliked(ALIKED.from_checkpoint(weights_path(model)), top_k)
    example = (torch.zeros(1, 3, height, width),)
    _export(network, example, ["image"], ["keypoints", "descriptors", "scores"], path)


def export_lightglue(points: int, path: Path) -> None:
    """Write LightGlue for ``cv2.LightGlueMatcher.create``, for a fixed number of points."""
    network = OpenCvLightGlue(LightGlue.from_checkpoint(weights_path("aliked-lightglue")))
    rng = torch.Generator().manual_seed(0)
    example = tuple(torch.rand(1, points, size, generator=rng) for size in (2, 2, 128, 128))
    names = ["kpts0", "kpts1", "desc0", "desc1"]
    with _FixedShapes():
        _export(network, example, names, ["matches0", "mscores0"], path)


def _export(
    network: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    path: Path,
) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            example,
            str(path),
            dynamo=False,
            opset_version=_OPSET,
            input_names=inputs,
            output_names=outputs,
        )


@contextmanager
def _no_remarks() -> Iterator[None]:
    """Silence OpenCV's warning that its new engine has no targets."""
    log = cv2.utils.logging
    before = log.setLogLevel(log.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        log.setLogLevel(before)


def open_aliked(path: Path, width: int, height: int) -> Any:
    """OpenCV's own ALIKED, for one image size."""
    settings = cv2.ALIKED.Params()
    settings.inputSize = (width, height)
    with _no_remarks():
        return cv2.ALIKED.create(str(path), settings)


def open_lightglue(path: Path) -> Any:
    """OpenCV's own LightGlue."""
    with _no_remarks():
        return cv2.LightGlueMatcher.create(str(path), _THRESHOLD)


def make(folder: Path, width: int, height: int, top_k: int, points: int) -> dict[str, str]:
    """Export into a folder and try, in other processes; returns reasons for missing files."""
    missing = {}
    for file, numbers in ((ALIKED_FILE, (width, height, top_k)), (LIGHTGLUE_FILE, (points,))):
        command = [sys.executable, "-m", __spec__.name, str(folder / file), *map(str, numbers)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            (folder / file).unlink(missing_ok=True)
            words = done.stderr.strip().splitlines() or ["it said nothing"]
            ending = f"signal {-done.returncode}" if done.returncode < 0 else words[-1]
            missing[file] = f"OpenCV {cv2.__version__} cannot run the exported network: {ending}"
    return missing


def _try_aliked(path: Path, width: int, height: int, top_k: int) -> None:
    export_aliked("aliked-n16", width, height, top_k, path)
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    keypoints, _ = open_aliked(path, width, height).detectAndCompute(noise, None)
    if len(keypoints) != top_k:
        raise BackendError(f"it gives {len(keypoints)} keypoints, not {top_k}")


def _try_lightglue(path: Path, points: int) -> None:
    export_lightglue(points, path)
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 640, (points, 2)).astype(np.float32)
    descriptors = rng.standard_normal((points, 128)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    matcher = open_lightglue(path)
    matcher.setPairInfo(keypoints, keypoints, (640, 640), (640, 640))
    found = matcher.match(descriptors, descriptors)
    if not found or any(match.queryIdx != match.trainIdx for match in found):
        raise BackendError("it does not match an image with itself")


def main(arguments: list[str]) -> int:
    """Export the file named by PATH and numbers, and try it."""
    path, numbers = Path(arguments[0]), [int(number) for number in arguments[1:]]
    try:
        if path.name == ALIKED_FILE:
            _try_aliked(path, *numbers)
        else:
            _try_lightglue(path, *numbers)
    except (AlikedError, cv2.error, RuntimeError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
