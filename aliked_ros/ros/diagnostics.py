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

"""The front-end's entries on ``/diagnostics``: input, tracks, speed.

Each figure that has thresholds is taken over the last seconds, and a level that it has reached
stands until the figure is better than the threshold by a tenth (hysteresis).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from aliked_msgs.msg import FrontendStatus
from aliked_ros.ros.declarations import Settings
from aliked_ros.ros.status import WINDOW, Recent

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)
PREFIX = "diagnostics."
_CLEAR = 0.1  # of a threshold, by which a figure has to be better before its level goes
_MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class _Figure:
    """A figure with thresholds.

    name: of its two parameters, without prefix, ``_warn`` and ``_error``. unit: of both.
    at_least: the figure must not fall below them; else it must not rise above.
    """

    name: str
    words: str
    unit: str
    at_least: bool
    value: Callable[[Recent, FrontendStatus], float]
    remedy: str


_REFUSED = _Figure(
    "max_refused", "share of images refused", "", False, lambda recent, _: recent.refused,
    "Correct the camera's driver. The latest reason:",
)  # fmt: skip
_TRACKED = _Figure(
    "min_tracked", "share of keypoints that continue a track", "", True,
    lambda recent, _: recent.tracked,
    "Look at ~/tracks/image: darkness, blur, a covered lens, or images too far apart.",
)  # fmt: skip
_PERFORMANCE = (
    _Figure(
        "min_rate", "output rate", " Hz", True, lambda recent, _: recent.rate,
        "If images come faster, lighten the work (profile robot, fewer max_keypoints); else look "
        "at the camera's rate.",
    ),
    _Figure(
        "max_latency", "mean latency", " s", False, lambda recent, _: recent.latency_mean,
        "stage_mean in ~/status tells where the time goes: profile robot, fewer max_keypoints, "
        "smaller images, or fewer other programs.",
    ),
    _Figure(
        "max_dropped", "share of images dropped", "", False, lambda recent, _: recent.dropped,
        "Lighten the work (profile robot, fewer max_keypoints), or lower the camera's rate.",
    ),
    _Figure(
        "max_memory", "memory", " MB", False, lambda _, status: status.memory / _MEGABYTE,
        "Restart the node; if it grows again, report it with the log.",
    ),
)  # fmt: skip


class Diagnostics:
    """The entries of one node; keeps the levels that stand.

    settings: thresholds are ``diagnostics.NAME_warn`` and ``diagnostics.NAME_error``; 0 = off.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self._name = name
        self._settings = settings
        self._standing: dict[str, bytes] = {}

    def report(
        self,
        status: FrontendStatus,
        recent: Recent,
        failure: str = "",
        warnings: str = "",
        silence: str = "",
    ) -> list[DiagnosticStatus]:
        """The entries of now.

        failure: why the node could not be configured or activated. warnings: warnings about
        the inputs. silence: what to say when images have been missing for too long.
        """
        active = status.state == "active"
        found: list[tuple[bytes, str]] = []
        stale = ""
        if active:
            level = self._level("max_silence", recent.silence, at_least=False)
            if level != OK:
                stale = f"no image for {recent.silence:.0f} s: these figures are of the last ones"
            refused, sentence = self._check(_REFUSED, recent, status)
            if refused != OK:
                sentence += f" {status.last_error}"
            found = [(level, silence if stale else ""), (refused, sentence), (WARN, warnings)]
        else:
            self._standing.clear()
        level, sentences = _worst(found)
        entries = [self._entry("input", level, sentences, status, _input_values(status, recent))]
        for part, checks, values in (
            ("front-end", (_TRACKED,), _frontend_values(status, recent)),
            ("performance", _PERFORMANCE, _performance_values(status, recent)),
        ):
            if stale:
                level, sentences = STALE, stale
            else:
                found = [self._check(c, recent, status) for c in checks] if active else []
                if part == "front-end":
                    found.append((ERROR, failure))
                level, sentences = _worst(found)
            entries.append(self._entry(part, level, sentences, status, values))
        return entries

    def _check(self, figure: _Figure, recent: Recent, status: FrontendStatus) -> tuple[bytes, str]:
        value = figure.value(recent, status)
        if not recent.settled:
            value = math.nan
        level = self._level(figure.name, value, figure.at_least)
        if level == OK:
            return OK, ""
        parameter = f"{PREFIX}{figure.name}_{'error' if level == ERROR else 'warn'}"
        return level, (
            f"{figure.words} is {value:.3g}{figure.unit}, {parameter} is "
            f"{self._settings[parameter]:.3g}{figure.unit}. {figure.remedy}"
        )

    def _level(self, name: str, value: float, at_least: bool) -> bytes:
        """The level of a figure (NaN = not known, which is OK)."""
        before: bytes = self._standing.get(name, OK)
        level: bytes = OK
        for candidate, suffix in ((WARN, "warn"), (ERROR, "error")):
            limit = self._settings[f"{PREFIX}{name}_{suffix}"]
            if limit == 0.0:
                continue
            margin = _CLEAR * limit if before >= candidate else 0.0
            if value < limit + margin if at_least else value > limit - margin:
                level = candidate
        self._standing[name] = level
        return level

    def _entry(
        self,
        part: str,
        level: bytes,
        sentences: str,
        status: FrontendStatus,
        values: Mapping[str, str],
    ) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=level,
            name=f"{self._name}: {part}",
            message=sentences or status.state,
            hardware_id=status.backend,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )


