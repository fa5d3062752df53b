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
from dataclasses import replace

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from diagnostic_msgs.msg import DiagnosticStatus

from aliked_msgs.msg import FrontendStatus
from aliked_ros.ros.diagnostics import ERROR, OK, PREFIX, STALE, WARN, Diagnostics
from aliked_ros.ros.parameters import DECLARATIONS
from aliked_ros.ros.status import Recent
from aliked_ros.ros.warnings import Warnings

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


def test_a_standing_camera_says_so() -> None:
    """One word, and no warning."""
    for geometry, word in (("still", "stands"), ("epipolar", "moves"), ("unverified", "unknown")):
        status = FrontendStatus(state="active", geometry=geometry)
        entry = entries(Diagnostics("node", DEFAULTS), status=status)["front-end"]
        assert entry.level == DiagnosticStatus.OK
        assert {v.key: v.value for v in entry.values}["camera"] == word
