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

"""What images are paired with by stamp: a right image, a depth image, a mask of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import Header

from aliked_ros.errors import ImageError
from aliked_ros.io.image_messages import says_registered
from aliked_ros.io.messages import nanoseconds
from aliked_ros.io.video import VideoPacket
from aliked_ros.ros.compatibility import publisher_count
from aliked_ros.ros.conversions import depth_from_message, image_from_message, image_message
from aliked_ros.ros.declarations import Settings
from aliked_ros.ros.frame import Frame, Received
from aliked_ros.ros.pairing import Pair, Pairing
from aliked_ros.ros.status import Statistics
from aliked_ros.ros.subscriptions import Topic, unheard_by
from aliked_ros.ros.video_stream import VideoStream
from aliked_ros.ros.warnings import Warnings
from aliked_ros.types import Float32Array, Image, UInt8Array

_SILENCE = 5.0  # seconds without a partner after which none is expected
_ALONE = 10  # images in a row without their partner before the node warns
_STRIDE = 16  # pixels between two whose depth is looked at
_NEAREST, _FARTHEST = 0.03, 300.0  # metres, of a median that is plausible

Deliver = Callable[[Frame], None]


class _Stamped(Protocol):
    header: Header


MessageT = TypeVar("MessageT", bound=_Stamped)


class Stream(Generic[MessageT]):
    """Holds each image until the message of its stamp has come on another topic, or is too late.

    All is called by the executor's thread.
    """

    def __init__(
        self,
        node: Node,
        settings: Settings,
        images: Topic,
        others: Topic,
        warnings: Warnings,
        without: str,
        release: Callable[[Pair[Frame, MessageT]], None],
    ) -> None:
        """``images``, ``others``: the two subscriptions, whose messages come by ``add...``.

        without: what becomes of images whose message does not come, for the warning. release:
        called with each image, in order, once it has waited long enough.
        """
        self._node = node
        self._images, self._others = images, others
        self._warnings = warnings
        self._without = without
        self._hand_on = release
        self._wait: float = settings["sync_wait"]
        approximate = settings["sync"] == "approximate"
        self._tolerance: float = settings["sync_tolerance"] if approximate else 0.0
        self._pairing: Pairing[Frame, MessageT] = Pairing(self._tolerance, self._wait)
        self._alone_in_a_row = 0
        self._last = self._alone_since = time.perf_counter()
        self._timer = node.create_timer(
            self._wait, self._on_deadline, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def close(self) -> int:
        """Stop waiting; returns how many images still waited."""
        self._node.destroy_timer(self._timer)
        return len(self._pairing)

    def add(self, frame: Frame) -> None:
        """An image has come."""
        stamp = nanoseconds(frame.header.stamp)
        self._release(self._pairing.add_image(stamp, frame, time.perf_counter()))

    def heard(self) -> None:
        """The other topic is alive."""
        self._last = time.perf_counter()

    def add_other(self, message: MessageT) -> None:
        """A message of the other topic has come."""
        stamp = nanoseconds(message.header.stamp)
        self._release(self._pairing.add_partner(stamp, message, self._last))

    def _on_deadline(self) -> None:
        self._release(self._pairing.release(time.perf_counter()))

    def _release(self, pairs: Sequence[Pair[Frame, MessageT]]) -> None:
        now = time.perf_counter()
        for pair in pairs:
            self._check_synchronisation(pair, now)
            self._hand_on(pair)
        if self._pairing.deadline is None:
            self._timer.cancel()
        else:
            self._timer.timer_period_ns = max(int((self._pairing.deadline - now) * 1e9), 1)
            self._timer.reset()

    def _check_synchronisation(self, pair: Pair[Frame, MessageT], now: float) -> None:
        """Warn, with the reason, when images keep going on alone."""
        image, other = self._images.topic_name, self._others.topic_name
        key = f"synchronisation of {other}"
        if pair.partner is not None:
            self._alone_in_a_row = 0
            self._warnings.clear(key)
            return
        self._alone_in_a_row += 1
        if self._alone_in_a_row == 1:
            self._alone_since = now
        if self._alone_in_a_row < _ALONE:  # a single loss on the network needs no warning
            return
        order = "later" if pair.offset is not None and pair.offset > 0 else "earlier"
        silence = now - self._last
        if pair.offset is None or self._last < self._alone_since or silence > _SILENCE:
            reason = (
                f"no message on {other} for {silence:.1f} s "
                f"({publisher_count(self._node, self._others)} matching publishers): "
                f"{self._without}. "
                + (
                    unheard_by(self._node, self._others)
                    or "Check the topic's name, and input_reliability against its QoS."
                )
            )
        elif self._pairing.delay is not None:
            reason = (
                f"{other} comes {self._pairing.delay:.3f} s after its {image}, sync_wait is "
                f"{self._wait:.3f} s: {self._without}. Raise sync_wait."
            )
        else:
            reason = (
                f"{other} is {abs(pair.offset):.3f} s {order} "
                f"than {image} (tolerance {self._tolerance:.3f} s): {self._without}. "
                "Synchronise the two, or set sync to approximate and a larger sync_tolerance."
            )
        self._warnings.warn(key, reason)


class Mono:
    """Images without partners are delivered at once."""

    def __init__(self, deliver: Deliver) -> None:
        self.add = deliver

    def attach(self, image: Image, frame: Frame) -> Image:
        """The image itself."""
        return image

    def close(self) -> int:
        """Nothing waits."""
        return 0


class Partners:
    """Delivers each image with its right or depth image, or alone when that is too late."""

    def __init__(
        self,
        node: Node,
        settings: Settings,
        images: Topic,
        partners: Topic,
        statistics: Statistics,
        warnings: Warnings,
        deliver: Deliver,
        video: VideoStream | None,
    ) -> None:
        """``images``, ``partners``: the two subscriptions, whose messages come by ``add...``.

        video: decodes the right images if they are packets.
        """
        self._images, self._partners = images, partners
        self._video = video
        self._stereo = settings["input"] == "stereo"
        self._statistics = statistics
        self._warnings = warnings
        self._deliver = deliver
        stream: Stream[Received] = Stream(
            node, settings, images, partners, warnings, "images are processed alone", self._release
        )
        self.add, self.close = stream.add, stream.close
        self.heard, self.add_partner = stream.heard, stream.add_other

    def _release(self, pair: Pair[Frame, Received]) -> None:
        self._statistics.paired(pair.offset)
        frame = pair.image
        frame.partner = pair.partner
        frame.lap("pair")
        self._deliver(frame)

    def attach(self, image: Image, frame: Frame) -> Image:
        """The worker's thread: the image with its partner; alone, and counted, without a good one.

        A partner that cannot be used is warned of.
        """
        partner = None
        if self._video is not None and isinstance(frame.partner, VideoPacket):
            picture = self._video.own_picture(frame.partner)
            frame.partner = None
            if picture is not None:
                frame.partner = image_message(picture.pixels(), picture.header)
        if frame.partner is not None:
            height, width = image.pixels.shape[:2]
            partner = self._pixels(frame.partner, (height, width))
        if partner is not None and not self._stereo:
            self._check_depth(partner, frame)
        if partner is None:
            self._statistics.alone()
            return image
        return replace(image, **{"right" if self._stereo else "depth": partner})

    def _pixels(self, message: Received, size: tuple[int, int]) -> Any:
        """UInt8Array of a right image, Float32Array of depth, None of one that cannot be used."""
        topic = self._partners.topic_name
        partner: UInt8Array | Float32Array
        try:
            if self._stereo:
                partner = image_from_message(message).pixels
            else:
                partner = depth_from_message(message)
        except ImageError as error:
            self._warnings.warn(topic, f"{topic} refused, images are processed alone: {error}")
            return None
        if partner.shape[:2] != size:
            self._warnings.warn(
                topic,
                f"{topic} has {partner.shape[1]}×{partner.shape[0]} pixels, "
                f"{self._images.topic_name} {size[1]}×{size[0]}: images are processed alone. "
                "Publish both in one size, rectified or registered to each other.",
            )
            return None
        self._warnings.clear(topic)
        return partner

    def _check_depth(self, depth: Float32Array, frame: Frame) -> None:
        """Warn of depth that seems to be of another camera, or in another unit."""
        assert frame.partner is not None
        topic = self._partners.topic_name
        ids = (frame.header.frame_id, frame.partner.header.frame_id)
        own, other = (name.removeprefix("/") for name in ids)
        # RealSense's depth is made in the left infrared camera, but has a frame of its own.
        same = other in (own, own.replace("infra1", "depth"))
        if own and other and not (same or says_registered(topic) or says_registered(other)):
            self._warnings.warn(
                f"frame of {topic}",
                f"{topic} has the frame_id {other!r}, {self._images.topic_name} {own!r}: is it "
                "registered to the images? It is used as if it were. Publish registered depth "
                "(RealSense: align_depth.enable and its topic aligned_depth_to_color/image_raw).",
            )
        else:
            self._warnings.clear(f"frame of {topic}")
        sample = depth[::_STRIDE, ::_STRIDE]
        known = sample[np.isfinite(sample)]
        middle = float(np.median(known)) if len(known) else 1.0
        if not _NEAREST < middle < _FARTHEST:
            self._warnings.warn(
                f"unit of {topic}",
                f"{topic} has a median of {middle:g} m: is it in another unit? 32FC1 is in metres, "
                "16UC1 in millimetres (REP-118). Correct the driver.",
            )
        else:
            self._warnings.clear(f"unit of {topic}")
