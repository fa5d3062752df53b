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

"""The entries in /diagnostics: levels, windows, hysteresis; and of a real node, by its figures."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_msgs.msg import FrontendStatus
from aliked_ros.ros.conversions import image_message
from aliked_ros.ros.diagnostics import ERROR, OK, PREFIX, STALE, WARN, Diagnostics
from aliked_ros.ros.parameters import DECLARATIONS
from aliked_ros.ros.status import Recent
from aliked_ros.ros.warnings import Warnings
from aliked_ros.sources import open_source
from helpers.ros import Probe, RosProcess

DEFAULTS = {d.name: d.default for d in DECLARATIONS if d.name.startswith(PREFIX)}
WELL = Recent(
    rate=20.0, dropped=0.2, refused=0.0, latency_mean=0.05, latency_max=0.1, features=500.0,
    tracked=0.7, inliers=0.9, recovered=1.0, silence=0.02, settled=True,
)  # fmt: skip
ACTIVE = FrontendStatus(
    state="active", backend="cpu: X", backend_reason="no GPU", engine="", memory=500_000_000,
    last_error="encoding 'x' is not one of",
)  # fmt: skip
SILENCE = "no image on /image for 7 s: 0 matching publishers."


def entries(
    diagnostics: Diagnostics, recent: Recent = WELL, status: FrontendStatus = ACTIVE, **more: str
) -> dict[str, DiagnosticStatus]:
    reports = diagnostics.report(status, recent, silence=SILENCE, **more)
    return {report.name.removeprefix("node: "): report for report in reports}


def with_thresholds(**values: float) -> Diagnostics:
    return Diagnostics("node", DEFAULTS | {PREFIX + name: v for name, v in values.items()})


def test_a_front_end_that_is_well():
    found = entries(Diagnostics("node", DEFAULTS))
    assert list(found) == ["input", "front-end", "performance"]
    assert {(report.level, report.message) for report in found.values()} == {(OK, "active")}
    values = {v.key: v.value for report in found.values() for v in report.values}
    assert values["tracked (%)"] == "70.0"
    assert values["inliers (%)"] == "90.0"
    assert values["latency, max (ms)"] == "100.0"
    assert values["dropped, last 5 s (%)"] == "20.0"
    assert values["memory (MB)"] == "500"
    assert (values["backend"], values["backend, why"]) == ("cpu: X", "no GPU")


@pytest.mark.parametrize(
    ("entry", "parameter", "limit", "bad", "words"),
    [
        ("performance", "min_rate", 10.0, {"rate": 4.2}, "output rate is 4.2 Hz"),
        ("performance", "max_latency", 0.2, {"latency_mean": 0.31}, "mean latency is 0.31 s"),
        ("performance", "max_dropped", 0.5, {"dropped": 0.8}, "images dropped is 0.8"),
        ("front-end", "min_tracked", 0.3, {"tracked": 0.05}, "a track is 0.05"),
        ("input", "max_refused", 0.1, {"refused": 0.4}, "images refused is 0.4"),
    ],
)
def test_thresholds(entry, parameter, limit, bad, words):
    """Both levels are named with value, threshold and remedy; 0 is off."""
    recent = replace(WELL, **bad)
    for level, name in ((WARN, "warn"), (ERROR, "error")):
        other = "error" if name == "warn" else "warn"
        limits = {f"{parameter}_{name}": limit, f"{parameter}_{other}": 0.0}
        report = entries(with_thresholds(**limits), recent)[entry]
        assert report.level == level
        assert f"{words}" in report.message
        assert f"diagnostics.{parameter}_{name} is {limit:g}" in report.message
        assert len(report.message.split(". ", 1)[1]) > 20  # the remedy
        assert entries(with_thresholds(**limits))[entry].level == OK
        # not before there is anything to judge by
        early = replace(recent, settled=False)
        assert entries(with_thresholds(**limits), early)[entry].level == OK
    off = {f"{parameter}_warn": 0.0, f"{parameter}_error": 0.0}
    assert entries(with_thresholds(**off), recent)[entry].level == OK


def test_memory_is_judged_too():
    report = entries(with_thresholds(max_memory_error=400.0))["performance"]
    assert report.level == ERROR
    assert "memory is 500 MB, diagnostics.max_memory_error is 400 MB" in report.message


def test_the_reason_of_refusals_is_said():
    report = entries(Diagnostics("node", DEFAULTS), replace(WELL, refused=1.0))["input"]
    assert report.level == ERROR
    assert "encoding 'x' is not one of" in report.message


def test_levels_do_not_flicker():
    diagnostics = with_thresholds(min_rate_warn=10.0, min_rate_error=5.0)
    rates = [10.2, 9.9, 10.1, 9.8, 10.9, 11.1, 10.2, 4.9, 5.3, 5.6, 11.2]
    levels = [entries(diagnostics, replace(WELL, rate=r))["performance"].level for r in rates]
    assert levels == [OK, WARN, WARN, WARN, WARN, OK, OK, ERROR, ERROR, WARN, OK]


def test_silence_makes_the_other_figures_stale():
    diagnostics = Diagnostics("node", DEFAULTS)
    found = entries(diagnostics, replace(WELL, silence=7.0))
    assert (found["input"].level, found["input"].message) == (WARN, SILENCE)
    assert found["front-end"].level == found["performance"].level == STALE
    assert "no image for 7 s" in found["performance"].message
    assert entries(diagnostics, replace(WELL, silence=16.0))["input"].level == ERROR
    assert {r.level for r in entries(diagnostics).values()} == {OK}


def test_warnings_about_the_inputs_come_after_what_is_worse():
    found = entries(
        Diagnostics("node", DEFAULTS), replace(WELL, silence=20.0), warnings="No baseline."
    )
    assert found["input"].level == ERROR
    assert found["input"].message == f"{SILENCE} No baseline."


def test_what_stands_is_logged_even_when_it_came_and_went_before(monkeypatch):
    logged: list[str] = []
    warnings = Warnings(logged.append, lambda _: None)
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(4):  # flickers, each second
        warnings.warn("mask", "bad mask")
        warnings.clear("mask")
        now += 1.0
    assert logged == ["bad mask"]
    for _ in range(8):  # and stands from now on
        warnings.warn("mask", "bad mask")
        now += 1.0
    assert logged == ["bad mask"] * 2
    assert str(warnings) == "bad mask"


@pytest.mark.parametrize("state", ["unconfigured", "inactive", "paused", "finalized"])
def test_a_front_end_at_rest_is_no_reason_to_worry(state):
    silent = replace(WELL, silence=math.inf, rate=0.0, tracked=math.nan)
    diagnostics = with_thresholds(min_rate_error=10.0)
    found = entries(diagnostics, silent, FrontendStatus(state=state))
    assert {(report.level, report.message) for report in found.values()} == {(OK, state)}


def test_a_failed_configuration_is_an_error_of_the_front_end_alone():
    status = FrontendStatus(state="unconfigured")
    found = entries(Diagnostics("node", DEFAULTS), WELL, status, failure="configure failed: no X.")
    assert (found["front-end"].level, found["front-end"].message) == (
        ERROR,
        "configure failed: no X.",
    )
    assert found["input"].level == found["performance"].level == OK


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

        probe.wait(answered, 60.0)

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


def test_a_standing_camera_says_so() -> None:
    """One word, and no warning."""
    for geometry, word in (("still", "stands"), ("epipolar", "moves"), ("unverified", "unknown")):
        status = FrontendStatus(state="active", geometry=geometry)
        entry = entries(Diagnostics("node", DEFAULTS), status=status)["front-end"]
        assert entry.level == DiagnosticStatus.OK
        assert {v.key: v.value for v in entry.values}["camera"] == word
