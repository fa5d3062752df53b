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

"""Video files and cameras, decoded by OpenCV."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aliked_ros.errors import SourceError
from aliked_ros.io.images import check_name
from aliked_ros.io.signatures import head_of, nature
from aliked_ros.sources.base import KINDS, NOMINAL_RATE, quiet_opencv, shorter
from aliked_ros.types import Image

logger = logging.getLogger("aliked_ros.sources")

_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts")
_STEADY = 0.9, 0.1  # steady rate: this share of intervals differs by at most this fraction
_PLACE: int = getattr(cv2, "CAP_PROP_PTS", -1)  # OpenCV before 4.11 has none, and gives 0
_ESTIMATED_FRAMES = 2  # a container may announce this many frames too many


class Video:
    """A video file, decoded by OpenCV to RGB, with its container's times."""

    def __init__(self, path: Path, limit: int | None) -> None:
        self.name = path.stem
        self.calibration: dict[str, Any] | None = None
        self.skipped = self.first = 0
        self._path = path
        self._limit = limit
        capture = self._open()
        rate = capture.get(cv2.CAP_PROP_FPS)
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        codec = (int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, "little")
        readable = capture.grab()
        capture.release()
        if not readable:
            name = codec.decode("ascii", "replace").strip("\0 ") or "unknown"
            raise SourceError(
                f"{path} holds no video frame that OpenCV can decode; its codec is {name!r}. "
                f"Convert it: ffmpeg -i {path.name} -c:v libx264 {path.stem}_h264.mp4"
            )
        self.rate = rate if np.isfinite(rate) and rate > 0 else NOMINAL_RATE
        self._announced = max(frames, 0)
        self.length = shorter(frames if frames > 0 else None, limit)

    def _open(self) -> cv2.VideoCapture:
        check_name(self._path, SourceError)
        with quiet_opencv():
            for backend in _backends():
                capture = cv2.VideoCapture(str(self._path), backend)
                if capture.isOpened():
                    break
        if not capture.isOpened():
            raise SourceError(
                f"{self._path} is not a video that OpenCV can open: {self._nature()}."
            )
        return capture

    def _nature(self) -> str:
        """What the file is instead of a video."""
        if self._path.stat().st_size == 0:
            return "the file is empty"
        if other := nature(head_of(self._path)):
            return other
        if self._path.suffix.lower() in _SUFFIXES:
            return "it is damaged, truncated, or uses a codec that OpenCV lacks (see ffprobe)"
        return f"it is not a known kind of source; give {KINDS}"

    def __iter__(self) -> Iterator[Image]:
        """Decode from the first frame on."""
        capture = self._open()
        self.skipped = 0
        try:
            previous = -1.0 / self.rate
            stamps: list[float] = []
            begin = 0.0
            for number in islice(count(), self._limit):
                if not capture.grab():
                    self._end(stamps, begin)
                    return
                stamp = capture.get(cv2.CAP_PROP_POS_MSEC) * 1e-3
                if not stamp > previous:  # containers without times always report 0
                    stamp = previous + 1.0 / self.rate
                if not stamps:
                    begin = capture.get(_PLACE)
                previous = stamp
                stamps.append(stamp)
                if number < self.first:
                    continue
                good, pixels = capture.retrieve()
                if not good:
                    self._end(stamps[:-1], begin)
                    return
                yield Image(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8), stamp)
        finally:
            capture.release()

    def _end(self, stamps: list[float], begin: float) -> None:
        """Compare with the announced length, since OpenCV does not tell an error from the end.

        For a variable rate the announced frame count is an estimate; the duration is not.

        begin: place of the first frame, in frames. Some containers count from their own begin.
        """
        announced = self._announced
        if 0 < begin <= announced - len(stamps) + _ESTIMATED_FRAMES:
            announced -= round(begin)
        missing = (shorter(announced, self._limit) or 0) - len(stamps)
        if missing <= _ESTIMATED_FRAMES:
            return
        end = stamps[-1] * self.rate if stamps else -1.0
        intervals = np.diff(stamps) * self.rate
        longest = float(intervals.max(initial=1.0))
        early = announced - end > longest + _ESTIMATED_FRAMES
        steady = np.count_nonzero(np.abs(intervals - 1.0) < _STEADY[1]) > _STEADY[0] * len(
            intervals
        )
        if not early and not steady:
            return
        self.skipped = missing
        logger.warning(
            "%s: decoding %s %d of %d frames; the file is damaged or truncated, or its sound is "
            "longer than its pictures.",
            self._path,
            "stopped after" if early else "gave only",
            len(stamps),
            self.length,
        )


def _backends() -> list[int]:
    """OpenCV's video backends, without its built-in reader, which writes to the terminal."""
    found = list(cv2.videoio_registry.getStreamBackends())
    if cv2.CAP_FFMPEG in found:
        found = [one for one in found if one not in (cv2.CAP_OPENCV_MJPEG, cv2.CAP_IMAGES)]
    return found or [cv2.CAP_ANY]


class Camera:
    """A local camera (V4L2 on Linux); stamps are the wall clock at a frame's arrival."""

    def __init__(self, number: int, limit: int | None) -> None:
        self.name = f"camera{number}"
        self.length = limit
        self.calibration: dict[str, Any] | None = None
        self.skipped = self.first = 0
        self._number = number
        self._limit = limit
        capture = self._open()
        rate = capture.get(cv2.CAP_PROP_FPS)
        capture.release()
        self.rate = rate if np.isfinite(rate) and rate > 0 else NOMINAL_RATE

    def _open(self) -> cv2.VideoCapture:
        with quiet_opencv():
            capture = cv2.VideoCapture(self._number)
        if not capture.isOpened():
            raise SourceError(
                f"camera:{self._number} cannot be opened; list cameras with "
                "'ls /dev/video*', and check that no other program uses it."
            )
        return capture

    def __iter__(self) -> Iterator[Image]:
        """Frames up to the limit; SourceError if the camera stops delivering."""
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
