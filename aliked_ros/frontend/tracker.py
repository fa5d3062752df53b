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

"""Matches to persistent identities."""

from __future__ import annotations

import numpy as np

from aliked_ros.types import Matches, Tracks, UInt32Array, UInt64Array

_REMEMBERED = 50_000  # lost tracks whose lengths are known when they come back


class Tracker:
    """Gives every keypoint an id: its predecessor's where it is matched, else a new one.

    Ids start at 1 and are never used again within an epoch; a reset begins the next epoch.
    """

    def __init__(self) -> None:
        self._epoch = 0
        self._ids: UInt64Array
        self._lengths: UInt32Array
        self._start()

    @property
    def epoch(self) -> int:
        """Number of resets so far."""
        return self._epoch

    def reset(self) -> None:
        """Forget all tracks."""
        self._epoch += 1
        self._start()

    def continued(self, count: int, matches: Matches) -> UInt64Array:
        """Ids of the next image's ``count`` keypoints, 0 where they continue no track.

        matches: of the next image against the previous one. Those that verification found to be
        outliers do not extend a track.
        """
        ids = np.zeros(count, np.uint64)
        kept = slice(None) if matches.inliers is None else matches.inliers
        ids[matches.current_indices[kept]] = self._ids[matches.reference_indices[kept]]
        return ids

    def update(self, ids: UInt64Array, objects: UInt32Array | None = None) -> Tracks:
        """Tracks of the next image; ids: N, as in ``continued``, or of tracks lost before.

        objects: N, 0 = at rest; None = none is looked for.
        """
        lengths = dict(zip(self._ids.tolist(), self._lengths.tolist(), strict=True))
        known = ids.tolist()
        recovered = np.array([i != 0 and i not in lengths for i in known], bool)
        new = ids == 0
        ids = ids.copy()
        ids[new] = np.arange(self._next_id, self._next_id + np.count_nonzero(new))
        self._next_id += int(np.count_nonzero(new))
        self._ids = ids
        self._lengths = np.array(
            [lengths.pop(i, None) or self._lost.pop(i, 0) for i in known], np.uint32
        ) + np.uint32(1)
        self._lost |= lengths  # what is left has ended here
        while len(self._lost) > _REMEMBERED:
            del self._lost[next(iter(self._lost))]
        return Tracks(
            ids,
            self._lengths,
            self._epoch,
            recovered if recovered.any() else None,
            objects if objects is not None and objects.any() else None,
        )

    def _start(self) -> None:
        self._next_id = 1
        self._ids, self._lengths = np.zeros(0, np.uint64), np.zeros(0, np.uint32)
        self._lost: dict[int, int] = {}
