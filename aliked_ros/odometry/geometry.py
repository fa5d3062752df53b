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

"""Poses from points, points from poses. Rays are N×2 coordinates on the plane z = 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from aliked_ros.types import BoolArray, Float64Array, IntArray

_IDENTITY = np.eye(3)
_CONFIDENCE = 0.999
_ITERATIONS = 200
_PLANE_SHARE = 0.9  # share of points on one plane that makes the essential matrix ambiguous
_PLANE_WIDTH = 2.0  # tolerances
_REFINEMENTS = 2  # rounds of least squares over the inliers, then new inliers
_STEPS = 10  # of Gauss-Newton, at most
_SMALL_STEP = 1e-9  # metres and radians


@dataclass(frozen=True, slots=True)
class Transform:
    """p_target = rotation · p_source + translation. rotation: 3×3; translation: 3; float64.

    Or N of them, one for each of N points: N×3×3 and N×3.
    """

    rotation: Float64Array
    translation: Float64Array

    @classmethod
    def identity(cls) -> Transform:
        """The identity."""
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def stacked(cls, transforms: Sequence[Transform]) -> Transform:
        """N of them as one."""
        return cls(
            np.array([one.rotation for one in transforms]).reshape(-1, 3, 3),
            np.array([one.translation for one in transforms]).reshape(-1, 3),
        )

    def __call__(self, points: Float64Array) -> Float64Array:
        """Transform points N×3."""
        turned = np.einsum("...ij,...j->...i", self.rotation, points)
        return np.asarray(turned + self.translation)

    def __matmul__(self, other: Transform) -> Transform:
        """``self`` after ``other``."""
        return Transform(self.rotation @ other.rotation, self(other.translation))

    def __getitem__(self, rows: Any) -> Transform:
        """Of N transforms some: an index, indices or a mask."""
        return Transform(self.rotation[rows], self.translation[rows])

    def inverse(self) -> Transform:
        """From target back to source."""
        back = np.swapaxes(self.rotation, -1, -2)
        return Transform(back, -np.einsum("...ij,...j->...i", back, self.translation))


def reprojection_errors(
    camera: Transform, points: Float64Array, rays: Float64Array
) -> Float64Array:
    """N distances of each point's projection from its ray; infinite behind the camera.

    camera: camera_from_world. points: N×3, world.
    """
    local = camera(points)
    depth = np.where(local[:, 2] > 0.0, local[:, 2], np.nan)
    errors = np.linalg.norm(local[:, :2] / depth[:, None] - rays, axis=1)
    return np.asarray(np.nan_to_num(errors, nan=np.inf))


def projected(
    frame: Transform, mounts: Transform, points: Float64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """What cameras on a frame see of points N×3, world: N×3, x, y and inverse depth.

    Also the slopes N×3×6 by the frame's pose (its place, then small rotations about it, both in the
    world's axes) and N×3×3 by the point. frame: frame_from_world. mounts: camera_from_frame, one or
    N.
    """
    cameras = mounts @ frame
    x, y, z = cameras(points).T
    z = np.maximum(z, 1e-9)
    seen = np.column_stack([x / z, y / z, 1.0 / z])
    local = np.zeros((len(points), 3, 3))
    local[:, 0, 0] = local[:, 1, 1] = 1.0 / z
    local[:, 0, 2], local[:, 1, 2], local[:, 2, 2] = -x / z**2, -y / z**2, -1.0 / z**2
    by_point = local @ cameras.rotation
    sights = points - frame.inverse().translation
    by_pose = np.concatenate([-by_point, -np.cross(sights[:, None], by_point)], axis=2)
    return seen, by_pose, by_point


def locate(
    points: Float64Array,
    rays: Float64Array,
    tolerance: float | Float64Array,
    mounts: Transform | None = None,
    cameras: IntArray | None = None,
) -> tuple[Transform, BoolArray] | None:
    """The frame (frame_from_world) whose cameras see points N×3 along rays, and the N inliers.

    tolerance: largest reprojection error of an inlier, one or N. mounts: N, camera_from_frame;
    cameras: N, a number for each camera; without them the frame is the only camera. None if no pose
    fits six points.

    OpenCV's solvers want rays that meet in one place. So each camera suggests the pose that its own
    rays give; the one that agrees with the most rays of all is refined over these: least squares on
    the generalised camera of Pless (Using many cameras as one, CVPR 2003).
    """
    tolerance = np.broadcast_to(tolerance, len(points))
    numbers = np.zeros(len(points), np.int64) if cameras is None else cameras
    mounts = mounts or Transform.stacked([Transform.identity()])[numbers]
    best: tuple[Transform, BoolArray] | None = None
    for number in np.unique(numbers):
        its = numbers == number
        camera = _located(points[its], rays[its], float(tolerance[its][0]))
        if camera is None:
            continue
        frame = mounts[its][0].inverse() @ camera
        inliers = reprojection_errors(mounts @ frame, points, rays) < tolerance
        if best is None or inliers.sum() > best[1].sum():
            best = frame, inliers
    for _ in range(_REFINEMENTS):
        if best is None or best[1].sum() < 6:
            return None
        frame, its = best
        frame = _refined(frame, points[its], rays[its], mounts[its], tolerance[its])
        best = frame, reprojection_errors(mounts @ frame, points, rays) < tolerance
    return best


def _located(points: Float64Array, rays: Float64Array, tolerance: float) -> Transform | None:
    """The camera (camera_from_world) that most of the points fit, not refined; None if none."""
    if len(points) < 6:
        return None
    parameters = cv2.UsacParams()
    parameters.threshold = tolerance
    parameters.confidence = _CONFIDENCE
    parameters.maxIterations = _ITERATIONS
    try:
        found, _, turn, shift, _ = cv2.solvePnPRansac(
            points, rays, _IDENTITY, np.zeros(4), params=parameters
        )
    except cv2.error:  # degenerate points
        return None
    return _transform(turn, shift) if found else None


def _refined(
    frame: Transform,
    points: Float64Array,
    rays: Float64Array,
    mounts: Transform,
    tolerance: Float64Array,
) -> Transform:
    """The frame with the least squares of reprojection errors, by Gauss and Newton."""
    weights = 1.0 / tolerance[:, None]
    for _ in range(_STEPS):
        seen, by_pose, _ = projected(frame, mounts, points)
        residuals = (weights * (seen[:, :2] - rays)).ravel()
        slopes = (weights[:, :, None] * by_pose[:, :2]).reshape(-1, 6)
        step = np.linalg.pinv(slopes.T @ slopes, hermitian=True) @ (slopes.T @ residuals)
        turn, _ = cv2.Rodrigues(-step[3:])
        world = frame.inverse()
        frame = Transform(turn @ world.rotation, world.translation - step[:3]).inverse()
        if np.abs(step).max() < _SMALL_STEP:
            break
    return frame


def unrotated_motion(before: Float64Array, after: Float64Array) -> float:
    """Median motion of corresponding rays after removing the rotation, radians."""
    if len(before) == 0:
        return 0.0
    sights = [np.column_stack([rays, np.ones(len(rays))]) for rays in (before, after)]
    first, second = (s / np.linalg.norm(s, axis=1, keepdims=True) for s in sights)
    left, _, right = np.linalg.svd(second.T @ first)  # the best rotation, by Kabsch
    rotation = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    return float(np.median(np.linalg.norm(first @ rotation.T - second, axis=1)))


def relative_pose(before: Float64Array, after: Float64Array, tolerance: float) -> Transform | None:
    """after_from_before, with unit translation, from corresponding rays.

    tolerance: largest distance of a ray from its epipolar line. None if undetermined. For points on
    one plane it is ambiguous: see ``plane_poses``.
    """
    try:
        essential, mask = cv2.findEssentialMat(
            before, after, _IDENTITY, cv2.USAC_MAGSAC, _CONFIDENCE, tolerance
        )
        if essential is None or essential.shape != (3, 3):
            return None
        _, rotation, translation, _ = cv2.recoverPose(
            essential, before, after, _IDENTITY, mask=mask
        )
    except cv2.error:  # degenerate rays
        return None
    return _transform(rotation, translation)


def plane_poses(
    before: Float64Array, after: Float64Array, tolerance: float
) -> list[Transform] | None:
    """The candidates for ``relative_pose`` if the points lie on one plane, else None.

    Usually two motions explain two views of a plane equally well.
    """
    try:
        homography, _ = cv2.findHomography(
            before, after, cv2.USAC_MAGSAC, tolerance, None, _ITERATIONS, _CONFIDENCE
        )
        if homography is None:
            return None
        carried = cv2.perspectiveTransform(before[:, None], homography)[:, 0]
        inliers = np.linalg.norm(carried - after, axis=1) < _PLANE_WIDTH * tolerance
        if inliers.mean() < _PLANE_SHARE:
            return None
        homography, _ = cv2.findHomography(before[inliers], after[inliers])
        _, rotations, translations, normals = cv2.decomposeHomographyMat(homography, _IDENTITY)
    except cv2.error:
        return None
    sights = np.column_stack([before[inliers], np.ones(np.count_nonzero(inliers))])
    poses = []
    for rotation, translation, normal in zip(rotations, translations, normals, strict=True):
        length = float(np.linalg.norm(translation))
        if (
            length > 1e-6 and np.mean(sights @ normal > 0.0) > _PLANE_SHARE
        ):  # in front of the camera
            poses.append(_transform(rotation, translation / length))
    return poses


def triangulate(
    first: Transform,
    second: Transform,
    first_rays: Float64Array,
    second_rays: Float64Array,
    tolerance: float | Float64Array,
    least_parallax: float,
) -> tuple[Float64Array, BoolArray]:
    """Points N×3 (world) from two cameras (camera_from_world), and which of them are valid.

    Either camera may be N cameras, one for each point. Valid points lie in front of both cameras,
    reproject within ``tolerance`` (one, or 2×N) and are seen under an angle of at least
    ``least_parallax`` radians.
    """
    if len(first_rays) == 0:
        return np.zeros((0, 3)), np.zeros(0, bool)
    one, other = (_lines(*seen) for seen in ((first, first_rays), (second, second_rays)))
    _, _, right = np.linalg.svd(np.concatenate([one, other], axis=1))
    homogeneous = right[:, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        points = homogeneous[:, :3] / homogeneous[:, 3:]
    finite = np.isfinite(points).all(1)
    points = np.where(finite[:, None], points, 0.0)
    good = finite & (parallax(first, second, points) > least_parallax)
    limits = np.broadcast_to(tolerance, (2, len(points)))
    for camera, rays, limit in zip((first, second), (first_rays, second_rays), limits, strict=True):
        good &= reprojection_errors(camera, points, rays) < limit
    return points, good


def parallax(first: Transform, second: Transform, points: Float64Array) -> Float64Array:
    """Angle N in radians between the two cameras' lines of sight to each point."""
    sights = [points - camera.inverse().translation for camera in (first, second)]
    lengths = [np.linalg.norm(sight, axis=1) for sight in sights]
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = (sights[0] * sights[1]).sum(1) / (lengths[0] * lengths[1])
    return np.asarray(np.arccos(np.clip(np.nan_to_num(cosines, nan=1.0), -1.0, 1.0)))


def _lines(camera: Transform, rays: Float64Array) -> Float64Array:
    """N×2×4: two planes through each ray of a camera, in which its homogeneous point lies."""
    matrix = np.concatenate([camera.rotation, camera.translation[..., None]], axis=-1)
    return np.asarray(rays[:, :, None] * matrix[..., 2:, :] - matrix[..., :2, :])


def _transform(turn: Any, shift: Any) -> Transform:
    """From OpenCV's rotation vector or matrix, and translation."""
    rotation = cv2.Rodrigues(turn)[0] if turn.size == 3 else turn
    return Transform(np.asarray(rotation, np.float64), np.asarray(shift, np.float64).ravel())
