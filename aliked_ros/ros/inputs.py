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

"""What comes in: images with their partners, CameraInfos and masks.

An image's path: subscription → Pairing → Arrival → (the node's worker) Inputs.image → Image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import (
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
    qos_profile_sensor_data,
)
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from aliked_ros.errors import ImageError
from aliked_ros.io.messages import nanoseconds
from aliked_ros.ros.calibration import Calibration
from aliked_ros.ros.compatibility import (
    QoSRequestedIncompatibleQoSInfo,
    SubscriptionEventCallbacks,
    publisher_count,
    with_message_info,
)
from aliked_ros.ros.conversions import depth_from_message, image_from_message, seconds
from aliked_ros.ros.latched import subscribe_to_latched
from aliked_ros.ros.masks import Masks
from aliked_ros.ros.pairing import Pair, Pairing
from aliked_ros.ros.parameters import NodeParameters
from aliked_ros.ros.status import Losses, Statistics
from aliked_ros.ros.warnings import Complaints
from aliked_ros.system.transport import too_large
from aliked_ros.types import Float32Array, FrameResult, Image, UInt8Array

AnyImage = ImageMessage | CompressedImage

_RELIABILITY = {
    "best_effort": ReliabilityPolicy.BEST_EFFORT,
    "reliable": ReliabilityPolicy.RELIABLE,
}
_MASK_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)  # it may come only once
_SILENCE = 5.0  # seconds without a partner that leave no doubt that none come
_STATIC_SHARE = 0.01  # of the image, that is worth a word
_LOST = 0.1  # share of the images that gets lost before the node says so
_ALONE = 10  # images in a row without their partner, after which the node says so


@dataclass(frozen=True, slots=True)
class Arrival:
    """An image message and what it goes on with.

    time: when it arrived (``time.perf_counter``). age: seconds since its stamp, then; negative or
        large when the stamp comes from another clock.
    partner: of stereo the right image, of RGB-D the depth image; None = none came in time.
    released: when it was let go on.
    """

    message: AnyImage
    time: float
    age: float
    partner: AnyImage | None = None
    released: float = 0.0


class Inputs:
    """The subscriptions of an active node.

    The executor's thread calls what begins with ``_on_``; :meth:`image` is for one other thread.

    calibration: what the CameraInfos say. paused: images are ignored.
    """

    def __init__(
        self,
        node: Node,
        settings: NodeParameters,
        static_mask: UInt8Array | None,
        statistics: Statistics,
        complaints: Complaints,
        deliver: Callable[[Arrival], None],
    ) -> None:
        """``deliver``: called with each image when it is to be processed."""
        self.paused = False
        self._node = node
        self._settings = settings
        self._statistics = statistics
        self._complaints = complaints
        self._deliver = deliver
        self._input: str = settings["input"]
        rectified = settings["rectified"] or self._input == "stereo"
        self.calibration = Calibration(
            node.resolve_topic_name("camera_info"),
            node.resolve_topic_name("right/camera_info"),
            rectified,
            complaints,
        )
        self._masks = Masks(static_mask, settings["mask_border"] and rectified, complaints)
        if settings["mask_border"] and not rectified:
            complaints.file(
                "mask_border",
                "No mask_border: only rectified images have one. Set rectified if these are, or "
                "leave mask_border false.",
            )
        self._last_stamp: int | None = None
        self._losses = Losses()
        self._images: Any = None
        self._subscriptions: list[Any] = []
        self._timer = None
        self._pairing: Pairing[Arrival, AnyImage] | None = None
        if self._input != "mono":
            approximate = settings["sync"] == "approximate"
            self._tolerance = settings["sync_tolerance"] if approximate else 0.0
            self._pairing = Pairing(self._tolerance, settings["sync_wait"])
            self._alone_in_a_row = 0
            self._last_partner = time.perf_counter()

    def open(self) -> None:
        """Subscribe."""
        compressed = self._settings["image_transport"] == "compressed"
        self._images = self._subscribe_to_images("image", compressed, self._on_image)
        self._subscribe(CameraInfo, "camera_info", self.calibration.set_info)
        self._subscribe_to_latched(CameraInfo, "camera_info", self.calibration.set_info)
        self._subscribe(ImageMessage, "mask", self._masks.set_message, _MASK_QOS)
        self._subscribe_to_latched(ImageMessage, "mask", self._masks.set_message)
        if self._pairing is None:
            return
        self._timer = self._node.create_timer(
            self._settings["sync_wait"],
            self._on_deadline,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        stereo = self._input == "stereo"
        topic = "right/image" if stereo else "depth/image"
        self._partners = self._subscribe_to_images(
            topic,
            compressed and stereo,  # depth is always raw
            self._on_partner,
        )
        if stereo:
            right = "right/camera_info", self.calibration.set_right_info
            self._subscribe(CameraInfo, *right)
            self._subscribe_to_latched(CameraInfo, *right)

    def close(self) -> int:
        """Unsubscribe; returns how many images still waited for their partner."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        return 0 if self._pairing is None else len(self._pairing)

    @property
    def topic(self) -> str:
        """Name of the images' topic."""
        return str(self._images.topic_name)

    def silence(self) -> str:
        """What to say when no images come."""
        return (
            f"no image on {self.topic} for {self._statistics.silence():.0f} s: "
            f"{publisher_count(self._node, self._images)} matching publishers. "
            "Check the topic's name, and input_reliability against the camera's QoS."
        )

    # The worker's thread

    def image(self, arrival: Arrival) -> Image:
        """The core's image, with its mask and its partner.

        Raises ImageError for an image that cannot be used. A partner that cannot is complained
        about, and the image goes on alone.
        """
        image = image_from_message(arrival.message)
        height, width = image.pixels.shape[:2]
        image = replace(image, mask=self.mask(width, height))
        if self._pairing is None:
            return image
        partner = None
        if arrival.partner is not None:
            partner = self._partner(arrival.partner, (height, width))
        if partner is None:
            self._statistics.alone()
            return image
        return replace(image, **{"right" if self._input == "stereo" else "depth": partner})

    def mask(self, width: int, height: int) -> UInt8Array | None:
        """The mask of images of this size, None = nothing is masked."""
        return self._masks.mask(width, height, self.calibration.info)

    def judge(self, result: FrameResult) -> None:
        """Complain about what left the result poorer than it could be."""
        self.calibration.judge(result, self._input == "stereo")
        if result.static_share > _STATIC_SHARE and not self._settings["mask_static"]:
            self._complaints.file(
                "static",
                "Part of the image is fixed to the camera while it moves (a watermark, a part of "
                "the robot): set mask_static, or give a mask_file.",
            )
        else:
            self._complaints.settle("static")

    def _partner(
        self, message: AnyImage, size: tuple[int, int]
    ) -> UInt8Array | Float32Array | None:
        topic = self._partners.topic_name
        try:
            if self._input == "stereo":
                partner = image_from_message(message).pixels
            else:
                partner = depth_from_message(message)
        except ImageError as error:
            self._complaints.file(topic, f"{topic} refused, images go on alone: {error}")
            return None
        if partner.shape[:2] != size:
            self._complaints.file(
                topic,
                f"{topic} has {partner.shape[1]}×{partner.shape[0]} pixels, {self.topic} "
                f"{size[1]}×{size[0]}: images go on alone. "
                "Publish both in one size, rectified or registered to each other.",
            )
            return None
        self._complaints.settle(topic)
        return partner

    # The executor's thread

    def _judge_losses(self, message: AnyImage, info: Mapping[str, Any]) -> None:
        """Say how many images did not arrive, by their publisher's count, and why."""
        self._losses.note(info.get("publication_sequence_number") or 0)
        problem = too_large(len(message.data))
        share = self._losses.share
        if share > _LOST and publisher_count(self._node, self._images) == 1:
            why = (
                f"They have {problem}"
                if problem
                else ("The network or this machine is too slow: publish smaller or fewer images.")
            )
            self._complaints.file(
                "losses", f"{share:.0%} of the images on {self.topic} got lost on their way. {why}"
            )
        else:
            self._complaints.settle("losses")
            if problem:
                self._complaints.mention(f"The images on {self.topic} have {problem}")

    def _on_image(self, message: AnyImage) -> None:
        if self.paused:
            return
        now = time.perf_counter()
        self._stamp(message)
        self._judge_stamp(nanoseconds(message.header.stamp))
        age = self._node.get_clock().now().nanoseconds * 1e-9 - seconds(message.header.stamp)
        arrival = Arrival(message, now, age)
        self._statistics.received()
        if self._pairing is None:
            self._deliver(replace(arrival, released=now))
        else:
            self._release(self._pairing.add_image(nanoseconds(message.header.stamp), arrival, now))

    def _on_partner(self, message: AnyImage) -> None:
        self._last_partner = time.perf_counter()
        if not self.paused:
            self._stamp(message)
            stamp = nanoseconds(message.header.stamp)
            self._release(self._pairing.add_partner(stamp, message, self._last_partner))

    def _stamp(self, message: AnyImage) -> None:
        if self._settings["stamps"] == "arrival":
            message.header.stamp = self._node.get_clock().now().to_msg()

    def _judge_stamp(self, stamp: int) -> None:
        """Say what happens to an image whose stamp is of no use."""
        before, self._last_stamp = self._last_stamp, stamp
        if stamp <= 0:
            effect = f"is {stamp / 1e9:g} s: pairs, odometry, recordings and exports go by stamps"
        elif before is None or stamp > before:
            self._complaints.settle("stamps")
            return
        elif stamp == before:
            effect = "is that of the image before: odometry and exports use only the first of them"
        else:
            back = (before - stamp) / 1e9
            effect = f"is {back:g} s before that of the image before: all tracks end, epoch grows"
        self._complaints.file(
            "stamps",
            f"The stamp of an image on {self.topic} {effect}. Correct the driver or its clock, or "
            "set stamps to arrival.",
        )

    def _on_deadline(self) -> None:
        self._release(self._pairing.release(time.perf_counter()))

    def _release(self, pairs: Sequence[Pair[Arrival, AnyImage]]) -> None:
        now = time.perf_counter()
        for pair in pairs:
            self._judge_synchronisation(pair, now)
            self._deliver(replace(pair.image, partner=pair.partner, released=now))
        if self._pairing.deadline is None:
            self._timer.cancel()
        else:
            self._timer.timer_period_ns = max(int((self._pairing.deadline - now) * 1e9), 1)
            self._timer.reset()

    def _judge_synchronisation(self, pair: Pair[Arrival, AnyImage], now: float) -> None:
        self._statistics.paired(pair.offset)
        if pair.partner is not None:
            self._alone_in_a_row = 0
            self._complaints.settle("synchronisation")
            return
        self._alone_in_a_row += 1
        if self._alone_in_a_row == 1:
            self._alone_since = now
        if self._alone_in_a_row < _ALONE:  # one lost on the network is no reason to complain
            return
        topic, silence = self._partners.topic_name, now - self._last_partner
        if pair.offset is None or self._last_partner < self._alone_since or silence > _SILENCE:
            reason = (
                f"no message on {topic} for {silence:.1f} s "
                f"({publisher_count(self._node, self._partners)} matching publishers): images go "
                "on alone. Check the topic's name, and input_reliability against its QoS."
            )
        elif self._pairing.delay is not None:
            reason = (
                f"{topic} comes {self._pairing.delay:.3f} s after its {self.topic}, sync_wait is "
                f"{self._settings['sync_wait']:.3f} s: images go on alone. Raise sync_wait."
            )
        else:
            reason = (
                f"{topic} is {abs(pair.offset):.3f} s {'later' if pair.offset > 0 else 'earlier'} "
                f"than {self.topic} (tolerance {self._tolerance:.3f} s): images go on alone. "
                "Synchronise the cameras, or set sync to approximate and a larger sync_tolerance."
            )
        self._complaints.file("synchronisation", reason)

    def _subscribe_to_images(
        self, topic: str, compressed: bool, callback: Callable[[AnyImage], None]
    ) -> Any:
        return self._subscribe(
            CompressedImage if compressed else ImageMessage,
            f"{topic}/compressed" if compressed else topic,
            callback,
            QoSProfile(
                depth=self._settings["input_depth"],
                reliability=_RELIABILITY[self._settings["input_reliability"]],
            ),
        )

    def _subscribe(
        self,
        kind: type,
        topic: str,
        callback: Callable[[Any], None],
        qos: QoSProfile = qos_profile_sensor_data,
    ) -> Any:
        # Bound to the name: an event can come when the subscription is gone already.
        name = self._node.resolve_topic_name(topic)
        incompatible = partial(self._on_incompatible_qos, name)

        def receive(message: Any, info: Mapping[str, Any]) -> None:
            self._complaints.settle(f"QoS of {name}")
            if subscription is self._images:
                self._judge_losses(message, info)
            callback(message)

        subscription = self._node.create_subscription(
            kind,
            topic,
            with_message_info(receive),
            qos,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=incompatible),
        )
        self._subscriptions.append(subscription)
        return subscription

    def _subscribe_to_latched(
        self, kind: type, topic: str, callback: Callable[[Any], None]
    ) -> None:
        """Hear also what came before."""
        self._subscriptions.append(subscribe_to_latched(self._node, kind, topic, callback))

    def _on_incompatible_qos(self, topic: str, event: QoSRequestedIncompatibleQoSInfo) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        self._complaints.file(
            f"QoS of {topic}",
            f"a publisher of {topic} offers another QoS ({policy}): its messages do not arrive. "
            "Set input_reliability to best_effort for images; masks have to be reliable.",
        )
