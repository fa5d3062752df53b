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

"""The one path of the data: image → features → matches → tracks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aliked_ros.backends.base import OpenBackend
from aliked_ros.backends.create import create_backend
from aliked_ros.camera import CameraModel
from aliked_ros.configuration import SETTINGS, FrontendConfig, is_checkpoint
from aliked_ros.errors import ConfigurationError
from aliked_ros.frontend.carrier import Carrier
from aliked_ros.frontend.depth import keypoint_depth
from aliked_ros.frontend.detector import Background, Detector, Request
from aliked_ros.frontend.extractor import Extractor, check_image
from aliked_ros.frontend.keyframes import Keyframes
from aliked_ros.frontend.masks import StaticParts, combine
from aliked_ros.frontend.matcher import AdaptiveMatcher, TurnMatcher, build_matcher
from aliked_ros.frontend.moving import MovingObjects, separate, with_rows
from aliked_ros.frontend.prediction import Prediction
from aliked_ros.frontend.quarter_turns import QUARTERS, best_turn, roll_between
from aliked_ros.frontend.recovery import Recovery, smooth, undistorted
from aliked_ros.frontend.relocalization import find_candidate
from aliked_ros.frontend.stereo import StereoMatcher
from aliked_ros.frontend.tracker import Tracker
from aliked_ros.frontend.verification import MIN_MATCHES, Verifier
from aliked_ros.io.images import grey
from aliked_ros.models.registry import entry_of
from aliked_ros.networks.constants import LIGHTGLUE_DIM
from aliked_ros.types import (
    Candidate,
    Features,
    Float32Array,
    FrameResult,
    Image,
    Keyframe,
    Matches,
    UInt8Array,
    UInt32Array,
    UInt64Array,
)

_ROLL_KEPT = 0.99  # from image to image, so that small errors do not add up for ever
_SUDDEN_LOSS = 0.75  # of the tracks: with fewer left, the image before is kept as a keyframe


class Pipeline:
    """Extractor, matcher, verifier, tracker and keyframes of one camera; not for concurrent calls.

    camera: model of the camera, None while it is not known; may be set between two images. Used
        for images of its size only.
    baseline: distance of the right camera in metres, None while it is not known; with it and
        ``camera``, stereo gives depth.
    prediction: of where features go, from the gyroscope that it may be given (see ``Prediction``).
    """

    def __init__(
        self,
        config: FrontendConfig,
        progress: Callable[[str], None] | None = None,
        open_backend: OpenBackend = create_backend,
        open_background: Callable[[], Background] = Background,
    ) -> None:
        """Load everything (seconds).

        progress: called with a line on each long step. open_backend: gives the backend, which is
        closed with the pipeline; ``SharedBackends.open`` where several pipelines share networks.
        open_background: gives what runs the detections of ``detection: behind``.
        Raises WeightsError, ModelError, BackendError.
        """
        self._config = config
        self._background = open_background() if config.detection == "behind" else None
        try:
            if self._background is None:
                self._load(progress, open_backend)
            else:
                self._background.wait_for(lambda: self._load(progress, open_backend))
        except BaseException:
            self._end_background()
            raise
        self._matcher: TurnMatcher = self._any_matcher
        if config.matcher == "adaptive":
            self._matcher = AdaptiveMatcher(config, self._any_matcher)
        self.prediction = Prediction()
        self._static = StaticParts()
        self._stereo = StereoMatcher(config)
        self._verifier = Verifier(config)
        self._moving = MovingObjects(config)
        self._tracker = Tracker()
        self._keyframes = Keyframes(config)
        self._recovery = Recovery(config, self._any_matcher, self._verifier)
        self._networks = threading.Lock()  # a detection may run while somebody asks for more
        self._carrier: Carrier | None = None
        if config.detection != "every":
            detector = Detector(
                self._extractor, self._stereo, self._any_matcher, self._verifier, self._recovery,
                always=config.matcher == "lightglue", lock=self._networks,
                turns=self.prediction.turn,
            )  # fmt: skip
            self._carrier = Carrier(
                config,
                detector,
                self._verifier,
                self._stereo,
                self._background,
                self.prediction.turn,
            )
        self.camera: CameraModel | None = None
        self.baseline: float | None = None
        self._index = 0
        self._previous: FrameResult | None = None  # with all rows
        self._shown: FrameResult | None = None  # the same without those that are dropped
        self._kept = np.ones(0, bool)  # which of its rows these are
        self._chains: UInt64Array = np.zeros(0, np.uint64)  # of all, where objects are wanted
        self._picture: UInt8Array | None = None  # of the same image, for recovery
        self._roll = 0.0

    def _load(self, progress: Callable[[str], None] | None, open_backend: OpenBackend) -> None:
        self._backend = open_backend(self._config, progress)
        try:
            self._extractor = Extractor(self._config, self._backend)
            self._any_matcher = build_matcher(self._config, self._backend)
            self._check_descriptors()
        except BaseException:
            self._backend.close()
            raise

    @property
    def config(self) -> FrontendConfig:
        """The settings in use."""
        return self._config

    @property
    def backend(self) -> str:
        """What the networks run on, for people."""
        return self._backend.description

    @property
    def identity(self) -> dict[str, str]:
        """Backend, precision, model and checksum of its weights, for status and recordings."""
        return {
            **self._backend.identity,
            "model": self._config.model,
            "model_checksum": entry_of(self._config.model).sha256,
            "matcher": self._config.matcher,
        }

    @property
    def detecting(self) -> float:
        """Seconds that the detection behind the images has taken so far; 0 = none that counts."""
        return 0.0 if self._background is None else self._background.seconds

    @property
    def epoch(self) -> int:
        """Grows at every reset."""
        return self._tracker.epoch

    @property
    def keyframes(self) -> list[Keyframe]:
        """The recent keyframes, oldest first."""
        return list(self._keyframes)

    def process(self, image: Image) -> FrameResult:
        """Everything about the next image, matched against the one before.

        An image older than its predecessor, or of another size, begins a new epoch.
        Raises ImageError for one that cannot be processed, its right or depth image included; the
        next is then matched against the last good one. A detection that fails behind the images
        raises nothing: see ``FrameResult.detection_failure``.
        """
        if self._carrier is not None:
            return self._process_with_flow(image, self._carrier)
        clock = _Clock()
        mask, reference = self._mask(image), self._certain_reference(image)
        features = self._extractor.extract(image.pixels, mask, reference=reference)
        camera = self._fitting(image)
        self.prediction.begin(self._index, image.stamp, camera)
        clock.lap("extract")
        right_x = self._right_x(image, features)
        depth = keypoint_depth(image, features, right_x, camera, self.baseline)
        clock.lap("stereo")
        normalized = None if camera is None else camera.normalize(features.keypoints)
        previous = self._continued(image)
        matches = Matches.empty()
        if previous is not None:
            turn = self.prediction.turn(previous.index, self._index)
            matches = self._matcher.match(previous.features, features, turn=turn)
            clock.lap("match")
            self._static.update(
                previous.features.keypoints[matches.reference_indices],
                features.keypoints[matches.current_indices],
                features.width,
                features.height,
            )
            if self._config.verification != "none":
                rays = None
                if previous.normalized is not None and normalized is not None:
                    rays = (previous.normalized, normalized)
                matches = self._verifier.verify(previous.features, features, matches, camera, rays)
            clock.lap("verify")
        chains, objects = self._objects(features, normalized, matches, camera)
        ids, object_ids, matches = separate(
            self._tracker.continued(len(features), matches),
            self._tracker.continued(len(features), replace(matches, inliers=None)),
            objects,
            matches,
            None if previous is None else previous.tracks,
        )
        reason = self._keyframe_reason(image, features, ids)
        lost = previous is not None and _lost(matches)
        picture = smooth(grey(image.pixels)) if self._config.recover_tracks else None
        whole = lost or reason == "lost"
        ids = self._recovery.recover(
            features,
            ids,
            self._keyframes,
            camera,
            whole,
            picture,
            normalized,
            lambda index: self.prediction.turn(index, self._index),
        )
        clock.lap("track")
        result = FrameResult(
            self._index,
            image.stamp,
            features,
            matches,
            self._tracker.update(np.where(objects == 0, ids, object_ids), objects),
            normalized=normalized,
            right_x=right_x,
            depth=depth,
            keyframe_reason=reason,
        )
        result = self._finish(result, previous, picture, clock)
        self._chains = chains
        return result

    def _process_with_flow(self, image: Image, carrier: Carrier) -> FrameResult:
        """``process`` where flow follows the tracks and detections correct them."""
        camera, clock = self._fitting(image), _Clock("flow", "detect", "fuse")
        self.prediction.begin(self._index, image.stamp, camera)
        mask = self._mask(image)
        check_image(image.pixels, mask)
        if image.right is not None:
            check_image(image.right, None)  # now: a detection would find it too late
        height, width = image.pixels.shape[:2]
        previous = self._continued(image)
        request = Request(self._index, image, mask, camera, tuple(self._keyframes))
        carried = carrier.follow(request, previous, clock.lap)
        self._static.update(carried.before, carried.after, width, height)
        carried = carrier.correct(carried, request, clock.lap)
        carried = carrier.separate(carried, request, self._moving)
        clock.lap("track")
        features = carried.rows.features(width, height, self._config.model)
        right_x = carrier.right_x(carried, image)
        depth = keypoint_depth(image, features, right_x, camera, self.baseline)
        clock.lap("stereo")
        normalized = None if camera is None else camera.normalize(features.keypoints)
        ids = carried.rows.ids
        matches = Matches.empty() if previous is None else carried.matches(previous)
        scene = np.where(carried.at_rest, ids, np.uint64(0))
        reason = self._keyframe_reason(image, features, scene)
        picture = smooth(carried.grey) if self._config.recover_tracks else None
        result = FrameResult(
            self._index,
            image.stamp,
            features,
            matches,
            self._tracker.update(ids, carried.objects),
            normalized=normalized,
            right_x=right_x,
            depth=depth,
            keyframe_reason=reason,
            detection_index=None if carried.detection is None else carried.detection.index,
            detection_failure=carried.failure,
        )
        clock.stages |= carried.seconds
        result = self._finish(result, previous, picture, clock)
        carrier.keep(carried, request, result.tracks.ids, right_x)
        return result

    def _keyframe_reason(self, image: Image, features: Features, ids: UInt64Array) -> str:
        """Why the image is a keyframe, "" = it is none; keeps the last view of tracks that end."""
        reason = self._keyframes.reason(image.stamp, features, ids)
        before = self._shown
        if before is not None and _fewer(ids, before) and not before.is_keyframe:
            self._keyframes.add_last_view(_keyframe(before, self._picture))
        return reason

    def _finish(
        self,
        result: FrameResult,
        previous: FrameResult | None,
        picture: UInt8Array | None,
        clock: _Clock,
    ) -> FrameResult:
        """The image's result with what earlier images tell, kept for the next."""
        if previous is not None:
            turned = roll_between(previous.features, result.features, result.matches)
            self._roll = _ROLL_KEPT * self._roll + turned
            result = replace(result, reference_index=previous.index, reference_stamp=previous.stamp)
        result = replace(
            result, static_share=self._static.share, roll=self._roll, stage_times=clock.stages
        )
        self.prediction.compare(result)
        self._previous, self._picture = result, picture
        kept = np.ones(len(result.features), bool)
        if self._moving.dropped:
            kept = result.tracks.at_rest
        self._shown = result = with_rows(result, kept, self._kept)
        self._kept = kept
        if result.is_keyframe:
            self._keyframes.add(_keyframe(result, picture))
        self._index += 1
        clock.lap("track")
        clock.stop()
        return result

    def _objects(
        self,
        features: Features,
        normalized: Float32Array | None,
        matches: Matches,
        camera: CameraModel | None,
    ) -> tuple[UInt64Array, UInt32Array]:
        """Features' chains, see ``MovingObjects``, and the moving objects that they are on.

        The chains are N, or none where no objects are wanted; the objects are N, see ``Tracks``.
        """
        if not self._moving.wanted:
            return np.zeros(0, np.uint64), np.zeros(len(features), np.uint32)
        chains = np.zeros(len(features), np.uint64)
        if len(self._chains):
            chains[matches.current_indices] = self._chains[matches.reference_indices]
        agreeing = np.zeros(len(features), bool)
        agreeing[matches.verified().current_indices] = True
        return self._moving.update(
            chains,
            undistorted(features.keypoints, camera, normalized),
            agreeing,
            (features.width, features.height),
        )

    def extract(
        self, pixels: UInt8Array, mask: UInt8Array | None = None, turns: int = 0
    ) -> Features:
        """Features of an image outside the sequence; see ``Extractor.extract``."""
        with self._networks:
            return self._extractor.extract(pixels, mask, turns)

    @property
    def quarters(self) -> tuple[int, ...]:
        """Quarter turns that an image outside the sequence is tried with.

        TensorRT would need engines for the other image size, built in minutes: a half turn only.
        """
        return (2,) if self._backend.identity["backend"] == "tensorrt" else QUARTERS

    def find_candidate(
        self, features: Features, keyframe: Keyframe, camera: CameraModel | None = None
    ) -> Candidate | None:
        """What an image shares with a keyframe, and its pose there; None with too little.

        camera: of the image, where it is another than the pipeline's.
        """
        with self._networks:
            return find_candidate(
                features, keyframe, camera or self.camera, self._any_matcher, self._verifier,
                same_camera=camera is None,
            )  # fmt: skip

    def relocalize(
        self, pixels: UInt8Array, mask: UInt8Array | None = None
    ) -> tuple[Features, list[Candidate]]:
        """Features of an image, and the recent keyframes it may have been taken near.

        Those with most inliers come first. Where few match, the image is turned by quarters.
        """

        def attempt(turns: int) -> tuple[Features, list[Candidate]]:
            features = self.extract(pixels, mask, turns)
            found = [self.find_candidate(features, keyframe) for keyframe in self._keyframes]
            return features, sorted((c for c in found if c is not None), key=lambda c: -c.inliers)

        return best_turn(attempt, lambda found: found[0].inliers if found else 0, self.quarters)

    def reset(self) -> None:
        """Forget the previous image, all tracks and keyframes; the next image begins an epoch."""
        self._tracker.reset()
        self._keyframes.clear()
        self._previous = self._shown = self._picture = None
        self._kept, self._chains = np.ones(0, bool), np.zeros(0, np.uint64)
        self._roll = 0.0
        self._moving.reset()
        if self._carrier is not None:
            self._carrier.reset()

    def release(self) -> None:
        """Reset, and give a GPU's memory back until the next image."""
        self.reset()
        with self._networks:
            self._backend.release()

    def reconfigure(self, config: FrontendConfig) -> None:
        """Take over the settings that are live, between two images."""
        loaded = [name for name, setting in SETTINGS.items() if not setting.live]
        kept = {name: getattr(self._config, name) for name in loaded}
        self._config = config = replace(config, **kept)
        for part in (
            self._extractor, self._stereo, self._matcher, self._verifier, self._keyframes,
            self._recovery, self._moving,
        ):  # fmt: skip
            part.reconfigure(config)
        if self._carrier is not None:
            self._carrier.reconfigure(config)

    def close(self) -> None:
        """Release threads and models; the pipeline cannot be used any more."""
        self._end_background()
        self._backend.close()
        del self._extractor, self._matcher, self._any_matcher, self._recovery
        self._previous = self._shown = None

    def _end_background(self) -> None:
        if self._background is not None:
            self._background.close()

    def _check_descriptors(self) -> None:
        """Say now, not at every image, that a checkpoint of one's own has others than LightGlue."""
        if self._config.matcher == "nearest" or not is_checkpoint(self._config.model):
            return
        nothing = self._extractor.extract(np.zeros((64, 64), np.uint8))
        if nothing.descriptors.shape[1] != LIGHTGLUE_DIM:
            raise ConfigurationError(
                f"{self._config.model} has {nothing.descriptors.shape[1]}-dimensional descriptors; "
                f"LightGlue's weights are for {LIGHTGLUE_DIM}. Set matcher to 'nearest'."
            )

    def _mask(self, image: Image) -> UInt8Array | None:
        """Where features may lie."""
        if not self._config.mask_static:
            return image.mask
        height, width = image.pixels.shape[:2]
        return combine(image.mask, self._static.mask(width, height))

    def _right_x(self, image: Image, features: Features) -> Float32Array | None:
        """Where the keypoints are in the right image."""
        if image.right is None:
            return None
        right = self._extractor.extract(image.right)
        return self._stereo.match(features, right, image.pixels, image.right)

    def _fitting(self, image: Image) -> CameraModel | None:
        """The camera's model for the whole image, whoever sets another meanwhile."""
        camera = self.camera
        height, width = image.pixels.shape[:2]
        return camera if camera is not None and camera.fits(width, height) else None

    def _continued(self, image: Image) -> FrameResult | None:
        """The previous image, None where a new epoch begins."""
        previous = self._previous
        if previous is not None and not _follows(image, previous):
            self.reset()
        return self._previous

    def _certain_reference(self, image: Image) -> Features | None:
        """What LightGlue will match the image with; None where that is decided after extraction."""
        previous = self._previous
        if self._config.matcher != "lightglue" or previous is None:
            return None
        return previous.features if _follows(image, previous) else None


