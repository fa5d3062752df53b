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

"""What goes out of one processed image: messages packed from its result, and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame, FeatureMatches, Keyframe
from aliked_ros.camera import CameraModel
from aliked_ros.ros import rtabmap
from aliked_ros.ros.calibration import Calibration
from aliked_ros.ros.conversions import (
    feature_frame,
    feature_matches,
    keyframe_message,
)
from aliked_ros.ros.inputs import Arrival
from aliked_ros.ros.parameters import NodeParameters
from aliked_ros.ros.pictures import Pictures
from aliked_ros.ros.vins import MOST_POINTS, VinsOutput
from aliked_ros.ros.warnings import Complaints
from aliked_ros.types import FrameResult, UInt8Array

_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
Packed = list[tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Frame:
    """One processed image.

    result: numbered as published. reference_stamp: of the image it was matched with.
    """

    arrival: Arrival
    pixels: UInt8Array
    result: FrameResult
    reference_stamp: Time


class Outputs:
    """The publishers of a configured node; backend: what runs its networks, for people to read."""

    def __init__(
        self, node: LifecycleNode, settings: NodeParameters, complaints: Complaints, backend: str
    ) -> None:
        self._node = node
        self._settings = settings
        self._complaints = complaints
        self._publishers: list[Any] = []
        self._features = self._advertise(FeatureFrame, "~/features")
        self._matches = self._advertise(FeatureMatches, "~/matches")
        self._keyframes = self._advertise(Keyframe, "~/keyframes")
        self._pictures = Pictures(self._advertise, settings, complaints, backend)
        self._vins_feature = self._rtabmap_features = None
        if settings["publish_vins"]:
            self._vins_feature = self._advertise(PointCloud, "~/vins_feature")
        if settings["publish_rtabmap"]:
            self._rtabmap_features = self._advertise(rtabmap.message_type(), "~/rtabmap_features")

    def start(self) -> None:
        """Begin a sequence of images."""
        self._vins = VinsOutput()
        self._rtabmap = rtabmap.RtabmapOutput()
        self._pictures.start()

    def stop(self) -> None:
        """End it."""
        self._pictures.stop()

    def destroy(self) -> None:
        """Take the topics away."""
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)

    def pack(self, frame: Frame, calibration: Calibration) -> Packed:
        """Publishers and the messages for them, the most urgent first."""
        result, header = frame.result, frame.arrival.message.header
        descriptors = self._settings["descriptor_encoding"]
        if not self._settings["publish_descriptors"]:
            descriptors = None
        features = feature_frame(result, header, descriptors)
        packed: Packed = [(self._features, features)]
        if self._settings["publish_matches"]:
            matches = feature_matches(result, header, frame.reference_stamp)
            packed.append((self._matches, matches))
        if self._vins_feature is not None:
            packed += self._packed_for_vins(result, calibration.camera, header)
        if self._rtabmap_features is not None:
            packed += self._packed_for_rtabmap(frame, calibration)
        if result.is_keyframe and self._keyframes.get_subscription_count():
            message = keyframe_message(features, result.keyframe_reason, frame.pixels)
            packed.append((self._keyframes, message))
        return packed

    def draw(self, frame: Frame) -> None:
        """Show an image, soon, to those who look."""
        self._pictures.submit(frame.arrival.message.header, frame.pixels, frame.result)

    def drawing(self) -> dict[str, float]:
        """Seconds by stage that pictures took since the last call, in their own thread."""
        return self._pictures.took()

    def _advertise(self, kind: type, topic: str) -> Any:
        publisher = self._node.create_lifecycle_publisher(kind, topic, _QOS)
        self._publishers.append(publisher)
        return publisher

    def _packed_for_vins(
        self, result: FrameResult, camera: CameraModel | None, header: Header
    ) -> Packed:
        message = None if camera is None else self._vins.message(result, camera, header)
        if message is None:
            self._complaints.mention(
                "Nothing on ~/vins_feature for images without a CameraInfo that fits them."
            )
            return []
        if self._vins.cut:
            self._complaints.mention(
                f"More than {MOST_POINTS} tracks: ~/vins_feature has the best and best spread of "
                "them, as VINS-Fusion's estimator crashes with too many."
            )
        if self._vins.wrapped:
            self._complaints.mention(
                "Track ids on ~/vins_feature have begun anew: its float32 cannot hold larger ones. "
                "Restart the estimator."
            )
        return [(self._vins_feature, message)]

    def _packed_for_rtabmap(self, frame: Frame, calibration: Calibration) -> Packed:
        result, camera, arrival = frame.result, calibration.camera, frame.arrival
        used = result.right_x is not None or result.depth is not None
        message = camera and self._rtabmap.message(
            result,
            camera,
            arrival.message,
            frame.pixels,
            arrival.partner if used else None,  # one that cannot be used is left out
            (calibration.right_info, calibration.baseline),
        )
        if message is not None:
            return [(self._rtabmap_features, message)]
        if result.normalized is None:
            self._complaints.mention(
                "Nothing on ~/rtabmap_features for images without a CameraInfo that fits them."
            )
        else:
            self._complaints.mention(
                "Nothing on ~/rtabmap_features for images without features: rtabmap aborts where "
                "the first has none."
            )
        return []
