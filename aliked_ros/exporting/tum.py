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

"""Trajectories as TUM text, for evo: ``evo_ape tum groundtruth.txt trajectory.txt --align``."""

from __future__ import annotations

import logging
from pathlib import Path

from aliked_ros.exporting.recording import RecordingReader
from aliked_ros.io.results import output_path

logger = logging.getLogger(__name__)


def export_tum(recording: RecordingReader, target: Path) -> int:
    """Write the odometry as lines ``stamp tx ty tz qx qy qz qw``; returns their number.

    Seconds, metres, unit quaternion: poses of the odometry's child frame in its parent frame.
    Raises SourceError without odometry, OutputError for a file that cannot be written.
    """
    lines = []
    latest, disordered = 0, 0
    for pose in recording.odometry():
        disordered += pose.stamp <= latest
        latest = pose.stamp
        seconds, nanoseconds = divmod(pose.stamp, 1_000_000_000)
        numbers = " ".join(f"{value:.9f}" for value in (*pose.position, *pose.orientation))
        lines.append(f"{seconds}.{nanoseconds:09d} {numbers}\n")
    if disordered:
        logger.warning(
            "%s: %d of %d poses have a stamp that is 0 or not increasing; they are written "
            "unchanged, and tools may refuse or reorder them.",
            recording.path,
            disordered,
            len(lines),
        )
    with output_path(target) as path:
        path.write_text("".join(lines), encoding="utf-8")
    return len(lines)
