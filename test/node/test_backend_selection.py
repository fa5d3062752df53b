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

"""What a node says of its backend, and what becomes of it where the one asked for fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.ros import Probe, RosProcess


@pytest.fixture
def probe() -> Iterator[Probe]:
    probe = Probe()
    yield probe
    probe.close()


@pytest.mark.ros
@pytest.mark.long
def test_the_node_says_why_it_stays_unconfigured_and_falls_back_if_allowed(
    tmp_path: Path, probe: Probe
) -> None:
    node = RosProcess(
        "aliked_ros.ros.frontend_node", tmp_path / "log",
        "-p", "backend:=tensorrt", "-p", "status_period:=0.2",
    )  # fmt: skip
    try:
        status = probe.wait_for_state("unconfigured")
        probe.wait(lambda: probe.status.last_error)
        status = probe.status
        assert "backend is 'tensorrt', which cannot run here: there is no NVIDIA driver" in (
            status.last_error
        )
        assert probe.state() == "unconfigured"
        assert status.backend == ""
        assert node.alive()

        assert probe.set_parameter("allow_fallback", True) == ""
        assert probe.transition("configure")
        assert probe.transition("activate")
        status = probe.wait_for_state("active")
        assert status.backend.startswith("cpu: ")
        assert "there is no NVIDIA driver here" in status.backend_reason
        assert status.engine == ""
        warnings = [line for line in node.text().splitlines() if "[WARN]" in line]
        assert any("On the CPU instead of the GPU: " in line for line in warnings), node.text()
        assert node.stop() == 0
    finally:
        node.wait(0.0) if not node.alive() else node.stop()
