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

"""Messages that were published before a node subscribed, by publishers that keep the last one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from aliked_ros.ros.compatibility import SubscriptionEventCallbacks

_QOS = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def subscribe_to_latched(
    node: Node, kind: type, topic: str, callback: Callable[..., None], raw: bool = False
) -> Any:
    """A second subscription, beside the usual one, that hears only such publishers.

    A publisher that keeps nothing does not match it, which is no reason for a warning; one that
    does sends all of its messages to both subscriptions.
    """
    ignore = SubscriptionEventCallbacks(incompatible_qos=lambda _: None)
    return node.create_subscription(kind, topic, callback, _QOS, event_callbacks=ignore, raw=raw)
