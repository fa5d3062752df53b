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

"""The player publishes a source as a camera would, and ends."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time as Stamp
from rosbags.rosbag2 import StoragePlugin
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_srvs.srv import Trigger

from aliked_msgs.msg import FeatureFrame, FrontendStatus
from aliked_ros.io.messages import nanoseconds
from aliked_ros.ros import pacing
from aliked_ros.ros.conversions import (
    depth_from_message,
    image_from_message,
    seconds,
    stamp_from_seconds,
)
from aliked_ros.sources import open_source
from helpers import bags
from helpers.euroc import BASELINE, write_euroc
from helpers.ros import BEST_EFFORT, PATIENCE, RELIABLE, Probe, RosProcess, refusals

pytestmark = pytest.mark.ros

MODULE = "aliked_ros.ros.player"


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frames.csv sequence with a calibration, 20 Hz, colours that name the frame."""
    folder = tmp_path_factory.mktemp("sequence")
    lines = []
    for index in range(8):
        cv2.imwrite(
            str(folder / f"{index}.png"), np.full((48, 64, 3), (0, 0, 20 * index), np.uint8)
        )
        lines.append(f"{index},{1000.25 + index / 20:.6f},{index}.png")
    (folder / "frames.csv").write_text("# index,timestamp_s,image\n" + "\n".join(lines) + "\n")
    (folder / "calib.json").write_text(
        '{"width": 64, "height": 48, "fx": 50.0, "fy": 51.0, "cx": 32.0, "cy": 24.0,'
        ' "distortion_model": "radtan", "distortion": [0.1, 0.2, 0.0, 0.0, 0.0]}'
    )
    return folder


@pytest.fixture
def probe() -> Iterator[Probe]:
    probe = Probe()
    yield probe
    probe.close()


def test_plays_all_images_in_time_with_their_calibration(probe, sequence, tmp_path):
    probe.listen(ImageMessage, "image")
    probe.listen(CameraInfo, "camera_info")
    arguments = ["reliability:=reliable", "stamp:=dataset", "frame_id:=eye", "preload:=3"]
    process = RosProcess(
        MODULE, tmp_path / "log", "-p", f"source:={sequence}",
        *(part for argument in arguments for part in ("-p", argument)),
    )  # fmt: skip
    probe.wait(lambda: len(probe.received["camera_info"]) == 8)
    assert process.wait(PATIENCE) == 0, process.text()
    assert "Played 8 images" in process.text()
    assert "Playing 8 images" in process.text()
    images = probe.received["image"]
    for message, stored in zip(images, open_source(str(sequence)), strict=True):
        np.testing.assert_array_equal(image_from_message(message).pixels, stored.pixels)
        assert message.header.stamp == stamp_from_seconds(stored.stamp)
        assert (message.header.frame_id, message.encoding) == ("eye", "rgb8")
    took = probe.times["image"][-1] - probe.times["image"][0]
    assert 0.2 < took < 5.0  # 0.35 s of images, on a machine that may be busy
    for image, info in zip(images, probe.received["camera_info"], strict=True):
        assert info.header == image.header
        assert list(info.k) == [50.0, 0.0, 32.0, 0.0, 51.0, 24.0, 0.0, 0.0, 1.0]
        assert (info.distortion_model, list(info.d)[:2]) == ("plumb_bob", [0.1, 0.2])


def test_loops_in_grey_until_interrupted(probe, sequence, tmp_path):
    probe.listen(ImageMessage, "image", BEST_EFFORT)  # as the player offers by default
    process = RosProcess(
        MODULE, tmp_path / "log", "-p", f"source:={sequence}", "-p", "loop:=true",
        "-p", "limit:=2", "-p", "rate:=100.0", "-p", "encoding:=mono8",
    )  # fmt: skip
    probe.wait(lambda: len(probe.received["image"]) >= 10)
    assert process.stop(signal.SIGINT) == 0, process.text()
    assert "Traceback" not in process.text()
    first, last = probe.received["image"][0], probe.received["image"][-1]
    assert first.encoding == "mono8"
    age = probe.times["image"][-1] - (last.header.stamp.sec + last.header.stamp.nanosec * 1e-9)
    assert 0.0 <= age < 5.0  # stamped when published


