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


"""Angular velocities beside images: EuRoC, recordings, tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin
from scipy.spatial.transform import Rotation

from aliked_ros.errors import SourceError
from aliked_ros.frontend.gyroscope import Gyroscope
from aliked_ros.sources.imu import rates_of
from helpers.bags import ROS2, header, write
from helpers.euroc import SENSOR, START

MCAP = StoragePlugin.MCAP
_TYPES = ROS2.types
RATES = np.array([[0.1, -0.2, 0.3], [0.2, -0.1, 0.0], [0.0, 0.4, -0.3]])
STAMPS = [START + index * 5_000_000 for index in range(3)]


def _csv(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        f"{stamp},{x},{y},{z},9.8,0.0,0.0"
        for stamp, (x, y, z) in zip(STAMPS, RATES.tolist(), strict=True)
    ]
    path.write_text("#timestamp [ns],w_x,w_y,w_z,a_x,a_y,a_z\r\n" + "\r\n".join(rows[::-1]))
    return path


def test_euroc(tmp_path: Path) -> None:
    body_from_camera, body_from_imu = np.eye(4), np.eye(4)
    body_from_camera[:3, :3] = Rotation.from_rotvec([0.1, -0.2, 1.5]).as_matrix()
    body_from_imu[:3, :3] = Rotation.from_rotvec([0.0, 0.3, 0.0]).as_matrix()
    for sensor, pose in (("cam0", body_from_camera), ("imu0", body_from_imu)):
        folder = tmp_path / "mav0" / sensor
        folder.mkdir(parents=True)
        (folder / "sensor.yaml").write_text(SENSOR.format(camera=0, pose=pose.ravel().tolist()))
    (tmp_path / "mav0" / "cam0" / "data.csv").write_text(f"{START},{START}.png\n")
    with pytest.raises(SourceError, match="has no IMU"):
        rates_of(str(tmp_path))
    _csv(tmp_path / "mav0" / "imu0" / "data.csv")
    found = rates_of(str(tmp_path))
    assert np.allclose(found.rates, RATES)
    assert np.allclose(np.diff(found.stamps), 0.005, atol=1e-6)
    assert found.camera_from_imu is not None
    assert np.allclose(body_from_camera[:3, :3] @ found.camera_from_imu, body_from_imu[:3, :3])
    (tmp_path / "mav0" / "imu0" / "sensor.yaml").write_text("T_BS: [1, 2\nrate: 3\n")
    with pytest.raises(SourceError, match=r"imu0/sensor.yaml, line \d is not valid YAML"):
        rates_of(str(tmp_path))


def _imu(stamp: int, rate: np.ndarray) -> object:
    vector, none = _TYPES["geometry_msgs/msg/Vector3"], np.zeros(9)
    zero = vector(x=0.0, y=0.0, z=0.0)
    turn = _TYPES["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0)
    x, y, z = rate.tolist()
    return _TYPES["sensor_msgs/msg/Imu"](
        header=header(stamp), orientation=turn, orientation_covariance=none,
        angular_velocity=vector(x=x, y=y, z=z), angular_velocity_covariance=none,
        linear_acceleration=zero, linear_acceleration_covariance=none,
    )  # fmt: skip


def test_recordings(tmp_path: Path) -> None:
    messages = [_imu(stamp, rate) for stamp, rate in zip(STAMPS, RATES, strict=True)]
    entries = [("/imu", at, one) for at, one in zip(STAMPS, messages, strict=True)]
    one = write(tmp_path / "one", entries, MCAP)
    for source, imu in ((str(one), "auto"), (f"{one}#/image", "/imu")):
        found = rates_of(source, imu)
        assert np.allclose(found.rates, RATES)
        assert found.camera_from_imu is None
    with pytest.raises(SourceError, match="no sensor_msgs/Imu on /other; it has: /imu"):
        rates_of(str(one), "/other")
    two = write(tmp_path / "two", [*entries, ("/imu2", STAMPS[0], messages[0])], MCAP)
    with pytest.raises(SourceError, match=r"2 topics of sensor_msgs/Imu \(/imu, /imu2\)"):
        rates_of(str(two))
    assert len(rates_of(str(two), "/imu2").stamps) == 1
    without = replace(messages[0], angular_velocity_covariance=np.full(9, -1.0))
    with pytest.raises(SourceError, match="no angular velocities"):
        rates_of(str(write(tmp_path / "three", [("/imu", STAMPS[0], without)], MCAP)))


def test_tables(tmp_path: Path) -> None:
    found = rates_of("virtual", str(_csv(tmp_path / "mine.csv")))
    assert np.allclose(found.rates, RATES)
    (tmp_path / "bad.csv").write_text("1.5,a,b,c\n")
    with pytest.raises(SourceError, match="is not a table of nanoseconds,x,y,z"):
        rates_of("virtual", str(tmp_path / "bad.csv"))
    (tmp_path / "empty.csv").write_text("#nothing\n")
    with pytest.raises(SourceError, match="no angular velocities"):
        rates_of("virtual", str(tmp_path / "empty.csv"))
    for source in ("virtual", str(tmp_path)):
        with pytest.raises(SourceError, match="has no IMU"):
            rates_of(source)


def test_synthetic_rates_are_those_of_the_poses(shared: Path) -> None:
    """Noise, bias, offset and gap as asked for."""
    evaluation = pytest.importorskip("aliked_ros.evaluation.gyroscope")
    poses = pytest.importorskip("aliked_ros.evaluation.poses")
    source = str(shared / "data" / "tum_fr1_xyz")
    mounted = Rotation.from_rotvec([1.0, 0.5, -0.3]).as_matrix()
    faults = evaluation.Faults(0.0, (0.0, 0.0, 0.0), 0.5, ((1.0, 1.5),))
    rates = evaluation.synthetic_rates(source, mounted, faults=faults)
    gyroscope = Gyroscope.recorded(rates.stamps, rates.rates)
    start = rates.stamps[0] - 0.5
    before, now = poses.true_poses(source, [start + 0.11, start + 0.87])
    turned = gyroscope.rotation(start + 0.61, start + 1.37)
    assert turned is not None
    off = (now.rotation.T @ before.rotation).T @ mounted @ turned @ mounted.T
    assert np.degrees(Rotation.from_matrix(off).magnitude()) < 0.2
    assert gyroscope.rotation(start + 1.4, start + 2.1) is None


def test_rows_that_are_not_finite_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "imu.csv"
    path.write_text("timestamp [ns],x,y,z\n3,0,0,1\n1,nan,0,0\n2,0,0,2\n")
    found = rates_of(str(tmp_path), str(path))
    assert found.rates[:, 2].tolist() == [2.0, 1.0]
    assert "1 of 3 angular velocities are not finite" in caplog.text
    path.write_text("1,nan,0,0\n")
    with pytest.raises(SourceError, match="no angular velocities"):
        rates_of(str(tmp_path), str(path))
