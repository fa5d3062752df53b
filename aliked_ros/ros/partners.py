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

"""The second stream of images: the right ones of a stereo camera, or the depth of an RGB-D one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.subscription import Subscription

from aliked_ros.errors import ImageError
from aliked_ros.io.messages import nanoseconds
from aliked_ros.ros.compatibility import publisher_count
from aliked_ros.ros.conversions import depth_from_message, image_from_message
from aliked_ros.ros.declarations import Settings
from aliked_ros.ros.frame import AnyImage, Frame
from aliked_ros.ros.pairing import Pair, Pairing
from aliked_ros.ros.status import Statistics
from aliked_ros.ros.warnings import Warnings
from aliked_ros.types import Float32Array, Image, UInt8Array

_SILENCE = 5.0  # seconds without a partner after which none is expected
_ALONE = 10  # images in a row without their partner before the node warns

Deliver = Callable[[Frame], None]


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
    """Delivers each image with its partner, or alone when that does not come in time."""

    def __init__(
        self,
        node: Node,
        settings: Settings,
        images: Subscription,
        partners: Subscription,
        statistics: Statistics,
        warnings: Warnings,
        deliver: Deliver,
    ) -> None:
        """``images``, ``partners``: the two subscriptions, whose messages come by ``add...``."""
        self._node = node
        self._images, self._partners = images, partners
        self._stereo = settings["input"] == "stereo"
        self._statistics = statistics
        self._warnings = warnings
        self._deliver = deliver
        self._wait: float = settings["sync_wait"]
        approximate = settings["sync"] == "approximate"
        self._tolerance: float = settings["sync_tolerance"] if approximate else 0.0
        self._pairing: Pairing[Frame, AnyImage] = Pairing(self._tolerance, self._wait)
        self._alone_in_a_row = 0
        self._last_partner = self._alone_since = time.perf_counter()
        self._timer = node.create_timer(
            self._wait, self._on_deadline, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def close(self) -> int:
        """Stop waiting; returns how many images still waited for their partner."""
        self._node.destroy_timer(self._timer)
        return len(self._pairing)

    def add(self, frame: Frame) -> None:
        """An image has come."""
        stamp = nanoseconds(frame.header.stamp)
        self._release(self._pairing.add_image(stamp, frame, frame.received))

    def heard(self) -> None:
        """The partners' topic is alive."""
        self._last_partner = time.perf_counter()

    def add_partner(self, message: AnyImage) -> None:
        """A partner has come."""
        stamp = nanoseconds(message.header.stamp)
        self._release(self._pairing.add_partner(stamp, message, self._last_partner))

    def attach(self, image: Image, frame: Frame) -> Image:
        """The worker's thread: the image with its partner; alone, and counted, without a good one.

        A partner that cannot be used is warned of.
        """
        partner = None
        if frame.partner is not None:
            height, width = image.pixels.shape[:2]
            partner = self._pixels(frame.partner, (height, width))
        if partner is None:
            self._statistics.alone()
            return image
        return replace(image, **{"right" if self._stereo else "depth": partner})

    def _pixels(self, message: AnyImage, size: tuple[int, int]) -> Any:
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

    def _on_deadline(self) -> None:
        self._release(self._pairing.release(time.perf_counter()))

    def _release(self, pairs: Sequence[Pair[Frame, AnyImage]]) -> None:
        now = time.perf_counter()
        for pair in pairs:
            self._check_synchronisation(pair, now)
            pair.image.partner = pair.partner
            pair.image.lap("pair")
            self._deliver(pair.image)
        if self._pairing.deadline is None:
            self._timer.cancel()
        else:
            self._timer.timer_period_ns = max(int((self._pairing.deadline - now) * 1e9), 1)
            self._timer.reset()

    def _check_synchronisation(self, pair: Pair[Frame, AnyImage], now: float) -> None:
        """Warn, with the reason, when images keep going on alone."""
        self._statistics.paired(pair.offset)
        if pair.partner is not None:
            self._alone_in_a_row = 0
            self._warnings.clear("synchronisation")
            return
        self._alone_in_a_row += 1
        if self._alone_in_a_row == 1:
            self._alone_since = now
        if self._alone_in_a_row < _ALONE:  # a single loss on the network needs no warning
            return
        image, partner = self._images.topic_name, self._partners.topic_name
        order = "later" if pair.offset is not None and pair.offset > 0 else "earlier"
        silence = now - self._last_partner
        if pair.offset is None or self._last_partner < self._alone_since or silence > _SILENCE:
            reason = (
                f"no message on {partner} for {silence:.1f} s "
                f"({publisher_count(self._node, self._partners)} matching publishers): images are "
                "processed alone. Check the topic's name, and input_reliability against its QoS."
            )
        elif self._pairing.delay is not None:
            reason = (
                f"{partner} comes {self._pairing.delay:.3f} s after its {image}, sync_wait is "
                f"{self._wait:.3f} s: images are processed alone. Raise sync_wait."
            )
        else:
            reason = (
                f"{partner} is {abs(pair.offset):.3f} s {order} "
                f"than {image} (tolerance {self._tolerance:.3f} s): images are processed alone. "
                "Synchronise the cameras, or set sync to approximate and a larger sync_tolerance."
            )
        self._warnings.warn("synchronisation", reason)
