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


"""Loops: keyframes that show a place seen before, of this run or of a map."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from aliked_ros.frontend.covariance import pose_covariance
from aliked_ros.frontend.places import Key, KeyframeDatabase, Place
from aliked_ros.frontend.verification import MIN_MATCHES
from aliked_ros.types import Candidate, Features, Float64Array, Keyframe

Match = Callable[[Features, Keyframe], Candidate | None]
"""``Pipeline.find_candidate``: what an image shares with a keyframe; None with too little."""

_RECENT = 10  # keyframes: what they show has not been left
_TRIED = 3  # places that are verified, for each keyframe
_LEAST_SHARED = 10  # nearest neighbours, for LightGlue to be asked; unrelated images have up to 12
_LEAST_INLIERS = 30
_NEAR = 3  # places, in the order in which they were seen: so far apart, two are one place still


@dataclass(frozen=True, slots=True)
class Loop:
    """A place seen again.

    place, earlier: the current keyframe and the one of before. candidate: their verified matches
    (current against earlier) and the pose. covariance: of the pose, see ``pose_covariance``.
    """

    place: Place
    earlier: Place
    candidate: Candidate
    covariance: Float64Array | None


class LoopFinder:
    """Finds loops, one keyframe after another.

    A loop counts once two consecutive keyframes see the same earlier place. Recent keyframes are
    left out, and those that share tracks with the current one.
    """

    def __init__(self, database: KeyframeDatabase, match: Match) -> None:
        self._database = database
        self._match = match
        self._recent: deque[Key] = deque(maxlen=_RECENT)
        self._before: Place | None = None  # what the previous keyframe saw again

    def find(self, place: Place) -> Loop | None:
        """Whether a keyframe shows a place seen before. It may be in the database already."""
        self._recent.append(place.key)
        features = place.keyframe().features
        seen = self._see(place, features)
        before, self._before = self._before, None if seen is None else seen[0]
        if seen is None or before is None or not self._near(before, seen[0]):
            return None
        earlier, candidate = seen
        covariance = None
        if place.normalized is not None and place.camera is not None:
            focal = float(place.camera.matrix[0, 0])
            covariance = pose_covariance(candidate, place.normalized, focal)
        return Loop(place, earlier, candidate, covariance)

    def skip(self, place: Place) -> None:
        """Take note of a keyframe that is not searched for."""
        self._recent.append(place.key)

    def _see(self, place: Place, features: Features) -> tuple[Place, Candidate] | None:
        """The earlier place with most inliers."""

        def excluded(other: Place) -> bool:
            return other.key in self._recent or place.shared_tracks(other) >= MIN_MATCHES

        best: tuple[Place, Candidate] | None = None
        for earlier in self._database.candidates(features, _TRIED, excluded, _LEAST_SHARED):
            candidate = self._match(features, earlier.keyframe())
            if candidate is None or candidate.inliers < _LEAST_INLIERS:
                continue
            if best is None or candidate.inliers > best[1].inliers:
                best = earlier, candidate
        return best

    def _near(self, one: Place, other: Place) -> bool:
        if one.shared_tracks(other) >= MIN_MATCHES:
            return True
        apart = self._database.places_apart(one.key, other.key)
        return apart is not None and apart <= _NEAR
