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

"""The service ``~/relocalize``: which keyframes show the place that an image shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from rclpy.node import Node
from rclpy.task import Future

from aliked_msgs.msg import RelocalizationCandidate
from aliked_msgs.srv import Relocalize
from aliked_ros.camera import CameraModel
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.frontend.quarter_turns import best_turn
from aliked_ros.ros.conversions import candidate_message, feature_frame, image_from_message
from aliked_ros.ros.session import Session
from aliked_ros.ros.warnings import reason
from aliked_ros.types import Features, FrameResult, Matches, Tracks

Response = TypeVar("Response", bound=Any)

_TURN = 0.001  # seconds


async def relocalized(
    node: Node, session: Session, request: Relocalize.Request, response: Relocalize.Response
) -> Relocalize.Response:
    """The response to a call of ``~/relocalize``."""
    return await answered(node, response, lambda: _relocalize(session, request, response))


async def answered(node: Node, response: Response, fill: Callable[[], None]) -> Response:
    """The response, filled in its own thread: images and other calls are served meanwhile."""
    done: Future = Future()

    def work() -> None:
        try:
            fill()
        except Exception as error:
            response.success = False
            response.message = reason(error)
        done.set_result(response)
        if node.executor is not None:
            node.executor.wake()

    threading.Thread(target=work, name="answering", daemon=True).start()
    return await done  # type: ignore[no-any-return]


def _relocalize(
    session: Session, request: Relocalize.Request, response: Relocalize.Response
) -> None:
    """Fill the response; an image of the request is also tried turned by quarters.

    Raises ImageError for an image that cannot be used, BackendError when the node is cleaned up
    meanwhile.
    """
    if request.image.width and request.image.height:
        image = image_from_message(request.image)
        height, width = image.pixels.shape[:2]
        mask = session.inputs.mask(width, height)

        def attempt(turns: int) -> tuple[Features, _Found]:
            with turn(session) as pipeline:
                features = pipeline.extract(image.pixels, mask, turns)
            return features, _look(session, features)

        with turn(session) as pipeline:
            quarters = pipeline.quarters
        features, found = best_turn(attempt, lambda looked: looked.most_inliers, quarters)
        result = untracked(features, image.stamp, session.inputs.calibration.camera)
        response.features = feature_frame(result, request.image.header)
    elif session.latest:
        (latest,) = session.latest
        found = _look(session, latest.result.features, latest.result.index)
        response.features = feature_frame(latest.result, latest.header)
    else:
        response.message = "no image has been processed yet, and none was given"
        return
    response.candidates = found.candidates[: request.max_candidates or None]
    response.success = len(found.candidates) > 0
    response.message = f"{len(found.candidates)} of {found.keyframes} keyframes show the same place"


@dataclass(frozen=True, slots=True)
class _Found:
    """The candidates, most inliers first, of so many keyframes."""

    candidates: list[RelocalizationCandidate]
    keyframes: int

    @property
    def most_inliers(self) -> int:
        return self.candidates[0].inlier_count if self.candidates else 0


def _look(session: Session, features: Features, own_index: int | None = None) -> _Found:
    """Match an image with all keyframes; the pipeline is held for one of them at a time.

    own_index: of the image, if it may be a keyframe itself.
    """
    numbering = session.numbering
    with turn(session) as pipeline:
        keyframes = pipeline.keyframes
        numbers = [numbering.index(keyframe.index) for keyframe in keyframes]
        stamps = [
            numbering.stamp(number, keyframe.stamp)
            for number, keyframe in zip(numbers, keyframes, strict=True)
        ]
    frame = session.latest[0].header.frame_id if session.latest else ""
    found = []
    for keyframe, number, stamp in zip(keyframes, numbers, stamps, strict=True):
        if number == own_index:  # every image looks like itself
            continue
        with turn(session) as pipeline:
            candidate = pipeline.find_candidate(features, keyframe)
        if candidate is not None:
            epoch = numbering.epoch(keyframe.tracks.epoch)
            found.append(candidate_message(candidate, number, epoch, stamp, frame))
    return _Found(sorted(found, key=lambda candidate: -candidate.inlier_count), len(keyframes))


@contextmanager
def turn(session: Session) -> Iterator[Pipeline]:
    """The pipeline, between two images."""
    with session.configured.pipeline() as pipeline:
        yield pipeline
    time.sleep(_TURN)  # the lock is not fair: let the images have it


def untracked(features: Features, stamp: float, camera: CameraModel | None) -> FrameResult:
    """The result of an image outside the sequence: its keypoints have no ids."""
    none = np.zeros(len(features), np.uint32)
    normalized = None
    if camera is not None and camera.fits(features.width, features.height):
        normalized = camera.normalize(features.keypoints)
    tracks = Tracks(none.astype(np.uint64), none, epoch=0)
    return FrameResult(0, stamp, features, Matches.empty(), tracks, normalized=normalized)
