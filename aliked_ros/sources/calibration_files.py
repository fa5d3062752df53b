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

Read are ROS's camera_info YAML (camera_calibration) and a CameraInfo that ``ros2 topic echo``
printed, Kalibr's camchain.yaml, EuRoC's sensor.yaml, OpenCV's FileStorage (YAML, XML or JSON), the
settings of ORB-SLAM and VINS, and COLMAP's cameras.txt and cameras.bin. Pixels have their origin at
the centre of the top-left pixel; COLMAP's are moved.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from aliked_ros.camera import CameraModel, create_camera
from aliked_ros.errors import ConfigurationError, SourceError
from aliked_ros.io.images import quiet_opencv
from aliked_ros.sources.base import calibration_of, calibration_of_camera, unreadable_text
from aliked_ros.types import Float64Array

NAMES = (
    "calib.json", "camera_info.yaml", "camchain.yaml", "*camchain*.yaml", "sensor.yaml",
    "calibration.yaml", "calibration.yml", "calibration.xml", "cameras.txt", "cameras.bin",
)  # fmt: skip
"""What a calibration in a folder of images is called; the first that is there counts."""

Calibration = dict[str, Any]

_CAMERA = {"width", "height", "fx", "fy", "cx", "cy"}

_KALIBR_DISTORTIONS = {"radtan": "plumb_bob", "equidistant": "equidistant", "none": "none"}
# Kalibr's camera model → ours, and how many of its intrinsics come before fu fv pu pv
_KALIBR_CAMERAS = {
    "pinhole": ("", 0), "omni": ("omnidirectional", 1), "eucm": ("eucm", 2),
    "ds": ("double_sphere", 2),
}  # fmt: skip
_MATRIX = "!!opencv-matrix"  # before each matrix in OpenCV's YAML
_ORB = ("Camera", "Camera1")  # prefixes of the left camera's settings, ORB-SLAM 2 and 3
# Keys of ORB-SLAM and VINS, whose settings may hold matrices of other things, e.g. extrinsics
_SETTINGS = re.compile(r"^(Camera1?\.fx|model_type)\s*:", re.MULTILINE)
# VINS's camera: where its focal lengths, principal point and coefficients are, and our name
_VINS = {
    "PINHOLE": ("projection_parameters", "fx fy cx cy", "distortion_parameters", "k1 k2 p1 p2",
                "plumb_bob"),
    "KANNALA_BRANDT": ("projection_parameters", "mu mv u0 v0", "projection_parameters",
                       "k2 k3 k4 k5", "equidistant"),
    "MEI": ("projection_parameters", "gamma1 gamma2 u0 v0", "distortion_parameters",
            "k1 k2 p1 p2", "omnidirectional"),
}  # fmt: skip
# OpenCV's names, as samples and users write them
_OPENCV_MATRIX = ("camera_matrix", "Camera_Matrix", "cameraMatrix", "CameraMatrix", "K", "M1")
_OPENCV_DISTORTION = (
    "distortion_coefficients", "Distortion_Coefficients", "distCoeffs", "dist_coeffs", "D", "D1",
)  # fmt: skip
_OPENCV_SIZE = (
    ("image_width", "image_Width", "imageWidth", "width"),
    ("image_height", "image_Height", "imageHeight", "height"),
)
_LARGEST_NUMBER = 1e9  # OpenCV makes text the largest number there is
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
# COLMAP's numbers of its models, and of their parameters (cameras.bin)
_COLMAP_NUMBERS = {
    0: ("SIMPLE_PINHOLE", 3), 1: ("PINHOLE", 4), 2: ("SIMPLE_RADIAL", 4), 3: ("RADIAL", 5),
    4: ("OPENCV", 8), 5: ("OPENCV_FISHEYE", 8), 6: ("FULL_OPENCV", 12), 7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4), 9: ("RADIAL_FISHEYE", 5), 10: ("THIN_PRISM_FISHEYE", 12),
}  # fmt: skip
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
    except ConfigurationError as error:
        raise SourceError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, struct.error) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise SourceError(f"{path} is no complete calibration: {what}.") from error
    # A calib.json may give some of it, e.g. a rate; that is checked where it is needed.
    if path.suffix != ".json" or calibration.keys() >= _CAMERA:
        try:
            CameraModel.from_calibration(calibration)
        except ConfigurationError as error:
            raise SourceError(f"{path}: {error}") from error
    return calibration


