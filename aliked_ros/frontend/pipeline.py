"""The one path of the data: image → features → matches → tracks."""

from __future__ import annotations

import time
from collections.abc import Callable

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.matcher import build_matcher
from aliked_ros.frontend.tracker import Tracker
from aliked_ros.frontend.verification import Verifier
from aliked_ros.inference.backend import create_backend
from aliked_ros.models.registry import MODELS
from aliked_ros.types import Features, Float32Array, FrameResult, Image, Matches


class Pipeline:
    """Extractor, matcher, verifier and tracker of one camera; not for concurrent calls.

    camera: model of the camera, None while it is not known; may be set between two images. Used
        for images of its size only.
    """

    def __init__(
        self, config: FrontendConfig, progress: Callable[[str], None] | None = None
    ) -> None:
        """Load everything (seconds; minutes where a network must be exported first).

        progress: called with a line on each long step. Raises WeightsError, ModelError,
        BackendError.
        """
        self._config = config
        self._backend = create_backend(config, progress)
        try:
            self._extractor = Extractor(config, self._backend)
            self._matcher = build_matcher(config, self._backend)
        except BaseException:
            self._backend.close()
            raise
        self._verifier = Verifier(config)
        self._tracker = Tracker()
        self.camera: CameraModel | None = None
        self._index = 0
        self._previous: tuple[int, float, Features] | None = None

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
            "model_checksum": MODELS[self._config.model].sha256,
            "matcher": self._config.matcher,
        }

    @property
    def epoch(self) -> int:
        """Grows at every reset."""
        return self._tracker.epoch

    def process(self, image: Image) -> FrameResult:
        """Everything about the next image, matched against the one before.

        An image older than its predecessor, or of another size, begins a new epoch.
        Raises ImageError for one that cannot be processed; the next is then matched against the
        last good one.
        """
        camera = self.camera  # one model for the whole image, whoever sets another meanwhile
        begin = time.perf_counter()
        features = self._extractor.extract(image.pixels, image.mask)
        extracted = time.perf_counter()
        if self._previous is not None and not self._continues(image.stamp, features):
            self.reset()
        if self._previous is None:
            reference_index, reference_stamp, matches = None, None, Matches.empty()
        else:
            reference_index, reference_stamp, reference = self._previous
            matches = self._matcher.match(reference, features)
        matched = time.perf_counter()
        if reference_index is not None:
            matches = self._verifier.verify(reference, features, matches, camera)
        verified = time.perf_counter()
        tracks = self._tracker.update(len(features), matches)
        result = FrameResult(
            index=self._index,
            stamp=image.stamp,
            features=features,
            matches=matches,
            tracks=tracks,
            reference_index=reference_index,
            reference_stamp=reference_stamp,
            normalized=_normalized(features, camera),
        )
        self._previous = (self._index, image.stamp, features)
        self._index += 1
        end = time.perf_counter()
        result.stage_times.update(
            extract=extracted - begin, match=matched - extracted,
            verify=verified - matched, track=end - verified, total=end - begin,
        )  # fmt: skip
        return result

    def reset(self) -> None:
        """Forget the previous image and all tracks; the next image begins a new epoch."""
        self._tracker.reset()
        self._previous = None

    def reconfigure(self, config: FrontendConfig) -> None:
        """Take over thresholds between two images; model, backend and matcher stay as loaded."""
        self._config = config
        self._extractor.reconfigure(config)
        self._matcher.reconfigure(config)
        self._verifier.reconfigure(config)

    def close(self) -> None:
        """Release threads and models; the pipeline cannot be used any more."""
        self._backend.close()
        del self._extractor, self._matcher
        self._previous = None

    def _continues(self, stamp: float, features: Features) -> bool:
        assert self._previous is not None
        _, previous_stamp, previous = self._previous
        same_size = (features.width, features.height) == (previous.width, previous.height)
        return same_size and stamp >= previous_stamp


def _normalized(features: Features, camera: CameraModel | None) -> Float32Array | None:
    if camera is None or not camera.fits(features.width, features.height):
        return None
    return camera.normalize(features.keypoints)
