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
import os
import signal
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import rclpy
from builtin_interfaces.msg import Time
from rclpy import create_node
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame
from aliked_ros.errors import ConfigurationError
from aliked_ros.exporting.colmap import export_colmap
from aliked_ros.exporting.recording import RecordingReader
from aliked_ros.exporting.tum import export_tum
from aliked_ros.io.bags import Bag
from aliked_ros.io.messages import nanoseconds
from aliked_ros.ros import frontend_node, subscriptions
from aliked_ros.ros.frame import Frame
from aliked_ros.ros.frontend_node import FrontendNode
from aliked_ros.ros.inputs import Inputs
from aliked_ros.ros.parameters import DECLARATIONS
from aliked_ros.ros.recording import Recording
from aliked_ros.ros.status import Statistics
from aliked_ros.ros.subscriptions import unheard, warn_of_silence
from aliked_ros.ros.warnings import Warnings
from aliked_ros.types import Features, FrameResult, Matches, Tracks
from helpers import bags
from helpers.bags import SECOND
from helpers.ros import DOMAIN, RELIABLE, Probe, RosProcess, environment, refusals

pytestmark = pytest.mark.ros

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Listener:
    """Inputs of an active front-end, without the front-end."""

    def __init__(self, node: Node, **settings: Any) -> None:
        self.said: list[str] = []
        self.arrivals: list[Frame] = []
        values = {item.name: item.default for item in DECLARATIONS} | settings
        self.warnings = Warnings(self.said.append, lambda _: None)
        self.inputs = Inputs(
            node, values, None, Statistics(),  # type: ignore[arg-type]
            self.warnings, self.arrivals.append,
        )  # fmt: skip


@pytest.fixture
def probe() -> Iterator[Probe]:
    probe = Probe()
    yield probe
    probe.close()


