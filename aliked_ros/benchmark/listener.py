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

"""Node ``listener``: subscribes to a front-end's topics and does nothing with them.

The benchmark's stand-in for rviz, a recorder or a back-end: what it costs the front-end to be
listened to, without what the listener itself would do. It can note when features arrive.
"""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from aliked_msgs.msg import FeatureFrame, FeatureMatches, FrontendStatus, Keyframe
from aliked_ros.io.results import output_path
from aliked_ros.ros import foxglove, running
from aliked_ros.ros.declarations import Declaration
from aliked_ros.ros.parameters import declare

TOPICS: dict[str, Callable[[], type | None]] = {
    "features": lambda: FeatureFrame,
    "matches": lambda: FeatureMatches,
    "keyframes": lambda: Keyframe,
    "tracks/image": lambda: Image,
    "tracks/markers": lambda: MarkerArray,
    "annotations": foxglove.message_type,
    "status": lambda: FrontendStatus,
}
"""Topics below the front-end's name, and what gives their types: None = not installed."""

_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
_PREFIX = 4  # bytes before the message: CDR's own, from which it is aligned
_DECLARATIONS = (
    Declaration("frontend", "aliked_frontend", "Name of the front-end."),
    Declaration("topics", "features", "Topics below it, with spaces."),
    Declaration(
        "arrivals",
        "",
        "File for int64: stamp, arrival (ns), index of each FeatureFrame. Empty: none.",
    ),
)


class ListenerNode(Node):
    """Takes each message off the wire, serialised, and drops it."""

    def __init__(self) -> None:
        super().__init__("listener")
        settings = declare(self, _DECLARATIONS)
        self._target = settings["arrivals"]
        self._arrivals = array("q")
        for topic in settings["topics"].split():
            take = self._note if topic == "features" and self._target else _drop
            name = f"{settings['frontend']}/{topic}"
            self.create_subscription(TOPICS[topic](), name, take, _QOS, raw=True)

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Listen until shutdown."""
        executor.spin()

    def close(self) -> None:
        """Write what was noted."""
        if self._target:
            with output_path(Path(self._target)) as path:
                path.write_bytes(self._arrivals.tobytes())

    def _note(self, data: bytes) -> None:
        now = time.time_ns()
        message = memoryview(data)[_PREFIX:]
        seconds, nanoseconds, length = struct.unpack_from("=iII", message)  # Header with its name
        (index,) = struct.unpack_from("=Q", message, -(-(12 + length) // 8) * 8)
        self._arrivals.extend((seconds * 1_000_000_000 + nanoseconds, now, index))


def _drop(data: bytes) -> None:
    pass


def main(args: Sequence[str] | None = None) -> int:
    """Listen until SIGINT or SIGTERM."""
    return running.run(ListenerNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
