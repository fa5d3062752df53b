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

"""Decoding JPEG, PNG and other formats, with the same checks for files and messages."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from aliked_ros.errors import AlikedError, ImageError
from aliked_ros.io.signatures import nature
from aliked_ros.types import Float32Array, UInt8Array

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Silences FFmpeg's own lines about damage; OpenCV reads it at the first video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

MILLIMETRES = 1000.0

MAX_SIDE = 8192
"""Pixels; a few bytes can claim to be an image of gigabytes."""

# Most pixels in a byte: a JPEG has at least one bit for each 8×8 block; a PNG packs 8 pixels in a
# byte and compresses by 1032 at best.
_DENSEST_JPEG, _DENSEST_PNG = 8 * 64, 8 * 1032
_PNG = b"\x89PNG\r\n\x1a\n"
_LONGEST_HEADER = 4096  # bytes, of a PNM with comments
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
_JPEG = b"\xff\xd8"
# Two bytes that begin a JPEG segment or end the image. Others (stuffing, fill, restart and other
# markers without a length) may occur inside compressed data.
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_END_OF_IMAGE = b"\xff\xd9"
_EXIF, _SCAN = b"\xff\xe1", b"\xff\xda"
_LIBJPEG = b"Corrupt JPEG data: "  # its warnings; some cameras' whole images cause others
_ENDS_EARLY = b"premature end of data segment"
_BLOCK = 8  # pixels, side of a JPEG's blocks
_stderr = threading.Lock()
_ORIENTATION = 0x0112  # tag of EXIF
_MOST_ENTRIES = 1000
_PNM = re.compile(rb"P[2356]" + rb"(?:\s+(?:#[^\n]*\n\s*)*)(\d+)" * 3 + rb"\s")
_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]")  # segment that has the size


def decode_image(data: Buffer, upright: bool = True) -> UInt8Array:
    """Decode an image file's bytes to H×W (grey) or H×W×3 (RGB) uint8.

    data: contiguous bytes of any format that OpenCV reads. Deeper samples are scaled to 8 bits, an
        alpha channel is dropped.
    upright: turn the image as its EXIF data says, as picture viewers do.

    Raises ImageError if they are not an image, incomplete, or have a side above MAX_SIDE.
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
    largest = _largest_value(view)
    if largest > 255:
        flags |= cv2.IMREAD_ANYDEPTH
    problem = _nature(view)
    pixels = None
    is_jpeg = encoded[:2].tobytes() == _JPEG
    is_png = encoded[: len(_PNG)].tobytes() == _PNG
    # Some decoders fill such a JPEG with grey, and allocate whatever size a PNG chunk claims.
    damage = damage_of(view)
    if damage:
        problem = damage
    elif width * height > encoded.size * (_DENSEST_JPEG if is_jpeg else _DENSEST_PNG):
        problem = f"they cannot hold the {width}×{height} pixels that it claims"
    elif encoded.size:
        try:
            with quiet_opencv():
                pixels = cv2.imdecode(_without_profile(view) if is_png else encoded, flags)
        except cv2.error:  # some decoders raise where others return None
            pixels = None
        suspicious = is_jpeg and pixels is not None and _may_end_early(pixels, upright)
        if suspicious and _ends_early(encoded, flags):
            pixels, problem = None, f"libjpeg reports {_ENDS_EARLY.decode()}"
    if pixels is None:
        raise ImageError(f"encoded image of {encoded.size} bytes cannot be decoded: {problem}.")
    pixels = _scaled(pixels, largest)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return np.asarray(pixels, np.uint8)


def _largest_value(image: memoryview) -> int:
    """The white value of a PGM or PPM if OpenCV does not scale by it, else 255."""
    header = _PNM.match(image[:_LONGEST_HEADER])
    if header is None:
        return 255
    largest, text = int(header[3]), image[1] in b"23"
    return 255 if not largest or largest == 65535 or (text and largest < 255) else largest


def _scaled(pixels: NDArray[Any], largest: int) -> UInt8Array:
    if largest == 255:
        return np.asarray(pixels, np.uint8)
    return np.asarray(np.minimum(np.rint(pixels * (255.0 / largest)), 255.0), np.uint8)


def _nature(image: memoryview) -> str:
    """Why OpenCV cannot decode an image, as far as its first bytes show."""
    if not image.nbytes:
        return "it is empty"
    if other := nature(image):
        return other
    known = {_JPEG: "JPEG", _PNG: "PNG", b"BM": "BMP", b"RIFF": "WebP", b"II*\0": "TIFF"}
    known |= {b"MM\0*": "TIFF", **{b"P%d" % digit: "PNM" for digit in range(1, 7)}}
    for begin, name in known.items():
        if bytes(image[: len(begin)]) == begin:
            if name == "TIFF":
                return (
                    "it starts like a TIFF, but is damaged, truncated, or of a kind that OpenCV "
                    "cannot show; convert it to 8 or 16 bits, without compression or with LZW"
                )
            return f"it starts like a {name}, but is damaged, truncated or unknown to OpenCV"
    return f"it starts with {bytes(image[:4]).hex(' ').upper()}, which OpenCV does not know"


def is_turned(data: Buffer) -> bool:
    """Whether a JPEG's EXIF data tells viewers to rotate or mirror it."""
    image = memoryview(data)
    if bytes(image[:2]) != _JPEG:
        return False
    for marker, begin in _segments(image):
        if marker == _EXIF and bytes(image[begin + 2 : begin + 8]) == b"Exif\0\0":
            return (
                _orientation(image[begin + 8 : begin + _big_endian(image[begin : begin + 2])]) > 1
            )
        if marker == _SCAN:
            break
    return False


