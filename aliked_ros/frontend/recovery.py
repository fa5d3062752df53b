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

"""Lost tracks get their ids back: what an image shows anew is looked for in recent keyframes.

While some tracks go on, they tell where a lost one has to reappear, and its descriptor has to be
the most similar near there. Where nothing goes on (darkness, blur, a jump), keyframes are matched
as a whole and verified. (To match every new keyframe so finds no more, and takes LightGlue 50 ms.)
"""

from __future__ import annotations

from collections.abc import Reversible

import cv2
import numpy as np
from scipy.spatial import cKDTree

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.keyframes import sees, shared_rows
from aliked_ros.frontend.matcher import Matcher
from aliked_ros.frontend.similarity import mutual_best_of
from aliked_ros.frontend.verification import MIN_MATCHES, Verifier
from aliked_ros.types import Features, Float32Array, IntArray, Keyframe, UInt64Array

_ATTEMPTS = 3  # keyframes that are looked into, newest first
_NEIGHBOURS = 3  # tracks that tell where a lost one near them is expected
_RADIUS = 0.0125  # of the image's longer side, around that place
_ENOUGH = 150  # tracks for a first guess
_LEAST_COSINE = 0.8  # where the place is known only so well


class Recovery:
    """Finds lost tracks of recent keyframes again."""

    def __init__(self, config: FrontendConfig, matcher: Matcher, verifier: Verifier) -> None:
        self._config = config
        self._matcher, self._verifier = matcher, verifier

    def recover(
        self,
        features: Features,
        ids: UInt64Array,
        keyframes: Reversible[Keyframe],
        camera: CameraModel | None,
        whole: bool,
    ) -> UInt64Array:
        """``ids`` (N, 0 = none) with lost ids at rows that had none.

        whole: match whole keyframes, until one of them fits.
        """
        if not self._config.recover_tracks or not sees(features, self._config):
            return ids
        ids = ids.copy()
        for keyframe, _ in zip(reversed(keyframes), range(_ATTEMPTS), strict=False):
            if whole:
                whole = not self._match_whole(features, ids, keyframe, camera)
            self._find_near_tracks(features, ids, keyframe)
        return ids

    def reconfigure(self, config: FrontendConfig) -> None:
        """Take over the thresholds of ``config``; matcher and verifier are their owner's."""
        self._config = config

    def _match_whole(
        self,
        features: Features,
        ids: UInt64Array,
        keyframe: Keyframe,
        camera: CameraModel | None,
    ) -> bool:
        matches = self._matcher.match(keyframe.features, features)
        matches = self._verifier.verify(keyframe.features, features, matches, camera)
        inliers = matches.inliers
        if inliers is None or np.count_nonzero(inliers) < MIN_MATCHES:
            return False
        rows = matches.current_indices[inliers].astype(np.int64)
        keyframe_rows = matches.reference_indices[inliers].astype(np.int64)
        _give(ids, rows, keyframe.tracks.ids[keyframe_rows])
        return True

    def _find_near_tracks(self, features: Features, ids: UInt64Array, keyframe: Keyframe) -> None:
        seen, seen_before = shared_rows(ids, keyframe.tracks.ids)
        lost = np.setdiff1d(np.arange(len(keyframe.tracks.ids)), seen_before, assume_unique=True)
        new = np.flatnonzero(ids == 0)
        if len(seen) < MIN_MATCHES or len(lost) == 0 or len(new) == 0:
            return
        before = keyframe.features.keypoints
        expected = _expected(before[seen_before], features.keypoints[seen], before[lost])
        radius = _RADIUS * max(features.width, features.height)
        near = cKDTree(expected).sparse_distance_matrix(
            cKDTree(features.keypoints[new]), radius, output_type="ndarray"
        )
        found, rows = mutual_best_of(
            keyframe.features.descriptors[lost],
            features.descriptors[new],
            near["i"],
            near["j"],
            _LEAST_COSINE,
        )
        _give(ids, new[rows], keyframe.tracks.ids[lost[found]])


def _expected(before: Float32Array, now: Float32Array, lost: Float32Array) -> Float32Array:
    """Where points ``lost`` (M×2) of a keyframe are expected, by tracks seen then and now (N×2).

    A homography carries them across holes, the nearest tracks correct it for their depth.
    """
    some = slice(None, None, 1 + len(before) // _ENOUGH)
    plane, _ = cv2.findHomography(before[some], now[some])  # the tracks are verified: least squares
    if plane is None:
        plane = np.eye(3)
    carried, known = (cv2.perspectiveTransform(p[:, None], plane)[:, 0] for p in (lost, before))
    _, neighbours = cKDTree(before).query(lost, k=_NEIGHBOURS)
    corrected = carried + np.median((now - known)[neighbours], axis=1)
    return np.asarray(np.nan_to_num(corrected), np.float32)  # beyond the plane's horizon: nowhere


def _give(ids: UInt64Array, rows: IntArray, lost: UInt64Array) -> None:
    """Set lost ids at rows that have none, unless another row has that id."""
    free = (ids[rows] == 0) & ~np.isin(lost, ids)
    ids[rows[free]] = lost[free]
