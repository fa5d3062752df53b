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

"""Depth images: sensor values to metres, and to keypoints."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.errors import ImageError
from aliked_ros.frontend.depth import depth_at
from aliked_ros.io.images import depth_in_metres
from aliked_ros.sources import open_source


def test_sensor_values_to_metres() -> None:
    millimetres = depth_in_metres(np.array([[0, 1500, 65534, 65535]], np.uint16))
    np.testing.assert_allclose(millimetres, [[np.nan, 1.5, 65.534, np.nan]])
    raw = np.array([[np.nan, np.inf, -np.inf, -1.0, 0.0, 2.5]], np.float32)
    metres = depth_in_metres(raw)
    np.testing.assert_array_equal(metres, [[np.nan] * 5 + [2.5]])
    assert millimetres.dtype == metres.dtype == np.float32
    assert np.isinf(raw[0, 1]), "the sensor's own array stays as it is"


@pytest.mark.parametrize(
    "raw", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint16), np.zeros((4, 4))]
)
def test_other_images_are_no_depth(raw: np.ndarray) -> None:
    with pytest.raises(ImageError, match=rf"{raw.dtype}.*16UC1"):
        depth_in_metres(raw)


def test_a_depth_edge_is_not_averaged() -> None:
    depth = np.full((4, 6), 1.0, np.float32)
    depth[:, 3:] = 5.0
    depth[2, 5] = np.nan
    points = np.array([[2.4, 1.0], [2.6, 1.0], [5.2, 2.4], [-0.4, -0.4], [5.4, 3.4]], np.float32)
    np.testing.assert_array_equal(depth_at(depth, points, 6, 4), [1.0, 5.0, np.nan, 1.0, 5.0])
    assert depth_at(depth, points[:0], 6, 4).shape == (0,)


def test_another_size_is_refused() -> None:
    depth = np.ones((240, 320), np.float32)
    with pytest.raises(ImageError, match="320×240 pixels, the image 640×480"):
        depth_at(depth, np.zeros((1, 2), np.float32), 640, 480)


def test_real_sensor(shared: Path) -> None:
    """fr1_xyz: a desk at about a metre, with a Kinect's holes."""
    folder = shared / "data" / "tum_fr1_xyz"
    image = next(iter(open_source(str(folder), 1, "depth")))
    assert image.depth is not None
    assert image.depth.shape == image.pixels.shape[:2]
    assert 0.6 < np.isfinite(image.depth).mean() < 1.0
    assert 0.8 < np.nanmedian(image.depth) < 1.6
    x, y = np.meshgrid(np.arange(640.0), np.arange(480.0))
    points = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    np.testing.assert_array_equal(depth_at(image.depth, points, 640, 480), image.depth.ravel())
    name = (folder / "associations.txt").read_text().splitlines()[0].split()[3]
    stored = cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(np.isnan(image.depth), stored == 0)
