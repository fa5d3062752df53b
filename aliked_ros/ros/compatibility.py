"""What ROS 2 Humble lacks of what the nodes use. The distributions after it have all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks

    HUMBLE = False
except ImportError:
    from rclpy.qos_event import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks

    HUMBLE = True

__all__ = [
    "HUMBLE",
    "THIS_MACHINE_ONLY",
    "QoSRequestedIncompatibleQoSInfo",
    "SubscriptionEventCallbacks",
    "with_message_info",
]

# Environment variables that keep discovery on this machine. Newer distributions warn of Humble's.
THIS_MACHINE_ONLY = (
    {"ROS_LOCALHOST_ONLY": "1"} if HUMBLE else {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
)

_UNKNOWN_TIMES = {"source_timestamp": 0, "received_timestamp": 0}


def with_message_info(callback: Callable[[Any, dict[str, Any]], None]) -> Callable[..., None]:
    """A subscription's callback that also takes the message's info; its times are 0 on Humble."""
    if not HUMBLE:
        return callback

    def receive(message: Any, info: dict[str, Any] = _UNKNOWN_TIMES) -> None:
        callback(message, info)

    return receive
