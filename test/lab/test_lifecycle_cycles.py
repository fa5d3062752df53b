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

"""What a hundred lifecycle cycles leave behind: threads, files, memory, ROS entities.

``ALIKED_ROS_CYCLES=100`` runs as many in the real process as docs/operations.md reports of.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import psutil
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import rclpy
from builtin_interfaces.msg import Time
from rclpy.lifecycle import TransitionCallbackReturn
from scipy.stats import theilslopes
from std_msgs.msg import Header

from aliked_ros.ros.conversions import image_message
from aliked_ros.ros.frontend_node import FrontendNode
from aliked_ros.ros.soak.leak_check import Vitals, vitals_of
from aliked_ros.sources import open_source
from helpers.ros import DOMAIN, Probe, RosProcess, environment

pytestmark = [pytest.mark.ros, pytest.mark.long]

CYCLES = int(os.environ.get("ALIKED_ROS_CYCLES", "20"))
WARM_UP = 5  # cycles in which caches fill
NOISE = 8.0  # MB
FAST = [
    *("-p", "matcher:=nearest", "-p", "max_keypoints:=300", "-p", "status_period:=0.1"),
    *("-p", "autostart:=false"),
]


def test_cycles_of_a_real_process_leave_nothing_behind(tmp_path: Path):
    """Configure → activate → images → deactivate → cleanup."""
    probe = Probe()
    process = RosProcess("aliked_ros.ros.frontend_node", tmp_path / "log", *FAST)
    frames = [cv2.resize(image.pixels, (320, 240)) for image in open_source("virtual", 4)]
    sent = 0
    found: list[Vitals] = []
    try:
        probe.wait_for_state("unconfigured")
        probe.wait(lambda: probe.frontend in probe.node.get_node_names())
        probe.spin(1.0)  # discovery goes on
        before = _entities_seen(probe)
        for cycle in range(CYCLES):
            assert probe.transition("configure"), process.text()
            assert probe.transition("activate"), process.text()
            probe.wait_connected()
            for pixels in frames:
                sent += 1
                stamp = Time(sec=1000 + sent)
                probe.send(image_message(pixels, Header(stamp=stamp)))
            assert probe.transition("deactivate")
            assert probe.transition("cleanup")
            probe.received.clear()
            found.append(vitals_of(psutil.Process(process.process.pid), float(cycle)))
        assert process.alive()
        probe.wait(lambda: _entities_seen(probe) == before)  # discovery takes a moment
        assert process.stop() == 0
        assert "unexpected" not in process.text()
    finally:
        process.wait(0.1) if not process.alive() else process.stop()
        probe.close()
    warm = found[WARM_UP:]
    numbers = [vitals.time for vitals in warm]
    memory = [vitals.memory for vitals in warm]
    slope, _, low, high = theilslopes(memory, numbers)
    print(
        f"\n{CYCLES} cycles: threads {warm[0].threads} to {warm[-1].threads}, files "
        f"{warm[0].files} to {warm[-1].files}, own memory {found[0].memory:.1f}, "
        f"{warm[0].memory:.1f} to {warm[-1].memory:.1f} MB, {slope:.3f} MB a cycle "
        f"({low:.3f} to {high:.3f}), resident {warm[-1].resident:.0f} MB"
    )
    half = len(memory) // 2
    for name in ("threads", "files"):  # one may be open, or ending, for a moment
        counts = [getattr(vitals, name) for vitals in warm]
        assert min(counts[half:]) <= min(counts[:half]), counts
        assert max(counts) <= min(counts) + 2, counts
    assert min(memory[half:]) - min(memory[:half]) < NOISE, memory


def _entities_seen(probe: Probe) -> tuple[list, list, list]:
    node, name = probe.node, probe.frontend
    return (
        sorted(node.get_publisher_names_and_types_by_node(name, "/")),
        sorted(node.get_subscriber_names_and_types_by_node(name, "/")),
        sorted(node.get_service_names_and_types_by_node(name, "/")),
    )


@contextmanager
def frontend(*parameters: str) -> Iterator[FrontendNode]:
    """A node in this process."""
    with patch.dict(os.environ, environment()):
        rclpy.init(args=["--ros-args", *FAST, *parameters], domain_id=DOMAIN)
    node = FrontendNode()
    try:
        yield node
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()


def test_no_ros_entity_outlives_its_state():
    """Also timers and what has no name on the network, with everything that inputs can have."""

    def entities(node: FrontendNode) -> dict[str, int]:
        kinds = (
            "publishers",
            "subscriptions",
            "timers",
            "services",
            "clients",
            "guards",
            "waitables",
        )
        return {kind: len(list(getattr(node, kind))) for kind in kinds}

    success = TransitionCallbackReturn.SUCCESS
    with frontend("-p", "input:=stereo", "-p", "publish_vins:=true") as node:
        unconfigured = entities(node)
        found = set()
        for _ in range(3):
            assert node.trigger_configure() == success
            inactive = entities(node)
            assert node.trigger_activate() == success
            assert entities(node)["subscriptions"] >= inactive["subscriptions"] + 5
            assert entities(node)["timers"] == inactive["timers"] + 1
            assert node.trigger_deactivate() == success
            assert entities(node) == inactive
            assert node.trigger_cleanup() == success
            assert entities(node) == unconfigured
            found.add(tuple(sorted(inactive.items())))
        assert len(found) == 1
        assert np.isfinite(list(unconfigured.values())).all()
