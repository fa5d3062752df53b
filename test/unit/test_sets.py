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

"""Images of several cameras put together by stamp, with the clock in the test's hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_ros.ros.frame import Frame
from aliked_ros.ros.rig_worker import RigWorker
from aliked_ros.ros.sets import SILENT, Sets

MS = 1_000_000  # nanoseconds
PERIOD = 100 * MS
START = 1_700_000_000_000 * MS


class Bench:
    """Hands images over at given times, and notes the sets that go."""

    def __init__(self, *cameras: str, tolerance: float = 0.005, wait: float = 0.05) -> None:
        self.sets: Sets[str] = Sets(tolerance, wait)
        self.gone: list[tuple[float, str]] = []  # time, names of the cameras in it
        for camera in cameras:
            self.sets.join(camera)

    def add(self, camera: str, stamp: int, now: float) -> bool:
        self.wait(now)
        taken = self.sets.add(camera, START + stamp, f"{camera}{stamp // PERIOD}", now)
        self._release(now)
        return taken

    def wait(self, now: float) -> None:
        while self.sets.deadline is not None and self.sets.deadline <= now:
            self._release(self.sets.deadline)

    def _release(self, now: float) -> None:
        for one in self.sets.release(now):
            self.gone.append((round(now, 6), " ".join(sorted(one.items.values()))))


def test_a_complete_set_goes_at_once_in_whatever_order_it_came():
    bench = Bench("a", "b", "c")
    for index, order in enumerate(("abc", "cab", "bca")):
        for place, camera in enumerate(order):
            bench.add(camera, index * PERIOD + place * MS, index * 0.1 + place * 0.001)
    assert bench.gone == [(0.002, "a0 b0 c0"), (0.102, "a1 b1 c1"), (0.202, "a2 b2 c2")]


def test_a_lost_image_holds_a_set_up_until_its_camera_sends_the_next():
    bench = Bench("a", "b", wait=0.5)
    bench.add("a", 0, 0.0)
    bench.add("a", PERIOD, 0.1)
    bench.add("b", PERIOD, 0.1)
    assert bench.gone == [(0.1, "a0"), (0.1, "a1 b1")]


def test_a_late_image_is_dropped_and_its_delay_known():
    bench = Bench("a", "b", wait=0.05)
    bench.add("a", 0, 0.0)
    bench.wait(0.07)
    assert bench.gone == [(0.05, "a0")]
    assert not bench.add("b", 0, 0.08)
    assert bench.sets.delays == {"b": 0.08}
    bench.add("a", PERIOD, 0.1)
    assert bench.add("b", PERIOD, 0.11)
    assert bench.gone[1:] == [(0.11, "a1 b1")]
    assert not bench.sets.delays


def test_a_dead_camera_is_waited_for_ten_times_and_taken_back_when_it_returns():
    bench = Bench("a", "b", "dead")
    for index in range(SILENT + 5):
        for camera in "ab":
            bench.add(camera, index * PERIOD, index * 0.1)
    bench.wait(10.0)
    delays = [round(time - index * 0.1, 6) for index, (time, _) in enumerate(bench.gone)]
    assert delays == [0.05] * SILENT + [0.0] * 5
    index = SILENT + 5
    for camera in ("a", "b"):
        bench.add(camera, index * PERIOD, index * 0.1)
    assert not bench.add("dead", index * PERIOD, index * 0.1 + 0.01), "its set was not held up"
    index += 1
    for camera in ("a", "b"):
        bench.add(camera, index * PERIOD, index * 0.1)
    assert bench.add("dead", index * PERIOD, index * 0.1 + 0.01)
    assert bench.gone[-1] == (round(index * 0.1 + 0.01, 6), f"a{index} b{index} dead{index}")


def test_a_camera_with_another_clock_goes_alone_and_the_others_stay_together():
    for shift in (-100_000 * MS, 100_000 * MS):
        bench = Bench("a", "b", "c")
        for index in range(20):
            now = index * 0.1
            bench.add("a", index * PERIOD, now)
            bench.add("c", index * PERIOD + shift, now + 0.001)
            bench.add("b", index * PERIOD, now + 0.002)
        bench.wait(10.0)
        together = [names for _, names in bench.gone if names.startswith("a")]
        assert together == [f"a{index} b{index}" for index in range(20)]
        assert round(bench.sets.offsets["c"]) == 100
        assert len(bench.gone) == 40, "nothing is lost"


@pytest.mark.parametrize("cameras", [("left", "front"), ("left",)])
def test_the_offset_is_that_to_the_nearest_item_whoever_comes_first(cameras: tuple[str, ...]):
    """As of a rig whose right camera triggers 30 ms late."""
    bench = Bench(*cameras, "right")
    for index in range(5):
        for camera in cameras:
            bench.add(camera, 5 * index * PERIOD, 0.5 * index)
            assert bench.sets.offsets.get("right", 0.03) == pytest.approx(0.03)
            assert bench.sets.offsets.get("left", 0.03) == pytest.approx(0.03)
        bench.add("right", 5 * index * PERIOD + 30 * MS, 0.5 * index + 0.03)
    assert "right" in bench.sets.offsets


def test_stamps_that_jump_back_cost_one_set():
    bench = Bench("a", "b")
    for base in (1000, 0):
        for index in range(5):
            for camera in "ab":
                bench.add(camera, (base + index) * PERIOD, (1000 - base + index) * 0.1)
    complete = [names for _, names in bench.gone if " " in names]
    assert len(complete) >= 9


def test_a_camera_that_leaves_is_not_waited_for():
    bench = Bench("a", "b")
    bench.add("a", 0, 0.0)
    bench.add("b", PERIOD, 0.01)
    assert bench.sets.leave("b") == 1
    bench.add("a", PERIOD, 0.02)
    assert [names for _, names in bench.gone] == ["a0", "a1"]


class SlowWork:
    """A worker whose sets take until they are let go."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go = threading.Semaphore(0)
        self.worker = RigWorker(0.005, 0.02, self._work)
        self.ports = {name: self.worker.open(name, None) for name in "ab"}

    def _work(self, jobs: Mapping[str, Any]) -> None:
        stamp = next(iter(jobs.values())).frame.header.stamp.sec
        self.begun.append("".join(sorted(jobs)) + str(stamp))
        self.go.acquire()

    def submit(self, names: str, stamp: int) -> list[int]:
        message = ImageMessage(header=Header(stamp=Time(sec=stamp)))
        return [self.ports[name].submit(Frame(message, 0.0)) for name in names]


