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

"""Pairs each image with its partner (the right image, or the depth image) by stamp.

Knows nothing of ROS. Unlike message_filters it releases an image alone when its partner does not
come, and measures how far apart the two streams are. :class:`Synchronizer` has its interface.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar

from aliked_ros.io.messages import nanoseconds

ImageT = TypeVar("ImageT")
PartnerT = TypeVar("PartnerT")

_CAPACITY = 20  # images that wait, and partners that are kept


@dataclass(frozen=True, slots=True)
class Pair(Generic[ImageT, PartnerT]):
    """An image that has waited long enough.

    partner: None = it goes alone.
    offset: seconds from its stamp to that of the nearest partner known, whether that is near
        enough or not; None = none has come yet.
    """

    image: ImageT
    partner: PartnerT | None
    offset: float | None


class Pairing(Generic[ImageT, PartnerT]):
    """Holds images until their partner is certain or their wait is over; not thread-safe.

    delay: seconds from the arrival of an image that had to go alone to that of the latest partner,
        which was its own and too late; None = the latest partner was not.

    Each method returns the images that are released now, in order of arrival: an image
    never overtakes an older one, which goes alone then. Stamps are nanoseconds, ``now`` is any
    steady clock in seconds. Only stamps near each other matter, not their order, so that a clock
    that jumps needs no special care.
    """

    def __init__(self, tolerance: float, wait: float, capacity: int = _CAPACITY) -> None:
        """``tolerance``, ``wait``: seconds; tolerance 0 pairs equal stamps only.

        capacity: images that wait, and partners that are kept.
        """
        self._capacity = capacity
        self._tolerance = round(tolerance * 1e9)
        self._wait = wait
        self._images: deque[tuple[int, float, ImageT]] = deque()  # stamp, deadline, image
        self._partners: deque[tuple[int, PartnerT]] = deque(maxlen=capacity)
        self._alone: deque[tuple[int, float]] = deque(maxlen=capacity)  # stamp, arrival
        self.delay: float | None = None

    def __len__(self) -> int:
        """Images that wait."""
        return len(self._images)

    @property
    def deadline(self) -> float | None:
        """When :meth:`release` has something to do next; None = nothing waits."""
        return self._images[0][1] if self._images else None

    def add_image(self, stamp: int, image: ImageT, now: float) -> Sequence[Pair[ImageT, PartnerT]]:
        """An image has come."""
        self._images.append((stamp, now + self._wait, image))
        return self.release(now)

    def add_partner(
        self, stamp: int, partner: PartnerT, now: float
    ) -> Sequence[Pair[ImageT, PartnerT]]:
        """A partner has come."""
        self._partners.append((stamp, partner))
        missed = (now - at for own, at in self._alone if abs(own - stamp) <= self._tolerance)
        self.delay = min(missed, default=None)
        return self.release(now)

    def release(self, now: float) -> Sequence[Pair[ImageT, PartnerT]]:
        """To be called at :attr:`deadline`."""
        ready = max(0, len(self._images) - self._capacity)
        for count, (stamp, deadline, _) in enumerate(self._images, 1):
            if now >= deadline or self._is_certain(stamp):
                ready = max(ready, count)
        return [self._pair(*self._images.popleft()) for _ in range(ready)]

    def _is_certain(self, stamp: int) -> bool:
        """Whether the nearest partner is near enough and no nearer one can follow."""
        nearest = self._nearest(stamp)
        if nearest is None or abs(nearest[0] - stamp) > self._tolerance:
            return False
        steps = (after - before for (before, _), (after, _) in pairwise(self._partners))
        step = min((step for step in steps if step > 0), default=0)
        return nearest[0] >= stamp or 2 * (stamp - nearest[0]) <= step

    def _pair(self, stamp: int, deadline: float, image: ImageT) -> Pair[ImageT, PartnerT]:
        nearest = self._nearest(stamp)
        if nearest is not None and abs(nearest[0] - stamp) <= self._tolerance:
            return Pair(image, nearest[1], (nearest[0] - stamp) * 1e-9)
        self._alone.append((stamp, deadline - self._wait))
        return Pair(image, None, None if nearest is None else (nearest[0] - stamp) * 1e-9)

    def _nearest(self, stamp: int) -> tuple[int, PartnerT] | None:
        newest_first = reversed(self._partners)
        return min(newest_first, key=lambda known: abs(known[0] - stamp), default=None)


class MessageFilter(Protocol):
    """What message_filters calls a filter: its Subscriber, Cache and synchronizers, and ours."""

    def registerCallback(self, callback: Callable[..., Any], *args: Any) -> Any:
        """Have ``callback(message, *args)`` called with each message."""
        ...


class Synchronizer:
    """:class:`Pairing` where message_filters' synchronizers of two inputs stand, or the reverse.

    The callback takes an image and its partner. ``release`` is to be called by a timer, about twice
    in ``wait``, where the last image must not wait for the next message.
    """

    def __init__(
        self,
        fs: Sequence[MessageFilter],
        queue_size: int,
        slop: float = 0.0,
        *,
        wait: float = 0.1,
        alone: bool = False,
    ) -> None:
        """fs: the images' filter and the partners'; messages need a header. slop, wait: seconds.

        queue_size: messages kept of each. alone: images whose partner does not come go on with
        None; otherwise they are dropped, as message_filters does.
        """
        images, partners = fs
        self._pairing: Pairing[Any, Any] = Pairing(slop, wait, queue_size)
        self._alone = alone
        self._callbacks: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._lock = threading.RLock()
        images.registerCallback(partial(self._add, self._pairing.add_image))
        partners.registerCallback(partial(self._add, self._pairing.add_partner))

    def registerCallback(self, callback: Callable[..., Any], *args: Any) -> int:
        """Have ``callback(image, partner, *args)`` called with each pair, in order."""
        self._callbacks.append((callback, args))
        return len(self._callbacks) - 1

    def release(self) -> None:
        """Send on the images that have waited long enough."""
        with self._lock:
            self._signal(self._pairing.release(time.monotonic()))

    def _add(self, add: Callable[..., Sequence[Pair[Any, Any]]], message: Any) -> None:
        with self._lock:
            self._signal(add(nanoseconds(message.header.stamp), message, time.monotonic()))

    def _signal(self, pairs: Sequence[Pair[Any, Any]]) -> None:
        for pair in pairs:
            if pair.partner is None and not self._alone:
                continue
            for callback, args in self._callbacks:
                callback(pair.image, pair.partner, *args)
