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
"""The loop that goes through every image: flow carries tracks, detections correct them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from scipy.spatial import cKDTree

from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.detector import Background, Detected, Detector, Known, Request
from aliked_ros.frontend.following import (
    MERGED,
    SPACING,
    Detection,
    Images,
    Rows,
    Turns,
    advance,
    apart,
    carry,
    merge,
    nothing,
)
from aliked_ros.frontend.keyframes import shared_rows
from aliked_ros.frontend.moving import LATENCY, MovingObjects
from aliked_ros.frontend.recovery import undistorted
from aliked_ros.frontend.stereo import StereoMatcher
from aliked_ros.frontend.verification import Verifier
from aliked_ros.io.images import grey
from aliked_ros.types import (
    BoolArray,
    Features,
    Float32Array,
    Float64Array,
    FrameResult,
    Image,
    Matches,
    UInt8Array,
    UInt32Array,
    UInt64Array,
)

_HARD = 0.5  # of the last detection's tracks: with fewer left, an image asks for one at once
_REGULAR = 0.2  # steps by which stamps may differ, as drivers' do
_LONGEST = 4.0  # steps that points go on as before: after that the camera moves otherwise
_LATE = 15  # images since its own, after which a detection may come to nothing
_LEFT = 0.1  # of its features: what there have to be of tracks
_LOOSE = LATENCY + 1  # images for which a track that left the others may turn out to be an object's

_KEPT = 64  # images, at most, since the one that is being looked at
_REMEMBERED = 5000  # tracks that have ended for good

Lap = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Carried:
    """The tracks in an image, those that begin there still without ids.

    grey: H×W, the image. before, after: K×2, pixels: all that flow found, whether or not it agrees
    with the camera's motion. geometry: see ``Matches``. hard: too little goes on by flow. wrong:
    ids of those that do not agree, unless nothing does.
    detection: the one that ended with this image, None = none did; seconds: of its stages.
    failure: why the one that ended with this image failed.
    loose: tracks that the camera's motion does not explain, where moving objects are wanted; their
    ids are 0 unless they were published as an object's, and ``missed`` counts images since then, or
    since they left the others. objects: of ``rows``, see ``Tracks``; None = not told yet.
    """

    rows: Rows
    grey: UInt8Array
    before: Float32Array
    after: Float32Array
    geometry: str = ""
    hard: bool = True
    wrong: UInt64Array = field(default_factory=lambda: np.zeros(0, np.uint64))
    detection: Detection | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    failure: Exception | None = None
    loose: Rows = field(default_factory=nothing)
    objects: UInt32Array | None = None

    def matches(self, previous: FrameResult) -> Matches:
        """Rows whose tracks the previous image has, too; the score is the patches' correlation."""
        now, before = shared_rows(self.rows.ids, previous.tracks.ids)
        return Matches(
            before.astype(np.uint32),
            now.astype(np.uint32),
            np.clip(self.rows.correlation[now], 1e-6, 1.0).astype(np.float32),
            inliers=self.at_rest[now] if self.geometry else None,
            geometry=self.geometry,
            matcher="flow",
        )

    @property
    def at_rest(self) -> BoolArray:
        """Which rows are on no moving object."""
        return np.ones(len(self.rows), bool) if self.objects is None else self.objects == 0