def _orientation(exif: memoryview) -> int:
    """The orientation in a TIFF header and its first directory, 1 = as stored."""
    order: Literal["little", "big"] = "little" if bytes(exif[:2]) == b"II" else "big"

    def number(begin: int, size: int) -> int:
        return int.from_bytes(exif[begin : begin + size], order)

    first = number(4, 4)
    for entry in range(min(number(first, 2), _MOST_ENTRIES)):
        begin = first + 2 + 12 * entry
        if number(begin, 2) == _ORIENTATION:
            return number(begin + 8, 2)
    return 1


def is_jpeg_or_png(data: Buffer) -> bool:
    """Whether contiguous bytes start like a JPEG or PNG."""
    head = bytes(memoryview(data)[: len(_PNG)])
    return head.startswith(_JPEG) or head == _PNG


def _claimed_size(image: memoryview) -> tuple[int, int]:
    """Width and height from a JPEG or PNG header, without decoding; else zeros."""
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


def damage_of(image: memoryview) -> str:
    """Damage of an image that shows without decoding it; empty = none found."""
    if bytes(image[: len(_JPEG)]) == _JPEG:
        whole = _has_its_end(image)
        hint = " (the marker FF D9: it is truncated, or its writer omits the marker)"
        return "" if whole else f"its end is missing{hint}"
    if bytes(image[: len(_PNG)]) != _PNG:
        return ""
    name = b""
    for name, chunk in _chunks(image):
        if zlib.crc32(chunk[4:-4]) != _big_endian(chunk[-4:]):
            return f"the checksum of its chunk {name.decode(errors='replace')} is wrong"
    return "" if name == b"IEND" else "its end is missing"


def _may_end_early(pixels: NDArray[Any], turned: bool) -> bool:
    """Whether the lowest blocks are one colour, as libjpeg fills what a damaged JPEG lacks.

    turned: they may lie at any side.
    """
    sides = [pixels[-_BLOCK:]]
    if turned:
        sides += [pixels[:_BLOCK], pixels[:, :_BLOCK], pixels[:, -_BLOCK:]]
    return any(bool((side == side[:1, :1]).all()) for side in sides)


def _ends_early(jpeg: NDArray[np.uint8], flags: int) -> bool:
    """Whether libjpeg finds too few data for the image.

    It says so on standard error alone, which is redirected meanwhile. So this decodes again, only
    what is suspicious, and passes on what other threads wrote.
    """
    with _stderr, tempfile.TemporaryFile() as file, quiet_opencv():
        kept = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            cv2.imdecode(jpeg, flags)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        lines = file.read().splitlines(keepends=True)
    os.write(2, b"".join(line for line in lines if not line.startswith(_LIBJPEG)))
    return any(line.startswith(_LIBJPEG + _ENDS_EARLY) for line in lines)


def _chunks(png: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Names and bytes of the complete chunks of a PNG (length, name, content, checksum)."""
    begin = len(_PNG)
    while begin + 12 <= len(png):
        end = begin + 12 + _big_endian(png[begin : begin + 4])
        name = bytes(png[begin + 4 : begin + 8])
        if end > len(png) or (name == b"IEND" and end != begin + 12):
            return  # OpenCV allocates the size that an IEND claims
        yield name, png[begin:end]
        if name == b"IEND":
            return
        begin = end


def _without_profile(png: memoryview) -> NDArray[np.uint8]:
    """The chunks of a PNG that make its pixels; libpng prints warnings about others."""
    chunks = list(_chunks(png))
    if all(name in _PIXEL_CHUNKS for name, _ in chunks):
        return np.frombuffer(png, np.uint8)
    kept = b"".join(chunk for name, chunk in chunks if name in _PIXEL_CHUNKS)
    return np.frombuffer(_PNG + kept, np.uint8)


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


def depth_in_metres(raw: NDArray[Any], units_per_metre: float = MILLIMETRES) -> Float32Array:
    """A sensor's H×W values as metres, NaN where it gave none.

    None: 0, negative, infinite, NaN, and 65535 of uint16, which stands for none or for too far.

    raw: uint16 in ``units_per_metre``, or float32 in metres (REP-118: 16UC1 and 32FC1).
    Raises ImageError for another type or shape.
    """
    if raw.ndim != 2 or raw.dtype not in (np.uint16, np.float32):
        raise ImageError(
            f"The depth image is {raw.dtype} of shape {raw.shape}; it must be H×W, uint16 "
            "millimetres (16UC1) or float32 metres (32FC1)."
        )
    metres = raw.astype(np.float32)
    if raw.dtype == np.uint16:
        metres /= np.float32(units_per_metre)
        metres[raw == np.iinfo(np.uint16).max] = np.nan
    metres[~(np.isfinite(metres) & (metres > 0.0))] = np.nan
    return metres


def check_name(path: Path, kind: type[AlikedError]) -> None:
    """Raises an error of this kind for a path that crashes OpenCV when it opens the file itself."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise kind(f"the name of {str(path)!r} is not valid UTF-8; rename it.") from error


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Silence OpenCV's own warnings, since our exceptions say what failed."""
    log = getattr(cv2.utils, "logging", cv2)  # OpenCV 4 has these functions in cv2 itself
    level = log.getLogLevel()
    log.setLogLevel(0)  # silent
    try:
        yield
    finally:
        log.setLogLevel(level)
