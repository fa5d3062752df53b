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

"""The front-end node end to end: from an image's publication to its features' arrival.

The camera is this process; the front-end (profile ``cpu``) and each subscriber are processes of
their own, all on the cores of this machine. Every contender has its period in every round, in a
random order.

Two questions. How late and how many are features, at camera rates that the node can and cannot
follow, with no, one and five subscribers? And what does each output cost: the front-end's processor
time an image with one subscriber to that topic alone, against none.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_msgs.msg import FrontendStatus
from aliked_ros.benchmark.listener import TOPICS
from aliked_ros.benchmark.timing import interval
from aliked_ros.io.messages import nanoseconds, seconds
from aliked_ros.ros.camera_output import camera_info
from aliked_ros.ros.conversions import image_message
from aliked_ros.ros.processes import (
    FRONTEND,
    Child,
    ProcessError,
    Watcher,
    children,
    join_private_domain,
)
from aliked_ros.system.share import share_path
from aliked_ros.types import Float64Array, UInt8Array

logger = logging.getLogger(__name__)

_LISTENER = "aliked_ros.benchmark.listener"

_HERE = [topic for topic, kind in TOPICS.items() if kind() is not None]
_ALL = " ".join(_HERE)
CONTENDERS: dict[str, tuple[int, str]] = {
    "nobody": (0, ""),
    "one, features": (1, "features"),
    "five, everything": (5, _ALL),
}
"""Number of subscribers, and what each subscribes to; the first one is the baseline."""

RATES = (10.0, 30.0, 60.0)
"""Images a second: of a camera that the node can follow, and of those that it cannot."""

TOPIC_RATE = 10.0
"""Images a second for the cost of each topic; one that the node can follow."""

COSTS: dict[str, tuple[int, str]] = {topic: (1, topic) for topic in _HERE}
"""As CONTENDERS, for the cost of each topic."""

_STATUS_PERIOD = 0.05  # seconds: of each processed image at up to 20 a second
_PERIOD = 4.0  # seconds measured
_SETTLING = 1.5  # seconds after a change
_TIMEOUT = 600.0  # seconds: TensorRT engines may have to be built first
_FINDING = 60.0  # seconds for subscribers to start and to be found
_FOCAL = 525.0  # pixels


@dataclass(slots=True)
class Sample:
    """One period of one contender.

    took: seconds. published: number of images; received, processed and dropped (for a newer one)
    by the node. spent: processor seconds of the front-end. announced: seconds from the images'
    stamps to their features' publication, as the node tells them. detections_hz: detections a
    second, as the node tells them. arrived: seconds from stamp to arrival, of all subscribers;
    lost: messages missing among them.
    """

    took: float
    received: int
    processed: int
    dropped: int
    spent: float
    announced: list[float]
    detections_hz: float
    published: int = 0
    arrived: Float64Array = field(default_factory=lambda: np.zeros(0))
    lost: int = 0

    @property
    def processed_hz(self) -> float:
        """Images processed a second."""
        return self.processed / self.took

    @property
    def cpu_ms(self) -> float:
        """Processor milliseconds of the front-end an image."""
        return 1e3 * self.spent / max(self.processed, 1)


def node_suite(
    images: list[UInt8Array], rounds: int, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Latency, drops and processor time by camera rate and subscribers; cost of each topic.

    Raises ProcessError.
    """
    watcher = Watcher(join_private_domain())
    order = np.random.default_rng(0)
    plan = {(rate, name): CONTENDERS[name] for rate in RATES for name in CONTENDERS}
    nobody = next(iter(CONTENDERS))
    plan.setdefault((TOPIC_RATE, nobody), CONTENDERS[nobody])
    plan |= {(TOPIC_RATE, _topic(name)): COSTS[name] for name in COSTS}
    samples: dict[tuple[float, str], list[Sample]] = {key: [] for key in plan}
    total, done = rounds * len(plan), 0
    try:
        with tempfile.TemporaryDirectory() as folder, children() as start:
            logs = Path(folder)
            frontend = start_frontend(start, watcher, logs, {})
            for _ in range(rounds):
                for index in order.permutation(len(plan)):
                    key = list(plan)[index]
                    found = sample(watcher, frontend, images, key[0], *plan[key], logs)
                    samples[key].append(found)
                    done += 1
                    progress(done / total)
    finally:
        watcher.close()
    return {
        "baseline": nobody,
        "setting": f"profile cpu, {images[0].shape[1]}×{images[0].shape[0]} rgb8",
        "rates": [{"images_hz": rate, "listeners": _rows(rate, samples, nobody)} for rate in RATES],
        "topics": {
            "images_hz": TOPIC_RATE,
            "rows": _costs(samples, nobody),
            "left_out": {
                topic: "its message type is not installed" for topic in TOPICS if topic not in _HERE
            },
        },
    }


