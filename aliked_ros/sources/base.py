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

"""The protocol of image sources, and what they share."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ImageError, SourceError
from aliked_ros.io.images import damage_of, decode_image, depth_in_metres, is_turned
from aliked_ros.io.images import quiet_opencv as quiet_opencv
from aliked_ros.types import Float32Array, Float64Array, Image, UInt8Array

logger = logging.getLogger("aliked_ros.sources")

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm",
     ".pbm", ".pnm", ".jp2", ".avif")
)  # fmt: skip
NOMINAL_RATE = 30.0  # Hz, for sources without times
Partner = Literal["none", "right", "depth"]
"""What an image comes with: nothing, the right image of a stereo pair, or a depth image."""
KINDS = (
    "a folder of images, a folder with a frames.csv, a TUM RGB-D folder (rgb.txt), a KITTI "
    "odometry sequence (image_0/, times.txt, calib.txt), a EuRoC folder (mav0/cam0/data.csv), a "
    "recording (.mcap, .db3, .bag, or a rosbag2 folder; RECORDING#/image/topic names the topic), "
    "a video file, 'camera:N' (a number), 'realsense' or 'realsense:SERIAL', or 'virtual'"
)
_LONGEST_EXIF = 1 << 18  # bytes from the start of a file to the end of its EXIF data
SECOND = 1_000_000_000  # nanoseconds


class Source(Protocol):
    """A finite or endless stream of images.

    name: short, for logs and file names.
    rate: nominal images per second.
    length: maximum number of images; None = unknown.
    calibration: content of a ``calib.json``, None = unknown: width, height, fx, fy, cx, cy,
        distortion_model, distortion; perhaps stereo_baseline_m (metres), depth_scale (units a
        metre). It describes the images as delivered: pairs are rectified.
    skipped: unreadable images so far; at the end of a video also those that its container
        announces but that cannot be decoded.
    first: number of the image to begin with; those before it are passed over without being decoded.
        May be set before iterating; ``limit`` counts from image 0 all the same.
    """

    name: str
    rate: float
    length: int | None
    calibration: dict[str, Any] | None
    skipped: int
    first: int

    def __iter__(self) -> Iterator[Image]:
        """The images in order of time; SourceError if the source fails."""
        ...


def read_image(path: Path, upright: bool = True) -> UInt8Array:
    """Decode an image file to H×W (grey) or H×W×3 (RGB) uint8; deeper files are scaled to 8 bits.

    upright: rotate the image by its EXIF data.
    Raises ImageError if the file is missing, unreadable or incomplete.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot read {str(path)!r}: {reason}.") from error
    try:
        return decode_image(data, upright)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def read_mask(path: Path) -> UInt8Array:
    """The mask in an image file: 0 (in colour: black) = ignore.

    Raises ImageError if it cannot be read. Lossy formats blur the zeros; use PNG.
    """
    pixels = read_image(path)
    return pixels if pixels.ndim == 2 else np.asarray(pixels.max(axis=2))


def file_is_turned(path: Path) -> bool:
    """Whether an image file's EXIF data tells viewers to rotate it."""
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        return False
    try:
        with path.open("rb") as file:
            return is_turned(file.read(_LONGEST_EXIF))
    except OSError:
        return False


def read_depth(path: Path, units_per_metre: float) -> Float32Array:
    """Decode a 16-bit depth image file to H×W metres, NaN = none.

    Raises ImageError if the file is missing, unreadable or of another kind.
    """
    try:
        data = np.fromfile(path, np.uint8)
        if damage := damage_of(memoryview(data.tobytes())):
            raise ImageError(f"{path} of {data.size} bytes cannot be decoded: {damage}.")
        with quiet_opencv():
            raw = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except (OSError, ValueError, cv2.error) as error:
        raise ImageError(f"cannot read {str(path)!r}: {error}.") from error
    if raw is None:
        raise ImageError(f"{path} of {data.size} bytes is not an image that OpenCV can decode.")
    try:
        return depth_in_metres(np.asarray(raw), units_per_metre)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def calibration_of(
    width: int,
    height: int,
    matrix: Float64Array,
    distortion_model: str = "none",
    distortion: Sequence[float] = (),
) -> dict[str, Any]:
    """A camera as in ``calib.json``; matrix: its K (3×3), or P (3×4) if rectified."""
    return {
        "width": width,
        "height": height,
        "fx": float(matrix[0, 0]),
        "fy": float(matrix[1, 1]),
        "cx": float(matrix[0, 2]),
        "cy": float(matrix[1, 2]),
        "distortion_model": distortion_model,
        "distortion": list(distortion),
    }


def calibration_of_camera(camera: CameraModel) -> dict[str, Any]:
    """A camera model as in ``calib.json``."""
    return calibration_of(
        camera.width,
        camera.height,
        camera.matrix,
        camera.distortion_model,
        camera.distortion.tolist(),
    )


def image_at(pixels: UInt8Array, nanoseconds: int) -> Image:
    """An image with a stamp in whole nanoseconds."""
    return Image(pixels, nanoseconds / SECOND, nanoseconds=nanoseconds)


def warn_of_another_size(name: str, calibration: dict[str, Any] | None, pixels: UInt8Array) -> None:
    """Warn if a calibration is for another image size, and thus not used."""
    if calibration is None or calibration.keys().isdisjoint(("fx", "width", "height")):
        return
    size, own = pixels.shape[1::-1], (calibration.get("width"), calibration.get("height"))
    if not all(isinstance(side, int | float) for side in own):
        logger.warning(
            "%s: its calibration is not used, for its width is %r and its height %r; give pixels.",
            name, *own,
        )  # fmt: skip
    elif size != own:
        logger.warning(
            "%s: its calibration is for %s×%s images, these are %d×%d: it is not used. Give one "
            "for this resolution, and for the images as they are stored.", name, *own, *size,
        )  # fmt: skip


def rate_of(stamps: list[int]) -> float:
    """Images a second from the median interval of stamps in nanoseconds."""
    interval = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
    return SECOND / interval if interval > 0.0 else NOMINAL_RATE


def nearest(stamps: list[int], stamp: int, tolerance: float) -> int | None:
    """Index of the nearest of sorted stamps (nanoseconds) within a tolerance (seconds)."""
    if not stamps:
        return None
    after = bisect_left(stamps, stamp)
    best = min((i for i in (after - 1, after) if 0 <= i < len(stamps)),
               key=lambda i: abs(stamps[i] - stamp))  # fmt: skip
    return best if abs(stamps[best] - stamp) <= tolerance * SECOND else None


def shorter(length: int | None, limit: int | None) -> int | None:
    """The smaller of two numbers, either of which may be unknown (None)."""
    known = [n for n in (length, limit) if n is not None]
    return min(known) if known else None


def unreadable_text(path: Path, error: Exception) -> SourceError:
    """The error for a table or calibration that cannot be read as text."""
    if isinstance(error, UnicodeDecodeError):
        return SourceError(f"cannot read {path}: it is not UTF-8 text; save it as UTF-8.")
    return SourceError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.")
