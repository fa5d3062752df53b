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

"""Keyframes: which images they are, and the recent ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from aliked_ros.configuration import FrontendConfig
from aliked_ros.types import Features, Keyframe, UInt64Array

MIN_FEATURES = 50  # fewer are no view worth coming back to, unless no more are asked for
# Scores below it are noise. The 50th best one is at most 0.2 in a dark image with a sensor's noise
# (by network; 0.08 with N16), at least 0.27 with 60 pixels of motion blur or a tenth of the light.
_NOISE = 0.2


def sees(features: Features, config: FrontendConfig) -> bool:
    """Whether an image shows enough: the lens is not covered, the light is not out."""
    enough = min(MIN_FEATURES, config.max_keypoints)
    return int(np.count_nonzero(features.scores > _NOISE)) >= enough


class Keyframes:
    """The recent keyframes, oldest first, and the choice of the next."""

    def __init__(self, config: FrontendConfig) -> None:
        self._config = config
        self._ring: deque[Keyframe] = deque(maxlen=config.keyframe_count)
        self._most_shared = 0

    def __len__(self) -> int:
        return len(self._ring)

    def __iter__(self) -> Iterator[Keyframe]:
        return iter(self._ring)

    def __reversed__(self) -> Iterator[Keyframe]:
        return reversed(self._ring)

    def reason(self, stamp: float, features: Features, ids: UInt64Array) -> str:
        """Why an image is to become a keyframe (see FrameResult); empty = it is not.

        ids: N, of the tracks it continues, 0 = none.
        """
        if not sees(features, self._config):
            return ""
        if not self._ring:
            return "first"
        last, config = self._ring[-1], self._config
        rows, last_rows = shared_rows(ids, last.tracks.ids)
        if len(rows) == 0:
            return "lost"
        # not every feature can be followed: those of the best image since then could be
        self._most_shared = max(self._most_shared, len(rows))
        if len(rows) < config.keyframe_tracked * self._most_shared:
            return "tracks"
        moved = features.keypoints[rows] - last.features.keypoints[last_rows]
        parallax = float(np.median(np.linalg.norm(moved, axis=1)))
        if 0.0 < config.keyframe_parallax < parallax:
            return "parallax"
        if 0.0 < config.keyframe_interval <= stamp - last.stamp:
            return "time"
        return ""

    def add(self, keyframe: Keyframe) -> None:
        """Keep a keyframe; the oldest goes when there are ``keyframe_count``."""
        self._ring.append(keyframe)
        self._most_shared = 0

    def add_last_view(self, keyframe: Keyframe) -> None:
        """Keep the last image before all was lost, if it shows anything: what may come back."""
        if sees(keyframe.features, self._config):
            self.add(keyframe)

    def clear(self) -> None:
        """Forget all."""
        self._ring.clear()
        self._most_shared = 0

    def reconfigure(self, config: FrontendConfig) -> None:
        """Take over the thresholds of ``config``, and its number of keyframes."""
        self._config = config
        self._ring = deque(self._ring, maxlen=config.keyframe_count)


def shared_rows(ids: UInt64Array, others: UInt64Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of ``ids`` and of ``others`` that hold the same id; an id of 0 is none."""
    known, others_known = np.flatnonzero(ids), np.flatnonzero(others)
    _, rows, other_rows = np.intersect1d(
        ids[known], others[others_known], assume_unique=True, return_indices=True
    )
    return known[rows], others_known[other_rows]
