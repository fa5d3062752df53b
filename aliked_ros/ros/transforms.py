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

"""Transforms between frames from /tf and /tf_static, as tf2 has them (REP-105).

The message type comes with ROS, not with Python's registries; only what asks for tf needs it.
"""

from __future__ import annotations

import importlib
import math
import threading
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from scipy.spatial.transform import Rotation, Slerp

from aliked_ros.errors import AlikedError, ConfigurationError
from aliked_ros.io.messages import seconds
from aliked_ros.types import Float64Array

_KEPT = 30.0  # seconds of a moving transform
_JUMP = 5.0  # seconds back that no publisher is late by: a recording begins again
QOS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
"""Of /tf, as tf2_ros has it."""

_STATIC_QOS = QoSProfile(
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class TransformError(AlikedError):
    """A transform that is not known. ``later``: the next messages may bring it.

    ahead: seconds from the newest sample to the stamp that was asked for; infinite where there is
    none.
    """

    def __init__(self, text: str, later: bool, ahead: float = math.inf) -> None:
        super().__init__(text)
        self.later, self.ahead = later, ahead


@dataclass(slots=True)
class _Edge:
    """How a frame lies in its parent: (stamp, position, quaternion), by stamp."""

    parent: str
    static: bool
    samples: list[tuple[float, tuple[float, ...], tuple[float, ...]]] = field(default_factory=list)

    def add(self, stamp: float, position: tuple[float, ...], quaternion: tuple[float, ...]) -> None:
        """Take a sample, at its place; forget those long before it, or of another clock."""
        newest = self.samples[-1][0] if self.samples else stamp
        if self.static or stamp < newest - _JUMP:
            self.samples.clear()
        insort(self.samples, (stamp, position, quaternion))
        while self.samples[0][0] < self.samples[-1][0] - _KEPT:
            del self.samples[0]

    def at(self, stamp: float | None) -> Float64Array:
        """parent_from_child, 4×4, ``stamp`` within the samples' or None for the newest."""
        matrix = np.eye(4)
        after = len(self.samples) - 1
        if stamp is not None and not self.static:
            after = bisect_left(self.samples, stamp, key=itemgetter(0))
        end, position, quaternion = self.samples[after]
        matrix[:3, 3], rotation = position, Rotation.from_quat(quaternion)
        if stamp is not None and not self.static and stamp < end:
            start, position_before, quaternion_before = self.samples[after - 1]
            share = (stamp - start) / (end - start)
            matrix[:3, 3] = np.add(
                np.multiply(position_before, 1.0 - share), np.multiply(position, share)
            )
            rotation = Slerp([0.0, 1.0], Rotation.from_quat([quaternion_before, quaternion]))(share)
        matrix[:3, :3] = rotation.as_matrix()
        return matrix


class Transforms:
    """Listens to /tf and /tf_static; ``lookup`` may be called from any thread."""

    def __init__(self, node: Node, resolve: Callable[[str], str] = str) -> None:
        """ConfigurationError where tf2_msgs is not installed.

        resolve: gives a topic's name; for a ``node`` that is not the one whose remappings count.
        """
        kind = message_type()
        self._node = node
        self._edges: dict[str, _Edge] = {}
        self._lock = threading.Lock()
        self._subscriptions = [
            node.create_subscription(kind, resolve(topic), partial(self._receive, static), qos)
            for topic, static, qos in (("/tf", False, QOS), ("/tf_static", True, _STATIC_QOS))
        ]

    def _receive(self, static: bool, message: Any) -> None:
        """Take a TFMessage; what is no rigid motion is left out."""
        with self._lock:
            for transform in message.transforms:
                position, turn = transform.transform.translation, transform.transform.rotation
                where = (position.x, position.y, position.z)
                quaternion = (turn.x, turn.y, turn.z, turn.w)
                norm = float(np.linalg.norm(quaternion))
                parent, child = _name(transform.header.frame_id), _name(transform.child_frame_id)
                if not (np.isfinite(where).all() and 0.9 < norm < 1.1) or parent == child:
                    continue
                edge = self._edges.get(child)
                if edge is None or (edge.parent, edge.static) != (parent, static):
                    edge = self._edges[child] = _Edge(parent, static)
                edge.add(seconds(transform.header.stamp), where, quaternion)

    def lookup(self, target: str, source: str, stamp: float | None = None) -> Float64Array:
        """target_from_source, 4×4: p_target = R p_source + t, metres.

        stamp: seconds; a moving transform is interpolated between the samples around it. None: the
        newest of each. Raises TransformError.
        """
        target, source = _name(target), _name(source)
        if not (target and source):
            raise TransformError(
                "the frame_id of a message is empty: set it in its driver", later=False
            )
        with self._lock:
            to_target, to_source = self._path(target), self._path(source)
            common = next((frame for frame in to_source if frame in to_target), None)
            if common is None:
                raise TransformError(self._unconnected(target, source), later=True)
            return np.asarray(
                np.linalg.inv(self._compose(to_target, common, stamp))
                @ self._compose(to_source, common, stamp)
            )

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _path(self, frame: str) -> list[str]:
        """The frame, its parent, and so on to the root."""
        path = [frame]
        while (edge := self._edges.get(path[-1])) is not None:
            if edge.parent in path:
                raise TransformError(
                    f"tf has a loop: {' -> '.join([*path, edge.parent])}; each frame needs one "
                    "parent, and the root none. See who publishes them: ros2 topic echo /tf_static",
                    later=False,
                )
            path.append(edge.parent)
        return path

    def _compose(self, path: list[str], end: str, stamp: float | None) -> Float64Array:
        """end_from_(the path's first frame)."""
        matrix = np.eye(4)
        for child in path[: path.index(end)]:
            edge = self._edges[child]
            if stamp is not None and not edge.static:
                first, last = edge.samples[0][0], edge.samples[-1][0]
                if not first <= stamp <= last:
                    raise TransformError(
                        f"tf has {child!r} in {edge.parent!r} from {first:.3f} to {last:.3f} s, "
                        f"{stamp:.3f} s is {max(first - stamp, stamp - last):.3f} s "
                        f"{'before' if stamp < first else 'after'} that; are the clocks the same "
                        "(use_sim_time)?",
                        later=stamp > last,
                        ahead=stamp - last if stamp > last else math.inf,
                    )
            matrix = edge.at(stamp) @ matrix
        return matrix

    def _unconnected(self, target: str, source: str) -> str:
        known = {*self._edges, *(edge.parent for edge in self._edges.values())}
        missing = [repr(frame) for frame in (target, source) if frame not in known]
        if not missing:
            return (
                f"tf has no chain from {source!r} to {target!r}: they hang on different roots, "
                f"{self._path(source)[-1]!r} and {self._path(target)[-1]!r}"
            )
        frames = ", ".join(sorted(known)) or "none; nobody publishes /tf or /tf_static"
        return f"tf does not know {' and '.join(missing)} (it knows: {frames})"


def message_type() -> type:
    """TFMessage; ConfigurationError where tf2_msgs is not installed."""
    try:
        return importlib.import_module("tf2_msgs.msg").TFMessage  # type: ignore[no-any-return]
    except ImportError:
        raise ConfigurationError(
            "transforms need the message package tf2_msgs, which is not installed: "
            "sudo apt install ros-$ROS_DISTRO-tf2-msgs"
        ) from None


def _name(frame: str) -> str:
    """As tf2 has it: tf's first version began names with a slash."""
    return frame.removeprefix("/")
