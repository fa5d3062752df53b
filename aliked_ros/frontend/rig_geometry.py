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

"""Two cameras whose relative pose is known: where a point seen by one can lie in the other.

Errors are pixels of the images as they are: a ray is turned to the nearest one that agrees with the
other camera's, and goes back through the lens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aliked_ros.camera import CameraModel
from aliked_ros.types import BoolArray, Features, Float32Array, Float64Array

_LEAST_PARALLAX = 1.0  # pixels; with less, depth is mostly noise
_SLACK = 2.0  # how many times wider than the threshold the search for candidates is
_SAME_PLACE = 1e-6  # metres between two cameras that have no parallax
_GRID = 8  # points a side, of the images that are compared for overlap
_REACH = (2.0, 5.0, 20.0, 1e4)  # distances of a scene, in units of that of the cameras


@dataclass(frozen=True, slots=True)
class View:
    """What one camera of a rig sees.

    rays: N×2, ``camera.normalize`` of the keypoints; NaN where the model has none. rig_from_camera:
    4×4, of the optical frame: p_rig = R·p_camera + t, metres.
    """

    features: Features
    camera: CameraModel
    rig_from_camera: Float64Array
    rays: Float32Array


class TwoCameras:
    """The geometry between two views; ``swapped``: as if each camera were in the other's place."""

    def __init__(self, first: View, second: View, swapped: bool = False) -> None:
        self._first, self._second = first, second
        poses = first.rig_from_camera, second.rig_from_camera
        there, here = poses[::-1] if swapped else poses
        motion = np.linalg.inv(here) @ there  # second_from_first
        self._rotation, self._centre = motion[:3, :3], motion[:3, 3]  # first's, in second
        self._apart = float(np.linalg.norm(self._centre)) > _SAME_PLACE
        # unit rays of both, in the second camera's axes
        self._a = _bearings(first.rays) @ self._rotation.T
        self._b = _bearings(second.rays)

    def candidates(self, threshold: float) -> BoolArray:
        """N×M: the pairs of keypoints that may show one point, within ``threshold`` pixels or so.

        Wider than :meth:`agree`, which has the last word.
        """
        gates = [_SLACK * threshold / _focal(v.camera) for v in (self._first, self._second)]
        a, b = (np.nan_to_num(rays).astype(np.float32) for rays in (self._a, self._b))
        if not self._apart:
            return np.asarray(a @ b.T > np.cos(max(gates)))
        # nearer along the second's ray means further from the direction to the first camera
        towards = (self._centre / np.linalg.norm(self._centre)).astype(np.float32)
        angles = [np.arccos(np.clip(rays @ towards, -1.0, 1.0)) for rays in (a, b)]
        near = angles[1][None, :] <= angles[0][:, None] + np.float32(max(gates))
        across_a, across_b = (_unit(np.cross(towards, rays)) for rays in (a, b))
        near &= np.abs(across_a @ b.T) <= gates[1]
        near &= np.abs(a @ across_b.T) <= gates[0]
        return np.asarray(near & (across_a @ across_b.T > 0.0))

    def agree(
        self, rows: NDArray[np.integer], columns: NDArray[np.integer], threshold: float
    ) -> tuple[BoolArray, Float32Array, Float32Array]:
        """Which pairs of keypoints show one point in front of both cameras: K.

        Also its depth in the first and in the second camera: K, metres along the optical axis, NaN
        where the pair does not agree or has too little parallax to tell.
        threshold: largest distance in pixels, in either image, from what the other one lets expect.
        """
        a, b, centre = self._a[rows], self._b[columns], self._centre
        seen_a = self._first.features.keypoints[rows]
        seen_b = self._second.features.keypoints[columns]
        with np.errstate(all="ignore"):  # NaN where a keypoint has no ray
            parallax = _missed(self._second.camera, a, seen_b)
            distant = parallax < threshold
            if not self._apart:
                none = np.full(len(a), np.nan, np.float32)
                return distant, none, none
            across_a, across_b = (_unit(np.cross(centre, rays)) for rays in (a, b))
            on_plane = b - _dot(b, across_a)[:, None] * across_a
            on_other = a - _dot(a, across_b)[:, None] * across_b
            error = np.maximum(
                _missed(self._second.camera, on_plane, seen_b),
                _missed(self._first.camera, on_other @ self._rotation, seen_a),
            )
            # the point where the rays meet: centre + s·a = u·on_plane
            normal = np.cross(a, on_plane)
            squared = _dot(normal, normal)
            s = _dot(np.cross(on_plane, centre), normal) / squared
            u = _dot(np.cross(a, centre), normal) / squared
            good = (error < threshold) & (((s > 0.0) & (u > 0.0)) | distant)
            known = good & (s > 0.0) & (u > 0.0) & (parallax > _LEAST_PARALLAX)
            forward = (a @ self._rotation)[:, 2], on_plane[:, 2]
        depths = [
            np.where(known, length * z, np.nan) for length, z in zip((s, u), forward, strict=True)
        ]
        return good, depths[0].astype(np.float32), depths[1].astype(np.float32)


