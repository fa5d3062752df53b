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

"""Where an image was taken: its matches with recent keyframes, and the pose relative to each."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike

from aliked_ros.camera import CameraModel
from aliked_ros.frontend.matcher import Matcher
from aliked_ros.frontend.verification import MIN_MATCHES, Verifier
from aliked_ros.types import (
    Candidate,
    Features,
    Float32Array,
    Float64Array,
    Keyframe,
    Matches,
    Pose,
)

_THRESHOLD = 1.5  # pixels; the matches are verified already
_ITERATIONS = 300
_LEAST_PARALLAX = 3.0  # pixels; below it the direction of motion is noise
_EYE, _NO_DISTORTION = np.eye(3), np.zeros(4)


def find_candidate(
    features: Features,
    keyframe: Keyframe,
    camera: CameraModel | None,
    matcher: Matcher,
    verifier: Verifier,
    same_camera: bool = True,
) -> Candidate | None:
    """What an image shares with a keyframe; None with too few verified matches.

    The pose needs a camera model that fits the image, and a keyframe that was calibrated, or that
    is of the same camera.
    """
    rays, pixel = None, 1.0
    if camera is not None and camera.fits(features.width, features.height):
        there = keyframe.normalized
        if (
            there is None
            and same_camera
            and camera.fits(keyframe.features.width, keyframe.features.height)
        ):
            there = camera.normalize(keyframe.features.keypoints)  # taken before it was known
        if there is not None:
            rays = (there, camera.normalize(features.keypoints))
            pixel = 1.0 / float(camera.matrix[0, 0])
    matches = matcher.match(keyframe.features, features)
    known = camera if rays is not None else None
    matches = verifier.verify(keyframe.features, features, matches, known, rays)
    if matches.inlier_count < MIN_MATCHES:
        return None
    pose = None if rays is None else _pose(keyframe, rays, matches, pixel)
    return Candidate(keyframe, matches, pose)


def _pose(
    keyframe: Keyframe, rays: tuple[Float32Array, Float32Array], matches: Matches, pixel: float
) -> Pose | None:
    """Pose of the image's camera in the keyframe's frame: metric by depth, else up to scale."""
    there = rays[0][matches.reference_indices[matches.inliers]].astype(np.float64)
    here = rays[1][matches.current_indices[matches.inliers]].astype(np.float64)
    known = np.isfinite(there).all(1) & np.isfinite(here).all(1)
    if keyframe.depth is not None:
        depth = keyframe.depth[matches.reference_indices[matches.inliers]].astype(np.float64)
        solid = known & np.isfinite(depth)
        if np.count_nonzero(solid) >= MIN_MATCHES:
            points = _on_plane(there[solid]) * depth[solid, None]
            return _metric(points, here[solid], pixel)
    return _up_to_scale(there[known], here[known], pixel)


def _metric(points: Float64Array, here: Float64Array, pixel: float) -> Pose | None:
    good, turn, shift, rows = cv2.solvePnPRansac(
        points,
        here,
        _EYE,
        _NO_DISTORTION,
        iterationsCount=_ITERATIONS,
        reprojectionError=_THRESHOLD * pixel,
        flags=cv2.SOLVEPNP_SQPNP,
    )
    if not good or len(rows) < MIN_MATCHES:
        return None
    rows = rows.ravel()
    turn, shift = cv2.solvePnPRefineLM(points[rows], here[rows], _EYE, _NO_DISTORTION, turn, shift)
    return _inverse(cv2.Rodrigues(turn)[0], shift, metric=True)


def _up_to_scale(there: Float64Array, here: Float64Array, pixel: float) -> Pose | None:
    if len(there) < MIN_MATCHES:
        return None
    essential, mask = cv2.findEssentialMat(
        there, here, _EYE, cv2.USAC_MAGSAC, 0.999, _THRESHOLD * pixel, _ITERATIONS
    )
    if essential is None or essential.shape != (3, 3):
        return None
    _, rotation, shift, mask = cv2.recoverPose(essential, there, here, _EYE, mask=mask)
    kept = mask.ravel() != 0
    if np.count_nonzero(kept) < MIN_MATCHES:
        return None
    turned = _on_plane(there[kept]) @ np.asarray(rotation, np.float64).T
    parallax = np.linalg.norm(turned[:, :2] / turned[:, 2:] - here[kept], axis=1)
    if np.median(parallax) < _LEAST_PARALLAX * pixel:  # it only turned
        return None
    return _inverse(rotation, shift, metric=False)


def _on_plane(rays: Float64Array) -> Float64Array:
    """N×2 → N×3 with z = 1."""
    return np.column_stack([rays, np.ones(len(rays))])


def _inverse(rotation: ArrayLike, translation: ArrayLike, metric: bool) -> Pose:
    back = np.asarray(rotation, np.float64).T
    return Pose(back, -back @ np.asarray(translation, np.float64).ravel(), metric)
