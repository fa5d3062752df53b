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

"""Transforms as tf2's publishers send them: static ones before, moving ones while somebody asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
import rclpy
from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from scipy.spatial.transform import Rotation

from aliked_ros.ros.conversions import stamp_from_seconds
from aliked_ros.ros.transforms import _STATIC_QOS, QOS, TransformError, Transforms
from helpers.ros import DOMAIN

tf2_msgs = pytest.importorskip(
    "tf2_msgs.msg", reason="tf2_msgs is not installed: make setup GROUP=test, or ROS 2's own"
)

T = 1_700_000_000.0


def stamped(
    parent: str, child: str, time: float, position: Any = (0, 0, 0), degrees: float = 0.0
) -> TransformStamped:
    """``child`` in ``parent``: at a position, turned about z."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, stamp_from_seconds(time)
    message.transform.translation = Vector3(**dict(zip("xyz", map(float, position), strict=True)))
    x, y, z, w = Rotation.from_euler("z", degrees, degrees=True).as_quat().tolist()
    message.transform.rotation = Quaternion(x=x, y=y, z=z, w=w)
    return message


class Tree:
    """A robot that publishes its transforms, and the one who listens, which comes later."""

    def __init__(self, *static: TransformStamped) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node("tree", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        kind = tf2_msgs.TFMessage
        self.moving = self.node.create_publisher(kind, "/tf", QOS)
        self.static = self.node.create_publisher(kind, "/tf_static", _STATIC_QOS)
        self.static.publish(kind(transforms=list(static)))
        self.transforms = Transforms(self.node)
        self.wait(lambda: self.moving.get_subscription_count())

    def move(self, *transforms: TransformStamped) -> None:
        """Publish on /tf."""
        self.moving.publish(tf2_msgs.TFMessage(transforms=list(transforms)))

    def wait(self, condition: Any) -> Any:
        """Spin until it holds; TransformErrors mean that it does not yet."""
        end = time.monotonic() + 120.0
        while True:
            self.executor.spin_once(timeout_sec=0.05)
            try:
                found = condition()
                if found is not None and found is not False and np.any(found):
                    return found
            except TransformError:
                if time.monotonic() > end:
                    raise
            assert time.monotonic() < end

    def close(self) -> None:
        """Leave no node behind."""
        self.transforms.close()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def robot() -> Iterator[Tree]:
    tree = Tree(
        stamped("base_link", "camera", T, (0.1, 0, 0.5)),
        stamped("/camera", "/camera_optical", T, degrees=90.0),
    )
    yield tree
    tree.close()


def test_a_chain_of_latched_and_moving_transforms_at_a_stamp_between_two(robot):
    robot.move(stamped("odom", "base_link", T, (0, 0, 0)), stamped("map", "odom", T - 1, (5, 0, 0)))
    robot.move(stamped("map", "odom", T + 1, (5, 0, 0)))
    robot.move(stamped("odom", "base_link", T + 0.1, (1, 0, 0), 90.0))
    found = robot.wait(lambda: robot.transforms.lookup("map", "camera_optical", T + 0.05))
    turned = np.deg2rad(45.0)
    where = [5.5 + 0.1 * np.cos(turned), 0.1 * np.sin(turned), 0.5]
    assert found[:3, 3] == pytest.approx(where, abs=1e-9)
    assert Rotation.from_matrix(found[:3, :3]).as_euler("xyz", degrees=True) == pytest.approx(
        [0, 0, 135.0], abs=1e-6
    )
    back = robot.transforms.lookup("camera_optical", "map", T + 0.05)
    assert back @ found == pytest.approx(np.eye(4), abs=1e-12)
    newest = robot.transforms.lookup("odom", "base_link")
    assert newest[:3, 3] == pytest.approx([1, 0, 0])


def test_what_is_not_known_is_said(robot):
    robot.wait(lambda: robot.transforms.lookup("base_link", "camera_optical"))
    with pytest.raises(TransformError, match=r"'lidar' \(it knows: base_link, camera, camera_opt"):
        robot.transforms.lookup("base_link", "lidar", T)
    robot.move(stamped("odom", "base_link", T), stamped("earth", "tower", T))
    robot.move(stamped("odom", "base_link", T + 1))
    robot.wait(lambda: robot.transforms.lookup("odom", "camera", T + 1))
    robot.wait(lambda: robot.transforms.lookup("earth", "tower"))
    with pytest.raises(TransformError, match="different roots, 'odom' and 'earth'"):
        robot.transforms.lookup("tower", "camera", T)
    with pytest.raises(TransformError, match=r"0\.500 s after that") as error:
        robot.transforms.lookup("odom", "camera", T + 1.5)
    assert error.value.later
    with pytest.raises(TransformError, match=r"1700000000\.000 s before") as error:
        robot.transforms.lookup("odom", "camera", 0.0)
    assert not error.value.later


def test_loops_nonsense_and_clocks_that_jump_do_no_harm(robot):
    robot.move(stamped("odom", "base_link", T), stamped("a", "b", T), stamped("b", "a", T))
    robot.wait(lambda: robot.transforms.lookup("odom", "base_link"))
    with pytest.raises(TransformError, match="tf has a loop: b -> a -> b"):
        robot.transforms.lookup("odom", "b")
    robot.move(
        stamped("odom", "base_link", T + 0.1, (np.nan, 0, 0)),
        stamped("odom", "base_link", T - 1000.0, (3, 0, 0)),  # a recording begins again
    )
    there = robot.wait(lambda: robot.transforms.lookup("odom", "camera", T - 1000.0))
    assert there[:3, 3] == pytest.approx([3.1, 0, 0.5])
    for tenth in range(400):
        robot.move(stamped("odom", "base_link", T - 999.0 + tenth / 10))
    robot.wait(lambda: robot.transforms.lookup("odom", "camera", T - 999.0 + 39.9) is not None)
    with pytest.raises(TransformError, match="before that"):
        robot.transforms.lookup("odom", "camera", T - 1000.0)