def overlap(first: View, second: View) -> bool:
    """Whether two cameras see a common part of some scene ahead."""
    return _sees_into(first, second) or _sees_into(second, first)


def _sees_into(one: View, other: View) -> bool:
    """Whether points that one camera sees, at any of some distances, lie in the other's image."""
    camera, there = one.camera, other.camera
    steps = [np.linspace(0.0, side - 1.0, _GRID) for side in (camera.width, camera.height)]
    pixels = np.stack(np.meshgrid(*steps), axis=-1).reshape(-1, 2).astype(np.float32)
    motion = np.linalg.inv(other.rig_from_camera) @ one.rig_from_camera
    rays = _bearings(camera.normalize(pixels)) @ motion[:3, :3].T
    unit = max(float(np.linalg.norm(motion[:3, 3])), _SAME_PLACE)
    points = np.concatenate([unit * distance * rays + motion[:3, 3] for distance in _REACH])
    with np.errstate(all="ignore"):  # NaN beyond a lens
        seen = _projected(there, points)
        inside = (seen >= 0.0) & (seen <= (there.width - 1.0, there.height - 1.0))
    return bool(inside.all(1).any())


def _bearings(rays: Float32Array) -> Float64Array:
    """N×2 on the plane z = 1 → unit vectors N×3."""
    unit: Float64Array = _unit(np.column_stack([rays, np.ones(len(rays))]).astype(np.float64))
    return unit


def _unit(vectors: Any) -> Any:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12).astype(vectors.dtype)


def _dot(a: Float64Array, b: Float64Array) -> Float64Array:
    return np.asarray(np.einsum("ki,ki->k", a, b))


def _projected(camera: CameraModel, points: Float64Array) -> Float64Array:
    """Pixels K×2 of points K×3 of the optical frame, NaN where they are not in front of it."""
    ahead = points[:, 2] > 0.0
    rays = np.where(ahead[:, None], points[:, :2] / points[:, 2:], np.nan)
    # OpenCV's projection of NaN is undefined
    pixels = camera.project(np.nan_to_num(rays).astype(np.float32)).astype(np.float64)
    return np.where(np.isfinite(rays), pixels, np.nan)


def _missed(camera: CameraModel, points: Float64Array, pixels: Float32Array) -> Float64Array:
    """Pixels from where points K×3 are seen to where they were seen; infinite where not at all."""
    distance = np.linalg.norm(_projected(camera, points) - pixels, axis=1)
    return np.asarray(np.nan_to_num(distance, nan=np.inf))


def _focal(camera: CameraModel) -> float:
    """Pixels a radian at the image's centre, the smaller way."""
    return float(min(camera.matrix[0, 0], camera.matrix[1, 1]))
