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
"""Where a track is: optical flow's steps and ALIKED's detections, weighed by their covariances.

A track is of the point of the scene that it began with. Flow drifts away from it by and by;
detections do not, but each misses it by noise of its own, the first one included, so that all of
them are off by an offset that stays the same. A Kalman filter a track keeps both: the drift, which
is corrected, and the offset, which is learned and left alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aliked_ros.types import BoolArray, Float64Array

# Noise of a detection, measured between images in a row on fr1_xyz, KITTI 00 and the RealSense
# desk. Across an edge it is as good as at a corner, along it the score map has no peak.
_DETECTION = 0.2  # pixels, along the steepest direction of the patch
_LONGEST = 16.0  # variance along the flattest direction, of the steepest's
_GATE = 13.8  # squared distance, in covariances: of right pairs one in a thousand is farther


class Filters:
    """A filter for each of N tracks; immutable but for what its methods say."""

    def __init__(self, offset: Float64Array, covariance: Float64Array) -> None:
        """offset: N×2, pixels. covariance: N×4×4, pixels², of drift (x, y) and offset (x, y)."""
        self._offset, self._covariance = offset, covariance

    @classmethod
    def born(cls, noise: Float64Array) -> Filters:
        """Of tracks that begin where they were detected; noise: N×2×2, the detection's."""
        covariance = np.zeros((len(noise), 4, 4))
        covariance[:, 2:, 2:] = noise
        return cls(np.zeros((len(noise), 2)), covariance)

    @classmethod
    def found_again(cls, noise: Float64Array) -> Filters:
        """Of old tracks detected again; their offset is not known, nor how far it leads astray."""
        covariance = np.zeros((len(noise), 4, 4))
        covariance[:, :2, :2] = 2 * noise
        covariance[:, 2:, 2:] = noise
        covariance[:, :2, 2:] = covariance[:, 2:, :2] = -noise
        return cls(np.zeros((len(noise), 2)), covariance)

    @property
    def covariances(self) -> Float64Array:
        """Of the tracks' positions, N×2×2, pixels²."""
        return self._covariance[:, :2, :2]

    def __getitem__(self, rows: NDArray[np.intp] | BoolArray | slice) -> Filters:
        return Filters(self._offset[rows], self._covariance[rows])

    def __add__(self, others: Filters) -> Filters:
        return Filters(
            np.concatenate([self._offset, others._offset]),
            np.concatenate([self._covariance, others._covariance]),
        )

    def step(self, noise: Float64Array) -> Filters:
        """After a step of flow; noise: N×2×2, the step's."""
        covariance = self._covariance.copy()
        covariance[:, :2, :2] += noise
        return Filters(self._offset, covariance)

    def agrees(self, distance: Float64Array, noise: Float64Array) -> BoolArray:
        """Which detections (N×2 pixels from the tracks' positions) can be of their tracks."""
        innovation, covariance = self._innovation(distance, noise)
        squared = np.einsum("ni,nij,nj->n", innovation, np.linalg.inv(covariance), innovation)
        return np.asarray(squared < _GATE)

    def correct(self, distance: Float64Array, noise: Float64Array) -> tuple[Float64Array, Filters]:
        """By how much detections (N×2 pixels from the positions) move them, and what is known then.

        noise: N×2×2, the detections'.
        """
        innovation, covariance = self._innovation(distance, noise)
        common = self._covariance[:, :, :2] + self._covariance[:, :, 2:]
        gain = common @ np.linalg.inv(covariance)
        change = np.einsum("nij,nj->ni", gain, innovation)
        corrected = self._covariance - gain @ common.transpose(0, 2, 1)
        return change[:, :2], Filters(self._offset + change[:, 2:], corrected)

    def _innovation(
        self, distance: Float64Array, noise: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        """What a detection tells anew, and its covariance."""
        p = self._covariance
        sums = p[:, :2, :2] + p[:, :2, 2:] + p[:, 2:, :2] + p[:, 2:, 2:]
        return distance - self._offset, sums + noise


def detection_noise(structure: Float64Array) -> Float64Array:
    """Covariances N×2×2, pixels², of detections in patches with these structure tensors N×2×2."""
    values, vectors = np.linalg.eigh(structure)
    ratios = np.minimum(values[:, 1:] / values, _LONGEST)
    noise: Float64Array = _DETECTION**2 * (vectors * ratios[:, None]) @ vectors.transpose(0, 2, 1)
    return noise
