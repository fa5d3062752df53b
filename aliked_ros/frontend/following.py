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
"""Tracks that optical flow carries through every image and ALIKED's detections correct.

A detection belongs to the image it was made of, which may be some images old by the time it is
done: corrections are found there and hold for the newest image too, and points that are new are
followed from there through all images since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from aliked_ros.frontend.flow import Flow, follow
from aliked_ros.frontend.fusion import Filters
from aliked_ros.frontend.keyframes import shared_rows
from aliked_ros.frontend.prediction import Turn, expected, own_motion
from aliked_ros.frontend.similarity import mutual_best_of
from aliked_ros.types import (
    BoolArray,
    Features,
    Float32Array,
    Float64Array,
    IntArray,
    UInt8Array,
    UInt32Array,
    UInt64Array,
)

_RADIUS = 3.0  # pixels around a track in which its detection may lie
LEAST_COSINE = 0.7
"""Of a track's last descriptor and its detection's."""

SPACING = 4.0  # pixels from all tracks that a new point keeps
MERGED = 1.5  # pixels: two tracks this near are one
_LOST = 1.5  # pixels: the standard deviation with which a track's place is no longer known
_STALE = 3  # detections that miss a track before new points may take its place, unless
_GOOD = 0.8  # pixels: the standard deviation below which it keeps it
_NOISE_FLOOR = 0.1  # pixels that every position is uncertain by: interpolation, rolling shutter
_FEW, _MANY = 0.5, 0.8  # of the points: with fewer found, they are looked for elsewhere
_NEIGHBOURS = 3  # tracks whose displacement says how a new point near them moves

Images = Sequence[tuple[int, UInt8Array]]
"""Numbers and grey levels H×W of images, oldest first."""

Turns = Callable[[int, int], Turn | None]
"""How the camera turned from the image of one number to that of another; None = not known."""


@dataclass(frozen=True, slots=True)
class Rows:
    """N tracks in one image.

    ids: uint64, 0 = not given yet. points: N×2 float64, pixels. moved: N×2 float32, since the image
    before. filters: what is known of the points. correlation: N float32, of the last step's
    patches, 1 for points that no flow brought here. scores, descriptors: of the last detection.
    ages: N uint32, images since then. missed: N, detections since then. detected: N, row of the
    latest detection, -1 = not in it. disparity: N, pixels, NaN = unknown. chains: uint64, see
    ``MovingObjects``, 0 = not given yet.
    """

    ids: UInt64Array
    points: Float64Array
    moved: Float32Array
    filters: Filters
    correlation: Float32Array
    scores: Float32Array
    descriptors: Float32Array
    ages: UInt32Array
    missed: IntArray
    detected: IntArray
    disparity: Float32Array
    chains: UInt64Array

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: NDArray[np.intp] | BoolArray | slice) -> Rows:
        return Rows(*(getattr(self, f.name)[rows] for f in fields(self)))

    def __add__(self, others: Rows) -> Rows:
        if min(len(self), len(others)) == 0:  # ``nothing`` has descriptors of no length
            return max(self, others, key=lambda rows: (len(rows), rows.descriptors.shape[1]))
        pairs = [(getattr(self, f.name), getattr(others, f.name)) for f in fields(self)]
        joined: list[Any] = [
            a + b if isinstance(a, Filters) else np.concatenate([a, b]) for a, b in pairs
        ]
        return Rows(*joined)

    def features(self, width: int, height: int, model: str) -> Features:
        """As features of an image of this size."""
        known = self.filters.covariances.reshape(-1, 4)[:, [0, 1, 3]]
        known = known + _NOISE_FLOOR**2 * np.array([1.0, 0.0, 1.0])
        return Features(
            self.points.astype(np.float32), self.scores, self.descriptors, width, height, model,
            detection_age=self.ages, covariances=known.astype(np.float32),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Detection:
    """What ALIKED found in an image.

    index: of the image. features: N, found there. noise: covariances N×2×2 of their keypoints,
    pixels². disparity: N, pixels, NaN = unknown.
    tracks: M ids of tracks that were followed there and detected. rows: M, theirs in ``features``.
    distance: M×2, pixels from where flow had them.
    new: points that begin or come back, in the image of number ``reached``.
    wrong: ids of tracks that do not agree with the motion since the last keyframe.
    """

    index: int
    features: Features
    noise: Float64Array
    disparity: Float32Array
    tracks: UInt64Array
    rows: IntArray
    distance: Float64Array
    new: Rows
    reached: int
    wrong: UInt64Array


def begin(
    features: Features,
    rows: NDArray[np.intp],
    ids: UInt64Array,
    noise: Float64Array,
    disparity: Float32Array,
    tracks: Rows,
) -> Rows:
    """Tracks that begin, or come back, at rows of an image's features; K of each.

    ids: of those that come back, 0 = they begin. noise: K×2×2. disparity: pixels, NaN = unknown.
    tracks: the others of the image, which tell how it moves.
    """
    points, count = features.keypoints[rows], len(rows)
    moved = np.zeros((count, 2), np.float32)
    if len(tracks) >= _NEIGHBOURS and count:
        _, near = cKDTree(tracks.points).query(points, k=_NEIGHBOURS)
        moved = np.median(tracks.moved[near], axis=1).astype(np.float32)
    order = np.arange(count) + count * (ids != 0)
    return Rows(
        ids=ids,
        points=points.astype(np.float64),
        moved=moved,
        filters=(Filters.born(noise) + Filters.found_again(noise))[order],
        correlation=np.ones(count, np.float32),
        scores=features.scores[rows],
        descriptors=features.descriptors[rows],
        ages=np.zeros(count, np.uint32),
        missed=np.zeros(count, np.int64),
        detected=rows.astype(np.int64),
        disparity=disparity,
        chains=np.zeros(count, np.uint64),
    )


def nothing() -> Rows:
    """No tracks."""
    none = np.zeros(0, np.float32)
    pairs = np.zeros((0, 2))
    whole = np.zeros(0, np.int64)
    return Rows(
        whole.astype(np.uint64), pairs, pairs.astype(np.float32), Filters.born(np.zeros((0, 2, 2))),
        none, none, np.zeros((0, 0), np.float32), whole.astype(np.uint32), whole, whole, none,
        whole.astype(np.uint64),
    )  # fmt: skip


def carry(
    rows: Rows,
    before: UInt8Array,
    now: UInt8Array,
    mask: UInt8Array | None,
    turn: Turn | None = None,
    last: Turn | None = None,
    pace: float = 1.0,
) -> tuple[Rows, BoolArray, Float64Array]:
    """Rows in the next image, which (N) flow found there, the mask allowing, and the step's noise.

    turn: of the camera, to the next image; last: from the one before; None = not known. pace: how
    far points go on, in steps to the image before. Where that finds few, the turn may be wrong, the
    stamps less regular than the motion, or the camera has stopped, as after a jump. The noise:
    covariances N×2×2, pixels².
    """
    best = _carry(rows, before, now, mask, turn, last, pace)
    others = [(_FEW, pace)] if turn is not None else []
    others += [(_MANY, 1.0)] if pace != 1.0 else []
    for least, other in (*others, (_FEW, 0.0)):
        if best[1].sum() < least * len(rows):
            again = _carry(rows, before, now, mask, None, None, other)
            best = max(best, again, key=lambda one: int(one[1].sum()))
    return best


def _carry(
    rows: Rows,
    before: UInt8Array,
    now: UInt8Array,
    mask: UInt8Array | None,
    turn: Turn | None,
    last: Turn | None,
    pace: float,
) -> tuple[Rows, BoolArray, Float64Array]:
    """One try of ``carry``: by this turn and pace."""
    points = rows.points.astype(np.float32)
    own = own_motion(points - rows.moved, points, last)
    own[~rows.moved.any(1)] = 0.0  # they have just begun, with no track near that tells
    there = expected(points, np.float32(pace) * rows.moved, np.float32(pace) * own, turn)
    if turn is not None and turn.bends:  # patches are compared as they look after the turn
        flow = follow(turn.turned(before), now, turn.placed(points), there)
    else:
        flow = follow(before, now, points, there)
    rows = _moved(rows, flow)
    found = flow.found & _unmasked(flow.points, mask) & _known(rows.filters, _LOST)
    return rows, found, flow.covariances


def associate(tracks: Rows, features: Features, least_cosine: float = LEAST_COSINE) -> UInt64Array:
    """Ids N of the tracks that an image's features are detections of, by place and descriptor."""
    ids = np.zeros(len(features), np.uint64)
    if min(len(tracks), len(features)) == 0:
        return ids
    near = cKDTree(tracks.points).sparse_distance_matrix(
        cKDTree(features.keypoints), _RADIUS, output_type="ndarray"
    )
    rows, found = mutual_best_of(
        tracks.descriptors, features.descriptors, near["i"], near["j"], least_cosine
    )
    ids[found] = tracks.ids[rows]
    return ids


