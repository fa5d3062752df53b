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

"""Pairs each image with its features by message_filters, as a back-end that reads pixels does.

    python examples/synchronized.py --ros-args -r image:=/camera/image_raw \
        -r features:=/aliked_frontend/features

Needs rclpy, numpy, message_filters, sensor_msgs and aliked_msgs.
"""

from __future__ import annotations

import message_filters
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from aliked_msgs.msg import FeatureFrame

WAITING = 30  # messages a topic: images wait for their features as long as the front-end takes


class Synchronized(Node):
    """Prints, for each image, the brightness of the pixels under its keypoints."""

    def __init__(self) -> None:
        super().__init__("synchronized")
        image = message_filters.Subscriber(
            self, Image, "image", qos_profile=qos_profile_sensor_data
        )
        features = message_filters.Subscriber(self, FeatureFrame, "features")
        # Features have the header of their image: stamps are equal. Images that the front-end
        # skipped have no features and drop out of the queue.
        self._pairs = message_filters.TimeSynchronizer([image, features], WAITING)
        self._pairs.registerCallback(self._on_pair)

    def _on_pair(self, image: Image, frame: FeatureFrame) -> None:
        channels = {"mono8": 1, "rgb8": 3, "bgr8": 3}[image.encoding]
        rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)
        pixels = rows[:, : image.width * channels].reshape(image.height, image.width, channels)
        keypoints = np.frombuffer(frame.keypoints, np.float32).reshape(-1, 2)
        x, y = np.rint(keypoints).astype(int).T
        stamp = frame.header.stamp
        print(
            f"{stamp.sec}.{stamp.nanosec:09d}: {len(keypoints)} features, "
            f"mean brightness {pixels[y, x].mean() if len(keypoints) else np.nan:.1f}",
            flush=True,
        )


def main() -> None:
    """Subscribe until SIGINT or SIGTERM."""
    rclpy.init()
    try:
        rclpy.spin(Synchronized())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
