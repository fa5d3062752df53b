"""Counts, rates and recent stage times of the front-end, and the messages that report them."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict, deque

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from aliked_msgs.msg import FrontendStatus
from aliked_ros.types import FrameResult

_RATE_WINDOW = 5.0  # seconds over which rates are taken
_RECENT = 100  # images over which stage times are taken


class Rate:
    """Events per second over the last seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=10_000)

    def add(self, now: float) -> None:
        self._times.append(now)

    def hertz(self, now: float) -> float:
        """Rate at ``now``: it falls towards 0 when events stop."""
        while self._times and self._times[0] < now - _RATE_WINDOW:
            self._times.popleft()
        if len(self._times) < 2:
            return 0.0
        return (len(self._times) - 1) / max(now - self._times[0], 1e-9)


class Statistics:
    """What happened since the last activation; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Start counting anew."""
        with self._lock:
            self._last_arrival = time.monotonic()
            self._received = self._processed = self._dropped = self._refused = 0
            self._input, self._output = Rate(), Rate()
            self._stages: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT))
            self._matchers: deque[str] = deque(maxlen=_RECENT)
            self._latest: FrameResult | None = None
            self._keyframes = self._alone = 0
            self._offset = math.nan
            self._last_error = ""

    def received(self) -> None:
        """Count an image that arrived."""
        with self._lock:
            self._received += 1
            self._last_arrival = time.monotonic()
            self._input.add(self._last_arrival)

    def paired(self, offset: float | None) -> None:
        """Remember how far the nearest partner was from an image, seconds; None = there is none."""
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

    def refused(self, reason: str) -> int:
        """Count an image that could not be used; returns how many there were."""
        with self._lock:
            self._refused += 1
            self._last_error = reason
            return self._refused

    def error(self, reason: str) -> None:
        """Remember an error that concerns no single image."""
        with self._lock:
            self._last_error = reason

    def processed(self, result: FrameResult, stages: dict[str, float]) -> None:
        """Count an image whose results were published; stages: seconds by name."""
        with self._lock:
            self._processed += 1
            self._output.add(time.monotonic())
            self._latest = result
            self._keyframes += result.is_keyframe
            self._matchers.append(result.matches.matcher)
            for name, duration in stages.items():
                self._stages[name].append(duration)

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

    def silence(self) -> float:
        """Seconds since the last image, or since the start of counting."""
        with self._lock:
            return time.monotonic() - self._last_arrival


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


def diagnostic(name: str, status: FrontendStatus, complaint: str) -> DiagnosticStatus:
    """The entry in /diagnostics of one status; complaint: what is wrong now, empty = nothing."""
    stages = dict(zip(status.stage_names, status.stage_mean, strict=True))
    level = DiagnosticStatus.OK
    if complaint:
        failed = status.state == "unconfigured"
        level = DiagnosticStatus.ERROR if failed else DiagnosticStatus.WARN
    values = {
        "state": status.state,
        "input rate (Hz)": f"{status.input_rate:.1f}",
        "output rate (Hz)": f"{status.output_rate:.1f}",
        "latency, mean (ms)": f"{stages.get('total', 0.0) * 1e3:.1f}",
        "frames received": str(status.frames_received),
        "frames processed": str(status.frames_processed),
        "frames dropped": str(status.frames_dropped),
        "frames refused": str(status.frames_refused),
        "frames alone": str(status.frames_alone),
        "tracked": str(status.tracked),
        "calibrated": str(status.calibrated).lower(),
        "epoch": str(status.epoch),
        "last error": status.last_error,
    }
    return DiagnosticStatus(
        level=level,
        name=name,
        message=complaint or status.state,
        hardware_id=status.backend,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
