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

"""How well the pose of a candidate is known: a covariance from its inliers."""

from __future__ import annotations

import numpy as np

from aliked_ros.types import Candidate, Float32Array, Float64Array, Pose

_LEAST_NOISE = 0.3  # pixels: residuals of few points may be smaller by chance
_OUTLIER = 3.0  # pixels
_STEP = 1e-6  # of numerical derivatives: radians, or lengths of the translation


def pose_covariance(candidate: Candidate, rays: Float32Array, focal: float) -> Float64Array | None:
    """Covariance 6×6 of a candidate's pose: x y z, then rotations about the keyframe's x y z.

    rays: N×2, the image's keypoints on the plane z = 1. focal: pixels.

    It is the inverse of the normal equations, times the variance of the residuals. A metric pose
    has reprojection errors of the keyframe's points, taken as exact; else they are distances from
    the epipolar lines, and there is no variance along the translation, whose length is 1 by choice.
    None without a pose, or where the inliers do not determine it.
    """
    keyframe, pose, matches = candidate.keyframe, candidate.pose, candidate.matches.verified()
    if pose is None or keyframe.normalized is None:
        return None
    there = keyframe.normalized[matches.reference_indices].astype(np.float64)
    here = rays[matches.current_indices].astype(np.float64)
    if pose.metric:
        assert keyframe.depth is not None
        depth = keyframe.depth[matches.reference_indices].astype(np.float64)
        solid = np.isfinite(depth) & np.isfinite(there).all(1) & np.isfinite(here).all(1)
        points = _homogeneous(there[solid]) * depth[solid, None]
        residuals, slopes = _reprojection(pose, points, here[solid])
        basis = np.eye(6)
    else:
        known = np.isfinite(there).all(1) & np.isfinite(here).all(1)
        across = np.linalg.svd(pose.translation[None])[2][1:]  # 2×3, perpendicular to it
        basis = np.zeros((6, 5))
        basis[:3, :2], basis[3:, 2:] = across.T, np.eye(3)
        residuals, slopes = _epipolar(pose, basis, there[known], here[known])
    near = np.linalg.norm(residuals, axis=1) < _OUTLIER / focal
    residuals, slopes = residuals[near], slopes[near].reshape(-1, slopes.shape[-1])
    freedom = residuals.size - slopes.shape[1]
    if freedom <= 0:
        return None
    variance = max(float((residuals**2).sum()) / freedom, (_LEAST_NOISE / focal) ** 2)
    try:
        inverse = np.linalg.inv(slopes.T @ slopes)
    except np.linalg.LinAlgError:
        return None
    covariance: Float64Array = basis @ (variance * inverse) @ basis.T
    return covariance if np.isfinite(covariance).all() else None


def _reprojection(
    pose: Pose, points: Float64Array, here: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Residuals N×2 of points N×3 of the keyframe in the image, and their derivatives N×2×6."""
    moved = points - pose.translation
    x, y, z = (moved @ pose.rotation).T
    residuals = np.column_stack([x / z, y / z]) - here
    projection = np.zeros((len(points), 2, 3))
    projection[:, 0, 0] = projection[:, 1, 1] = 1 / z
    projection[:, 0, 2], projection[:, 1, 2] = -x / z**2, -y / z**2
    turned = projection @ pose.rotation.T  # by the point in the keyframe's axes
    return residuals, np.concatenate([-turned, -np.cross(moved[:, None], turned)], axis=2)


def _epipolar(
    pose: Pose, basis: Float64Array, there: Float64Array, here: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Sampson distances N×1 and their derivatives N×1×5, along ``basis``, by differences."""
    first, second = _homogeneous(there), _homogeneous(here)

    def distances(change: Float64Array) -> Float64Array:
        x, y, z = pose.translation + change[:3]
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        u, v, w = change[3:]
        turn = np.eye(3) + np.array([[0, -w, v], [w, 0, -u], [-v, u, 0]])  # a small one
        essential = cross @ turn @ pose.rotation
        lines, other = second @ essential.T, first @ essential
        size = np.sqrt((lines[:, :2] ** 2).sum(1) + (other[:, :2] ** 2).sum(1))
        return np.asarray((first * lines).sum(1) / np.maximum(size, 1e-12))

    slopes = [
        (distances(_STEP * direction) - distances(-_STEP * direction)) / (2 * _STEP)
        for direction in basis.T
    ]
    return distances(np.zeros(6))[:, None], np.stack(slopes, axis=1)[:, None]


def _homogeneous(rays: Float64Array) -> Float64Array:
    return np.column_stack([rays, np.ones(len(rays))])
