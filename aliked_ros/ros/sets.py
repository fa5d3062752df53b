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

"""Sets of images that several cameras took at the same time, put together by stamp.

Knows nothing of ROS. A late or dead camera delays a set by a bounded time, and is not in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

_CAPACITY = 20  # sets that wait, and sets gone whose late images are known
SILENT = 10  # sets in a row without an image, after which a camera is not waited for


@dataclass(slots=True, eq=False)
class ItemSet(Generic[T]):
    """Items of one moment, by camera. stamp: of the first to come, nanoseconds."""

    stamp: int
    opened: float
    items: dict[str, T] = field(default_factory=dict)


class Sets(Generic[T]):
    """Collects sets until they are complete or their wait is over; not thread-safe.

    delays: by camera, seconds from the opening of a set to its item that came too late. offsets: by
    camera, seconds from its last item but one to the nearest of others, where it fitted none.

    A set waits for every camera that takes part, but not for one that has a later image already,
    nor for one that was in none of the last ten sets. Sets are released in the order in which they
    were opened. Stamps are nanoseconds, ``now`` is any steady clock in seconds.
    """

    def __init__(self, tolerance: float, wait: float) -> None:
        """``tolerance``, ``wait``: seconds; tolerance 0 joins equal stamps only."""
        self._tolerance = round(tolerance * 1e9)
        self._wait = wait
        self._open: deque[ItemSet[T]] = deque()
        self._gone: deque[ItemSet[T]] = deque(maxlen=_CAPACITY)
        self._latest: dict[str, int] = {}  # stamp of each camera's latest item
        self._silence: dict[str, int] = {}  # sets since then, of the cameras that take part
        self._apart: dict[str, float] = {}  # as offsets, of items whose successors are to come
        self.delays: dict[str, float] = {}
        self.offsets: dict[str, float] = {}

    def join(self, camera: str) -> None:
        """The camera takes part from now on."""
        self._silence[camera] = 0

    def leave(self, camera: str) -> int:
        """The camera takes no part any more; how many of its items waited, which are dropped."""
        self._silence.pop(camera, None)
        self._latest.pop(camera, None)
        for distances in (self._apart, self.offsets, self.delays):
            distances.pop(camera, None)
        return sum(one.items.pop(camera, None) is not None for one in self._open)

    @property
    def deadline(self) -> float | None:
        """When :meth:`release` has something to do next; None = nothing waits."""
        return self._open[0].opened + self._wait if self._open else None

    def add(self, camera: str, stamp: int, item: T, now: float) -> bool:
        """Take an item; False if its set has gone without it, and it is dropped."""
        self._latest[camera], self._silence[camera] = stamp, 0
        near = self._nearest(self._open, camera, stamp)
        if near is not None and abs(near.stamp - stamp) <= self._tolerance:
            near.items[camera] = item
            self.delays.pop(camera, None)
            for name in near.items:
                self.offsets.pop(name, None)
                self._apart.pop(name, None)
            return True
        missed = self._nearest(self._gone, camera, stamp)
        if missed is not None and abs(missed.stamp - stamp) <= self._tolerance:
            self.delays[camera] = now - missed.opened
            return False
        others = {
            name: abs(its - stamp) * 1e-9 for name, its in self._latest.items() if name != camera
        }
        for name in others.keys() & self._apart.keys():  # it may be nearer than those before
            self._apart[name] = min(self._apart[name], others[name])
        if camera in self._apart:
            self.offsets[camera] = self._apart.pop(camera)
        if others:
            self._apart[camera] = min(others.values())
        self._open.append(ItemSet(stamp, now, {camera: item}))
        return True

    def release(self, now: float) -> Sequence[ItemSet[T]]:
        """The sets that go now; to be called after :meth:`add` and at :attr:`deadline`."""
        released = []
        while self._open and (
            len(self._open) > _CAPACITY
            or now >= self._open[0].opened + self._wait
            or self._is_ready(self._open[0])
        ):
            one = self._open.popleft()
            self._gone.append(one)
            for camera in self._silence.keys() - one.items.keys():
                self._silence[camera] += 1
            if one.items:
                released.append(one)
        return released

    def _is_ready(self, one: ItemSet[T]) -> bool:
        end = one.stamp + self._tolerance
        return all(
            camera in one.items or silence >= SILENT or self._latest.get(camera, 0) > end
            for camera, silence in self._silence.items()
        )

    def _nearest(self, sets: deque[ItemSet[T]], camera: str, stamp: int) -> ItemSet[T] | None:
        """Of the sets that lack the camera."""
        lacking = [one for one in sets if camera not in one.items]
        return min(lacking, key=lambda one: abs(one.stamp - stamp), default=None)
