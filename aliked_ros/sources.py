"""Where images come from: sequences, folders, videos, cameras, and the virtual camera.

``open_source`` understands one string per kind; whatever it returns has a name, a rate, a length,
perhaps a calibration, and iterates ``Image``. Grey files give grey images, colour files RGB.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np

from aliked_ros.errors import ImageError, SourceError
from aliked_ros.frontend.depth import depth_in_metres
from aliked_ros.images import decode_image
from aliked_ros.types import Float32Array, Image, UInt8Array

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm")
)
_ESTIMATED_FRAMES = 2  # by so much a container may announce more frames than it holds
NOMINAL_RATE = 30.0  # Hz, for sources that carry no times of their own
_LEFT, _RIGHT = "image_0", "image_1"  # folders of a stereo sequence, as KITTI names them
Partner = Literal["none", "right", "depth"]
"""What an image comes with: nothing, the right image of a stereo pair, or a depth image."""
KINDS = (
    "a folder of images, a folder with a frames.csv, a video file, 'camera:N' (a number), "
    "or 'virtual'"
)


class Source(Protocol):
    """A finite or endless stream of images.

    name: short name for people and file names.
    rate: images per second, nominal.
    length: number of images that iterating gives at most; None = not known.
    calibration: content of ``calib.json`` (width, height, fx, fy, cx, cy, distortion_model,
        distortion), None = not known.
    skipped: images left out so far because they could not be read; at the end of a video those,
        too, that its container announces and that cannot be decoded.
    """

    name: str
    rate: float
    length: int | None
    calibration: dict[str, Any] | None
    skipped: int

    def __iter__(self) -> Iterator[Image]:
        """Give the images in order of time; SourceError when the source breaks down."""
        ...


def read_image(path: Path) -> UInt8Array:
    """Decode an image file to H×W (grey) or H×W×3 (RGB) uint8; deeper files are scaled to 8 bits.

    Raises ImageError when the file is missing, not readable, or not a whole image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}.") from error
    try:
        return decode_image(data)
    except ImageError as error:
        raise ImageError(
            f"{path}: {error} Expected one of {', '.join(sorted(IMAGE_SUFFIXES))}."
        ) from error


def read_depth(path: Path, units_per_metre: float) -> Float32Array:
    """Decode a 16-bit depth image file to H×W metres, NaN = none.

    Raises ImageError when the file is missing, not readable, or of another kind.
    """
    try:
        data = np.fromfile(path, np.uint8)
        with _quiet_opencv():
            raw = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error) as error:
        raise ImageError(f"cannot read {path}: {error}.") from error
    if raw is None:
        raise ImageError(f"{path} is not an image that OpenCV can decode.")
    try:
        return depth_in_metres(np.asarray(raw), units_per_metre)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


class ImageFiles:
    """Image files with their times; files that cannot be read are skipped and counted.

    complete: adds to an image, given its file, what it comes with; an image for which that cannot
        be read (ImageError) is given alone.
    """

    def __init__(
        self,
        name: str,
        paths: list[Path],
        stamps: list[float],
        rate: float,
        calibration: dict[str, Any] | None = None,
        complete: Callable[[Path, Image], Image] | None = None,
    ) -> None:
        self.name = name
        self.rate = rate
        self.length: int | None = len(paths)
        self.calibration = calibration
        self.skipped = 0
        self._frames = list(zip(paths, stamps, strict=True))
        self._complete = complete

    def __iter__(self) -> Iterator[Image]:
        """Decode one file after another; SourceError when not one could be read."""
        self.skipped = 0
        for path, stamp in self._frames:
            try:
                pixels = read_image(path)
            except ImageError as error:
                self.skipped += 1
                logger.warning("skipped: %s", error)
                if self.skipped == len(self._frames):
                    raise SourceError(
                        f"none of the {self.skipped} images of {self.name} can be read; "
                        f"the last one: {error}"
                    ) from error
                continue
            yield self._completed(path, Image(pixels, stamp))

    def _completed(self, path: Path, image: Image) -> Image:
        if self._complete is None:
            return image
        try:
            return self._complete(path, image)
        except ImageError as error:
            logger.warning("%s comes alone: %s", path, error)
            return image


