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

"""Alternatives: ORB, SIFT, and corners with optical flow.

Detectors and matchers for single images, and front-ends for sequences with the pipeline's interface
and the same verification, tracker, stereo refinement and depth as ALIKED.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import cv2
import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.depth import keypoint_depth
from aliked_ros.frontend.matcher import Matcher, NearestMatcher
from aliked_ros.frontend.similarity import similarities
from aliked_ros.frontend.stereo import StereoMatcher
from aliked_ros.frontend.tracker import Tracker
from aliked_ros.frontend.verification import Verifier
from aliked_ros.io.images import grey
from aliked_ros.types import (
    BoolArray,
    Features,
    Float32Array,
    FrameResult,
    Image,
    Matches,
    UInt8Array,
)

RATIO = 0.8
"""Lowe's test: best distance relative to the second best."""
_BITS = 256
_LEAST_COSINE = 0.5  # 64 of 256 bits differ; mutual matches beyond it are mostly wrong

# As in VINS-Mono and VINS-Fusion: window and pyramid of the flow, quality of a corner.
_WINDOW, _LEVELS = 21, 4
_QUALITY = 0.01
_RETURN = 1.0  # pixels; tolerance of the forward-backward check
_SPACING = 0.5  # of the spacing of max_keypoints on a grid over the image
_BLOCK = 3  # pixels, of the corner response: OpenCV's default
_BORDER = 1.0  # pixels


class Frontend(Protocol):
    """The common interface of :class:`Pipeline` and the front-ends here."""

    camera: CameraModel | None
    baseline: float | None

    def process(self, image: Image) -> FrameResult:
        """The result for the next image."""
        ...


class Detector(Protocol):
    """Anything that finds features in an image."""

    def __call__(self, pixels: UInt8Array, mask: UInt8Array | None = None) -> Features:
        """Features of an image H×W or H×W×3, by falling score; none where ``mask`` is 0."""
        ...


class OrbDetector:
    """OpenCV's ORB.

    Binary descriptors become rows of ±1/16: unit vectors with cosine 1 − distance / 128, for the
    same matchers and messages.
    """

    def __init__(self, top_k: int) -> None:
        self._orb = cv2.ORB.create(nfeatures=top_k)
        self._top_k = top_k

    def __call__(self, pixels: UInt8Array, mask: UInt8Array | None = None) -> Features:
        """See ``Detector``."""
        found, descriptors = self._orb.detectAndCompute(grey(pixels), mask)
        bits = (
            np.zeros((0, _BITS), np.uint8)
            if not found
            else np.unpackbits(np.asarray(descriptors, np.uint8), axis=1)
        )
        rows = (bits.astype(np.float32) * 2 - 1) / np.float32(np.sqrt(_BITS))
        return _features(found, rows, pixels, "orb", self._top_k)


class SiftDetector:
    """OpenCV's SIFT; descriptors are scaled to unit length."""

    def __init__(self, top_k: int) -> None:
        self._sift = cv2.SIFT.create(nfeatures=top_k)
        self._top_k = top_k

    def __call__(self, pixels: UInt8Array, mask: UInt8Array | None = None) -> Features:
        """See ``Detector``."""
        found, descriptors = self._sift.detectAndCompute(grey(pixels), mask)
        rows = np.zeros((0, 128), np.float32) if not found else np.asarray(descriptors, np.float32)
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-9))
        return _features(found, rows, pixels, "sift", self._top_k)


class CornerDetector:
    """Shi-Tomasi corners with a minimum distance, without descriptors.

    The distance is half the spacing of ``top_k`` points on a grid over the image.
    """

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k

    def __call__(self, pixels: UInt8Array, mask: UInt8Array | None = None) -> Features:
        """See ``Detector``."""
        image = grey(pixels)
        points = self.corners(image, self._top_k, mask)
        return corner_features(image, points, corner_response(image))[0]

    def corners(self, image: UInt8Array, count: int, mask: UInt8Array | None) -> Float32Array:
        """At most ``count`` corners of a grey image: N×2, pixels."""
        if count < 1:
            return np.zeros((0, 2), np.float32)
        found = cv2.goodFeaturesToTrack(
            image, count, _QUALITY, self.spacing(image), mask=mask, blockSize=_BLOCK
        )
        none = np.zeros((0, 2), np.float32)
        return none if found is None else np.asarray(found, np.float32).reshape(-1, 2)

    def spacing(self, image: UInt8Array) -> float:
        """Least distance of two corners, pixels."""
        return _SPACING * float(np.sqrt(image.size / self._top_k))


