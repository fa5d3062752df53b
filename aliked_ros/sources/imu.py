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


"""Angular velocities that come with a source of images: EuRoC's imu0, a recording's Imu topic."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aliked_ros.errors import SourceError
from aliked_ros.io.bags import Bag
from aliked_ros.io.messages import nanoseconds
from aliked_ros.sources.base import SECOND
from aliked_ros.sources.calibration_files import read_yaml
from aliked_ros.sources.datasets import euroc_root, euroc_sensor
from aliked_ros.sources.files import local_path, read_table
from aliked_ros.sources.recordings import split_topics
from aliked_ros.types import Float64Array

logger = logging.getLogger("aliked_ros.sources")

AUTO = "auto"
_KIND = "sensor_msgs/msg/Imu"
_COLUMNS = "nanoseconds,x,y,z"


@dataclass(frozen=True, slots=True)
class Rates:
    """Samples of a gyroscope, in order of time.

    stamps: N, seconds. rates: N×3, rad/s about the IMU's axes. camera_from_imu: 3×3, None where it
    is not known.
    """

    stamps: Float64Array
    rates: Float64Array
    camera_from_imu: Float64Array | None = None


def rates_of(source: str, imu: str = AUTO) -> Rates:
    """The angular velocities beside the images of a source (see ``open_source``).

    imu: AUTO: a EuRoC folder's imu0, or the Imu topic of a recording that has one; the name of one
        of several; or a .csv file as EuRoC's imu0/data.csv (nanoseconds, x, y, z in rad/s, ...).
    Raises SourceError if there are none.
    """
    if imu.endswith(".csv"):
        return _table(Path(imu).expanduser())
    name, _ = split_topics(source)
    path = local_path(source if local_path(source).exists() else name)
    root = euroc_root(path)
    if root is not None and imu == AUTO and (root / "imu0" / "data.csv").is_file():
        return _euroc(root)
    if root is not None or not path.exists() or (path.is_dir() and not _holds_a_bag(path)):
        raise SourceError(
            f"{source} has no IMU: give a EuRoC folder with imu0/data.csv, a recording with "
            "sensor_msgs/Imu, or a .csv file of nanoseconds, x, y, z (rad/s)."
        )
    return _recorded(path, imu)


def _holds_a_bag(path: Path) -> bool:
    return any(file.suffix in (".mcap", ".db3") for file in path.iterdir())


def _table(path: Path, camera_from_imu: Float64Array | None = None) -> Rates:
    rows = read_table(path, _COLUMNS, ",")
    try:
        stamps = np.array([int(row[0]) for row in rows], np.int64)
        rates = np.array([row[1:4] for row in rows], np.float64).reshape(-1, 3)
    except ValueError as error:
        raise SourceError(f"{path} is not a table of {_COLUMNS} (rad/s): {error}.") from error
    return _ordered(str(path), stamps, rates, camera_from_imu)


def _euroc(root: Path) -> Rates:
    """imu0, and its rotation to cam0 by the two sensor.yaml, where both are there."""
    sensor, own = euroc_sensor(root / "cam0" / "sensor.yaml"), root / "imu0" / "sensor.yaml"
    rotation = None
    if sensor is not None and own.is_file():
        document = read_yaml(own)
        try:
            data = document["T_BS"]["data"]
            rotation = sensor[1][:3, :3].T @ np.array(data, np.float64).reshape(4, 4)[:3, :3]
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"{own} has no T_BS of 16 numbers: {error}.") from error
    return _table(root / "imu0" / "data.csv", rotation)


def _recorded(path: Path, imu: str) -> Rates:
    with Bag(path) as bag:
        topics = [topic.name for topic in bag.topics if topic.msgtype == _KIND]
        if imu == AUTO and len(topics) != 1:
            found = ", ".join(topics) or "none"
            raise SourceError(
                f"{path} has {len(topics)} topics of sensor_msgs/Imu ({found}); name one."
            )
        topic = topics[0] if imu == AUTO else imu
        if topic not in topics:
            raise SourceError(
                f"{path} has no sensor_msgs/Imu on {topic}; it has: {', '.join(topics) or 'none'}."
            )
        stamps, rates = [], []
        for _, _, message in bag.messages([topic]):
            if message.angular_velocity_covariance[0] == -1.0:  # it has none
                continue
            velocity = message.angular_velocity
            stamps.append(nanoseconds(message.header.stamp))
            rates.append((velocity.x, velocity.y, velocity.z))
    return _ordered(f"{path}, {topic}", np.array(stamps, np.int64), np.array(rates))


def _ordered(
    name: str,
    stamps: NDArray[np.int64],
    rates: Float64Array,
    camera_from_imu: Float64Array | None = None,
) -> Rates:
    rates = rates.reshape(-1, 3)
    good = np.asarray(np.isfinite(rates).all(axis=1))
    if not good.all():
        logger.warning(
            "%s: %d of %d angular velocities are not finite; they are left out.",
            name, np.count_nonzero(~good), len(good),
        )  # fmt: skip
        stamps, rates = stamps[good], rates[good]
    if len(stamps) == 0:
        raise SourceError(f"{name} holds no angular velocities.")
    order = np.argsort(stamps, kind="stable")
    return Rates(stamps[order] / SECOND, rates[order], camera_from_imu)