class Video:
    """A video file, decoded by OpenCV to RGB, with the times of its container."""

    def __init__(self, path: Path, limit: int | None) -> None:
        self.name = path.stem
        self.calibration: dict[str, Any] | None = None
        self.skipped = 0
        self._path = path
        self._limit = limit
        capture = self._open()
        rate = capture.get(cv2.CAP_PROP_FPS)
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        readable = capture.grab()
        capture.release()
        if not readable:
            raise SourceError(f"{path} holds no video frame that OpenCV can decode.")
        self.rate = rate if np.isfinite(rate) and rate > 0 else NOMINAL_RATE
        self.length = _shorter(frames if frames > 0 else None, limit)

    def _open(self) -> cv2.VideoCapture:
        with _quiet_opencv():
            capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise SourceError(f"{self._path} is not a video that OpenCV can open; give {KINDS}.")
        return capture

    def __iter__(self) -> Iterator[Image]:
        """Decode from the first frame on."""
        capture = self._open()
        self.skipped = 0
        try:
            previous = -1.0 / self.rate
            for index in islice(count(), self._limit):
                good, pixels = capture.read()
                if not good:
                    self._end(index)
                    return
                stamp = capture.get(cv2.CAP_PROP_POS_MSEC) * 1e-3
                if not stamp > previous:  # containers without times report 0 throughout
                    stamp = previous + 1.0 / self.rate
                previous = stamp
                yield Image(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8), stamp)
        finally:
            capture.release()

    def _end(self, frames: int) -> None:
        """Compare with what the container announces: OpenCV does not tell an error from the end."""
        missing = (self.length or 0) - frames
        if missing > _ESTIMATED_FRAMES:
            self.skipped = missing
            logger.warning(
                "%s: decoding stopped after %d of %d frames; the file is damaged or cut off.",
                self._path,
                frames,
                self.length,
            )


class Camera:
    """A camera of this machine (V4L2 on Linux); stamps are the wall clock when a frame arrives."""

    def __init__(self, number: int, limit: int | None) -> None:
        self.name = f"camera{number}"
        self.length = limit
        self.calibration: dict[str, Any] | None = None
        self.skipped = 0
        self._number = number
        self._limit = limit
        capture = self._open()
        rate = capture.get(cv2.CAP_PROP_FPS)
        capture.release()
        self.rate = rate if np.isfinite(rate) and rate > 0 else NOMINAL_RATE

    def _open(self) -> cv2.VideoCapture:
        with _quiet_opencv():
            capture = cv2.VideoCapture(self._number)
        if not capture.isOpened():
            raise SourceError(
                f"camera:{self._number} cannot be opened; see which there are with "
                "'ls /dev/video*', and whether another program holds it."
            )
        return capture

    def __iter__(self) -> Iterator[Image]:
        """Give frames until the limit; SourceError when the camera falls silent."""
        capture = self._open()
        try:
            for _ in islice(count(), self._limit):
                good, pixels = capture.read()
                stamp = time.time()
                if not good:
                    raise SourceError(f"camera:{self._number} stopped delivering images.")
                yield Image(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8), stamp)
        finally:
            capture.release()


def open_source(spec: str, limit: int | None = None, partner: Partner = "none") -> Source:
    """Open a source of images.

    spec: a folder of images, a folder with a ``frames.csv`` (or that file), a video file,
        ``camera:N``, or ``virtual``.
    limit: give at most so many images.
    partner: what they come with: ``right`` needs a folder image_1 beside the images' image_0 with
        files of equal names; ``depth`` an associations.txt (stamp, image, stamp, depth image) and
        a calib.json with depth_scale (units a metre) beside the frames.csv.

    Raises SourceError when there is no such thing, it holds no image or not that partner.
    """
    if limit is not None and limit < 1:
        raise SourceError(f"the limit of images is {limit}; it must be at least 1.")
    if partner != "none" and (spec == "virtual" or spec.startswith("camera:")):
        raise SourceError(_no_partner(spec, partner, "it gives single images"))
    if spec == "virtual":
        from aliked_ros.virtual_camera import DEFAULT_LENGTH, VirtualCamera

        return VirtualCamera(length=limit or DEFAULT_LENGTH)
    if spec.startswith("camera:"):
        number = spec.removeprefix("camera:")
        if not number.isdecimal():
            raise SourceError(f"source {spec!r}: give the camera's number, e.g. 'camera:0'.")
        return Camera(int(number), limit)
    path = Path(spec).expanduser()
    if path.is_dir():
        table = path / "frames.csv"
        if table.is_file():
            return _sequence(table, limit, partner)
        return _folder(path, limit, partner)
    if not path.is_file():
        raise SourceError(f"source {spec!r} does not exist; give {KINDS}.")
    if path.suffix.lower() == ".csv":
        return _sequence(path, limit, partner)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise SourceError(f"{spec} is a single image; give its folder, or {KINDS}.")
    if partner != "none":
        raise SourceError(_no_partner(spec, partner, "it gives single images"))
    return Video(path, limit)


def default_source() -> str:
    """What to show when nobody says: ``$SOURCE``, a sequence of the shared data, else virtual."""
    chosen = os.environ.get("SOURCE")
    if chosen:
        return chosen
    data = Path(os.environ.get("ALIKED_ROS_DATA") or "../shared") / "data"
    tables = sorted(data.glob("*/frames.csv"), key=lambda t: (t.parent.name != "tum_fr1_xyz", t))
    return str(tables[0].parent) if tables else "virtual"


