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

"""Reads the front-end's tracks and descriptors: all that a back-end in Python needs.

    python examples/subscriber.py --ros-args -r features:=/aliked_frontend/features

Needs rclpy, numpy and aliked_msgs. Arrays are read through buffers, without copies.
"""

from __future__ import annotations

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from aliked_msgs.msg import FeatureFrame

ENCODINGS = {
    FeatureFrame.FLOAT32: np.float32,
    FeatureFrame.FLOAT16: np.float16,
    FeatureFrame.BINARY256: np.uint8,  # 32 bytes a row: compare by Hamming distance
}


class FeatureSubscriber(Node):
    """Prints, for each image, its tracks and how far they moved since the image before."""

    def __init__(self) -> None:
        super().__init__("feature_subscriber")
        self._epoch = 0
        self._positions: dict[int, np.ndarray] = {}  # of the image before, pixels, by track id
        self.create_subscription(FeatureFrame, "features", self._on_features, 10)

    def _on_features(self, message: FeatureFrame) -> None:
        keypoints = np.frombuffer(message.keypoints, np.float32).reshape(-1, 2)
        ids = np.frombuffer(message.track_ids, np.uint64).tolist()
        descriptors = np.frombuffer(message.descriptors, ENCODINGS[message.descriptor_encoding])
        descriptors = descriptors.reshape(len(keypoints), -1 if len(descriptors) else 0)

        if message.epoch != self._epoch:  # ids of two epochs are unrelated
            self._epoch, self._positions = message.epoch, {}
        positions = dict(zip(ids, keypoints, strict=True))
        motions = [
            np.hypot(*(positions[one] - self._positions[one]))
            for one in positions.keys() & self._positions.keys()
        ]
        self._positions = positions

        stamp = message.header.stamp
        print(
            f"{stamp.sec}.{stamp.nanosec:09d}: {len(keypoints)} features, "
            f"{len(motions)} tracked, {sum(message.recovered)} came back, "
            f"median motion {np.median(motions or 0):.2f} px, "
            f"longest track {max(message.track_lengths, default=0)} images, "
            f"descriptors {len(descriptors)}×{descriptors.shape[1]} {descriptors.dtype}",
            flush=True,
        )


def main() -> None:
    """Subscribe until SIGINT or SIGTERM."""
    rclpy.init()
    try:
        rclpy.spin(FeatureSubscriber())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
