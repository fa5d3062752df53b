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

"""What ROS 2 Humble lacks of what the nodes use. The distributions after it have all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node

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
    "publisher_count",
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

    # Not even the info of a message that was taken by hand: times of two kinds would mix the order.
    return lambda message, info=None: callback(message, _UNKNOWN_TIMES)


def publisher_count(node: Node, subscription: Any) -> int:
    """How many publishers a subscription hears; on Humble also those whose QoS does not match."""
    if HUMBLE:
        return int(node.count_publishers(subscription.topic_name))
    return int(subscription.get_publisher_count())