def calibrated() -> CameraInfo:
    info = CameraInfo(width=64, height=48, distortion_model="plumb_bob")
    info.p = np.array([90.0, 0.0, 32.0, 0.0, 0.0, 90.0, 24.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    info.k = info.p.reshape(3, 4)[:, :3].ravel()
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


@pytest.mark.parametrize("shift", [-0.06, -90.0 * 120.0])  # in metres; in millimetres
def test_a_baseline_in_another_unit_is_named(probe, shift):
    listener = Listener(probe.node, input="stereo")
    info = calibrated()
    info.p[3] = shift
    listener.inputs.calibration.set_right_info(info)
    (said,) = listener.said
    assert f"has a baseline of {-shift / 90.0:g} m" in said
    assert "P[3] must be -fx · baseline" in said
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


def test_stamps_of_arrival_by_a_clock_that_nobody_publishes(probe):
    simulated = Parameter("use_sim_time", value=True)
    node = create_node("robot", context=probe.context, parameter_overrides=[simulated])
    listener = Listener(node, stamps="arrival")
    listener.inputs.on_image(image_of(5), {})
    (said,) = listener.said
    assert "is 0 s" in said
    assert "publish /clock, or set use_sim_time to false" in said
    listener.inputs.close()
    node.destroy_node()


@pytest.mark.parametrize(
    ("published", "wanted", "words"),
    [
        ({}, ("/eye", ImageMessage), "same ROS_DOMAIN_ID ("),
        ({"/eye": ImageMessage}, ("/eye", ImageMessage), None),
        ({"/eye/compressed": CompressedImage}, ("/eye", ImageMessage),
         "set image_transport to compressed"),
        ({"/eye/compressedDepth": CompressedImage}, ("/eye", ImageMessage),
         "set depth_transport to compressedDepth"),
        ({"/eye": ImageMessage}, ("/eye/compressed", CompressedImage),
         "/eye is published: set image_transport to raw"),
        ({"/eye/compressed": CompressedImage}, ("/eye/compressed", ImageMessage),
         "carries sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image. Remap to /eye and "
         "set image_transport to compressed"),
        ({"/eye/compressed": CompressedImage}, ("/eye/compressed/compressed", CompressedImage),
         "/eye/compressed carries it: remap to /eye."),
        ({"/camera/camera_info": CameraInfo}, ("/camera_info", CameraInfo),
         "sensor_msgs/msg/CameraInfo is published on /camera/camera_info: remap to it"),
        ({"/probe/own": ImageMessage}, ("/eye", ImageMessage), "Nobody publishes"),
    ],
)  # fmt: skip
def test_a_topic_on_which_nothing_comes_is_explained_by_those_that_are_there(
    probe, published, wanted, words
):
    for publisher in (probe.images, probe.compressed):
        probe.node.destroy_publisher(publisher)
    topic, kind = wanted
    probe.node.create_subscription(kind, topic, lambda _: None, 1)
    context = Context()  # another process, as far as the middleware knows
    with patch.dict(os.environ, environment()):
        rclpy.init(context=context, domain_id=DOMAIN)
    camera = create_node("camera", context=context)
    for name, other in published.items():
        node = probe.node if name.startswith("/probe/") else camera
        node.create_publisher(other, name, 1)
    probe.wait(lambda: all(probe.node.count_publishers(name) == 1 for name in published))
    said = unheard(probe.node, topic, kind)
    assert (words in said) if words else said == ""
    camera.destroy_node()
    rclpy.shutdown(context=context)


def test_a_node_that_hears_nothing_says_so_once(probe, monkeypatch, capfd):
    monkeypatch.setattr(subscriptions, "_PATIENCE", 0.3)
    probe.node.create_publisher(CameraInfo, "/robot1/camera_info", 1)
    for topic, heard in (("/camera_info", False), ("/image", True)):
        warn_of_silence(probe.node, topic, CameraInfo, lambda heard=heard: heard)
    probe.spin(1.0)
    (said,) = [line for line in capfd.readouterr().err.splitlines() if "Nothing on" in line]
    assert "Nothing on /camera_info for 0.3 s." in said
    assert "is published on /robot1/camera_info: remap to it." in said


def test_a_topic_of_two_types_is_named(probe):
    """The middleware refuses them in one process."""
    names = ["--ros-args", "-r", "image:=/eye", "-r", "camera_info:=/eye"]
    node = create_node("robot", context=probe.context, cli_args=names)
    with pytest.raises(ConfigurationError, match="/eye cannot be subscribed to as CameraInfo"):
        Listener(node)
    node.destroy_node()


def depth_of(metres: float) -> ImageMessage:
    pixels = np.full((48, 64), metres, np.float32)
    return ImageMessage(height=48, width=64, step=256, encoding="32FC1", data=pixels.tobytes())


@pytest.mark.parametrize(
    ("frames", "metres", "words"),
    [
        (("eye", "eye"), 2.0, None),
        (("", "depth"), 2.0, None),
        (("camera_infra1_optical_frame", "camera_depth_optical_frame"), 2.0, None),
        (("camera_color_optical_frame", "camera_aligned_depth_to_color_frame"), 2.0, None),
        (("colour", "depth"), 2.0, "/depth/image has the frame_id 'depth', /image 'colour'"),
        (("eye", "eye"), 2000.0, "has a median of 2000 m: is it in another unit?"),
        (("eye", "eye"), 0.002, "has a median of 0.002 m"),
        (("eye", "eye"), np.nan, None),
    ],
)
def test_depth_that_is_of_another_camera_or_unit_is_named(probe, frames, metres, words):
    listener = Listener(probe.node, input="rgbd")
    image = grey_image(100)
    depth = depth_of(metres)
    image.header.frame_id, depth.header.frame_id = frames
    used = listener.inputs.image(Frame(image, 0.0, partner=depth))
    assert used is not None
    assert used.depth is not None
    assert [words in said for said in listener.said] == ([True] if words else [])
    listener.inputs.close()


def grey_image(value: int, encoding: str = "mono8") -> ImageMessage:
    pixels = np.full((48, 64), value, np.uint8 if encoding == "mono8" else np.uint16)
    message = ImageMessage(height=48, width=64, step=64 * pixels.itemsize, encoding=encoding)
    message.data.frombytes(pixels.tobytes())
    return message


@pytest.mark.parametrize(
    ("value", "encoding", "bits"),
    [(10, "mono8", None), (40_000, "mono16", None), (4095, "mono16", 12), (1023, "mono16", 10)],
)
def test_samples_that_use_the_lower_bits_only_are_named(probe, value, encoding, bits):
    listener = Listener(probe.node)
    for _ in range(99):
        listener.inputs.image(Frame(grey_image(value, encoding), 0.0))
    assert listener.said == []  # it may be dark
    listener.inputs.image(Frame(grey_image(value, encoding), 0.0))
    words = f"are mono16, but use only {bits} of the 16 bits"
    assert [words in said for said in listener.said] == ([True] if bits else [])
    listener.inputs.image(Frame(grey_image(40_000, "mono16"), 0.0))
    listener.inputs.image(Frame(grey_image(value, encoding), 0.0))
    assert str(listener.warnings) == ""
    listener.inputs.close()


@pytest.mark.parametrize(
    ("topic", "distortion", "settings", "words"),
    [
        ("/camera/image_raw", 0.1, {}, None),
        ("/camera/image_rect", 0.1, {}, "/camera/image_rect has rectified images by its name"),
        ("/zed/left/color/rect/image", 0.1, {}, "has rectified images by its name"),
        ("/camera/image_rect", 0.0, {}, None),
        ("/camera/image_rect_color", 0.1, {"rectified": True}, None),
        ("/camera/image_raw", 0.1, {"rectified": True}, "has raw images by its name"),
        ("/left/image_raw", 0.1, {"input": "stereo"}, "has raw images by its name"),
        ("/left/image", 0.1, {"input": "stereo"}, None),
    ],
)
@pytest.mark.parametrize("frame", ["", "/eye", "other"])
def test_names_that_contradict_camera_info(probe, topic, distortion, settings, words, frame):
    node = create_node(
        "robot", context=probe.context, cli_args=["--ros-args", "-r", f"image:={topic}"]
    )
    listener = Listener(node, **settings)
    info = calibrated()
    info.header.frame_id = frame
    info.d = [distortion, 0.0, 0.0, 0.0, 0.0]
    listener.inputs.calibration.set_info(info)
    nothing = np.zeros((0, 2), np.float32)
    features = Features(nothing, nothing[:, 0], nothing, 64, 48, "aliked-n16")
    tracks = Tracks(np.zeros(0, np.uint64), np.zeros(0, np.uint32), 0)
    listener.inputs.check(FrameResult(0, 0.0, features, Matches.empty(), tracks), "eye")
    expected = [words] if words else []
    if frame == "other":
        expected.append(f"has the frame_id 'other', {topic} has 'eye'")
    assert len(listener.said) == len(expected)
    assert all(words in said for words, said in zip(expected, listener.said, strict=True))
    listener.inputs.close()
    node.destroy_node()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"width": 32, "height": 24}, "is (32, 24), the images are 32×24"),
        ({"height": 30}, None),  # without the lower rows
        ({"width": 256, "height": 192, "binning_x": 4, "binning_y": 4}, "(binning is 4×4)"),
    ],
)
def test_a_camera_matrix_of_another_resolution_is_named(probe, change, words):
    listener = Listener(probe.node)
    info = calibrated()
    for name, value in change.items():
        setattr(info, name, value)
    listener.inputs.calibration.set_info(info)
    assert [words in said for said in listener.said] == ([True] if words else [])
    listener.inputs.close()


