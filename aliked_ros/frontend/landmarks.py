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

"""One id space over the tracks of several cameras."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aliked_ros.types import BoolArray, Tracks, UInt8Array, UInt32Array, UInt64Array

_REMEMBERED = 50_000  # tracks a camera, as the tracker remembers them


class Landmarks:
    """Numbers what several cameras track: matched rows have one id, other rows different ones.

    A landmark is a set of tracks, at most one of each camera at a time. It keeps its id while any
    of them lives, or comes back. Ids start at 1 and are never used again.

    Ids of their own, not common ids of tracks: each camera's tracker goes on unchanged, and a match
    between two tracks that were known apart does not rewrite what was published of either. The
    merged id is reported instead.
    """

    def __init__(self) -> None:
        self._next = 1
        self._ids: dict[str, dict[int, int]] = {}  # of each camera's tracks
        self._epochs: dict[str, int] = {}
        self._members: dict[int, set[tuple[str, int]]] = {}

    def known(self, cameras: Sequence[str], tracks: Sequence[Tracks]) -> list[UInt64Array]:
        """Ids of the rows of a set's cameras as far as they had one, 0 = none yet."""
        found = []
        for name, its in zip(cameras, tracks, strict=True):
            if self._epochs.setdefault(name, its.epoch) != its.epoch:
                for track in list(self._ids[name]):
                    self._forget(name, track)
                self._epochs[name] = its.epoch
            ids = self._ids.setdefault(name, {})
            row_ids = np.array([ids.get(track, 0) for track in its.ids.tolist()], np.uint64)
            _, first = np.unique(row_ids, return_index=True)
            twice = np.ones(len(row_ids), bool)
            twice[first] = False  # a track that was lost came back beside the one that followed it
            row_ids[twice] = 0
            found.append(row_ids)
        return found

    def update(
        self,
        cameras: Sequence[str],
        tracks: Sequence[Tracks],
        ids: Sequence[UInt64Array],
        between: UInt8Array,
        rows: UInt32Array,
    ) -> tuple[list[UInt64Array], UInt64Array, BoolArray]:
        """Ids of all rows, none 0; the ids merged, M×2 (from, into); which matches hold, K.

        ids: as from :meth:`known`, 0 for rows that are to begin a landmark. between, rows: K×2, the
        two cameras of each match and their rows, best first; a match that would give a landmark two
        rows of one camera does not hold.
        """
        published = self._next
        for name, its, row_ids in zip(cameras, tracks, ids, strict=True):
            for row in np.flatnonzero(row_ids == 0).tolist():
                row_ids[row] = self._next
                self._move(name, int(its.ids[row]), self._next)
                self._next += 1
        seen: dict[int, dict[int, int]] = {}  # landmark → camera → row
        for camera, row_ids in enumerate(ids):
            for row, landmark in enumerate(row_ids.tolist()):
                seen.setdefault(landmark, {})[camera] = row
        held, merged = [], []
        for cameras_of, rows_of in zip(between.tolist(), rows.tolist(), strict=True):
            kept, gone = sorted(
                int(ids[camera][row]) for camera, row in zip(cameras_of, rows_of, strict=True)
            )
            possible = kept == gone or not seen[kept].keys() & seen[gone].keys()
            held.append(possible)
            if kept == gone or not possible:
                continue
            for camera, row in seen.pop(gone).items():
                seen[kept][camera] = row
                ids[camera][row] = kept
            for name, track in list(self._members[gone]):
                self._move(name, track, kept)
            if gone < published:
                merged.append((gone, kept))
        for name, its in zip(cameras, tracks, strict=True):
            self._limit(name, its)
        return list(ids), np.array(merged, np.uint64).reshape(-1, 2), np.array(held, bool)

    def _move(self, name: str, track: int, landmark: int) -> None:
        self._forget(name, track)
        self._ids[name][track] = landmark
        self._members.setdefault(landmark, set()).add((name, track))

    def _forget(self, name: str, track: int) -> None:
        landmark = self._ids[name].pop(track, None)
        if landmark is not None:
            self._members[landmark].remove((name, track))
            if not self._members[landmark]:
                del self._members[landmark]

    def _limit(self, name: str, tracks: Tracks) -> None:
        """Forget the oldest tracks beyond what is remembered."""
        ids = self._ids[name]
        surplus = len(ids) - _REMEMBERED
        if surplus > 0:
            alive = set(tracks.ids.tolist())
            for track in [track for track in ids if track not in alive][:surplus]:
                self._forget(name, track)
