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

"""Numbers and stamps of the node's images, where the pipeline's own do not do."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from builtin_interfaces.msg import Time

from aliked_ros.ros.conversions import stamp_from_seconds
from aliked_ros.types import FrameResult, Keyframe

_EPOCHS = 1 << 32  # a uint32 holds them


class Numbering:
    """Counts images from activation and epochs over the life of the node; keeps exact stamps.

    Epochs start at the time of the node's start, so that those of a node that crashed do not come
    again when it is respawned. Seconds in a float do not hold a stamp's nanoseconds.
    """

    def __init__(self) -> None:
        # Hundredths of a second: more than there can be resets, which come with images at most.
        self._first_epoch = int(time.time() * 100.0)
        self.restart()

    def restart(self) -> None:
        """The next image is number 0."""
        self._first_index: int | None = None
        self._stamps: dict[int, Time] = {}

    def retire(self, epoch: int) -> None:
        """The pipeline is freed, in this epoch of its own: its ids never come back."""
        self._first_epoch += epoch + 1

    def epoch(self, epoch: int) -> int:
        """An epoch of the pipeline, counted over the life of the node."""
        return (self._first_epoch + epoch) % _EPOCHS

    def index(self, index: int) -> int:
        """A number of the pipeline's, counted from activation."""
        return index - (self._first_index or 0)

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
            tracks=replace(result.tracks, epoch=self.epoch(result.tracks.epoch)),
        )
        self._stamps[result.index] = stamp
        needed = {result.index, result.reference_index, *(self.index(k.index) for k in keyframes)}
        self._stamps = {index: self._stamps[index] for index in needed & self._stamps.keys()}
        return result

    def reference_stamp(self, result: FrameResult) -> Time:
        """Of the image that a renumbered result was matched with; its own where there is none."""
        if result.reference_index is None or result.reference_stamp is None:
            return self.stamp(result.index, result.stamp)
        return self.stamp(result.reference_index, result.reference_stamp)

    def stamp(self, index: int, seconds: float) -> Time:
        """The exact stamp of an image by its number here, that nearest to ``seconds`` if lost."""
        return self._stamps.get(index, stamp_from_seconds(seconds))
