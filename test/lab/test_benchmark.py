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

"""The benchmarks run, and their reports say what was compared."""

from __future__ import annotations

import pytest

from aliked_ros.benchmark import gpu as device
from aliked_ros.benchmark import suites
from aliked_ros.benchmark.markdown import as_text, machine_line
from aliked_ros.benchmark.plots import write_plots
from aliked_ros.benchmark.suites import run
from aliked_ros.benchmark.timing import machine
from aliked_ros.system.cpu import cores

pytestmark = pytest.mark.long


@pytest.fixture
def small(monkeypatch):
    """Images with a quarter of the pixels."""
    for module in (device, suites):
        monkeypatch.setattr(module, "WIDTH", 320)
        monkeypatch.setattr(module, "HEIGHT", 240)


@pytest.mark.usefixtures("small")
def test_the_extractor_is_timed_against_the_published_form():
    pytest.importorskip("torch", reason="the published form needs torch")
    results = run(["extractor"], rounds=1, source="virtual")
    names = [row["name"] for row in results["suites"]["extractor"]["timings"]]
    assert names[:2] == ["torch eager, dense (published)", "torch eager, sparse"]
    assert any(name.startswith("plain dense export") for name in names)
    text = as_text(results)
    assert all(name in text for name in names)
    assert "aliked_ros, float32" in names


def test_a_suite_of_pipelines_gives_a_table(monkeypatch):
    monkeypatch.setattr(suites, "_STREAM", 1)
    results = run(["frontend"], rounds=1, source="virtual")
    text = as_text(results)
    assert "### frontend" in text
    for row in results["suites"]["frontend"]["timings"]:
        assert row["median_low_ms"] <= row["median_ms"] <= row["median_high_ms"]
        assert row["name"] in text


@pytest.mark.usefixtures("small")
def test_a_gpu_is_timed_against_the_published_form(monkeypatch):
    """On the CPU in its place, with few points."""
    torch_device = pytest.importorskip("aliked_ros.backends.gpu.torch")
    monkeypatch.setattr(device, "_BURST", 2)
    monkeypatch.setattr(device, "_TRIALS", 1)
    monkeypatch.setattr(device, "POINTS", 64)
    cpu = torch_device.TorchDevice("cpu")
    monkeypatch.setattr(device, "open_device", lambda backend: cpu)
    results = run(["device"], rounds=1, source="virtual")
    suite = results["suites"]["device"]
    assert [part["title"] for part in suite["parts"]] == ["ALIKED", "LightGlue", "image to matches"]
    text = as_text(results)
    for row in suite["stages"]:
        assert row["name"] in text
        assert row["ms"] > 0
    encoder = suite["stages"][0]  # DESIGN.md: 7.1 GFLOP at 640x480, heads included
    assert 5 / 4 < encoder["gflop"] < 7 / 4
    work = {row["name"]: row["gflop"] for row in suite["stages"] if "LightGlue" in row["name"]}
    segments = [gflop for name, gflop in work.items() if "layers" in name]
    matches = [gflop for name, gflop in work.items() if "matches after" in name]
    assert len(segments) == len(matches) == 3
    assert 0.8 < min(segments) <= max(segments) < 1.0
    assert max(matches) < 0.05, "once after the exit, instead of with each segment"


def test_the_machine_is_described():
    found = machine()
    assert found["cores"] == cores()
    assert found["memory_gib"] > 0.5
    for part in ("date", "cpu", "system", "python", "packages"):
        assert str(found[part]) in machine_line(found) or found[part]


@pytest.mark.ros
def test_the_node_is_measured_with_and_without_listeners(monkeypatch, tmp_path):
    pytest.importorskip("rclpy", reason="needs ROS 2")
    from aliked_ros.benchmark import node as node_benchmark

    everything = node_benchmark.CONTENDERS["five, everything"][1]
    contenders = {"nobody": (0, ""), "two, everything": (2, everything)}
    monkeypatch.setattr(node_benchmark, "CONTENDERS", contenders)
    monkeypatch.setattr(node_benchmark, "COSTS", {"features": (1, "features")})
    monkeypatch.setattr(node_benchmark, "RATES", (5.0,))
    monkeypatch.setattr(node_benchmark, "TOPIC_RATE", 5.0)
    monkeypatch.setattr(node_benchmark, "_PERIOD", 2.0)
    for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        monkeypatch.setenv(name, "")  # and thereby restored
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        monkeypatch.setenv(name, "")
    results = run(["node"], rounds=1, source="virtual")
    suite = results["suites"]["node"]
    ((rate,),) = [suite["rates"]]
    alone, heard = rate["listeners"]
    assert alone["processed_hz"] > 0.0
    assert heard["processed_hz"] > 0.0
    assert heard["of_baseline"] == pytest.approx(
        heard["processed_hz"] / alone["processed_hz"], 0.02
    )
    assert alone["published_hz"] == pytest.approx(5.0, rel=0.3)
    assert alone["to_publication"]["median_ms"] > 1.0
    assert "to_arrival" not in alone  # nobody is there to receive
    latency = heard["to_arrival"]
    assert 1.0 < latency["median_ms"] <= latency["p90_ms"] <= latency["p99_ms"] < 5000.0
    assert heard["features_lost"] == 0.0
    nobody, features = suite["topics"]["rows"]
    assert nobody["extra_cpu_ms"] == 0.0
    assert features["name"] == "features"
    text = as_text(results)
    assert "two, everything" in text
    assert "one subscriber at 5 images/s" in text
    (path,) = write_plots(results, tmp_path)
    assert path.stat().st_size > 1000


@pytest.mark.ros
def test_the_node_is_measured_with_and_without_flow(monkeypatch, tmp_path):
    pytest.importorskip("rclpy", reason="needs ROS 2")
    from aliked_ros.benchmark import detection, node

    monkeypatch.setattr(node, "_PERIOD", 2.0)
    monkeypatch.setattr(detection, "CASES", (detection.Case(5.0, 320, 240, 3.0),))
    monkeypatch.delitem(detection.SETTINGS, "behind, threads 1")
    for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        monkeypatch.setenv(name, "")  # and thereby restored
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        monkeypatch.setenv(name, "")
    results = run(["detection"], rounds=1, source="virtual")
    ((camera,),) = [results["suites"]["detection"]["cameras"]]
    every, behind = camera["detections"]
    assert every["latency_of_baseline"][0] == 1.0
    for row in (every, behind):
        assert row["processed_hz"] > 0.0
        assert row["detections_hz"] > 0.0
        assert row["to_arrival"]["median_ms"] > 1.0
    assert "behind" in as_text(results)