def detection_of(
    index: int,
    features: Features,
    noise: Float64Array,
    ids: UInt64Array,
    disparity: Float32Array,
    tracks: Rows,
    wrong: UInt64Array,
) -> Detection:
    """What features of an image mean to the tracks that were followed there.

    noise: covariances N×2×2 of the keypoints. ids: N, of tracks that they continue, 0 = none.
    """
    rows, there = shared_rows(ids, tracks.ids)
    distance = features.keypoints[rows] - tracks.points[there]
    good = tracks.filters[there].agrees(distance, noise[rows])
    good &= np.linalg.norm(distance, axis=1) <= _RADIUS
    begun = ids.copy()
    begun[rows] = 0  # a track that was seen elsewhere in this image is not this point
    rest = np.setdiff1d(np.arange(len(features)), rows[good], assume_unique=True)
    if len(tracks):
        apart_by, _ = cKDTree(tracks.points).query(features.keypoints[rest])
        rest = rest[(apart_by > SPACING) | (begun[rest] != 0)]
    new = begin(features, rest, begun[rest], noise[rest], disparity[rest], tracks)
    rows, there = rows[good], there[good]
    return Detection(
        index, features, noise, disparity, tracks.ids[there], rows, distance[good],
        new, index, wrong,
    )  # fmt: skip


