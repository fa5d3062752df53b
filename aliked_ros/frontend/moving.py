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

"""Moving objects: points that move alike, but not with the camera.

A wrong match disagrees with the camera's motion once, at a place of its own. A moving object does
so in image after image, and its points move like their neighbours. Both are required here, over two
spans of images in a row: a pattern that is matched one period off jumps in one of them only.

Candidates are groups of points off the scene's plane. A group at another depth is off it, too; so
an epipolar geometry, fitted to all others, has to exclude the group. In a nearly flat scene that
fit is not to be trusted alone: the verified matches have to exclude the group, too.

Two views do not tell every motion: along its epipolar line, a moving point looks like one at
another depth. Where the camera moves too little for epipolar lines, a point is taken as moving if,
at rest, it would have to be far nearer than the rest of the scene.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.keyframes import shared_rows
from aliked_ros.frontend.verification import MIN_MATCHES, TwoViews
from aliked_ros.types import (
    BoolArray,
    Float64Array,
    FrameResult,
    IntArray,
    Matches,
    Tracks,
    UInt32Array,
    UInt64Array,
)

T = TypeVar("T", bound=np.generic)

SPAN = 2  # images over which a motion is compared with the camera's
_LEAST = 8  # points of an object
_NEIGHBOURS = 6  # nearest points, of which
_ALIKE = 3  # move alike, around each point of an object
_REACH = 0.1  # of the image's longer side: neighbours are nearer
_STRETCH = 0.1  # of their distance: by how much neighbours of one object may move apart
_NEARER = 10.0  # times nearer than the scene: no point at rest is
_ENOUGH = 200  # points for a plane by least squares
_SIGMAS = 3.0  # standard deviations that a point may be off
_CONFIRMED = SPAN + 1  # images in which an object is found before it counts: more than a jump
LATENCY = 2 * SPAN + _CONFIRMED  # images in which a point is seen before its object counts
_KEPT = 2 * SPAN  # images that a point stays with its object without being found to move


@dataclass(frozen=True, slots=True)
class _Moment:
    """N points of an image.

    chains: uint64, which point it is, from image to image. points: N×2 float64, pixels. agreed: N,
    images in a row in which it agreed with the camera's motion. off_plane: N×2, pixels from where
    the scene's plane had it, by the motion since SPAN images before; NaN = unknown. objects: N,
    numbers of their objects, confirmed or not; 0 = none. since: N, images since the point was last
    found to move with its object.
    """

    chains: UInt64Array
    points: Float64Array
    agreed: IntArray
    off_plane: Float64Array
    objects: UInt32Array
    since: IntArray


class MovingObjects:
    """Groups of points that do not move with the camera, from image to image."""

    def __init__(self, config: FrontendConfig) -> None:
        self._config = config
        self.reset()

    def reset(self) -> None:
        """Forget all objects; their numbers restart."""
        self._next_chain = self._next_object = 1
        self._forget()

    def _forget(self) -> None:
        self._past: deque[_Moment] = deque(maxlen=SPAN)
        self._found: Counter[int] = Counter()  # images in which an object was found

    def reconfigure(self, config: FrontendConfig) -> None:
        """Take over the setting and the threshold of ``config``."""
        self._config = config
        if not self.wanted:
            self._forget()

    @property
    def wanted(self) -> bool:
        """Whether moving objects are looked for."""
        return self._config.moving_objects != "ignore"

    @property
    def dropped(self) -> bool:
        """Whether their points are left out of the results."""
        return self._config.moving_objects == "drop"

    def update(
        self,
        chains: UInt64Array,
        points: Float64Array,
        agreeing: BoolArray,
        size: tuple[int, int],
        deviations: Float64Array | None = None,
    ) -> tuple[UInt64Array, UInt32Array]:
        """The N points of the next image: their chains, none 0, and their objects, 0 = at rest.

        chains: of those that continue, 0 = a point begins. points: N×2, pixels of an ideal pinhole
        where the lens is known. agreeing: whether they continue and agree with the camera's motion
        since the image before. size: width and height of the image. deviations: N, standard
        deviations of the points in pixels; None = small beside the inlier threshold.
        """
        chains = chains.copy()
        begun = chains == 0
        count = int(np.count_nonzero(begun))
        chains[begun] = np.arange(self._next_chain, self._next_chain + count)
        self._next_chain += count
        now = _Moment(
            chains, points, np.zeros(len(chains), np.int64), np.full((len(chains), 2), np.nan),
            np.zeros(len(chains), np.uint32), np.zeros(len(chains), np.int64),
        )  # fmt: skip
        step = np.full((len(chains), 2), np.nan)
        if self._past:
            last = self._past[-1]
            rows, there = shared_rows(chains, last.chains)
            step[rows] = points[rows] - last.points[there]
            now.agreed[rows] = np.where(agreeing[rows], last.agreed[there] + 1, 0)
            now.objects[rows], now.since[rows] = last.objects[there], last.since[there] + 1
        if len(self._past) == SPAN:
            noise = np.zeros(len(chains)) if deviations is None else deviations
            self._find(now, self._past[0], noise, _REACH * max(size))
            self._join(now, step, ~agreeing, _REACH * max(size))
        now.objects[now.since > _KEPT] = 0
        self._past.append(now)
        counted = np.isin(now.objects, self._confirmed)
        return chains, np.where(counted, now.objects, np.uint32(0))

    @property
    def _confirmed(self) -> list[int]:
        """Numbers of the objects that count."""
        return [number for number, times in self._found.items() if times >= _CONFIRMED]

    def _find(self, now: _Moment, then: _Moment, noise: Float64Array, reach: float) -> None:
        """Number the points of objects: what the motion of all others does not explain."""
        rows, there = shared_rows(now.chains, then.chains)
        known = np.isfinite(now.points[rows]).all(1) & np.isfinite(then.points[there]).all(1)
        rows, there = rows[known], there[known]
        before, after = then.points[there], now.points[rows]
        rest = (now.agreed[rows] >= SPAN) & (now.objects[rows] == 0)
        known_moving = np.isin(now.objects, self._confirmed)
        if np.count_nonzero(rest) < MIN_MATCHES:
            return
        now.off_plane[rows] = after - _plane(before, after, rest)
        gate = self._config.inlier_threshold + _SIGMAS * noise[rows]
        beyond = [
            np.linalg.norm(one, axis=1) for one in (now.off_plane[rows], then.off_plane[there])
        ]
        moving = np.flatnonzero((beyond[0] > gate) & (beyond[1] > gate))  # NaN is not
        motions = np.column_stack([now.off_plane[rows], then.off_plane[there]])[moving]
        groups = _groups(after[moving], motions, reach, self._config.inlier_threshold)
        nearest = gate + _NEARER * np.median(np.linalg.norm((after - before)[rest], axis=1))
        found = []
        for group in (moving[g] for g in groups):
            off = beyond[0][group] > nearest[group]
            # a motion fitted to few depths is wrong elsewhere: to begin, an object disagrees with
            # the verified one too, which may be a single one for it and the scene
            sure = off | (now.agreed[rows[group]] < SPAN) | known_moving[rows[group]]
            if np.count_nonzero(sure) < _LEAST:
                continue
            distance, _ = cKDTree(after[group]).query(after)
            others = rest & (distance > reach)  # what moves with it would explain it
            if np.count_nonzero(others) >= MIN_MATCHES:
                motion = TwoViews.of(before[others], after[others], self._config.inlier_threshold)
                views = before[group], after[group]
                off |= motion.errors(*views) > gate[group] * motion.widening(*views)
            if np.count_nonzero(off & sure) >= _LEAST:
                found.append(rows[group[off]])
        self._number(now, found)

    def _number(self, now: _Moment, found: list[IntArray]) -> None:
        """Give the rows of each object the number that most of them had, or a new one."""
        taken: set[int] = set()
        for members in sorted(found, key=len, reverse=True):
            votes = Counter(now.objects[members].tolist())
            number = next((n for n, _ in votes.most_common() if n and n not in taken), 0)
            if number == 0:
                number, self._next_object = self._next_object, self._next_object + 1
            taken.add(number)
            self._found[number] += 1
            now.objects[members], now.since[members] = number, 0
        alive = set(now.objects.tolist())
        self._found = Counter({n: times for n, times in self._found.items() if n in alive})

    def _join(self, now: _Moment, step: Float64Array, disagreeing: BoolArray, reach: float) -> None:
        """Add points that moved since the last image like an object around them."""
        known = np.isfinite(step).all(1)
        members = np.flatnonzero(known & (now.objects != 0) & (now.since == 0))
        others = np.flatnonzero(known & disagreeing & (now.since + (now.objects == 0) > 0))
        if len(members) < _LEAST or len(others) == 0:
            return
        distances, near = cKDTree(now.points[members]).query(
            now.points[others], k=_NEIGHBOURS, distance_upper_bound=reach
        )
        alike = _alike(
            step[others],
            np.vstack([step[members], np.full(2, np.inf)]),
            distances,
            near,
            self._config.inlier_threshold / SPAN,
        )
        joining = alike.sum(1) >= _ALIKE
        nearest = near[np.arange(len(others)), alike.argmax(1)][joining]
        now.objects[others[joining]] = now.objects[members[nearest]]
        now.since[others[joining]] = 0


def _plane(before: Float64Array, after: Float64Array, rest: BoolArray) -> Float64Array:
    """Where points N×2 would be if all were on the plane that fits most of those at rest."""
    kept = np.flatnonzero(rest)
    there: Float64Array = before
    for _ in range(2):
        some = kept[:: 1 + len(kept) // _ENOUGH]
        found, _ = cv2.findHomography(before[some], after[some])
        plane = np.eye(3) if found is None else np.asarray(found, np.float64)
        there = np.asarray(cv2.perspectiveTransform(before[:, None], plane)[:, 0], np.float64)
        errors = np.linalg.norm(after[kept] - there[kept], axis=1)
        kept = kept[errors <= 2 * np.median(errors)]
    return there


def _groups(
    points: Float64Array, motions: Float64Array, reach: float, tolerance: float
) -> list[IntArray]:
    """Rows of points N×2 that are near each other and move alike; motions: N×M."""
    if len(points) < _LEAST:
        return []
    distances, near = cKDTree(points).query(points, k=_NEIGHBOURS + 1, distance_upper_bound=reach)
    distances, near = distances[:, 1:], near[:, 1:]
    padded = np.vstack([motions, np.full(motions.shape[1], np.inf)])
    alike = _alike(motions, padded, distances, near, tolerance)
    inner = alike.sum(1) >= _ALIKE
    first, column = np.nonzero(alike & inner[:, None])
    second = near[first, column]
    both = inner[second]
    edges = coo_array((np.ones(both.sum()), (first[both], second[both])), (len(points),) * 2)
    _, labels = connected_components(edges, directed=False)
    sizes = np.bincount(labels[inner], minlength=1)
    return [np.flatnonzero(inner & (labels == n)) for n in np.flatnonzero(sizes >= _LEAST)]


def _alike(
    motions: Float64Array,
    others: Float64Array,
    distances: Float64Array,
    near: IntArray,
    tolerance: float,
) -> BoolArray:
    """N×K, which neighbours move like their point.

    motions: N×M, pixels, x and y of each span. others: of the neighbours, with a row of infinity
    where ``near`` (N×K) has none.
    """
    apart = (others[near] - motions[:, None]).reshape(*near.shape, -1, 2)
    reach = np.where(np.isfinite(distances), tolerance + _STRETCH * distances, 0.0)
    return np.asarray((np.linalg.norm(apart, axis=3) <= reach[..., None]).all(2))


def separate(
    ids: UInt64Array,
    chained: UInt64Array,
    objects: UInt32Array,
    matches: Matches,
    before: Tracks | None,
) -> tuple[UInt64Array, UInt64Array, Matches]:
    """What the objects of an image mean to its tracks.

    ids: N, of the tracks that agree with the camera's motion, 0 = none. chained: N, of all that are
    matched. objects: N. before: the reference image's tracks.

    Returns N ids of the scene's tracks and N of the objects', 0 = none, and the matches, of which
    those of objects are no inliers. An id is the scene's or an object's for good.
    """
    moving = objects != 0
    moved = np.zeros(len(ids), bool)
    if before is not None and before.objects is not None:
        moved[matches.current_indices] = before.objects[matches.reference_indices] != 0
    if matches.inliers is not None and (moving | moved).any():
        apart = (moving | moved)[matches.current_indices]
        matches = replace(matches, inliers=matches.inliers & ~apart)
    scene = np.where(moving | moved, np.uint64(0), ids)
    return scene, np.where(moving & moved, chained, np.uint64(0)), matches


def with_rows(result: FrameResult, kept: BoolArray, kept_before: BoolArray) -> FrameResult:
    """Some rows of a result: kept, N. kept_before: the same of the reference image.

    The matches are those of what is left in both images, by the rows that it has there.
    """
    if kept.all() and kept_before.all():
        return result
    matches, features, tracks = result.matches, result.features, result.tracks
    both = kept_before[matches.reference_indices] & kept[matches.current_indices]
    rows = np.cumsum(kept, dtype=np.uint32) - np.uint32(1)
    rows_before = np.cumsum(kept_before, dtype=np.uint32) - np.uint32(1)
    matches = replace(
        matches,
        reference_indices=rows_before[matches.reference_indices[both]],
        current_indices=rows[matches.current_indices[both]],
        scores=matches.scores[both],
        inliers=None if matches.inliers is None else matches.inliers[both],
    )

    def some(values: NDArray[T] | None) -> NDArray[T] | None:
        return None if values is None else values[kept]

    objects = some(tracks.objects)
    return replace(
        result,
        features=replace(
            features,
            keypoints=features.keypoints[kept],
            scores=features.scores[kept],
            descriptors=features.descriptors[kept],
            detection_age=some(features.detection_age),
            covariances=some(features.covariances),
        ),
        matches=matches,
        tracks=Tracks(
            tracks.ids[kept],
            tracks.lengths[kept],
            tracks.epoch,
            some(tracks.recovered),
            objects if objects is not None and objects.any() else None,
        ),
        normalized=some(result.normalized),
        right_x=some(result.right_x),
        depth=some(result.depth),
    )
