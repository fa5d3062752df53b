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

"""Features of the last images, on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aliked_ros.backends.gpu.device import Array, Device, DeviceArray
from aliked_ros.types import Float32Array

_Place = tuple[int, tuple[int, ...], np.dtype[Any]]  # first byte, shape, type
_ALIGNED = 256  # bytes: what TensorRT wants of an array's place


@dataclass(frozen=True, slots=True)
class Layout:
    """How an image's features lie in one piece of memory, so that one copy moves them.

    dim: numbers in a descriptor, of type ``dtype``.
    """

    rows: int
    dim: int
    dtype: str

    @property
    def places(self) -> dict[str, _Place]:
        """First byte, shape and type of each array."""
        found: dict[str, _Place] = {}
        start = 0
        for name, shape, dtype in (
            ("keypoints", (self.rows, 2), "float32"),
            ("descriptors", (self.rows, self.dim), self.dtype),
            ("scores", (self.rows,), "float32"),
            ("count", (1,), "int32"),
        ):
            kind = np.dtype(dtype)
            found[name] = start, shape, kind
            start += -(-int(np.prod(shape)) * kind.itemsize // _ALIGNED) * _ALIGNED
        return found

    @property
    def nbytes(self) -> int:
        """Of the whole piece."""
        return self.places["count"][0] + _ALIGNED

    def views(self, content: Array) -> dict[str, Array]:
        """The arrays in ``content``, its bytes."""
        return {
            name: content[start : start + int(np.prod(shape)) * kind.itemsize]
            .view(kind)
            .reshape(shape)
            for name, (start, shape, kind) in self.places.items()
        }


class FeatureBlock:
    """Memory on the device for an image's features.

    memory: its bytes. arrays: those bytes by name.
    owner: the descriptors that were made of what is in it, None while there are none.
    """

    def __init__(self, device: Device, layout: Layout) -> None:
        self.layout = layout
        self.memory = device.zeros((layout.nbytes,), np.dtype(np.uint8))
        self.arrays: dict[str, DeviceArray] = {
            name: self.memory.part(*place) for name, place in layout.places.items()
        }
        self.owner: Float32Array | None = None

    def free(self) -> None:
        """Give the memory back."""
        for array in (*self.arrays.values(), self.memory):
            array.free()


class FeatureCache:
    """The last few extractions' features, on the device, found again by what was made of them.

    Matching two images of a sequence needs no upload: the arrays in their Features are the very
    arrays that the extractor returned.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._blocks: list[FeatureBlock] = []  # the latest last

    def keep(self, source: FeatureBlock, count: int) -> FeatureBlock:
        """Copy an extraction's features; keep those of ``count`` images.

        They are found once the copy has an ``owner``.
        """
        while len(self._blocks) > count:
            self._blocks.pop(0).free()
        block = self._blocks.pop(0) if len(self._blocks) == count else None
        if block is not None and block.layout != source.layout:
            block.free()
            block = None
        if block is None:
            block = FeatureBlock(self._device, source.layout)
        block.owner = None
        try:
            self._device.copy(block.memory, source.memory)
        except BaseException:
            block.free()
            raise
        self._blocks.append(block)
        return block

    def find(self, descriptors: Float32Array) -> FeatureBlock | None:
        """What is on the device of the features with this very array of descriptors."""
        return next((block for block in self._blocks if block.owner is descriptors), None)

    def free(self) -> None:
        """Forget all."""
        while self._blocks:
            self._blocks.pop().free()
