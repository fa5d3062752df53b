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

"""Counts, rates and recent stage times of the front-end, and the message that reports them."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass

import numpy as np

from aliked_msgs.msg import FrontendStatus
from aliked_ros.types import FrameResult

WINDOW = 5.0  # seconds over which rates and recent figures are taken
_OLDEST = 10  # images since a keypoint's detection; older ones are counted together
_RECENT = 100  # images over which stage times are taken
_NUMBERED = 50  # messages over which losses are counted
_ENOUGH = 20  # messages needed to measure losses
_IN_TURN = 0.1  # share of the messages that follow one of another publisher


class Rate:
    """Events per second over the last seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=10_000)

    def add(self, now: float) -> None:
        self._times.append(now)

    def hertz(self, now: float) -> float:
        """Rate at ``now``: it falls towards 0 when events stop."""
        while self._times and self._times[0] < now - WINDOW:
            self._times.popleft()
        if len(self._times) < 2:
            return 0.0
        return (len(self._times) - 1) / max(now - self._times[0], 1e-9)


class Losses:
    """Messages that did not arrive, by the numbers that their publisher gives them."""

    def __init__(self) -> None:
        self._numbers: deque[int] = deque(maxlen=_NUMBERED)
        self._others: deque[bool] = deque(maxlen=_NUMBERED)

    def note(self, number: int) -> None:
        """A message came; 0 = the middleware does not count."""
        other = bool(self._numbers) and number <= self._numbers[-1]  # another publisher's
        self._others.append(other)
        if other:
            self._numbers.clear()
        if number:
            self._numbers.append(number)

    @property
    def mixed(self) -> bool:
        """Whether the latest messages are those of several publishers, in turn."""
        return len(self._others) >= _ENOUGH and sum(self._others) > _IN_TURN * len(self._others)

    @property
    def share(self) -> float:
        """Of the latest messages; 0 until there are enough."""
        if len(self._numbers) < _ENOUGH:
            return 0.0
        return 1.0 - (len(self._numbers) - 1) / (self._numbers[-1] - self._numbers[0])


@dataclass(frozen=True, slots=True)
class Recent:
    """The last ``WINDOW`` seconds, or less after activation; NaN = no data.

    rate: images processed, Hz. dropped, refused: shares of the images. latency_mean, latency_max:
    from received to published, seconds. features, recovered: an image. tracked: share of the
    features. inliers: share of the matches that were verified. silence: seconds since the last
    image, or since images are expected.
    settled: images have come long enough for the figures to mean something.
    """

    rate: float
    dropped: float
    refused: float
    latency_mean: float
    latency_max: float
    features: float
    tracked: float
    inliers: float
    recovered: float
    silence: float
    settled: bool


@dataclass(frozen=True, slots=True)
class _Ended:
    """An image that is done with: processed, unless dropped or refused."""

    time: float
    dropped: bool = False
    refused: bool = False
    latency: float = math.nan
    features: int = 0
    tracked: int = 0
    verified: int = 0
    inliers: int = 0
    recovered: int = 0


