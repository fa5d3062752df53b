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


"""Maps: whole or not there, read by whoever comes later, refused with a reason."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from aliked_ros.cli.main import app
from aliked_ros.errors import ConfigurationError, OutputError, SourceError
from aliked_ros.exporting import maps
from aliked_ros.exporting.maps import MapFile, MapReader, definitions_of
from aliked_ros.frontend.places import GivenPose, KeyframeDatabase
from helpers import ROOT
from helpers.places import synthetic_place

POSE = GivenPose((1.0, -2.0, 3.0), (0.0, 0.0, 0.6, 0.8), "map", "base_link")


@pytest.fixture(scope="module")
def definitions() -> maps.Definitions:
    from aliked_ros.ros.places import DEFINED, message_definition

    return {name: message_definition(kind) for name, kind in DEFINED.items()}


def filled(count: int = 8, first: int = 0, model: str = "aliked-n16") -> KeyframeDatabase:
    database = KeyframeDatabase()
    for index in range(first, first + count):
        database.add(synthetic_place(index, 1 + 100 * index, model=model, pixels=index % 2 == 0))
    return database


@pytest.fixture
def saved(tmp_path: Path, definitions) -> Path:
    """A map of eight places."""
    path = tmp_path / "office.mcap"
    with MapFile(path) as file:
        assert file.save(filled(), definitions) == 8
    return path


def test_what_is_loaded_is_what_was_saved(tmp_path, definitions):
    database = filled()
    database.add(synthetic_place(50, camera=None))
    database.set_pose(next(p for p in database if p.index == 3), POSE)
    path = tmp_path / "office.mcap"
    with MapFile(path) as file:
        file.save(database, definitions)
    other = KeyframeDatabase()
    with MapFile(path) as file:
        loaded = file.load(other)
        again = file.load(other)
    assert (loaded.places, loaded.added, loaded.note) == (9, 9, "")
    assert again.added == 0
    for before, after in zip(database, other, strict=True):
        assert (after.key, after.nanoseconds, after.frame) == (
            before.key, before.nanoseconds, before.frame,
        )  # fmt: skip
        assert np.array_equal(after.descriptors, before.descriptors)
        for name in ("keypoints", "scores"):
            assert np.array_equal(getattr(after.features, name), getattr(before.features, name))
        assert np.array_equal(after.ids, before.ids)
        assert np.array_equal(after.depth, before.depth)
        assert (after.pose, after.thumbnail) == (before.pose, before.thumbnail)
        assert (after.camera is None) == (before.camera is None)
        if after.camera is not None:
            assert np.array_equal(after.normalized, before.normalized)
            assert np.array_equal(after.camera.matrix, before.camera.matrix)
    assert np.allclose(database.snapshot()[1], other.snapshot()[1], atol=1e-4)


def test_the_index_is_made_again_where_it_is_missing(saved, monkeypatch):
    monkeypatch.setattr(maps, "ENCODER", "another")
    with MapReader(saved) as reader:
        assert reader.appearance() is None
    database = KeyframeDatabase()
    with MapFile(saved) as file:
        file.load(database)
    assert np.allclose(database.snapshot()[1], filled().snapshot()[1], atol=1e-3)


def test_several_cameras_of_one_process_share_a_map(saved, definitions):
    ours, theirs = filled(3, first=100), KeyframeDatabase()
    theirs.add(synthetic_place(100, 1, frame="left"))  # its own frame, and the number of another's
    with MapFile(saved) as first, MapFile(saved) as second:
        assert first.save(ours, definitions) == 11, "what was there is kept"
        assert second.save(theirs, definitions) == 12
        first.close()
        assert second.save(theirs, definitions) == 12


_SAVING = """
import sys, time
from pathlib import Path
from aliked_ros.exporting.maps import MapFile, definitions_of
from aliked_ros.frontend.places import KeyframeDatabase
from helpers.places import synthetic_place
path = Path(sys.argv[1])
database = KeyframeDatabase()
file = MapFile(path)
file.load(database)
for index in range(300, 800):
    database.add(synthetic_place(index, 1 + 100 * index))
print("saving", flush=True)
while True:
    file.save(database, definitions_of(path))
    print("saved", flush=True)
