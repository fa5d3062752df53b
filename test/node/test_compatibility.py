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

"""On Humble: what the nodes do where rclpy has less. And with a middleware that is not there."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import ROOT

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from mcap.reader import make_reader

from aliked_msgs.msg import FrontendStatus
from helpers.ros import Probe, RosProcess, environment

pytestmark = pytest.mark.ros

# rclpy's own modules have what they need of each other when theirs are taken away.
AS_ON_HUMBLE = """
import sys, rclpy.lifecycle, rclpy.node, rclpy.qos_event
for name in ("event_handler", "parameter_client"):
    sys.modules[f"rclpy.{name}"] = None
del rclpy.node.Node.add_post_set_parameters_callback
from aliked_ros.ros.compatibility import HUMBLE
assert HUMBLE
from aliked_ros.ros.{module} import main
sys.exit(main())
"""


@pytest.fixture
def humble(tmp_path: Path):
    """Starts a node as on Humble; it must end well."""
    module = tmp_path / "as_on_humble.py"

    def start(name: str, *arguments: str) -> RosProcess:
        module.write_text(AS_ON_HUMBLE.replace("{module}", name))
        path = f"{tmp_path}:{ROOT}"
        started.append(RosProcess(module.stem, tmp_path / name, *arguments, PYTHONPATH=path))
        return started[-1]

    started: list[RosProcess] = []
    yield start
    for process in started:
        assert process.stop() == 0, process.text()
        assert "Traceback" not in process.text()


def test_the_recorder_knows_when_messages_came(humble, tmp_path: Path) -> None:
    began = time.time_ns()
    output = tmp_path / "humble.mcap"
    process = humble("recorder", "-p", f"output:={output}")
    probe = Probe()
    status = probe.node.create_publisher(FrontendStatus, "aliked_frontend/status", 10)
    probe.wait(lambda: status.get_subscription_count() == 2)  # the probe's own, too
    for _ in range(3):
        status.publish(FrontendStatus())
    probe.wait_arrived(status)
    probe.close()
    assert process.stop() == 0, process.text()
    with output.open("rb") as file:
        messages = [message for _, _, message in make_reader(file).iter_messages()]
    assert len(messages) == 3
    assert all(began < message.log_time <= time.time_ns() for message in messages)


def test_the_front_end_takes_parameters(humble) -> None:
    humble("frontend_node", "-p", "autostart:=false", "-p", "status_period:=0.5")
    probe = Probe()
    try:
        probe.wait_for_state("unconfigured")
        assert "read-only" in probe.set_parameter("autostart", True)
        assert not probe.set_parameter("status_period", 0.05)
        times = probe.times["status"]
        probe.wait(lambda: len(times) > 4 and times[-1] - times[-5] < 1.0)  # 2 s before
    finally:
        probe.close()


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("RMW_IMPLEMENTATION", "rmw_unheard_of_cpp", "unset RMW_IMPLEMENTATION"),
        ("ROS_DOMAIN_ID", "255", "set it to a number from 0 to 101"),
        ("ROS_DOMAIN_ID", "-1", "set it to a number from 0 to 101"),
    ],
)
def test_a_node_names_what_the_middleware_cannot_start_with(
    variable: str, value: str, remedy: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "aliked_ros.ros.frontend_node"],
        env=environment(**{variable: value}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    (sentence,) = ended.stderr.splitlines()
    assert f"{variable} is {value}" in sentence
    assert remedy in sentence
