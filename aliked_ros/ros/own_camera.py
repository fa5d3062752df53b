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

"""A camera that the front-end reads itself instead of subscribing to its images."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_ros.errors import ConfigurationError
from aliked_ros.ros.calibration import Calibration
from aliked_ros.ros.camera_output import (
    PARTNERS,
    CameraOutput,
    camera_info,
    depth_message,
    right_camera_info,
)
from aliked_ros.ros.conversions import image_message, stamp_from_seconds
from aliked_ros.ros.declarations import Settings
from aliked_ros.ros.subscriptions import Topic
from aliked_ros.ros.warnings import Warnings, reason
from aliked_ros.sources import Source, open_source
from aliked_ros.types import Image

_CAMERAS = re.compile(r"camera:\d+|realsense(:\w+)?|virtual")
_RETRY = 2.0  # seconds after which a camera that failed is opened again
_PATIENCE = 1.0  # seconds for the thread to end; a camera can block its reader for longer
_WAITING = 10  # images while the executor is busy; then the oldest is dropped

Receive = Callable[[ImageMessage, Mapping[str, Any]], None]


def check_source(settings: Settings) -> None:
    """Raise ConfigurationError if ``camera_source`` is no camera, or none for ``input``."""
    source, images = settings["camera_source"], settings["input"]
    if not source:
        return
    if not _CAMERAS.fullmatch(source):
        raise ConfigurationError(
            f"camera_source is {source!r}; give 'camera:N', 'realsense', 'realsense:SERIAL' or "
            "'virtual', or leave it empty to subscribe to images. dataset.launch.py plays files."
        )
    if images != "mono" and not source.startswith("realsense"):
        raise ConfigurationError(
            f"camera_source is {source!r} and input {images!r}, but it gives single images; set "
            "input to mono, or camera_source to realsense."
        )


@dataclass(frozen=True, slots=True)
class _Published:
    """A topic that the node publishes images on; stands in for a subscription."""

    topic_name: str

    def get_publisher_count(self) -> int:
        """One: the node itself."""
        return 1


class OwnCamera:
    """Reads a camera in a thread of its own; the executor's thread hands the images on.

    Images reach the front-end without the middleware, and are published only while somebody
    subscribes. A camera that fails or goes away is opened again after two seconds.

    images, partners: the topics of the two streams; None without partners.
    calibrated: whether its calibration is known without CameraInfo messages.
    """

    def __init__(
        self,
        node: Node,
        settings: Settings,
        warnings: Warnings,
        calibration: Calibration,
        on_image: Receive,
        on_partner: Receive,
        on_drop: Callable[[], None],
    ) -> None:
        """``on_image``, ``on_partner``: called as by subscriptions, the partner first.

        ``on_drop``: called for each image that the executor had no time for, by another thread.
        """
        self._node = node
        self._warnings = warnings
        self._calibration = calibration
        self._on_image, self._on_partner, self._on_drop = on_image, on_partner, on_drop
        self._name: str = settings["camera_source"]
        self._frame: str = settings["camera_frame"]
        self._input: str = settings["input"]
        self._by_arrival: bool = settings["stamps"] == "arrival"
        prefix = {"stereo": "right/", "rgbd": "depth/"}.get(self._input, "")
        self.calibrated = not self._name.startswith("camera:")
        self.images: Topic = _Published(node.resolve_topic_name("image"))
        self.partners: Topic | None = None
        self._prefixes = [""]
        if prefix:
            self.partners = _Published(node.resolve_topic_name(f"{prefix}image"))
            self._prefixes.append(prefix)
        self._waiting: deque[Callable[[], None]] = deque()
        self._closed = threading.Event()
        self._guard = node.create_guard_condition(self._hand_on)
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)

    def start(self) -> None:
        """Open the camera."""
        self._thread.start()

    def silence(self, seconds: float) -> str:
        """What to say when no images come."""
        return f"{self._name} has given no image for {seconds:.0f} s. Check its cable and power."

    def close(self) -> None:
        """End the thread; it is abandoned while the camera blocks it."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)
        self._node.destroy_guard_condition(self._guard)

    # The executor's thread

    def _hand_on(self) -> None:
        while self._waiting and not self._closed.is_set():
            self._waiting.popleft()()

    def _receive(self, image: ImageMessage, *partner: ImageMessage) -> None:
        for message in partner:
            self._on_partner(message, {})
        self._on_image(image, {})

    # The camera's thread

    def _post(self, call: Callable[[], None]) -> None:
        if len(self._waiting) == _WAITING:
            with suppress(IndexError):  # the executor's thread has just taken them
                self._waiting.popleft()
                self._on_drop()
        self._waiting.append(call)
        self._guard.trigger()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._read(open_source(self._name, partner=PARTNERS[self._input]))
            except Exception as error:
                if self._closed.is_set() or not self._node.context.ok():
                    return
                self._warnings.warn(
                    "source", f"{reason(error)} It is tried again every {_RETRY:.0f} s."
                )
                self._closed.wait(_RETRY)

    def _read(self, source: Source) -> None:
        infos = [camera_info(source.calibration)]
        if self._input == "stereo":
            infos.append(right_camera_info(source.calibration))
        takers = (self._calibration.set_info, self._calibration.set_right_info)
        for info, take in zip(infos, takers, strict=False):
            if info is not None:
                take(deepcopy(info))  # the published one has its image's header
        outputs = [
            CameraOutput(self._node, prefix, qos_profile_sensor_data, info)
            for prefix, info in zip(self._prefixes, [*infos, None], strict=False)
        ]
        try:
            for image in source:
                if self._closed.is_set():
                    return
                self._warnings.clear("source")
                messages = self._messages(image)
                self._post(partial(self._receive, *messages))
                for output, message in zip(outputs, messages, strict=False):
                    if output.images.get_subscription_count():
                        output.publish(message)
                if self._name == "virtual":  # the others give images when they have them
                    self._closed.wait(1.0 / source.rate)
        finally:
            for output in outputs:
                output.close()

    def _messages(self, image: Image) -> list[ImageMessage]:
        """The image, and its partner if it has one."""
        if self._by_arrival:
            stamp = self._node.get_clock().now().to_msg()
        else:
            stamp = stamp_from_seconds(time.time() if self._name == "virtual" else image.stamp)
        header = Header(stamp=stamp, frame_id=self._frame)
        messages = [image_message(image.pixels, header)]
        if image.right is not None:
            messages.append(image_message(image.right, header))
        elif image.depth is not None:
            messages.append(depth_message(image.depth, "32FC1", header))
        return messages
