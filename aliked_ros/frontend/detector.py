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
"""ALIKED's detections for tracks that flow follows: at once, or in a thread of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.flow import structure_at
from aliked_ros.frontend.following import (
    LEAST_COSINE,
    Detection,
    Images,
    Rows,
    Turns,
    advance,
    associate,
    begin,
    detection_of,
    nothing,
)
from aliked_ros.frontend.fusion import Filters, detection_noise
from aliked_ros.frontend.keyframes import shared_rows
from aliked_ros.frontend.matcher import EASY_SHARE, PLACED_COSINE, TurnMatcher
from aliked_ros.frontend.recovery import Recovery, give, smooth
from aliked_ros.frontend.stereo import StereoMatcher
from aliked_ros.frontend.verification import MIN_MATCHES, Verifier
from aliked_ros.system.cpu import lower_priority
from aliked_ros.types import (
    Features,
    Float32Array,
    Float64Array,
    Image,
    Keyframe,
    Matches,
    UInt8Array,
    UInt64Array,
)

T = TypeVar("T")

_HIDDEN = 0.2  # of the tracks: with more coming back at once, something had hidden them
_PASSES = 3  # each is a tenth of the last: to follow points takes less than images are apart


@dataclass(frozen=True, slots=True)
class Request:
    """An image to detect in, and what was known when it came.

    index: of the image. mask: of the image, None = everywhere. camera: None where its model is
    not known, or not for images of this size.
    """

    index: int
    image: Image
    mask: UInt8Array | None
    camera: CameraModel | None
    keyframes: tuple[Keyframe, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What the tracks are in the image to detect in.

    grey: H×W, the image. images: gives it and those that have come since.
    tracks: followed there. reference, reference_ids: the last detection's features and the tracks
    they belong to, 0 = none; None before the first detection. reference_noise: covariances N×2×2 of
    its keypoints, reference_index the number of its image. ended: ids of tracks that must not come
    back.
    """

    grey: UInt8Array
    images: Callable[[], Images]
    tracks: Rows
    reference: Features | None
    reference_ids: UInt64Array
    reference_noise: Float64Array
    reference_index: int
    ended: UInt64Array


