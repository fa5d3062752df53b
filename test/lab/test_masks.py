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

"""What is taken for fixed to the camera in whole sequences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aliked_ros.frontend.extractor import Extractor, create_extractor
from aliked_ros.sources import read_image
from aliked_ros.types import UInt8Array
from helpers.static import CONFIG, learn


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return create_extractor(CONFIG)


@pytest.mark.long
def test_scenery_is_not_static(
    extractor: Extractor, tum_images: Callable[[int], UInt8Array], shared: Path
) -> None:
    """Hand-held in a room; and a car driving at the horizon, which hardly moves in the image."""
    folder = shared / "data" / "kitti_00_first40" / "image_0"
    for name, images in (
        ("fr1_xyz", (tum_images(i) for i in range(60))),
        ("KITTI", (read_image(file) for file in sorted(folder.glob("*.png")))),
    ):
        worst = max(static.share for static in learn(extractor, images))
        print(f"{name}: at most {worst:.2%} of the image taken for static")
        assert worst < 0.01
