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

"""What the networks ask of a device that has memory of its own, and how a build is reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aliked_ros.backends.gpu.engines import Network

Array = NDArray[Any]

_TELL = 5.0  # seconds between two lines on a build


class DeviceArray(Protocol):
    """An array in the device's memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def part(self, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """An array in the memory of this one, of bytes, from byte ``start`` on.

        Not to be used after this one's memory was given back.
        """
        ...

    def free(self) -> None:
        """Give the memory back, unless it is a part."""
        ...


class DeviceNetwork(Protocol):
    """A graph that is ready to run on its own inputs and outputs, whose places never change.

    label: name and checksum of the engine, empty where there is none.
    """

    label: str
    inputs: Mapping[str, DeviceArray]
    outputs: Mapping[str, DeviceArray]

    def run(self) -> None:
        """Start computing the outputs."""
        ...

    def close(self) -> None:
        """Give the memory back, except that of given arrays."""
        ...


class Device(Protocol):
    """Does what it is asked to in that order; only reading waits for results.

    Every operation raises BackendError with the cause when the memory is full or the device lost.

    kind: the ``backend`` that it serves. name: of the device and the library, for people.
    most_keypoints: that it can find in an image.
    """

    kind: str
    name: str
    most_keypoints: int

    def load(
        self,
        network: Network,
        progress: BuildProgress,
        size: tuple[int, int] | None = None,
        given: Mapping[str, DeviceArray] | None = None,
    ) -> DeviceNetwork:
        """Make a network ready.

        size: (width, height) of the images, of a network that takes several.
        given: arrays, by name, that its inputs and outputs which are so called are to lie in.
        """
        ...

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """Memory for an array of zeros: a network that is loaded computes with it at once."""
        ...

    def write(self, target: DeviceArray, values: Array) -> None:
        """Copy to the device; ``values`` may be changed at once."""
        ...

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Copy within the device."""
        ...

    def read(self, *arrays: DeviceArray) -> list[Array]:
        """Copies of arrays, in memory of the caller's own."""
        ...

    def fetch(self, *arrays: DeviceArray) -> Callable[[], list[Array]]:
        """Begin to ``read``; returns a function that waits for it, not for what is asked for later.

        Call that before the same arrays are fetched or written again.
        """
        ...

    def memory_in_use(self) -> int:
        """Bytes of the GPU's memory that are not free, whoever has them."""
        ...

    def close(self) -> None:
        """Give back what is left."""
        ...


class BuildProgress:
    """Progress of engine builds as log lines; what ``tell`` raises ends the build."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self._what = ""
        self._begin = self._told = 0.0

    def report(self, what: str, share: float) -> None:
        """Log at the start and every few seconds, with an ETA once known."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._begin, self._told = what, now, now
            self.tell(what)
        elif now - self._told >= _TELL:
            self._told = now
            spent = now - self._begin
            left = f", about {spent / share - spent:.0f} s left" if share > 0.05 else ""
            self.tell(f"{what}: {share:.0%} after {spent:.0f} s{left}")
