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

"""What an operator sees in /diagnostics of a running node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_ros.ros.conversions import image_message
from aliked_ros.ros.diagnostics import ERROR, OK, STALE, WARN
from aliked_ros.sources import open_source
from helpers.ros import Probe, RosProcess


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[tuple[Probe, RosProcess]]:
    probe = Probe()
    process = RosProcess(
        "aliked_ros.ros.frontend_node", tmp_path / "log",
        *("-p", "matcher:=nearest", "-p", "max_keypoints:=300", "-p", "status_period:=0.1"),
        *("-p", "diagnostics.max_silence_warn:=1.0", "-p", "diagnostics.max_silence_error:=3.0"),
    )  # fmt: skip
    yield probe, process
    assert process.stop() == 0, process.text()
    probe.close()


@pytest.mark.ros
@pytest.mark.long
def test_what_a_robot_operator_sees_of_a_node(rig):
    """Silence, work, a threshold set while it works, bad images, pause."""
    probe, _ = rig
    probe.listen(DiagnosticArray, "/diagnostics")
    frames = [cv2.resize(image.pixels, (320, 240)) for image in open_source("virtual", 8)]
    sent = 0

    def latest() -> dict[str, DiagnosticStatus]:
        if not probe.received["/diagnostics"]:
            return {}
        array = probe.received["/diagnostics"][-1]
        return {report.name.removeprefix("aliked_frontend: "): report for report in array.status}

    def levels() -> tuple[bytes, ...]:
        return tuple(report.level for report in latest().values())

    def send_until(condition) -> None:
        nonlocal sent

        def answered() -> bool:
            nonlocal sent
            sent += 1
            header = Header(stamp=Time(sec=1000 + sent // 20, nanosec=sent % 20 * 50_000_000))
            pixels = frames[min(sent % 14, 14 - sent % 14)]  # there and back again
            probe.images.publish(image_message(pixels, header))
            probe.spin(0.05)
            return condition()

        probe.wait(answered)

    probe.wait_for_state("active")
    probe.wait_connected()
    probe.wait(lambda: levels() == (WARN, STALE, STALE))
    probe.wait(lambda: levels() == (ERROR, STALE, STALE))
    assert "no image on /image" in latest()["input"].message
    send_until(lambda: probe.status.frames_processed > 20 and levels() == (OK, OK, OK))
    values = {v.key: v.value for report in latest().values() for v in report.values}
    assert float(values["tracked (%)"]) > 20
    assert float(values["inliers (%)"]) > 50
    assert float(values["latency, max (ms)"]) >= float(values["latency, mean (ms)"]) > 1
    assert 100 < float(values["memory (MB)"]) < 4000
    assert probe.status.memory > 1e8

    assert probe.set_parameter("diagnostics.min_rate_warn", 999.0) == ""
    send_until(lambda: levels() == (OK, OK, WARN))
    assert "diagnostics.min_rate_warn is 999 Hz" in latest()["performance"].message
    assert probe.set_parameter("diagnostics.min_rate_warn", 0.0) == ""

    for _ in range(3):
        probe.images.publish(ImageMessage(encoding="mono8", width=100, height=100, step=100))
        probe.spin(0.2)
    send_until(lambda: levels() == (WARN, OK, OK))
    assert "step × height" in latest()["input"].message

    assert probe.trigger("pause").success
    probe.wait(lambda: levels() == (OK, OK, OK) and latest()["input"].message == "paused")
    probe.spin(1.5)
    assert levels() == (OK, OK, OK)
    probe.received["/diagnostics"].clear()
    assert probe.trigger("resume").success
    probe.wait(lambda: latest() and latest()["input"].message == "active")
    assert latest()["input"].level == OK  # the pause was not the camera's silence
