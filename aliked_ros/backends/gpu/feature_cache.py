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

from collections.abc import Mapping

from aliked_ros.backends.gpu.device import Device, DeviceArray
from aliked_ros.types import Float32Array

KEPT = ("keypoints", "descriptors", "count")
"""Of an extraction's outputs."""


class FeatureCache:
    """The last few extractions' features, on the device, found again by what was made of them.

    Matching two images of a sequence needs no upload: the arrays in their Features are the very
    arrays that the extractor returned.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._entries: list[tuple[Float32Array, dict[str, DeviceArray]]] = []  # the latest last

    def keep(
        self, outputs: Mapping[str, DeviceArray], descriptors: Float32Array, count: int
    ) -> None:
        """Copy the outputs that ``descriptors`` were made of; keep those of ``count`` images."""
        while len(self._entries) > count:
            _free(self._entries.pop(0)[1])
        arrays = self._entries.pop(0)[1] if len(self._entries) == count else {}
        try:
            for name in KEPT:
                source = outputs[name]
                if name in arrays and arrays[name].shape != source.shape:
                    arrays.pop(name).free()
                if name not in arrays:
                    arrays[name] = self._device.empty(source.shape, source.dtype)
                self._device.copy(arrays[name], source)
        except BaseException:
            _free(arrays)
            raise
        self._entries.append((descriptors, arrays))

    def find(self, descriptors: Float32Array) -> dict[str, DeviceArray] | None:
        """What is on the device of the features with this very array of descriptors."""
        return next((arrays for owner, arrays in self._entries if owner is descriptors), None)

    def free(self) -> None:
        """Forget all."""
        while self._entries:
            _free(self._entries.pop()[1])


def _free(arrays: Mapping[str, DeviceArray]) -> None:
    for array in arrays.values():
        array.free()
