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

"""Result files: each is written beside its target and moved there once complete."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from aliked_ros.errors import OutputError
from aliked_ros.io.drawing import Trails, draw_tracks, fit
from aliked_ros.io.images import check_name
from aliked_ros.system.cache import atomic_path, check_target
from aliked_ros.types import Float32Array, FrameResult, Image, Tracks, UInt8Array

logger = logging.getLogger(__name__)

_RATES = 0.1, 240.0  # Hz of videos
_PLAYABLE = 30.0  # Hz, if the images' own rate is outside _RATES
VIDEO, TRACKS, SUMMARY = "tracks.mp4", "tracks.npz", "summary.json"


@contextmanager
def output_path(target: Path) -> Iterator[Path]:
    """``cache.atomic_path`` for a user's file; OutputError if it cannot be written.

    A link to a file stays: what it leads to is replaced. Devices, pipes and URIs are refused.
    """
    check_target(target)
    try:
        real = target
        if target.is_symlink() and not target.is_dir():
            real = Path(os.path.realpath(target))  # resolve() raises for links in a circle
        with atomic_path(real) as path:
            yield path
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(
            f"cannot write {target}: a part of {error.filename or target} is a file, not a folder; "
            "choose another path."
        ) from error
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}.") from error


def write_arrays(target: Path, **arrays: Any) -> None:
    """Write a compressed .npz file."""
    with output_path(target) as path, path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def write_json(target: Path, content: dict[str, Any]) -> None:
    """Write an indented JSON file."""
    with output_path(target) as path:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_picture(target: Path, picture: UInt8Array) -> None:
    """Write an H×W×3 RGB picture in the format that the file's suffix names."""
    try:
        _, data = cv2.imencode(target.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise OutputError(
            f"cannot write {target}: no picture format has the suffix {target.suffix!r}; "
            "use .png or .jpg."
        ) from error
    with output_path(target) as path:
        path.write_bytes(data.tobytes())


class VideoFile:
    """An MP4 (MPEG-4 Part 2) that gets its final name only when complete.

    Use as a context manager. Without frames no file is written. Pictures of other sizes are fitted
    into the first one's.
    """

    def __init__(self, target: Path, rate: float) -> None:
        self._target = target
        self._rate = rate
        if not _RATES[0] <= rate <= _RATES[1]:
            self._rate = _PLAYABLE
            logger.warning(
                "the stamps give %g images a second, impossible for video: %s is written with %g.",
                rate,
                target,
                _PLAYABLE,
            )
        self._size = (0, 0)
        self._frames = 0
        self._stack = ExitStack()
        self._writer: cv2.VideoWriter | None = None
        self._path = target

    def add(self, picture: UInt8Array) -> None:
        """Append an H×W×3 RGB picture."""
        if self._writer is None:
            self._writer = self._begin((picture.shape[1], picture.shape[0]))
        self._writer.write(cv2.cvtColor(fit(picture, *self._size), cv2.COLOR_RGB2BGR))
        self._frames += 1

    def _begin(self, size: tuple[int, int]) -> cv2.VideoWriter:
        check_name(self._target, OutputError)
        with ExitStack() as stack:
            self._path = stack.enter_context(output_path(self._target))
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(self._path), fourcc, self._rate, size)
            if not writer.isOpened():
                raise OutputError(
                    f"cannot write {self._target} ({size[0]}×{size[1]} pixels, {self._rate:g} Hz): "
                    "this OpenCV has no encoder for such MPEG-4 video; pip install "
                    "opencv-python-headless brings one."
                )
            self._size = size
            self._stack = stack.pop_all()
        return writer

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the video its name, also if the block ended with an error."""
        with self._stack:
            if self._writer is not None:
                self._writer.release()
                self._check()

    def _check(self) -> None:
        """Read the video back, since OpenCV does not report a full disk."""
        written = cv2.VideoCapture(str(self._path))
        frames = int(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
        written.release()
        if frames < self._frames:
            raise OutputError(
                f"cannot write {self._target}: the video is incomplete; the disk is probably full."
            )


def caption_of(result: FrameResult) -> str:
    """The caption of a drawn frame."""
    followed = int((result.tracks.lengths > 1).sum())
    return f"{result.features.model}  {len(result.features)} features, {followed} tracked"


def milliseconds(times: list[float]) -> dict[str, float]:
    """Median, 90th percentile and largest of times in seconds, as milliseconds."""
    return {
        "median": round(_median(times) * 1e3, 3),
        "p90": round(float(np.percentile(times, 90)) * 1e3, 3),
        "max": round(max(times) * 1e3, 3),
    }


class TrackStatistics:
    """Figures of a run, frame by frame."""

    def __init__(self) -> None:
        self._features: list[int] = []
        self._matches: list[int] = []
        self._lengths: dict[tuple[int, int], int] = {}
        self._epochs: set[int] = set()
        self._times: dict[str, list[float]] = defaultdict(list)

    def add(self, result: FrameResult) -> None:
        """Count a frame."""
        tracks = result.tracks
        self._features.append(len(result.features))
        if result.reference_index is not None:
            self._matches.append(len(result.matches))
        self._epochs.add(tracks.epoch)
        for track, length in zip(tracks.ids.tolist(), tracks.lengths.tolist(), strict=True):
            self._lengths[tracks.epoch, track] = length
        for stage, duration in result.stage_times.items():
            self._times[stage].append(duration)

    def summary(self) -> dict[str, Any]:
        """Plain numbers, times in milliseconds.

        Track lengths are in frames. Median and mean cover tracks of at least two frames
        (``lasting``), since a keypoint seen once was not tracked.
        """
        lasting = [length for length in self._lengths.values() if length > 1]
        return {
            "frames": len(self._features),
            "epochs": len(self._epochs),
            "features": _median(self._features),
            "matches": _median(self._matches),
            "tracks": {
                "lasting": len(lasting),
                "median_length": _median(lasting),
                "mean_length": round(float(np.mean(lasting)), 2) if lasting else 0.0,
                "max_length": max(lasting, default=0),
            },
            "stage_ms": {stage: milliseconds(times) for stage, times in self._times.items()},
        }


class TrackResults:
    """Folder with the annotated video, all tracks, and a summary of a run.

    ``tracks.npz`` has one row per keypoint and frame: ``frame`` (number from 0), ``id`` (unique
    within ``epoch``), ``x``, ``y`` (pixels), ``epoch``; and ``stamp`` (seconds), one per frame.

    Use as a context manager: when the block ends, also by an error or Ctrl-C, the files contain
    all frames added so far. ``facts`` go into the summary as they are at the end. The folder is
    created at the first frame.
    """

    def __init__(self, folder: Path, rate: float, facts: dict[str, Any]) -> None:
        self.summary: dict[str, Any] = {}
        self._folder = folder
        self._facts = facts
        self._statistics = TrackStatistics()
        self._trails = Trails()
        # only what is written; descriptors would fill the memory
        self._frames: list[tuple[Tracks, Float32Array]] = []
        self._stamps: list[float] = []
        self._video = VideoFile(folder / VIDEO, rate)

    def add(self, image: Image, result: FrameResult) -> None:
        """Draw and count a frame."""
        self._statistics.add(result)
        self._trails.update(result)
        self._frames.append((result.tracks, result.features.keypoints))
        self._stamps.append(result.stamp)
        picture = draw_tracks(image.pixels, result, self._trails, caption=caption_of(result))
        self._video.add(picture)

    def __enter__(self) -> TrackResults:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish all files."""
        self.summary = {
            **self._facts,
            **self._statistics.summary(),
            "complete": kind is None,
        }
        if not self._frames:
            return
        with self._video:  # small files first: they may fit even if the disk is nearly full
            write_json(self._folder / SUMMARY, self.summary)
            write_arrays(self._folder / TRACKS, **self._table())

    def _table(self) -> dict[str, Any]:
        tracks = [tracks for tracks, _ in self._frames]
        keypoints = np.concatenate([keypoints for _, keypoints in self._frames])
        counts = [len(one.ids) for one in tracks]
        epochs = np.array([one.epoch for one in tracks], np.uint32)
        return {
            "frame": np.repeat(np.arange(len(counts), dtype=np.uint32), counts),
            "id": np.concatenate([one.ids for one in tracks]),
            "x": keypoints[:, 0],
            "y": keypoints[:, 1],
            "epoch": np.repeat(epochs, counts),
            "object": np.concatenate([one.object_ids for one in tracks]),
            "stamp": np.array(self._stamps),
        }


def _median(values: list[int] | list[float]) -> float:
    return float(np.median(values)) if values else 0.0
