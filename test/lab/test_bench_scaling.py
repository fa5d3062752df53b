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

"""The scaling benchmark: each point a process of its own, that leaves this one as it was."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import cv2
import numpy as np
import pytest

from aliked_ros.benchmark import scaling
from aliked_ros.benchmark.markdown import as_text
from aliked_ros.benchmark.plots import write_plots
from aliked_ros.benchmark.points import Point, Setting
from aliked_ros.benchmark.timing import machine
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.system.cpu import cores

CONFIG = FrontendConfig(
    model="aliked-t16", matcher="nearest", max_keypoints=100, backend="cpu", precision="float32"
)
SMALL = Setting(128, 96, CONFIG)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    noise = np.random.default_rng(0).integers(0, 255, (12, 120, 160, 3), np.uint8)
    return [cv2.GaussianBlur(one, (0, 0), 2) for one in noise]


def test_all_that_is_asked_for_is_varied_around_one_setting():
    found = {factor.name: factor for factor in scaling.factors()}
    assert {"image size", "keypoints", "model", "backend", "threads"} == set(found)
    assert list(found["image size"].values) == ["320×240", "640×480", "1280×720", "1920×1080"]
    assert list(found["keypoints"].values)[::4] == ["256", "4096"]
    assert list(found["threads"].values)[-1] == str(cores())
    for factor in found.values():
        default = factor.values[factor.default]
        assert replace(default, cores=0) == scaling.DEFAULT


@pytest.mark.long
def test_points_are_measured_and_this_process_stays_as_it_was(images, monkeypatch, tmp_path):
    values = {
        "all": SMALL,
        "1": replace(SMALL, cores=1),
        "tensorrt": replace(SMALL, config=replace(CONFIG, backend="tensorrt", precision="auto")),
    }
    factor = scaling.Factor("threads", "", values, "all", (float(cores()), 1.0, 2.0))
    monkeypatch.setattr(scaling, "factors", lambda: [factor])
    before = os.sched_getaffinity(0), cv2.getNumThreads()
    shares: list[float] = []
    suite = scaling.scaling_suite(images, 2, shares.append)
    assert (os.sched_getaffinity(0), cv2.getNumThreads()) == before
    assert shares[-1] == 1.0
    (table,) = suite["factors"]
    points = {point["name"]: point for point in table["points"]}
    assert points["1"]["cores"] == 1
    assert points["all"]["cores"] == cores()
    assert points["1"]["cores_busy"] < 1.2
    for point in points.values():
        stages = point["stages"]
        assert 0.0 < stages["extract"]["median_ms"] <= stages["total"]["median_ms"]
        assert (
            stages["total"]["median_ms"] <= stages["total"]["p90_ms"] <= stages["total"]["p99_ms"]
        )
        assert 0.0 < point["images_per_s"] <= 1.05e3 / stages["total"]["median_ms"] * 2
        assert 1 < point["memory_mib"] < 2000
    assert points["all"]["times_as_long"] == 1.0
    if "tensorrt" not in points:
        assert "cannot run here" in table["left_out"]["tensorrt"]
    results = {"machine": machine(), "source": "noise", "suites": {"scaling": suite}}
    assert "| 1 |" in as_text(results)
    (path,) = write_plots(results, tmp_path, "a_")
    assert path.name == "a_scaling.png"
    assert cv2.imread(str(path)) is not None


@pytest.mark.long
def test_a_process_that_is_killed_is_one_point_that_is_missing(images):
    with Point(SMALL, images) as point:
        assert len(point.run(2).stages["total"]) == 2
        os.kill(point._process.pid, signal.SIGKILL)
        with pytest.raises(BackendError, match="signal 9"):
            point.run(1)


@pytest.mark.long
def test_without_openvino_another_runtime_is_measured(images):
    pytest.importorskip("onnxruntime")
    with Point(replace(SMALL, hidden=("openvino",)), images) as point:
        assert "ONNX Runtime" in point.backend