def _sequence(table: Path, limit: int | None, partner: Partner) -> ImageFiles:
    """Read frames.csv: index, time in seconds, image file relative to the table, ignored rest."""
    paths: list[Path] = []
    stamps: list[float] = []
    try:
        with table.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                if not row or row[0].lstrip().startswith("#"):
                    continue
                try:
                    stamp, image = float(row[1]), row[2].strip()
                except (IndexError, ValueError):
                    raise SourceError(
                        f"{table}, line {number}: expected 'index,seconds,image', got {row}."
                    ) from None
                if not np.isfinite(stamp) or not image:
                    raise SourceError(f"{table}, line {number}: no time or no image in {row}.")
                paths.append(table.parent / image)
                stamps.append(stamp)
                if len(paths) == limit:
                    break
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"cannot read {table}: {error}.") from error
    if not paths:
        raise SourceError(f"{table} lists no images.")
    calibration = _calibration(table.parent)
    rate = float((calibration or {}).get("rate_hz") or 0.0)
    if rate == 0.0:
        interval = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
        rate = 1.0 / interval if interval > 0.0 else NOMINAL_RATE
    complete = _completion(table.parent, paths, calibration, partner)
    return ImageFiles(table.parent.resolve().name, paths, stamps, rate, calibration, complete)


def _folder(folder: Path, limit: int | None, partner: Partner) -> ImageFiles:
    try:
        files = [f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file()]
    except OSError as error:
        raise SourceError(f"cannot list {folder}: {error.strerror}.") from error
    if not files:
        raise SourceError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    paths = sorted(files, key=lambda f: _natural(f.name))[:limit]
    calibration = _calibration(folder)
    rate = float((calibration or {}).get("rate_hz") or NOMINAL_RATE)
    stamps = [index / rate for index in range(len(paths))]
    complete = _completion(folder, paths, calibration, partner)
    return ImageFiles(folder.resolve().name, paths, stamps, rate, calibration, complete)


def _completion(
    folder: Path, paths: list[Path], calibration: dict[str, Any] | None, partner: Partner
) -> Callable[[Path, Image], Image] | None:
    """What adds the partner to an image; SourceError when the sequence has none."""
    if partner == "right":
        if not any(p.parent.name == _LEFT and _right_of(p).is_file() for p in paths):
            reason = f"{paths[0]} has no counterpart in {_RIGHT}/"
            raise SourceError(_no_partner(str(folder), partner, reason))
        return lambda path, image: replace(image, right=read_image(_right_of(path)))
    if partner == "depth":
        scale = (calibration or {}).get("depth_scale")
        if not isinstance(scale, int | float) or not 0.0 < scale < np.inf:
            reason = f"depth_scale in its calib.json is {scale!r}, not the units a metre"
            raise SourceError(_no_partner(str(folder), partner, reason))
        files = _associations(folder / "associations.txt")

        def with_depth(path: Path, image: Image) -> Image:
            if path not in files:
                raise ImageError("associations.txt names no depth image for it.")
            return replace(image, depth=read_depth(files[path], scale))

        return with_depth
    return None


def _right_of(path: Path) -> Path:
    return path.parent.with_name(_RIGHT) / path.name


def _associations(table: Path) -> dict[Path, Path]:
    """Depth image by image, of a table of the TUM RGB-D benchmark: stamp, image, stamp, depth."""
    try:
        rows = [line.split() for line in table.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(_no_partner(str(table.parent), "depth", str(error))) from error
    rows = [row for row in rows if row and not row[0].startswith("#")]
    if not rows or any(len(row) != 4 for row in rows):
        raise SourceError(f"{table}: expected lines 'stamp image stamp depth'.")
    return {table.parent / row[1]: table.parent / row[3] for row in rows}


def _no_partner(spec: str, partner: Partner, reason: str) -> str:
    needed = {
        "right": f"a folder with {_LEFT}/ and {_RIGHT}/",
        "depth": "a folder with frames.csv, associations.txt and depth_scale in calib.json",
    }
    return f"source {spec!r} has no {partner} images ({reason}); give {needed[partner]}."


def _calibration(folder: Path) -> dict[str, Any] | None:
    path = folder / "calib.json"
    if not path.is_file():
        return None
    try:
        calibration = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(calibration, dict):
        raise SourceError(f"{path} must hold a JSON object, not a {type(calibration).__name__}.")
    rate = calibration.get("rate_hz") or 0.0
    if not isinstance(rate, int | float) or not 0.0 <= rate < np.inf:  # also refuses NaN
        raise SourceError(
            f"{path}: rate_hz is {rate!r}; give a number of images a second, or leave it out."
        )
    return calibration


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key by which image2 comes before image10."""
    parts = re.split(r"(\d+)", name)
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts]


def _shorter(length: int | None, limit: int | None) -> int | None:
    known = [n for n in (length, limit) if n is not None]
    return min(known) if known else None


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's own warnings off the terminal: what failed is said by our exception."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
