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

"""What many hours of video cost, from measured figures (docs/fleet.md has the formulas)."""

from __future__ import annotations

from dataclasses import dataclass

HOUR = 3600 * 30
"""Images of an hour of video."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What an image costs.

    extract, track: seconds of one core; track includes the extraction. features, tracks, recording:
    bytes of the results of ``extract``, ``track`` and ``record``.
    """

    extract: float
    track: float
    features: float
    tracks: float
    recording: float

    def of(self, images: float) -> dict[str, float]:
        """Core hours, and terabytes (10¹² bytes) of the results, of so many images."""
        return {
            "extract_core_hours": images * self.extract / 3600.0,
            "track_core_hours": images * self.track / 3600.0,
            "features_tb": images * self.features / 1e12,
            "tracks_tb": images * self.tracks / 1e12,
            "recording_tb": images * self.recording / 1e12,
        }


def overhead(plain: float, ratio: float, once: float) -> float:
    """The share that ``batch`` adds to an hour of video at 30 images a second.

    plain: seconds an image without it. ratio: of those in a task to these. once: seconds that do
    not grow with the recording.
    """
    return ratio - 1.0 + once / (HOUR * plain)
