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

"""LightGlue's layers in turn, on arrays: early stop, pruning, and memory of the last images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aliked_ros.backends.cpu.assignment import mutual_matches
from aliked_ros.backends.cpu.compiled import compiling
from aliked_ros.backends.cpu.runtime import Array, Network
from aliked_ros.networks.constants import exit_threshold
from aliked_ros.networks.fold import LightGlueShape
from aliked_ros.types import Features, Matches

_MASKED = np.float32(-1e9)
_ROW_COUNTS = 4  # that graphs are run with up to the usual number of points


def rounded(count: int, usual: int) -> int:
    """Rows to give a graph for ``count`` points.

    The runtimes prepare code and memory for every new number of rows, and keep it (6 MB for all
    graphs at 512 points); so there are few: quarters of the usual number.
    """
    step = -(-usual // _ROW_COUNTS)
    rounded = -(-count // step) * step
    return min(rounded, usual) if count <= usual else rounded


class LayeredLightGlue:
    """LightGlue layer by layer, so that it can stop early and drop pruned points.

    users: how many cameras it serves, in turn.
    """

    users = 1

    def __init__(
        self,
        shape: LightGlueShape,
        angles: Array,
        embedding: Network,
        layers: Sequence[Network],
        assignments: Sequence[Network],
        usual_points: int = 1,
    ) -> None:
        """``angles``: see ``fold.angles``; the others run the modules of ``networks.lightglue``.

        usual_points: how many most images have; any other number works too.
        """
        self._usual_points = usual_points
        thresholds = [exit_threshold(i, shape.layers) for i in range(shape.layers - 1)]
        self._exit_thresholds = np.array(thresholds, np.float32)
        self._angles, self._embedding = angles, embedding
        self._layers, self._assignments = layers, assignments
        self._embedded: list[tuple[Features, Array, Array]] = []  # the latest, newest first
        # compile the loops now, not while a camera waits
        points = np.zeros((2, 2), np.float32)
        blank = np.zeros((2, shape.input_dim), np.float32)
        with compiling():
            self.match(*2 * (Features(points, points[0], blank, 64, 64, ""),), 0.0, -1.0, -1.0)
        self._embedded.clear()

    def match(
        self,
        reference: Features,
        current: Features,
        match_threshold: float,
        depth_confidence: float,
        width_confidence: float,
    ) -> Matches:
        """See ``MatchNetwork``."""
        total = len(reference) + len(current)
        rows = [np.arange(len(features), dtype=np.uint32) for features in (reference, current)]
        state, rotation, mask = self._batch(*self._embed(reference, current))
        for layer, network in enumerate(self._layers):
            # the first layer's self-attention, which needs the rotation, is in the embedding
            state, exits = network(state, mask, *([rotation] if layer > 0 else []))
            matchability, confidence = (
                [exits[i, : len(r), head] for i, r in enumerate(rows)] for head in (0, 1)
            )
            if layer == len(self._exit_thresholds):
                break
            certain = self._exit_thresholds[layer]
            undecided = sum(np.count_nonzero(c < certain) for c in confidence)
            if 0 <= depth_confidence < 1 - undecided / total:
                break
            if width_confidence < 0:
                continue
            keep = [
                (m > 1 - width_confidence) | (c <= certain)
                for m, c in zip(matchability, confidence, strict=True)
            ]
            if all(k.all() for k in keep):
                continue
            rows = [r[k] for r, k in zip(rows, keep, strict=True)]
            if min(len(r) for r in rows) == 0:
                return Matches.empty()
            state, rotation, mask = self._batch(
                *([part[i, : len(k)][k] for i, k in enumerate(keep)] for part in (state, rotation))
            )
        (similarity,) = self._assignments[layer](state[0], state[1])
        i, j, probability = mutual_matches(
            np.ascontiguousarray(similarity[: len(rows[0]), : len(rows[1])]),
            *(np.ascontiguousarray(m) for m in matchability),
            np.float32(match_threshold),
        )
        return Matches(rows[0][i], rows[1][j], probability, layers=layer + 1)

    def _embed(self, *images: Features) -> tuple[list[Array], list[Array]]:
        """First state and rotation of each image's points; for each user two are remembered."""
        embedded: list[tuple[Features, Array, Array]] = []
        for features in images:
            known = [entry for entry in self._embedded if entry[0] is features]
            if known:
                embedded += known[:1]  # the same image may have been both
                continue
            size = np.array([features.width, features.height], np.float32)
            angles = (features.keypoints - size / 2) / (size.max() / 2) @ self._angles
            rotation = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
            inputs = self._batch([features.descriptors], [rotation])
            (state,) = self._embedding(*inputs)
            embedded.append((features, np.array(state[0, : len(features)]), rotation))
        others = [entry for entry in self._embedded if not any(entry is e for e in embedded)]
        self._embedded = (embedded + others)[: 2 * self.users]
        return [state for _, state, _ in embedded], [rotation for _, _, rotation in embedded]

    def _batch(self, first: list[Array], second: list[Array]) -> tuple[Array, Array, Array]:
        """Two properties of the points of one or more images, padded, and the padding's mask."""
        rows = rounded(max(len(part) for part in first), self._usual_points)
        mask = np.zeros((len(first), 1, 1, rows), np.float32)
        for i, part in enumerate(first):
            mask[i, :, :, len(part) :] = _MASKED

        def stack(parts: list[Array]) -> Array:
            stacked = np.zeros((len(parts), rows, parts[0].shape[1]), np.float32)
            for target, part in zip(stacked, parts, strict=True):
                target[: len(part)] = part
            return stacked

        return stack(first), stack(second), mask