class Carrier:
    """Optical flow from image to image, and detections in their rhythm or behind it."""

    def __init__(
        self,
        config: FrontendConfig,
        detector: Detector,
        verifier: Verifier,
        stereo: StereoMatcher,
        background: Background | None,
        turns: Turns,
    ) -> None:
        """Tracks that disagree with the motion which ``verifier`` finds end.

        background: where detections run; None = between two images. turns: of the camera.
        """
        self._config = config
        self._detector, self._verifier, self._stereo = detector, verifier, stereo
        self._background, self._turns = background, turns
        self.reset()

    def reset(self) -> None:
        """Forget all tracks."""
        self._rows = self._loose = nothing()
        self._images: Images = ()
        self._reference: Features | None = None
        self._reference_ids: UInt64Array = np.zeros(0, np.uint64)
        self._reference_noise = np.zeros((0, 2, 2))
        self._reference_index = 0
        self._ended: deque[int] = deque(maxlen=_REMEMBERED)
        self._detected = -self._config.detection_interval  # the last image that was looked at
        self._held = 0  # tracks after it
        if self._background is not None:
            self._background.forget()

    def reconfigure(self, config: FrontendConfig) -> None:
        """Take over the thresholds of ``config``."""
        self._config = config

    def follow(self, request: Request, previous: FrameResult | None, lap: Lap) -> Carried:
        """The tracks of the image before in this one, as far as flow and verification go."""
        now, rows = grey(request.image.pixels), self._rows
        none = np.zeros((0, 2), np.float32)
        if previous is None or len(rows) == 0:
            return Carried(rows, now, none, none)
        before = rows.features(previous.features.width, previous.features.height, "")
        moved, found, noise = self._carried(rows, now, request, previous)
        kept = np.flatnonzero(found)
        rows, loose = moved[kept], self._loose
        if len(loose):
            moved, found, _ = self._carried(loose, now, request, previous)
            loose = moved[found]
            loose = replace(loose, missed=loose.missed + 1)
        lap("flow")
        features = rows.features(before.width, before.height, before.model)
        row = np.arange(len(rows), dtype=np.uint32)
        matches = Matches(kept.astype(np.uint32), row, rows.correlation)
        carried = Carried(rows, now, before.keypoints[kept], features.keypoints)
        wrong = np.zeros(0, np.uint64)
        if self._config.verification != "none":
            matches = self._verifier.verify(
                before, features, matches, request.camera, noise=noise[kept]
            )
            if matches.inliers is not None:
                # where nothing agrees, it is not the tracks that are wrong
                if matches.geometry != "unverified":
                    wrong = rows.ids[~matches.inliers]
                    loose += _loosened(rows[~matches.inliers])
                rows = rows[matches.inliers]
        hard = len(rows) < _HARD * self._held
        lap("verify")
        return replace(
            carried,
            rows=apart(rows),
            geometry=matches.geometry,
            hard=hard,
            wrong=wrong,
            loose=loose,
        )

    def _carried(
        self, rows: Rows, now: UInt8Array, request: Request, previous: FrameResult
    ) -> tuple[Rows, BoolArray, Float64Array]:
        """``carry`` to this image."""
        before, earlier = self._images[-1][1], previous.reference_index
        turn = self._turns(previous.index, request.index)
        last = None if earlier is None else self._turns(earlier, previous.index)
        pace = _pace(previous, request.image.stamp)
        return carry(rows, before, now, request.mask, turn, last, pace)

    def correct(self, carried: Carried, request: Request, lap: Lap) -> Carried:
        """The tracks after the detection that has ended, or is due in this image; best first.

        Raises what the detection of this image raises; one that failed behind it is noted.
        """
        try:
            detected = self._detection(carried, request)
        except Exception as error:
            if self._waits:
                raise
            return replace(carried, failure=error)
        finally:
            lap("detect")
        rows = carried.rows
        if detected is None:
            return carried
        detection, seconds = detected
        ended = np.array([*self._ended, *carried.wrong.tolist()], np.uint64)  # some since it began
        new = detection.new[~np.isin(detection.new.ids, ended)]
        detection = replace(detection, new=new)
        loose = carried.loose + _loosened(rows[np.isin(rows.ids, detection.wrong)])
        rows = merge(
            rows, detection, request.index, self._until(request, carried.grey), request.mask,
            self._config.max_keypoints, self._turns,
        )  # fmt: skip
        rows = rows[np.argsort(-rows.scores, kind="stable")]
        lap("fuse")
        return replace(carried, rows=rows, loose=loose, detection=detection, seconds=seconds)

    def separate(self, carried: Carried, request: Request, moving: MovingObjects) -> Carried:
        """The tracks with those of moving objects among them, unless these are dropped."""
        if not moving.wanted:
            return replace(carried, loose=nothing())
        rows, loose = _without_doubles(carried.rows, carried.loose)
        scene = np.arange(len(rows) + len(loose)) < len(rows)
        rows = rows + loose
        height, width = carried.grey.shape
        deviations = np.sqrt(np.linalg.eigvalsh(rows.filters.covariances)[:, 1])
        chains, objects = moving.update(
            rows.chains,
            undistorted(rows.points.astype(np.float32), request.camera, None),
            scene & (rows.ids != 0) & (carried.geometry not in ("", "unverified")),
            (width, height),
            deviations,
        )
        rows, on_object = replace(rows, chains=chains), objects != 0
        leaving = scene & on_object
        wrong = np.concatenate([carried.wrong, rows.ids[leaving & (rows.ids != 0)]])
        rows = replace(
            rows,
            ids=np.where(scene ^ on_object, rows.ids, np.uint64(0)),
            missed=np.where(on_object, 0, rows.missed),
            detected=np.where(on_object, -1, rows.detected),
        )
        shown = scene & ~on_object if moving.dropped else scene | on_object
        loose = rows[~shown & (rows.missed <= _LOOSE)]
        if on_object.any():
            best = np.argsort(-rows.scores[shown], kind="stable")[: self._config.max_keypoints]
            rows, objects = rows[shown][best], objects[shown][best]
        else:
            rows, objects = rows[shown], objects[shown]
        return replace(carried, rows=rows, loose=loose, objects=objects, wrong=wrong)

    def right_x(self, carried: Carried, image: Image) -> Float32Array | None:
        """Where the keypoints are in the right image: N, pixels, NaN = unknown; None without it."""
        if image.right is None:
            return None
        rows = carried.rows
        points = rows.points.astype(np.float32)
        return self._stereo.follow(points, rows.disparity, image.pixels, image.right)

    def keep(
        self, carried: Carried, request: Request, ids: UInt64Array, right_x: Float32Array | None
    ) -> None:
        """Go on from here. ids: N, of all rows. right_x: N, as ``right_x`` says."""
        rows = replace(carried.rows, ids=ids)
        self._ended.extend(carried.wrong.tolist())
        if right_x is not None:
            rows = replace(rows, disparity=rows.points[:, 0].astype(np.float32) - right_x)
        self._images = self._until(request, carried.grey)
        self._loose = carried.loose
        if not carried.at_rest.all():
            self._loose += rows[~carried.at_rest]
            rows = rows[carried.at_rest]
        self._rows = rows
        if carried.detection is not None:
            self._detected, self._held = carried.detection.index, len(rows)
            self._ended.extend(carried.detection.wrong.tolist())
            self._reference = carried.detection.features
            self._reference_noise = carried.detection.noise
            self._reference_index = carried.detection.index
            self._reference_ids = np.zeros(len(self._reference), np.uint64)
            seen = rows.detected >= 0
            self._reference_ids[rows.detected[seen]] = rows.ids[seen]
        if self._background is None:
            self._images = self._images[-1:]
        elif self._background.idle:
            self._images = self._images[-1:]
            if self._detected < request.index:
                known = self._known(carried.grey, rows, lambda: self._images)
                self._background.submit(partial(self._detector, request, known))

    def _until(self, request: Request, grey: UInt8Array) -> Images:
        """The images since the one of the last detection, this one included.

        While a detection takes long, ever fewer of the older ones.
        """
        images = (*self._images, (request.index, grey))
        half = _KEPT // 2
        return images if len(images) <= _KEPT else images[:half:2] + images[half:]

    @property
    def _waits(self) -> bool:
        """Whether the image waits for its own detection: behind, the first of an epoch does.

        Without it the first images would have no features, which a back-end takes for a blind
        camera.
        """
        return self._background is None or not self._images

    def _detection(self, carried: Carried, request: Request) -> Detected | None:
        if self._waits:
            due = request.index - self._detected >= self._config.detection_interval
            if not (due or carried.hard):
                return None
        else:
            assert self._background is not None
            detected = self._background.take()
            if detected is None or request.index - detected[0].index < _LATE:
                return detected
            # Followed here once: what is left decides, and goes on.
            late = advance(detected[0], self._until(request, carried.grey), self._turns)
            if len(carried.rows) + len(late.new) >= _LEFT * len(late.features):
                return late, detected[1]
            # The next would come to nothing too: the image waits for its own instead.
        images = ((request.index, carried.grey),)
        known = self._known(carried.grey, carried.rows, lambda: images)
        detect = partial(self._detector, request, known)
        return detect() if self._background is None else self._background.wait_for(detect)

    def _known(self, grey: UInt8Array, rows: Rows, images: Callable[[], Images]) -> Known:
        ended = np.array(self._ended, np.uint64)
        reference = (self._reference, self._reference_ids, self._reference_noise)
        return Known(grey, images, rows, *reference, self._reference_index, ended)