@pytest.fixture(scope="module")
def pairs(sequence: Path) -> Path:
    """The same with right images and depth images of all but the last; a baseline of 0.2 m."""
    folder = sequence.with_name("pairs")
    for kind in ("image_0", "image_1", "depth"):
        (folder / kind).mkdir(parents=True)
    table, associations = [], []
    for index in range(4):
        pixels = cv2.imread(str(sequence / f"{index}.png"))
        cv2.imwrite(str(folder / "image_0" / f"{index}.png"), pixels)
        table.append(f"{index},{1000 + index / 20},image_0/{index}.png")
        if index < 3:
            cv2.imwrite(str(folder / "image_1" / f"{index}.png"), pixels + 7)
            depth = np.full((48, 64), 5000 + index, np.uint16)
            depth[0, :2] = (0, 65534)
            cv2.imwrite(str(folder / "depth" / f"{index}.png"), depth)
            associations.append(f"0 image_0/{index}.png 0 depth/{index}.png")
    (folder / "frames.csv").write_text("\n".join(table))
    (folder / "associations.txt").write_text("\n".join(associations))
    (folder / "calib.json").write_text(
        '{"width": 64, "height": 48, "fx": 50.0, "fy": 51.0, "cx": 32.0, "cy": 24.0,'
        ' "stereo_baseline_m": 0.2, "depth_scale": 500}'
    )
    return folder


def start(log: Path, *arguments: str) -> RosProcess:
    """The player with these parameters."""
    return RosProcess(MODULE, log, *(part for argument in arguments for part in ("-p", argument)))


def play(probe: Probe, folder: Path, log: Path, *arguments: str) -> None:
    """Play a sequence whole, with its own stamps, to the probe.

    Its regular end is another test's: it waits for acknowledgements, which takes seconds.
    """
    process = start(log, f"source:={folder}", "reliability:=reliable", "stamp:=dataset", *arguments)
    partners = {subscription.topic_name[1:] for subscription in probe.node.subscriptions} & {
        "right/image", "depth/image", "camera_info", "right/camera_info",
    }  # fmt: skip

    def played() -> bool:
        received = probe.received
        return len(received["image"]) == 4 and all(len(received[name]) > 2 for name in partners)

    probe.wait(lambda: played() or not process.alive())
    probe.spin(0.3)
    process.process.kill()
    process.wait(60)
    assert "FATAL" not in process.text()


def test_plays_stereo_pairs(probe, pairs, tmp_path):
    for name in ("image", "right/image"):
        probe.listen(ImageMessage, name)
    for name in ("camera_info", "right/camera_info"):
        probe.listen(CameraInfo, name)
    play(probe, pairs, tmp_path / "log", "publish:=stereo")
    images, rights = probe.received["image"], probe.received["right/image"]
    assert (len(images), len(rights)) == (4, 3)  # the last has no right image
    for left, right in zip(images, rights, strict=False):
        assert right.header == left.header
        difference = image_from_message(right).pixels.astype(int) - image_from_message(left).pixels
        assert (difference == 7).all()
    left_info, right_info = (
        probe.received[name][0] for name in ("camera_info", "right/camera_info")
    )
    assert len(probe.received["right/camera_info"]) == 3
    assert list(left_info.p)[:4] == [50.0, 0.0, 32.0, 0.0]
    assert list(right_info.p)[:4] == [50.0, 0.0, 32.0, -10.0]
    assert right_info.header == rights[0].header


def test_stereo_needs_the_baseline(pairs, tmp_path):
    (tmp_path / "image_0").symlink_to(pairs / "image_0")
    (tmp_path / "image_1").symlink_to(pairs / "image_1")
    calibration = (pairs / "calib.json").read_text().replace("0.2", "0.0")
    (tmp_path / "calib.json").write_text(calibration)
    (tmp_path / "frames.csv").write_text("0,0.0,image_0/0.png")
    (said,) = refusals(MODULE, [[f"source:={tmp_path}", "publish:=stereo"]])
    assert "stereo_baseline_m 0.0" in said


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_plays_depth(probe, pairs, tmp_path, encoding):
    probe.listen(ImageMessage, "image")
    probe.listen(ImageMessage, "depth/image")
    play(probe, pairs, tmp_path / "log", "publish:=rgbd", f"depth_encoding:={encoding}",
         "partner_offset:=0.25")  # fmt: skip
    images, depths = probe.received["image"], probe.received["depth/image"]
    assert (len(images), len(depths)) == (4, 3)
    for index, (image, message) in enumerate(zip(images, depths, strict=False)):
        assert message.encoding == encoding
        assert seconds(message.header.stamp) - seconds(image.header.stamp) == pytest.approx(0.25)
        depth = depth_from_message(message)
        assert depth[20, 20] == pytest.approx((5000 + index) / 500)
        assert np.isnan(depth[0, 0])
        # 131 m are more than 16 bits of millimetres hold
        assert (
            np.isnan(depth[0, 1]) if encoding == "16UC1" else depth[0, 1] == np.float32(65534 / 500)
        )