def merge(
    rows: Rows,
    detection: Detection,
    index: int,
    images: Images,
    mask: UInt8Array | None,
    most: int,
    turns: Turns,
) -> Rows:
    """The tracks of the newest image after a detection of this or an earlier one.

    rows: the tracks of the newest image, of number ``index``. images: it and those before.
    most: how many tracks there may be. turns: see ``advance``.
    """
    rows = rows[~np.isin(rows.ids, detection.wrong)]
    rows = replace(rows, missed=rows.missed + 1, detected=np.full(len(rows), -1))
    rows = _corrected(rows, detection, np.uint32(index - detection.index))
    new = advance(detection, images, turns).new
    new = new[_unmasked(new.points, mask)]
    if len(rows):
        apart_by, _ = cKDTree(rows.points).query(new.points)
        new = new[((apart_by > SPACING) | (new.ids != 0)) & ~np.isin(new.ids, rows.ids)]
    stale = (rows.missed >= _STALE) & ~_known(rows.filters, _GOOD)
    begun = new.ids == 0
    everything = rows[~stale] + new[~begun] + new[begun] + rows[stale]
    return everything[np.arange(min(len(everything), most))]


def advance(detection: Detection, images: Images, turns: Turns) -> Detection:
    """The new points of a detection followed to the newest of the images.

    Between are those that are still kept; where the detection's own is not, they end. turns: of the
    camera between two of them, by their numbers.
    """
    numbers = [number for number, _ in images]
    new, reached = detection.new, detection.reached
    if reached not in numbers:
        return replace(detection, new=new[:0], reached=numbers[-1] if numbers else reached)
    first = numbers.index(reached)
    for (start, before), (number, now) in pairwise(images[first:]):
        new, found, _ = carry(new, before, now, None, turns(start, number))
        between = np.uint32(number - start - 1)  # images that are not kept any more
        new, reached = replace(new, ages=new.ages + between)[found], number
    return replace(detection, new=new, reached=reached)


def apart(rows: Rows, numbers: UInt64Array | None = None) -> Rows:
    """Without the younger of two tracks that have run into each other.

    numbers: N, larger for younger ones; None = the ids.
    """
    numbers = rows.ids if numbers is None else numbers
    pairs = cKDTree(rows.points).query_pairs(MERGED, output_type="ndarray")
    younger = np.where(numbers[pairs[:, 0]] > numbers[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    kept = np.ones(len(rows), bool)
    kept[younger] = False
    return rows[kept]


def _corrected(rows: Rows, detection: Detection, age: np.uint32) -> Rows:
    """The tracks corrected by their detections of ``age`` images ago."""
    if len(rows) == 0:
        return rows
    there, here = shared_rows(detection.tracks, rows.ids)
    found = detection.rows[there]
    change, corrected = rows.filters[here].correct(
        detection.distance[there], detection.noise[found]
    )
    order = np.arange(len(rows))
    order[here] = len(rows) + np.arange(len(here))
    seen = detection.disparity[found]
    new = {
        "points": rows.points[here] + change,
        "scores": detection.features.scores[found],
        "descriptors": detection.features.descriptors[found],
        "ages": age,
        "missed": 0,
        "detected": found,
        "disparity": np.where(np.isnan(seen), rows.disparity[here], seen),
    }
    columns = {name: getattr(rows, name).copy() for name in new}
    for name, values in new.items():
        columns[name][here] = values
    return replace(rows, filters=(rows.filters + corrected)[order], **columns)


def _moved(rows: Rows, flow: Flow) -> Rows:
    # steps in float64: positions keep what the filters add to them
    step = flow.points.astype(np.float64) - rows.points.astype(np.float32)
    return replace(
        rows,
        points=rows.points + step,
        moved=step.astype(np.float32),
        filters=rows.filters.step(flow.covariances),
        correlation=flow.correlation,
        ages=rows.ages + np.uint32(1),
    )


def _known(filters: Filters, deviation: float) -> BoolArray:
    """Whether a track's place is known to less than so many pixels in any direction, N."""
    return np.asarray(np.linalg.eigvalsh(filters.covariances)[:, 1] < deviation**2)


def _unmasked(points: NDArray[np.floating[Any]], mask: UInt8Array | None) -> BoolArray:
    if mask is None:
        return np.ones(len(points), bool)
    height, width = mask.shape
    columns, rows = np.rint(points).astype(np.intp).T
    return np.asarray(mask[rows.clip(0, height - 1), columns.clip(0, width - 1)] != 0)
