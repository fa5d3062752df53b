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

"""Calibrations as other tools write them, to what a ``calib.json`` says.

Read are ROS's camera_info YAML (camera_calibration), Kalibr's camchain.yaml, EuRoC's sensor.yaml,
OpenCV's FileStorage (YAML or XML) and COLMAP's cameras.txt. Pixels have their origin at the centre
of the top-left pixel; COLMAP's are moved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError, SourceError
from aliked_ros.io.images import quiet_opencv
from aliked_ros.sources.base import calibration_of
from aliked_ros.types import Float64Array

NAMES = (
    "calib.json", "camera_info.yaml", "camchain.yaml", "*camchain*.yaml", "sensor.yaml",
    "calibration.yaml", "calibration.yml", "calibration.xml", "cameras.txt",
)  # fmt: skip
"""What a calibration in a folder of images is called; the first that is there counts."""

Calibration = dict[str, Any]

_KALIBR_DISTORTIONS = {"radtan": "plumb_bob", "equidistant": "equidistant", "none": "none"}
# Kalibr's camera model → ours, and how many of its intrinsics come before fu fv pu pv
_KALIBR_CAMERAS = {
    "pinhole": ("", 0), "omni": ("omnidirectional", 1), "eucm": ("eucm", 2),
    "ds": ("double_sphere", 2),
}  # fmt: skip
# COLMAP's model → ours, whether it has one focal length, and the place of each of our coefficients
# among its further parameters (None = 0)
_COLMAP: dict[str, tuple[str, bool, tuple[int | None, ...]]] = {
    "SIMPLE_PINHOLE": ("none", True, ()),
    "PINHOLE": ("none", False, ()),
    "SIMPLE_RADIAL": ("plumb_bob", True, (0, None, None, None)),
    "RADIAL": ("plumb_bob", True, (0, 1, None, None)),
    "OPENCV": ("plumb_bob", False, (0, 1, 2, 3)),
    "FULL_OPENCV": ("rational_polynomial", False, tuple(range(8))),
    "SIMPLE_RADIAL_FISHEYE": ("equidistant", True, (0,)),
    "RADIAL_FISHEYE": ("equidistant", True, (0, 1)),
    "OPENCV_FISHEYE": ("equidistant", False, (0, 1, 2, 3)),
    "THIN_PRISM_FISHEYE": ("thin_prism_fisheye", False, tuple(range(8))),
    "EUCM": ("eucm", False, (0, 1)),
}
_COLMAP_CENTRE = 0.5  # pixels, of COLMAP's top-left pixel


def find_calibration(folder: Path) -> Path | None:
    """The calibration file in a folder, None = none; SourceError if there are several alike."""
    for name in NAMES:
        found = sorted(folder.glob(name))
        if len(found) > 1:
            raise SourceError(
                f"{folder} has {len(found)} calibrations: {', '.join(f.name for f in found)}; "
                "leave one, or name it calib.json."
            )
        if found:
            return found[0]
    return None


def read_calibration(path: Path) -> Calibration:
    """A calibration file of any known kind, as a calib.json says it.

    Of a file with several cameras the first one counts.
    Raises SourceError if it cannot be read, is of no known kind, or describes no possible camera.
    """
    try:
        calibration = _read(path)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise SourceError(f"{path} is no complete calibration: {what}.") from error
    if path.suffix != ".json":  # of which the parts that are needed are checked where they are
        try:
            CameraModel.from_calibration(calibration)
        except ConfigurationError as error:
            raise SourceError(f"{path}: {error}") from error
    return calibration


def _read(path: Path) -> Calibration:
    text = _text(path)
    if path.suffix == ".json":
        return _ours(path, text)
    if path.suffix == ".txt":
        return _colmap(path, text)
    if (path.suffix == ".xml" or text.startswith("%YAML")) and "T_BS" not in text:
        return _opencv(path)
    document = _document(path, text)
    if isinstance(document, Mapping):
        for key, read in _KINDS.items():
            if key in document:
                return read(document)
    raise SourceError(
        f"{path} is of no known kind: it has none of {', '.join(_KINDS)}. Give ROS's camera_info "
        "YAML, Kalibr's camchain.yaml, EuRoC's sensor.yaml, an OpenCV file, COLMAP's cameras.txt, "
        "or a calib.json."
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read: {error}.") from error


def _document(path: Path, text: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise SourceError(f"{path}{line} is not valid YAML: {problem}.") from error


def parse_yaml(text: str) -> Any:
    """A YAML document; OpenCV's first line, which EuRoC kept, is not valid YAML 1.1."""
    return yaml.safe_load(text.removeprefix("%YAML:1.0"))


def _ours(path: Path, text: str) -> Calibration:
    try:
        calibration = json.loads(text)
    except ValueError as error:
        raise SourceError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(calibration, dict):
        raise SourceError(f"{path} must hold a JSON object, not a {type(calibration).__name__}.")
    return calibration


def _ros(document: Mapping[str, Any]) -> Calibration:
    matrix = np.array(document["camera_matrix"]["data"], np.float64).reshape(3, 3)
    return calibration_of(
        int(document["image_width"]),
        int(document["image_height"]),
        matrix,
        str(document["distortion_model"]),
        _numbers(document["distortion_coefficients"]["data"]),
    )


