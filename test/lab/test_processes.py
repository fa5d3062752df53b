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

"""Children of demo, soak test and benchmark: none is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from aliked_ros.ros import processes


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_while_a_child_starts_still_ends_it(monkeypatch, number, expected):
    made = []

    class Slow:
        def __init__(self) -> None:
            signal.raise_signal(number)  # the process is there, we do not know it yet
            made.append(self)
            self.stopped = False

        def stop(self) -> None:
            self.stopped = True

        def ended(self) -> bool:
            return True

    monkeypatch.setattr(processes, "Child", Slow)
    handled = (signal.SIGINT, signal.SIGTERM)
    before = list(map(signal.getsignal, handled))
    with pytest.raises(expected), processes.children() as start:
        start()
    assert [child.stopped for child in made] == [True]
    assert list(map(signal.getsignal, handled)) == before


def test_who_is_terminated_leaves_no_child(tmp_path):
    """A parent in the middle of its work gets SIGTERM, as from systemd or `timeout`."""
    log = str(tmp_path / "log")
    parent = f"""
import time
from pathlib import Path
from aliked_ros.ros.processes import children
with children() as start:
    child = start("listener", "aliked_ros.benchmark.listener", {{}}, Path({log!r}))
    print(child.pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True
    ) as process:
        child = psutil.Process(int(process.stdout.readline()))
        process.terminate()
        assert process.wait(120) == 143
    assert not child.is_running()
