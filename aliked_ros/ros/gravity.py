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

"""Which way is up, from an IMU that stands still."""

from __future__ import annotations

from collections import deque

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Imu

from aliked_ros.ros.imu_messages import QOS, Sample
from aliked_ros.ros.warnings import Warnings
from aliked_ros.types import Float64Array

_WINDOW = 0.5  # seconds of standing still
_LEAST = 10  # samples in it
_KEPT = 4000  # samples
_LATE = 0.1  # seconds that the IMU may be behind an image
_OTHER_CLOCK = 2.0  # seconds apart that are no delay any more
_SHAKING = 0.03  # standard deviation of an acceleration at rest, of gravity's
_TURNING = 0.1  # rad/s, of a gyroscope at rest
_GRAVITY = 9.81  # m/s²
_DOUBT = 0.1  # of gravity's: scale and bias of a cheap IMU


class Gravity:
    """Listens to a sensor_msgs/Imu.

    topic: its whole name. frame: of its messages; None before the first.
    """

    def __init__(self, node: Node, topic: str, warnings: Warnings) -> None:
        self._warnings = warnings
        self._samples: deque[Sample] = deque(maxlen=_KEPT)
        self.frame: str | None = None
        self._node = node
        self._subscription = node.create_subscription(Imu, topic, self._receive, QOS)
        self.topic = self._subscription.topic_name

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def up(self, stamp: float) -> Float64Array | None:
        """The direction away from the earth in the IMU's axes, of unit length.

        None unless it stood still in the half second before ``stamp``, and measured gravity.
        """
        if not self._samples:
            return None
        newest = self._samples[-1].stamp
        if abs(newest - stamp) > _OTHER_CLOCK:
            self._warnings.warn(
                self.topic,
                f"{self.topic} is {abs(newest - stamp):.1f} s "
                f"{'behind' if newest < stamp else 'ahead of'} the images: the two have different "
                "clocks, and gravity is not used. Give both drivers the same clock.",
            )
            return None
        window = [one for one in self._samples if stamp - _WINDOW <= one.stamp <= stamp]
        if newest < stamp - _LATE or len(window) < _LEAST:
            return None
        acceleration = np.array([one.acceleration for one in window])
        turning = np.array([one.rate or (0.0, 0.0, 0.0) for one in window])
        mean = acceleration.mean(0)
        size = float(np.linalg.norm(mean))
        shaking = float(np.linalg.norm(acceleration.std(0)))
        if np.linalg.norm(turning.mean(0)) > _TURNING or shaking > _SHAKING * max(size, 1.0):
            return None
        if abs(size / _GRAVITY - 1.0) > _DOUBT and not self._in_g(size):
            self._warnings.warn(
                self.topic,
                f"{self.topic} has an acceleration of {size:.2f} m/s² while it stands still, "
                f"where gravity is {_GRAVITY}: gravity is not used. Publish the measured "
                "acceleration, with gravity, in m/s².",
            )
            return None
        return np.asarray(mean / size)

    def _in_g(self, size: float) -> bool:
        if abs(size - 1.0) > _DOUBT:
            return False
        self._warnings.warn(
            self.topic,
            f"{self.topic} has an acceleration of {size:.2f} while it stands still: that is g, "
            "not m/s². Its direction is used all the same; correct the driver.",
        )
        return True

    def _receive(self, message: Imu) -> None:
        sample = Sample.of(message)
        if sample.acceleration is None:
            self._warnings.warn(
                f"{self.topic} acceleration",
                f"Imu on {self.topic} has no acceleration (its covariance is -1, or it is not "
                "finite): it is ignored. Set imu_topic to the topic of an accelerometer.",
            )
            return
        self._warnings.clear(f"{self.topic} acceleration")
        newest = self._samples[-1].stamp if self._samples else sample.stamp
        if sample.stamp < newest - _OTHER_CLOCK:
            self._samples.clear()  # a recording that starts again
        elif sample.stamp < newest:
            return
        self.frame = sample.frame
        self._samples.append(sample)
