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

"""What the tests share: the field-data folder, reference arrays, one loaded backend each."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # so a shell starts what it runs in the background; tests interrupt themselves and others
    signal.signal(signal.SIGINT, signal.default_int_handler)

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.system.cache import cache_dir
from aliked_ros.types import Features, UInt8Array


def _shared() -> Path | None:
    named = os.environ.get("ALIKED_ROS_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared"
    return folder if (folder / "data").is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder that holds ``data/`` and ``reference/``."""
    folder = _shared()
    if folder is None:
        pytest.skip("no field data: set ALIKED_ROS_DATA to the folder that holds data/, reference/")
    return folder


class Reference:
    """Outputs of the published networks."""

    def __init__(self, folder: Path) -> None:
        self._arrays = np.load(folder / "reference" / "aliked_lightglue_reference.npz")
        self._images = json.loads((folder / "reference" / "images.json").read_text())
        self._data = folder / "data"

    def __getitem__(self, key: str) -> np.ndarray:
        return self._arrays[key]

    def cases(self) -> list[tuple[str, str]]:
        """(model, image) pairs that the file has features of."""
        keys = [key.split("/") for key in self._arrays.files if key.endswith("keypoints")]
        return [(model, image) for model, image, _ in keys]

    def pixels(self, image: str) -> UInt8Array:
        """The image as RGB."""
        return read_rgb(self._data / self._images[image])

    def features(self, model: str, image: str) -> Features:
        """The published network's features."""
        height, width = self.pixels(image).shape[:2]
        arrays = [
            self._arrays[f"{model}/{image}/{name}"].astype(np.float32)
            for name in ("keypoints", "scores", "descriptors")
        ]
        return Features(*arrays, width, height, model)


@pytest.fixture(scope="session")
def reference(shared: Path) -> Reference:
    """Outputs of the published networks."""
    return Reference(shared)


def read_rgb(path: Path) -> UInt8Array:
    """An image file as RGB."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert pixels is not None, path
    return np.ascontiguousarray(pixels[..., ::-1])


@pytest.fixture(scope="session")
def tum_images(shared: Path) -> Callable[[int], UInt8Array]:
    """Image by number of the fr1_xyz sequence, as RGB."""
    files = sorted((shared / "data" / "tum_fr1_xyz" / "rgb").glob("*.png"))
    return lru_cache(maxsize=64)(lambda index: read_rgb(files[index]))


@pytest.fixture
def training_cache(tmp_path_factory, monkeypatch) -> None:
    """A cache of its own for images, weights as they are."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "weights").symlink_to(cache_dir() / "weights")
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(cache))


@pytest.fixture(scope="session")
def shared_kitti(shared: Path) -> Callable[[int], UInt8Array]:
    """Left image by number of KITTI 00, grey, cut to 640×480's share of it: another scene."""
    folder = shared / "data" / "kitti_00_first40" / "image_0"

    def image(index: int) -> UInt8Array:
        pixels = cv2.imread(str(folder / f"{index:06d}.png"), cv2.IMREAD_GRAYSCALE)
        assert pixels is not None
        return np.ascontiguousarray(cv2.resize(pixels[:, 300:800], (640, 480)))

    return image
