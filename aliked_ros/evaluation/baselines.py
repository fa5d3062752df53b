"""Front-ends to compare with, behind the pipeline's interface."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.depth import keypoint_depth
from aliked_ros.frontend.matcher import NearestMatcher
from aliked_ros.frontend.stereo import StereoMatcher
from aliked_ros.frontend.tracker import Tracker
from aliked_ros.frontend.verification import Verifier
from aliked_ros.images import grey
from aliked_ros.types import Features, FrameResult, Image, Matches, UInt8Array

_BITS = 256
_LEAST_COSINE = 0.5  # 64 of the 256 bits differ; mutual matches beyond it are mostly wrong


class OrbFrontend:
    """OpenCV's ORB, matched by mutual least Hamming distance; verified and tracked as ALIKED is.

    The binary descriptors become rows of ±1/16: unit vectors, whose cosine is
    1 − distance / 128. So they go through the same matchers and the same messages.

    camera, baseline: as the pipeline's.
    """

    def __init__(self, config: FrontendConfig) -> None:
        """Use the sizes, thresholds and verification of ``config``; its model is not looked at."""
        self._detector = cv2.ORB.create(nfeatures=config.max_keypoints)
        self._verifier = Verifier(config)
        self._stereo = StereoMatcher(config)
        self._matcher = NearestMatcher(replace(config, min_similarity=_LEAST_COSINE))
        self._tracker = Tracker()
        self._previous: FrameResult | None = None
        self.camera: CameraModel | None = None
        self.baseline: float | None = None

    def process(self, image: Image) -> FrameResult:
        """Everything about the next image of the sequence, matched against the one before."""
        features = self._extract(image.pixels, image.mask)
        previous, matches = self._previous, Matches.empty()
        if previous is not None:
            matches = self._matcher.match(previous.features, features)
            matches = self._verifier.verify(previous.features, features, matches, self.camera)
        tracks = self._tracker.update(self._tracker.continued(len(features), matches))
        right_x = None
        if image.right is not None:
            right = self._extract(image.right)
            right_x = self._stereo.match(features, right, image.pixels, image.right)
        self._previous = FrameResult(
            index=0 if previous is None else previous.index + 1,
            stamp=image.stamp,
            features=features,
            matches=matches,
            tracks=tracks,
            reference_index=None if previous is None else previous.index,
            reference_stamp=None if previous is None else previous.stamp,
            normalized=None if self.camera is None else self.camera.normalize(features.keypoints),
            right_x=right_x,
            depth=keypoint_depth(image, features, right_x, self.camera, self.baseline),
        )
        return self._previous

    def _extract(self, pixels: UInt8Array, mask: UInt8Array | None = None) -> Features:
        found, descriptors = self._detector.detectAndCompute(grey(pixels), mask)
        bits = (
            np.zeros((0, _BITS), np.uint8)
            if not found
            else np.unpackbits(np.asarray(descriptors, np.uint8), axis=1)
        )
        responses = np.array([point.response for point in found], np.float32)
        order = np.argsort(-responses, kind="stable")
        return Features(
            keypoints=np.array([found[row].pt for row in order], np.float32).reshape(-1, 2),
            scores=responses[order] / max(responses.max(initial=0.0), 1e-9),
            descriptors=(bits[order].astype(np.float32) * 2 - 1) / np.float32(np.sqrt(_BITS)),
            width=pixels.shape[1],
            height=pixels.shape[0],
            model="orb",
        )