def _worst(found: list[tuple[bytes, str]]) -> tuple[bytes, str]:
    """The highest level, and all sentences, the worst first."""
    said = sorted((item for item in found if item[1]), key=lambda item: item[0], reverse=True)
    return (said[0][0] if said else OK), " ".join(sentence for _, sentence in said)


_CAMERA = {"still": "stands", "epipolar": "moves", "homography": "moves"}  # by the geometry


def _number(value: float, digits: int, scale: float = 1.0) -> str:
    return "none" if math.isnan(value) else f"{value * scale:.{digits}f}"


def _input_values(status: FrontendStatus, recent: Recent) -> dict[str, str]:
    return {
        "state": status.state,
        "input rate (Hz)": f"{status.input_rate:.1f}",
        f"refused, last {WINDOW:.0f} s (%)": _number(recent.refused, 1, 100.0),
        "frames received": str(status.frames_received),
        "frames refused": str(status.frames_refused),
        "frames alone": str(status.frames_alone),
        "calibrated": str(status.calibrated).lower(),
        "last error": status.last_error,
    }


def _frontend_values(status: FrontendStatus, recent: Recent) -> dict[str, str]:
    return {
        "state": status.state,
        "features": _number(recent.features, 0),
        "tracked (%)": _number(recent.tracked, 1, 100.0),
        "inliers (%)": _number(recent.inliers, 1, 100.0),
        "recovered (an image)": _number(recent.recovered, 1),
        "camera": _CAMERA.get(status.geometry, "unknown"),
        "keyframes": str(status.keyframes),
        "epoch": str(status.epoch),
        "model": status.model,
        "backend": status.backend,
        "backend, why": status.backend_reason,
        "engine": status.engine,
        "precision": status.precision,
    }


def _performance_values(status: FrontendStatus, recent: Recent) -> dict[str, str]:
    return {
        "state": status.state,
        "output rate (Hz)": f"{status.output_rate:.1f}",
        "latency, mean (ms)": _number(recent.latency_mean, 1, 1e3),
        "latency, max (ms)": _number(recent.latency_max, 1, 1e3),
        f"dropped, last {WINDOW:.0f} s (%)": _number(recent.dropped, 1, 100.0),
        "frames processed": str(status.frames_processed),
        "frames dropped": str(status.frames_dropped),
        "memory (MB)": f"{status.memory / _MEGABYTE:.0f}",
    }
