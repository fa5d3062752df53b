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

"""Image files: a folder, or a sequence with a table of times."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from aliked_ros.errors import ImageError, SourceError
from aliked_ros.sources.base import (
    IMAGE_SUFFIXES,
    KINDS,
    NOMINAL_RATE,
    SECOND,
    Partner,
    file_is_turned,
    image_at,
    rate_of,
    read_depth,
    read_image,
    unreadable_text,
    warn_of_another_size,
)
from aliked_ros.sources.calibration_files import find_calibration, read_calibration
from aliked_ros.types import Image

logger = logging.getLogger("aliked_ros.sources")

Step = Callable[[Path, Image], Image]
_URI = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_LONGEST_NAME = 200  # characters in an error
_DIGIT = re.compile(r"\d")
_TIME = re.compile(r"\d+\.(\d+)")
_SECTIONS = 3  # digits that numbers after a point have at most, where they are not decimals
_OTHER_IMAGES = frozenset(
    (".heic", ".heif", ".gif", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".tga")
)  # that are not read, or not as one image
_LATEST = 2**31 * SECOND
_LEFT, _RIGHT = "image_0", "image_1"  # folders of a stereo sequence, as KITTI names them


class ImageFiles:
    """Image files with their times; unreadable files are skipped and counted."""

    def __init__(
        self,
        name: str,
        paths: list[Path],
        stamps: list[int],
        rate: float,
        calibration: dict[str, Any] | None = None,
        complete: Step | None = None,
        finish: Callable[[Image], Image] | None = None,
    ) -> None:
        """Describe the sequence; files are read when it is iterated.

        stamps: nanoseconds.
        calibration: for the pixels as stored, so EXIF rotation is ignored.
        complete: adds an image's partner, given its file; on ImageError the image comes alone.
        finish: applied to each image afterwards.
        """
        self.name = name
        self.rate = rate
        self.length: int | None = len(paths)
        self.calibration = calibration
        self.skipped = self.first = 0
        self._frames = list(zip(paths, stamps, strict=True))
        self._complete = complete
        self._finish = finish
        self._as_stored = calibration is not None

    def __iter__(self) -> Iterator[Image]:
        """Decode the files in turn; SourceError if none could be read."""
        self.skipped = 0
        turned = False
        frames = self._frames[self.first :]
        for number, (path, stamp) in enumerate(frames):
            try:
                pixels = read_image(path, upright=not self._as_stored)
                if self._as_stored and not turned and (turned := file_is_turned(path)):
                    logger.warning(
                        "%s: its EXIF data says to turn it; like the calibration, the images are "
                        "taken as they are stored.", path,
                    )  # fmt: skip
            except ImageError as error:
                self.skipped += 1
                logger.warning("skipped: %s", error)
                if self.skipped == len(frames):
                    raise SourceError(
                        f"none of the {self.skipped} images of {self.name} can be read; "
                        f"the last one: {error}"
                    ) from error
                continue
            if number == self.skipped and self._finish is None:
                warn_of_another_size(self.name, self.calibration, pixels)
            image = self._completed(path, image_at(pixels, stamp))
            yield image if self._finish is None else self._finish(image)

    def _completed(self, path: Path, image: Image) -> Image:
        if self._complete is None:
            return image
        try:
            return self._complete(path, image)
        except ImageError as error:
            logger.warning("%s comes alone: %s", path, error)
            return image


def sequence(table: Path, limit: int | None, partner: Partner) -> ImageFiles:
    """Read frames.csv: index, time in seconds, image file relative to the table; in its order."""
    paths: list[Path] = []
    stamps: list[int] = []
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                if not row or row[0].lstrip().startswith("#"):
                    continue
                if not paths and len(row) > 1 and not _DIGIT.search(row[0]):  # a header
                    continue
                try:
                    time, image = row[1], row[2].strip()
                except IndexError:
                    raise _bad_line(table, number, "index,seconds,image", row) from None
                stamp = nanoseconds_of(time)
                if stamp is None or not image:
                    raise _bad_line(table, number, "index,seconds,image", row)
                paths.append(listed(table.parent, image))
                stamps.append(stamp)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable_text(table, error) from error
    if not paths:
        raise SourceError(f"{table} lists no images.")
    stamps, paths = stamps[:limit], paths[:limit]
    calibration = calibration_file(table.parent)
    rate = float((calibration or {}).get("rate_hz") or rate_of(stamps))
    complete = _completion(table.parent, paths, calibration, partner)
    return ImageFiles(table.parent.resolve().name, paths, stamps, rate, calibration, complete)


def folder(path: Path, limit: int | None, partner: Partner) -> ImageFiles:
    """The images of a folder in natural order, at its calib.json's rate or the nominal one."""
    files, others = image_files(path), _unread(path)
    if not files:
        also = f" It has {others}." if others else ""
        raise SourceError(
            f"{path} holds no images and is not a known data set.{also} Give {KINDS}."
        )
    if others:
        logger.warning("%s: not all images are read: it also has %s.", path, others)
    paths = files[:limit]
    calibration = calibration_file(path)
    rate = float((calibration or {}).get("rate_hz") or NOMINAL_RATE)
    stamps = [round(index / rate * SECOND) for index in range(len(paths))]
    complete = _completion(path, paths, calibration, partner)
    return ImageFiles(path.resolve().name, paths, stamps, rate, calibration, complete)


