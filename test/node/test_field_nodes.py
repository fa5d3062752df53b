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

"""Nodes with what the field sends: latched topics, stamps of no use, mistyped parameters."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame
from aliked_ros.exporting.colmap import export_colmap
from aliked_ros.exporting.recording import RecordingReader
from aliked_ros.exporting.tum import export_tum
from aliked_ros.io.bags import Bag
from aliked_ros.io.messages import nanoseconds
from aliked_ros.ros.frame import Frame
from aliked_ros.ros.inputs import Inputs
from aliked_ros.ros.parameters import DECLARATIONS
from aliked_ros.ros.recording import Recording
from aliked_ros.ros.status import Statistics
from aliked_ros.ros.warnings import Warnings
from helpers import bags
from helpers.bags import SECOND
from helpers.ros import RELIABLE, Probe, RosProcess

pytestmark = pytest.mark.ros

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Listener:
    """Inputs of an active front-end, without the front-end."""

    def __init__(self, node: Node, **settings: Any) -> None:
        self.said: list[str] = []
        self.arrivals: list[Frame] = []
        values = {item.name: item.default for item in DECLARATIONS} | settings
        self.inputs = Inputs(
            node, values, None, Statistics(),  # type: ignore[arg-type]
            Warnings(self.said.append, lambda _: None), self.arrivals.append,
        )  # fmt: skip


@pytest.fixture
def probe() -> Iterator[Probe]:
    probe = Probe()
    yield probe
    probe.close()


def calibrated() -> CameraInfo:
    info = CameraInfo(width=64, height=48, distortion_model="plumb_bob")
    info.k[0] = info.k[4] = 90.0
    return info


@pytest.mark.parametrize("qos", [LATCHED, RELIABLE])
def test_what_was_latched_before_the_node_started_is_used(probe, qos):
    """And what others publish from then on, as before."""
    node = probe.node
    infos = node.create_publisher(CameraInfo, "camera_info", qos)
    masks = node.create_publisher(ImageMessage, "mask", qos)
    mask = ImageMessage(width=64, height=48, step=64, encoding="mono8", data=bytes(64 * 48))
    if qos is LATCHED:
        infos.publish(calibrated())
        masks.publish(mask)
        probe.spin(0.2)
    listener = Listener(node)
    if qos is RELIABLE:
        probe.wait(lambda: infos.get_subscription_count() and masks.get_subscription_count())
        infos.publish(calibrated())
        masks.publish(mask)
    probe.wait(lambda: listener.inputs.calibration.camera is not None)
    probe.wait(lambda: listener.inputs.mask(64, 48) is not None)
    assert not listener.said
    listener.inputs.close()


def test_the_right_cameras_latched_info_gives_the_baseline(probe):
    info = calibrated()
    info.p[0], info.p[3] = 90.0, -9.0
    infos = probe.node.create_publisher(CameraInfo, "right/camera_info", LATCHED)
    infos.publish(info)
    listener = Listener(probe.node, input="stereo")
    probe.wait(lambda: listener.inputs.calibration.baseline == pytest.approx(0.1))
    listener.inputs.close()


def image_of(sec: int, nanosec: int = 0) -> ImageMessage:
    return ImageMessage(header=Header(stamp=Time(sec=sec, nanosec=nanosec)))


@pytest.mark.parametrize(
    ("stamps", "words"),
    [
        ([5, 6, 7], None),
        ([0, 0], "is 0 s"),
        ([5, 5], "is that of the image before"),
        ([5, 6, 4], "is 2 s before"),
        ([-3, 6], "is -3 s"),
    ],
)
def test_the_front_end_says_what_it_does_with_stamps(probe, stamps, words):
    listener = Listener(probe.node)
    for sec in stamps:
        listener.inputs.on_image(image_of(sec), {})
    assert len(listener.arrivals) == len(stamps)  # none is left out
    if words is None:
        assert not listener.said
    else:
        (said,) = listener.said
        assert words in said
        assert "set stamps to arrival" in said
    listener.inputs.close()


def test_stamps_of_arrival(probe):
    listener = Listener(probe.node, stamps="arrival")
    before = probe.node.get_clock().now().nanoseconds
    for _ in range(3):
        listener.inputs.on_image(image_of(0), {})
    stamps = [nanoseconds(arrival.message.header.stamp) for arrival in listener.arrivals]
    assert before <= stamps[0] < stamps[1] < stamps[2]
    assert not listener.said
    listener.inputs.close()


@pytest.mark.long
def test_the_player_goes_on_over_odd_stamps(probe, tmp_path):
    """A gap of an hour, an image that is late, one from before 1970: all are played, and named."""
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [f"{i},{t},{i}.pgm\n" for i, t in enumerate((100, 100.1, 3700.2, 3700.1, -5, 3700.4))]
    for index in range(6):
        (folder / f"{index}.pgm").write_bytes(b"P5 8 8 255\n" + bytes([index] * 64))
    (folder / "frames.csv").write_text("".join(lines))
    probe.listen(ImageMessage, "image")
    player = RosProcess(
        "aliked_ros.ros.player", tmp_path / "log",
        *("-p", f"source:={folder}", "-p", "reliability:=reliable", "-p", "stamp:=dataset"),
    )  # fmt: skip
    assert player.wait(30) == 0
    probe.wait(lambda: len(probe.received["image"]) == 6)
    stamps = [nanoseconds(message.header.stamp) / SECOND for message in probe.received["image"]]
    assert stamps == [100.0, 100.1, 3700.2, 3700.1, 0.0, 3700.4]
    assert "The stamp of image 3 is 3600.1 s later" in player.text()
    assert "has the stamp -5 s" in player.text()


def frame(sec: int) -> FeatureFrame:
    message = FeatureFrame(header=Header(stamp=Time(sec=sec)), width=64, height=48)
    message.model, message.frame_index = "aliked-n16", sec
    return message


def test_exports_say_which_images_and_poses_they_cannot_keep_apart(tmp_path, caplog):
    path = Recording(tmp_path / "run.mcap")
    path.add_topic("/aliked_frontend/features", FeatureFrame)
    for index, sec in enumerate((1, 2, 2, 3)):
        data = serialize_message(frame(sec))
        path.add("/aliked_frontend/features", data, index + 1, index + 1)
    path.finish()
    pytest.importorskip("pycolmap")
    with RecordingReader(tmp_path / "run.mcap") as recording:
        figures = export_colmap(recording, tmp_path / "out")
    assert figures["images"] == 3
    assert "and are skipped: stamps pair images with features" in caplog.text


def test_a_trajectory_of_stamps_that_do_not_grow_is_named(tmp_path, caplog):
    from scipy.spatial.transform import Rotation

    entries = [
        ("/odometry", i + 1, bags.odometry(stamp, np.zeros(3), Rotation.identity()))
        for i, stamp in enumerate((0, SECOND, SECOND, 2 * SECOND))
    ]
    path = bags.write(tmp_path / "run", entries, StoragePlugin.MCAP)
    with caplog.at_level(logging.WARNING), RecordingReader(path) as recording:
        assert export_tum(recording, tmp_path / "run.txt") == 4
    assert "2 of 4 poses have a stamp that is 0 or not increasing" in caplog.text


@pytest.mark.long
def test_the_recorder_and_odometry_say_that_stamps_are_of_no_use(probe, tmp_path):
    features = probe.node.create_publisher(FeatureFrame, "aliked_frontend/features", RELIABLE)
    recorder = RosProcess(
        "aliked_ros.ros.recorder", tmp_path / "log", "-p", f"output:={tmp_path / 'run.mcap'}"
    )
    odometry = RosProcess("aliked_ros.ros.odometry_node", tmp_path / "odometry_log")
    words = {
        recorder: "Features have the stamp 0.000000000",
        odometry: "it gets no pose",
    }

    def said() -> bool:
        features.publish(frame(0))
        return all(text in process.text() for process, text in words.items())

    probe.wait(said, 60)
    for process, text in words.items():
        assert process.stop(signal.SIGTERM) == 0
        assert process.text().count(text) == 1


@pytest.mark.long
@pytest.mark.parametrize("qos", [LATCHED, RELIABLE])
def test_the_recorder_has_each_camera_info_once(probe, tmp_path, qos):
    """Latched ones from before it started, too."""
    infos = probe.node.create_publisher(CameraInfo, "camera_info", qos)
    if qos is LATCHED:
        infos.publish(calibrated())
    recorder = RosProcess(
        "aliked_ros.ros.recorder", tmp_path / "log",
        *("-p", f"output:={tmp_path / 'run.mcap'}", "-p", "record_images:=raw"),
    )  # fmt: skip
    probe.wait(lambda: infos.get_subscription_count() == (2 if qos is LATCHED else 1), 60)
    probe.spin(1.0)
    for sec in range(1, 4):
        infos.publish(CameraInfo(header=Header(stamp=Time(sec=sec))))
        probe.spin(0.1)
    probe.spin(1.0)
    assert recorder.stop() == 0, recorder.text()
    with Bag(tmp_path / "run.mcap") as bag:
        stamps = [info.header.stamp.sec for _, _, info in bag.messages(["/camera_info"])]
    assert stamps == ([0, 1, 2, 3] if qos is LATCHED else [1, 2, 3])
