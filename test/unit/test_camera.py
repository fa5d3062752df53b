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
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from aliked_ros.camera import CameraModel, create_camera
from aliked_ros.errors import ConfigurationError
from aliked_ros.lenses import LENSES as FAMILIES

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


@pytest.mark.parametrize(("rectified", "zero", "other"), [(False, "K", "P"), (True, "P", "K")])
def test_a_matrix_of_zeros_beside_a_good_one_is_named(
    rectified: bool, zero: str, other: str
) -> None:
    info = SimpleNamespace(
        width=640, height=480, binning_x=0, binning_y=0, distortion_model="plumb_bob", d=[],
        roi=SimpleNamespace(width=0, height=0, x_offset=0, y_offset=0),
        k=MATRIX.ravel() * rectified, p=np.eye(3, 4).ravel() * (not rectified),
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match=f"{zero} of CameraInfo is all 0, {other} is not"):
        CameraModel.from_info(info, rectified)


def test_a_small_skew_and_rounding_are_ignored() -> None:
    rounded = MATRIX + 1e-9 + np.eye(3, k=1) * [0, 1.5, 0]
    camera = create_camera(640, 480, rounded, "plumb_bob", np.zeros(5))
    np.testing.assert_allclose(camera.matrix, MATRIX, rtol=0.0, atol=1e-6)


def test_no_points() -> None:
    assert camera("plumb_bob").normalize(np.zeros((0, 2), np.float32)).shape == (0, 2)