class Statistics:
    """What happened since the last activation; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Restart counting."""
        with self._lock:
            self._last_arrival = time.monotonic()
            self._first_arrival = math.inf
            self._ended: deque[_Ended] = deque(maxlen=10_000)
            self._received = self._processed = self._dropped = self._refused = 0
            self._input, self._output, self._detections = Rate(), Rate(), Rate()
            self._stages: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT))
            self._staged: dict[str, float] = {}  # when each was measured last
            self._matchers: deque[str] = deque(maxlen=_RECENT)
            self._latest: FrameResult | None = None
            self._keyframes = self._alone = 0
            self._offset = math.nan
            self._last_error = ""

    def resume(self) -> None:
        """Images are expected from now on: what was before says nothing about now."""
        with self._lock:
            self._last_arrival = time.monotonic()
            self._first_arrival = math.inf
            self._ended.clear()

    def received(self) -> None:
        """Count an image that arrived."""
        with self._lock:
            self._received += 1
            self._last_arrival = time.monotonic()
            self._first_arrival = min(self._first_arrival, self._last_arrival)
            self._input.add(self._last_arrival)

    def paired(self, offset: float | None) -> None:
        """Remember how far the nearest partner was from an image, seconds; None = no partner."""
        with self._lock:
            self._offset = math.nan if offset is None else offset

    def alone(self) -> None:
        """Count an image that is processed without its partner."""
        with self._lock:
            self._alone += 1

    def dropped(self, count: int) -> None:
        """Count images that a newer one replaced."""
        with self._lock:
            self._dropped += count
            self._ended.extend([_Ended(time.monotonic(), dropped=True)] * count)

    def refused(self, reason: str) -> int:
        """Count an image that could not be used; returns how many there were."""
        with self._lock:
            self._refused += 1
            self._last_error = reason
            self._ended.append(_Ended(time.monotonic(), refused=True))
            return self._refused

    def error(self, reason: str) -> None:
        """Remember an error that concerns no single image."""
        with self._lock:
            self._last_error = reason

    def processed(self, result: FrameResult, stages: dict[str, float]) -> None:
        """Count an image whose results were published; stages: seconds by name."""
        with self._lock:
            self._processed += 1
            now = time.monotonic()
            self._output.add(now)
            self._ended.append(_ended(now, result, stages["total"]))
            if result.detection_index is not None:
                self._detections.add(now)
            self._latest = result
            self._keyframes += result.is_keyframe
            self._matchers.append(result.matches.matcher)
            for name, duration in stages.items():
                self._stages[name].append(duration)
                self._staged[name] = now
            for name in [n for n, last in self._staged.items() if last < now - WINDOW]:
                del self._stages[name], self._staged[name]  # nothing is drawn any more

    def status(self, state: str) -> FrontendStatus:
        """The message on ~/status, without header, epoch and identity."""
        now = time.monotonic()
        message = FrontendStatus(state=state)
        with self._lock:
            message.frames_received = self._received
            message.frames_processed = self._processed
            message.frames_dropped = self._dropped
            message.frames_refused = self._refused
            message.input_rate = self._input.hertz(now)
            message.output_rate = self._output.hertz(now)
            message.detection_rate = self._detections.hertz(now)
            message.last_error = self._last_error
            message.keyframes = self._keyframes
            message.frames_alone = self._alone
            message.sync_offset = self._offset
            asked = max(1, len(self._matchers) - self._matchers.count(""))
            message.lightglue_share = self._matchers.count("lightglue") / asked
            message.nearest_share = self._matchers.count("nearest") / asked
            if self._latest is not None:
                _describe(self._latest, message)
            for name, recent in self._stages.items():
                message.stage_names.append(name)
                message.stage_last.append(recent[-1])
                message.stage_mean.append(sum(recent) / len(recent))
                message.stage_max.append(max(recent))
        return message

    def recent(self) -> Recent:
        """The figures of the last seconds."""
        now = time.monotonic()
        with self._lock:
            while self._ended and self._ended[0].time < now - WINDOW:
                self._ended.popleft()
            ended = list(self._ended)
            silence, since = now - self._last_arrival, self._first_arrival
            rate = self._output.hertz(now)
        processed = [image for image in ended if not (image.dropped or image.refused)]
        latencies = [image.latency for image in processed]
        features = sum(image.features for image in processed)
        return Recent(
            rate=rate,
            dropped=_share(sum(image.dropped for image in ended), len(ended)),
            refused=_share(sum(image.refused for image in ended), len(ended)),
            latency_mean=_share(sum(latencies), len(processed)),
            latency_max=max(latencies, default=math.nan),
            features=_share(features, len(processed)),
            # images without any features track nothing, which is known
            tracked=_share(sum(i.tracked for i in processed), features)
            if features
            else _share(0, len(processed)),
            inliers=_share(
                sum(image.inliers for image in processed),
                sum(image.verified for image in processed),
            ),
            recovered=_share(sum(image.recovered for image in processed), len(processed)),
            silence=silence,
            settled=now - since >= WINDOW,
        )

    def silence(self) -> float:
        """Seconds since the last image, or since images are expected."""
        with self._lock:
            return time.monotonic() - self._last_arrival


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _ended(now: float, result: FrameResult, latency: float) -> _Ended:
    inliers, recovered = result.matches.inliers, result.tracks.recovered
    return _Ended(
        now,
        latency=latency,
        features=len(result.features),
        tracked=int((result.tracks.lengths > 1).sum()),
        verified=0 if inliers is None else len(inliers),
        inliers=0 if inliers is None else int(inliers.sum()),
        recovered=0 if recovered is None else int(recovered.sum()),
    )


def _describe(result: FrameResult, message: FrontendStatus) -> None:
    """What the status says of the latest image."""
    matches, tracks = result.matches, result.tracks
    message.features = len(result.features)
    message.matches = len(matches)
    message.tracked = int((tracks.lengths > 1).sum())
    message.inliers = 0 if matches.inliers is None else int(matches.inliers.sum())
    message.recovered = 0 if tracks.recovered is None else int(tracks.recovered.sum())
    message.geometry = matches.geometry
    message.with_depth = 0 if result.depth is None else int(np.isfinite(result.depth).sum())
    message.calibrated = result.normalized is not None
    message.static_share = float(result.static_share)
    ages = result.features.detection_age
    if ages is not None and len(ages):
        counts = np.bincount(np.minimum(ages.astype(np.int64), _OLDEST), minlength=_OLDEST + 1)
        message.age_shares = (counts / len(ages)).tolist()