def _follows(image: Image, previous: FrameResult) -> bool:
    """Whether an image is of the same size as the one before, and not older."""
    before = (previous.features.height, previous.features.width)
    return image.pixels.shape[:2] == before and image.stamp >= previous.stamp


class _Clock:
    """Seconds spent in each stage."""

    def __init__(self, *more: str) -> None:
        names = ("extract", "stereo", "match", "verify", "track", *more)
        self.stages = dict.fromkeys(names, 0.0)
        self._begin = self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last call to a stage."""
        now = time.perf_counter()
        self.stages[stage] += now - self._last
        self._last = now

    def stop(self) -> None:
        self.stages["total"] = self._last - self._begin


def _lost(matches: Matches) -> bool:
    """Whether too little of the previous image is found in the next to go on from."""
    agreeing = len(matches) if matches.inliers is None else int(matches.inliers.sum())
    return matches.geometry == "unverified" or agreeing < MIN_MATCHES


def _fewer(ids: UInt64Array, previous: FrameResult) -> bool:
    """Whether many tracks end at once: darkness, or somebody in the way."""
    tracks = previous.tracks
    tracked_before = int(np.count_nonzero((tracks.lengths > 1) & tracks.at_rest))
    return int(np.count_nonzero(ids)) < _SUDDEN_LOSS * tracked_before


def _keyframe(result: FrameResult, picture: UInt8Array | None) -> Keyframe:
    return Keyframe(
        index=result.index,
        stamp=result.stamp,
        features=result.features,
        tracks=replace(result.tracks, ids=result.tracks.static_ids),
        normalized=result.normalized,
        depth=result.depth,
        picture=picture,
    )