def _pace(previous: FrameResult, stamp: float) -> float:
    """How long the step from an image to that of ``stamp`` takes, in steps to the one before."""
    earlier = previous.reference_stamp
    if earlier is None or not earlier < previous.stamp < stamp:  # a driver may repeat a stamp
        return 1.0
    pace = (stamp - previous.stamp) / (previous.stamp - earlier)
    return 1.0 if abs(pace - 1.0) < _REGULAR else min(pace, _LONGEST)


def _loosened(rows: Rows) -> Rows:
    """Tracks that leave the others."""
    none = np.zeros(len(rows), np.int64)
    return replace(rows, ids=none.astype(np.uint64), missed=none + 2, detected=none - 1)


def _without_doubles(rows: Rows, loose: Rows) -> tuple[Rows, Rows]:
    """Tracks and loose ones of which no two show one point."""
    published = loose.points[loose.missed == 1]
    if len(published) and len(rows):  # an object's point that was detected again goes on as it is
        distance, _ = cKDTree(published).query(rows.points)
        rows = rows[(rows.ids != 0) | (distance > SPACING)]
    if len(loose) and len(rows):
        distance, nearest = cKDTree(rows.points).query(loose.points)
        same = distance <= MERGED
        again, first = np.unique(nearest[same], return_index=True)
        begun = rows.ids[again] == 0  # a track that began where a loose one is goes on from there
        chains = rows.chains.copy()
        chains[again[begun]] = loose.chains[same][first[begun]]
        rows, loose = replace(rows, chains=chains), loose[~same]
    if len(loose):
        loose = apart(loose, loose.chains)
    return rows, loose
