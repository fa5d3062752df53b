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
followed from there to the newest image in one go.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from aliked_ros.frontend.flow import Flow, follow
from aliked_ros.frontend.fusion import Filters, Float64Array
from aliked_ros.frontend.keyframes import shared_rows
from aliked_ros.frontend.similarity import mutual_best_of
from aliked_ros.types import (
    BoolArray,
    Features,
    Float32Array,
    IntArray,
    UInt8Array,
    UInt32Array,
    UInt64Array,
)

_RADIUS = 3.0  # pixels around a track in which its detection may lie
_LEAST_COSINE = 0.7  # of a track's last descriptor and the detection's
_SPACING = 4.0  # pixels from all tracks that a new point keeps
_MERGED = 1.5  # pixels: two tracks this near are one
_LOST = 1.0  # pixels: the standard deviation with which a track's place is no longer known
_STALE = 3  # detections that miss a track before new points may take its place
_NOISE_FLOOR = 0.1  # pixels that every position is uncertain by: interpolation, rolling shutter
_NEIGHBOURS = 3  # tracks whose displacement says where a new point near them has gone


@dataclass(frozen=True, slots=True)
class Rows:
    """N tracks in one image.

    ids: uint64, 0 = not given yet. points: N×2 float64, pixels. moved: N×2 float32, since the image
    before. filters: what is known of the points. correlation: N float32, of the last step's
    patches, 1 for points that no flow brought here. scores, descriptors: of the last detection.
    ages: N uint32, images since then. missed: N, detections since then. detected: N, row of the
    latest detection, -1 = not in it. disparity: N, pixels, NaN = unknown.
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

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: NDArray[np.intp] | BoolArray) -> Rows:
        return Rows(*(getattr(self, f.name)[rows] for f in fields(self)))

    def __add__(self, others: Rows) -> Rows:
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
            self.ages, known.astype(np.float32),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Detection:
    """What ALIKED found in an image, with the tracks as they were there.

    index: of the image. grey: H×W, the image. tracks: followed there. features: N, found there.
    noise: covariances N×2×2 of their keypoints, pixels². ids: N, the track that each continues,
    0 = none. wrong: ids of tracks that do not agree with the motion since the last keyframe.
    right_x: N, None without a right image.
    """

    index: int
    grey: UInt8Array
    tracks: Rows
    features: Features
    noise: Float64Array
    ids: UInt64Array
    wrong: UInt64Array
    right_x: Float32Array | None = None


def begin(detection: Detection, rows: NDArray[np.intp]) -> Rows:
    """Tracks that begin, or come back, at these rows of a detection, in its own image."""
    features = detection.features
    points = features.keypoints[rows]
    noise = detection.noise[rows]
    again = detection.ids[rows] != 0
    born, found = Filters.born(noise), Filters.found_again(noise)
    order = np.where(again, np.arange(len(rows)) + len(rows), np.arange(len(rows)))
    count = len(rows)
    disparity = np.full(count, np.nan, np.float32)
    if detection.right_x is not None:
        disparity = points[:, 0] - detection.right_x[rows]
    return Rows(
        ids=detection.ids[rows],
        points=points.astype(np.float64),
        moved=np.zeros((count, 2), np.float32),
        filters=(born + found)[order],
        correlation=np.ones(count, np.float32),
        scores=features.scores[rows],
        descriptors=features.descriptors[rows],
        ages=np.zeros(count, np.uint32),
        missed=np.zeros(count, np.int64),
        detected=rows.astype(np.int64),
        disparity=disparity,
    )


def nothing() -> Rows:
    """No tracks."""
    none = np.zeros(0, np.float32)
    pairs = np.zeros((0, 2))
    whole = np.zeros(0, np.int64)
    return Rows(
        whole.astype(np.uint64), pairs, pairs.astype(np.float32), Filters.born(np.zeros((0, 2, 2))),
        none, none, np.zeros((0, 0), np.float32), whole.astype(np.uint32), whole, whole, none,
    )  # fmt: skip


def carry(
    rows: Rows, before: UInt8Array, now: UInt8Array, mask: UInt8Array | None
) -> tuple[Rows, BoolArray, Float64Array]:
    """Rows in the next image, which (N) flow found there, the mask allowing, and the step's noise.

    The noise: covariances N×2×2, pixels².
    """
    points = rows.points.astype(np.float32)
    flow = follow(before, now, points, points + rows.moved)
    rows = _moved(rows, flow)
    found = flow.found & _unmasked(flow.points, mask) & _known(rows.filters)
    return rows, found, flow.covariances


def associate(tracks: Rows, features: Features) -> UInt64Array:
    """Ids N of the tracks that an image's features are detections of, by place and descriptor."""
    ids = np.zeros(len(features), np.uint64)
    if min(len(tracks), len(features)) == 0:
        return ids
    near = cKDTree(tracks.points).sparse_distance_matrix(
        cKDTree(features.keypoints), _RADIUS, output_type="ndarray"
    )
    rows, found = mutual_best_of(
        tracks.descriptors, features.descriptors, near["i"], near["j"], _LEAST_COSINE
    )
    ids[found] = tracks.ids[rows]
    return ids


