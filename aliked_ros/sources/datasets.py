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

"""Published layouts: TUM RGB-D, KITTI odometry, EuRoC MAV (and TUM-VI, which has the same).

A ``calib.json`` in the folder overrides the data set's own calibration.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError, ImageError, SourceError
from aliked_ros.sources.base import (
    SECOND,
    Partner,
    calibration_of,
    calibration_of_camera,
    nearest,
    rate_of,
    read_image,
)
from aliked_ros.sources.calibration_files import euroc_calibration, read_yaml
from aliked_ros.sources.files import (
    ImageFiles,
    Step,
    calibration_file,
    depth_scale,
    image_files,
    in_order,
    listed,
    nanoseconds_of,
    no_partner,
    read_table,
    with_depth,
    with_right,
)
from aliked_ros.sources.rectification import rectify
from aliked_ros.types import Float64Array

_T = TypeVar("_T")
logger = logging.getLogger("aliked_ros.sources")

_TUM_TOLERANCE = (
    0.02  # seconds from a colour image to its depth, as in the benchmark's associate.py
)
_TUM_DEPTH_SCALE = 5000  # units a metre
_TUM_SIZE = (640, 480)
# Colour intrinsics published with the benchmark: fx fy cx cy, then k1 k2 p1 p2 k3.
_TUM_CALIBRATIONS = {
    "1": (517.3, 516.5, 318.6, 255.3, 0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    "2": (520.9, 521.0, 325.1, 249.7, 0.2312, -0.7849, -0.0033, -0.0001, 0.9172),
    "3": (535.4, 539.2, 320.1, 247.6, 0.0, 0.0, 0.0, 0.0, 0.0),  # undistorted as published
}
_KITTI_IMAGES = 1_000_000  # maximum: names have six digits; longer ones are times
_KITTI_RATE = 10.0  # Hz, if times.txt is missing
_EUROC_TOLERANCE = 0.002  # seconds between the two cameras' images, which share a trigger


def is_known(path: Path) -> bool:
    """Whether a folder is a sequence in one of these layouts."""
    return is_tum(path) or is_kitti(path) or (path / "mav0" / "cam0" / "data.csv").is_file()


def is_tum(path: Path) -> bool:
    """Whether a folder is a published TUM RGB-D sequence."""
    return (path / "rgb.txt").is_file()


def tum(path: Path, limit: int | None, partner: Partner) -> ImageFiles:
    """rgb.txt and depth.txt (stamp, file), associated by time."""
    if partner == "right":
        raise no_partner(str(path), partner, "it is a TUM RGB-D sequence")
    times, paths = _tum_table(path / "rgb.txt")
    calibration = calibration_file(path) or _tum_calibration(path.resolve().name)
    complete: Step | None = None
    if partner == "depth":
        if not (path / "depth.txt").is_file():
            raise no_partner(str(path), partner, "there is no depth.txt")
        depth_times, depth_paths = _tum_table(path / "depth.txt")
        found = {p: nearest(depth_times, t, _TUM_TOLERANCE)
                 for p, t in zip(paths, times, strict=True)}  # fmt: skip
        files = {p: depth_paths[index] for p, index in found.items() if index is not None}
        if not files:
            reason = f"no stamp of depth.txt is within {_TUM_TOLERANCE} s of one of rgb.txt"
            raise no_partner(str(path), partner, reason)
        scale = depth_scale(str(path), {"depth_scale": _TUM_DEPTH_SCALE} | (calibration or {}))
        complete = with_depth(files, scale)
    return ImageFiles(
        path.resolve().name,
        paths[:limit],
        times[:limit],
        rate_of(times),
        calibration,
        complete,
    )


def is_kitti(path: Path) -> bool:
    """Whether a folder is a sequence of the KITTI odometry benchmark (sequences/NN)."""
    return any((path / name).is_dir() for name in ("image_0", "image_2"))


def kitti(path: Path, limit: int | None, partner: Partner) -> ImageFiles:
    """image_0 and image_1 (grey), else image_2 and image_3 (colour), times.txt, calib.txt."""
    if partner == "depth":
        raise no_partner(str(path), partner, "it is a KITTI sequence")
    left = next(n for n in (0, 2) if (path / f"image_{n}").is_dir())
    folder = path / f"image_{left}"
    files = {int(f.stem): f for f in image_files(folder) if f.stem.isdecimal()}
    if not files or max(files) >= _KITTI_IMAGES:
        raise SourceError(
            f"{folder} does not hold the images 000000.png, 000001.png, ... of a KITTI sequence; "
            "give that folder itself to read it as a folder of images."
        )
    numbers = range(max(files) + 1)
    stamps = _kitti_times(path / "times.txt", len(numbers))
    # Missing images in between are skipped and counted when read.
    paths = [files.get(n, folder / f"{n:06d}.png") for n in numbers][: len(stamps)]
    stamps, paths = in_order(str(path / "times.txt"), stamps, paths)
    calibration = calibration_file(path)
    if calibration is None:
        size = _size(list(files.values()))
        calibration = _unless_needed(
            lambda: _kitti_calibration(path, left, size), partner == "right"
        )
    complete: Step | None = None
    if partner == "right":
        rights = {p: path / f"image_{left + 1}" / p.name for p in paths}
        if not any(right.is_file() for right in rights.values()):
            raise no_partner(str(path), partner, f"image_{left + 1}/ holds none of their files")
        complete = with_right(rights)
    rate = rate_of(stamps)
    name = path.resolve().name
    name = f"kitti_{name}" if name.isdecimal() else name
    return ImageFiles(name, paths[:limit], stamps[:limit], rate, calibration, complete)


def euroc_root(path: Path) -> Path | None:
    """The folder with cam0/data.csv, given the data set's folder, its mav0/ or its cam0/."""
    for root in (path / "mav0", path, path.parent if path.name == "cam0" else path):
        if (root / "cam0" / "data.csv").is_file():
            return root
    return None