def _topic(name: str) -> str:
    return f"only {name}"


def start_frontend(
    start: Callable[..., Child], watcher: Watcher, logs: Path, parameters: dict[str, Any]
) -> Child:
    """The front-end, active, with profile ``cpu`` and these parameters besides.

    start: see ``children``. Raises ProcessError.
    """
    begin = watcher.node.get_clock().now().nanoseconds
    frontend: Child = start(
        "front-end",
        "aliked_ros.ros.frontend_node",
        {"status_period": _STATUS_PERIOD, **parameters},
        logs / "frontend.log",
        share_path("config/cpu.yaml"),
    )

    def new() -> bool:  # not what a front-end before it said
        return nanoseconds(watcher.status.header.stamp) > begin

    watcher.wait(new, _TIMEOUT, "the front-end publishes no status", frontend)
    watcher.wait_for_start(_TIMEOUT, frontend)
    return frontend


def sample(
    watcher: Watcher,
    frontend: Child,
    images: list[UInt8Array],
    rate: float,
    count: int,
    topics: str,
    logs: Path,
    settling: float = _SETTLING,
) -> Sample:
    """A period of ``count`` subscribers to ``topics`` while a camera publishes at ``rate``.

    logs: folder of what the processes write. settling: seconds before the period.
    Raises ProcessError.
    """
    with (
        _camera(watcher, images, rate) as stamps,
        _listeners(watcher, logs, count, topics) as files,
    ):
        begin, end, found = _measure(watcher, frontend, settling)
    found.published = sum(begin <= stamp < end for stamp in stamps)
    noted = [np.fromfile(file, np.int64).reshape(-1, 3) for file in files]
    noted = [table[(begin <= table[:, 0]) & (table[:, 0] < end)] for table in noted]
    for stamp, arrival, index in (table.T for table in noted if len(table)):
        found.arrived = np.append(found.arrived, (arrival - stamp) * 1e-9)
        found.lost += int(index[-1] - index[0] + 1 - len(index))
    return found


def _measure(watcher: Watcher, frontend: Child, settling: float) -> tuple[int, int, Sample]:
    """Begin and end of the period, nanoseconds, and what the node did in it."""
    announced: list[float] = []
    counts: list[int] = []

    def note(status: FrontendStatus) -> None:
        stages = dict(zip(status.stage_names, status.stage_last, strict=True))
        if counts and status.frames_processed > counts[-1] and "total" in stages:
            announced.append(stages.get("receive", 0.0) + stages["total"])
        counts.append(status.frames_processed)

    watcher.spin(settling)
    process = psutil.Process(frontend.pid)
    subscription = watcher.node.create_subscription(FrontendStatus, f"{FRONTEND}/status", note, 10)
    try:
        first, spent = watcher.status, _seconds(process)
        watcher.spin(_PERIOD)
        last, spent = watcher.status, _seconds(process) - spent
    finally:
        watcher.node.destroy_subscription(subscription)
    frontend.check()
    begin, end = (int(1e9 * seconds(status.header.stamp)) for status in (first, last))
    received, processed, dropped = (
        getattr(last, name) - getattr(first, name)
        for name in ("frames_received", "frames_processed", "frames_dropped")
    )
    took = max((end - begin) * 1e-9, 1e-3)
    detected = float(last.detection_rate)
    return begin, end, Sample(took, received, processed, dropped, spent, announced, detected)


def _rows(
    rate: float, samples: dict[tuple[float, str], list[Sample]], nobody: str
) -> list[dict[str, Any]]:
    return [describe(name, samples[rate, name], samples[rate, nobody]) for name in CONTENDERS]


def describe(name: str, found: list[Sample], base: list[Sample]) -> dict[str, Any]:
    """A contender's row: figures of all its rounds, and the share of the baseline's images."""
    processed = np.array([sample.processed_hz for sample in found])
    share, low, high = interval(processed / [sample.processed_hz for sample in base])
    took, published, received = (
        sum(getattr(s, name) for s in found) for name in ("took", "published", "received")
    )
    row: dict[str, Any] = {
        "name": name,
        "rounds": len(found),
        "processed_hz": round(float(np.median(processed)), 2),
        "of_baseline": share,
        "low": low,
        "high": high,
        "cpu_ms": round(float(np.median([s.cpu_ms for s in found])), 1),
        "cpu_cores": round(sum(s.spent for s in found) / took, 2),
        "published_hz": round(published / took, 2),
        "not_received": _share(max(published - received, 0), published),
        "dropped": _share(sum(s.dropped for s in found), received),
        "to_publication": _latency([np.array(s.announced) for s in found]),
    }
    arrived = sum(len(s.arrived) for s in found)
    if arrived:
        lost = sum(s.lost for s in found)
        row["to_arrival"] = _latency([s.arrived for s in found])
        row["features_lost"] = _share(lost, arrived + lost)
    return row