"""


def test_a_second_process_cannot_save(saved, definitions):
    process = subprocess.Popen(
        [sys.executable, "-c", _SAVING, str(saved)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT / "test",
    )  # fmt: skip
    ours = filled(2, first=200)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "saving\n"
        assert process.stdout.readline() == "saved\n"
        with (
            MapFile(saved) as file,
            pytest.raises(OutputError, match=r"office\.mcap is saved by another process"),
        ):
            file.save(ours, definitions)
    finally:
        process.kill()
        process.wait()
    with MapFile(saved) as file:
        assert file.save(ours, definitions) == 510


@pytest.mark.long
def test_a_kill_while_saving_leaves_a_whole_map(saved):
    """Again and again, at different moments, with a real process."""
    for delay in (0.0, 0.03, 0.1, 0.2):
        process = subprocess.Popen(
            [sys.executable, "-c", _SAVING, str(saved)],
            stdout=subprocess.PIPE, text=True, cwd=ROOT / "test",
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "saving\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        database = KeyframeDatabase()
        with MapFile(saved) as file:
            loaded = file.load(database)
            assert loaded.places in (8, 508)
            assert not loaded.note
            file.save(database, definitions_of(saved))  # the lock ended with the process


def test_a_full_disk_leaves_the_old_map(saved):
    before = saved.read_bytes()
    database = filled(60)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100_000, hard))
    try:
        with MapFile(saved) as file, pytest.raises(OutputError, match="earlier map is unchanged"):
            file.save(database, definitions_of(saved))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir() if "partial" in path.name] == []


def test_what_is_intact_of_a_truncated_map_is_read(saved, definitions):
    with MapFile(saved) as file:
        file.save(filled(60), definitions)
    data = saved.read_bytes()
    saved.write_bytes(data[: len(data) * 2 // 3])
    database = KeyframeDatabase()
    with MapFile(saved) as file:
        loaded = file.load(database)
    assert 10 < loaded.added == len(database) < 60
    assert "Save it again" in loaded.note


def test_what_cannot_be_used_is_refused_with_the_reason(saved, tmp_path, definitions, monkeypatch):
    database = KeyframeDatabase()
    with MapFile(saved) as file:
        with pytest.raises(ConfigurationError, match="set model to aliked-n16, or map again"):
            file.load(database, "aliked-n32")
        assert not len(database)
        with pytest.raises(ConfigurationError, match="no keyframe to save"):
            file.save(database, definitions)
    with pytest.raises(SourceError, match="does not exist"):
        MapFile(tmp_path / "none.mcap").load(database)
    (tmp_path / "empty.mcap").write_bytes(b"")
    with pytest.raises(SourceError, match="the file is empty"):
        MapFile(tmp_path / "empty.mcap").load(database)
    (tmp_path / "noise.mcap").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(SourceError, match=r"noise\.mcap"):
        MapFile(tmp_path / "noise.mcap").load(database)
    with pytest.raises(ConfigurationError, match=r"must end in \.mcap"):
        MapFile(tmp_path / "map.pgm")
    with pytest.raises(OutputError, match="cannot write"):
        MapFile(tmp_path / "no" / "folder.mcap").save(filled(1), definitions)
    monkeypatch.setattr(maps, "VERSION", 0)
    with pytest.raises(SourceError, match="version 1; this release reads versions up to 0"):
        MapFile(saved).load(database)


def run(*words: object) -> dict:
    """What ``aliked_ros map ... --json`` prints."""
    done = CliRunner().invoke(app, ["map", *map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_commands_look_at_maps_merge_and_thin_them(saved, tmp_path, definitions):
    other, both = tmp_path / "other.mcap", tmp_path / "both.mcap"
    with MapFile(other) as file:
        file.save(filled(6, first=4), definitions)
    facts = run("info", saved)
    assert (facts["keyframes"], facts["version"], facts["complete"]) == (8, 1, True)
    assert (facts["models"], facts["images"], facts["calibrated"]) == ("aliked-n16", "640x480", 8)
    merged = run("merge", saved, other, "--output", both)
    assert merged["keyframes"] == 10, "four are in both"
    assert run("prune", both, "--keep", 5, "--output", tmp_path / "few.mcap")["removed"] == 5
    assert run("info", both)["keyframes"] == 10
    assert run("prune", both, "--keep", 5)["keyframes"] == 5
    assert run("info", both)["keyframes"] == 5
    assert run("show", saved, "--output", tmp_path / "sheet.png")["keyframes"] == 4
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None


def test_a_recording_with_keyframes_is_a_map(tmp_path):
    from nav_msgs.msg import Odometry
    from rclpy.serialization import serialize_message
    from std_msgs.msg import Header

    from aliked_msgs.msg import Keyframe
    from aliked_ros.configuration import FrontendConfig
    from aliked_ros.frontend.pipeline import Pipeline
    from aliked_ros.ros.conversions import feature_frame, keyframe_message, stamp_from_seconds
    from aliked_ros.ros.recording import Recording
    from aliked_ros.sources import open_source

    path = tmp_path / "run.mcap"
    recording = Recording(path)
    recording.add_topic("/aliked_frontend/keyframes", Keyframe)
    recording.add_topic("/odometry/odometry", Odometry)
    with closing(Pipeline(FrontendConfig(max_keypoints=300, matcher="nearest"))) as pipeline:
        for number, image in enumerate(open_source("virtual", 3)):
            result = pipeline.process(image)
            header = Header(stamp=stamp_from_seconds(1e9 + number), frame_id="camera")
            message = keyframe_message(feature_frame(result, header), "time", image.pixels)
            pose = Odometry(header=Header(stamp=header.stamp, frame_id="odom"))
            pose.pose.pose.position.x = float(number)
            time = (1_000_000_000 + number) * 10**9
            recording.add("/aliked_frontend/keyframes", serialize_message(message), time, time)
            recording.add("/odometry/odometry", serialize_message(pose), time + 1, time + 1)
    recording.finish()
    database = KeyframeDatabase()
    with MapFile(path) as file:
        assert file.load(database).added == 3
    assert [place.pose.position[0] for place in database] == [0.0, 1.0, 2.0]
    assert [place.index for place in database] == [0, 1, 2]
