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

"""Where features are not wanted: a file, a topic, and the border that rectification left empty."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage

from aliked_ros.errors import ConfigurationError, ImageError
from aliked_ros.frontend.masks import combine
from aliked_ros.ros.conversions import border_from_message, mask_from_message
from aliked_ros.ros.declarations import Settings
from aliked_ros.ros.warnings import Warnings
from aliked_ros.types import UInt8Array


class Masks:
    """All masks of one camera as one; 0 = ignore.

    A mask that does not fit the images is warned of and left out.
    """

    def __init__(
        self, file: UInt8Array | None, border: bool, settings: Settings, warnings: Warnings
    ) -> None:
        """``file``: the static mask. ``border``: mask what rectification left empty."""
        self._file = file
        self._border = border
        self._ignored = mask_values(settings["mask_values"])
        self._stamped = settings["mask_sync"] == "stamped"
        self._keeps_latest = settings["mask_missing"] == "latest"
        self._warnings = warnings
        self._latest: UInt8Array | None = None
        self._known_border: tuple[CameraInfo, UInt8Array] | None = None

    def set_message(self, message: ImageMessage) -> None:
        """The mask of all following images, until another comes."""
        try:
            self._latest = mask_from_message(message, self._ignored)
        except ImageError as error:
            self._warnings.warn("mask", f"Mask ignored: {error}")
        else:
            self._warnings.clear("mask")

    def attach(self, message: ImageMessage | None) -> None:
        """With ``mask_sync: stamped``: the mask of the next image; None = none came in time."""
        if message is not None:
            self.set_message(message)
        elif not self._keeps_latest:
            self._latest = None

    def mask(self, width: int, height: int, info: CameraInfo | None) -> UInt8Array | None:
        """The mask of an image of this size, None = nothing is masked."""
        candidates = {
            "mask_file": self._file,
            "mask topic": self._latest,
            "mask_border": self._rectified_border(info) if self._border else None,
        }
        fitting = []
        for name, mask in candidates.items():
            if mask is not None and mask.shape != (height, width):
                self._warnings.warn(
                    f"size of {name}",
                    f"The mask of {name} is {mask.shape[1]}×{mask.shape[0]} pixels, the images "
                    f"are {width}×{height}: it is ignored. Give one of the images' size.",
                )
                continue
            self._warnings.clear(f"size of {name}")
            if mask is not None:
                fitting.append(mask)
        return combine(*fitting)

    def _rectified_border(self, info: CameraInfo | None) -> UInt8Array | None:
        if info is None:
            return None
        if self._known_border is None or self._known_border[0] is not info:
            try:
                border = border_from_message(info)
            except ConfigurationError as error:
                self._warnings.warn("mask_border", f"No mask_border: {error}")
                return None
            self._warnings.clear("mask_border")
            self._known_border = (info, border)
        return self._known_border[1]


def mask_values(text: str) -> tuple[int, ...]:
    """The values of parameter ``mask_values``; ConfigurationError if it is no list of numbers."""
    try:
        return tuple(int(one) for one in text.split(","))
    except ValueError as error:
        raise ConfigurationError(
            f"mask_values is {text!r}; give whole numbers and commas, such as '0' or '11,12,13'."
        ) from error