def image_files(path: Path) -> list[Path]:
    """The image files in a folder, image2 before image10; SourceError if it cannot be listed."""
    try:
        files = [f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file()]
        files = [f for f in files if not f.name.startswith(".")]  # macOS's "._image.png"
    except OSError as error:
        raise SourceError(f"cannot list {path}: {error.strerror}.") from error
    if _are_times(files):
        return sorted(files, key=lambda f: Decimal(f.stem))
    return sorted(files, key=lambda f: _natural(f.name))


def _unread(path: Path) -> str:
    """What looks like images in a folder, but is not read; empty = nothing."""
    try:
        hidden = (f for f in path.iterdir() if not f.name.startswith("."))
        suffixes = [(f.suffix.lower(), f) for f in hidden]
    except OSError:
        return ""
    unknown = Counter(suffix for suffix, _ in suffixes if suffix in _OTHER_IMAGES)
    broken = [f for suffix, f in suffixes if suffix in IMAGE_SUFFIXES and f.is_symlink()]
    broken = [f for f in broken if not os.path.exists(f)]
    found = [f"{n} {suffix} files (convert them to PNG)" for suffix, n in sorted(unknown.items())]
    if broken:
        found.append(
            f"{len(broken)} links to files that do not exist, such as {broken[0].name} (fetch the "
            "files that they lead to)"
        )
    return " and ".join(found)


def local_path(spec: str) -> Path:
    """The path of a file or folder, with ``~`` expanded; SourceError for what cannot be one."""
    if _URI.match(spec):
        raise SourceError(
            f"source {spec!r} is a URI; copy it to this machine and give its path. For a stream, "
            "run its ROS driver and the node."
        )
    try:
        path = Path(spec).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "there is no such user's home"
        raise SourceError(f"cannot read {spec[:_LONGEST_NAME]!r}: {reason}.") from error
    return path


def listed(folder: Path, name: str) -> Path:
    """A file that a table in a folder names, perhaps as Windows writes paths."""
    path = folder / name
    return path if "\\" not in name or path.exists() else folder / name.replace("\\", "/")


def in_order(name: str, stamps: list[int], paths: list[Path]) -> tuple[list[int], list[Path]]:
    """Images by time; warns if they were not, or if stamps repeat. name: of their table."""
    late = sum(after < before for before, after in pairwise(stamps))
    repeated = len(stamps) - len(set(stamps))
    if late:
        logger.warning(
            "%s: time goes back %d times; the images are taken in the order of time.", name, late
        )
    if repeated:
        logger.warning("%s: %d images have the stamp of another one.", name, repeated)
    order = sorted(range(len(stamps)), key=stamps.__getitem__)
    return [stamps[i] for i in order], [paths[i] for i in order]