def euroc(root: Path, limit: int | None, partner: Partner) -> ImageFiles:
    """cam0 and cam1, each with data.csv (nanoseconds, file), data/ and sensor.yaml.

    The images are raw; with ``right``, both are rectified from their sensor.yaml.
    """
    if partner == "depth":
        raise no_partner(str(root), partner, "it is a EuRoC data set")
    stamps, paths = _euroc_table(root / "cam0" / "data.csv")
    own = root / "cam0" / "sensor.yaml"
    sensor = _unless_needed(lambda: euroc_sensor(own), partner == "right")
    calibration = calibration_file(root) or (sensor and calibration_of_camera(sensor[0]))
    complete = finish = None
    if partner == "right":
        if not (root / "cam1" / "data.csv").is_file():
            raise no_partner(str(root), partner, "there is no cam1/data.csv")
        right_sensor = euroc_sensor(root / "cam1" / "sensor.yaml")
        if sensor is None or right_sensor is None:
            raise no_partner(
                str(root),
                partner,
                "cam0 and cam1 are not rectified; rectification needs the sensor.yaml of both",
            )
        right_from_left = np.linalg.inv(right_sensor[1]) @ sensor[1]
        try:
            finish = rectify(sensor[0], right_sensor[0], right_from_left)
        except ConfigurationError as error:
            raise SourceError(f"cam0 and cam1 of {root} cannot be rectified: {error}") from error
        calibration = finish.calibration
        right_stamps, right_paths = _euroc_table(root / "cam1" / "data.csv")
        found = {p: nearest(right_stamps, t, _EUROC_TOLERANCE)
                 for p, t in zip(paths, stamps, strict=True)}  # fmt: skip
        complete = with_right({p: right_paths[i] for p, i in found.items() if i is not None})
    name = (root.parent if root.name == "mav0" else root).resolve().name
    return ImageFiles(
        name, paths[:limit], stamps[:limit], rate_of(stamps), calibration, complete, finish
    )


def _tum_table(table: Path) -> tuple[list[int], list[Path]]:
    """Stamps and files of rgb.txt or depth.txt, by time."""
    rows = []
    for row in read_table(table, "stamp file"):
        stamp = nanoseconds_of(row[0])
        if stamp is None:
            raise SourceError(f"{table}: {row[0]!r} is no time in seconds.")
        rows.append((stamp, listed(table.parent, row[1])))
    return _by_time(table, rows)


def _by_time(table: Path, rows: list[tuple[int, Path]]) -> tuple[list[int], list[Path]]:
    if not rows:
        raise SourceError(f"{table} lists no images.")
    return in_order(str(table), [stamp for stamp, _ in rows], [path for _, path in rows])


