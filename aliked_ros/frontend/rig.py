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

"""A rig of cameras whose poses on it are known: matches between them, depth, one id space.

The extrinsics guide the search: a keypoint's partner is the most similar one near its epipolar line
and in front of both cameras. Where they do not fit the images, there are no matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.landmarks import Landmarks
from aliked_ros.frontend.rig_check import ExtrinsicsCheck, Pair, Problem
from aliked_ros.frontend.rig_geometry import TwoCameras, View
from aliked_ros.frontend.similarity import mutual_best
from aliked_ros.types import BoolArray, Float32Array, Tracks, UInt8Array, UInt32Array, UInt64Array


@dataclass(frozen=True, slots=True)
class RigMatches:
    """Verified matches between the cameras of a set.

    cameras: K×2 uint8, the two cameras of each, the smaller number first. rows: K×2 uint32, rows of
    their features. scores: K float32, cosines. depths: K×2 float32, metres along the optical axis
    of each, NaN = too little parallax.
    """

    cameras: UInt8Array
    rows: UInt32Array
    scores: Float32Array
    depths: Float32Array

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, kept: Any) -> RigMatches:
        """Some of them: a mask, or indices."""
        return RigMatches(self.cameras[kept], self.rows[kept], self.scores[kept], self.depths[kept])

    @classmethod
    def joined(cls, parts: Sequence[RigMatches]) -> RigMatches:
        """All of them."""
        return cls(
            np.concatenate([np.zeros((0, 2), np.uint8), *(part.cameras for part in parts)]),
            np.concatenate([np.zeros((0, 2), np.uint32), *(part.rows for part in parts)]),
            np.concatenate([np.zeros(0, np.float32), *(part.scores for part in parts)]),
            np.concatenate([np.zeros((0, 2), np.float32), *(part.depths for part in parts)]),
        )


@dataclass(frozen=True, slots=True)
class RigResult:
    """What the images of a set have in common.

    landmark_ids: for each camera N uint64, from 1; equal where matched, at most once a camera.
    merged: M×2 uint64 (from, into), earlier ids that turned out to be one landmark's.
    depths: for each camera N float32, metres along the optical axis, NaN = not known.
    problems: extrinsics that contradict the images now.
    """

    landmark_ids: list[UInt64Array]
    merged: UInt64Array
    matches: RigMatches
    depths: list[Float32Array]
    problems: list[Problem]


class Rig:
    """Joins what the cameras of a rig see, set by set; not for concurrent calls."""

    def __init__(self, config: FrontendConfig) -> None:
        """``config``: its ``min_similarity`` and ``inlier_threshold`` hold between cameras too."""
        self._config = config
        self._landmarks = Landmarks()
        self._check = ExtrinsicsCheck(config)

    def process(
        self, names: Sequence[str], tracks: Sequence[Tracks], views: Sequence[View | None]
    ) -> RigResult:
        """Join one set: of each of its cameras the name, the tracks and the view.

        A camera without a view (its model or pose is not known) keeps its landmarks and has no
        matches.
        """
        ids = self._landmarks.known(names, tracks)
        pairs = {
            (i, j): Pair((names[i], names[j]), first, second)
            for (i, first), (j, second) in combinations(enumerate(views), 2)
            if first is not None and second is not None
        }
        self._check.look(list(pairs.values()))
        parts = []
        for (i, j), pair in pairs.items():
            if pair.overlaps and pair.names not in self._check.suspected:
                self._separate(pair.geometry, ids[i], ids[j])
                alike = tracks[i].at_rest[:, None] == tracks[j].at_rest
                parts.append(self._between((i, j), pair, alike))
        matches = RigMatches.joined(parts)
        matches = matches[np.argsort(-matches.scores, kind="stable")]
        landmark_ids, merged, held = self._landmarks.update(
            names, tracks, ids, matches.cameras, matches.rows
        )
        matches = matches[held]
        depths = [np.full(len(its.ids), np.nan, np.float32) for its in tracks]
        for camera, depth in enumerate(depths):
            row, side = np.nonzero(matches.cameras == camera)
            # the best match comes last and stays
            depth[matches.rows[row, side][::-1]] = matches.depths[row, side][::-1]
        return RigResult(landmark_ids, merged, matches, depths, self._check.problems)

    def _between(self, cameras: tuple[int, int], pair: Pair, alike: BoolArray) -> RigMatches:
        """Matches of two cameras; alike: N×M, both rows are at rest or both are on an object."""
        threshold = self._config.inlier_threshold
        possible = pair.geometry.candidates(threshold) & alike
        rows, columns = mutual_best(
            np.where(possible, pair.cosines, np.float32(0.0)), self._config.min_similarity
        )
        agree, *depths = pair.geometry.agree(rows, columns, threshold)
        return RigMatches(
            np.full((len(rows), 2), cameras, np.uint8),
            np.column_stack([rows, columns]).astype(np.uint32),
            np.minimum(pair.cosines[rows, columns], np.float32(1.0)),
            np.column_stack(depths),
        )[agree]

    def _separate(self, geometry: TwoCameras, first: UInt64Array, second: UInt64Array) -> None:
        """Take ids from rows of the second camera that are not where the first sees the same id."""
        shared, rows, columns = np.intersect1d(first, second, return_indices=True)
        rows, columns = rows[shared > 0], columns[shared > 0]
        agree, *_ = geometry.agree(rows, columns, self._config.inlier_threshold)
        second[columns[~agree]] = 0