REFUSED = {
    "source '/nowhere' does not exist": ["source:=/nowhere"],
    "parameter rate is 'fast'": ["source:=virtual", "rate:=fast"],
    "choose one of auto, now, dataset": ["source:=virtual", "stamp:=then"],
    "parameter limit is -1": ["source:=virtual", "limit:=-1"],
    "source 'virtual' has no right images": ["source:=virtual", "publish:=stereo"],
    "has no depth images (depth_scale": ["source:={sequence}", "publish:=rgbd"],
    "0 of 1 subscribers of /image": ["source:=virtual", "wait_timeout:=0.2"],
    "rate is 5 and speed 2; set one": ["source:=virtual", "rate:=5.0", "speed:=2.0"],
    "stamp cannot be 'now'": ["source:=virtual", "clock:=10.0", "stamp:=now"],
    "parameter wait_for_frontend is 'a b'": ["source:=virtual", "wait_for_frontend:=a b"],
}


def test_what_is_wrong_is_said_in_one_line(sequence):
    cases = [[word.format(sequence=sequence) for word in case] for case in REFUSED.values()]
    for words, said in zip(REFUSED, refusals(MODULE, cases), strict=True):
        assert words in said
        assert len(said.strip().splitlines()) == 1, said


def call(probe: Probe, service: str) -> tuple[bool, str]:
    answer = probe.call(Trigger, f"dataset_player/{service}")
    return answer.success, answer.message


def nanoseconds_of(messages: list) -> list[int]:
    return [nanoseconds(getattr(m, "clock", None) or m.header.stamp) for m in messages]


def test_pause_step_and_resume_with_a_clock(probe, sequence, tmp_path):
    """20 Hz at a quarter of the speed, in a loop; the clock goes and stands with the images."""
    probe.listen(ImageMessage, "image")
    probe.listen(Clock, "/clock")
    images, clocks = probe.received["image"], probe.received["/clock"]
    process = start(
        tmp_path / "log", f"source:={sequence}", "reliability:=reliable", "start_paused:=true",
        "clock:=50.0", "speed:=0.25", "loop:=true",
    )  # fmt: skip
    stamps = [1_000_250_000_000 + index * 50_000_000 for index in range(8)]
    probe.wait(lambda: len(clocks) > 5)
    answers: list[str] = []
    while len(answers) < 2:  # once it has found its subscriber
        success, message = call(probe, "step")
        assert success or message.startswith("not started")
        answers += [message] * success
    assert answers == ["image 1, stamp 1000.250000000", "image 2, stamp 1000.300000000"]
    probe.wait(lambda: len(images) == 2 and nanoseconds_of(clocks[-1:]) == stamps[1:2])
    assert nanoseconds_of(images) == stamps[:2]
    assert set(nanoseconds_of(clocks)) == set(stamps[:2])
    assert call(probe, "resume") == (True, "playing")
    probe.wait(lambda: len(images) == 4)
    assert call(probe, "step") == (False, "playing: call ~/pause first")
    assert call(probe, "toggle_paused") == (True, "paused")
    probe.spin(0.5)  # what was under way
    count, stands = len(images), clocks[-1]
    probe.spin(0.5)
    assert len(images) == count
    assert clocks[-1] == stands
    assert call(probe, "toggle_paused") == (True, "playing")
    probe.wait(lambda: len(images) >= 10)
    assert nanoseconds_of(images)[:10] == stamps + stamps[:2]  # it jumps back, as the camera does
    times = nanoseconds_of(clocks)
    jumps = [after for before, after in pairwise(times) if after < before]
    assert set(jumps) == {stamps[0]}
    assert max(times) == stamps[-1]
    assert len(set(times) - set(stamps)) > 10  # it goes on between two images
    took = probe.times["image"][9] - probe.times["image"][2]
    assert took > 1.0  # 1.4 s, and the pause
    process.process.kill()
    process.wait(60)


