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

"""Decoding JPEG, PNG and the like: one rule of what a whole image is, for files and messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np

from aliked_ros.errors import ImageError
from aliked_ros.types import UInt8Array

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_SIDE = 8192
"""Pixels; a few bytes can claim to be an image of gigabytes."""

# Most pixels in a byte: of a JPEG one bit for each block of 8×8, of a PNG 8 in a byte, which its
# compression makes 1032 times smaller at best.
_DENSEST_JPEG, _DENSEST_PNG = 8 * 64, 8 * 1032
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
# Two bytes that begin a JPEG segment or end the image; the pairs left out (stuffing, fill, restart
# and other markers without a length) may stand inside compressed data.
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_END_OF_IMAGE = b"\xff\xd9"
_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]")  # segment that has the size


def decode_image(data: Buffer, upright: bool = True) -> UInt8Array:
    """Decode an image file's bytes to H×W (grey) or H×W×3 (RGB) uint8.

    data: contiguous bytes of any format that OpenCV reads. Deeper samples are scaled to 8 bits, an
        alpha channel is dropped.
    upright: turn the image as its EXIF data says, as picture viewers do.

    Raises ImageError when they are no image, not a whole one, or one with a side above MAX_SIDE.
    """
    view = memoryview(data)
    encoded = np.frombuffer(view, np.uint8)
    width, height = _claimed_size(view)
    if max(width, height) > MAX_SIDE:
        raise ImageError(
            f"encoded image of {encoded.size} bytes is {width}×{height} pixels; each side must be "
            f"at most {MAX_SIDE}. Resize it or bin the camera."
        )
    flags = cv2.IMREAD_ANYCOLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    problem = "not an image that OpenCV can decode"
    pixels = None
    is_jpeg = encoded[:2].tobytes() == _JPEG
    is_png = encoded[: len(_PNG)].tobytes() == _PNG
    # Some decoders fill up such a JPEG with grey, and take the memory that a PNG's part claims.
    if (is_jpeg and not _has_its_end(view)) or (is_png and not _has_its_parts(view)):
        problem = "its end is missing"
    elif width * height > encoded.size * (_DENSEST_JPEG if is_jpeg else _DENSEST_PNG):
        problem = f"they cannot hold the {width}×{height} pixels that it claims"
    elif encoded.size:
        try:
            pixels = cv2.imdecode(encoded, flags)
        except cv2.error:  # some decoders raise where others return None
            pixels = None
    if pixels is None:
        raise ImageError(f"encoded image of {encoded.size} bytes cannot be decoded: {problem}.")
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return np.asarray(pixels, np.uint8)


def is_jpeg_or_png(data: Buffer) -> bool:
    """Whether contiguous bytes begin as one of the two formats that cameras send."""
    head = bytes(memoryview(data)[: len(_PNG)])
    return head.startswith(_JPEG) or head == _PNG


def _claimed_size(image: memoryview) -> tuple[int, int]:
    """Width and height that a JPEG or PNG says it has, before it is decoded; else zeros."""
    if bytes(image[: len(_PNG)]) == _PNG:  # then length and name of its first chunk
        return _big_endian(image[16:20]), _big_endian(image[20:24])
    if bytes(image[: len(_JPEG)]) == _JPEG:
        for marker, begin in _segments(image):
            if _FRAME.match(marker):  # length, bits a sample, height, width
                return _big_endian(image[begin + 5 : begin + 7]), _big_endian(
                    image[begin + 3 : begin + 5]
                )
    return 0, 0


def _has_its_end(jpeg: memoryview) -> bool:
    """Whether a JPEG's segments are followed by the end of its own image, not a thumbnail's."""
    return any(marker == _END_OF_IMAGE for marker, _ in _segments(jpeg))


def _has_its_parts(png: memoryview) -> bool:
    """Whether a PNG's chunks (length, name, content, checksum), to the last one, are all there."""
    begin = len(_PNG)
    while begin + 12 <= len(png):
        size = _big_endian(png[begin : begin + 4])
        if bytes(png[begin + 4 : begin + 8]) == b"IEND":
            return size == 0  # OpenCV takes the memory for any other
        begin += 12 + size
    return False


def _segments(jpeg: memoryview) -> Iterator[tuple[bytes, int]]:
    """Markers of a JPEG's segments, and where each one's content begins."""
    position = len(_JPEG)
    while segment := _SEGMENT.search(jpeg, position):
        begin = segment.end()
        yield segment[0], begin
        position = begin + _big_endian(jpeg[begin : begin + 2])


def _big_endian(number: memoryview) -> int:
    return int.from_bytes(number, "big")


def grey(pixels: UInt8Array) -> UInt8Array:
    """H×W of an image H×W or H×W×3 (RGB)."""
    return pixels if pixels.ndim == 2 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
