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

"""Depth images of the transport ``compressedDepth``: PNG or RVL, in a CompressedImage.

The format of `compressed_depth_image_transport
<https://github.com/ros-perception/image_transport_plugins>`_: 12 bytes (an int32, and two float32
A and B), then the picture. A 16UC1 image is stored as it is. A 32FC1 image is stored as 16-bit
inverse depth: A / (value - B) metres. 0 means none in both. RVL (Wilson, 2017) is an int32 width
and height, then groups of four bits: runs of zeros, and differences of the other values.
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from aliked_ros.errors import ImageError
from aliked_ros.io.images import MAX_SIDE, damage_of, depth_in_metres, quiet_opencv
from aliked_ros.types import Float32Array

_HEADER = struct.Struct("<iff")
_PNG = b"\x89PNG\r\n\x1a\n"
_LONGEST = 8  # groups of a number: differences of 16-bit values need 6
_DENSEST = 1032 * 8  # pixels in a byte of PNG


def decode_compressed_depth(message: Any) -> Float32Array:
    """H×W metres of a CompressedImage, NaN = none.

    Raises ImageError for another format, and for damaged data.
    """
    source, _, form = (part.strip() for part in message.format.partition(";"))
    kind = form.removeprefix("compressedDepth").strip() or "png"
    if source not in ("16UC1", "mono16", "32FC1") or not (
        form.startswith("compressedDepth") or not form
    ):
        raise ImageError(
            f"depth image has format {message.format!r}; publish 16UC1 or 32FC1 by the transport "
            "compressedDepth, or raw."
        )
    if kind not in ("png", "rvl"):
        raise ImageError(
            f"depth image has format {message.format!r}; set the publisher's format to png or rvl."
        )
    data = bytes(message.data)
    try:
        _, scale, offset = _HEADER.unpack_from(data)
        stored = (_png if kind == "png" else _rvl)(data[_HEADER.size :])
    except (struct.error, ImageError) as error:
        raise ImageError(
            f"depth image of format {message.format!r} and {len(data)} bytes cannot be decoded: "
            f"{str(error).rstrip('.')}. Check the publisher."
        ) from error
    if source != "32FC1":
        return depth_in_metres(stored)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        metres = np.float32(scale) / (stored.astype(np.float32) - np.float32(offset))
    return depth_in_metres(np.where(stored == 0, np.float32(np.nan), metres))


def _png(data: bytes) -> NDArray[np.uint16]:
    view = memoryview(data)
    if not data.startswith(_PNG):
        raise ImageError("it is no PNG")
    if damage := damage_of(view):
        raise ImageError(damage)
    width, height = struct.unpack_from(">II", data, 16)
    _check_size(width, height, len(data) * _DENSEST)
    try:
        with quiet_opencv():
            stored: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        stored = None
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
        raise ImageError("it is no PNG of one 16-bit channel")
    return np.asarray(stored, np.uint16)


def _rvl(data: bytes) -> NDArray[np.uint16]:
    width, height = struct.unpack_from("<II", data)
    _check_size(width, height, MAX_SIDE * MAX_SIDE)
    numbers = _numbers(data[8:])
    starts, lengths, position, begin = [], [], 0, 0
    size = width * height
    while position < size:
        if begin + 1 >= len(numbers):
            raise ImageError(f"it ends after {position} of {size} pixels")
        zeros, others = int(numbers[begin]), int(numbers[begin + 1])
        if zeros + others == 0 or position + zeros + others > size:
            raise ImageError(f"its runs do not fit {width}×{height} pixels")
        starts.append(position + zeros)
        lengths.append(others)
        numbers[begin] = numbers[begin + 1] = -1
        position += zeros + others
        begin += 2 + others
    if begin > len(numbers):
        raise ImageError("it ends before its last run")
    codes = numbers[:begin]
    codes = codes[codes >= 0]
    values = np.cumsum((codes >> 1) ^ -(codes & 1)).astype(np.uint16)
    pixels = np.zeros(size, np.uint16)
    ends = np.cumsum(lengths)
    pixels[np.arange(len(values)) + np.repeat(starts - ends + lengths, lengths)] = values
    return pixels.reshape(height, width)


def _numbers(data: bytes) -> NDArray[np.int64]:
    """The numbers in RVL data: three bits in a group of four, whose first bit says: more follows.

    The groups of a 32-bit word (little-endian) begin at its top.
    """
    words = np.frombuffer(data, "<u4", len(data) // 4).astype(">u4").view(np.uint8)
    groups = np.stack([words >> 4, words & 15], axis=1).ravel().astype(np.int64)
    ends = np.flatnonzero(groups < 8)
    if not len(ends):
        raise ImageError("it is empty")
    begins = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - begins + 1
    if lengths.max() > _LONGEST:
        raise ImageError("it holds a number of more than 24 bits")
    groups = groups[: ends[-1] + 1] & 7
    shifts = 3 * (np.arange(len(groups)) - np.repeat(begins, lengths))
    return np.add.reduceat(groups << shifts, begins)


def _check_size(width: int, height: int, most: int) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= most):
        raise ImageError(f"it claims to be {width}×{height} pixels")
