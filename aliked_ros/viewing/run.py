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

"""Figures of a recorded run, as arrays, for reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from aliked_ros.errors import ImageError
from aliked_ros.io.bags import facts_of
from aliked_ros.io.drawing import Trails, draw_tracks
from aliked_ros.io.image_messages import image_from_message
from aliked_ros.io.messages import matches_from_message, seconds
from aliked_ros.io.results import caption_of
from aliked_ros.types import Float32Array, Float64Array
from aliked_ros.viewing import recorded
from aliked_ros.viewing.recorded import RecordedRun, result_of

CELLS = (32, 24)  # columns and rows of the coverage grid
_PICTURES = 6
_ERRORS = 20  # errors kept, the first ones
_QUALITY = 80  # JPEG quality of the pictures
_SANE_LATENCY = 60.0  # seconds; beyond it the stamps come from another clock than the recorder's


class Series:
    """Values with their times, seconds since the recording's first message."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._values: list[float] = []

    def add(self, time: float, value: float) -> None:
        """Append one."""
        self._times.append(time)
        self._values.append(float(value))

    def __len__(self) -> int:
        return len(self._times)

    @property
    def times(self) -> Float64Array:
        """N seconds."""
        return np.array(self._times)

    @property
    def values(self) -> Float64Array:
        """N values."""
        return np.array(self._values)

    def thinned(
        self, limit: int, reduce: Callable[..., Any] = np.median
    ) -> tuple[Float64Array, Float64Array]:
        """Times and values, at most ``limit``; groups of neighbours are reduced to one."""
        times, values = self.times, self.values
        if len(times) <= limit:
            return times, values
        edges = np.linspace(0, len(times), limit + 1).astype(int)
        pairs = list(pairwise(edges.tolist()))
        return (
            np.array([times[a:b].mean() for a, b in pairs]),
            np.array([reduce(values[a:b]) for a, b in pairs]),
        )


