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


"""Imu messages beside images: a real node, and a camera that turns in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Imu
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame
from aliked_ros.frontend.prediction import Turn
from aliked_ros.ros.conversions import image_message
from aliked_ros.types import UInt8Array
from helpers.gyroscope import CAMERA_FROM_IMU, camera, orientation, rates
from helpers.ros import RELIABLE, Probe, RosProcess

pytestmark = [pytest.mark.ros, pytest.mark.long]

NODE = "aliked_ros.ros.frontend_node"
ARGUMENTS = [
    *("-p", "matcher:=nearest", "-p", "max_keypoints:=200", "-p", "status_period:=0.1"),
    *("-p", "input_reliability:=reliable", "-p", "input_depth:=100", "-p", "detection:=3"),
    *("-p", "imu_topic:=imu/data"),
]
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
START = 1_700_000_000


def header(stamp: float, frame: str) -> Header:
    nanoseconds = round(stamp * 1e9)
    second, rest = divmod(nanoseconds, 10**9)
    return Header(stamp=Time(sec=START + second, nanosec=rest), frame_id=frame)


class Robot:
    """A camera that turns about its centre in a picture of a room, and its IMU."""

    def __init__(self, log: Path, picture: UInt8Array) -> None:
        self.probe = Probe()
        node = self.probe.node
        self.imu = node.create_publisher(Imu, "imu/data", RELIABLE)
        self.info = node.create_publisher(CameraInfo, "camera_info", RELIABLE)
        self.picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        self.stamp = self.sent = 0.0
        self.process = RosProcess(NODE, log, *ARGUMENTS)
        self.probe.wait_for_state("active")

    def restart(self, **parameters: str) -> bool:
        """The node, configured anew with these parameters, and active; whether it is."""
        probe = self.probe
        for label in ("deactivate", "cleanup") if probe.state() == "active" else ():
            assert probe.transition(label)
        probe.wait(lambda: probe.images.get_subscription_count() == 0)
        for name, value in parameters.items():
            assert probe.set_parameter(name, value) == ""
        if not (probe.transition("configure") and probe.transition("activate")):
            return False
        probe.wait_connected()
        probe.wait(self.imu.get_subscription_count)
        model = camera()
        info = CameraInfo(width=640, height=480, distortion_model="plumb_bob", d=[0.0] * 5)
        info.k = model.matrix.ravel().tolist()
        probe.wait(self.info.get_subscription_count)
        self.info.publish(info)
        probe.spin(0.2)
        probe.received.clear()
        self.sent = -0.1
        return True

    def see(
        self,
        stamp: float,
        unit: float = 1.0,
        shift: float = 0.0,
        imu: bool = True,
        step: float = 0.005,
        measured: float = 0.0,
    ) -> FeatureFrame:
        """The image of this time, after the IMU's samples up to it; its features.

        measured: -1 = angular velocities are not, by their covariance.
        """
        if imu:
            for sample in np.arange(self.sent + step, stamp + 0.006, step):
                x, y, z = (rates(np.array([sample]))[0] * unit).tolist()
                message = Imu(header=header(sample + shift, "imu_link"))
                velocity = message.angular_velocity
                velocity.x, velocity.y, velocity.z = x, y, z
                message.angular_velocity_covariance[0] = measured
                self.imu.publish(message)
                self.sent = sample
            self.probe.spin(0.02)
        turned = orientation(stamp).inv().as_matrix() @ orientation(0.0).as_matrix()
        pixels = Turn(camera(), turned).turned(self.picture)
        return self.probe.send(image_message(pixels, header(stamp, "camera_optical")))

    def followed(self, stamps: NDArray[np.float64], **how: Any) -> float:
        """Share of the images that flow alone carried the tracks to; else ALIKED looks at once."""
        ages = [np.array(self.see(stamp, **how).detection_age) for stamp in stamps]
        return float(np.mean([age.min() > 0 for age in ages]))

    def says(self, words: str) -> None:
        """Wait until it has said this."""
        self.probe.wait(lambda: words in self.process.text())

    def close(self) -> None:
        self.probe.close()
        self.process.stop()


@pytest.fixture
def robot(tmp_path: Path, tum_images: Callable[[int], UInt8Array]) -> Iterator[Robot]:
    robot = Robot(tmp_path / "log", tum_images(0))
    yield robot
    robot.close()


def test_a_turning_camera_with_and_without_its_imu(robot: Robot) -> None:
    """Silent, used, estimated, in degrees, of another clock: tracks go on in all cases."""
    fast, said = np.arange(0.0, 2.41, 0.2), robot.process.text
    x, y, z, w = Rotation.from_matrix(CAMERA_FROM_IMU).as_quat()

    assert robot.restart(imu_rotation=f"{x:.6f},{y:.6f},{z:.6f},{w:.6f}")
    robot.probe.spin(1.2)
    without = robot.followed(fast, imu=False)
    robot.says("No Imu on /imu/data")
    assert said().count("No Imu on /imu/data") == 1
    assert robot.restart()
    used = robot.followed(fast)
    assert used > without + 0.2, (used, without)

    assert robot.restart(imu_rotation="")
    robot.followed(np.arange(0.0, 4.0, 0.1))
    assert "Gyroscope and images agree" in said()

    assert robot.restart()
    robot.followed(np.arange(0.0, 4.0, 0.1), unit=np.degrees(1.0))
    assert "degrees per second" in robot.probe.status.last_error

    assert robot.restart()
    robot.followed(fast[:3], shift=-1000.0)
    assert "another clock" in robot.probe.status.last_error

    assert not robot.restart(imu_rotation="1,0,0")
    assert "give the unit quaternion" in said()


def test_faults_of_an_imu_are_named_and_pass(robot: Robot) -> None:
    """Of acceleration only, NaN, slow, set back, twice, silent for a while: then it is used."""
    fast, said = np.arange(0.0, 1.21, 0.2), robot.process.text
    x, y, z, w = Rotation.from_matrix(CAMERA_FROM_IMU).as_quat()
    assert robot.restart(imu_rotation=f"{x:.6f},{y:.6f},{z:.6f},{w:.6f}", imu_time_offset="0")

    def seen(start: float, **how: Any) -> float:
        robot.sent = start - 0.1
        share = robot.followed(start + fast, **how)
        robot.probe.spin(1.1)  # what is checked once a second
        robot.see(float(start + fast[-1] + 0.1), **how)
        return share

    without = seen(0.0, measured=-1.0)
    robot.probe.wait(lambda: "has no angular velocity" in robot.probe.status.last_error)
    seen(10.0, unit=float("nan"))
    assert said().count("has no angular velocity") == 1
    seen(20.0, step=0.2)
    robot.says("comes at 5.0 Hz")
    robot.probe.spin(1.2)
    seen(30.0, imu=False)
    robot.says("No Imu on /imu/data")
    assert seen(40.0) > without + 0.2
    another = robot.probe.node.create_publisher(Imu, "imu/data", RELIABLE)
    robot.probe.wait(lambda: another.get_subscription_count())
    seen(50.0)
    robot.says("/imu/data has 2 publishers")
    robot.probe.node.destroy_publisher(another)
    assert seen(5.0) > without + 0.2, "stamps of images and IMU went back by 45 s"
    assert robot.probe.status.state == "active"


def test_rotation_from_tf(robot: Robot) -> None:
    """Missing at first, then there."""
    messages = pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not installed")
    assert robot.restart(imu_frame="imu_link")
    for stamp in np.arange(0.0, 1.1, 0.2):
        robot.see(stamp)
        robot.probe.spin(0.3)
    robot.says("imu_frame: tf does not know")
    quaternion = Rotation.from_matrix(CAMERA_FROM_IMU).as_quat().tolist()
    transform = TransformStamped(header=header(0.0, "camera_optical"), child_frame_id="imu_link")
    turn = transform.transform.rotation
    turn.x, turn.y, turn.z, turn.w = quaternion
    publisher = robot.probe.node.create_publisher(messages.TFMessage, "/tf_static", LATCHED)
    publisher.publish(messages.TFMessage(transforms=[transform]))
    robot.probe.spin(1.5)
    robot.followed(np.arange(1.2, 1.7, 0.2))
    robot.says("tf: rotation camera_optical from imu_link: 0.6")
    assert robot.probe.status.state == "active"
