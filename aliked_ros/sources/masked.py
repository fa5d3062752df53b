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

"""A source whose images have a mask, e.g. of the robot's own parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from aliked_ros.errors import ImageError
from aliked_ros.sources.base import Source
from aliked_ros.types import Image, UInt8Array


class MaskedSource:
    """Gives the images of a source with ``mask`` (H×W uint8, 0 = ignore) over their own masks.

    Iterating raises ImageError for an image of another size than the mask.
    """

    def __init__(self, source: Source, mask: UInt8Array) -> None:
        self._source, self._mask = source, mask
        self.name, self.rate = source.name, source.rate
        self.length, self.calibration = source.length, source.calibration
        self.skipped, self.first = 0, source.first

    def __iter__(self) -> Iterator[Image]:
        """See ``Source``."""
        self._source.first = self.first
        try:
            yield from self._masked()
        finally:
            self.skipped = self._source.skipped

    def _masked(self) -> Iterator[Image]:
        for image in self._source:
            size, own = image.pixels.shape[1::-1], self._mask.shape[::-1]
            if size != own:
                raise ImageError(
                    "The mask is {}×{} pixels, the image {}×{}; give a mask of the images' "
                    "size.".format(*own, *size)
                )
            both = self._mask if image.mask is None else np.minimum(self._mask, image.mask)
            yield replace(image, mask=both)