def _read(path: Path) -> Calibration:
    if path.suffix == ".bin":
        return _colmap(path, _colmap_rows(path))
    text = _text(path)
    if path.suffix == ".json":
        return _ours(path, text)
    if path.suffix == ".txt":
        return _colmap(path, [line.split() for line in text.splitlines()])
    if path.suffix == ".xml" or (_MATRIX in text and not _SETTINGS.search(text)):
        return _opencv(text)
    document = _document(path, text)
    if isinstance(document, Mapping):
        for key, read in _KINDS.items():
            if key in document:
                return read(document)
    raise SourceError(
        f"{path} is of no known kind: it has none of {', '.join(_KINDS)}. Give ROS's camera_info "
        "YAML, Kalibr's camchain.yaml, EuRoC's sensor.yaml, a file of OpenCV, ORB-SLAM or VINS, "
        "COLMAP's cameras.txt, or a calib.json."
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable_text(path, error) from error


def read_yaml(path: Path) -> Any:
    """A YAML document, such as EuRoC's sensor.yaml; SourceError if it cannot be read."""
    return _document(path, _text(path))


def _document(path: Path, text: str) -> Any:
    """The first document of a file; SourceError with its line if it is not valid."""
    text = text.removeprefix("%YAML:1.0").replace(_MATRIX, "")  # not valid in YAML 1.1
    try:
        return next(yaml.safe_load_all(text), None)
    except RecursionError as error:
        raise SourceError(f"{path} is not valid YAML: it is nested too deeply.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise SourceError(f"{path}{line} is not valid YAML: {problem}.") from error


def _ours(path: Path, text: str) -> Calibration:
    try:
        calibration = json.loads(text)
    except ValueError as error:
        raise SourceError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(calibration, dict):
        raise SourceError(f"{path} must hold a JSON object, not a {type(calibration).__name__}.")
    is_opencv = "fx" not in calibration and any(name in calibration for name in _OPENCV_MATRIX)
    return _opencv(text) if is_opencv else calibration


def _ros(document: Mapping[str, Any]) -> Calibration:
    matrix = np.array(document["camera_matrix"]["data"], np.float64).reshape(3, 3)
    return calibration_of(
        int(document["image_width"]),
        int(document["image_height"]),
        matrix,
        str(document["distortion_model"]),
        _numbers(document["distortion_coefficients"]["data"]),
    )


def _message(document: Mapping[str, Any]) -> Calibration:
    """A sensor_msgs/CameraInfo of ROS 2 or ROS 1; binning and region are accounted for."""
    fields = {str(name).lower(): value for name, value in document.items()}
    region = fields.get("roi") or {}
    camera = create_camera(
        int(region.get("width") or fields["width"]) // (fields.get("binning_x") or 1),
        int(region.get("height") or fields["height"]) // (fields.get("binning_y") or 1),
        np.array(fields["k"], np.float64).reshape(3, 3),
        str(fields["distortion_model"]),
        np.array(fields["d"], np.float64),
        (fields.get("binning_x") or 1, fields.get("binning_y") or 1),
        (region.get("x_offset") or 0, region.get("y_offset") or 0),
    )
    return calibration_of_camera(camera)


def _orb_slam(document: Mapping[str, Any]) -> Calibration:
    """The settings of ORB-SLAM 2 or 3, of the only or left camera."""
    own = next(prefix for prefix in _ORB if f"{prefix}.fx" in document)
    kind = str(document.get("Camera.type", "PinHole"))
    fisheye = kind == "KannalaBrandt8"
    if kind not in ("PinHole", "Rectified", "KannalaBrandt8"):
        raise ValueError(f"Camera.type is {kind!r}; known are PinHole, Rectified, KannalaBrandt8")
    names = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2", "k3")
    coefficients = [document.get(f"{own}.{name}", 0.0) for name in names]
    fx, fy, cx, cy = _numbers([document[f"{own}.{name}"] for name in ("fx", "fy", "cx", "cy")])
    width, height = (int(document[f"Camera.{name}"]) for name in ("width", "height"))
    matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    model = "equidistant" if fisheye else "plumb_bob"
    calibration = calibration_of(width, height, matrix, model, _numbers(coefficients))
    depth = document.get("DepthMapFactor") or document.get("RGBD.DepthMapFactor")
    return calibration | ({"depth_scale": float(depth)} if depth else {})


def _vins(document: Mapping[str, Any]) -> Calibration:
    """A camera of VINS (camodocal)."""
    kind = str(document["model_type"])
    if kind not in _VINS:
        raise ValueError(f"model_type is {kind!r}; known are {', '.join(_VINS)}")
    where, names, beside, coefficients, model = _VINS[kind]
    fx, fy, cx, cy = _numbers([document[where][name] for name in names.split()])
    distortion = _numbers([document[beside][name] for name in coefficients.split()])
    if kind == "MEI":
        distortion.insert(0, float(document["mirror_parameters"]["xi"]))
    matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    width, height = int(document["image_width"]), int(document["image_height"])
    return calibration_of(width, height, matrix, model, distortion)


def read_camchain(path: Path) -> list[tuple[Calibration, Float64Array]]:
    """The cameras of Kalibr's camchain.yaml: cam0, cam1, ... and the pose of each in cam0.

    The pose is 4×4, cam0_from_camN: p_cam0 = R·p_camN + t, metres, from the chain of T_cn_cnm1.
    Raises SourceError if it cannot be read, or a camera or its transform is not possible.
    """
    document = read_yaml(path)
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
    if len(intrinsics) != count + 4:
        raise ValueError(f"intrinsics of {kind} are {intrinsics}; they must be {count + 4} numbers")
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
    "Camera.fx": _orb_slam,
    "Camera1.fx": _orb_slam,
    "model_type": _vins,
    "k": _message,
    "K": _message,
}
"""By a key that only this kind has."""


def _opencv(text: str) -> Calibration:
    """As OpenCV's calibration sample writes it; ``fisheye_model`` 1 is an equidistant lens."""
    try:
        with quiet_opencv(), _opened(text) as storage:
            matrix = _first(storage, _OPENCV_MATRIX).mat()
            distortion = _first(storage, _OPENCV_DISTORTION).mat()
            size = [_first(storage, names).real() for names in _OPENCV_SIZE]
            fisheye = storage.getNode("fisheye_model").real()
    except (SystemError, cv2.error) as error:  # SystemError: seen for an empty document
        raise ValueError("OpenCV cannot parse it") from error
    if matrix is None or not all(0 < side < _LARGEST_NUMBER for side in size):
        raise ValueError("it needs camera_matrix, image_width and image_height")
    width, height = map(int, size)
    coefficients = [] if distortion is None else _numbers(distortion.ravel().tolist())
    model = "rational_polynomial" if len(coefficients) > 5 else "plumb_bob"
    model = "equidistant" if fisheye else model
    return calibration_of(width, height, np.asarray(matrix, np.float64), model, coefficients)


def _first(storage: cv2.FileStorage, names: Sequence[str]) -> cv2.FileNode:
    """The first of these that is there, else an empty node."""
    nodes = [storage.getNode(name) for name in names]
    return next((node for node in nodes if not node.empty()), nodes[0])


@contextmanager
def _opened(text: str) -> Iterator[cv2.FileStorage]:
    if text.lstrip()[:1] not in ("<", "{", "%"):  # YAML without its first line
        text = f"%YAML:1.0\n---\n{text}"
    storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
    try:
        yield storage
    finally:
        storage.release()


def _colmap_rows(path: Path) -> list[list[str]]:
    """The rows of a cameras.bin, as cameras.txt has them."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable_text(path, error) from error
    (count,) = struct.unpack_from("<Q", data)
    rows, offset = [], 8
    for _ in range(min(count, len(data))):
        camera, kind, width, height = struct.unpack_from("<iiQQ", data, offset)
        if kind not in _COLMAP_NUMBERS:
            raise ValueError(f"the camera's model has number {kind}, which is not known")
        name, length = _COLMAP_NUMBERS[kind]
        values = struct.unpack_from(f"<{length}d", data, offset + 24)
        rows.append([str(camera), name, str(width), str(height), *map(repr, values)])
        offset += 24 + 8 * length
    return rows


def _colmap(path: Path, rows: list[list[str]]) -> Calibration:
    """Rows of CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]; # starts a comment."""
    rows = [row for row in rows if row and not row[0].startswith("#")]
    if not rows:
        raise SourceError(f"{path} names no camera.")
    if any(row[1:] != rows[0][1:] for row in rows):
        raise SourceError(
            f"{path} has {len(rows)} cameras, which differ; leave the one that took these images."
        )
    if len(rows[0]) < 5:
        raise ValueError(f"its row is {' '.join(rows[0])!r}, not ID MODEL WIDTH HEIGHT PARAMS[]")
    _, name, width, height, *values = rows[0]
    if name not in _COLMAP:
        raise ValueError(f"the camera's model is {name!r}; known are {', '.join(_COLMAP)}")
    model, one_focal, places = _COLMAP[name]
    numbers = _numbers(values)
    needed = (1 if one_focal else 2) + 2 + len([one for one in places if one is not None])
    if len(numbers) != needed:
        raise ValueError(f"{name} has {len(numbers)} parameters, not {needed}")
    (fx, fy), rest = (numbers[:1] * 2, numbers[1:]) if one_focal else (numbers[:2], numbers[2:])
    cx, cy = (value - _COLMAP_CENTRE for value in rest[:2])
    coefficients = [0.0 if place is None else rest[2:][place] for place in places]
    matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    return calibration_of(int(width), int(height), matrix, model, coefficients)


def _numbers(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in values]