@pytest.fixture
def slow() -> Iterator[SlowWork]:
    work = SlowWork()
    yield work
    for _ in range(100):
        work.go.release()
    work.worker.close()


def wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_the_newest_set_wins_and_each_camera_counts_its_drops(slow: SlowWork):
    slow.submit("ab", 1)
    wait(lambda: slow.begun == ["ab1"])
    assert slow.submit("ab", 2) == [0, 0]
    assert slow.submit("ab", 3) == [0, 1], "that of set 2; the first camera's is told next time"
    slow.go.release()
    wait(lambda: slow.begun == ["ab1", "ab3"])
    assert slow.submit("ab", 4) == [1, 0]
    assert slow.submit("a", 5) == [0]
    time.sleep(0.1)  # set 5 goes without b: set 4 has a camera that 5 has not
    for _ in range(2):
        slow.go.release()
    wait(lambda: slow.begun == ["ab1", "ab3", "ab4", "a5"])


def test_a_camera_that_stops_waits_for_its_image_in_work(slow: SlowWork):
    slow.submit("ab", 1)
    wait(lambda: slow.begun == ["ab1"])
    slow.submit("ab", 2)
    left: list[int] = []
    thread = threading.Thread(target=lambda: left.append(slow.ports["a"].stop()))
    thread.start()
    time.sleep(0.05)
    assert not left
    slow.go.release()
    thread.join(10.0)
    assert left == [1], "the image that waited is dropped"
    wait(lambda: slow.begun == ["ab1", "b2"])
