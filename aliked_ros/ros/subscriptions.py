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

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_policy_name_from_kind, qos_profile_sensor_data
from rclpy.subscription import Subscription

from aliked_ros.errors import ConfigurationError
from aliked_ros.ros.compatibility import (
    QoSRequestedIncompatibleQoSInfo,
    SubscriptionEventCallbacks,
    with_message_info,
)
from aliked_ros.ros.latched import subscribe_to_latched
from aliked_ros.ros.warnings import Warnings

_NAMED = 3  # topics in a sentence
_PATIENCE = 15.0  # seconds
_TRANSPORTS = {"compressedDepth": "depth_transport", "compressed": "image_transport"}


class Topic(Protocol):
    """Where images come from: a subscription, or what stands for one."""

    @property
    def topic_name(self) -> str:
        """With its namespace."""
        ...

    def get_publisher_count(self) -> int:
        """How many publish there."""
        ...


def unheard(node: Node, topic: str, kind: type) -> str:
    """Why nothing comes on a topic, and what to do, as far as the graph shows; else empty.

    kind: of the messages that are wanted there.
    """
    package, folder, *_ = kind.__module__.split(".")
    wanted = f"{package}/{folder}/{kind.__name__}"
    published = {info.topic_type for info in node.get_publishers_info_by_topic(topic)}
    if wanted in published:  # usual, and asked at every status: spares the whole graph
        return ""
    base, _, last = topic.rpartition("/")
    if published:
        remedy = (
            f"Remap to {base} and set {_TRANSPORTS[last]} to {last}."
            if last in _TRANSPORTS
            else "Remap to another topic."
        )
        return f"It carries {', '.join(sorted(published))}, not {wanted}. {remedy}"
    types = dict(node.get_topic_names_and_types())
    if last in _TRANSPORTS and base in types and node.count_publishers(base):
        if wanted in types[base]:
            return f"{base} carries it: remap to {base.rpartition('/')[0]}."
        return f"{base} is published: set {_TRANSPORTS[last]} to raw."
    for suffix, parameter in _TRANSPORTS.items():
        if node.count_publishers(f"{topic}/{suffix}"):
            return f"{topic}/{suffix} is published: set {parameter} to {suffix}."
    own = f"{node.get_fully_qualified_name()}/"
    found = sorted(
        name
        for name, kinds in types.items()
        if wanted in kinds and not name.startswith(own) and node.count_publishers(name)
    )
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return f"{wanted} is published on {', '.join(found[:_NAMED])}{more}: remap to it."
    return (
        f"Nobody publishes {wanted}: is its node running (and active), with the same ROS_DOMAIN_ID "
        f"({node.context.get_domain_id()} here) and RMW_IMPLEMENTATION?"
    )


def unheard_by(node: Node, topic: Topic) -> str:
    """As ``unheard``; empty where the topic is no subscription."""
    kind = getattr(topic, "msg_type", None)
    return unheard(node, topic.topic_name, kind) if kind else ""


def warn_of_silence(node: Node, topic: str, kind: type, heard: Callable[[], bool]) -> None:
    """Have the node warn, once, if nothing has come on a topic some time after its start.

    heard: whether something has. kind: of the messages.
    """

    def look() -> None:
        timer.cancel()
        if not heard():
            why = unheard(node, topic, kind) or "Its publisher is silent: is that node active?"
            node.get_logger().warning(f"Nothing on {topic} for {_PATIENCE:g} s. {why}")

    steady = Clock(clock_type=ClockType.STEADY_TIME)  # also while simulated time stands
    timer = node.create_timer(_PATIENCE, look, clock=steady)


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
        """Subscribe; the callback takes the message and its info.

        Raises ConfigurationError for a topic that this process uses with another type.
        """
        # Bound to the name: an event can come when the subscription is gone already.
        name = self._node.resolve_topic_name(topic)

        def receive(message: Any, info: Mapping[str, Any]) -> None:
            self._warnings.clear(f"QoS of {name}")
            callback(message, info)

        events = SubscriptionEventCallbacks(
            incompatible_qos=partial(self._on_incompatible_qos, name)
        )
        try:
            subscription = self._node.create_subscription(
                kind, topic, with_message_info(receive), qos, event_callbacks=events
            )
        except RuntimeError as error:  # RCLError
            if not self._node.context.ok():  # shut down in the meantime
                raise
            raise ConfigurationError(
                f"{name} cannot be subscribed to as {kind.__name__} ({error}). Remap each input to "
                "a topic of its own."
            ) from error
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
