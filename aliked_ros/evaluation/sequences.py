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

"""Sequences that evaluations need calibrated, with depth or stereo pairs where there are any."""

from __future__ import annotations

from typing import Any, Literal

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError, SourceError
from aliked_ros.evaluation.baselines import Frontend
from aliked_ros.sources import Partner, Source, open_source
from aliked_ros.types import UInt8Array

Mode = Literal["mono", "stereo", "rgbd"]
MODES: dict[Mode, Partner] = {"rgbd": "depth", "stereo": "right", "mono": "none"}
"""The modes, with the partner of the images each needs; best first."""


def offered_mode(sequence: str) -> Mode:
    """The best mode that a sequence supports."""
    for mode, partner in MODES.items():
        try:
            source = open_source(sequence, partner=partner)
        except SourceError:
            continue
        if mode != "stereo" or "stereo_baseline_m" in (source.calibration or {}):
            return mode
    return "mono"  # problems are reported when the sequence is opened


def open_calibrated(
    sequence: str, mode: Mode, limit: int | None, mask: UInt8Array | None = None
) -> Source:
    """A source with calibration and what the mode needs; SourceError if something is missing."""
    if mode not in MODES:
        raise ConfigurationError(f"mode is {mode!r}; choose one of {', '.join(MODES)}.")
    source = open_source(sequence, limit, MODES[mode], mask)
    calibration = required_calibration(source, sequence)
    if mode == "stereo" and "stereo_baseline_m" not in calibration:
        raise SourceError(
            f"the calib.json of {sequence} has no stereo_baseline_m (metres), without which stereo "
            "gives no depth; add it, or choose --mode mono."
        )
    return source


def required_calibration(source: Source, name: str) -> dict[str, Any]:
    """A source's calibration; SourceError, calling it ``name``, if it has none."""
    if source.calibration is None:
        raise SourceError(f"{name} has no calibration; put a calib.json there.")
    return source.calibration


def calibrate(source: Source, frontend: Frontend) -> CameraModel:
    """Set a front-end's camera from the source; SourceError if it has no calibration."""
    calibration = required_calibration(source, source.name)
    frontend.camera = camera = CameraModel.from_calibration(calibration)
    frontend.baseline = calibration.get("stereo_baseline_m")
    return camera