def read_table(path: Path, columns: str, separator: str | None = None) -> list[list[str]]:
    """The rows of a text table without comments and header; ``columns`` says what is in a row.

    A header is a first row without any digit in its first column.

    Raises SourceError, naming the line, if a row has fewer columns.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable_text(path, error) from error
    needed = len(columns.split(separator))
    rows: list[list[str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        row = [field.strip() for field in line.split(separator)]
        if not rows and len(row) > 1 and not _DIGIT.search(row[0]):
            continue
        if len(row) < needed or not all(row[:needed]):
            raise _bad_line(path, number, columns, row)
        rows.append(row)
    return rows


def nanoseconds_of(seconds: str) -> int | None:
    """Exact nanoseconds of a decimal number of seconds; None for anything else.

    None also for times beyond ROS's stamps (32 bits of seconds), such as milli- or nanoseconds.
    """
    try:
        nanoseconds = round(Decimal(seconds.strip()).scaleb(9))
    except (InvalidOperation, ValueError, OverflowError):  # not a number; NaN; infinite
        return None
    return nanoseconds if abs(nanoseconds) < _LATEST else None


def calibration_file(folder: Path) -> dict[str, Any] | None:
    """The calibration in a folder (``calibration_files.NAMES``), as in calib.json; None = none.

    Raises SourceError for an invalid calib.json; another tool's file is left out with a warning.
    """
    path = find_calibration(folder)
    if path is None:
        return None
    try:
        calibration = read_calibration(path)
    except SourceError as error:
        if path.suffix == ".json":
            raise
        logger.warning("%s The camera is not calibrated.", error)
        return None
    rate = calibration.get("rate_hz") or 0.0
    if not isinstance(rate, int | float) or not 0.0 <= rate < np.inf:  # also refuses NaN
        raise SourceError(
            f"{path}: rate_hz is {rate!r}; give a number of images a second, or omit it."
        )
    return calibration


def with_right(files: dict[Path, Path]) -> Step:
    """Adds the right image, by the file of the left one."""

    def complete(path: Path, image: Image) -> Image:
        if path not in files:
            raise ImageError("the right camera has no image with this stamp.")
        return replace(image, right=read_image(files[path], upright=False))

    return complete


def with_depth(files: dict[Path, Path], units_per_metre: float) -> Step:
    """Adds the depth image, by the file of the colour one."""

    def complete(path: Path, image: Image) -> Image:
        if path not in files:
            raise ImageError("associations.txt or depth.txt names no depth image for it.")
        return replace(image, depth=read_depth(files[path], units_per_metre))

    return complete


def no_partner(spec: str, partner: Partner, reason: str) -> SourceError:
    """The error for a source without right or depth images; names kinds that have them."""
    needed = {
        "right": f"a folder with {_LEFT}/ and {_RIGHT}/ (KITTI), a EuRoC folder with cam1/, or a "
        "recording of two cameras",
        "depth": "a TUM RGB-D folder, a folder with frames.csv, associations.txt and depth_scale "
        "in calib.json, or a recording with a depth topic",
    }
    return SourceError(
        f"source {spec!r} has no {partner} images ({reason}); give {needed[partner]}."
    )


def depth_scale(spec: str, calibration: dict[str, Any] | None) -> float:
    """Depth units a metre; SourceError if the calibration does not say."""
    scale = (calibration or {}).get("depth_scale")
    if not isinstance(scale, int | float) or not 0.0 < scale < np.inf:
        reason = f"depth_scale in its calib.json is {scale!r}, not the units a metre"
        raise no_partner(spec, "depth", reason)
    return float(scale)


def _completion(
    path: Path, paths: list[Path], calibration: dict[str, Any] | None, partner: Partner
) -> Step | None:
    """The step that adds the partner to an image; SourceError if the sequence has none."""
    if partner == "right":
        rights = {p: p.parent.with_name(_RIGHT) / p.name for p in paths}
        if not any(p.parent.name == _LEFT and rights[p].is_file() for p in paths):
            reason = f"{paths[0]} has no counterpart in {_RIGHT}/"
            raise no_partner(str(path), partner, reason)
        return with_right(rights)
    if partner == "depth":
        scale = depth_scale(str(path), calibration)
        return with_depth(_associations(path / "associations.txt"), scale)
    return None


def _associations(table: Path) -> dict[Path, Path]:
    """Depth file by image file, from a TUM RGB-D table: stamp, image, stamp, depth."""
    if not table.is_file():
        raise no_partner(str(table.parent), "depth", f"there is no {table.name}")
    rows = read_table(table, "stamp image stamp depth")
    if not rows:
        raise no_partner(str(table.parent), "depth", f"{table.name} is empty")
    return {listed(table.parent, row[1]): listed(table.parent, row[3]) for row in rows}


def _bad_line(table: Path, number: int, expected: str, row: list[str]) -> SourceError:
    return SourceError(f"{table}, line {number}: expected {expected!r}, got {row}.")


def _natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sort key by which image2 comes before Image10."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts], name


def _are_times(files: list[Path]) -> bool:
    """Whether all names are seconds with decimals, such as 12.175304 and 12.2, not 1.9 and 1.10."""
    times = [_TIME.fullmatch(file.stem) for file in files]
    return all(times) and any(len(time[1]) > _SECTIONS for time in times if time)
