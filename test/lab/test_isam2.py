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

"""The back-end example: a camera that comes round again; what it sees there corrects its way."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from helpers import ROOT

pytest.importorskip("gtsam", reason="gtsam has no wheel for Python 3.10")
pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

import aliked_msgs.msg
from aliked_ros.evaluation.poses import true_poses
from aliked_ros.ros.conversions import feature_frame, pose_message, stamp_from_seconds
from aliked_ros.ros.recording import Recording
from aliked_ros.sources import open_source
from aliked_ros.types import Features, FrameResult, Matches, Tracks
from helpers.ros import RELIABLE, Probe, RosProcess, environment

EXAMPLE = ROOT / "examples" / "isam2.py"
FX, BASELINE, LAP, COUNT = 400.0, 0.1, 24, 28
LOOP = getattr(aliked_msgs.msg, "LoopCandidate", None)


def camera(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and centre of a camera on a circle of 2.5 m, looking ahead; identity for 0."""
    angle = 2 * np.pi * index / LAP
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]), 2.5 * np.array([sin, 0, cos - 1])


def frames(tracks_return: bool) -> Iterator[aliked_msgs.msg.FeatureFrame]:
    """A lap and four more keyframes; pixels and disparities with noise of 0.5 px."""
    rng = np.random.default_rng(0)
    walls = rng.uniform(-6, 6, (2500, 3)) * [1, 0.25, 1]
    walls[np.arange(2500), rng.choice([0, 2], 2500)] = rng.choice([-6, 6], 2500)
    for index in range(COUNT):
        rotation, centre = camera(index)
        local = (walls - centre) @ rotation
        with np.errstate(all="ignore"):
            pixels = FX * local[:, :2] / local[:, 2:]
        seen = np.flatnonzero((local[:, 2] > 0.5) & (np.abs(pixels) < [320, 240]).all(1))
        seen = rng.permutation(seen)[:120]
        count = len(seen)
        ids = seen + 1 + (0 if tracks_return or index < LAP - 4 else 10_000)
        rays = (pixels[seen] + rng.normal(0, 0.5, (count, 2))) / FX
        disparity = FX * BASELINE / local[seen, 2] + rng.normal(0, 0.5, count)
        features = Features(
            (rays * FX + [320, 240]).astype(np.float32), np.ones(count, np.float32),
            np.empty((count, 0), np.float32), 640, 480, "aliked-n16",
        )  # fmt: skip
        result = FrameResult(
            index, float(index), features, Matches.empty(),
            Tracks(ids.astype(np.uint64), np.ones(count, np.uint32), 1),
            normalized=rays.astype(np.float32), keyframe_reason="parallax",
            depth=(FX * BASELINE / np.maximum(disparity, 0.5)).astype(np.float32),
        )  # fmt: skip
        message = feature_frame(result, Header(stamp=stamp_from_seconds(index)), None)
        message.focal_length, message.baseline = FX, BASELINE
        yield message


def record(path: Path, tracks_return: bool, loop: bool) -> None:
    """The frames; loop: with a LoopCandidate of the first keyframe after the lap."""
    recording = Recording(path)
    recording.add_topic("/aliked_frontend/features", aliked_msgs.msg.FeatureFrame)
    if loop:
        recording.add_topic("/aliked_frontend/loops", LOOP)
    for index, message in enumerate(frames(tracks_return)):
        recording.add("/aliked_frontend/features", serialize_message(message), index, index)
        if loop and index == LAP:
            (turn, place), (rotation, centre) = camera(0), camera(index)
            found = LOOP(header=message.header, keyframe_stamp=stamp_from_seconds(0))
            found.has_pose = found.metric = True
            shift = turn.T @ (centre - place)
            found.pose.pose = pose_message(turn.T @ rotation, shift)
            found.pose.covariance = np.diag([1e-4] * 3 + [1e-5] * 3).ravel()
            recording.add("/aliked_frontend/loops", serialize_message(found), index, index)
    recording.finish()


