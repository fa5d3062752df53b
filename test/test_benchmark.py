"""The benchmarks run, and their reports say what was compared."""

from __future__ import annotations

import pytest

from aliked_ros.benchmark.report import as_text
from aliked_ros.benchmark.suites import run

pytestmark = pytest.mark.long


def test_the_extractor_is_timed_against_the_published_form():
    pytest.importorskip("torch", reason="the published form needs torch")
    results = run(["extractor"], rounds=1, source="virtual")
    names = [row["name"] for row in results["suites"]["extractor"]["timings"]]
    assert names[:2] == ["torch eager, dense (published)", "torch eager, sparse"]
    assert any(name.startswith("plain dense export") for name in names)
    text = as_text(results)
    assert all(name in text for name in names)
    assert "aliked_ros, float32" in names


@pytest.mark.ros
def test_the_node_is_measured_with_and_without_listeners(monkeypatch):
    pytest.importorskip("rclpy", reason="needs ROS 2")
    from aliked_ros.ros import node_benchmark

    everything = node_benchmark.CONTENDERS["five, everything"][1]
    contenders = {"nobody": (0, ""), "two, everything": (2, everything)}
    monkeypatch.setattr(node_benchmark, "CONTENDERS", contenders)
    monkeypatch.setattr(node_benchmark, "RATES", (5.0,))
    monkeypatch.setattr(node_benchmark, "_PERIOD", 2.0)
    for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        monkeypatch.setenv(name, "")  # and thereby restored
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        monkeypatch.setenv(name, "")
    results = run(["node"], rounds=1, source="virtual")
    ((rate,),) = [results["suites"]["node"]["rates"]]
    alone, heard = rate["listeners"]
    assert alone["processed_hz"] > 0.0
    assert heard["processed_hz"] > 0.0
    assert heard["of_baseline"] == pytest.approx(
        heard["processed_hz"] / alone["processed_hz"], 0.02
    )
    assert "two, everything" in as_text(results)
