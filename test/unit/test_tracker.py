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

"""Invariants of track ids over arbitrary match sequences."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aliked_ros.frontend.tracker import Tracker
from aliked_ros.types import Matches


@st.composite
def match_sequences(draw: st.DrawFn) -> list[tuple[int, Matches | None]]:
    """Frames as (keypoints, matches against the frame before; None = reset before this frame)."""
    frames: list[tuple[int, Matches | None]] = [(draw(st.integers(0, 12)), Matches.empty())]
    for _ in range(draw(st.integers(1, 10))):
        count, before = draw(st.integers(0, 12)), frames[-1][0]
        if draw(st.integers(0, 9)) == 0:
            frames.append((count, None))
            continue
        size = draw(st.integers(0, min(count, before)))
        reference = draw(st.permutations(range(before)))[:size]
        current = draw(st.permutations(range(count)))[:size]
        inliers = draw(st.none() | st.lists(st.booleans(), min_size=size, max_size=size))
        frames.append(
            (
                count,
                Matches(
                    np.array(reference, np.uint32),
                    np.array(current, np.uint32),
                    np.ones(size, np.float32),
                    None if inliers is None else np.array(inliers, bool),
                ),
            )
        )
    return frames


@given(match_sequences())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a busy machine
def test_ids_and_lengths(frames: list[tuple[int, Matches | None]]) -> None:
    tracker = Tracker()
    alive: dict[int, int] = {}  # id → length, in the frame before
    ended: set[int] = set()
    epoch = 0
    for count, matches in frames:
        if matches is None:
            tracker.reset()
            matches, alive, ended, epoch = Matches.empty(), {}, set(), epoch + 1
        before = list(alive)
        tracks = tracker.update(tracker.continued(count, matches))
        assert tracks.epoch == epoch
        assert tracks.recovered is None
        assert len(tracks.ids) == count == len(set(tracks.ids.tolist()))
        assert 0 not in tracks.ids
        now = dict(zip(tracks.ids.tolist(), tracks.lengths.tolist(), strict=True))
        assert not ended & set(now), "an ended id came back"
        for identity, length in now.items():
            assert length == alive.get(identity, 0) + 1
        good = np.ones(len(matches), bool) if matches.inliers is None else matches.inliers
        for i, j, inlier in zip(
            matches.reference_indices, matches.current_indices, good, strict=True
        ):
            assert (int(tracks.ids[j]) == before[i]) == bool(inlier)
        ended |= set(alive) - set(now)
        alive = now


def test_a_lost_track_comes_back_with_its_length() -> None:
    tracker = Tracker()
    tracker.update(np.zeros(3, np.uint64))  # 1 2 3
    tracker.update(np.array([3, 1, 0], np.uint64))  # 2 is lost, 4 begins
    tracker.update(np.array([1], np.uint64))
    tracks = tracker.update(np.array([2, 0, 3, 1], np.uint64))
    assert tracks.ids.tolist() == [2, 5, 3, 1]
    assert tracks.lengths.tolist() == [2, 1, 3, 4]
    assert tracks.recovered is not None
    assert tracks.recovered.tolist() == [True, False, True, False]
