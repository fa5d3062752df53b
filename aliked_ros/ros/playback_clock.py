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

"""When the images of a source are due, and what time it is in the recording meanwhile.

Knows nothing of ROS. Wall times are seconds of a steady clock, stamps nanoseconds.
"""

from __future__ import annotations

_SECOND = 1e9  # nanoseconds
_PAUSE = 10.0, 20.0  # seconds, and usual intervals: a longer gap is not waited for


class Playback:
    """Goes from image to image: in the time of their stamps, scaled, or at a rate.

    An implausible gap, of hours or years, is skipped and reported by ``jump``.

    jump: seconds from the latest stamp to the next, where the next image follows after the usual
        interval instead: below 0, or very long; else 0.

    An image that is read too late, or held back, shifts all that follow: a camera that stalls does
    not make up for it in a burst.
    """

    def __init__(self, rate: float, speed: float, gap: float, paused: bool) -> None:
        """Nothing is known of the images yet.

        rate: images a second, 0 = by their stamps. speed: seconds of stamps in a second.
        gap: the usual interval: from an image to one with an earlier stamp, as at the start of
        the next loop, or far ahead.
        """
        self._rate = rate
        self._speed = speed
        self._gap = gap
        self._since = 0.0  # wall time of the latest image; while paused the time gone since then
        self._wait = 0.0  # seconds from the latest image to the next one
        self._latest: int | None = None  # stamps
        self._next: int | None = None
        self.jump = 0.0
        self.paused = paused

    def schedule(self, stamp: int, now: float) -> None:
        """The next image has been read."""
        self._next = stamp
        if self._latest is None:
            self._wait = 0.0
            self._since = 0.0 if self.paused else now
            return
        step = (stamp - self._latest) / _SECOND
        longest = max(_PAUSE[0], _PAUSE[1] * self._gap)
        self.jump = 0.0 if self._rate or 0.0 <= step <= longest else step
        if self._rate:
            self._wait = 1.0 / self._rate
        else:
            self._wait = (self._gap if self.jump else step) / self._speed
        self.delay(now)

    def delay(self, now: float) -> None:
        """The next image could not be published before now."""
        gone = self._since if self.paused else now - self._since
        self._wait = max(self._wait, gone)

    def remaining(self, now: float) -> float | None:
        """Seconds until the next image is due; None while paused."""
        return None if self.paused else self._since + self._wait - now

    def advance(self) -> None:
        """The next image has been published: on time, or by a step while paused."""
        self._since = 0.0 if self.paused else self._since + self._wait
        self._latest, self._wait = self._next, 0.0

    def time(self, now: float) -> int | None:
        """The stamp of this moment: at most the next image's; None while no image is known."""
        if self._latest is None or self._next is None:
            return self._next
        gone = self._since if self.paused else now - self._since
        share = min(max(gone / self._wait, 0.0), 1.0) if self._wait > 0.0 else 0.0
        return self._latest + round(max(self._next - self._latest, 0) * share)

    def pause(self, now: float) -> None:
        """Stand still."""
        if not self.paused:
            self.paused = True
            self._since = now - self._since

    def resume(self, now: float) -> None:
        """Go on where it was paused."""
        if self.paused:
            self.paused = False
            self._since = now - self._since