def read_camchain(path: Path) -> list[tuple[Calibration, Float64Array]]:
    """The cameras of Kalibr's camchain.yaml: cam0, cam1, ... and the pose of each in cam0.

    The pose is 4×4, cam0_from_camN: p_cam0 = R·p_camN + t, metres, from the chain of T_cn_cnm1.
    Raises SourceError if it cannot be read, or a camera or its transform is not possible.
    """
    document = _document(path, _text(path))
    cameras: list[tuple[Calibration, Float64Array]] = []
    pose = np.eye(4)
    while isinstance(document, Mapping) and (name := f"cam{len(cameras)}") in document:
        camera = document[name]
        try:
            calibration = _kalibr_camera(camera)
            CameraModel.from_calibration(calibration)
            if cameras:
                pose = pose @ np.linalg.inv(_rigid(camera["T_cn_cnm1"]))
        except (KeyError, TypeError, ValueError, ConfigurationError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else error
            raise SourceError(f"{path}: {name} is no complete calibration: {what}.") from error
        cameras.append((calibration, pose))
    if not cameras:
        raise SourceError(
            f"{path} is no camchain: it has no cam0. Give the camchain.yaml of "
            "kalibr_calibrate_cameras."
        )
    return cameras


def _rigid(values: Any) -> Float64Array:
    """A 4×4 rigid transform; ValueError for anything else."""
    matrix = np.array(values, np.float64)
    if matrix.shape != (4, 4):
        raise ValueError(f"T_cn_cnm1 has shape {matrix.shape}, not 4×4")
    turn = matrix[:3, :3]
    whole = np.allclose(matrix[3], (0.0, 0.0, 0.0, 1.0)) and np.isfinite(matrix).all()
    if not (whole and np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) and np.linalg.det(turn) > 0):
        raise ValueError(f"T_cn_cnm1 is {matrix.tolist()}, not a rotation and a translation")
    return matrix


def _kalibr(document: Mapping[str, Any]) -> Calibration:
    return _kalibr_camera(document["cam0"])


def _kalibr_camera(camera: Mapping[str, Any]) -> Calibration:
    kind = str(camera["camera_model"])
    if kind not in _KALIBR_CAMERAS:
        raise ValueError(f"camera_model is {kind!r}; known are {', '.join(_KALIBR_CAMERAS)}")
    model, count = _KALIBR_CAMERAS[kind]
    intrinsics = _numbers(camera["intrinsics"])
    own, (fx, fy, cx, cy) = intrinsics[:count], intrinsics[count:]
    distortion_model = str(camera.get("distortion_model", "none"))
    distortion = _numbers(camera.get("distortion_coeffs", []))
    if distortion_model not in _KALIBR_DISTORTIONS:
        raise ValueError(
            f"distortion_model is {distortion_model!r}; known are {', '.join(_KALIBR_DISTORTIONS)}"
        )
    if model == "omnidirectional" and distortion_model != "equidistant":
        own += distortion or [0.0] * 4
    elif model and any(distortion):
        raise ValueError(f"{kind} with {distortion_model} distortion has no model here")
    width, height = camera["resolution"]
    matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    if not model:
        model, own = _KALIBR_DISTORTIONS[distortion_model], distortion
    return calibration_of(int(width), int(height), matrix, model, own)


def euroc_calibration(document: Mapping[str, Any]) -> Calibration:
    """The camera of a sensor.yaml that is read; KeyError, TypeError, ValueError if it is not."""
    width, height = document["resolution"]
    fx, fy, cx, cy = _numbers(document["intrinsics"])
    matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    model = str(document["distortion_model"]).replace("radial-tangential", "plumb_bob")
    coefficients = _numbers(document["distortion_coefficients"])
    return calibration_of(int(width), int(height), matrix, model, coefficients)


_KINDS: dict[str, Callable[[Mapping[str, Any]], Calibration]] = {
    "camera_matrix": _ros,
    "cam0": _kalibr,
    "T_BS": euroc_calibration,
}
"""By a key that only this kind has."""


def _opencv(path: Path) -> Calibration:
    """As OpenCV's calibration sample writes it; ``fisheye_model`` 1 is an equidistant lens."""
    names = ("image_width", "image_height", "fisheye_model")
    try:
        with quiet_opencv(), _opened(path) as storage:
            matrix = storage.getNode("camera_matrix").mat()
            distortion = storage.getNode("distortion_coefficients").mat()
            width, height, fisheye = (int(storage.getNode(name).real()) for name in names)
    except (SystemError, cv2.error) as error:  # SystemError: seen for an empty document
        raise ValueError("OpenCV cannot parse it") from error
    if matrix is None or not width or not height:
        raise ValueError("it needs camera_matrix, image_width and image_height")
    coefficients = [] if distortion is None else _numbers(distortion.ravel().tolist())
    model = "rational_polynomial" if len(coefficients) > 5 else "plumb_bob"
    model = "equidistant" if fisheye else model
    return calibration_of(width, height, np.asarray(matrix, np.float64), model, coefficients)


@contextmanager
def _opened(path: Path) -> Iterator[cv2.FileStorage]:
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    try:
        yield storage
    finally:
        storage.release()


def _colmap(path: Path, text: str) -> Calibration:
    """Rows of CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]; # starts a comment."""
    rows = [line.split() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]
    if not rows:
        raise SourceError(f"{path} names no camera.")
    _, name, width, height, *values = rows[0]
    if name not in _COLMAP:
        raise ValueError(f"the camera's model is {name!r}; known are {', '.join(_COLMAP)}")
    model, one_focal, places = _COLMAP[name]
    numbers = _numbers(values)
    (fx, fy), rest = (numbers[:1] * 2, numbers[1:]) if one_focal else (numbers[:2], numbers[2:])
    cx, cy = (value - _COLMAP_CENTRE for value in rest[:2])
    coefficients = [0.0 if place is None else rest[2:][place] for place in places]
    matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    return calibration_of(int(width), int(height), matrix, model, coefficients)


def _numbers(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in values]