@dataclass(slots=True)
class Run:
    """A recorded run of the front-end.

    name: of the recording. begin: first message, seconds since the epoch. duration: from the first
        to the last message, seconds.
    cut_off: its end is missing.
    missing: kinds that were not recorded (see :mod:`recorded`).
    series: by name: features, tracked, matches, inliers (share, 0 to 1), latency (seconds from
        the image's stamp to the recorder), input_rate, output_rate, dropped, refused (since the
        run's start), stage NAME (seconds).
    keyframes: number of tracked features at each keyframe.
    lengths: length of each track, images.
    coverage: mean keypoints per image in each cell, rows × columns.
    trajectory: N×3 positions of the odometry.
    pictures: JPEGs of images with tracks, each with a caption.
    identity: model, backend and so on, from the last status. counts: of images, from the statuses.
    errors: the front-end's errors, in order.
    facts: stored by the recorder: its machine, the front-end's settings.
    """

    name: str
    begin: float = 0.0
    duration: float = 0.0
    cut_off: bool = False
    missing: list[str] = field(default_factory=list)
    series: dict[str, Series] = field(default_factory=lambda: defaultdict(Series))
    keyframes: Series = field(default_factory=Series)
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    coverage: Float64Array = field(default_factory=lambda: np.zeros(CELLS[::-1]))
    trajectory: Float64Array = field(default_factory=lambda: np.zeros((0, 3)))
    pictures: list[tuple[bytes, str]] = field(default_factory=list)
    identity: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    facts: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Processed images a second; 0 for fewer than two."""
        times = self.series["features"].times
        return (len(times) - 1) / max(times[-1] - times[0], 1e-3) if len(times) > 1 else 0.0

    @property
    def stages(self) -> dict[str, Series]:
        """The stage times by stage."""
        return {
            name.removeprefix("stage "): series
            for name, series in self.series.items()
            if name.startswith("stage ")
        }


def read_run(path: Path, frontend: str, report: Callable[[str, float], None]) -> Run:
    """Read a recording. Raises SourceError if it cannot be read or has no features."""
    with RecordedRun(path, frontend) as recording:
        reading = _Reading(recording)
        total = max(1, sum(recording.count.values()))
        for number, item in enumerate(recording.items()):
            reading.take(item)
            report(path.name, number / total)
        report(path.name, 1.0)
        return reading.finished()


class _Reading:
    """A run while it is being read."""

    def __init__(self, recording: RecordedRun) -> None:
        kinds = (recorded.MATCHES, recorded.STATUS, recorded.IMAGE, recorded.ODOMETRY)
        self._run = Run(
            recording.path.name,
            cut_off=recording.cut_off,
            facts=facts_of(recording.path),
            missing=[kind for kind in kinds if kind not in recording.topics],
        )
        frames = recording.count[recorded.FEATURES]
        self._chosen = set(np.linspace(0, frames - 1, _PICTURES).round().astype(int).tolist())
        self._frames = 0
        self._begin: int | None = None
        self._image: Any = None
        self._trails = Trails()
        self._runs = self._frame_index = 0
        self._lengths: dict[tuple[int, int, int], int] = {}
        self._poses: list[list[float]] = []
        self._before: Any = None  # the last status

    def take(self, item: recorded.Item) -> None:
        """Take one message in."""
        if self._begin is None:
            self._begin = item.time
        time = (item.time - self._begin) * 1e-9
        self._run.duration = max(self._run.duration, time)
        if item.kind == recorded.FEATURES:
            self._take_frame(time, item.time * 1e-9, item.message)
        elif item.kind == recorded.MATCHES:
            self._take_matches(time, item.message)
        elif item.kind == recorded.STATUS:
            self._take_status(time, item.message)
        elif item.kind == recorded.ODOMETRY:
            place = item.message.pose.pose.position
            self._poses.append([place.x, place.y, place.z])
        elif item.kind == recorded.IMAGE:
            self._image = item.message

    def finished(self) -> Run:
        """All of it."""
        run = self._run
        run.begin = (self._begin or 0) * 1e-9
        run.lengths = np.array(list(self._lengths.values()), np.int64)
        run.coverage /= max(1, self._frames)
        run.trajectory = np.array(self._poses).reshape(-1, 3)
        latency = run.series["latency"]
        if len(latency) and not -1.0 < np.median(latency.values) < _SANE_LATENCY:
            del run.series["latency"]
        self._count()
        return run

    def _take_frame(self, time: float, arrival: float, message: Any) -> None:
        result = result_of(message)
        features, tracks = result.features, result.tracks
        tracked = int((tracks.lengths > 1).sum())
        add = self._run.series
        add["features"].add(time, len(features))
        add["tracked"].add(time, tracked)
        add["latency"].add(time, arrival - seconds(message.header.stamp))
        if message.is_keyframe:
            self._run.keyframes.add(time, tracked)
        if message.frame_index < self._frame_index:  # another run, whose ids restart
            self._runs += 1
            self._trails = Trails()
        self._frame_index = message.frame_index
        for track, length in zip(tracks.ids.tolist(), tracks.lengths.tolist(), strict=True):
            if track:
                self._lengths[self._runs, tracks.epoch, track] = length
        self._cover(features.keypoints, features.width, features.height)
        self._trails.update(result)
        if self._frames in self._chosen and self._image is not None:
            try:
                pixels = image_from_message(self._image).pixels
                picture = draw_tracks(pixels, result, self._trails)
            except ImageError:
                pass
            else:
                line = f"{time:.1f} s: {caption_of(result)}"
                self._run.pictures.append((_jpeg(picture), line))
        self._image = None
        self._frames += 1

    def _cover(self, keypoints: Float32Array, width: int, height: int) -> None:
        if not (len(keypoints) and width and height):
            return
        cells = (keypoints / [width, height] * CELLS).astype(int)
        inside = ((cells >= 0) & (cells < CELLS)).all(axis=1)
        np.add.at(self._run.coverage, (cells[inside, 1], cells[inside, 0]), 1.0)

    def _take_matches(self, time: float, message: Any) -> None:
        matches = matches_from_message(message)
        self._run.series["matches"].add(time, len(matches))
        if matches.inliers is not None and len(matches):
            self._run.series["inliers"].add(time, matches.inliers.mean())

    def _take_status(self, time: float, message: Any) -> None:
        before = self._before
        if before is not None and message.frames_received < before.frames_received:
            self._count()  # the counts were reset
            before = None
        self._before = message
        add, counts = self._run.series, self._run.counts
        add["input_rate"].add(time, message.input_rate)
        add["output_rate"].add(time, message.output_rate)
        for name in ("dropped", "refused"):
            number = getattr(message, f"frames_{name}")
            add[name].add(time, counts.get(name, 0) + number)
        if before is None or message.frames_processed > before.frames_processed:
            for stage, duration in zip(message.stage_names, message.stage_last, strict=True):
                add[f"stage {stage}"].add(time, duration)
        errors = self._run.errors
        if message.last_error and message.last_error not in errors and len(errors) < _ERRORS:
            errors.append(message.last_error)
        if message.model:
            # older recordings lack some fields
            names = (
                "model", "model_checksum", "backend", "backend_reason", "engine", "precision",
            )  # fmt: skip
            values = {name: str(getattr(message, name, "")) for name in names}
            if memory := int(getattr(message, "memory", 0)):
                values["memory"] = f"{memory / 1e6:.0f} MB"
            self._run.identity = {name: value for name, value in values.items() if value}

    def _count(self) -> None:
        """Add the last status's counts."""
        if self._before is None:
            return
        counts = self._run.counts
        for name in ("received", "processed", "dropped", "refused"):
            counts[name] = counts.get(name, 0) + int(getattr(self._before, f"frames_{name}"))
        counts["keyframes"] = counts.get("keyframes", 0) + int(self._before.keyframes)


def _jpeg(picture: Any) -> bytes:
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    data: bytes = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    return data
