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

"""The subscriptions of a session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_policy_name_from_kind, qos_profile_sensor_data
from rclpy.subscription import Subscription

from aliked_ros.ros.compatibility import (
    QoSRequestedIncompatibleQoSInfo,
    SubscriptionEventCallbacks,
    with_message_info,
)
from aliked_ros.ros.latched import subscribe_to_latched
from aliked_ros.ros.warnings import Warnings


class Topic(Protocol):
    """Where images come from: a subscription, or what stands for one."""

    @property
    def topic_name(self) -> str:
        """With its namespace."""
        ...

    def get_publisher_count(self) -> int:
        """How many publish there."""
        ...


class Subscriptions:
    """Subscribes, and warns of publishers whose QoS does not match."""

    def __init__(self, node: Node, warnings: Warnings) -> None:
        self._node = node
        self._warnings = warnings
        self._subscriptions: list[Subscription] = []

    def add(
        self,
        kind: type,
        topic: str,
        callback: Callable[[Any, Mapping[str, Any]], None],
        qos: QoSProfile,
    ) -> Subscription:
        """Subscribe; the callback takes the message and its info."""
        # Bound to the name: an event can come when the subscription is gone already.
        name = self._node.resolve_topic_name(topic)

        def receive(message: Any, info: Mapping[str, Any]) -> None:
            self._warnings.clear(f"QoS of {name}")
            callback(message, info)

        subscription = self._node.create_subscription(
            kind,
            topic,
            with_message_info(receive),
            qos,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=partial(self._on_incompatible_qos, name)
            ),
        )
        self._subscriptions.append(subscription)
        return subscription

    def add_lasting(
        self,
        kind: type,
        topic: str,
        callback: Callable[[Any], None],
        qos: QoSProfile = qos_profile_sensor_data,
    ) -> None:
        """Subscribe also to what was latched before."""
        self.add(kind, topic, lambda message, _: callback(message), qos)
        self._subscriptions.append(subscribe_to_latched(self._node, kind, topic, callback))

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _on_incompatible_qos(self, topic: str, event: QoSRequestedIncompatibleQoSInfo) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        self._warnings.warn(
            f"QoS of {topic}",
            f"a publisher of {topic} offers another QoS ({policy}): its messages do not arrive. "
            "Set input_reliability to best_effort for images; masks have to be reliable.",
        )
