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

While some tracks go on, they predict where a lost one reappears. A keypoint there is a candidate if
it agrees with the camera's motion since the keyframe, as well as that is known there: less well far
from the tracks that go on. Of the candidates, the most similar descriptor wins, and its patch has
to align with the keyframe's: a similar descriptor alone is often a neighbour some pixels away.
Where nothing goes on (darkness, blur, a jump), keyframes are matched as a whole and verified.
(Matching every new keyframe this way finds no more, and LightGlue takes 50 ms.)

With optical flow, lost tracks are found that are not detected again, too: ``follow``.

A track that disagrees with the motion since a keyframe that shows it ends: it has drifted to
another point, or was recovered wrongly. So the next image confirms a recovery, or takes it back.
"""

from __future__ import annotations

from collections.abc import Callable, Reversible
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.spatial import cKDTree

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.flow import follow
from aliked_ros.frontend.keyframes import sees, shared_rows
from aliked_ros.frontend.matcher import TurnMatcher
from aliked_ros.frontend.prediction import Turn
from aliked_ros.frontend.similarity import mutual_best_of
from aliked_ros.frontend.verification import MIN_MATCHES, MOST, TwoViews, Verifier
from aliked_ros.types import (
    BoolArray,
    Features,
    Float32Array,
    Float64Array,
    IntArray,
    Keyframe,
    UInt8Array,
    UInt64Array,
)

_ATTEMPTS = 4  # keyframes that are looked into, newest first
_NEIGHBOURS = 3  # tracks that predict where a lost one near them is
_RADIUS = 0.0125  # of the image's longer side, around that place
_LEAST_COSINE = 0.8  # where the place is known only so well
_STRICT = 0.75  # of the inlier threshold, since a keyframe: errors from image to image add up
_MANY = 1.25  # times the tracks, with what came back: it is looked for again
_PATCH = 17  # pixels
_ALIGNED = 1.25  # pixels between a keypoint and where its patch of the keyframe fits best


class Recovery:
    """Finds lost tracks of recent keyframes again, and ends those that contradict one."""

    def __init__(self, config: FrontendConfig, matcher: TurnMatcher, verifier: Verifier) -> None:
        self._config = config
        self._matcher, self._verifier = matcher, verifier

    def recover(
        self,
        features: Features,
        ids: UInt64Array,
        keyframes: Reversible[Keyframe],
        camera: CameraModel | None,
        whole: bool,
        picture: UInt8Array | None = None,
        normalized: Float32Array | None = None,
        turn_since: Callable[[int], Turn | None] = lambda _index: None,
    ) -> UInt64Array:
        """``ids`` (N, 0 = none) with lost ids at rows that had none.

        A row whose track contradicts a keyframe has 0, unless its id proves itself again.

        whole: match whole keyframes, until one of them fits. picture: the image by ``smooth``;
        without it, patches are not compared. normalized: of ``features`` by ``camera``, where
        known. turn_since: how the camera turned since the image of a number.
        """
        if not self._config.recover_tracks or not sees(features, self._config):
            return ids
        ids = ids.copy()
        here = undistorted(features.keypoints, camera, normalized)
        newest = _newest(keyframes)
        ends = self._config.verification != "none" and not whole
        for keyframe in newest:
            if whole:
                turn = turn_since(keyframe.index)
                whole = not self._match_whole(features, ids, keyframe, camera, turn)
        views = self._views(newest, ids, here, camera, ends)
        tracked = np.count_nonzero(ids)
        self._find_near_tracks(views, features, ids, here, picture)
        if np.count_nonzero(ids) > _MANY * tracked:  # they tell the motion better
            views = self._views(newest, ids, here, camera, ends)
            self._find_near_tracks(views, features, ids, here, picture)
        return ids

    def follow(
        self,
        ids: UInt64Array,
        points: Float32Array,
        keyframes: Reversible[Keyframe],
        camera: CameraModel | None,
        picture: UInt8Array,
        ended: UInt64Array,
    ) -> list[Followed]:
        """Lost tracks that optical flow finds from recent keyframes, where the motion is known.

        ids: N, of the tracks that the image has, ``recover``'s among them. points: N×2, theirs, in
        pixels. picture: the image by ``smooth``. ended: ids of tracks that must not come back.
        """
        if not self._config.recover_tracks:
            return []
        here = undistorted(points, camera, None)
        sought, found = np.concatenate([ids, ended]), []
        for view in self._views(_newest(keyframes), ids, here, camera, ends=False):
            known = view.keyframe.tracks.ids
            lost = np.flatnonzero((known != 0) & ~np.isin(known, sought))
            sought = np.concatenate([sought, known[lost]])
            if view.keyframe.picture is not None and len(lost):
                found.append(view.follow(view.keyframe.picture, picture, lost, camera))
        return found

    def reconfigure(self, config: FrontendConfig) -> None:
        """Take over the thresholds of ``config``; matcher and verifier are their owner's."""
        self._config = config

    def _match_whole(
        self,
        features: Features,
        ids: UInt64Array,
        keyframe: Keyframe,
        camera: CameraModel | None,
        turn: Turn | None,
    ) -> bool:
        matches = self._matcher.match(keyframe.features, features, turn=turn)
        # not refined: right matches across a gap are unlikely too; the next image checks them
        matches = self._verifier.verify(keyframe.features, features, matches, camera, refine=False)
        inliers = matches.inliers
        if inliers is None or np.count_nonzero(inliers) < MIN_MATCHES:
            return False
        rows = matches.current_indices[inliers].astype(np.int64)
        keyframe_rows = matches.reference_indices[inliers].astype(np.int64)
        give(ids, rows, keyframe.tracks.ids[keyframe_rows])
        return True

    def _views(
        self,
        keyframes: list[Keyframe],
        ids: UInt64Array,
        here: Float64Array,
        camera: CameraModel | None,
        ends: bool,
    ) -> list[_View]:
        """Keyframes since which the motion is known; ends: set contradicting ids to 0."""
        gate = _STRICT * self._config.inlier_threshold
        views = []
        for keyframe in keyframes:
            there = undistorted(keyframe.features.keypoints, camera, keyframe.normalized)
            if (view := _View.of(keyframe, ids, there, here, gate)) is not None:
                views.append(view)
                if ends:
                    ids[view.contradicting] = 0
        return views

    @staticmethod
    def _find_near_tracks(
        views: list[_View],
        features: Features,
        ids: UInt64Array,
        here: Float64Array,
        picture: UInt8Array | None,
    ) -> None:
        sought = ids[ids != 0]  # once each, in the newest keyframe that has it: the most similar
        for view in views:
            known = view.keyframe.tracks.ids
            lost = np.flatnonzero(known)
            lost = lost[~np.isin(known[lost], sought, assume_unique=True)]
            sought = np.concatenate([sought, known[lost]])
            rows, lost = view.candidates(features, here, ids, lost)
            if picture is not None and view.keyframe.picture is not None:
                keypoints = view.keyframe.features.keypoints[lost]
                good = aligned(view.keyframe.picture, picture, keypoints, features.keypoints[rows])
                rows, lost = rows[good], lost[good]
            give(ids, rows, known[lost])


