"""Node ``listener``: subscribes to a front-end's topics and does nothing with them.

The benchmark's stand-in for rviz, a recorder or a back-end: what it costs the front-end to be
listened to, without what the listener itself would do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from aliked_msgs.msg import FeatureFrame, FeatureMatches, FrontendStatus, Keyframe
from aliked_ros.ros import running
from aliked_ros.ros.parameters import Change, Declaration, declare

TOPICS: dict[str, type] = {
    "features": FeatureFrame,
    "matches": FeatureMatches,
    "keyframes": Keyframe,
    "tracks/image": Image,
    "tracks/markers": MarkerArray,
    "status": FrontendStatus,
}
"""Topics below the front-end's name, and their types."""

_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
_DECLARATIONS = (
    Declaration("frontend", "aliked_frontend", "Name of the front-end.", Change.AT_START),
    Declaration("topics", " ".join(TOPICS), "Topics below it, with spaces.", Change.AT_START),
)


class ListenerNode(Node):
    """Takes each message off the wire, serialised, and drops it."""

    def __init__(self) -> None:
        super().__init__("listener")
        settings = declare(self, _DECLARATIONS)
        for topic in settings["topics"].split():
            name = f"{settings['frontend']}/{topic}"
            self.create_subscription(TOPICS[topic], name, _drop, _QOS, raw=True)

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Listen until shutdown."""
        executor.spin()

    def close(self) -> None:
        """Nothing but ROS's own objects to free."""


def _drop(data: Any) -> None:
    pass


def main(args: Sequence[str] | None = None) -> int:
    """Listen until SIGINT or SIGTERM."""
    return running.run(ListenerNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
