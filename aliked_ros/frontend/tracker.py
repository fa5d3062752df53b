"""Matches to persistent identities."""

from __future__ import annotations

import numpy as np

from aliked_ros.types import Matches, Tracks, UInt64Array


class Tracker:
    """Gives every keypoint an id: its predecessor's where it is matched, else a new one.

    Ids start at 1 and are never used again within an epoch; a reset begins the next epoch.
    """

    def __init__(self) -> None:
        self._epoch = 0
        self._next_id = 1
        self._previous: Tracks | None = None

    @property
    def epoch(self) -> int:
        """Number of resets so far."""
        return self._epoch

    def reset(self) -> None:
        """Forget all tracks."""
        self._epoch += 1
        self._next_id = 1
        self._previous = None

    def start(self, count: int) -> Tracks:
        """Tracks of an image without a predecessor: every keypoint begins one."""
        return self.update(count, Matches.empty())

    def update(self, count: int, matches: Matches) -> Tracks:
        """Tracks of the next image's ``count`` keypoints, matched against the previous image's.

        Matches that verification found to be outliers do not extend a track.
        """
        ids = np.zeros(count, np.uint64)
        lengths = np.ones(count, np.uint32)
        if self._previous is not None and len(matches):
            kept = slice(None) if matches.inliers is None else matches.inliers
            before, now = matches.reference_indices[kept], matches.current_indices[kept]
            ids[now] = self._previous.ids[before]
            lengths[now] = self._previous.lengths[before] + np.uint32(1)
        unmatched = ids == 0
        ids[unmatched] = self._new_ids(int(np.count_nonzero(unmatched)))
        self._previous = Tracks(ids, lengths, self._epoch)
        return self._previous

    def _new_ids(self, count: int) -> UInt64Array:
        first = self._next_id
        self._next_id += count
        return np.arange(first, self._next_id, dtype=np.uint64)
