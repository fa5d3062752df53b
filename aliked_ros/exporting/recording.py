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

"""Reading recordings without ROS: MCAP files of ``recorder``, folders of ``ros2 bag record``.

The message definitions come from the recording itself, so neither ROS nor ``aliked_msgs`` is
needed. Stamps are those of the message headers, in nanoseconds; equal stamps belong together.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError, ImageError, SourceError
from aliked_ros.io.bags import Bag, Topic
from aliked_ros.io.image_messages import image_from_message
from aliked_ros.io.messages import (
    codes_from_message,
    features_from_message,
    matches_from_message,
    nanoseconds,
    optional_rows,
    tracks_from_message,
)
from aliked_ros.types import Features, Float32Array, Float64Array, Matches, Tracks, UInt8Array

logger = logging.getLogger(__name__)

_FEATURES = ("aliked_msgs/msg/FeatureFrame",)
_KEYFRAMES = ("aliked_msgs/msg/Keyframe",)
_MATCHES = ("aliked_msgs/msg/FeatureMatches",)
_CAMERA_INFO = ("sensor_msgs/msg/CameraInfo",)
_IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_ODOMETRY = ("nav_msgs/msg/Odometry",)
_PNG = b"\x89PNG"


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """The features of one image.

    stamp: nanoseconds. codes: N×32 uint8 (``frontend.codes``) where they were recorded instead of
    float descriptors, else None. Other fields as in FrameResult.
    """

    stamp: int
    index: int
    features: Features
    tracks: Tracks
    normalized: Float32Array | None
    codes: UInt8Array | None = None


@dataclass(frozen=True, slots=True)
class RecordedMatches:
    """The matches of an image with its reference, and both stamps (nanoseconds) and indices."""

    image: tuple[int, int]
    reference: tuple[int, int]
    matches: Matches


@dataclass(frozen=True, slots=True)
class RecordedImage:
    """An image as a file. stamp: nanoseconds; suffix: ``.jpg`` or ``.png``."""

    stamp: int
    suffix: str
    data: bytes


@dataclass(frozen=True, slots=True)
class RecordedPose:
    """A pose of the odometry.

    stamp: nanoseconds. position: 3 float64, metres. orientation: unit quaternion x y z w, float64.
    """

    stamp: int
    position: Float64Array
    orientation: Float64Array


class RecordingReader:
    """A recording, topic by topic in order of arrival. Use as a context manager.

    Its methods raise SourceError for a missing topic, an ambiguous one, and damage.
    """

    def __init__(self, path: Path, topics: Collection[str] = ()) -> None:
        """Open a file or folder. Raises SourceError if it cannot be read or lacks a topic.

        If the recorder was killed, the intact part is read. topics: those to read, if the recording
        has several of the same type.
        """
        self.path = path
        if not path.exists():
            raise SourceError(f"{path} does not exist; give a .mcap file or a rosbag2 folder.")
        self._bag = Bag(path)
        self._topics = frozenset(topics)
        if absent := self._topics - {topic.name for topic in self._bag.topics}:
            self.close()
            raise SourceError(
                f"{path} has no topic {', '.join(sorted(absent))}; {self._bag.contents}"
            )

    def __enter__(self) -> RecordingReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._bag.close()

    def frame_count(self) -> int:
        """Number of images that have features."""
        return sum(topic.count for topic in self._select(self._featured))

    @property
    def _featured(self) -> tuple[str, ...]:
        """The type of the messages with features."""
        return _FEATURES if self._select(_FEATURES) or not self._select(_KEYFRAMES) else _KEYFRAMES

    def frames(self) -> Iterator[RecordedFrame]:
        """The features of each image; of the keyframes if only those were recorded."""
        remedy = "record a running front-end: 'ros2 run aliked_ros recorder'."
        for found in self._messages(kinds := self._featured, remedy):
            message = found.features if kinds == _KEYFRAMES else found
            yield RecordedFrame(
                _stamp(message),
                message.frame_index,
                features_from_message(message),
                tracks_from_message(message),
                optional_rows(message, "normalized", 2),
                codes_from_message(message),
            )

    def matches(self) -> Iterator[RecordedMatches]:
        """The matches of each image; none if not recorded."""
        for message in self._messages(_MATCHES):
            reference = nanoseconds(message.reference_stamp), message.reference_index
            image = _stamp(message), message.frame_index
            yield RecordedMatches(image, reference, matches_from_message(message))

    def images(self) -> Iterator[RecordedImage]:
        """The images: compressed ones unchanged, raw ones as PNG; none if not recorded.

        Unreadable images are skipped and counted in a warning; ImageError if none can be read.
        """
        given, failures = 0, list[ImageError]()
        for message in self._messages(_IMAGES):
            try:
                image = _image(message)
            except ImageError as error:
                failures.append(error)
                continue
            given += 1
            yield image
        if failures and not given:
            raise failures[0]
        if failures:
            logger.warning(
                "%s: %d of %d images are skipped; the first: %s",
                self.path, len(failures), len(failures) + given, failures[0],
            )  # fmt: skip

    def camera(self) -> CameraModel | None:
        """The camera model for the features, from the first CameraInfo.

        Their normalized coordinates show whether the images were rectified, so that P holds
        instead of K and D. None, with a warning, if there is no CameraInfo or it does not fit.
        """
        info = next(self._messages(_CAMERA_INFO, left=True), None)
        if info is None:
            logger.warning("%s has no camera_info: the camera is not calibrated.", self.path)
            return None
        first = frame = next(self.frames())
        if frame.normalized is None:
            frame = next((f for f in self.frames() if f.normalized is not None), first)
        try:
            camera = CameraModel.from_info(info, rectified=False)
            if frame.normalized is not None and not _explains(camera, frame):
                camera = CameraModel.from_info(info, rectified=True)
            size = (frame.features.width, frame.features.height)
            if not camera.fits(*size):
                raise ConfigurationError(
                    f"it is for {camera.width}×{camera.height} pixels, the images have "
                    f"{size[0]}×{size[1]}."
                )
        except ConfigurationError as error:
            logger.warning("camera_info of %s is not used: %s", self.path, error)
            return None
        return camera

    def odometry(self) -> Iterator[RecordedPose]:
        """The poses of a nav_msgs/Odometry topic: its child frame in its header's frame."""
        remedy = "record while a back-end publishes odometry (the recorder's parameter 'odometry')."
        for message in self._messages(_ODOMETRY, remedy):
            position, turn = message.pose.pose.position, message.pose.pose.orientation
            yield RecordedPose(
                _stamp(message),
                np.array([position.x, position.y, position.z]),
                np.array([turn.x, turn.y, turn.z, turn.w]),
            )

    def _select(self, kinds: tuple[str, ...], left: bool = False) -> list[Topic]:
        """The one topic of these message types, or none.

        left: exclude the right camera's CameraInfo, if there are others.
        """
        found = [topic for topic in self._bag.topics if topic.msgtype in kinds]
        found = [topic for topic in found if topic.name in self._topics] or found
        if left and len(found) > 1:
            found = [topic for topic in found if not self._has_baseline(topic)] or found
        if len(topics := sorted({topic.name for topic in found})) > 1:
            raise SourceError(
                f"{self.path} has several topics of type {found[0].msgtype}: {', '.join(topics)}; "
                "select one with --topic."
            )
        return found

    def _has_baseline(self, topic: Topic) -> bool:
        """Whether a topic has the CameraInfo of the right camera of a stereo pair."""
        _, _, info = next(iter(self._bag.messages([topic.name])))
        return bool(info.p[3] != 0.0)

    def _messages(
        self, kinds: tuple[str, ...], remedy: str | None = None, left: bool = False
    ) -> Iterator[Any]:
        """The messages of one topic; SourceError if there are none and a remedy is given."""
        selected = self._select(kinds, left)
        if not selected:
            if remedy is not None:
                raise SourceError(
                    f"{self.path} has no topic of type {kinds[0]}; {self._bag.contents} To get "
                    f"one, {remedy}"
                )
            return
        for _, _, message in self._bag.messages([topic.name for topic in selected]):
            yield message


def _explains(camera: CameraModel, frame: RecordedFrame) -> bool:
    """Whether the model maps the frame's keypoints to its normalized coordinates."""
    assert frame.normalized is not None
    difference = camera.project(frame.normalized) - frame.features.keypoints
    return bool(np.nanmedian(np.abs(difference)) < 0.1)  # pixels


def _image(message: Any) -> RecordedImage:
    """An image as a file: a compressed one unchanged, otherwise a PNG."""
    if not hasattr(message, "encoding") and not message.format.startswith("bayer_"):
        data = bytes(message.data)
        return RecordedImage(_stamp(message), ".png" if data.startswith(_PNG) else ".jpg", data)
    pixels = image_from_message(message).pixels
    stored = pixels if pixels.ndim == 2 else pixels[..., ::-1]
    return RecordedImage(_stamp(message), ".png", bytes(cv2.imencode(".png", stored)[1]))


def _stamp(message: Any) -> int:
    return nanoseconds(message.header.stamp)
