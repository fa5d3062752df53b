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

"""What the node publishes of each image: the table of its topics.

A new output is a :class:`~aliked_ros.ros.frame.Maker` and a row in ``OUTPUTS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image as ImageMessage
from sensor_msgs.msg import PointCloud
from visualization_msgs.msg import MarkerArray

from aliked_msgs.msg import FeatureFrame, FeatureMatches, Keyframe
from aliked_ros.ros import foxglove, rtabmap
from aliked_ros.ros.conversions import feature_frame, feature_matches, keyframe_message
from aliked_ros.ros.declarations import Settings
from aliked_ros.ros.frame import Frame, Maker, OutputContext
from aliked_ros.ros.markers import Markers
from aliked_ros.ros.pictures import Pictures, TrackImage
from aliked_ros.ros.vins import VinsFeature

_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


class Features(Maker):
    """``~/features``."""

    def message(self, frame: Frame) -> FeatureFrame:
        """Keypoints, tracks and, if asked for, descriptors."""
        encoding = self.encoding() if self.context.settings["publish_descriptors"] else None
        message = feature_frame(frame.result, frame.header, encoding)
        calibration = self.context.calibration
        camera = calibration.camera
        if frame.result.normalized is not None and camera is not None:
            message.focal_length = float(camera.matrix[0, 0])
        if frame.result.right_x is not None:
            message.baseline = calibration.baseline or 0.0
        return message

    def encoding(self) -> str:
        """Of the descriptors."""
        return str(self.context.settings["descriptor_encoding"])


class Matches(Maker):
    """``~/matches``."""

    def message(self, frame: Frame) -> FeatureMatches | None:
        """The matches with the previous image."""
        if not self.context.settings["publish_matches"]:
            return None
        return feature_matches(frame.result, frame.header, frame.reference_stamp)


class Keyframes(Features):
    """``~/keyframes``."""

    def message(self, frame: Frame) -> Keyframe | None:
        """The features of a keyframe with its image."""
        if not frame.result.is_keyframe:
            return None
        features = super().message(frame)
        return keyframe_message(features, frame.result.keyframe_reason, frame.image.pixels)

    def encoding(self) -> str:
        """Of the descriptors; by default that of ``~/features``."""
        own = str(self.context.settings["keyframe_descriptor_encoding"])
        return super().encoding() if own == "same" else own


@dataclass(frozen=True, slots=True)
class Output:
    """One topic.

    kind: gives the message's class; None = its package is not installed, and the topic is absent.
    parameter: has to be true at configure; empty = always there.
    lazy: made only while somebody subscribes. drawn: lazy, in the drawing thread.
    """

    topic: str
    kind: Callable[[], type | None]
    maker: type[Maker]
    parameter: str = ""
    lazy: bool = False
    drawn: bool = False


OUTPUTS = (  # in the order of publication
    Output("~/features", lambda: FeatureFrame, Features),
    Output("~/matches", lambda: FeatureMatches, Matches),
    Output("~/vins_feature", lambda: PointCloud, VinsFeature, "publish_vins"),
    Output("~/rtabmap_features", rtabmap.message_type, rtabmap.RtabmapFeatures, "publish_rtabmap"),
    Output("~/keyframes", lambda: Keyframe, Keyframes, lazy=True),
    Output("~/tracks/image", lambda: ImageMessage, TrackImage, drawn=True),
    Output("~/tracks/markers", lambda: MarkerArray, Markers, drawn=True),
    Output("~/annotations", foxglove.message_type, foxglove.Annotations, drawn=True),
)
Publishers: TypeAlias = Sequence[tuple[Output, LifecyclePublisher]]


def advertise(node: LifecycleNode, settings: Settings) -> Publishers:
    """The publishers of a configured node."""
    publishers = []
    for output in OUTPUTS:
        if output.parameter and not settings[output.parameter]:
            continue
        kind = output.kind()
        if kind is not None:
            publisher = node.create_lifecycle_publisher(kind, output.topic, _QOS)
            publishers.append((output, publisher))
    return publishers


class Outputs:
    """The outputs of an active node."""

    def __init__(self, node: LifecycleNode, publishers: Publishers, context: OutputContext) -> None:
        """Start the drawing thread."""
        makers = [(output, publisher, output.maker(context)) for output, publisher in publishers]
        self._messages = [(o.lazy, publisher, make) for o, publisher, make in makers if not o.drawn]
        drawn = [(publisher, make) for output, publisher, make in makers if output.drawn]
        self._pictures = Pictures(drawn, context, node.context.ok)

    def messages(self, frame: Frame) -> list[tuple[LifecyclePublisher, Any]]:
        """Publishers and the messages for them, the most urgent first."""
        made = [
            (publisher, maker.message(frame))
            for lazy, publisher, maker in self._messages
            if not lazy or publisher.get_subscription_count()
        ]
        return [(publisher, message) for publisher, message in made if message is not None]

    def draw(self, frame: Frame) -> None:
        """Draw an image soon, for those who subscribe."""
        self._pictures.submit(frame)

    def drawing(self) -> dict[str, float]:
        """Seconds by stage that pictures took since the last call, in their own thread."""
        return self._pictures.took()

    def close(self) -> None:
        """End the drawing thread."""
        self._pictures.close()
