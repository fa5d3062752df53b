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

"""A front-end's recording for viewing: topics by kind, images with their features."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aliked_ros.errors import SourceError
from aliked_ros.io.bags import Bag, Topic
from aliked_ros.io.messages import (
    features_from_message,
    matches_from_message,
    nanoseconds,
    seconds,
    tracks_from_message,
)
from aliked_ros.types import FrameResult, Matches

FEATURES, MATCHES, STATUS, IMAGE = "features", "matches", "status", "image"
CAMERA, ODOMETRY, MAP = "camera_info", "odometry", "map"
_TYPES = {
    FEATURES: ("aliked_msgs/msg/FeatureFrame",),
    MATCHES: ("aliked_msgs/msg/FeatureMatches",),
    STATUS: ("aliked_msgs/msg/FrontendStatus",),
    IMAGE: ("sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image"),
    CAMERA: ("sensor_msgs/msg/CameraInfo",),
    ODOMETRY: ("nav_msgs/msg/Odometry",),
    MAP: ("sensor_msgs/msg/PointCloud2",),
}
_OF_FRONTEND = (FEATURES, MATCHES, STATUS)
# words in names of topics that are not the camera image
_OTHER_IMAGES = re.compile(r"(^|[/_])(right|depth|mask)([/_]|$)")
_WAITING = 300  # images waiting for their features
_LATE = 60  # messages after features in which a busy recorder may have written their image


@dataclass(frozen=True, slots=True)
class Item:
    """One message. time: arrival, nanoseconds; kind: such as FEATURES."""

    time: int
    kind: str
    message: Any


class RecordedRun:
    """A recording of a front-end. Use as a context manager.

    topics: kind → topic name; without kinds that were not recorded.
    count: number of messages of each kind.
    cut_off: whether its end is missing.
    """

    def __init__(self, path: Path, frontend: str = "aliked_frontend") -> None:
        """Open it. Raises SourceError if it cannot be read or has no features.

        frontend: name of the node, if the recording has several.
        """
        if not path.exists():
            raise SourceError(f"{path} does not exist; give a .mcap file or a rosbag2 folder.")
        self.path = path
        self._bag = Bag(path)
        try:
            self.topics, self.count = self._choose(frontend.strip("/"))
        except SourceError:
            self._bag.close()
            raise
        self.cut_off = bool(self._bag.cut_off)

    def __enter__(self) -> RecordedRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._bag.close()

    def items(self) -> Iterator[Item]:
        """All messages in order of arrival; an image comes right before its features.

        Skips images that were not processed. Raises SourceError for damage.
        """
        kinds = {topic: kind for kind, topic in self.topics.items()}
        late = _LATE if IMAGE in self.topics else 0
        images: dict[int, Any] = {}
        held: deque[Item] = deque()
        for time, topic, message in self._bag.messages(list(kinds)):
            if kinds[topic] == IMAGE:
                images[nanoseconds(message.header.stamp)] = message
                if len(images) > _WAITING:
                    del images[next(iter(images))]
            else:
                held.append(Item(time, kinds[topic], message))
            yield from _released(held, images, late)
        yield from _released(held, images, 0)

    def _choose(self, frontend: str) -> tuple[dict[str, str], dict[str, int]]:
        topics: dict[str, str] = {}
        count: dict[str, int] = {}
        for kind, types in _TYPES.items():
            found = [topic for topic in self._bag.topics if topic.msgtype in types]
            if kind in _OF_FRONTEND and len(found) > 1:
                found = [t for t in found if t.name.strip("/").startswith(f"{frontend}/")] or found
            if kind == FEATURES and len(found) != 1:
                self._refuse(found)
            if kind == IMAGE:
                found = [t for t in found if _is_the_image(t.name, topics[FEATURES])]
                found.sort(key=lambda t: (t.msgtype != types[0], len(t.name)))
            if kind == CAMERA:
                found.sort(key=lambda t: bool(_OTHER_IMAGES.search(t.name)))
            if found:
                topics[kind], count[kind] = found[0].name, found[0].count
        return topics, count

    def _refuse(self, found: list[Topic]) -> None:
        if found:
            names = ", ".join(topic.name.rpartition("/")[0].strip("/") for topic in found)
            raise SourceError(
                f"{self.path} has the features of several front-ends: {names}; name one with "
                "--frontend."
            )
        raise SourceError(
            f"{self.path} has no features (aliked_msgs/msg/FeatureFrame); {self._bag.contents} "
            "Record a running front-end: 'ros2 run aliked_ros recorder'."
        )


def _released(held: deque[Item], images: dict[int, Any], late: int) -> Iterator[Item]:
    """The items up to the first features whose image may yet come, within ``late`` items."""
    while held:
        item = held[0]
        if item.kind == FEATURES:
            stamp = nanoseconds(item.message.header.stamp)
            if stamp in images:
                yield Item(item.time, IMAGE, images[stamp])
                for older in [other for other in images if other <= stamp]:
                    del images[older]
            elif len(held) <= late:
                return
        yield held.popleft()


def result_of(frame: Any, matches: Any = None) -> FrameResult:
    """The pipeline's result, rebuilt from FeatureFrame and FeatureMatches."""
    first = matches is None or matches.reference_index == frame.frame_index
    return FrameResult(
        frame.frame_index,
        seconds(frame.header.stamp),
        features_from_message(frame),
        Matches.empty() if matches is None else matches_from_message(matches),
        tracks_from_message(frame),
        None if first else matches.reference_index,
    )


def _is_the_image(topic: str, features: str) -> bool:
    """Whether a topic can be the front-end's input, not its own drawing or another camera."""
    own = topic.startswith(features.rpartition("/")[0] + "/")
    return not own and not _OTHER_IMAGES.search(topic)
