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

"""The soak test itself: it holds with a node that is well, and finds a leak, a crash, a hang."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from aliked_ros.ros.soak.leak_check import LEAST_LOOKS, Vitals, growth, leaks, vitals_of

COMMAND = [sys.executable, "-m", "aliked_ros.cli", "soak", "--source", "virtual", "--json"]


def looks(minutes: float, leak: float, seed: int = 0, **more: np.ndarray) -> list[Vitals]:
    """Vitals every two seconds: a heap that goes up and down, steps, and a leak in MB a minute."""
    rng = np.random.default_rng(seed)
    times = np.arange(0.0, minutes * 60.0, 2.0)
    work = rng.choice([0.0, 5.0, 40.0, 120.0], len(times), p=[0.3, 0.4, 0.2, 0.1])
    memory = 400.0 + work + rng.normal(0.0, 1.0, len(times)) + leak * times / 60.0
    count = len(times)
    threads = more.get("threads", np.full(count, 40) + rng.integers(0, 3, count))
    files = more.get("files", np.full(count, 23))
    return [
        Vitals(t, m, m + 250.0, int(n), int(f))
        for t, m, n, f in zip(times, memory, threads, files, strict=True)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_an_allocators_habits_are_no_leak(seed):
    assert leaks(looks(1.0, 0.0, seed), 1.0) == []
    assert leaks(looks(10.0, 0.0, seed), 1.0) == []
    assert leaks(looks(10.0, 0.5, seed), 1.0) == []


@pytest.mark.parametrize("seed", range(20))
def test_leaks_are_found(seed):
    """The longer the run, the smaller those that can be told."""
    (found,) = leaks(looks(6.0, 2.0, seed), 1.0)
    assert "memory grows by +" in found
    assert growth(looks(6.0, 2.0, seed)).slope == pytest.approx(2.0, abs=0.9)
    assert leaks(looks(0.6, 100.0, seed), 1.0)


# A real node's memory in the ten minutes that docs/operations.md reports of, each second look while
# active: seconds, MB.
RECORDED = [
    (0.0, 514.8), (3.8, 513.5), (7.3, 513.8), (13.3, 513.5), (16.6, 514.2), (20.9, 517.0),
    (25.0, 514.4), (30.0, 514.9), (35.6, 514.9), (41.2, 514.4), (45.0, 514.5), (50.5, 517.8),
    (56.0, 517.3), (60.3, 517.8), (64.5, 515.2), (69.6, 515.5), (73.5, 515.5), (79.4, 515.5),
    (83.7, 518.6), (88.2, 519.4), (92.2, 519.4), (96.1, 524.0), (100.5, 519.7), (104.8, 519.1),
    (108.8, 515.8), (112.3, 515.8), (118.8, 518.1), (122.3, 518.1), (127.5, 518.1),
    (132.6, 516.0), (136.2, 515.7), (139.6, 516.2), (144.5, 516.5), (149.9, 516.2),
    (154.0, 517.1), (158.7, 516.6), (163.9, 516.6), (167.3, 516.3), (173.3, 516.6),
    (178.8, 516.0), (183.3, 518.8), (187.5, 519.5), (190.8, 520.4), (195.3, 519.5),
    (199.5, 519.5), (202.8, 519.5), (210.2, 519.7), (216.0, 519.7), (220.4, 517.2),
    (227.0, 516.9), (231.0, 516.9), (235.8, 520.1), (239.4, 517.5), (244.7, 517.5),
    (250.7, 517.5), (254.6, 519.8), (257.7, 520.1), (261.5, 519.8), (266.9, 520.3),
    (271.6, 519.7), (275.5, 520.9), (281.6, 520.4), (286.9, 520.4), (291.1, 521.0),
    (297.1, 520.8),
]  # fmt: skip


@pytest.mark.parametrize(("leak", "found"), [(0.0, False), (2.0, True)])
def test_a_real_course_with_and_without_a_leak(leak, found):
    course = [Vitals(t, mb + leak * t / 60.0, mb + 250.0, 69, 23) for t, mb in RECORDED]
    assert bool(leaks(course, 1.0)) == found, growth(course)


LEAKING = """
import sys
kept, numbers = [], iter(range(10**9))
for line in sys.stdin:
    work = [bytearray(b"x") * (n * 50_000) for n in range(1, next(numbers) % 7 + 2)]
    kept.append(bytearray(b"x") * int(line))
    print(flush=True)
"""


@pytest.mark.parametrize("leak", [0.0, 2.0])
def test_a_process_that_leaks_is_found(leak):
    """A real one; only the clock is ours: six minutes, a look every three seconds."""
    found = []
    with subprocess.Popen(
        [sys.executable, "-c", LEAKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        for look in range(120):
            child.stdin.write(f"{int(leak * 1e6 / 20)}\n".encode())
            child.stdin.flush()
            child.stdout.readline()
            found.append(vitals_of(psutil.Process(child.pid), 3.0 * look))
        child.stdin.close()
    assert bool(leaks(found, 1.0)) == (leak > 0.0), growth(found)


def test_threads_and_files_that_stay_are_found():
    count = len(looks(2.0, 0.0))
    assert "threads grew from 59" in leaks(looks(2.0, 0.0, threads=40 + np.arange(count)), 1.0)[0]
    assert "files grew" in leaks(looks(2.0, 0.0, files=20 + np.arange(count) // 2), 1.0)[0]
    assert leaks([], 1.0) == []


@pytest.mark.ros
@pytest.mark.long
def test_a_minute_of_everything_going_wrong(tmp_path: Path):
    output = tmp_path / "soak.json"
    arguments = ["--minutes", "0.3", "--seed", "7", "--output", str(output)]
    arguments += ["--log", str(tmp_path / "log")]
    result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    figures = json.loads(output.read_text(encoding="utf-8"))
    assert json.loads(result.stdout) == figures
    assert figures["failures"] == []
    kinds = [name for name in figures["injected"] if not name.startswith(" ")]
    assert len(kinds) == 9
    frames = figures["frames"]
    assert frames["sent"] == frames["received"] + frames.get("ignored", 0)
    assert frames["received"] == frames["processed"] + frames["dropped"] + frames["refused"]
    assert frames["processed"] > 20
    assert 0 < frames["refused"] <= frames["bad"]
    assert len(figures["active"]["looks"]) >= LEAST_LOOKS


IMPATIENT = (
    "from aliked_ros.cli.main import main; from aliked_ros.ros import processes; "
    "from aliked_ros.ros.soak import scenario; "
    "processes._STOP_TIMEOUT = 1.0; scenario._PATIENCE = 15.0; main()"
)


@pytest.mark.ros
@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGSEGV, "the front-end ended with status -11"),
        (signal.SIGSTOP, "hang: "),
    ],
)
def test_a_node_that_dies_or_hangs_is_named(tmp_path: Path, number: int, words: str):
    log = tmp_path / "log"
    hangs = number == signal.SIGSTOP
    command = [sys.executable, "-c", IMPATIENT, *COMMAND[3:]] if hangs else COMMAND
    with (tmp_path / "out").open("wb") as output:
        soak = subprocess.Popen(
            [*command, "--minutes", "0.5", "--log", str(log)], stdout=output, stderr=output
        )
    deadline = time.monotonic() + 300.0
    while not (log.exists() and "'mark 1'" in log.read_text(errors="replace")):
        assert time.monotonic() < deadline  # until it refuses the first image that it has to
        time.sleep(0.2)
    (node,) = psutil.Process(soak.pid).children()
    node.send_signal(number)
    assert soak.wait(300.0) == 1
    assert words in (tmp_path / "out").read_text(errors="replace")