class HammingMatcher(NearestMatcher):
    """Brute force on ORB's descriptors: mutual nearest Hamming distance, at most 64 bits."""

    def __init__(self) -> None:
        super().__init__(FrontendConfig(min_similarity=_LEAST_COSINE))

    def reconfigure(self, config: FrontendConfig) -> None:
        """Keep the threshold, since ``config``'s is for other descriptors."""


class RatioMatcher:
    """Mutual nearest neighbours by Euclidean distance that pass Lowe's ratio test."""

    def match(self, reference: Features, current: Features) -> Matches:
        """See ``Matcher``; the score is the cosine."""
        if min(len(reference), len(current)) < 2:
            return replace(Matches.empty(), matcher="nearest")
        cosines = similarities(reference.descriptors, current.descriptors)
        rows = np.arange(len(cosines))
        second, best = np.argpartition(cosines, (-2, -1), axis=1)[:, -2:].T
        near, far = (_distance(cosines[rows, column]) for column in (best, second))
        kept = (cosines.argmax(0)[best] == rows) & (near < RATIO * far)
        scores = np.clip(cosines[rows, best][kept], 1e-6, 1.0).astype(np.float32)
        return Matches(
            rows[kept].astype(np.uint32), best[kept].astype(np.uint32), scores, matcher="nearest"
        )

    def reconfigure(self, config: FrontendConfig) -> None:
        """``config`` is not used."""


def flow(
    first: UInt8Array, second: UInt8Array, points: Float32Array
) -> tuple[Float32Array, BoolArray]:
    """Track points N×2 (pixels) from one image to another of its size, by pyramidal Lucas-Kanade.

    Returns their new positions (N×2), and which (N) are inside the image and pass the
    forward-backward check of one pixel.
    """
    if len(points) == 0:
        return points, np.zeros(0, bool)
    images = [grey(pixels) for pixels in (first, second)]
    height, width = images[1].shape
    tall, wide = np.max([image.shape for image in images], axis=0)
    images = [  # Lucas-Kanade needs equal sizes
        np.pad(image, ((0, tall - image.shape[0]), (0, wide - image.shape[1])), "edge")
        for image in images
    ]
    there, seen = _lucas_kanade(images[0], images[1], points)
    back, returned = _lucas_kanade(images[1], images[0], there)
    inside = ((there >= _BORDER) & (there <= np.array([width, height]) - 1 - _BORDER)).all(1)
    near = np.linalg.norm(back - points, axis=1) < _RETURN
    return there, seen & returned & inside & near


class _Sequence:
    """Shared by sequence front-ends: state, and building results.

    camera, baseline: as in the pipeline.
    """

    def __init__(self, config: FrontendConfig) -> None:
        self._verifier = Verifier(config)
        self._tracker = Tracker()
        self._previous: FrameResult | None = None
        self.camera: CameraModel | None = None
        self.baseline: float | None = None

    def _continued(self, image: Image) -> FrameResult | None:
        """The previous image's result, None at a new epoch."""
        previous = self._previous
        if previous is not None:
            same = image.pixels.shape[:2] == (previous.features.height, previous.features.width)
            if not same or image.stamp < previous.stamp:
                self._tracker.reset()
                return None
        return previous

    def _finish(
        self,
        image: Image,
        features: Features,
        matches: Matches,
        right_x: Float32Array | None,
        previous: FrameResult | None,
    ) -> FrameResult:
        tracks = self._tracker.update(self._tracker.continued(len(features), matches))
        camera = self.camera
        if camera is not None and not camera.fits(features.width, features.height):
            camera = None
        self._previous = FrameResult(
            index=0 if self._previous is None else self._previous.index + 1,
            stamp=image.stamp,
            features=features,
            matches=matches,
            tracks=tracks,
            reference_index=None if previous is None else previous.index,
            reference_stamp=None if previous is None else previous.stamp,
            normalized=None if camera is None else camera.normalize(features.keypoints),
            right_x=right_x,
            depth=keypoint_depth(image, features, right_x, camera, self.baseline),
        )
        return self._previous