def _costs(samples: dict[tuple[float, str], list[Sample]], nobody: str) -> list[dict[str, Any]]:
    base = np.array([sample.cpu_ms for sample in samples[TOPIC_RATE, nobody]])
    rows = []
    for name in (nobody, *COSTS):
        key = nobody if name == nobody else _topic(name)
        own = np.array([sample.cpu_ms for sample in samples[TOPIC_RATE, key]])
        extra, low, high = interval(own - base)
        rows.append(
            {
                "name": name,
                "rounds": len(own),
                "cpu_ms": round(float(np.median(own)), 2),
                "extra_cpu_ms": round(extra, 2),
                "low": round(low, 2),
                "high": round(high, 2),
            }
        )
    return rows


def _latency(rounds: list[Float64Array]) -> dict[str, float] | None:
    """Percentiles of all rounds together, ms, and the interval of the rounds' medians."""
    rounds = [one for one in rounds if len(one)]
    if not rounds:
        return None
    median, p90, p99 = 1e3 * np.percentile(np.concatenate(rounds), (50, 90, 99))
    _, low, high = interval(np.array([1e3 * np.median(one) for one in rounds]))
    figures = {"median_ms": median, "low_ms": low, "high_ms": high, "p90_ms": p90, "p99_ms": p99}
    return {name: round(float(value), 2) for name, value in figures.items()}


def _share(some: int, all_of_them: int) -> float:
    return round(some / max(all_of_them, 1), 4)


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def _listeners(watcher: Watcher, logs: Path, count: int, topics: str) -> Iterator[list[Path]]:
    """Subscribers; files of those that note when features arrive, there after the block."""
    files = []
    measured = False
    try:
        with children() as start:
            listeners = []
            for number in range(count):
                parameters = {"topics": topics}
                if "features" in topics.split():
                    files.append(logs / f"arrivals{number}")
                    files[-1].unlink(missing_ok=True)
                    parameters["arrivals"] = str(files[-1])
                log = logs / f"listener{number}.log"
                listeners.append(start("listener", _LISTENER, parameters, log))
            for topic in topics.split():
                own = 1 if topic == "status" else 0  # the watcher's

                def complete(topic: str = topic, own: int = own) -> bool:
                    found: int = watcher.node.count_subscribers(f"{FRONTEND}/{topic}")
                    return found >= count + own

                watcher.wait(complete, _FINDING, f"nobody subscribed to {topic}", *listeners)
            yield files
            measured = True
    except ProcessError as error:
        # Seen: status -11 of a listener that leaves DDS while messages come. It has written what it
        # noted by then, so the measurement counts.
        if not measured or not all(file.is_file() for file in files):
            raise
        logger.warning("after a measurement: %s", error)


@contextmanager
def _camera(watcher: Watcher, images: list[UInt8Array], rate: float) -> Iterator[list[int]]:
    """Publish the images there and back, until the block ends; gives their stamps, nanoseconds."""
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = watcher.node.create_publisher(ImageMessage, "image", qos)
    infos = watcher.node.create_publisher(CameraInfo, "camera_info", qos)
    messages = [image_message(pixels, Header(frame_id="camera")) for pixels in images]
    messages += messages[-2:0:-1]
    height, width = images[0].shape[:2]
    info = camera_info(  # what needs a calibration is published then, too
        {
            "width": width, "height": height, "fx": _FOCAL, "fy": _FOCAL,
            "cx": (width - 1) / 2, "cy": (height - 1) / 2,
        }
    )  # fmt: skip
    assert info is not None
    info.header.frame_id = "camera"
    stamps: list[int] = []
    ended = threading.Event()

    def publish() -> None:
        number, due = 0, time.monotonic()
        while not ended.wait(max(due - time.monotonic(), 0.0)):
            message = messages[number % len(messages)]
            now = watcher.node.get_clock().now()
            info.header.stamp = message.header.stamp = now.to_msg()
            infos.publish(info)
            publisher.publish(message)
            stamps.append(now.nanoseconds)
            number, due = number + 1, max(due + 1.0 / rate, time.monotonic())

    thread = threading.Thread(target=publish, name="camera")
    thread.start()
    try:
        yield stamps
    finally:
        ended.set()
        thread.join()
        for one in (publisher, infos):
            with suppress(Exception):  # shutting down: it is gone already
                watcher.node.destroy_publisher(one)
