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

"""`aliked_ros view`: the page, live and of a recording, looked at in headless Chromium."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import cv2
import numpy as np
import pytest

from helpers import ROOT

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("rerun", reason="make setup GROUP=test")

from aliked_ros.ros.conversions import image_message
from aliked_ros.sources import open_source
from aliked_ros.types import UInt8Array
from aliked_ros.viewing.page import length_colours
from helpers.recordings import Recorded, record_run
from helpers.ros import START_TIMEOUT, Probe, RosProcess, environment

sys.path.insert(0, str(ROOT / "tools"))
from browser import Browser, find_chromium

pytestmark = [pytest.mark.ros, pytest.mark.long]
WIDTH, HEIGHT = 1280, 760
# Of the page: what shows what, as shares of its width and height.
IMAGE = (0.0, 0.05, 0.5, 0.6)
SCENE = (0.0, 0.63, 0.5, 0.96)
STAGES = (0.5, 0.05, 1.0, 0.3)
RATES = (0.5, 0.33, 0.75, 0.56)
LENGTHS = (0.5, 0.6, 0.75, 0.83)
# A page is drawn by the CPU here, which other tests may have.
PAGE_TIMEOUT = 300.0
COMMAND = [sys.executable, "-m", "aliked_ros.cli", "view"]


def chromium() -> str:
    command = find_chromium()
    if command is None:
        pytest.skip("no Chromium: apt install chromium")
    return command


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser(chromium(), WIDTH, HEIGHT) as one:
        yield one


def look(browser: Browser) -> np.ndarray:
    """What the browser shows, RGB."""
    encoded = np.frombuffer(browser.picture(), np.uint8)
    return cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def part(shown: np.ndarray, area: tuple[float, float, float, float]) -> np.ndarray:
    left, top, right, bottom = area
    return shown[int(top * HEIGHT) : int(bottom * HEIGHT), int(left * WIDTH) : int(right * WIDTH)]


def half(pixels: np.ndarray) -> np.ndarray:
    return cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def likeness(shown: np.ndarray, pixels: UInt8Array) -> float:
    """How well a grey camera image is found in a part of the page, at the best size and place."""
    grey = half(cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY))  # a quarter of the time
    pixels = half(pixels)
    best = -1.0
    for scale in np.linspace(0.5, 1.0, 51):
        small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if small.shape[0] <= grey.shape[0] and small.shape[1] <= grey.shape[1]:
            found = cv2.matchTemplate(grey, small, cv2.TM_CCOEFF_NORMED)
            best = max(best, float(found.max()))
    return best


def coloured(shown: np.ndarray, colour: tuple[int, int, int], tolerance: int = 24) -> int:
    """Number of pixels of about this colour."""
    return int((np.abs(shown.astype(int) - colour).max(axis=-1) <= tolerance).sum())


def vivid(shown: np.ndarray) -> int:
    """Number of pixels with a colour, which a grey camera image has none of."""
    return int((shown.max(axis=-1).astype(int) - shown.min(axis=-1) > 90).sum())


def wait_for(browser: Browser, condition: Callable[[np.ndarray], Any], what: str) -> np.ndarray:
    """Look until the page shows something; that picture. Fails with the last one kept."""
    last: list[np.ndarray] = []

    def seen() -> bool:
        last[:] = [look(browser)]
        return bool(condition(last[0]))

    try:
        browser.wait(seen, PAGE_TIMEOUT, what)
    except TimeoutError:
        path = Path(tempfile.gettempdir()) / "test_view_failure.png"
        cv2.imwrite(str(path), last[0][..., ::-1])
        pytest.fail(f"the page never shows {what}: {path}")
    return last[0]


def assert_local(browser: Browser) -> None:
    """The page asked this machine only."""
    assert any("ReadMessages" in request for request in browser.requests)
    others = [
        r for r in browser.requests if not r.startswith(("http://localhost:", "data:", "blob:"))
    ]
    assert others == []


class View:
    """The command in a process of its own, and the address of its page."""

    def __init__(self, log: Path, *arguments: Any) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*COMMAND, "--no-open", *map(str, arguments)],
                stdout=output, stderr=subprocess.STDOUT, env=environment(),
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
        self.url = self._url()

    def _url(self) -> str:
        deadline = time.monotonic() + START_TIMEOUT
        while (found := re.search(r"http://localhost:\d+", self.text())) is None:
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return found[0]

    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def end(self) -> None:
        """Ctrl-C ends it, and well."""
        assert self.process.poll() is None, self.text()
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0
        assert "Traceback" not in self.text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record_run(tmp_path_factory.mktemp("run") / "run.mcap")


def test_a_recording_on_the_page(tmp_path, run, browser):
    view = View(tmp_path / "view.log", run.path, "--port", 0)
    try:
        browser.open(view.url)
        last = run.pixels[-1]
        # of tracks of 14 images, and of those just found
        colours = [tuple(colour.tolist()) for colour in length_colours([14, 1])]

        def complete(page: np.ndarray) -> bool:
            image = part(page, IMAGE)
            enough = all(coloured(image, colour, 40) > 100 for colour in colours)
            return enough and likeness(image, last) > 0.6

        shown = wait_for(browser, complete, "the last image and its tracks")
        image = part(shown, IMAGE)
        assert likeness(image, last) > likeness(image, run.pixels[0]) + 0.05
        assert coloured(part(shown, LENGTHS), (138, 99, 210), 45) > 500
        assert coloured(part(shown, RATES), (40, 160, 70), 50) > 50  # processed
        assert coloured(part(shown, RATES), (230, 140, 20), 50) > 50  # dropped
        assert coloured(part(shown, STAGES), (214, 39, 40), 50) > 50  # extract
        scene = part(shown, SCENE)
        assert coloured(scene, (220, 40, 40), 60) > 30  # the trajectory
        assert vivid(scene) > 1000  # the wall, coloured by height
        assert_local(browser)
        view.end()
    finally:
        view.kill()


@pytest.fixture
def probe() -> Iterator[Probe]:
    probe = Probe()
    yield probe
    probe.close()


def test_the_running_nodes_on_the_page(tmp_path, probe, browser):
    # the page first: it waits for whoever comes
    view = View(tmp_path / "view.log", "--port", 0)
    frontend = RosProcess(
        "aliked_ros.ros.frontend_node", tmp_path / "frontend.log",
        "-p", "max_keypoints:=300", "-p", "matcher:=nearest", "-p", "status_period:=0.2",
    )  # fmt: skip
    try:
        images = [image.pixels for image in open_source("virtual", limit=12)]
        images = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) if p.ndim == 3 else p for p in images]
        probe.wait_for_state("active", START_TIMEOUT)
        probe.wait_connected()
        probe.wait(lambda: probe.images.get_subscription_count() >= 2)
        browser.open(view.url)
        browser.wait(
            lambda: any("ReadMessages" in r for r in browser.requests), PAGE_TIMEOUT, "the viewer"
        )
        for pixels in images:
            probe.send(image_message(pixels, header_of(probe)))
            probe.spin(0.15)
        last = images[-1]

        def complete(page: np.ndarray) -> bool:
            probe.spin(0.1)
            return (
                likeness(part(page, IMAGE), last) > 0.6
                and coloured(part(page, LENGTHS), (138, 99, 210), 45) > 500
                and coloured(part(page, RATES), (40, 160, 70), 50) > 50
            )

        shown = wait_for(browser, complete, "the last image with tracks, lengths and rates")
        with_tracks = vivid(part(shown, IMAGE))
        assert with_tracks > 2000
        # The front-end goes: the page shows the camera's image alone.
        assert frontend.stop() == 0
        other = np.ascontiguousarray(images[0][::-1])

        def alone(page: np.ndarray) -> bool:
            probe.images.publish(image_message(other, header_of(probe)))
            probe.spin(0.2)
            image = part(page, IMAGE)
            return likeness(image, other) > 0.8 and vivid(image) < 0.1 * with_tracks

        wait_for(browser, alone, "the image without tracks")
        assert_local(browser)
        assert "cannot be shown" not in view.text()
        view.end()
    finally:
        view.kill()
        if frontend.alive():
            frontend.stop(signal.SIGKILL)


def header_of(probe: Probe) -> Any:
    from std_msgs.msg import Header

    return Header(stamp=probe.node.get_clock().now().to_msg(), frame_id="camera")


def test_a_taken_port_is_a_clear_error(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, run.path, "--no-open", "--port", str(port)],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    assert done.returncode == 2
    error = done.stderr.strip().splitlines()[-1]
    assert f"port {port}" in error
    assert "--port" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/nowhere.mcap"], "/nowhere.mcap does not exist"),
        (["RUN", "--memory-limit", "much"], "the memory limit is 'much'"),
    ],
)
def test_bad_arguments_are_a_line(run, arguments, words):
    arguments = [str(run.path) if one == "RUN" else one for one in arguments]
    done = subprocess.run(
        [*COMMAND, "--no-open", "--port", "0", *arguments],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_without_rerun_it_says_what_to_install(run):
    code = (
        "import sys; sys.modules['rerun'] = None; sys.argv[0] = 'aliked_ros';"
        "from aliked_ros.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "view", run.path], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "pip install rerun-sdk" in done.stderr


def test_malformed_messages_do_not_end_the_page(tmp_path, probe):
    from nav_msgs.msg import Odometry
    from sensor_msgs.msg import PointCloud2

    from aliked_msgs.msg import FeatureFrame, FeatureMatches, FrontendStatus

    view = View(tmp_path / "view.log", "--port", 0)
    kinds = {
        "aliked_frontend/features": FeatureFrame(keypoints=[1.0, 2.0, 3.0], scores=[1.0]),
        "aliked_frontend/matches": FeatureMatches(scores=[1.0] * 3, inliers=[True]),
        "aliked_frontend/status": FrontendStatus(stage_names=["extract"]),
        "odometry/odometry": Odometry(),
        "odometry/map": PointCloud2(width=100, height=1, point_step=12),
    }
    try:
        publishers = {
            topic: probe.node.create_publisher(type(message), topic, 10)
            for topic, message in kinds.items()
        }
        probe.wait(lambda: all(p.get_subscription_count() for p in publishers.values()))
        bad = image_message(np.zeros((4, 4), np.uint8), header_of(probe))
        bad.step = 1
        deadline = time.monotonic() + START_TIMEOUT
        while view.text().count("cannot be shown") < 2:
            for topic, message in kinds.items():
                publishers[topic].publish(message)
            probe.images.publish(bad)
            probe.spin(0.2)
            assert time.monotonic() < deadline, view.text()
        view.end()
    finally:
        view.kill()


def test_the_demo_shows_itself(tmp_path):
    demo = subprocess.Popen(
        [
            sys.executable, "-m", "aliked_ros.cli", "demo", "--view", "--source", "virtual",
            "--limit", "20", "--output", tmp_path,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert demo.stdout is not None
        url = next(found[0] for line in demo.stdout if (found := re.search(r"http://\S+", line)))
        deadline = time.monotonic() + START_TIMEOUT
        while "The page is at" not in (tmp_path / "view.log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with urlopen(url, timeout=30) as answer:
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
            page = answer.read().decode()
        assert "re_viewer.js" in page
        assert "<link" in page
        assert "https://fonts" not in page
        with pytest.raises(HTTPError, match="403"):  # pages of others get no data
            urlopen(Request(url, headers={"Origin": "http://example.org"}), timeout=30)
        rest = demo.communicate(timeout=300)[0]
    finally:
        demo.kill()
    assert demo.returncode == 0, rest
    assert f"aliked_ros view {tmp_path / 'demo.mcap'}" in rest.replace("\n", "")
    assert url in (tmp_path / "view.log").read_text()
