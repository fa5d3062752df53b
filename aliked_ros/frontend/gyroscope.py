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


"""Angular velocities of an IMU, integrated to its rotation between two stamps."""

from __future__ import annotations

import math
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

import numpy as np
from scipy.spatial.transform import Rotation

from aliked_ros.types import Float64Array

_Vector = tuple[float, float, float]
_Quaternion = tuple[float, float, float, float]

LONGEST_GAP = 0.1
"""Seconds between two samples that are bridged, or that the first and the last hold beyond."""

_PENDING = 1.0  # seconds of samples that wait, at most, to be integrated
_RESTART = 1.0  # seconds: a stamp so far back is of a clock that was set, not of a late sample
_REST, _AVERAGED = 0.5, 5.0  # seconds of rest that show a bias, and that are averaged at most
_STEADY = 0.03  # rad/s: largest standard deviation of a gyroscope at rest
_LARGEST_BIAS = 0.2  # rad/s


class Gyroscope:
    """The samples of one gyroscope; safe from several threads.

    Stamps are the IMU's, in seconds; rates in rad/s about the IMU's axes. Between two samples the
    rate changes linearly. Across a gap of more than LONGEST_GAP no rotation is known.
    """

    def __init__(self, keep: float = 60.0) -> None:
        """keep: seconds of samples that are kept, at least, and at most twice as many."""
        self._keep = keep
        self._lock = threading.Lock()
        self._bias = np.zeros(3)
        self._clear()

    @classmethod
    def recorded(cls, stamps: Float64Array, rates: Float64Array) -> Gyroscope:
        """With the samples of a recording, all of them kept: stamps N, rates N×3."""
        gyroscope = cls(keep=math.inf)
        for stamp, rate in zip(stamps.tolist(), rates.tolist(), strict=True):
            gyroscope.add(stamp, rate)
        return gyroscope

    def _clear(self) -> None:
        self._pending: list[tuple[float, _Vector]] = []
        # Columns of N samples; arrays, for a minute of a fast IMU is a lot of numbers.
        self._stamps = array("d")
        self._rates = array("d")  # 3N
        self._orientations = array("d")  # 4N: first_from_imu
        self._segments = array("q")  # grow at each gap
        self._newest = -math.inf

    @property
    def newest(self) -> float:
        """Stamp of the newest sample; -inf before the first."""
        return self._newest

    @property
    def bias(self) -> Float64Array:
        """What the gyroscope reads at rest, rad/s, as learnt by ``rest``; 0 before."""
        return self._bias

    def add(self, stamp: float, rate: Iterable[float]) -> None:
        """Take a sample; one that is not finite, or not later than the last, is ignored.

        A stamp more than a second before the last restarts it: the clock was set.
        """
        x, y, z = map(float, rate)
        if not math.isfinite(stamp + x + y + z):
            return
        with self._lock:
            if stamp < self._newest - _RESTART:
                self._clear()
            if stamp > self._newest:
                self._pending.append((stamp, (x, y, z)))
                self._newest = stamp
                if stamp - self._pending[0][0] > _PENDING:  # no image asks, and they pile up
                    self._integrate()

    def rotation(self, before: float, now: float) -> Float64Array | None:
        """The 3×3 that leads from the IMU's axes at one stamp to those at another.

        A fixed direction has the coordinates ``R @ d`` at ``now`` if it had ``d`` at ``before``.
        None where samples are missing at either stamp or between.
        """
        with self._lock:
            self._integrate()
            first, second = self._orientation(before), self._orientation(now)
        if first is None or second is None or first[0] != second[0]:
            return None
        return np.asarray((second[1].inv() * first[1]).as_matrix())

    def samples(self, since: float, until: float) -> tuple[Float64Array, Float64Array]:
        """Stamps N and rates N×3, without the bias, of the samples between two stamps."""
        with self._lock:
            self._integrate()
            rows = slice(bisect_left(self._stamps, since), bisect_right(self._stamps, until))
            stamps, rates = np.array(self._stamps[rows]), self._rates_of(rows)
        return stamps, rates - self._bias

    def rest(self, before: float, now: float) -> None:
        """Learn the bias: the IMU did not turn between these stamps."""
        with self._lock:
            self._integrate()
            since = max(before, now - _AVERAGED)  # a robot may stand for hours
            rows = slice(bisect_left(self._stamps, since), bisect_right(self._stamps, now))
            rates = self._rates_of(rows)
        if now - before < _REST or len(rates) < 2:
            return
        bias = rates.mean(0)
        if rates.std(0).max() < _STEADY and np.abs(bias).max() < _LARGEST_BIAS:
            self._bias = bias

    def _integrate(self) -> None:
        """Append the orientations of the samples that came since the last call."""
        pending, self._pending = self._pending, []
        bx, by, bz = self._bias
        for stamp, rate in pending:
            if not self._stamps:
                orientation, segment = (0.0, 0.0, 0.0, 1.0), 0
            else:
                step = stamp - self._stamps[-1]
                x, y, z, w = self._orientations[-4:]
                orientation, segment = (x, y, z, w), self._segments[-1]
                if step > LONGEST_GAP:
                    segment += 1
                else:
                    half = step / 2.0
                    x, y, z = (a + b for a, b in zip(self._rates[-3:], rate, strict=True))
                    turn = (half * x - step * bx, half * y - step * by, half * z - step * bz)
                    orientation = _turned(orientation, turn)
            self._stamps.append(stamp)
            self._rates.extend(rate)
            self._orientations.extend(orientation)
            self._segments.append(segment)
        if self._stamps and self._stamps[0] < self._newest - 2.0 * self._keep:
            old = bisect_left(self._stamps, self._newest - self._keep)
            del self._stamps[:old], self._segments[:old]
            del self._rates[: 3 * old], self._orientations[: 4 * old]

    def _rates_of(self, rows: slice) -> Float64Array:
        """N×3 of N rows."""
        return np.array(self._rates[3 * rows.start : 3 * rows.stop]).reshape(-1, 3)

    def _orientation(self, stamp: float) -> tuple[int, Rotation] | None:
        """Segment and first_from_imu at a stamp, None = not known."""
        after = bisect_right(self._stamps, stamp)
        row = max(after - 1, 0)
        if not self._stamps:
            return None
        passed, rate = stamp - self._stamps[row], self._rates_of(slice(row, row + 1))[0]
        if 0 < after < len(self._stamps) and self._segments[row] == self._segments[after]:
            share = passed / (self._stamps[after] - self._stamps[row])
            rate = rate + (self._rates_of(slice(after, after + 1))[0] - rate) * share / 2.0
        elif abs(passed) > LONGEST_GAP:
            return None
        turned = Rotation.from_rotvec((rate - self._bias) * passed)
        orientation = Rotation.from_quat(self._orientations[4 * row : 4 * row + 4])
        return self._segments[row], orientation * turned


def _turned(orientation: _Quaternion, turn: _Vector) -> _Quaternion:
    """A unit quaternion (x, y, z, w) times a rotation vector: numbers, for arrays cost more."""
    a, b, c = turn
    angle = math.sqrt(a * a + b * b + c * c)
    scale = 0.5 if angle < 1e-9 else math.sin(angle / 2.0) / angle
    a, b, c, d = a * scale, b * scale, c * scale, math.cos(angle / 2.0)
    x, y, z, w = orientation
    x, y, z, w = (
        w * a + x * d + y * c - z * b,
        w * b - x * c + y * d + z * a,
        w * c + x * b - y * a + z * d,
        w * d - x * a - y * b - z * c,
    )
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    return x / norm, y / norm, z / norm, w / norm
