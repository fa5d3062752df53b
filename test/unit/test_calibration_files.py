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

"""Calibrations of other tools: the same camera, whichever file says it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.camera import CameraModel
from aliked_ros.errors import SourceError
from aliked_ros.sources import open_source
from aliked_ros.sources.calibration_files import read_calibration

ROS = """
image_width: 640
image_height: 480
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [520.0, 0.0, 318.0, 0.0, 518.0, 250.0, 0.0, 0.0, 1.0]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.2, -0.3, 0.001, -0.002, 0.0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
"""
KALIBR = """
cam0:
  cam_overlaps: [1]
  camera_model: {model}
  distortion_coeffs: {distortion}
  distortion_model: {kind}
  intrinsics: {intrinsics}
  resolution: [640, 480]
  rostopic: /cam0/image_raw
cam1: {{camera_model: pinhole}}
"""
EUROC = """%YAML:1.0
sensor_type: camera
T_BS: {cols: 4, rows: 4, data: [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]}
resolution: [640, 480]
camera_model: pinhole
intrinsics: [520.0, 518.0, 318.0, 250.0]
distortion_model: radial-tangential
distortion_coefficients: [0.2, -0.3, 0.001, -0.002]
"""
COLMAP = """# Camera list with one line of data per camera:
#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]
1 OPENCV 640 480 520 518 318.5 250.5 0.2 -0.3 0.001 -0.002
"""
BROWN = "[0.2, -0.3, 0.001, -0.002]"
PINHOLE = "[520.0, 518.0, 318.0, 250.0]"


def kalibr(model: str, kind: str, distortion: str, intrinsics: str) -> str:
    return KALIBR.format(model=model, kind=kind, distortion=distortion, intrinsics=intrinsics)


def opencv(path: Path) -> None:
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.write("image_width", 640)
    storage.write("image_height", 480)
    storage.write("camera_matrix", np.array([[520.0, 0, 318.0], [0, 518.0, 250.0], [0, 0, 1.0]]))
    storage.write("distortion_coefficients", np.array([[0.2], [-0.3], [0.001], [-0.002], [0.0]]))
    storage.release()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("camera_info.yaml", ROS),
        ("front-camchain.yaml", kalibr("pinhole", "radtan", BROWN, PINHOLE)),
        ("sensor.yaml", EUROC),
        ("cameras.txt", COLMAP),
        ("calibration.yml", ""),
        ("calibration.xml", ""),
    ],
)
def test_a_folder_of_images_takes_the_calibration_beside_them(
    tmp_path: Path, name: str, text: str
) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((480, 640), np.uint8))
    if text:
        (tmp_path / name).write_text(text)
    else:
        opencv(tmp_path / name)
    calibration = open_source(str(tmp_path)).calibration
    assert calibration is not None
    camera = CameraModel.from_calibration(calibration)
    assert camera.fits(640, 480)
    assert camera.distortion_model == "plumb_bob"
    np.testing.assert_allclose(camera.matrix, [[520, 0, 318], [0, 518, 250], [0, 0, 1]])
    np.testing.assert_allclose(camera.distortion[:4], [0.2, -0.3, 0.001, -0.002])


@pytest.mark.parametrize(
    ("text", "model", "coefficients"),
    [
        (kalibr("pinhole", "equidistant", "[0.1, 0.2, 0.3, 0.4]", PINHOLE),
         "equidistant", [0.1, 0.2, 0.3, 0.4]),
        (kalibr("eucm", "none", "[]", "[0.6, 1.1, 520.0, 518.0, 318.0, 250.0]"),
         "eucm", [0.6, 1.1]),
        (kalibr("ds", "none", "[]", "[-0.2, 0.6, 520.0, 518.0, 318.0, 250.0]"),
         "double_sphere", [-0.2, 0.6]),
        (kalibr("omni", "radtan", BROWN, "[1.2, 520.0, 518.0, 318.0, 250.0]"),
         "omnidirectional", [1.2, 0.2, -0.3, 0.001, -0.002]),
        ("1 SIMPLE_RADIAL_FISHEYE 640 480 520 318.5 250.5 0.1", "equidistant", [0.1]),
        ("1 THIN_PRISM_FISHEYE 640 480 520 518 318.5 250.5 .1 .2 0 0 .3 .4 .01 .02",
         "thin_prism_fisheye", [0.1, 0.2, 0.0, 0.0, 0.3, 0.4, 0.01, 0.02]),
        ("1 SIMPLE_RADIAL 640 480 520 318.5 250.5 0.1", "plumb_bob", [0.1, 0.0, 0.0, 0.0]),
    ],
)  # fmt: skip
def test_lenses_of_kalibr_and_colmap(
    tmp_path: Path, text: str, model: str, coefficients: list[float]
) -> None:
    path = tmp_path / ("cameras.txt" if text[0] == "1" else "camchain.yaml")
    path.write_text(text)
    camera = CameraModel.from_calibration(read_calibration(path))
    assert camera.distortion_model == model
    np.testing.assert_allclose(camera.distortion, coefficients)
    np.testing.assert_allclose(camera.matrix[:2, 2], [318, 250])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("camchain.yaml", kalibr("fov", "none", "[]", PINHOLE), "camera_model is 'fov'; known"),
        ("camchain.yaml", kalibr("ds", "radtan", BROWN, "[0, 0, 1, 1, 1, 1]"), "no model here"),
        ("camchain.yaml", kalibr("eucm", "none", "[]", "[2.0, 1.0, 9, 9, 9, 9]"), "alpha is 2"),
        ("camera_info.yaml", ROS.replace("image_width", "width"), "'image_width' is missing"),
        ("camera_info.yaml", "a: [1", "line 1 is not valid YAML"),
        ("sensor.yaml", "rate: 20", "of no known kind.*camera_matrix"),
        ("cameras.txt", "# nothing", "names no camera"),
        ("cameras.txt", "1 FOV 640 480 1 1 1 1 1", "'FOV'; known are"),
        ("calibration.xml", "<opencv_storage></opencv_storage>", "OpenCV cannot parse it"),
        ("calib.json", "{", "cannot be read as JSON"),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_reason(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=message) as refused:
        read_calibration(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_images_beside_another_tools_damaged_file_are_read_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((48, 64), np.uint8))
    (tmp_path / "camera_info.yaml").write_text("a: [1")
    with caplog.at_level(logging.WARNING):
        source = open_source(str(tmp_path))
    assert source.calibration is None
    assert "not calibrated" in caplog.text
    assert len(list(source)) == 1


def test_two_calibrations_are_not_chosen_from(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((48, 64), np.uint8))
    for name in ("a-camchain.yaml", "b-camchain.yaml"):
        (tmp_path / name).write_text(kalibr("pinhole", "radtan", BROWN, PINHOLE))
    with pytest.raises(SourceError, match=r"2 calibrations: a-camchain\.yaml, b-camchain\.yaml"):
        open_source(str(tmp_path))
    (tmp_path / "calib.json").write_text(json.dumps({"rate_hz": 5}))  # ours comes first
    assert open_source(str(tmp_path)).rate == 5
