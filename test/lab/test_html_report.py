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

"""`aliked_ros report`: one HTML file that says what a recording says, opened in Chromium."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from helpers import ROOT

pytest.importorskip("rclpy", reason="ROS 2 is not installed: nothing makes recordings")
pytest.importorskip("plotly", reason="make setup GROUP=test")

from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from aliked_ros.ros.recording import Recording
from aliked_ros.viewing.run import Series, read_run
from helpers.recordings import ERROR, LATENCY, Recorded, record_run, write

sys.path.insert(0, str(ROOT / "tools"))
from browser import Browser, find_chromium

# A command that cannot import ROS: the report must do without.
WITHOUT_ROS = (
    "import sys; sys.modules.update(dict.fromkeys(['rclpy', 'aliked_msgs', 'sensor_msgs']));"
    "from aliked_ros.cli.main import main; main()"
)


def report(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_ROS, "report", *map(str, arguments)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record_run(tmp_path_factory.mktemp("run") / "run.mcap")


@pytest.fixture(scope="module")
def page(run: Recorded) -> Path:
    path = run.path.with_name("report.html")
    done = report(run.path, "--output", path, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["images"] == 14
    assert facts["dropped"] == 28
    assert facts["not_recorded"] is None
    return path


def chromium() -> str:
    command = find_chromium()
    if command is None:
        pytest.skip("no Chromium: apt install chromium")
    return command


def pixels_of(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.mark.long
def test_the_page_shows_the_run(run, page):
    features = [len(result.features) for result in run.results]
    with Browser(chromium(), 1280, 900) as browser:
        browser.open(page.as_uri())
        browser.wait(
            lambda: browser.evaluate("document.querySelectorAll('.plot .main-svg').length") >= 16,
            60, "the plots do not appear",
        )  # fmt: skip
        text = browser.evaluate("document.body.innerText")
        y = "document.getElementById('{}').data.find((c) => c.name === '{}').y"
        shown = {
            name: browser.evaluate(y.format(*name.split("/")))
            for name in ("counts/features", "counts/matches", "stages/extract", "inliers/inliers")
        }
        bars = browser.evaluate("document.getElementById('lengths').data[0].y")
        path = browser.evaluate("document.getElementById('trajectory').data[0].y")
        sizes = browser.evaluate("[...document.images].map((i) => [i.naturalWidth, i.width])")
        light = pixels_of(browser.picture(whole=True))
        scheme = {"name": "prefers-color-scheme", "value": "dark"}
        browser.call("Emulation.setEmulatedMedia", features=[scheme])  # the user changes it
        tick = "getComputedStyle(document.querySelector('#stages .xtick text')).fill"
        browser.wait(
            lambda: min(map(int, re.findall(r"\d+", browser.evaluate(tick))[:3])) > 180,
            60, "the plots do not become readable on a dark page",
        )  # fmt: skip
        dark = pixels_of(browser.picture())
        requests, console = browser.requests, browser.console
    assert shown["counts/features"] == features
    assert shown["counts/matches"] == [len(result.matches) for result in run.results]
    extract = [1e3 * result.stage_times["extract"] for result in run.results]
    np.testing.assert_allclose(shown["stages/extract"], extract, rtol=1e-3, atol=1e-3)
    assert min(shown["inliers/inliers"]) > 50.0
    tracks = {
        track: length
        for result in run.results
        for track, length in zip(result.tracks.ids, result.tracks.lengths, strict=True)
    }
    assert sum(bars) == len(tracks)
    assert bars[13] == sum(length == 14 for length in tracks.values()) > 0
    assert path[-1] == pytest.approx(1.3)
    assert len(sizes) == 6
    assert all(natural == 640 and wide > 300 for natural, wide in sizes)
    for words in (
        "received 43, processed 14, dropped 28, refused 1", ERROR, "no GPU & no <wish>",
        "a processor & more", "max_keypoints\t300",
        f"{LATENCY * 1e3:.1f}", "2026-09-21",
    ):  # fmt: skip
        assert words in text
    assert f"{np.median(features):.0f}" in text
    assert [r for r in requests if not r.startswith(("data:", page.as_uri()))] == []
    assert console == []
    assert light[2, 2].min() > 240
    assert dark[2, 2].max() < 40
    violet = (np.abs(light.astype(int) - (0x8A, 0x63, 0xD2)).max(-1) < 8).sum()
    assert violet > 1000, "no bars of the histogram"
    yellow = (np.abs(light.astype(int) - (253, 231, 37)).max(-1) < 8).sum()
    assert yellow > 50, "no best-covered cell of the heat map"


def test_nothing_outside_the_page_is_named(page):
    text = page.read_text(encoding="utf-8")
    library = max(re.findall(r"<script>.*?</script>", text, re.DOTALL), key=len)
    assert "plotly.js" in library[:500]
    rest = text.replace(library, "")
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", rest)
    assert "default-src 'none'" in rest


def test_what_was_not_recorded_is_said(run, tmp_path):
    bare = Recorded(tmp_path / "bare.mcap", run.results, run.pixels)
    write(bare, without=("matches", "status", "image", "camera_info", "odometry"))
    done = report(bare.path, "--output", tmp_path / "bare.html")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "bare.html").read_text()
    missing = re.search(r'<ul id="missing">.*?</ul>', text)
    assert missing is not None
    for words in ("publish_matches", "~/status", "record_images: jpeg", "odometry_node"):
        assert words in missing[0]
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', text)[1])
    assert figures.keys() == {"counts", "lengths", "survival", "coverage"}
    assert "<img" not in text


def test_a_front_end_that_began_anew_has_other_tracks(run, tmp_path):
    once = read_run(run.path, "aliked_frontend", lambda *_: None)
    twice = Recorded(tmp_path / "twice.mcap", run.results * 2, run.pixels * 2)
    write(twice)
    both = read_run(twice.path, "aliked_frontend", lambda *_: None)
    assert len(both.lengths) == 2 * len(once.lengths)
    assert both.lengths.max() == once.lengths.max() == 14


def test_a_killed_recorder_still_gives_a_report(run, tmp_path):
    cut = tmp_path / "cut.partial.mcap"
    data = run.path.read_bytes()
    whole = read_run(run.path, "aliked_frontend", lambda *_: None)
    cut.write_bytes(data[: int(0.9 * len(data))])
    done = report(cut, "--output", tmp_path / "cut.html", "--json")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "cut.html").read_text()
    assert "The end of the recording is missing" in text
    assert "max_keypoints" in text
    assert 0 < json.loads(done.stdout)["images"] < len(whole.series["features"])


def test_the_front_end_is_named_where_there_are_several(run, tmp_path):
    both = Recorded(tmp_path / "both.mcap", run.results, run.pixels)
    write(both, frontends=("robot/left", "robot/right"))
    done = report(both.path, "--output", tmp_path / "x.html")
    assert done.returncode == 2
    assert "robot/left, robot/right" in done.stderr
    assert "--frontend" in done.stderr
    done = report(
        both.path, "--frontend", "/robot/right", "--output", tmp_path / "x.html", "--json"
    )
    assert json.loads(done.stdout)["images"] == 13


@pytest.mark.parametrize("what", ["missing", "empty", "text", "foreign"])
def test_other_files_are_refused_in_a_line(tmp_path, what):
    path = tmp_path / "other.mcap"
    words = {"missing": "does not exist", "empty": "cannot read", "text": "cannot read"}
    if what == "empty":
        path.write_bytes(b"")
    elif what == "text":
        path.write_text("stamp,value\n1,2\n")
    elif what == "foreign":
        recording = Recording(path)
        recording.add_topic("/chatter", Header)
        recording.add("/chatter", serialize_message(Header()), 1, 1)
        recording.finish()
    done = report(path, "--output", tmp_path / "x.html")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert words.get(what, "has no features") in errors[0] or "no MCAP file" in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.html").exists()


def test_without_plotly_it_says_what_to_install(run, tmp_path):
    code = WITHOUT_ROS.replace("'rclpy'", "'plotly', 'rclpy'")
    done = subprocess.run(
        [sys.executable, "-c", code, "report", run.path, "--output", tmp_path / "x.html"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install plotly" in done.stderr


def test_thinning_keeps_the_spike():
    series = Series()
    for index in range(10_000):
        series.add(0.1 * index, 500.0 if index == 7777 else 20.0)
    times, values = series.thinned(100, np.max)
    assert len(times) == len(values) == 100
    assert values.max() == 500.0
    assert times[values.argmax()] == pytest.approx(777.7, abs=10.0)
    assert (np.diff(times) > 0).all()