def test_it_goes_at_the_pace_of_a_front_end(probe, sequence, tmp_path):
    """Each image waits for the features of the one before, or for the status that it was refused.

    The front-end is the test: the times are the player's alone.
    """
    probe.listen(ImageMessage, "image")
    images, times = probe.received["image"], probe.times["image"]
    features = probe.node.create_publisher(FeatureFrame, "eye/features", RELIABLE)
    status = probe.node.create_publisher(FrontendStatus, "eye/status", RELIABLE)
    process = start(
        tmp_path / "log", f"source:={sequence}", "reliability:=reliable", "stamp:=dataset",
        "wait_for_frontend:=eye",
    )  # fmt: skip
    probe.wait(lambda: images and features.get_subscription_count())
    probe.wait(status.get_subscription_count)
    features.publish(FeatureFrame())  # of another image
    probe.spin(0.5)
    assert len(images) == 1
    features.publish(FeatureFrame(header=images[0].header))
    probe.wait(lambda: len(images) == 2)
    status.publish(FrontendStatus(frames_received=2, frames_processed=1))  # at work
    probe.spin(0.5)
    assert len(images) == 2
    status.publish(FrontendStatus(frames_received=2, frames_processed=1, frames_refused=1))
    probe.wait(lambda: len(images) == 3)
    probe.spin(1.2)  # the third is lost on its way
    status.publish(FrontendStatus(frames_received=2, frames_processed=1, frames_refused=1))
    probe.wait(lambda: len(images) == 4)
    while len(images) < 8:
        features.publish(FeatureFrame(header=images[-1].header))
        count = len(images)
        probe.wait(lambda count=count: len(images) > count)
    assert process.wait(PATIENCE) == 0, process.text()
    assert nanoseconds_of(images) == [1_000_250_000_000 + i * 50_000_000 for i in range(8)]
    assert times[7] - times[3] > 0.15  # 0.2 s: a front-end that keeps up gets no burst


def test_a_front_end_that_is_gone_is_waited_for_once(probe, monkeypatch):
    monkeypatch.setattr(pacing, "_TIMEOUT", 1.0)
    done: list[int] = []
    pace = pacing.Pacing(probe.node, "gone", lambda: done.append(1))
    features = probe.node.create_publisher(FeatureFrame, "gone/features", RELIABLE)
    probe.listen(FeatureFrame, "gone/features")
    pace.published(Stamp(sec=1))
    assert pace.busy()
    probe.wait(lambda: not pace.busy())
    assert len(done) == 1
    pace.published(Stamp(sec=2))
    assert not pace.busy()  # played in time
    probe.wait(features.get_subscription_count)
    features.publish(FeatureFrame())
    probe.wait(lambda: probe.received["gone/features"])
    probe.spin(0.1)  # until the pacing has it, too
    pace.published(Stamp(sec=3))
    assert pace.busy()  # it is back


def test_the_last_step_is_answered_and_ends_the_player(probe, sequence, tmp_path):
    probe.listen(ImageMessage, "image", BEST_EFFORT)
    process = start(
        tmp_path / "log", f"source:={sequence}", "start_paused:=true", "limit:=1",
        "stamp:=dataset",
    )  # fmt: skip
    answer = (False, "")
    while not answer[0]:
        probe.spin(0.1)
        answer = call(probe, "step")
    assert answer == (True, "image 1, stamp 1000.250000000")
    assert process.wait(PATIENCE) == 0, process.text()
    assert "Played 1 images" in process.text()


def test_it_ends_cleanly_while_it_waits(probe, sequence, tmp_path):
    """For subscribers, in a pause, and while it reads ahead."""
    probe.listen(ImageMessage, "image", BEST_EFFORT)
    situations = {
        "waiting": [f"source:={sequence}", "wait_for_subscribers:=9"],
        "paused": [f"source:={sequence}", "start_paused:=true"],
        "reading": ["source:=virtual", "preload:=100000", "limit:=100000"],
    }
    processes = {
        name: RosProcess(
            MODULE, tmp_path / name, "-r", f"__node:={name}",
            *(part for argument in arguments for part in ("-p", argument)),
        )
        for name, arguments in situations.items()
    }  # fmt: skip
    probe.wait(lambda: set(processes) <= set(probe.node.get_node_names()))
    probe.spin(1.0)
    for process in processes.values():
        assert process.alive(), process.text()
        assert process.stop(signal.SIGINT) == 0, process.text()
        assert "Traceback" not in process.text()
        assert "Played" not in process.text()


