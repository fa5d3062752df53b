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

"""How well poses are known: covariances from the normal equations of what they were fitted to.

A covariance is 6×6, of x y z, then of small rotations about the world's x y z, as in
geometry_msgs/PoseWithCovariance. Errors of an image's own are told from those of the map that it
was located in: the latter grow along the way, from each window's oldest keyframe to its newest.

Neighbours in an image share errors that more points do not average out: a rolling shutter's, the
calibration's, the map's. By how much a covariance exceeds that of independent errors is seen from
the residuals: their pull on the pose, summed over quarters of the image, is larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from aliked_ros.odometry.geometry import projected
from aliked_ros.odometry.views import Noise, Sight, View, counted
from aliked_ros.types import BoolArray, Float64Array, IntArray

_LEAST_VARIANCE = 0.05  # of the expected noise: residuals of few points may be smaller by chance
_LARGEST = 3.0  # standard deviations of a residual that counts
_WEAK = 1e-6  # information on what no observation determines: a kilometre, a thousand radians
_SCALE = 1e3  # mono: the window's size is held by one distance, this much finer than its length
_UNKNOWN_MOTION = 1.0  # m/s and rad/s: between two maps
_LONGEST_GAP = 60.0  # seconds: beyond it, it was a clock that jumped


def image_covariance(
    view: View, sights: Sequence[Sight], points: Float64Array
) -> tuple[Float64Array, float]:
    """Of a view's pose from sights of points K×3, taken as exact.

    As of independent errors, and the factor by which the residuals show it to be larger; 1 on
    average where they are independent.
    """
    depth = np.full(len(points), np.nan)
    residuals, slopes, _ = _linearised(view, sights, points, depth, Noise())
    freedom = max(2 * len(points) - 6, 1)
    variance = max(float((residuals**2).sum()) / freedom, _LEAST_VARIANCE)
    information = np.einsum("nri,nrj->nij", slopes, slopes)
    inverse = np.linalg.pinv(information.sum(0), hermitian=True)
    pulls = np.einsum("nri,nr->ni", slopes, residuals)
    pulls -= information @ (inverse @ pulls.sum(0))  # of the residuals after the last step
    found = expected = 0.0
    for quarter in _quarters(view.rays_of(sights), np.array([number for _, number in sights])):
        pull, share = pulls[quarter].sum(0), inverse @ information[quarter].sum(0)
        found += float(pull @ inverse @ pull)
        expected += variance * float(np.trace(share) - np.trace(share @ share))
    return variance * inverse, found / max(expected, 1e-12)


def window_covariances(
    views: Sequence[View], points: Mapping[int, Float64Array], noise: Noise, metric: bool
) -> list[Float64Array]:
    """Of each view relative to the first, as of independent errors. points: xyz by track id.

    Without ``metric`` the size of the window is taken as exact.
    """
    count, number = len(views), {track: index for index, track in enumerate(points)}
    own = np.tile(_WEAK * np.eye(6), (count, 1, 1))
    of_points = np.tile(_WEAK * np.eye(3), (len(points), 1, 1))
    mixed = np.zeros((count, 6, len(points), 3))
    squares, freedom = 0.0, -6.0 * count - 3.0 * len(points)
    for index, (view, (sights, depth)) in enumerate(
        zip(views, counted(views, points, metric), strict=True)
    ):
        place = np.array([number[track] for track, _ in sights], int)
        seen = np.array([points[track] for track, _ in sights]).reshape(-1, 3)
        residuals, by_camera, by_point = _linearised(view, sights, seen, depth, noise)
        squares += float(np.minimum(residuals**2, _LARGEST**2).sum())
        freedom += np.count_nonzero(by_camera.any(2))
        own[index] += np.einsum("nri,nrj->ij", by_camera, by_camera)
        np.add.at(of_points, place, np.einsum("nri,nrj->nij", by_point, by_point))
        products = np.einsum("nri,nrj->nij", by_camera, by_point)
        np.add.at(mixed[index].transpose(1, 0, 2), place, products)
    flat = mixed.reshape(6 * count, -1)
    solved = np.einsum("cnj,njk->cnk", flat.reshape(6 * count, -1, 3), np.linalg.inv(of_points))
    system = -solved.reshape(flat.shape) @ flat.T
    for index in range(count):
        system[6 * index : 6 * index + 6, 6 * index : 6 * index + 6] += own[index]
    if not metric:
        _hold_scale(system, views)
    variance = max(squares / max(freedom, 1.0), _LEAST_VARIANCE)
    covariance = variance * np.linalg.inv(system[6:, 6:] + _WEAK * np.eye(6 * count - 6))
    blocks = [slice(6 * index, 6 * index + 6) for index in range(count - 1)]
    return [np.zeros((6, 6)), *(covariance[block, block] for block in blocks)]


def moved(covariance: Float64Array, by: Float64Array) -> Float64Array:
    """The covariance of a frame rigidly attached to another, ``by`` (xyz, world) away from it."""
    x, y, z = by
    lever = np.eye(6)
    lever[:3, 3:] = [[0.0, z, -y], [-z, 0.0, x], [y, -x, 0.0]]
    return np.asarray(lever @ covariance @ lever.T)


def turned(covariance: Float64Array, rotation: Float64Array) -> Float64Array:
    """The covariance in other axes: p_new = rotation · p_old."""
    both = np.kron(np.eye(2), rotation)
    return np.asarray(both @ covariance @ both.T)


def after_gap(covariance: Float64Array, gap: float) -> Float64Array:
    """After ``gap`` seconds of a motion that is not known; negative: the clock was set back."""
    return covariance + (_UNKNOWN_MOTION * min(abs(gap), _LONGEST_GAP)) ** 2 * np.eye(6)


def _linearised(
    view: View, sights: Sequence[Sight], points: Float64Array, depth: Float64Array, noise: Noise
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Residuals K×3 (ray x, y, inverse depth) and their slopes, K×3×6 by pose, K×3×3 by point.

    In standard deviations; all 0 where depth K is NaN.
    """
    rows = view.at(sights)
    seen, by_pose, by_point = projected(view.camera, view.mounts[rows], points)
    known = np.isfinite(depth)
    residuals = seen - np.column_stack([view.rays[rows], 1.0 / np.where(known, depth, 1.0)])
    rays = 1.0 / view.noise[rows]
    scale = np.column_stack([rays, rays, known / noise.inverse_depth])
    return residuals * scale, by_pose * scale[:, :, None], by_point * scale[:, :, None]


def _quarters(rays: Float64Array, cameras: IntArray) -> Iterator[BoolArray]:
    """Masks N: the quarters of each camera's image."""
    for camera in np.unique(cameras):
        its = cameras == camera
        right, low = (rays > np.median(rays[its], axis=0)).T
        for quarter in (right & low, right & ~low, ~right & low, ~right & ~low):
            yield its & quarter


def _hold_scale(system: Float64Array, views: Sequence[View]) -> None:
    """Fix the distance of the view farthest from the first one."""
    centres = np.array([view.camera.inverse().translation for view in views])
    away = centres - centres[0]
    lengths = np.linalg.norm(away, axis=1)
    far = int(lengths.argmax())
    if lengths[far] > 0.0:
        direction = away[far] / lengths[far]
        rows = slice(6 * far, 6 * far + 3)
        system[rows, rows] += (_SCALE / lengths[far]) ** 2 * np.outer(direction, direction)
