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

"""Node ``view``: what the front-end publishes, live on a page in the browser.

It only listens, best effort, so it never holds the front-end up; it leaves out ``keyframes`` and
``tracks/image``, which the front-end would make for it alone. Nodes may come and go: their parts of
the page stand still until they are back.
"""

from __future__ import annotations

import time
import webbrowser
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2
from sensor_msgs.msg import Image as ImageMessage

from aliked_msgs.msg import FeatureFrame, FeatureMatches, FrontendStatus
from aliked_ros.io.image_messages import image_from_message
from aliked_ros.io.messages import nanoseconds
from aliked_ros.ros import running
from aliked_ros.ros.declarations import Declaration
from aliked_ros.ros.parameters import declare
from aliked_ros.viewing.server import DEFAULT_PORT, require_viewer

_DECLARATIONS = (
    Declaration("frontend", "aliked_frontend", "Name of the front-end node.", names="node"),
    Declaration("odometry", "odometry", "Name of the odometry node.", names="node"),
    Declaration(
        "image",
        "image",
        "The front-end's image topic; IMAGE/compressed is used when it has no publisher.",
        names="topic",
    ),
    Declaration("port", DEFAULT_PORT, "Of the page.", limits=(0, 65535)),
    Declaration("memory_limit", "500MB", "Of what is kept for the page."),
    Declaration("open_browser", False, "Open the page in a browser."),
)
_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
_LATEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_FRAME_PERIOD = 0.1  # seconds from one shown image to the next
_MAP_PERIOD = 1.0
_LOOK_PERIOD = 1.0  # seconds between two looks for publishers
_SILENCE = 2.0  # seconds without features after which images are shown without
_WAITING = 12  # images that wait for their features


class ViewNode(Node):
    """Subscribes to everything that the page shows."""

    def __init__(self) -> None:
        super().__init__("aliked_view")
        require_viewer()
        from aliked_ros.viewing.page import Page

        settings = declare(self, _DECLARATIONS)
        self._image_topic = settings["image"]
        self._images: OrderedDict[int, Any] = OrderedDict()
        self._image_subscription: tuple[type, Any] | None = None
        self._shown: dict[str, float] = {}
        self._last_features = time.monotonic()
        self._page = Page("live", settings["port"], settings["memory_limit"], live=True)
        self._subscribe(settings)
        self.create_timer(_LOOK_PERIOD, self._look)
        self.get_logger().info(f"The page is at {self._page.url} (Ctrl-C ends it)")
        if settings["open_browser"]:
            webbrowser.open(self._page.url)

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Show until shutdown."""
        executor.spin()

    def close(self) -> None:
        """Take the page away."""
        self._page.close()

    def _subscribe(self, settings: dict[str, Any]) -> None:
        page, frontend, odometry = self._page, settings["frontend"], settings["odometry"]
        self._listen(FeatureFrame, f"{frontend}/features", self._show_frame)
        self._listen(FeatureMatches, f"{frontend}/matches", page.matches, _FRAME_PERIOD)
        self._listen(FrontendStatus, f"{frontend}/status", page.status, _FRAME_PERIOD)
        self._listen(Odometry, f"{odometry}/odometry", page.pose, _FRAME_PERIOD)
        self._listen(PointCloud2, f"{odometry}/map", page.map, _MAP_PERIOD, _LATEST)
        parent = self._image_topic.rpartition("/")
        self._listen(CameraInfo, f"{parent[0]}{parent[1]}camera_info", page.camera, 1.0, _LATEST)
        self._look()

    def _listen(
        self,
        kind: type,
        topic: str,
        show: Callable[[int, Any], None],
        period: float = 0.0,
        qos: QoSProfile = _QOS,
    ) -> Any:
        """Show a topic's messages, at most one each ``period`` seconds."""

        def take(message: Any) -> None:
            if period and not self._is_due(topic, period):
                return
            try:
                show(time.time_ns(), message)
            except Exception as error:  # no message may end the node
                self.get_logger().warning(
                    f"A message on {topic} cannot be shown: {error!r}", throttle_duration_sec=5.0
                )

        return self.create_subscription(kind, topic, take, qos)

    def _is_due(self, topic: str, period: float) -> bool:
        now = time.monotonic()
        if now - self._shown.get(topic, -period) < period:
            return False
        self._shown[topic] = now
        return True

    def _look(self) -> None:
        """Follow whoever publishes the image: raw or compressed."""
        compressed = f"{self._image_topic}/compressed"
        kind, topic = ImageMessage, self._image_topic
        if not self.count_publishers(topic) and self.count_publishers(compressed):
            kind, topic = CompressedImage, compressed
        if self._image_subscription is None or self._image_subscription[0] is not kind:
            if self._image_subscription is not None:
                self.destroy_subscription(self._image_subscription[1])
            subscription = self._listen(kind, topic, self._keep_image, 0.0, _LATEST)
            self._image_subscription = kind, subscription
        self._show_without_features()

    def _keep_image(self, _: int, message: Any) -> None:
        self._images[nanoseconds(message.header.stamp)] = message
        if len(self._images) > _WAITING:
            self._images.popitem(last=False)

    def _show_frame(self, now: int, message: FeatureFrame) -> None:
        self._last_features = time.monotonic()
        if not self._is_due("frame", _FRAME_PERIOD):
            self._page.follow(message)
            return
        stamp = nanoseconds(message.header.stamp)
        image = self._images.get(stamp)
        while self._images and next(iter(self._images)) <= stamp:
            self._images.popitem(last=False)
        if image is not None:
            self._page.image(now, image_from_message(image).pixels)
        self._page.frame(now, message)

    def _show_without_features(self) -> None:
        """Show the camera's image when the front-end is silent: not there, paused, or too slow."""
        if time.monotonic() - self._last_features < _SILENCE or not self._images:
            return
        message = self._images.popitem()[1]
        self._images.clear()
        try:
            self._page.image(time.time_ns(), image_from_message(message).pixels)
        except Exception as error:
            self.get_logger().warning(
                f"An image cannot be shown: {error!r}", throttle_duration_sec=5.0
            )
            return
        self._page.forget(time.time_ns())


def main(args: Sequence[str] | None = None) -> int:
    """Show until SIGINT or SIGTERM."""
    return running.run(ViewNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