@pytest.mark.parametrize(
    ("matrix", "model", "distortion", "message"),
    [
        (np.zeros((3, 3)), "plumb_bob", np.zeros(5), "not calibrated"),
        (MATRIX, "thin_prism", np.zeros(5), "thin_prism.*equidistant"),
        (MATRIX, "eucm", np.full(5, 0.1), "eucm has 5 distortion coefficients; it takes 2"),
        (MATRIX, "eucm", np.array([1.5, 1.0]), "alpha is 1.5"),
        (MATRIX, "double_sphere", np.array([-2.0, 0.5]), "xi is -2"),
        (MATRIX, "omnidirectional", np.array([-1.0, 0.0, 0.0, 0.0, 0.0]), "xi is -1"),
        (MATRIX, "plumb_bob", np.full(8, 0.1), "8 distortion coefficients; it takes 0 or 4 or 5"),
        (MATRIX, "plumb_bob", np.array([0.0] * 5 + [np.nan]), "6 distortion coefficients"),
        (MATRIX, "Inverse Brown Conrady", np.full(5, 0.1), "distortion_model is 'Inverse"),
        (MATRIX * np.nan, "plumb_bob", np.zeros(5), "finite"),
        (MATRIX.T, "plumb_bob", np.zeros(5), r"must be \[\[fx, 0, cx\]"),  # column by column
        (MATRIX * [[1], [1], [0]], "plumb_bob", np.zeros(5), r"\[0, 0, 1\]\], row by row"),
        (MATRIX + np.eye(3, k=1) * [0, 4, 0], "plumb_bob", np.zeros(5), "must be"),  # skewed
        (MATRIX * 1e300, "plumb_bob", np.zeros(5), "must lie in 1..10,000,000"),
        (MATRIX * 1e-4, "plumb_bob", np.zeros(5), "must lie in 1..10,000,000"),
        (
            np.array([[500.0, 0, -1e39], [0, 500, 240], [0, 0, 1]]),
            "plumb_bob",
            np.zeros(5),
            "principal",
        ),
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
        ("equidistant", [], []),
        ("equidistant", [0.1, 0.2], [0.1, 0.2]),
        ("eucm", [0.6, 1.1, 0.0, 0.0], [0.6, 1.1]),
        ("rational_polynomial", [0.1, 0.2, 0.0, 0.0, 0.3], [0.1, 0.2, 0.0, 0.0, 0.3]),
        ("rational_polynomial", [0.1] * 8 + [0.0] * 6, [0.1] * 8 + [0.0] * 6),
        ("rational_polynomial", [0.01] * 12, [0.01] * 12),
        ("rational_polynomial", [0.01] * 8 + [0.0], [0.01] * 8),
        ("Inverse Brown Conrady", [0.0] * 5, [0.0] * 5),
        ("Brown Conrady", [0.1, 0.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0, 0.0]),
        ("brown_conrady", [0.1, 0.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0, 0.0]),
        ("Plumb Bob ", [0.1, 0.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0, 0.0]),
        ("kannala-brandt4", [0.1, 0.2], [0.1, 0.2]),
        ("pinhole", [0.0] * 5, [0.0] * 5),
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


LENS_MATRIX = np.array([[300.0, 0.0, 639.5], [0.0, 301.0, 479.5], [0.0, 0.0, 1.0]])
WIDE_LENSES = {
    "equidistant": [-0.012, 0.03, -0.02, 0.004, 0.001],
    "eucm": [0.6, 1.1],
    "double_sphere": [-0.2, 0.6],
    "omnidirectional": [1.2, -0.2, 0.05, 1e-3, -5e-4],
    "thin_prism_fisheye": [-0.02, 0.01, 1e-3, -2e-3, 1e-3, -5e-4, 2e-3, 1e-3],
}
COLMAP_NAMES = {
    "equidistant": "OPENCV_FISHEYE", "eucm": "EUCM", "thin_prism_fisheye": "THIN_PRISM_FISHEYE",
}  # fmt: skip


def wide(model: str, count: int | None = None) -> CameraModel:
    return create_camera(1280, 960, LENS_MATRIX, model, np.array(WIDE_LENSES[model][:count]))


@pytest.mark.parametrize("model", WIDE_LENSES)
def test_directions_come_back_from_the_image_also_from_behind_the_camera(model: str) -> None:
    camera, lens = wide(model), FAMILIES[model]
    angle, turn = np.meshgrid(np.radians(np.linspace(0.0, 110.0, 23)), np.linspace(0.0, 6.2, 40))
    directions = np.stack(
        [np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)], axis=-1
    ).reshape(-1, 3)
    points = lens.distort(directions, camera.distortion)
    assert np.isfinite(points).all()
    back = lens.undistort(points, camera.distortion)
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    np.testing.assert_allclose(back, directions, atol=1e-9)
    pixels = (points * 300.0)[angle.ravel() < np.radians(80.0)]
    assert np.abs(300.0 * lens.distort(back, camera.distortion) - points * 300.0).max() < 1e-6
    assert np.ptp(pixels, axis=0).min() > 300.0  # the lens is a wide one


@pytest.mark.parametrize("model", WIDE_LENSES)
def test_pixels_of_a_wide_lens_come_back_from_their_rays(model: str) -> None:
    camera = wide(model)
    x, y = np.meshgrid(np.linspace(0, 1279, 30), np.linspace(0, 959, 20))
    pixels = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    rays = camera.normalize(pixels)
    seen = np.isfinite(rays).all(axis=1)
    assert seen[np.hypot(*(pixels - [639.5, 479.5]).T) < 200].all()  # less than 90° off axis
    assert not seen[0]  # a corner: farther
    # to 0.05 pixels: coordinates are float32, and large near 90°
    assert np.abs(camera.project(rays[seen]) - pixels[seen]).max() < 0.05


@pytest.mark.parametrize("model", COLMAP_NAMES)
def test_wide_lenses_agree_with_colmap(model: str) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    camera = wide(model, 4 if model == "equidistant" else None)
    from aliked_ros.exporting.colmap import colmap_camera

    theirs = colmap_camera(camera)
    assert theirs.model_name == COLMAP_NAMES[model]
    assert isinstance(theirs, pycolmap.Camera)
    rays = np.random.default_rng(0).uniform(-1.2, 1.2, (200, 2))
    expected = [theirs.img_from_cam(ray) for ray in np.insert(rays, 2, 1.0, axis=1)]
    ours = camera.project(rays.astype(np.float32))
    np.testing.assert_allclose(ours + 0.5, np.reshape(expected, (-1, 2)), atol=1e-3)


def test_a_fisheye_agrees_with_opencv() -> None:
    camera = wide("equidistant", 4)
    rays = np.random.default_rng(0).uniform(-1.5, 1.5, (200, 2))
    theirs = cv2.fisheye.distortPoints(rays[:, None], camera.matrix, camera.distortion)[:, 0]
    np.testing.assert_allclose(camera.project(rays.astype(np.float32)), theirs, atol=1e-3)
    x, y = camera.rectification_maps(np.eye(3), camera.matrix, (1280, 960))
    expected = cv2.fisheye.initUndistortRectifyMap(
        camera.matrix, camera.distortion, np.eye(3), camera.matrix, (1280, 960), cv2.CV_32FC1
    )
    np.testing.assert_allclose(x, expected[0], atol=1e-3)
    np.testing.assert_allclose(y, expected[1], atol=1e-3)


@pytest.mark.parametrize("model", ["double_sphere", "omnidirectional"])
def test_without_coefficients_a_unified_lens_is_a_pinhole(model: str) -> None:
    nothing = np.zeros(FAMILIES[model].counts[0])
    camera = create_camera(1280, 960, LENS_MATRIX, model, nothing)
    pinhole = create_camera(1280, 960, LENS_MATRIX, "plumb_bob", np.zeros(5))
    rays = np.random.default_rng(0).uniform(-1.5, 1.5, (50, 2)).astype(np.float32)
    np.testing.assert_allclose(camera.project(rays), pinhole.project(rays), atol=1e-3)
    np.testing.assert_allclose(camera.normalize(pinhole.project(rays)), rays, atol=1e-5)


def test_a_double_sphere_by_hand() -> None:
    """Usenko et al., equations 40 to 43, for the direction (1, 0, 1)."""
    camera = create_camera(1280, 960, LENS_MATRIX, "double_sphere", np.array([0.5, 0.25]))
    shifted = 0.5 * 2**0.5 + 1.0
    expected = 300.0 / (0.25 * (1.0 + shifted**2) ** 0.5 + 0.75 * shifted) + 639.5
    found = camera.project(np.array([[1.0, 0.0]], np.float32))[0]
    np.testing.assert_allclose(found, [expected, 479.5], atol=1e-3)
