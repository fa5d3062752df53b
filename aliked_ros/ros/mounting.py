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

"""From the camera's poses to the robot's: base_link in odom (REP-105), with z up (REP-103)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from rclpy.node import Node
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from aliked_ros.errors import ConfigurationError
from aliked_ros.odometry import Estimate
from aliked_ros.odometry.geometry import Transform
from aliked_ros.odometry.uncertainty import moved, turned
from aliked_ros.ros.declarations import Declaration, Settings
from aliked_ros.ros.gravity import Gravity
from aliked_ros.ros.transforms import TransformError, Transforms
from aliked_ros.ros.warnings import Warnings
from aliked_ros.types import Float64Array

DECLARATIONS = (
    Declaration("frame_id", "odom", "Frame of the poses and of the map."),
    Declaration(
        "base_frame",
        "",
        "Frame whose poses are published: base_link, say, where tf has the camera; empty = the "
        "camera's optical frame, or the rig's frame.",
    ),
    Declaration(
        "camera_pose",
        "",
        "Pose of the camera's optical frame, or of the rig's frame, in base_frame, as 'x y z qx qy "
        "qz qw', in metres; empty = from tf.",
    ),
    Declaration(
        "publish_tf",
        False,
        "Publish the transform from frame_id to base_frame on /tf; one node may do so only.",
        needs="tf2_msgs",
    ),
    Declaration(
        "imu_topic",
        "",
        "Topic of a sensor_msgs/Imu, whose gravity puts frame_id's z axis upright; empty = none.",
        names="topic",
    ),
    Declaration(
        "gravity_wait",
        5.0,
        "How long poses wait for the robot to stand still for half a second, with imu_topic.",
        limits=(0.0, 600.0),
        unit="seconds",
    ),
)
_WAITING = 1000  # poses, at most
_PATIENCE = 1.0  # seconds of images without a transform before the node warns
_TILT = 120.0  # degrees: a robot that leans more has a wrong IMU, or a wrong transform
# From the optical frame (x right, y down, z forward) to REP-103's (x forward, y left, z up).
_FROM_OPTICAL = Transform(
    np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), np.zeros(3)
)


@dataclass(frozen=True, slots=True)
class Placed:
    """An estimate's pose of the robot.

    header: the image's. frame: the child frame. pose: odom_from_frame. covariance, noise: 6×6, as
    the estimate's, in odom's axes.
    """

    estimate: Estimate
    header: Header
    frame: str
    pose: Transform
    covariance: Float64Array
    noise: Float64Array


class Mounting:
    """Where the camera sits on the robot and which way is up; poses wait until both are known.

    odom begins where the robot is at the first pose, with its heading.

    is_optical: whether the followed frame has an optical frame's axes; False: x is forward, z up.
    """

    def __init__(self, node: Node, settings: Settings, warnings: Warnings) -> None:
        """ConfigurationError for settings that contradict each other, or without tf2_msgs."""
        self.is_optical = True
        self._warnings = warnings
        self._base: str = settings["base_frame"]
        self._fixed = _pose(settings["camera_pose"])
        self._wait: float = settings["gravity_wait"]
        if not self._base and (settings["publish_tf"] or self._fixed):
            setting = "publish_tf" if settings["publish_tf"] else "camera_pose"
            raise ConfigurationError(
                f"{setting} is set, but not base_frame: set it to base_link, or to the camera's "
                "own frame for a camera that is on no robot."
            )
        if self._base == settings["frame_id"]:
            raise ConfigurationError(
                f"frame_id and base_frame are both {self._base!r}; use odom and base_link."
            )
        imu = settings["imu_topic"]
        looks_up = imu or (self._base and self._fixed is None)
        self._transforms = Transforms(node) if looks_up else None
        self._gravity = Gravity(node, imu, warnings) if imu else None
        self._waiting: deque[tuple[Estimate, Header]] = deque(maxlen=_WAITING)
        self._level: Float64Array | None = None
        self._odom: Transform | None = None
        if self._gravity is None:
            self._level = np.eye(3)

    @property
    def odom_from_world(self) -> Transform:
        """From the odometry's world; known once a pose has been placed."""
        assert self._odom is not None
        return self._odom

    def place(self, estimates: Iterable[tuple[Estimate, Header]]) -> Iterator[Placed]:
        """Take the latest poses and their images' headers; gives those known now, in order."""
        self._waiting.extend(estimates)
        while self._waiting:
            estimate, header = self._waiting[0]
            frame = header.frame_id
            try:
                mount = self._mount(frame, estimate.stamp)
            except TransformError as error:
                waited = self._waiting[-1][0].stamp - estimate.stamp
                if not error.later or waited > _PATIENCE:
                    self._warnings.warn(
                        "mounting",
                        f"No pose of {self._base}: {error}. Publish where the camera is on tf, or "
                        "set camera_pose.",
                    )
                if error.later:
                    return
                self._waiting.popleft()
                continue
            self._warnings.clear("mounting")
            start = _FROM_OPTICAL if self._is_camera(frame) and self.is_optical else mount
            if self._level is None and not self._find_level(start, mount, frame):
                return
            if self._odom is None:
                assert self._level is not None
                self._odom = Transform(self._level, np.zeros(3)) @ start
            self._waiting.popleft()
            yield self._placed(estimate, header, mount)

    def _is_camera(self, frame: str) -> bool:
        return self._base in ("", frame)

    def _mount(self, camera_frame: str, stamp: float) -> Transform:
        """base_from_camera."""
        if self._is_camera(camera_frame):
            return Transform.identity()
        if self._fixed is not None:
            return self._fixed
        assert self._transforms is not None
        matrix = self._transforms.lookup(self._base, camera_frame, stamp)
        return Transform(matrix[:3, :3], matrix[:3, 3])

    def _find_level(self, start: Transform, mount: Transform, camera_frame: str) -> bool:
        """Whether waiting for gravity is over: it is known, or did not come in time."""
        assert self._gravity is not None
        estimate = self._waiting[-1][0]
        up = self._up(estimate, start, mount, camera_frame)
        if up is not None:
            turn, _ = Rotation.align_vectors([[0.0, 0.0, 1.0]], [up])
            self._level = turn.as_matrix()
        elif estimate.stamp - self._waiting[0][0].stamp >= self._wait:
            self._level = np.eye(3)
            self._warnings.warn(
                "gravity",
                "No gravity from the IMU: the z axis of the poses is the robot's at the start. "
                + (
                    "Stand still for half a second at the start, or raise gravity_wait."
                    if self._gravity.frame is not None
                    else f"Nothing has come on {self._gravity.topic}: check imu_topic and the "
                    "IMU's driver."
                ),
            )
        if self._level is None:
            return False
        self._gravity.close()
        return True

    def _up(
        self, estimate: Estimate, start: Transform, mount: Transform, camera_frame: str
    ) -> Float64Array | None:
        """Away from the earth, in odom's axes before they are levelled."""
        assert self._gravity is not None
        assert self._transforms is not None
        up = self._gravity.up(estimate.stamp)
        if up is None:
            return None
        base, imu = self._base or camera_frame, self._gravity.frame or ""
        if imu != base:
            try:
                up = self._transforms.lookup(base, imu, estimate.stamp)[:3, :3] @ up
            except TransformError as error:
                self._warnings.warn("imu", f"Gravity is not used: {error}. Publish it on tf.")
                return None
        up = (start @ estimate.camera @ mount.inverse()).rotation @ up
        tilt = float(np.degrees(np.arccos(np.clip(up[2], -1.0, 1.0))))
        if tilt > _TILT:
            self._warnings.warn(
                "imu",
                f"The IMU has {base} {tilt:.0f}° from upright: gravity is not used. It may be "
                f"mounted upside down ({imu} in tf), or report gravity with the sign reversed.",
            )
            return None
        return np.asarray(up)

    def _placed(self, estimate: Estimate, header: Header, mount: Transform) -> Placed:
        camera = self.odom_from_world @ estimate.camera
        pose = camera @ mount.inverse()
        covariance, noise = (
            moved(turned(one, self.odom_from_world.rotation), pose.translation - camera.translation)
            for one in (estimate.covariance, estimate.noise)
        )
        frame = self._base or header.frame_id
        return Placed(estimate, header, frame, pose, covariance, noise)


def _pose(text: str) -> Transform | None:
    """From ``camera_pose``."""
    if not text:
        return None
    try:
        x, y, z, *turn = (float(word) for word in text.replace(",", " ").split())
        unit = len(turn) == 4 and 0.99 < math.hypot(*turn) < 1.01
        if not (unit and np.isfinite([x, y, z]).all()):
            raise ValueError
        rotation = Rotation.from_quat(turn).as_matrix()
    except ValueError:
        raise ConfigurationError(
            f"parameter camera_pose is {text!r}; it must be seven numbers, 'x y z qx qy qz qw', "
            "the quaternion of length 1."
        ) from None
    return Transform(rotation, np.array([x, y, z]))