class DescriptorFrontend(_Sequence):
    """A detector with descriptors and a matcher, verified and tracked like ALIKED.

    Lost tracks are not recovered.
    """

    def __init__(self, config: FrontendConfig, detector: Detector, matcher: Matcher) -> None:
        """``config`` sets verification and stereo."""
        super().__init__(config)
        self._detector, self._matcher = detector, matcher
        self._stereo = StereoMatcher(config)

    def process(self, image: Image) -> FrameResult:
        """The result for the next image, matched with the previous one."""
        features = self._detector(image.pixels, image.mask)
        previous, matches = self._continued(image), Matches.empty()
        if previous is not None:
            matches = self._matcher.match(previous.features, features)
            matches = self._verifier.verify(previous.features, features, matches, self.camera)
        right_x = None
        if image.right is not None:
            right = self._detector(image.right)
            right_x = self._stereo.match(features, right, image.pixels, image.right)
        return self._finish(image, features, matches, right_x, previous)


class FlowFrontend(_Sequence):
    """Corners tracked by optical flow from image to image, as in VINS front-ends.

    Points that fail the forward-backward check or the verification end. Of two points too close,
    the older stays. New corners fill free areas, up to ``max_keypoints``. Points in the right image
    are found by flow too.
    """

    def __init__(self, config: FrontendConfig) -> None:
        """``config`` sets number of points, verification, stereo band and largest disparity."""
        super().__init__(config)
        self._config = config
        self._corners = CornerDetector(config.max_keypoints)
        self._image: UInt8Array | None = None

    def process(self, image: Image) -> FrameResult:
        """The result for the next image, tracked from the previous one."""
        now = grey(image.pixels)
        previous = self._continued(image)
        points, matches = np.zeros((0, 2), np.float32), Matches.empty()
        if previous is not None:
            points, matches = self._follow(previous, now, image.mask)
        room = self._room(now, points, image.mask)
        new = self._corners.corners(now, self._config.max_keypoints - len(points), room)
        features, order = corner_features(now, np.concatenate([points, new]), corner_response(now))
        place = np.argsort(order).astype(np.uint32)  # each point's new row
        matches = replace(matches, current_indices=place[matches.current_indices])
        right_x = None if image.right is None else self._right_x(now, image.right, features)
        self._image = now
        return self._finish(image, features, matches, right_x, previous)

    def _follow(
        self, previous: FrameResult, now: UInt8Array, mask: UInt8Array | None
    ) -> tuple[Float32Array, Matches]:
        """Surviving points N×2, and their matches, whose current rows index them."""
        assert self._image is not None
        before = previous.features
        there, kept = flow(self._image, now, before.keypoints)
        if mask is not None:
            columns, rows = np.rint(np.nan_to_num(there)).astype(np.intp).T
            height, width = mask.shape
            kept &= mask[rows.clip(0, height - 1), columns.clip(0, width - 1)] != 0
        old = np.flatnonzero(kept)
        old = old[np.argsort(-previous.tracks.lengths[old].astype(np.int64), kind="stable")]
        old = old[_apart(there[old], self._corners.spacing(now), now.shape)]
        height, width = now.shape
        points = there[old]
        arrived = Features(
            points, np.ones(len(old), np.float32), np.zeros((len(old), 0), np.float32),
            width, height, before.model,
        )  # fmt: skip
        matches = Matches(
            old.astype(np.uint32), np.arange(len(old), dtype=np.uint32),
            np.ones(len(old), np.float32), matcher="flow",
        )  # fmt: skip
        matches = self._verifier.verify(before, arrived, matches, self.camera)
        if matches.inliers is None:
            return points, matches
        good = np.flatnonzero(matches.inliers)
        return points[good], replace(
            matches,
            reference_indices=matches.reference_indices[good],
            current_indices=np.arange(len(good), dtype=np.uint32),
            scores=matches.scores[good],
            inliers=np.ones(len(good), bool),
        )

    def _room(self, now: UInt8Array, points: Float32Array, mask: UInt8Array | None) -> UInt8Array:
        """Mask of free areas for new corners: H×W, 0 = occupied."""
        room = np.full(now.shape, 255, np.uint8) if mask is None else mask.copy()
        radius = round(self._corners.spacing(now))
        for x, y in np.rint(points).astype(int).tolist():
            cv2.circle(room, (x, y), radius, 0, -1)
        return room

    def _right_x(self, left: UInt8Array, right: UInt8Array, features: Features) -> Float32Array:
        """The x of each keypoint in the right image: N, pixels, NaN = not found."""
        there, found = flow(left, right, features.keypoints)
        away = features.keypoints - there
        good = found & (np.abs(away[:, 1]) <= self._config.epipolar_band)
        good &= (away[:, 0] >= 0.0) & (away[:, 0] <= self._config.max_disparity)
        return np.where(good, there[:, 0], np.nan).astype(np.float32)


