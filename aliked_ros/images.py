"""Decoding JPEG, PNG and the like: one rule of what a whole image is, for files and messages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import cv2
import numpy as np

from aliked_ros.errors import ImageError
from aliked_ros.types import UInt8Array

if TYPE_CHECKING:
    from typing_extensions import Buffer

_JPEG = b"\xff\xd8"
# Two bytes that begin a JPEG segment or end the image; the pairs left out (stuffing, fill, restart
# and other markers without a length) may stand inside compressed data.
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_END_OF_IMAGE = b"\xff\xd9"


def decode_image(data: Buffer, upright: bool = True) -> UInt8Array:
    """Decode an image file's bytes to H×W (grey) or H×W×3 (RGB) uint8.

    data: contiguous bytes of any format that OpenCV reads. Deeper samples are scaled to 8 bits, an
        alpha channel is dropped.
    upright: turn the image as its EXIF data says, as picture viewers do.

    Raises ImageError when they are no image, or not a whole one.
    """
    view = memoryview(data)
    encoded = np.frombuffer(view, np.uint8)
    flags = cv2.IMREAD_ANYCOLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    problem = "not an image that OpenCV can decode"
    pixels = None
    if encoded[:2].tobytes() == _JPEG and not _has_its_end(view):
        problem = "its end is missing"  # some decoders fill up such a JPEG with grey
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


def _has_its_end(jpeg: memoryview) -> bool:
    """Whether a JPEG's segments are followed by the end of its own image, not a thumbnail's."""
    position = len(_JPEG)
    while segment := _SEGMENT.search(jpeg, position):
        begin = segment.end()
        if segment[0] == _END_OF_IMAGE:
            return True
        position = begin + int.from_bytes(jpeg[begin : begin + 2], "big")
    return False


def grey(pixels: UInt8Array) -> UInt8Array:
    """H×W of an image H×W or H×W×3 (RGB)."""
    return pixels if pixels.ndim == 2 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
