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

"""What the status says of the stages of an image."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from aliked_ros.ros import status as statistics
from aliked_ros.types import Features, FrameResult, Matches, Tracks


def test_losses_are_counted_by_the_publishers_numbers() -> None:
    losses = statistics.Losses()
    for number in range(1, 16):
        losses.note(number)
    assert losses.share == 0.0
    for number in range(16, 200, 2):  # every second one arrives
        losses.note(number)
    assert losses.share == pytest.approx(0.5, abs=0.02)
    losses.note(1)  # another publisher
    assert losses.share == 0.0
    for _ in range(100):
        losses.note(0)  # a middleware that does not count
    assert losses.share == 0.0


def test_a_stage_that_happens_no_more_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(statistics, "time", SimpleNamespace(monotonic=lambda: now[0]))
    none = np.zeros(0, np.float32)
    features = Features(none.reshape(0, 2), none, none.reshape(0, 128), 640, 480, "aliked-n16")
    tracks = Tracks(none.astype(np.uint64), none.astype(np.uint32), 0)
    result = FrameResult(0, 0.0, features, Matches.empty(), tracks)
    counts = statistics.Statistics()

    counts.processed(result, {"total": 0.1, "draw": 0.3})
    counts.processed(result, {"total": 0.1})  # the next one is not drawn yet
    assert counts.status("active").stage_names == ["total", "draw"]
    now[0] += 1.5 * statistics.WINDOW
    assert counts.status("active").stage_names == ["total", "draw"], "no images: as they were"
    counts.processed(result, {"total": 0.2})
    status = counts.status("active")
    assert status.stage_names == ["total"]
    assert status.stage_last.tolist() == [pytest.approx(0.2)]
    counts.processed(result, {"total": 0.1, "draw": 0.5})  # somebody looks again
    status = counts.status("active")
    assert status.stage_names == ["total", "draw"]
    assert status.stage_mean[1] == pytest.approx(0.5)