def corner_response(image: UInt8Array) -> Float32Array:
    """Least eigenvalue of the structure tensor, H×W, scaled to a maximum of 1."""
    response = np.asarray(cv2.cornerMinEigenVal(image, _BLOCK), np.float32)
    return response / max(float(response.max(initial=0.0)), 1e-9)


def corner_features(
    image: UInt8Array, points: Float32Array, response: Float32Array
) -> tuple[Features, Any]:
    """Points N×2 as features without descriptors, and their order by response."""
    height, width = image.shape
    columns, rows = np.rint(points).astype(np.intp).T
    scores = response[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    order = np.argsort(-scores, kind="stable")
    none = np.zeros((len(points), 0), np.float32)
    return Features(points[order], scores[order], none, width, height, "gftt"), order


def _features(
    found: Any, descriptors: Float32Array, pixels: UInt8Array, model: str, top_k: int
) -> Features:
    """The ``top_k`` OpenCV keypoints with the best responses, best first, and descriptors."""
    responses = np.array([point.response for point in found], np.float32)
    order = np.argsort(-responses, kind="stable")[:top_k]
    return Features(
        keypoints=np.array([found[row].pt for row in order], np.float32).reshape(-1, 2),
        scores=responses[order] / max(responses.max(initial=0.0), 1e-9),
        descriptors=descriptors[order],
        width=pixels.shape[1],
        height=pixels.shape[0],
        model=model,
    )


def _distance(cosines: Float32Array) -> Float32Array:
    """Euclidean distance of unit vectors."""
    distances: Float32Array = np.sqrt(np.maximum(2.0 - 2.0 * cosines, 0.0))
    return distances


def _lucas_kanade(
    first: UInt8Array, second: UInt8Array, points: Float32Array
) -> tuple[Float32Array, BoolArray]:
    size, levels = (_WINDOW, _WINDOW), _LEVELS - 1
    start = points.reshape(-1, 1, 2)
    found = cv2.calcOpticalFlowPyrLK(
        first, second, start, start.copy(), winSize=size, maxLevel=levels
    )
    there, status = (np.asarray(one).reshape(len(points), -1) for one in found[:2])
    return there.astype(np.float32), status[:, 0] != 0


def _apart(points: Float32Array, spacing: float, shape: tuple[int, ...]) -> Any:
    """Indices of points at least ``spacing`` from all earlier selected ones."""
    taken = np.zeros(shape, np.uint8)
    kept = []
    for index, (x, y) in enumerate(np.rint(points).astype(int).tolist()):
        if not taken[y, x]:
            kept.append(index)
            cv2.circle(taken, (x, y), round(spacing), 1, -1)
    return np.array(kept, np.intp)