def test_two_cameras_on_one_topic_are_named(probe):
    other = probe.node.create_publisher(ImageMessage, "image", RELIABLE)
    listener = Listener(probe.node, input_reliability="reliable", input_depth=100)
    probe.wait(lambda: other.get_subscription_count() and probe.images.get_subscription_count())
    for number in range(15):
        for camera in (probe.images, other):
            camera.publish(image_of(number + 1, 1 if camera is other else 0))
    probe.wait(lambda: len(listener.arrivals) == 30)
    (said,) = listener.said
    assert "/image has 2 publishers: their images mix" in said
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
    assert player.wait(120) == 0
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

    probe.wait(said)
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
    probe.wait(lambda: infos.get_subscription_count() == (2 if qos is LATCHED else 1))
    probe.spin(1.0)
    for sec in range(1, 4):
        infos.publish(CameraInfo(header=Header(stamp=Time(sec=sec))))
        probe.wait_arrived(infos)
    probe.spin(1.0)
    assert recorder.stop() == 0, recorder.text()
    with Bag(tmp_path / "run.mcap") as bag:
        stamps = [info.header.stamp.sec for _, _, info in bag.messages(["/camera_info"])]
    assert stamps == ([0, 1, 2, 3] if qos is LATCHED else [1, 2, 3])


def test_another_node_of_the_same_name_is_named(probe, monkeypatch, capfd):
    monkeypatch.setattr(frontend_node, "_OVERLAP", 0.5)
    node = FrontendNode(context=probe.context)
    twin = create_node("aliked_frontend", context=probe.context)
    probe.executor.add_node(node)
    words = "Another node has the name /aliked_frontend, too"
    probe.wait(lambda: words in probe.status.last_error)
    twin.destroy_node()
    probe.spin(1.5)
    assert capfd.readouterr().err.count(words) == 1
    probe.executor.remove_node(node)
    node.close()
    node.destroy_node()


@pytest.mark.long
def test_use_sim_time_of_another_type_is_one_clear_line():
    """Rclpy's own parameter, which launch files pass as a text or a number."""
    for said in refusals("aliked_ros.ros.frontend_node", [["use_sim_time:=1"],
                                                          ["use_sim_time:='true'"]]):  # fmt: skip
        assert "'use_sim_time'" in said
        assert "Give true or false, without quotes." in said