def loaded() -> ModuleType:
    """The example."""
    spec = importlib.util.spec_from_file_location("isam2", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


def errors(path: Path) -> tuple[float, float]:
    """Mean distances from the true way, metres: as first estimated, and after all messages."""
    example = loaded()
    back_end = example.BackEnd()
    example.replay(back_end, path)
    truth = np.array([camera(index)[1] for index in range(COUNT)])
    first, after = (
        float(np.linalg.norm([pose.translation() for pose in poses] - truth, axis=1).mean())
        for poses in (back_end.first, back_end.poses())
    )
    return first, after


def test_tracks_that_come_back_close_the_loop(tmp_path):
    record(tmp_path / "open.mcap", tracks_return=False, loop=False)
    record(tmp_path / "closed.mcap", tracks_return=True, loop=False)
    _, without = errors(tmp_path / "open.mcap")
    first, after = errors(tmp_path / "closed.mcap")
    assert after < first < 0.3
    assert after < 0.6 * without


@pytest.mark.skipif(LOOP is None, reason="aliked_msgs has no LoopCandidate")
def test_a_loop_candidate_closes_the_loop(tmp_path):
    record(tmp_path / "open.mcap", tracks_return=False, loop=False)
    record(tmp_path / "closed.mcap", tracks_return=False, loop=True)
    _, without = errors(tmp_path / "open.mcap")
    first, after = errors(tmp_path / "closed.mcap")
    assert after < first
    assert after < 0.6 * without


def test_the_program_draws_both_trajectories(tmp_path):
    record(tmp_path / "run.mcap", tracks_return=True, loop=False)
    command = [sys.executable, EXAMPLE, tmp_path / "run.mcap", tmp_path / "way.png"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{COUNT} keyframes, moved by up to 0.")
    picture = cv2.imread(str(tmp_path / "way.png")).astype(int)
    _, green, red = picture.reshape(-1, 3).T
    assert ((red - green) > 100).sum() > 300
    assert ((green - red) > 100).sum() > 300


@pytest.mark.ros
@pytest.mark.long
def test_loops_of_the_node_tie_a_second_run_to_the_first(shared, tmp_path):
    """The same way twice; between them all tracks are lost. Positions against motion capture."""
    source, count = shared / "data" / "tum_fr1_xyz", 16
    probe = Probe()
    probe.listen(LOOP, "aliked_frontend/loops")
    node = RosProcess(
        "aliked_ros.ros.frontend_node", tmp_path / "log", "-p", "input:=rgbd", "-p", "loops:=true",
        "-p", "matcher:=nearest", "-p", "max_keypoints:=200", "-p", "keyframe_interval:=0.01",
        "-p", "sync_wait:=5.0", "-p", "input_reliability:=reliable",
    )  # fmt: skip
    try:
        probe.wait_for_state("active")
        for run in (1, 2):
            player = RosProcess(
                "aliked_ros.ros.player", tmp_path / f"player{run}", "-p", f"source:={source}",
                "-p", f"limit:={count}", "-p", "publish:=rgbd", "-p", "reliability:=reliable",
                "-p", "wait_for_frontend:=aliked_frontend",
            )  # fmt: skip
            probe.wait(lambda n=run: len(probe.features) == n * count, timeout=300.0)
            assert player.wait(300.0) == 0, player.text()
            probe.trigger("reset")
        probe.wait(lambda: probe.received["loops"])
        probe.spin(1.0)
        assert node.stop() == 0, node.text()
    finally:
        node.process.kill()
        probe.close()
    images = [image.stamp for image in open_source(str(source), count)]
    truth = np.array([pose.translation for pose in true_poses(str(source), images)] * 2)
    number = {stamp_of(f.header.stamp): i for i, f in enumerate(probe.features)}
    example, mean = loaded(), []
    for loops in ([], probe.received["loops"]):
        back_end = example.BackEnd()
        for message in probe.features:
            back_end.add_features(message)
        for message in loops:
            back_end.add_loop(message)
        seen = truth[[number[key] for key in back_end.keys]]
        positions = np.array([pose.translation() for pose in back_end.poses()])
        second = np.array([number[key] >= count for key in back_end.keys])
        turn, _ = Rotation.align_vectors(  # the first run says how the worlds lie
            seen[~second] - seen[~second].mean(0),
            positions[~second] - positions[~second].mean(0),
        )
        moved = turn.apply(positions - positions[~second].mean(0)) + seen[~second].mean(0)
        mean.append(float(np.linalg.norm(moved - seen, axis=1)[second].mean()))
    print(f"{len(loops)} loops: {100 * mean[0]:.1f} cm without, {100 * mean[1]:.1f} cm with them")
    assert mean[1] < 0.04
    assert mean[1] < 0.5 * mean[0]


def stamp_of(stamp: Time) -> tuple[int, int]:
    return stamp.sec, stamp.nanosec


@pytest.mark.ros
def test_the_program_listens_until_it_is_interrupted(tmp_path):
    probe = Probe()
    publisher = probe.node.create_publisher(
        aliked_msgs.msg.FeatureFrame, "aliked_frontend/features", RELIABLE
    )
    command = [sys.executable, EXAMPLE, "--live", tmp_path / "way.png", "--ros-args", "-r"]
    process = subprocess.Popen(
        [*map(str, command), "features:=aliked_frontend/features"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        probe.wait(lambda: publisher.get_subscription_count() == 2)  # the probe's own is one
        probe.spin(0.5)
        for _, message in zip(range(4), frames(True), strict=False):
            publisher.publish(message)
        probe.wait_arrived(publisher)
        probe.spin(3.0)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=300)
    finally:
        process.kill()
        probe.close()
    assert process.returncode == 0, errors
    assert said.startswith("4 keyframes, moved by up to 0.")
    assert (tmp_path / "way.png").stat().st_size > 1000
