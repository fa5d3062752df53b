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

"""Where the robot or its camera was at each keyframe: from an Odometry topic, or from tf."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from scipy.spatial.transform import Rotation

from aliked_ros.frontend.places import GivenPose, Place
from aliked_ros.io.messages import nanoseconds
from aliked_ros.ros.transforms import TransformError, Transforms
from aliked_ros.ros.warnings import Warnings

Give = Callable[[Place, GivenPose], None]
"""Takes the pose of a keyframe."""

_WAITING = 200  # poses, and keyframes without one
_TOLERANCE = 20_000_000  # nanoseconds between a keyframe's stamp and that of its pose
_PATIENCE = 5.0  # seconds that a keyframe waits for its transform
_PERIOD = 0.1  # seconds between two looks


class Poses(Protocol):
    """Finds poses for keyframes. All methods but ``close`` may be called from one other thread."""

    def add(self, place: Place) -> None:
        """A keyframe that wants its pose."""
        ...

    def look(self) -> None:
        """See whether poses have come."""
        ...

    @property
    def period(self) -> float | None:
        """Seconds until ``look`` should be called; None = no need to."""
        ...

    def close(self) -> None:
        """Unsubscribe."""
        ...


class OdometryPoses:
    """Poses from ``odometry``: of the same stamp, or the nearest within 20 ms."""

    period = None

    def __init__(self, node: Node, give: Give) -> None:
        """Subscribe."""
        self._node = node
        self._give = give
        self._poses: deque[tuple[int, GivenPose]] = deque(maxlen=_WAITING)
        self._without: deque[Place] = deque(maxlen=_WAITING)
        self._lock = threading.Lock()
        self._subscription = node.create_subscription(
            Odometry, "odometry", self._on_odometry, qos_profile_sensor_data
        )

    def close(self) -> None:
        """See ``Poses``."""
        self._node.destroy_subscription(self._subscription)

    def add(self, place: Place) -> None:
        """See ``Poses``."""
        with self._lock:
            self._without.append(place)
        self.look()

    def _on_odometry(self, message: Odometry) -> None:
        at, turned = message.pose.pose.position, message.pose.pose.orientation
        pose = GivenPose(
            (at.x, at.y, at.z),
            (turned.x, turned.y, turned.z, turned.w),
            message.header.frame_id,
            message.child_frame_id,
        )
        with self._lock:
            self._poses.append((nanoseconds(message.header.stamp), pose))
        self.look()

    def look(self) -> None:
        """Whichever comes second, a keyframe or its pose, brings both together."""
        with self._lock:
            if not self._poses:
                return
            newest = self._poses[-1][0]
            for place in list(self._without):
                stamp, pose = min(self._poses, key=lambda one: abs(one[0] - place.nanoseconds))
                exact = stamp == place.nanoseconds
                if exact or (
                    newest > place.nanoseconds and abs(stamp - place.nanoseconds) <= _TOLERANCE
                ):
                    self._give(place, pose)
                    self._without.remove(place)


class TransformPoses:
    """Poses of the camera from tf, at the keyframes' stamps.

    A transform may come up to 5 s after its keyframe; then the keyframe stays without a pose, and
    a warning says why.
    """

    def __init__(self, node: Node, map_frame: str, give: Give, warnings: Warnings) -> None:
        """Subscribe. map_frame: frame of the poses. Raises ConfigurationError without tf2_msgs."""
        self._transforms = Transforms(node)
        self._map_frame = map_frame
        self._give = give
        self._warnings = warnings
        self._without: deque[tuple[float, Place]] = deque(maxlen=_WAITING)  # since when

    def close(self) -> None:
        """See ``Poses``."""
        self._transforms.close()

    @property
    def period(self) -> float | None:
        """See ``Poses``."""
        return _PERIOD if self._without else None

    def add(self, place: Place) -> None:
        """See ``Poses``."""
        self._without.append((time.monotonic(), place))
        self.look()

    def look(self) -> None:
        """See ``Poses``."""
        for _ in range(len(self._without)):
            since, place = self._without.popleft()
            try:
                matrix = self._transforms.lookup(
                    self._map_frame, place.frame, place.nanoseconds * 1e-9
                )
            except TransformError as error:
                if error.later and time.monotonic() < since + _PATIENCE:
                    self._without.append((since, place))
                else:
                    self._warnings.warn("pose", f"Keyframes have no pose: {error}")
                continue
            self._warnings.clear("pose")
            x, y, z = matrix[:3, 3].tolist()
            turn = Rotation.from_matrix(matrix[:3, :3]).as_quat().tolist()
            pose = GivenPose((x, y, z), tuple(turn), self._map_frame, place.frame)
            self._give(place, pose)
