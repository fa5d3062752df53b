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

"""What comes in: images, CameraInfos and masks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_ros.io.messages import nanoseconds
from aliked_ros.io.video import VideoPacket, packet_from_message
from aliked_ros.ros.calibration import Calibration
from aliked_ros.ros.compatibility import publisher_count
from aliked_ros.ros.conversions import image_from_message, image_message, seconds
from aliked_ros.ros.declarations import Settings
from aliked_ros.ros.frame import Frame, Received
from aliked_ros.ros.masks import Masks
from aliked_ros.ros.own_camera import OwnCamera
from aliked_ros.ros.pairing import Pair
from aliked_ros.ros.partners import Deliver, Mono, Partners, Stream
from aliked_ros.ros.status import Losses, Statistics
from aliked_ros.ros.subscriptions import Subscriptions, Topic, unheard, unheard_by
from aliked_ros.ros.transports import VIDEO, subscribed
from aliked_ros.ros.video_stream import DEPTH, VideoStream
from aliked_ros.ros.warnings import Warnings
from aliked_ros.system.transport import too_large
from aliked_ros.types import FrameResult, Image, UInt8Array

_RELIABILITY = {
    "best_effort": ReliabilityPolicy.BEST_EFFORT,
    "reliable": ReliabilityPolicy.RELIABLE,
}
_MASK_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)  # it may come only once
_STATIC_SHARE = 0.01  # of the image, that is worth a warning
_CHECK = "Check the topic's name, and input_reliability against the camera's QoS."
_LARGEST_ROLL = 45.0  # degrees between two views that aliked-n16 still matches
_LOST = 0.1  # share of lost images above which the node warns
_FEW = 14  # bits of 16; an image of so few is a quarter as bright as it may be
_DARK = 100  # images of few bits, and none of more, before the node warns: it may be dark
_MAX_AGE = 60.0  # seconds; an image older than this at arrival has a stamp of another clock


class Inputs:
    """Receives images and hands each on as a :class:`Frame`, with its partner if it has one.

    The executor's thread calls what begins with ``on_``; :meth:`image` and :meth:`check` are for
    one other thread.

    calibration: what the CameraInfos say. paused: images are ignored. in_sets: an image belongs to
    those of other cameras of the same stamp.
    """

    def __init__(
        self,
        node: Node,
        settings: Settings,
        static_mask: UInt8Array | None,
        statistics: Statistics,
        warnings: Warnings,
        deliver: Deliver,
    ) -> None:
        """Subscribe. ``deliver``: called with each image when it is to be processed."""
        self.paused = self.in_sets = False
        self._node = node
        self._settings = settings
        self._statistics = statistics
        self._warnings = warnings
        self._by_arrival: bool = settings["stamps"] == "arrival"
        self._stereo: bool = settings["input"] == "stereo"
        self._deliver = deliver
        rectified = settings["rectified"] or self._stereo
        self.calibration = Calibration(
            node.resolve_topic_name("camera_info"),
            node.resolve_topic_name("right/camera_info"),
            rectified,
            warnings,
            lambda topic: unheard(node, topic, CameraInfo),
        )
        border = settings["mask_border"] and rectified
        self._masks = Masks(static_mask, border, settings, warnings)
        if settings["mask_border"] and not rectified:
            warnings.warn(
                "mask_border",
                "No mask_border: only rectified images have one. Set rectified if these are, or "
                "leave mask_border false.",
            )
        self._last_stamp = 0  # nanoseconds
        self._video: VideoStream | None = None
        self._right_video: VideoStream | None = None
        self._losses = Losses()
        self._bits = self._dark = 0  # the most of 16 bits used so far; images that used few
        self._subscriptions = Subscriptions(node, warnings)
        self._camera: OwnCamera | None = None
        try:
            self._open()
        except BaseException:
            if self._camera is not None:
                self._camera.close()
            self._subscriptions.close()
            raise

    def _open(self) -> None:
        self._partners = self._subscribe()
        self._stamped_masks = self._subscribe_masks()
        if self._camera is not None:
            self._camera.start()

    def _subscribe(self) -> Mono | Partners:
        settings, subscriptions = self._settings, self._subscriptions
        if settings["camera_source"]:
            camera = self._camera = OwnCamera(
                self._node, settings, self._warnings, self.calibration, self.on_image,
                self.on_partner, self._on_drop,
            )  # fmt: skip
            self._images, others = camera.images, camera.partners
        else:
            self._images, others = self._subscribe_to_images()
        if self._camera is None or not self._camera.calibrated:
            subscriptions.add_lasting(CameraInfo, "camera_info", self.calibration.set_info)
            if self._stereo:
                info = "right/camera_info"
                subscriptions.add_lasting(CameraInfo, info, self.calibration.set_right_info)
        if others is None:
            return Mono(self._deliver)
        return Partners(
            self._node, settings, self._images, others, self._statistics, self._warnings,
            self._deliver, self._right_video,
        )  # fmt: skip

    def _subscribe_to_images(self) -> tuple[Topic, Topic | None]:
        """The topics of the images and, unless they are mono, of their partners."""
        settings = self._settings
        images: str = settings["image_transport"]

        def subscribe(topic: str, transport: str, callback: Any) -> Subscription:
            suffix, kind = subscribed(transport, settings["video_messages"])
            depth = settings["input_depth"]
            if transport in VIDEO:
                depth, received = max(depth, DEPTH), callback

                def callback(message: Any, info: Mapping[str, Any]) -> None:
                    received(packet_from_message(message, Header), info)

            qos = QoSProfile(depth=depth, reliability=_RELIABILITY[settings["input_reliability"]])
            return self._subscriptions.add(kind, topic + suffix, callback, qos)

        def stream(subscription: Subscription) -> VideoStream | None:
            name = subscription.topic_name
            return VideoStream(name, self._warnings) if images in VIDEO else None

        own = subscribe("image", images, self.on_image)
        self._video = stream(own)
        if settings["input"] == "mono":
            return own, None
        topic = "right/image" if self._stereo else "depth/image"
        transport = images if self._stereo else settings["depth_transport"]
        others = subscribe(topic, transport, self.on_partner)
        self._right_video = stream(others) if self._stereo else None
        return own, others

    def _subscribe_masks(self) -> Stream[ImageMessage] | None:
        """Masks for all images that follow; or, returned, the stream of each image's own."""
        if self._settings["mask_sync"] == "latched":
            self._subscriptions.add_lasting(
                ImageMessage, "mask", self._masks.set_message, _MASK_QOS
            )
            return None
        qos = QoSProfile(depth=10, reliability=_RELIABILITY[self._settings["input_reliability"]])
        masks = self._subscriptions.add(ImageMessage, "mask", self.on_mask, qos)
        latest = self._settings["mask_missing"] == "latest"
        without = "images use the mask before" if latest else "images are not masked"

        def release(pair: Pair[Frame, ImageMessage]) -> None:
            pair.image.mask = pair.partner
            pair.image.lap("mask")
            self._partners.add(pair.image)

        return Stream(
            self._node, self._settings, self._images, masks, self._warnings, without, release
        )

    def close(self) -> int:
        """Unsubscribe; returns how many images still waited for their mask or partner."""
        if self._camera is not None:
            self._camera.close()
        self._subscriptions.close()
        waiting = self._stamped_masks.close() if self._stamped_masks else 0
        return waiting + self._partners.close()

    def resubscribe(self) -> None:
        """Replace all subscriptions; calibration, masks and tracks stay."""
        self._statistics.dropped(self.close())
        self._subscriptions = Subscriptions(self._node, self._warnings)
        self._losses = Losses()
        self._open()

    @property
    def topic(self) -> str:
        """Name of the images' topic."""
        return str(self._images.topic_name)

    def silence(self) -> str:
        """What to say when no images come."""
        seconds = self._statistics.silence()
        if self._camera is not None:
            return self._camera.silence(seconds)
        count = publisher_count(self._node, self._images)
        return f"no image on {self.topic} for {seconds:.0f} s: {count} matching publishers. " + (
            unheard_by(self._node, self._images) or _CHECK
        )

    # The executor's thread

    def on_image(self, message: Received, info: Mapping[str, Any]) -> None:
        """An image has come."""
        now = time.perf_counter()
        if self._camera is None:
            self._check_losses(message, info)
        if not self._accept(message):
            return
        stamp = message.header.stamp
        if self._video is None:
            self._check_stamp(nanoseconds(stamp))
        elif isinstance(message, VideoPacket):
            self._video.put(message, info)
        frame = Frame(message, now)
        age = self._node.get_clock().now().nanoseconds * 1e-9 - seconds(stamp)
        if 0.0 <= age <= _MAX_AGE:
            frame.stages["receive"] = age
        self._statistics.received()
        (self._stamped_masks or self._partners).add(frame)

    def on_partner(self, message: Received, info: Mapping[str, Any]) -> None:
        """A right or depth image has come."""
        assert isinstance(self._partners, Partners)
        self._partners.heard()
        if self._accept(message):
            if self._right_video is not None and isinstance(message, VideoPacket):
                self._right_video.put(message, info)
            self._partners.add_partner(message)

    def on_mask(self, message: ImageMessage, info: Mapping[str, Any]) -> None:
        """The mask of one image has come."""
        assert self._stamped_masks is not None
        self._stamped_masks.heard()
        if self._accept(message):
            self._stamped_masks.add_other(message)

    def _accept(self, message: Received) -> bool:
        """Whether to use a message; with ``stamps: arrival`` this sets its stamp.

        Images of ``camera_source`` are stamped already when they are read.
        """
        if self._by_arrival and self._camera is None and not self.paused:
            message.header.stamp = self._node.get_clock().now().to_msg()
        return not self.paused

    def _check_losses(self, message: Received, info: Mapping[str, Any]) -> None:
        """Warn of images that did not arrive, by their publisher's count."""
        self._losses.note(info.get("publication_sequence_number") or 0)
        problem = too_large(len(message.data))
        self._check_publishers()
        share = self._losses.share
        if share > _LOST and publisher_count(self._node, self._images) == 1:
            why = (
                f"They have {problem}"
                if problem
                else ("The network or this machine is too slow: publish smaller or fewer images.")
            )
            self._warnings.warn(
                "losses", f"{share:.0%} of the images on {self.topic} were lost in transit. {why}"
            )
        else:
            self._warnings.clear("losses")
            if problem:
                self._warnings.once(f"The images on {self.topic} have {problem}")

    def _check_publishers(self) -> None:
        """Warn of two cameras on one topic."""
        if self._losses.mixed and (count := publisher_count(self._node, self._images)) > 1:
            self._warnings.warn(
                "publishers",
                f"{self.topic} has {count} publishers: their images mix, and tracks break off. "
                f"ros2 topic info -v {self.topic} names them: stop all but one, or remap one.",
            )
        else:
            self._warnings.clear("publishers")

    def _check_stamp(self, stamp: int) -> None:
        """Warn of a stamp that is of no use."""
        before, self._last_stamp = self._last_stamp, stamp
        if stamp <= 0:
            effect = f"is {stamp / 1e9:g} s: pairs, odometry, recordings and exports go by stamps"
        elif stamp > before:
            self._warnings.clear("stamps")
            return
        elif stamp == before:
            effect = "is that of the image before: odometry and exports use only the first of them"
        else:
            back = (before - stamp) / 1e9
            effect = f"is {back:g} s before that of the image before: all tracks end, epoch grows"
        remedy = "Correct the driver or its clock, or set stamps to arrival."
        if self._by_arrival and self._camera is None:
            remedy = (
                "stamps is arrival, so it is of this node's clock: publish /clock, or set "
                "use_sim_time to false."
            )
        self._warnings.warn("stamps", f"The stamp of an image on {self.topic} {effect}. {remedy}")

    # The thread of the node's own camera

    def _on_drop(self) -> None:
        """The executor had no time for an image."""
        if not self.paused:
            self._statistics.received()
            self._statistics.dropped(1)

    # The worker's thread

    def image(self, frame: Frame) -> Image | None:
        """The core's image, with its mask and its partner; None = a video gave no picture yet.

        Raises ImageError for an image that cannot be used. A partner that cannot is warned of, and
        the image is processed alone.
        """
        if isinstance(frame.message, VideoPacket) and not self._decode(frame, frame.message):
            return None
        image = image_from_message(frame.message)
        self._check_bits(frame.message, image)
        height, width = image.pixels.shape[:2]
        if self._stamped_masks is not None:
            self._masks.attach(frame.mask)
        return self._partners.attach(replace(image, mask=self.mask(width, height)), frame)

    def _check_bits(self, message: Received, image: Image) -> None:
        """Warn of 16-bit samples that never use the upper bits, and so give dark images."""
        encoding = getattr(message, "encoding", "")
        if self._bits > _FEW or not encoding.endswith("16"):
            return
        self._bits = max(self._bits, 8 + int(image.pixels.max()).bit_length())
        self._dark += 1
        if self._bits > _FEW:
            self._warnings.clear("bits")
        elif self._dark >= _DARK:
            self._warnings.warn(
                "bits",
                f"Images on {self.topic} are {encoding}, but use only {self._bits} of the 16 bits: "
                "they become dark and give few features. Let the driver shift the values up to 16 "
                "bits, or publish 8.",
            )

    def _decode(self, frame: Frame, packet: VideoPacket) -> bool:
        """Replace the packet by the newest picture, which with B-frames is an earlier packet's."""
        assert self._video is not None
        paired = isinstance(self._partners, Partners) or self._stamped_masks is not None
        video = self._video
        picture = (video.own_picture if paired or self.in_sets else video.picture)(packet)
        if picture is None:
            return False
        self._check_stamp(nanoseconds(picture.packet.header.stamp))
        frame.message = image_message(picture.pixels(), picture.packet.header)
        return True

    def mask(self, width: int, height: int) -> UInt8Array | None:
        """The mask of images of this size, None = nothing is masked."""
        return self._masks.mask(width, height, self.calibration.info)

    def check(self, result: FrameResult, frame_id: str) -> None:
        """Warn of degraded output; frame_id: of the image."""
        self.calibration.check(result, self._stereo, self.topic, frame_id)
        if result.static_share > _STATIC_SHARE and not self._settings["mask_static"]:
            self._warnings.warn(
                "static",
                "Part of the image is fixed to the camera while it moves (a watermark, a part of "
                "the robot): set mask_static, or give a mask_file.",
            )
        else:
            self._warnings.clear("static")
        if abs(result.roll) > _LARGEST_ROLL and self._settings["model"] != "aliked-n16rot":
            self._warnings.once(
                f"The camera has rolled by more than {_LARGEST_ROLL:.0f}°: views so far apart "
                "do not match. For a camera that rolls, set model to aliked-n16rot."
            )
