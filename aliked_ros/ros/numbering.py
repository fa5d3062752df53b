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

"""Frame indices, epochs and exact stamps over the node's life."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from builtin_interfaces.msg import Time

from aliked_ros.ros.conversions import stamp_from_seconds
from aliked_ros.types import FrameResult, Keyframe

_EPOCHS = 1 << 32  # a uint32 holds them


class Epochs:
    """Counts epochs over the life of the node.

    They start at the time of the node's start, so that a node that crashed and was respawned does
    not use them again; or with ``first``.
    """

    def __init__(self, first: int | None = None) -> None:
        # Hundredths of a second: more than there can be resets, which come with images at most.
        self._first = int(time.time() * 100.0) if first is None else first

    def retire(self, epoch: int) -> None:
        """The pipeline is freed in this epoch of its own: its ids never come back."""
        self._first += epoch + 1

    def number(self, epoch: int) -> int:
        """The number to publish for an epoch of the pipeline."""
        return (self._first + epoch) % _EPOCHS


class Numbering:
    """Counts images from activation and keeps exact stamps.

    Seconds in a float do not hold a stamp's nanoseconds.
    """

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs
        self._first_index: int | None = None
        self._stamps: dict[int, Time] = {}

    def index(self, index: int) -> int:
        """The number, counted from activation, of an image by the pipeline's own number."""
        return index - (self._first_index or 0)

    def epoch(self, epoch: int) -> int:
        """The number to publish for an epoch of the pipeline."""
        return self._epochs.number(epoch)

    def renumbered(
        self, result: FrameResult, stamp: Time, keyframes: Iterable[Keyframe]
    ) -> FrameResult:
        """The result of the image of this stamp; keyframes: those that can still be asked for."""
        if self._first_index is None:
            self._first_index = result.index
        reference = result.reference_index
        result = replace(
            result,
            index=self.index(result.index),
            reference_index=None if reference is None else self.index(reference),
            tracks=replace(result.tracks, epoch=self._epochs.number(result.tracks.epoch)),
        )
        self._stamps[result.index] = stamp
        needed = {result.index, result.reference_index, *(self.index(k.index) for k in keyframes)}
        self._stamps = {index: time for index, time in self._stamps.items() if index in needed}
        return result

    def reference_stamp(self, result: FrameResult) -> Time:
        """The stamp of the image a renumbered result was matched with, else its own."""
        if result.reference_index is None or result.reference_stamp is None:
            return self.stamp(result.index, result.stamp)
        return self.stamp(result.reference_index, result.reference_stamp)

    def stamp(self, index: int, seconds: float) -> Time:
        """The exact stamp of an image by its number here, that nearest to ``seconds`` if lost."""
        return self._stamps.get(index, stamp_from_seconds(seconds))
