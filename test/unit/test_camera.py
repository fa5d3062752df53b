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

"""Camera models against OpenCV's own projection and against each other."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.camera import CameraModel, create_camera
from aliked_ros.errors import ConfigurationError

MATRIX = np.array([[520.0, 0.0, 318.0], [0.0, 518.0, 250.0], [0.0, 0.0, 1.0]])
LENSES = {
    "plumb_bob": [0.262383, -0.953104, -0.005358, 0.002628, 1.163314],
    "rational_polynomial": [5.1, 2.6, 0.0002, -0.0003, 0.13, 5.4, 4.3, 0.75],
    "equidistant": [-0.012, 0.03, -0.02, 0.004],
}


def camera(model: str, **options: tuple[int, int]) -> CameraModel:
    return create_camera(640, 480, MATRIX, model, np.array(LENSES[model]), **options)


@pytest.mark.parametrize("model", LENSES)
def test_project_and_normalize_are_inverse(model: str) -> None:
    x, y = np.meshgrid(np.linspace(5, 635, 20), np.linspace(5, 475, 20))
    pixels = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    lens = camera(model)
    rays = lens.normalize(pixels)
    assert np.isfinite(rays).all()
    assert np.abs(lens.project(rays) - pixels).max() < 0.02


def test_pinhole_by_hand() -> None:
    lens = create_camera(640, 480, MATRIX, "plumb_bob", np.zeros(5))
    np.testing.assert_allclose(
        lens.normalize(np.array([[318.0, 250.0], [838.0, 250.0]], np.float32)), [[0, 0], [1, 0]]
    )


def test_real_calibration(shared: Path) -> None:
    """fr1_xyz's published lens: known corner displacement, by OpenCV's image undistortion."""
    calibration = json.loads((shared / "data" / "tum_fr1_xyz" / "calib.json").read_text())
    lens = CameraModel.from_calibration(calibration)
    assert lens.distortion_model == "plumb_bob"
    map_x, map_y = cv2.initUndistortRectifyMap(
        lens.matrix, lens.distortion, None, lens.matrix, (640, 480), cv2.CV_32FC1
    )
    for u, v in ((30, 40), (320, 240), (600, 450)):
        source = np.array([[map_x[v, u], map_y[v, u]]], np.float32)  # raw pixel seen at (u, v)
        ideal = lens.normalize(source)[0] @ lens.matrix[:2, :2].T + lens.matrix[:2, 2]
        np.testing.assert_allclose(ideal, (u, v), atol=0.02)


def test_binning_and_region_of_interest() -> None:
    """The same ray, whichever pixels are read out: checked through pixel centres."""
    full = camera("plumb_bob")
    part = camera("plumb_bob", binning=(2, 2), offset=(100, 60))
    published = np.array([[0.0, 0.0], [40.0, 70.0]], np.float32)
    # published pixel p covers sensor pixels 2p + offset and 2p + offset + 1: its centre is + ½
    sensor = published * 2 + np.array([100.5, 60.5], np.float32)
    np.testing.assert_allclose(part.normalize(published), full.normalize(sensor), atol=1e-6)


def test_no_points() -> None:
    assert camera("plumb_bob").normalize(np.zeros((0, 2), np.float32)).shape == (0, 2)


@pytest.mark.parametrize(
    ("matrix", "model", "distortion", "message"),
    [
        (np.zeros((3, 3)), "plumb_bob", np.zeros(5), "not calibrated"),
        (MATRIX, "thin_prism", np.zeros(5), "thin_prism.*equidistant"),
        (MATRIX, "equidistant", np.full(5, 0.1), "5 distortion coefficients; it takes 4"),
        (MATRIX, "plumb_bob", np.full(8, 0.1), "8 distortion coefficients; it takes 0 or 4 or 5"),
        (MATRIX, "plumb_bob", np.array([0.0] * 5 + [np.nan]), "6 distortion coefficients"),
        (MATRIX, "Inverse Brown Conrady", np.full(5, 0.1), "distortion_model is 'Inverse"),
        (MATRIX * np.nan, "plumb_bob", np.zeros(5), "finite"),
    ],
)
def test_nonsense(matrix: np.ndarray, model: str, distortion: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        create_camera(640, 480, matrix, model, distortion)


@pytest.mark.parametrize(
    ("model", "given", "kept"),
    [
        ("plumb_bob", [0.1, 0.2, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0], [0.1, 0.2, 0.0, 0.0, 0.3]),
        ("plumb_bob", [0.0], []),
        ("equidistant", [0.1, 0.2, 0.3, 0.4, 0.0], [0.1, 0.2, 0.3, 0.4]),
        ("rational_polynomial", [0.1, 0.2, 0.0, 0.0, 0.3], [0.1, 0.2, 0.0, 0.0, 0.3]),
        ("rational_polynomial", [0.1] * 8 + [0.0] * 6, [0.1] * 8 + [0.0] * 6),
        ("rational_polynomial", [0.01] * 12, [0.01] * 12),
        ("rational_polynomial", [0.01] * 8 + [0.0], [0.01] * 8),
        ("Inverse Brown Conrady", [0.0] * 5, [0.0] * 5),
        ("Brown Conrady", [0.1, 0.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_coefficients_that_are_zero_may_be_too_many(
    model: str, given: list[float], kept: list[float]
) -> None:
    camera = create_camera(640, 480, MATRIX, model, np.array(given))
    assert camera.distortion.tolist() == kept
    points = np.array([[300, 200], [340, 250]], np.float32)
    rays = camera.normalize(points)
    np.testing.assert_allclose(camera.project(rays), points, atol=0.05)


WIDE = {
    "barrel": ("plumb_bob", [-0.3, 0.07, 0.0, 0.0, 0.0], 500.0),
    "pincushion": ("plumb_bob", [0.3, 0.2, 0.0, 0.0, 0.0], 600.0),
    "Azure Kinect": ("rational_polynomial", [5.1, 2.6, 2e-4, -3e-4, 0.13, 5.4, 4.3, 0.75], 500.0),
    "fisheye": ("equidistant", [0.0035, 0.0007, -0.002, 0.0002], 600.0),
}


@pytest.mark.parametrize("lens", WIDE)
def test_wide_lenses_are_inverted_into_the_corners(lens: str) -> None:
    model, distortion, focal = WIDE[lens]
    matrix = np.array([[focal, 0.0, 640.0], [0.0, focal, 480.0], [0.0, 0.0, 1.0]])
    camera = create_camera(1280, 960, matrix, model, np.array(distortion))
    corners = np.array([[0, 0], [1279, 0], [0, 959], [1279, 959], [640, 0]], np.float32)
    rays = camera.normalize(corners)
    np.testing.assert_allclose(camera.project(rays), corners, atol=0.01)
    assert (np.sign(np.rint(rays)) == np.sign(np.rint(corners - [640, 480]))).all()


@pytest.mark.parametrize(
    ("model", "distortion", "radius"),
    [
        ("plumb_bob", [-0.5, 0.0, 0.0, 0.0], 0.544),  # r (1 - r²/2) is never more
        ("equidistant", [-0.02, 0.01, -0.02, 0.004], 1.35),  # 90° off axis
    ],
)
def test_no_ray_leads_beyond_the_field_of_view(
    model: str, distortion: list[float], radius: float
) -> None:
    matrix = np.array([[300.0, 0.0, 640.0], [0.0, 300.0, 480.0], [0.0, 0.0, 1.0]])
    camera = create_camera(1280, 960, matrix, model, np.array(distortion))
    x, y = np.meshgrid(np.arange(0, 1280, 8.0), np.arange(0, 960, 8.0))
    pixels = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    away = np.hypot(*(pixels - [640, 480]).T) / 300.0
    known = np.isfinite(camera.normalize(pixels)).all(axis=1)
    assert known[away < 0.98 * radius].all()
    assert not known[away > 1.02 * radius].any()
