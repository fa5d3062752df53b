"""What listeners cost the front-end: one running node, listened to by other processes or not.

The camera is this process; the front-end (profile ``cpu``) and each listener are processes of
their own, all on the cores of this machine. Every contender has its period in every round, in a
random order; compared are images processed a second, and the front-end's processor time an image.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_ros.benchmark.timing import interval
from aliked_ros.ros.conversions import image_message
from aliked_ros.ros.listener import TOPICS
from aliked_ros.ros.processes import Child, Watcher, children, join_private_domain
from aliked_ros.share import share_path
from aliked_ros.types import UInt8Array

_ALL = " ".join(TOPICS)
CONTENDERS: dict[str, tuple[int, str]] = {
    "nobody": (0, ""),
    "one, features": (1, "features"),
    "one, tracks/image": (1, "tracks/image"),
    "one, tracks/markers": (1, "tracks/markers"),
    "one, everything": (1, _ALL),
    "five, everything": (5, _ALL),
}
"""Number of listeners, and what each listens to; the first one is the baseline."""

RATES = (10.0, 60.0)
"""Images a second: of a camera that the node can follow, and of one that it cannot."""

_PERIOD = 5.0  # seconds measured
_SETTLING = 1.5  # seconds after a change
_TIMEOUT = 600.0  # seconds: networks may have to be exported first


def node_suite(
    images: list[UInt8Array], rounds: int, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Rates and processor time by listeners, for each of RATES. Raises ProcessError."""
    watcher = Watcher(join_private_domain())
    order = np.random.default_rng(0)
    samples: dict[tuple[float, str], list[tuple[float, float]]] = {
        (rate, name): [] for rate in RATES for name in CONTENDERS
    }
    total, done = rounds * len(samples), 0
    try:
        with tempfile.TemporaryDirectory() as folder, children() as start:
            logs = Path(folder)
            frontend: Child = start(
                "front-end",
                "aliked_ros.ros.frontend_node",
                {"status_period": 0.05},
                logs / "frontend.log",
                share_path("config/cpu.yaml"),
            )
            watcher.wait_for_start(_TIMEOUT, frontend)
            for _ in range(rounds):
                for index in order.permutation(len(samples)):
                    rate, name = key = list(samples)[index]
                    with _camera(watcher, images, rate), _listeners(logs, *CONTENDERS[name]):
                        samples[key].append(_measure(watcher, frontend))
                    done += 1
                    progress(done / total)
    finally:
        watcher.close()
    return {"baseline": next(iter(CONTENDERS)), "rates": [_table(rate, samples) for rate in RATES]}


def _table(
    rate: float, samples: dict[tuple[float, str], list[tuple[float, float]]]
) -> dict[str, Any]:
    rows, base = [], np.array(samples[rate, next(iter(CONTENDERS))])
    for name in CONTENDERS:
        found = np.array(samples[rate, name])
        share, low, high = interval(found[:, 0] / base[:, 0])
        rows.append(
            {
                "name": name,
                "rounds": len(found),
                "processed_hz": round(float(np.median(found[:, 0])), 2),
                "of_baseline": share,
                "low": low,
                "high": high,
                "cpu_ms": round(float(np.median(found[:, 1])), 1),
            }
        )
    return {"images_hz": rate, "listeners": rows}


def _measure(watcher: Watcher, frontend: Child) -> tuple[float, float]:
    """Images processed a second, and the front-end's processor milliseconds an image."""
    watcher.spin(_SETTLING)
    process = psutil.Process(frontend.pid)
    began, count, spent = time.monotonic(), watcher.status.frames_processed, _seconds(process)
    watcher.spin(_PERIOD)
    took, processed = time.monotonic() - began, watcher.status.frames_processed - count
    return processed / took, 1e3 * (_seconds(process) - spent) / max(processed, 1)


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def _listeners(logs: Path, count: int, topics: str) -> Iterator[None]:
    with children() as start:
        for number in range(count):
            log = logs / f"listener{number}.log"
            start("listener", "aliked_ros.ros.listener", {"topics": topics}, log)
        yield


@contextmanager
def _camera(watcher: Watcher, images: list[UInt8Array], rate: float) -> Iterator[None]:
    """Publish the images there and back, until the block ends."""
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = watcher.node.create_publisher(ImageMessage, "image", qos)
    messages = [image_message(pixels, Header(frame_id="camera")) for pixels in images]
    messages += messages[-2:0:-1]
    ended = threading.Event()

    def publish() -> None:
        number, due = 0, time.monotonic()
        while not ended.wait(max(due - time.monotonic(), 0.0)):
            message = messages[number % len(messages)]
            message.header.stamp = watcher.node.get_clock().now().to_msg()
            publisher.publish(message)
            number, due = number + 1, max(due + 1.0 / rate, time.monotonic())

    thread = threading.Thread(target=publish, name="camera")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(Exception):  # shutting down: it is gone already
            watcher.node.destroy_publisher(publisher)
