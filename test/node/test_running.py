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

"""The nodes' common end: a signal that comes at any moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from rclpy.context import Context

from aliked_ros.ros.running import shut_down
from helpers.ros import environment

pytestmark = pytest.mark.ros

# What rclpy's signal thread does, at the worst moment: the wake-up has come and gone, the executor
# sleeps again, and then the context is shut down.
SLEEPER = """
import threading, sys
from rclpy.node import Node
from aliked_ros.ros import running

class Sleeper(Node):
    def run(self, executor):
        threading.Timer(1.0, self.context.handle.shutdown).start()
        executor.spin()
    def close(self):
        print("closed")

sys.exit(running.run(lambda: Sleeper("sleeper")))
"""


def test_a_node_without_timers_sees_a_shutdown_that_did_not_wake_it():
    ended = subprocess.run(
        [sys.executable, "-c", SLEEPER],
        env=environment(), capture_output=True, text=True, timeout=300.0, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "closed\n"), ended.stderr


BUSY = """
import sys, time
from rclpy.node import Node
from aliked_ros.ros import running

class Busy(Node):
    def __init__(self):
        super().__init__("busy")
        print("ready", flush=True)
        while True:  # a load that looks for nothing
            time.sleep(0.01)

sys.exit(running.run(Busy))
"""
IMPORTING = """
import sys
from aliked_ros.console.executables import _program
sys.path.insert(0, {folder!r})
sys.exit(_program("slow")())
"""


def interrupted(code: str, number: int) -> tuple[int, float, str]:
    """Status, seconds and output of a program that gets a signal when it has said "ready"."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    began = time.monotonic()
    try:
        said, _ = process.communicate(timeout=300.0)
    finally:
        process.kill()
    return process.returncode, time.monotonic() - began, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_loads_ends_soon_and_is_not_interrupted_in_the_middle(number):
    status, seconds, said = interrupted(BUSY, number)
    assert (status, "Traceback" in said) == (0, False), said
    assert "Ended while busy" in said
    assert seconds < 30.0


def test_an_interrupted_import_is_no_traceback(tmp_path: Path):
    (tmp_path / "slow.py").write_text("print('ready', flush=True)\nimport time\ntime.sleep(90)\n")
    status, seconds, said = interrupted(IMPORTING.format(folder=str(tmp_path)), signal.SIGINT)
    assert (status, said) == (0, "")
    assert seconds < 30.0


def program(name: str, *arguments: str, without: str = "") -> subprocess.CompletedProcess:
    """Run an installed program where a package is missing."""
    code = (
        f"import sys; sys.argv = [{name!r}, *sys.argv[1:]]; sys.modules[{without!r}] = None; "
        f"from aliked_ros.console import executables; sys.exit(executables.{name}())"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(), capture_output=True, text=True, timeout=300.0, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "without", "distribution"),
    [
        ("frontend_node", "psutil", "psutil"),
        ("aliked_ros", "typer", "typer"),
        ("recorder", "mcap", "mcap"),
        ("odometry_node", "pycolmap", "pycolmap"),
        ("dataset_player", "cv2", "opencv-python-headless"),
        ("frontend_node", "sensor_msgs", "ros-$ROS_DISTRO-sensor-msgs"),
    ],
)
def test_a_missing_package_is_one_sentence(name: str, without: str, distribution: str):
    ended = program(name, without=without)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(".")
    assert f"install {distribution}" in line


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("frontend_node", "max_keypoints"),
        ("dataset_player", "source"),
        ("odometry_node", "frame_id"),
        ("recorder", "record_images"),
        ("cameras_node", "cameras"),
        ("rig_node", "camchain"),
    ],
)
def test_help_is_printed(name: str, parameter: str, flag: str, capsys, monkeypatch):
    modules = {"dataset_player": "player"}
    monkeypatch.setattr(sys, "argv", [f"/lib/aliked_ros/{name}"])
    module = import_module(f"aliked_ros.ros.{modules.get(name, name)}")
    assert module.main([flag]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: ros2 run aliked_ros {name} ")
    assert f"\n  {parameter} (" in printed


def test_an_argument_that_is_not_ross_is_refused():
    """``dataset_player FOLDER`` must not play something else."""
    ended = program("dataset_player", "/data/images", "--ros-args", "-p", "limit:=1")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "[dataset_player]" in line
    assert "'/data/images'" in line
    assert "-p NAME:=VALUE" in line


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("raet:=3.0", "'raet' (rate is the nearest)"),
        ("qos_overrides./image.publisher.depth:=5", "it is ignored, as are all qos_overrides.*"),
    ],
)
def test_a_parameter_that_nobody_reads_is_warned_about(given: str, words: str):
    ended = program("dataset_player", "--ros-args", "-p", given, "-p", "source:=/absent")
    warning, failure = ended.stderr.splitlines()
    assert words in warning
    assert "[dataset_player]" in failure


class Signalled(Context):
    """A context that a signal shuts down just after we saw that it was not."""

    def try_shutdown(self) -> None:
        if self.ok():
            self.handle.shutdown()  # the signal's
            self.handle.shutdown()  # ours, which rcl refuses


def test_a_shutdown_that_a_signal_began_is_none_that_failed():
    context = Signalled()
    context.init()
    with pytest.raises(RuntimeError, match="shutdown"):
        Signalled.try_shutdown(context)
    context = Signalled()
    context.init()
    shut_down(context)
    assert not context.ok()