def test_a_source_that_ends_early_is_told(probe, sequence, tmp_path):
    """A recording whose recorder was killed: exact stamps, what is whole, and where it ended."""
    probe.listen(ImageMessage, "image")
    begin = 1403636579763555584  # nanoseconds, which a float64 of seconds does not hold
    stamps = [begin + index * 20_000_000 for index in range(8)]
    entries = [
        ("/eye/image", stamp, bags.image(np.full((480, 640), 9, np.uint8), stamp, "mono8"))
        for stamp in stamps
    ]
    path = bags.write(tmp_path / "run", entries, StoragePlugin.MCAP) / "run.mcap"
    path.write_bytes(path.read_bytes()[:-400_000])
    process = start(tmp_path / "log", f"source:={path}", "stamp:=dataset", "reliability:=reliable")
    assert process.wait(PATIENCE) == 0, process.text()
    (count,) = re.findall(r"Played (\d+) images", process.text())
    probe.wait(lambda: len(probe.received["image"]) == int(count))
    played = nanoseconds_of(probe.received["image"])
    assert 0 < len(played) < 8
    assert played == stamps[: len(played)]
    assert f"last complete chunk, {len(played)} images" in process.text()
    assert "[dataset_player]" in process.text().splitlines()[0]  # said by the node, also in /rosout


def test_raw_stereo_is_played_rectified(probe, shared: Path, tmp_path):
    tree = write_euroc(shared / "data" / "kitti_00_first40", tmp_path / "euroc")
    for name in ("image", "right/image"):
        probe.listen(ImageMessage, name)
    probe.listen(CameraInfo, "right/camera_info")
    process = start(
        tmp_path / "log", f"source:={tree}", "publish:=stereo", "stamp:=dataset",
        "reliability:=reliable",
    )  # fmt: skip
    probe.wait(lambda: len(probe.received["right/image"]) == 2)
    process.process.kill()
    process.wait(60)
    info = probe.received["right/camera_info"][0]
    assert -info.p[3] / info.p[0] == pytest.approx(BASELINE)
    assert not any(info.d)
    expected = next(iter(open_source(str(tree), partner="right")))
    left, right = (probe.received[name][0] for name in ("image", "right/image"))
    np.testing.assert_array_equal(image_from_message(left).pixels, expected.pixels)
    np.testing.assert_array_equal(image_from_message(right).pixels, expected.right)
    assert nanoseconds(left.header.stamp) == expected.nanoseconds


@pytest.mark.long
def test_a_front_end_on_the_player_s_clock(probe, shared: Path, tmp_path):
    """use_sim_time from end to end, in a loop: stamps of years ago, each loop a new epoch."""
    frontend = RosProcess(
        "aliked_ros.ros.frontend_node", tmp_path / "frontend", "-p", "use_sim_time:=true",
        "-p", "input_reliability:=reliable", "-p", "matcher:=nearest", "-p", "max_keypoints:=200",
        "-p", "status_period:=0.1", "-p", "input_depth:=10",
    )  # fmt: skip
    probe.wait_for_state("active")
    sequence = shared / "data" / "tum_fr1_xyz"
    player = start(
        tmp_path / "player", f"source:={sequence}", "clock:=100.0", "limit:=4", "loop:=true",
        "speed:=0.2", "reliability:=reliable",
    )  # fmt: skip
    probe.wait(lambda: probe.features and probe.features[-1].epoch >= probe.features[0].epoch + 2)
    known = [image.nanoseconds for image in open_source(str(sequence), 4)]
    played = nanoseconds_of(probe.features)
    assert set(played) <= set(known)
    for before, after in pairwise(probe.features):
        jumped = nanoseconds(after.header.stamp) < nanoseconds(before.header.stamp)
        assert (after.epoch > before.epoch) == jumped
    status = probe.status
    assert status.frames_refused == 0
    receive = status.stage_max[list(status.stage_names).index("receive")]
    assert 0.0 <= receive < 5.0  # seconds of the same clock
    for process in (player, frontend):
        assert process.stop(signal.SIGINT) == 0, process.text()
        assert "Traceback" not in process.text()