def _tum_calibration(name: str) -> dict[str, Any] | None:
    """The published calibration of the camera in the folder's name, None = unknown camera."""
    camera = re.search(r"freiburg([123])|\bfr([123])(?=_|$)", name)
    if camera is None:
        logger.warning(
            "%s: the name has none of the benchmark's cameras (freiburg1, 2, 3); without a "
            "calib.json the camera is not calibrated.",
            name,
        )
        return None
    values = _TUM_CALIBRATIONS[camera[1] or camera[2]]
    width, height = _TUM_SIZE
    return {
        "width": width,
        "height": height,
        **dict(zip(("fx", "fy", "cx", "cy"), values, strict=False)),
        "distortion_model": "radtan",
        "distortion": list(values[4:]),
        "depth_scale": _TUM_DEPTH_SCALE,
    }


def _kitti_times(table: Path, count: int) -> list[int]:
    """Stamps of the images; fewer where the table is shorter."""
    if not table.is_file():
        logger.warning("%s is missing: %g images a second are assumed.", table, _KITTI_RATE)
        return [round(index / _KITTI_RATE * SECOND) for index in range(count)]
    stamps = []
    for row in read_table(table, "seconds"):
        stamp = nanoseconds_of(row[0])
        if stamp is None:
            raise SourceError(f"{table}: {row[0]!r} is no time in seconds.")
        stamps.append(stamp)
    if not stamps:
        raise SourceError(f"{table} lists no times.")
    if len(stamps) < count:
        logger.warning(
            "%s lists %d times for %d images; the remaining images are skipped.",
            table,
            len(stamps),
            count,
        )
    return stamps[:count]


def _kitti_calibration(path: Path, left: int, size: tuple[int, int]) -> dict[str, Any] | None:
    """Reads calib.txt: lines 'P0:' to 'P3:' with 12 numbers, the rectified projections."""
    table = path / "calib.txt"
    if not table.is_file():
        logger.warning("%s is missing: the camera is not calibrated.", table)
        return None
    projections: dict[str, Float64Array] = {}
    for row in read_table(table, "name: numbers"):
        try:
            numbers = np.array(row[1:], np.float64)
        except ValueError:
            numbers = np.zeros(0)
        if numbers.size == 12 and np.isfinite(numbers).all():
            projections[row[0].rstrip(":")] = numbers.reshape(3, 4)
    matrix, right = projections.get(f"P{left}"), projections.get(f"P{left + 1}")
    if matrix is None:
        raise SourceError(
            f"{table} has no line 'P{left}:' with 12 numbers; add it, or remove the file."
        )
    calibration = calibration_of(*size, matrix) | {"rectified": True}
    if right is not None:
        calibration["stereo_baseline_m"] = float((matrix[0, 3] - right[0, 3]) / matrix[0, 0])
    return calibration


def _size(files: list[Path]) -> tuple[int, int]:
    """Width and height of the first readable image; SourceError if there is none."""
    failure: ImageError | None = None
    for path in files:
        try:
            height, width = read_image(path, upright=False).shape[:2]
        except ImageError as error:
            failure = failure or error
        else:
            return width, height
    raise SourceError(
        f"none of the {len(files)} images of {files[0].parent} can be read; the first one: "
        f"{failure}"
    )


def _euroc_table(table: Path) -> tuple[list[int], list[Path]]:
    """Stamps and files of a camera's data.csv, by time."""
    rows = []
    for row in read_table(table, "nanoseconds,file", ","):
        if not row[0].isdecimal():
            raise SourceError(f"{table}: {row[0]!r} is no time in whole nanoseconds.")
        rows.append((int(row[0]), listed(table.parent / "data", row[1])))
    return _by_time(table, rows)


def euroc_sensor(path: Path) -> tuple[CameraModel, Float64Array] | None:
    """Camera and body_from_camera (4×4) of a sensor.yaml, None = there is none."""
    if not path.is_file():
        logger.warning("%s is missing: the camera is not calibrated.", path)
        return None
    sensor = read_yaml(path)
    try:
        camera = CameraModel.from_calibration(euroc_calibration(sensor))
        pose = np.array(sensor["T_BS"]["data"], np.float64).reshape(4, 4)
    except (KeyError, TypeError, ValueError, ConfigurationError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise SourceError(
            f"{path} is not the sensor.yaml of a camera ({what}); it needs "
            "resolution, intrinsics, distortion_model, distortion_coefficients and T_BS."
        ) from error
    if not np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-3):
        raise SourceError(f"{path}: T_BS is not a rigid transform.")
    return camera, pose


def _unless_needed(read: Callable[[], _T], needed: bool) -> _T | None:
    """The result of ``read``; if not needed, a SourceError becomes None and a warning."""
    try:
        return read()
    except SourceError as error:
        if needed:
            raise
        logger.warning("%s The camera is not calibrated.", error)
        return None