def merge(
    rows: Rows,
    detection: Detection,
    index: int,
    grey: UInt8Array,
    mask: UInt8Array | None,
    most: int,
) -> Rows:
    """The tracks of the newest image after a detection of this or an earlier one.

    rows: the tracks of the newest image, of number ``index`` and grey levels ``grey`` (H×W).
    most: how many tracks there may be.
    """
    rows = rows[~np.isin(rows.ids, detection.wrong)]
    rows = replace(rows, missed=rows.missed + 1, detected=np.full(len(rows), -1))
    rows, used = _corrected(rows, detection, index - detection.index)
    others = np.flatnonzero(~used)
    features = detection.features
    # a track that was seen elsewhere in the same image is not this point
    elsewhere = np.isin(detection.ids[others], detection.tracks.ids)
    ids = detection.ids.copy()
    ids[others[elsewhere]] = 0
    detection = replace(detection, ids=ids)
    if len(detection.tracks):
        distance, _ = cKDTree(detection.tracks.points).query(features.keypoints[others])
        others = others[(distance > _SPACING) | (ids[others] != 0)]
    new = begin(detection, others)
    age = index - detection.index
    if age:
        new = _brought(new, detection, rows, grey, mask)
        new = replace(new, ages=np.full(len(new), age, np.uint32))
    if len(rows):
        distance, _ = cKDTree(rows.points).query(new.points)
        new = new[(distance > _SPACING) | (new.ids != 0)]
    stale = rows.missed >= _STALE
    everything = rows[~stale] + new + rows[stale] if len(rows) else new
    return everything[np.arange(min(len(everything), most))]


def apart(rows: Rows) -> Rows:
    """Without the younger of two tracks that have run into each other."""
    pairs = cKDTree(rows.points).query_pairs(_MERGED, output_type="ndarray")
    younger = np.where(rows.ids[pairs[:, 0]] > rows.ids[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    kept = np.ones(len(rows), bool)
    kept[younger] = False
    return rows[kept]


def _corrected(rows: Rows, detection: Detection, age: int) -> tuple[Rows, BoolArray]:
    """The tracks corrected by their detections, and which of those (N) there were."""
    used = np.zeros(len(detection.features), bool)
    if len(rows) == 0:
        return rows, used
    found, here = shared_rows(detection.ids, rows.ids)
    _, where, there = np.intersect1d(
        detection.ids[found], detection.tracks.ids, assume_unique=True, return_indices=True
    )
    _, now, _ = np.intersect1d(
        rows.ids[here], detection.tracks.ids, assume_unique=True, return_indices=True
    )
    # rows of ids that are in the detection, in the tracks of its image, and still go on
    found, here = found[where], here[now]
    keypoints = detection.features.keypoints[found].astype(np.float64)
    distance = keypoints - detection.tracks.points[there]
    noise = detection.noise[found]
    filters = rows.filters[here]
    good = filters.agrees(distance, noise) & (np.linalg.norm(distance, axis=1) <= _RADIUS)
    found, here, there = found[good], here[good], there[good]
    change, corrected = filters[good].correct(distance[good], noise[good])
    used[found] = True
    order = np.arange(len(rows))
    order[here] = len(rows) + np.arange(len(here))
    points, disparity = rows.points.copy(), rows.disparity.copy()
    points[here] += change
    if detection.right_x is not None:
        seen = detection.features.keypoints[found, 0] - detection.right_x[found]
        disparity[here] = np.where(np.isnan(seen), disparity[here], seen)
    scores, descriptors = rows.scores.copy(), rows.descriptors.copy()
    scores[here], descriptors[here] = (
        detection.features.scores[found],
        detection.features.descriptors[found],
    )
    ages, missed, detected = rows.ages.copy(), rows.missed.copy(), rows.detected.copy()
    ages[here], missed[here], detected[here] = age, 0, found
    rows = replace(
        rows, points=points, filters=(rows.filters + corrected)[order], scores=scores,
        descriptors=descriptors, ages=ages, missed=missed, detected=detected, disparity=disparity,
    )  # fmt: skip
    return rows, used


def _brought(
    new: Rows, detection: Detection, rows: Rows, grey: UInt8Array, mask: UInt8Array | None
) -> Rows:
    """New rows of an older image in the newest one, as far as they are found there."""
    there, here = shared_rows(detection.tracks.ids, rows.ids)
    if len(here) >= _NEIGHBOURS and len(new):
        _, near = cKDTree(detection.tracks.points[there]).query(new.points, k=_NEIGHBOURS)
        moved = (rows.points[here] - detection.tracks.points[there])[near]
        new = replace(new, moved=np.median(moved, axis=1).astype(np.float32))
    new, found, _ = carry(new, detection.grey, grey, mask)
    return replace(new, moved=np.zeros_like(new.moved))[found]


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


def _known(filters: Filters) -> BoolArray:
    """Whether a track's place is known well enough, N."""
    return np.asarray(np.linalg.eigvalsh(filters.covariances)[:, 1] < _LOST**2)


def _unmasked(points: Float32Array, mask: UInt8Array | None) -> BoolArray:
    if mask is None:
        return np.ones(len(points), bool)
    height, width = mask.shape
    columns, rows = np.rint(points).astype(np.intp).T
    return np.asarray(mask[rows.clip(0, height - 1), columns.clip(0, width - 1)] != 0)
