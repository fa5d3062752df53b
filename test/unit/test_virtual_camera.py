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

"""The virtual camera: its ground truth is true, and its blur, exposure and noise are there."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from aliked_ros.errors import SourceError
from aliked_ros.sources import open_source
from aliked_ros.sources.virtual import PHOTO_WIDTH, VirtualCamera


def grey(camera: VirtualCamera, index: int) -> np.ndarray:
    return cv2.cvtColor(camera.render(index).pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)


def sharpness(picture: np.ndarray) -> float:
    return float(cv2.Laplacian(picture, cv2.CV_32F).var())


def test_ground_truth_warps_one_frame_onto_another() -> None:
    camera = VirtualCamera(shutter=0.0, stops=0.0, noise=0.0)
    first, second = grey(camera, 0), grey(camera, 25)
    truth = camera.homography_between(0, 25)

    def difference(matrix: np.ndarray) -> float:
        warped = cv2.warpPerspective(first, matrix, (640, 480), flags=cv2.INTER_CUBIC)
        seen = cv2.warpPerspective(np.ones_like(first), matrix, (640, 480)) > 0.999
        seen = cv2.erode(seen.astype(np.uint8), np.ones((9, 9))) > 0
        assert seen.mean() > 0.5
        return float(np.abs(warped - second)[seen].mean())

    shifts = [np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]]) for dx, dy in ((0.2, 0), (0, -0.2))]
    assert difference(truth) < 1.0  # grey levels; interpolating twice costs about half of one
    assert difference(truth) < min(difference(shift @ truth) for shift in shifts)
    assert difference(np.eye(3)) > 10 * difference(truth)


def test_pose_and_homography_agree() -> None:
    camera = VirtualCamera(seed=4)
    width, height = camera.photo_size
    for index in (0, 17, 200):
        pose = camera.pose(index)
        assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3))
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0)
        photo = np.array([100.0, 300.0])
        metres = (photo - [(width - 1) / 2, (height - 1) / 2]) * PHOTO_WIDTH / width
        in_camera = np.linalg.inv(pose) @ [*metres, 0.0, 1.0]
        assert in_camera[2] > 0.5
        projected = camera.camera_matrix @ in_camera[:3]
        mapped = camera.homography(index) @ [*photo, 1.0]
        assert np.allclose(projected[:2] / projected[2], mapped[:2] / mapped[2], atol=1e-9)


@pytest.mark.parametrize("size", [(640, 480), (752, 480), (320, 240)])
def test_the_view_never_leaves_the_photograph(size: tuple[int, int]) -> None:
    corners = np.array(
        [[0, 0, 1], [size[0] - 1, 0, 1], [0, size[1] - 1, 1], [size[0] - 1, size[1] - 1, 1]], float
    )
    for seed in range(5):
        camera = VirtualCamera(seed=seed, size=size)
        limit = np.array(camera.photo_size) - 1
        for index in range(0, 900, 15):
            seen = np.linalg.inv(camera.homography(index)) @ corners.T
            seen = (seen[:2] / seen[2]).T
            assert (seen >= 0).all()
            assert (seen <= limit).all()


def test_an_open_shutter_blurs_and_only_where_the_camera_moves() -> None:
    sharp = VirtualCamera(shutter=0.0, stops=0.0, noise=0.0)
    blurred = VirtualCamera(shutter=0.02, stops=0.0, noise=0.0)
    motion = [abs(sharp.homography_between(i, i + 1)[:2, 2]).max() for i in range(120)]
    fastest = int(np.argmax(motion))
    assert sharpness(grey(blurred, fastest)) < 0.7 * sharpness(grey(sharp, fastest))
    # Blur is an average along the path around the stamp: it moves nothing.
    smooth = [cv2.GaussianBlur(grey(c, fastest), (0, 0), 4) for c in (sharp, blurred)]
    shift, _ = cv2.phaseCorrelate(*smooth)
    assert np.hypot(*shift) < 0.1


def test_exposure_changes_and_noise() -> None:
    steady = VirtualCamera(shutter=0.0, stops=0.0, noise=0.0)
    changing = VirtualCamera(shutter=0.0, stops=1.0, noise=0.0)
    ratios = [grey(changing, i).mean() / grey(steady, i).mean() for i in range(0, 300, 25)]
    assert min(ratios) < 0.85
    assert max(ratios) > 1.1
    noisy = VirtualCamera(shutter=0.0, stops=0.0, noise=1.0)
    deviation = (grey(noisy, 3) - grey(steady, 3)).std()
    assert 0.5 < deviation < 6.0


def test_same_seed_same_images_in_any_order() -> None:
    first, second, other = VirtualCamera(seed=7), VirtualCamera(seed=7), VirtualCamera(seed=8)
    second.render(30)
    assert np.array_equal(first.render(5).pixels, second.render(5).pixels)
    assert not np.array_equal(first.render(5).pixels, other.render(5).pixels)
    assert not np.array_equal(first.render(5).pixels, first.render(6).pixels)


def test_is_a_source() -> None:
    source = open_source("virtual", limit=3)
    frames = list(source)
    assert [frame.stamp for frame in frames] == pytest.approx([0, 1 / 30, 2 / 30])
    assert source.length == len(frames) == 3
    assert frames[0].pixels.shape == (480, 640, 3)
    assert frames[0].pixels.dtype == np.uint8
    assert source.calibration is not None
    assert source.calibration["width"] == 640
    assert source.calibration["fx"] == pytest.approx(525.0)


def test_a_photograph_is_chosen_by_name_and_grey_ones_will_do() -> None:
    image = VirtualCamera(photograph="camera", length=1, size=(320, 240)).render(0)
    assert image.pixels.shape == (240, 320, 3)
    with pytest.raises(SourceError, match="no photograph 'none'; choose one of astronaut, "):
        VirtualCamera(photograph="none")
