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

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.system.cache import cache_dir
from aliked_ros.types import UInt8Array
from helpers.data import read_rgb, shared_folder
from helpers.parity import Reference


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder that holds ``data/`` and ``reference/``."""
    folder = shared_folder()
    if folder is None:
        pytest.skip("no field data: set ALIKED_ROS_DATA to the folder that holds data/, reference/")
    return folder


@pytest.fixture(scope="session")
def reference(shared: Path) -> Reference:
    """Outputs of the published networks."""
    return Reference(shared)


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
