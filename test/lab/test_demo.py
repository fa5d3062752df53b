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

"""`make demo`, small: three processes, DDS between them, files that can be opened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import rclpy
from rclpy.context import Context
from rosbags.highlevel import AnyReader

from aliked_ros.io.bags import facts_of
from aliked_ros.ros import processes
from aliked_ros.ros.demo_report import pictures
from aliked_ros.viewing.run import read_run
from helpers.recordings import Recorded, record_run, write
from helpers.ros import environment

pytestmark = [pytest.mark.ros, pytest.mark.long]
COMMAND = [sys.executable, "-m", "aliked_ros.cli", "demo"]


def test_the_demo_plays_records_and_draws(tmp_path):
    """Whatever the machine has to do besides, every image is processed."""
    done = subprocess.run(
        [
            *COMMAND, "--source", "virtual", "--limit", "60", "--profile", "robot",
            "--output", tmp_path,
        ],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("frames processed", "matches per frame", "longest track", "end to end, ms"):
        assert words in done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    frames = summary["frames"]
    assert frames["published"] == frames["processed"] == 60
    assert frames["dropped"] == frames["refused"] == 0
    assert "were dropped" not in done.stdout
    assert (summary["paced_by"], summary["source_rate"]) == ("machine", 30.0)
    assert summary["played_rate"] < 33.0
    assert summary["features"] > 100
    assert summary["matches"] > 50
    # tracks begin with the first detection, which no image waits for
    assert summary["tracks"]["max_length"] > frames["processed"] / 3
    assert {"extract", "match", "pack", "transport", "end to end"} <= summary["latency_ms"].keys()
    with AnyReader([tmp_path / "demo.mcap"]) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        features = [c for c in reader.connections if c.topic == "/aliked_frontend/features"]
        _, _, raw = next(reader.messages(features))
        first = reader.deserialize(raw, features[0].msgtype)
    assert first.descriptor_encoding == first.FLOAT16  # as config/robot.yaml says
    assert counts["/aliked_frontend/features"] == frames["processed"]
    assert counts["/image/compressed"] == 60
    facts = facts_of(tmp_path / "demo.mcap")
    assert facts["front-end"]["descriptor_encoding"] == "float16"
    assert facts["machine"]["cores"].isdigit()
    video = cv2.VideoCapture(str(tmp_path / "tracks.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == frames["processed"]
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(30.0)  # the source's, however long it took
    assert cv2.imread(str(tmp_path / "contact_sheet.png")).shape[1] > 500


def test_dropped_images_are_reported_with_a_remedy(tmp_path):
    done = subprocess.run(
        [*COMMAND, "--source", "virtual", "--limit", "40", "--rate", "400", "--output", tmp_path],
        capture_output=True, text=True, timeout=300, env=os.environ | {"COLUMNS": "300"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    frames = json.loads((tmp_path / "summary.json").read_text())["frames"]
    assert f"{frames['published'] - frames['processed']} of 40 images were dropped" in done.stdout
    assert "lower RATE= (--rate), or set PROFILE=robot (--profile), or leave out" in done.stdout


def test_refused_images_end_the_demo_with_the_reason(tmp_path):
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((8, 8), index, np.uint8))
    done = subprocess.run(
        [*COMMAND, "--source", tmp_path, "--output", tmp_path / "out"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the front-end refused 3 images: The image is 8×8 pixels" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_picture_is_lost_to_a_busy_recorder(tmp_path):
    """Its images come after their features: in the file, or even by the time of arrival."""
    run = record_run(tmp_path / "run.mcap", frames=12)
    for delay in (0.0, 0.3):
        late = Recorded(tmp_path / f"late{delay}.mcap", run.results, run.pixels)
        write(late, image_last=True, image_delay=delay)
        assert len(list(pictures(late.path))) == 12
        assert len(read_run(late.path, "aliked_frontend", lambda *_: None).pictures) == 6
    cut = tmp_path / "cut.mcap"  # which is read as it was written
    cut.write_bytes((tmp_path / "late0.0.mcap").read_bytes()[:-100])
    assert len(read_run(cut, "aliked_frontend", lambda *_: None).pictures) == 6


def test_a_private_domain_is_nobody_elses(monkeypatch):
    with patch.dict(os.environ, environment()):  # the middleware reads it
        used = processes.free_domain()
        processes._claims.pop().close()  # the node alone has it
        context = Context()
        rclpy.init(context=context, domain_id=used)
        node = rclpy.create_node("other", context=context)
    try:
        monkeypatch.setattr(processes.random, "sample", lambda *_: [used, *range(1, 102)])
        chosen = [processes.free_domain() for _ in range(3)]
    finally:
        node.destroy_node()
        context.shutdown()
    assert used not in chosen
    assert len(set(chosen)) == 3


def test_a_bad_source_is_one_clear_line(tmp_path):
    done = subprocess.run(
        [*COMMAND, "--source", "/nowhere", "--output", tmp_path],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: source '/nowhere' does not exist")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def children_of(pid: int) -> list[tuple[int, str]]:
    """(id, command line) of the processes whose parent is ``pid``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if parent == pid:
            found.append((int(entry.name), command))
    return found


@pytest.mark.parametrize("ending", ["ctrl-c", "a child dies"])
def test_an_early_end_leaves_nothing_running(tmp_path, ending):
    process = subprocess.Popen(
        [*COMMAND, "--source", "virtual", "--limit", "100", "--output", tmp_path],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 300.0
        while len(children := children_of(process.pid)) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        if ending == "ctrl-c":
            process.send_signal(signal.SIGINT)
        else:
            os.kill(next(pid for pid, command in children if "recorder" in command), signal.SIGKILL)
        error = process.communicate(timeout=300)[1]
    finally:
        process.kill()
    assert process.returncode == (130 if ending == "ctrl-c" else 1)
    assert ("interrupted" if ending == "ctrl-c" else "the recorder ended") in error
    assert "Traceback" not in error
    assert not any(Path(f"/proc/{pid}").exists() for pid, _ in children)
