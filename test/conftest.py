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

import importlib.util
import os
import signal
import sys

os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # so a shell starts what it runs in the background; tests interrupt themselves and others
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from aliked_ros.system.cache import cache_dir
from aliked_ros.system.cpu import give_back_memory
from aliked_ros.types import UInt8Array
from helpers.data import read_rgb, shared_folder
from helpers.parity import Reference


class NoExports:
    """An import hook: ``torch.onnx.export`` fails in unit and node tests, which it slows down."""

    allowed = False

    def find_spec(self, name: str, *_: object) -> Any:
        if name != "torch.onnx":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            export = module.export

            def guarded(*args: Any, **kwargs: Any) -> Any:
                assert self.allowed, "an export with PyTorch: this test belongs in test/lab"
                return export(*args, **kwargs)

            module.export = guarded

        spec.loader.exec_module = exec_module
        return spec


EXPORTS = NoExports()
sys.meta_path.insert(0, EXPORTS)


def pytest_runtest_setup(item: pytest.Item) -> None:
    EXPORTS.allowed = not {"unit", "node"} & set(item.path.parts)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Any:
    """What a file's tests and helpers keep in caches, networks mostly, goes with the file."""
    yield
    if nextitem is not None and nextitem.path == item.path:
        return
    helpers = (module for name, module in sys.modules.items() if name.startswith("helpers."))
    for module in (item.getparent(pytest.Module).obj, *helpers):
        for value in vars(module).values():
            if hasattr(value, "cache_clear") and value.__module__ == module.__name__:
                value.cache_clear()
    give_back_memory()


# Files of the lab that take a minute and more begin, so that none of them is left for one of the
# processes at the end.
LONGEST = (
    "test_soak.py", "test_fleet.py", "test_trainer.py", "test_odometry_messages.py",
    "test_benchmark.py", "test_packaging.py", "test_torch_device.py", "test_view.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(
        key=lambda item: item.path.parts[-2:-1] == ("lab",) and item.path.name not in LONGEST
    )


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
