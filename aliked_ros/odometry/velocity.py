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

"""Velocity from poses."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from aliked_ros.odometry.geometry import Transform
from aliked_ros.odometry.uncertainty import turned
from aliked_ros.types import Float64Array

_ACCELERATION = np.repeat([3.0, 6.0], 3)  # m/s², rad/s²: what a robot or a hand does
_UNKNOWN = 10.0  # m/s and rad/s, before the second pose


class Velocity:
    """A Kalman filter of the velocity: smooths where poses are noisier than motion is uneven.

    Linear, then angular, in m/s and rad/s about the moving frame's own axes.
    """

    def __init__(self) -> None:
        self._last: tuple[float, Transform, Float64Array] | None = None
        self._mean = np.zeros(6)
        self._covariance = _UNKNOWN**2 * np.eye(6)

    def update(
        self, stamp: float, pose: Transform, noise: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        """The velocity (6) at the next pose, and its covariance 6×6.

        stamp: seconds. pose: world_from_frame. noise: the pose's covariance, without what it has
        in common with the pose before.
        """
        if self._last is not None and stamp > self._last[0]:
            before, earlier, old_noise = self._last
            step = stamp - before
            way = pose.rotation.T @ (pose.translation - earlier.translation)
            turn = Rotation.from_matrix(earlier.rotation.T @ pose.rotation).as_rotvec()
            seen = np.concatenate([way, turn]) / step
            doubt = turned(noise + old_noise, pose.rotation.T) / step**2
            self._covariance = self._covariance + np.diag((_ACCELERATION * step) ** 2)
            gain = self._covariance @ np.linalg.pinv(self._covariance + doubt, hermitian=True)
            self._mean = self._mean + gain @ (seen - self._mean)
            self._covariance = self._covariance - gain @ self._covariance
            self._covariance = (self._covariance + self._covariance.T) / 2.0
        self._last = stamp, pose, noise
        return self._mean, self._covariance