@dataclass(slots=True)
class Detector:
    """Finds an image's features and the tracks that they belong to.

    matcher: finds tracks that are not where flow expects them.
    always: ask it at every detection, not only where most tracks are missing.
    lock: held while the networks work. turns: of the camera, by images' numbers.
    """

    extractor: Extractor
    stereo: StereoMatcher
    matcher: TurnMatcher
    verifier: Verifier
    recovery: Recovery
    always: bool
    lock: threading.Lock
    turns: Turns

    def __call__(self, request: Request, known: Known) -> Detected:
        """The detection, and the seconds that its stages took."""
        with self.lock:
            laps = [time.perf_counter()]
            features = self.extractor.extract(request.image.pixels, request.mask)
            laps.append(time.perf_counter())
            right_x = self._right_x(request.image, features)
            laps.append(time.perf_counter())
            noise = detection_noise(structure_at(known.grey, features.keypoints))
            picture = smooth(known.grey)
            ids = self._identified(request, known, features, noise, picture)
            ids[np.isin(ids, known.ended)] = 0
            returned = self._returned(request, known, features, ids, picture)
            known = replace(known, tracks=known.tracks + returned)
            wrong = self._wrong(request, known, features, noise, ids)
            ids[np.isin(ids, wrong)] = 0
            disparity = np.full(len(features), np.nan, np.float32)
            if right_x is not None:
                disparity = features.keypoints[:, 0] - right_x
            detection = detection_of(
                request.index, features, noise, ids, disparity, known.tracks, wrong
            )
            returned = returned[~np.isin(returned.ids, wrong)]
            detection = replace(detection, new=detection.new + returned)
            laps.append(time.perf_counter())
        seconds = dict(zip(("extract", "stereo", "match"), np.diff(laps).tolist(), strict=True))
        for _ in range(_PASSES):  # to the newest image; more come meanwhile
            detection = advance(detection, known.images(), self.turns)
        return detection, seconds

    def _identified(
        self,
        request: Request,
        known: Known,
        features: Features,
        own_noise: Float64Array,
        picture: UInt8Array,
    ) -> UInt64Array:
        reference = known.reference
        turn = None if reference is None else self.turns(known.reference_index, request.index)
        turned = turn is not None and turn.bends
        ids = associate(known.tracks, features, PLACED_COSINE if turned else LEAST_COSINE)
        count, most = int(np.count_nonzero(ids)), min(len(known.tracks), len(features))
        if reference is not None and turn is not None and turned:
            # ALIKED finds few points again after a turn: what flow kept in view counts instead
            kept = reference.keypoints[known.reference_ids != 0]
            count, most = len(known.tracks), int(np.count_nonzero(turn.stays(kept)))
        few = count < EASY_SHARE * most
        if reference is not None and (few or self.always):
            matches = self.matcher.match(reference, features, turn=turn)
            noise = known.reference_noise[matches.reference_indices]
            noise = noise + own_noise[matches.current_indices]
            matches = self.verifier.verify(
                reference, features, matches, request.camera, noise=noise
            )
            good = slice(None) if matches.inliers is None else matches.inliers
            rows = matches.current_indices[good].astype(np.int64)
            give(ids, rows, known.reference_ids[matches.reference_indices[good]])
        lost = np.count_nonzero(ids) < MIN_MATCHES
        normalized = None
        if request.camera is not None:
            normalized = request.camera.normalize(features.keypoints)
        return self.recovery.recover(
            features,
            ids,
            request.keyframes,
            request.camera,
            bool(lost),
            picture,
            normalized,
            lambda index: self.turns(index, request.index),
        )

    def _returned(
        self,
        request: Request,
        known: Known,
        features: Features,
        ids: UInt64Array,
        picture: UInt8Array,
    ) -> Rows:
        """Lost tracks that ALIKED does not detect again, where many others have come back."""
        again = np.flatnonzero((ids != 0) & ~np.isin(ids, known.tracks.ids))
        returned = nothing()
        if len(again) <= _HIDDEN * len(known.tracks):
            return returned
        points = np.concatenate([known.tracks.points, features.keypoints[again]])
        for found in self.recovery.follow(
            np.concatenate([known.tracks.ids, ids[again]]),
            points.astype(np.float32),
            request.keyframes,
            request.camera,
            picture,
            known.ended,
        ):
            then, rows, count = found.keyframe.features, found.rows, len(found.rows)
            noise = detection_noise(structure_at(known.grey, found.points))
            begun = begin(
                replace(
                    features,
                    keypoints=found.points,
                    scores=then.scores[rows],
                    descriptors=then.descriptors[rows],
                ),
                np.arange(count),
                found.keyframe.tracks.ids[rows],
                noise,
                np.full(count, np.nan, np.float32),
                known.tracks,
            )
            drift = found.covariances
            if then.covariances is not None:
                drift = drift + then.covariances[rows][:, [0, 1, 1, 2]].reshape(-1, 2, 2)
            ages = np.full(count, request.index - found.keyframe.index, np.uint32)
            if then.detection_age is not None:
                ages += then.detection_age[rows]
            returned += replace(
                begun,
                filters=Filters.born(noise).step(drift),
                ages=ages,
                detected=np.full(count, -1),
            )
        return returned

    def _wrong(
        self,
        request: Request,
        known: Known,
        features: Features,
        noise: Float64Array,
        ids: UInt64Array,
    ) -> UInt64Array:
        """Ids of tracks that the camera's motion since the last keyframe does not explain.

        Flow leads points astray too slowly for two images in a row to show it.
        """
        if not request.keyframes or self.verifier.method == "none":
            return np.zeros(0, np.uint64)
        then = request.keyframes[-1]
        again = np.flatnonzero((ids != 0) & ~np.isin(ids, known.tracks.ids))
        found = Filters.found_again(noise[again])
        now = np.concatenate([known.tracks.ids, ids[again]])
        points = np.concatenate([known.tracks.points, features.keypoints[again]])
        covariances = np.concatenate([known.tracks.filters.covariances, found.covariances])
        rows, before = shared_rows(now, then.tracks.ids)
        every = np.arange(len(rows), dtype=np.uint32)
        matches = self.verifier.verify(
            then.features,
            replace(features, keypoints=points[rows].astype(np.float32)),
            Matches(before.astype(np.uint32), every, np.ones(len(rows), np.float32)),
            request.camera,
            noise=covariances[rows],
        )
        if matches.inliers is None or matches.geometry == "unverified":
            return np.zeros(0, np.uint64)
        return now[rows[~matches.inliers]]

    def _right_x(self, image: Image, features: Features) -> Float32Array | None:
        if image.right is None:
            return None
        right = self.extractor.extract(image.right)
        return self.stereo.match(features, right, image.pixels, image.right)


Detected = tuple[Detection, dict[str, float]]
"""A detection, and the seconds that its stages took."""


class Background:
    """Runs one detection after another in a thread of its own; who asks never waits.

    There is one call at most: the next is taken when the last has ended, so that no queue grows.
    The thread has a low priority, which the threads of the networks inherit if it loads them.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "detection", initializer=lower_priority)
        self._running: Future[Detected] | None = None
        self._began = 0.0
        self._wanted = True

    def wait_for(self, call: Callable[[], T]) -> T:
        """The result of a call made in the thread, after the one that runs; raises its error."""
        return self._thread.submit(call).result()

    @property
    def idle(self) -> bool:
        """Whether the thread would take a call."""
        return self._running is None

    @property
    def seconds(self) -> float:
        """For how long the call has run whose result is wanted and not taken; 0 = there is none."""
        wanted = self._running is not None and self._wanted
        return time.monotonic() - self._began if wanted else 0.0

    def submit(self, detect: Callable[[], Detected]) -> None:
        """Start a call; only while ``idle``."""
        self._wanted, self._began = True, time.monotonic()
        self._running = self._thread.submit(detect)

    def take(self) -> Detected | None:
        """The result of the call that has ended, once; None = none has. Raises what it raised."""
        if self._running is None or not self._running.done():
            return None
        ended, self._running = self._running, None
        return ended.result() if self._wanted else None

    def forget(self) -> None:
        """The result of what runs now is not wanted any more."""
        self._wanted = False

    def close(self) -> None:
        """Wait for the call that runs."""
        self._thread.shutdown()
        self._running = None
