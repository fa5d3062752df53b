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

"""sensor_msgs/Imu: how to subscribe to it, and what a message measures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu

from aliked_ros.ros.conversions import seconds

QOS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Holds a second at 1 kHz, for a subscriber that is busy."""

_NOT_MEASURED = -1.0  # the first number of a covariance, by the message's definition

_Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """One message; vectors in the IMU's axes.

    stamp: seconds. rate: rad/s. acceleration: m/s². Both are None where the IMU does not measure
    them (their covariance says so), or where they are not finite.
    """

    stamp: float
    frame: str
    rate: _Vector | None
    acceleration: _Vector | None

    @classmethod
    def of(cls, message: Imu) -> Sample:
        """What a message measures."""
        return cls(
            seconds(message.header.stamp),
            message.header.frame_id,
            _measured(message.angular_velocity, message.angular_velocity_covariance),
            _measured(message.linear_acceleration, message.linear_acceleration_covariance),
        )


def _measured(vector: Any, covariance: Any) -> _Vector | None:
    known = covariance[0] != _NOT_MEASURED and math.isfinite(vector.x + vector.y + vector.z)
    return (vector.x, vector.y, vector.z) if known else None
