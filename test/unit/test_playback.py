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

"""The player's time: images when they are due, the clock between them, pauses."""

from __future__ import annotations

import numpy as np
import pytest

from aliked_ros.ros.playback_clock import Playback

SECOND = 1_000_000_000


def play(playback: Playback, stamps: list[float], start: float) -> list[float]:
    """Wall times at which images that are read at once are published."""
    now, times = start, []
    for stamp in stamps:
        playback.schedule(round(stamp * SECOND), now)
        remaining = playback.remaining(now)
        assert remaining is not None
        now += max(remaining, 0.0)
        playback.advance()
        times.append(now - start)
    return times


@pytest.mark.parametrize(
    ("rate", "speed", "expected"),
    [
        (0.0, 1.0, [0.0, 0.1, 0.4, 0.5, 0.55]),
        (0.0, 2.0, [0.0, 0.05, 0.2, 0.25, 0.275]),
        (10.0, 1.0, [0.0, 0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_images_come_in_the_time_of_their_stamps(rate, speed, expected):
    """The fourth is the first of the next loop: it follows after the gap."""
    playback = Playback(rate, speed, gap=0.1, paused=False)
    stamps = [50.0, 50.1, 50.4, 50.0, 50.05]
    assert play(playback, stamps, start=7.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("stamps", "times", "jumps"),
    [
        ([1.7e9, 1.7e9 + 0.1, 0.0, 1.7e9 + 0.3], [0.0, 0.1, 0.2, 0.3], [0, 0, -1, 1]),
        ([50.0, 3650.0, 3650.1], [0.0, 0.1, 0.2], [0, 1, 0]),
        ([50.0, 50.1, 50.1, 50.05, 50.2], [0.0, 0.1, 0.1, 0.2, 0.35], [0, 0, 0, -1, 0]),
        ([50.0, 59.0], [0.0, 9.0], [0, 0]),  # a camera may pause
    ],
)
def test_no_jump_of_the_stamps_is_waited_for(stamps, times, jumps):
    playback = Playback(0.0, 1.0, gap=0.1, paused=False)
    now, at, seen = 7.0, [], []
    for stamp in stamps:
        playback.schedule(round(stamp * SECOND), now)
        seen.append(int(np.sign(playback.jump)))
        now += max(playback.remaining(now), 0.0)
        playback.advance()
        at.append(now - 7.0)
    assert at == pytest.approx(times, abs=1e-5)
    assert seen == jumps
    slow = Playback(0.0, 1.0, gap=5.0, paused=False)  # of one image in five seconds
    slow.schedule(0, 0.0)
    slow.advance()
    slow.schedule(60 * SECOND, 0.0)
    assert (slow.jump, slow.remaining(0.0)) == (0.0, 60.0)


def test_what_is_late_is_not_made_up_for():
    playback = Playback(10.0, 1.0, 0.1, paused=False)
    playback.schedule(0, 100.0)
    playback.advance()
    playback.schedule(SECOND, 100.5)  # reading took 0.5 s
    assert playback.remaining(100.5) == pytest.approx(0.0)
    playback.advance()
    playback.schedule(2 * SECOND, 100.51)
    assert playback.remaining(100.51) == pytest.approx(0.09)


@pytest.mark.parametrize("paused", [False, True])
def test_an_image_that_is_held_back_shifts_the_rest(paused):
    """As by a busy front-end, in a pause or not: no burst after it."""
    playback = Playback(10.0, 1.0, 0.1, paused=False)
    playback.schedule(0, 100.0)
    playback.advance()
    playback.schedule(SECOND, 100.0)
    if paused:
        playback.pause(100.05)
    playback.delay(100.05)  # before it is due: no difference
    if paused:
        playback.resume(100.05)
    assert playback.remaining(100.05) == pytest.approx(0.05)
    playback.delay(100.7)
    assert playback.time(100.7) == SECOND  # the clock stands
    assert playback.remaining(100.7) == pytest.approx(0.0)
    playback.advance()
    playback.schedule(2 * SECOND, 100.7)
    assert playback.remaining(100.7) == pytest.approx(0.1)


def test_the_clock_goes_from_image_to_image_and_stands_in_a_pause():
    playback = Playback(0.0, 0.5, 0.1, paused=False)
    assert playback.time(1.0) is None
    playback.schedule(10 * SECOND, 1.0)
    assert playback.time(1.0) == 10 * SECOND  # before the first image is out
    playback.advance()
    playback.schedule(12 * SECOND, 1.0)
    assert playback.time(2.0) == 10.5 * SECOND
    assert playback.time(9.0) == 12 * SECOND  # never beyond an image that is not out
    playback.pause(2.0)
    assert playback.remaining(50.0) is None
    assert playback.time(50.0) == 10.5 * SECOND
    playback.pause(51.0)
    playback.resume(100.0)
    assert playback.time(101.0) == 11 * SECOND
    assert playback.remaining(101.0) == pytest.approx(2.0)
    playback.resume(102.0)
    assert playback.remaining(102.0) == pytest.approx(1.0)


def test_steps_move_the_clock_of_a_pause():
    playback = Playback(0.0, 1.0, 0.1, paused=True)
    for stamp in (5, 6, 8):
        playback.schedule(stamp * SECOND, 1.0)
        assert playback.remaining(1.0) is None
        playback.advance()
        assert playback.time(77.0) == stamp * SECOND
    playback.schedule(9 * SECOND, 200.0)
    playback.resume(300.0)
    assert playback.remaining(300.0) == pytest.approx(1.0)
    assert playback.time(300.25) == 8.25 * SECOND


def test_the_clock_waits_for_the_first_image_of_the_next_loop():
    playback = Playback(0.0, 1.0, 0.1, paused=False)
    play(playback, [5.0, 6.0], start=0.0)
    playback.schedule(5 * SECOND, 1.0)
    assert playback.time(1.09) == 6 * SECOND
    assert playback.remaining(1.0) == pytest.approx(0.1)
    playback.advance()
    assert playback.time(1.1) == 5 * SECOND