@dataclass(frozen=True, slots=True)
class Followed:
    """Tracks of a keyframe that optical flow found in a later image.

    rows: K, of the keyframe. points: K×2 float32, pixels. covariances: K×2×2, pixels², of the way
    there.
    """

    keyframe: Keyframe
    rows: IntArray
    points: Float32Array
    covariances: Float64Array


@dataclass(frozen=True, slots=True)
class _View:
    """A keyframe as seen from the current image.

    there: N×2, its keypoints, undistorted. motion: since then. gate: pixels, largest distance of a
        point that agrees with it.
    seen: K, rows of the keyframe whose tracks are in the image and agree. moved: K×2, their
        displacements less those of the motion's plane.
    contradicting: rows of the image whose tracks do not agree.
    """

    keyframe: Keyframe
    there: Float64Array
    motion: TwoViews
    gate: float
    seen: IntArray
    moved: Float64Array
    contradicting: IntArray

    @classmethod
    def of(
        cls,
        keyframe: Keyframe,
        ids: UInt64Array,
        there: Float64Array,
        here: Float64Array,
        gate: float,
    ) -> _View | None:
        """None where too few tracks are in both images, or they agree with no motion."""
        rows, seen = shared_rows(ids, keyframe.tracks.ids)
        known = np.isfinite(here[rows]).all(1) & np.isfinite(there[seen]).all(1)
        rows, seen = rows[known], seen[known]
        if len(seen) < MIN_MATCHES:
            return None
        motion = TwoViews.of(there[seen], here[rows], gate)
        good = motion.errors(there[seen], here[rows]) < gate
        if np.count_nonzero(good) < max(MIN_MATCHES, MOST * len(seen)):
            return None
        moved = here[rows[good]] - motion.carried(there[seen[good]])
        return cls(keyframe, there, motion, gate, seen[good], moved, rows[~good])

    def candidates(
        self, features: Features, here: Float64Array, ids: UInt64Array, lost: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Rows of the image that may show tracks at rows ``lost`` of the keyframe, and those."""
        lost = lost[np.isfinite(self.there[lost]).all(1)]
        new = np.flatnonzero((ids == 0) & np.isfinite(here).all(1))
        if len(lost) == 0 or len(new) == 0:
            return new[:0], lost[:0]
        # the plane carries them across holes, the nearest tracks correct it for their depth
        carried = self.motion.carried(self.there[lost])
        radius = _RADIUS * max(features.width, features.height)
        room = radius + np.abs(self.moved).max(0)
        inside = ((carried > here[new].min(0) - room) & (carried < here[new].max(0) + room)).all(1)
        lost, carried = lost[inside], carried[inside]
        if len(lost) == 0:
            return new[:0], lost
        near = cKDTree(carried + self._beyond_plane(lost)).sparse_distance_matrix(
            cKDTree(here[new]), radius, output_type="ndarray"
        )
        lost, new = lost[near["i"]], new[near["j"]]
        agree = self._agree(self.there[lost], here[new])
        found, rows = mutual_best_of(
            self.keyframe.features.descriptors,
            features.descriptors,
            lost[agree],
            new[agree],
            _LEAST_COSINE,
        )
        return rows, found

    def follow(
        self, before: UInt8Array, now: UInt8Array, lost: IntArray, camera: CameraModel | None
    ) -> Followed:
        """The tracks at rows ``lost`` of the keyframe that flow finds; pictures by ``smooth``."""
        lost = lost[np.isfinite(self.there[lost]).all(1)]
        expected = self.motion.carried(self.there[lost]) + self._beyond_plane(lost)
        guess = distorted(expected, camera)
        inside = ((guess > 0) & (guess < np.array(now.shape[::-1]) - 1)).all(1)
        lost, guess, expected = lost[inside], guess[inside], expected[inside]
        flow = follow(before, now, self.keyframe.features.keypoints[lost], guess)
        here = undistorted(flow.points, camera, None)
        found = flow.found & np.isfinite(here).all(1)
        found &= np.linalg.norm(here - expected, axis=1) < _RADIUS * max(now.shape)
        found[found] = self._agree(self.there[lost[found]], here[found])
        return Followed(self.keyframe, lost[found], flow.points[found], flow.covariances[found])

    def _beyond_plane(self, lost: IntArray) -> Float64Array:
        """By how much the nearest tracks at rows ``lost`` miss the plane: K×2, their median."""
        _, nearest = cKDTree(self.there[self.seen]).query(self.there[lost], k=_NEIGHBOURS)
        return np.asarray(np.sort(self.moved[nearest], axis=1)[:, _NEIGHBOURS // 2])

    def _agree(self, then: Float64Array, now: Float64Array) -> BoolArray:
        """Which points N×2 that were not fitted agree with the motion."""
        return np.asarray(
            self.motion.errors(then, now) < self.gate * self.motion.widening(then, now)
        )


def _newest(keyframes: Reversible[Keyframe]) -> list[Keyframe]:
    """Those that are looked into."""
    return [keyframe for keyframe, _ in zip(reversed(keyframes), range(_ATTEMPTS), strict=False)]


def smooth(grey: UInt8Array) -> UInt8Array:
    """A grey image H×W as ``aligned`` needs it."""
    return np.asarray(cv2.GaussianBlur(grey, (7, 7), 1.5))


def aligned(
    before: UInt8Array, now: UInt8Array, there: Float32Array, here: Float32Array
) -> BoolArray:
    """Which points N×2 of two images by ``smooth`` show one patch: it fits best where they are.

    One step of Lucas and Kanade tells how far the best fit is, as long as it is near.
    """
    first, offset = _patches(before, there)
    second, offset_now = _patches(now, here)
    mean = (first + second) / 2
    shape = (len(first), (_PATCH - 2) ** 2)
    dx = ((mean[:, 1:-1, 2:] - mean[:, 1:-1, :-2]) / 2).reshape(shape)
    dy = ((mean[:, 2:, 1:-1] - mean[:, :-2, 1:-1]) / 2).reshape(shape)
    change = (first - second)[:, 1:-1, 1:-1].reshape(shape)
    change -= change.mean(1, keepdims=True)  # of brightness
    xx, xy, yy, x, y = (
        np.einsum("ij,ij->i", a, b)
        for a, b in ((dx, dx), (dx, dy), (dy, dy), (dx, change), (dy, change))
    )
    fit = np.stack([yy * x - xy * y, xx * y - xy * x], 1)
    fit /= np.maximum(xx * yy - xy * xy, 1e-6)[:, None]
    return np.asarray(np.linalg.norm(fit - (offset_now - offset), axis=1) < _ALIGNED)


def _patches(picture: UInt8Array, points: Float32Array) -> tuple[Float32Array, Float32Array]:
    """N×17×17 around points, and the points in them."""
    room = np.array(picture.shape[::-1]) - _PATCH
    corners = np.clip(np.rint(points).astype(np.intp) - _PATCH // 2, 0, room)
    windows = sliding_window_view(picture, (_PATCH, _PATCH))
    patches = windows[corners[:, 1], corners[:, 0]].astype(np.float32)
    return patches, (points - corners).astype(np.float32)


def undistorted(
    keypoints: Float32Array, camera: CameraModel | None, normalized: Float32Array | None
) -> Float64Array:
    """Pixels of an ideal pinhole with the camera's focal length; without one, as they are."""
    if camera is None:
        return keypoints.astype(np.float64)
    rays = camera.normalize(keypoints) if normalized is None else normalized
    return rays.astype(np.float64) * float(np.sqrt(camera.matrix[0, 0] * camera.matrix[1, 1]))


def distorted(points: Float64Array, camera: CameraModel | None) -> Float32Array:
    """Pixels of the image; the inverse of ``undistorted``. Not finite far outside the image."""
    if camera is None:
        return points.astype(np.float32)
    rays = points / float(np.sqrt(camera.matrix[0, 0] * camera.matrix[1, 1]))
    with np.errstate(all="ignore"):
        return camera.project(rays.astype(np.float32))


def give(ids: UInt64Array, rows: IntArray, lost: UInt64Array) -> None:
    """Set ids of lost tracks (0 = none) at rows without one, unless another row has that id."""
    free = (ids[rows] == 0) & (lost != 0)
    rows, lost = rows[free], lost[free]
    absent = ~np.isin(lost, ids[ids != 0], assume_unique=True)
    ids[rows[absent]] = lost[absent]
