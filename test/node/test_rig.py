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

"""The rig's node in a process of its own, with three cameras whose poses are known."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Transform, TransformStamped
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy, QoSProfile
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame, FrontendStatus, RigFrame
from aliked_ros.ros import rig_node
from aliked_ros.ros.camera_output import camera_info
from aliked_ros.ros.conversions import image_message, stamp_from_seconds
from aliked_ros.ros.extrinsics import Extrinsics
from aliked_ros.ros.parameters import CAMERAS_NAMES, RIG_NAMES
from aliked_ros.ros.sets import SILENT
from aliked_ros.ros.warnings import Warnings
from helpers.rig import MountedCamera, camchain, pose
from helpers.ros import DOMAIN, RELIABLE, START_TIMEOUT, Probe, RosProcess, refusals

MODULE = "aliked_ros.ros.rig_node"
POSES = {"left": pose(-0.12, 0, 0, 6), "front": pose(0, 0.02, 0), "right": pose(0.1, 0, 0.03, -8)}
PARAMETERS = ["cameras:=[left,front,right]", "max_keypoints:=256", "matcher:=nearest"]
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class RigProbe(Probe):
    """The cameras of a rig, and a subscriber to its frames."""

    def __init__(self) -> None:
        super().__init__("aliked_rig")
        self.cameras = {name: MountedCamera(p) for name, p in POSES.items()}
        self.publishers = {
            name: self.node.create_publisher(ImageMessage, f"/{name}/image", RELIABLE)
            for name in POSES
        }
        self.infos = {
            name: self.node.create_publisher(CameraInfo, f"/{name}/camera_info", LATCHED)
            for name in POSES
        }
        self.listen(RigFrame, "aliked_rig/frames")
        for name in POSES:
            self.listen(FrontendStatus, f"/{name}/aliked_frontend/status")
            self.listen(FeatureFrame, f"/{name}/aliked_frontend/features")

    def publish_infos(self) -> None:
        for name, camera in self.cameras.items():
            self.infos[name].publish(camera_info(camera.calibration))

    def publish_tf(self, names: list[str]) -> None:
        tf2 = pytest.importorskip("tf2_msgs.msg")
        transforms = []
        for name in names:
            matrix, transform = POSES[name], Transform()
            for target, values, axes in (
                (transform.translation, matrix[:3, 3], "xyz"),
                (transform.rotation, Rotation.from_matrix(matrix[:3, :3]).as_quat(), "xyzw"),
            ):
                for axis, value in zip(axes, values.tolist(), strict=True):
                    setattr(target, axis, value)
            header = Header(frame_id="body")
            transforms.append(
                TransformStamped(
                    header=header, child_frame_id=f"{name}_optical", transform=transform
                )
            )
        self.tf = self.node.create_publisher(tf2.TFMessage, "/tf_static", LATCHED)
        self.tf.publish(tf2.TFMessage(transforms=transforms))

    def wait_active(self) -> None:
        for name in POSES:
            topic = f"/{name}/aliked_frontend/status"
            self.wait(
                lambda topic=topic: (
                    self.received[topic] and self.received[topic][-1].state == "active"
                ),
                START_TIMEOUT,
            )
            self.wait(lambda name=name: self.publishers[name].get_subscription_count())
        for name in POSES:
            self.wait_discovered(f"{name}/aliked_frontend")

    def send_set(self, index: int, names: list[str] | None = None) -> RigFrame:
        """Publish a set and wait for what comes of it."""
        stamp = Time(sec=100 + index)
        names = list(POSES) if names is None else names
        for name in names:
            header = Header(stamp=stamp, frame_id=f"{name}_optical")
            pixels = self.cameras[name].render(index).pixels
            self.publishers[name].publish(image_message(pixels, header))

        def answered() -> RigFrame | None:
            frames = self.received["frames"]
            return next((f for f in frames if f.header.stamp == stamp), None)

        return self.wait(answered)


@pytest.fixture
def probe() -> Iterator[RigProbe]:
    probe = RigProbe()
    yield probe
    probe.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RosProcess]]:
    started = []

    def start(*parameters: str) -> RosProcess:
        words = [word for one in (*PARAMETERS, *parameters) for word in ("-p", one)]
        started.append(RosProcess(MODULE, tmp_path / "log", *words))
        return started[-1]

    yield start
    for process in started:
        process.process.kill()
        process.process.wait()


def arrays(message: RigFrame) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    """Landmark ids and keypoints by camera; K×2 cameras and rows of the matches."""
    keypoints = [np.frombuffer(f.keypoints, np.float32).reshape(-1, 2) for f in message.frames]
    ends = np.cumsum([len(points) for points in keypoints])
    ids = np.split(np.frombuffer(message.landmark_ids, np.uint64), ends[:-1])
    cameras = np.column_stack([message.first_cameras, message.second_cameras])
    rows = np.column_stack([message.first_indices, message.second_indices])
    return ids, keypoints, cameras, rows


def check(probe: RigProbe, index: int, message: RigFrame) -> int:
    """A set against the known geometry; the number of matches."""
    ids, keypoints, cameras, rows = arrays(message)
    homography = {
        name: probe.cameras[name].homography(index) for name in message.names
    }  # from the photograph
    for (first, second), (row, column) in zip(cameras.tolist(), rows.tolist(), strict=True):
        assert ids[first][row] == ids[second][column]
    for its in ids:
        assert len(np.unique(its)) == len(its)
        assert its.min() > 0
    right = []
    for (first, second), (row, column) in zip(cameras.tolist(), rows.tolist(), strict=True):
        there = homography[message.names[second]] @ np.linalg.inv(homography[message.names[first]])
        x, y, w = there @ [*keypoints[first][row], 1.0]
        right.append(np.hypot(*(np.array([x, y]) / w - keypoints[second][column])) < 3.0)
    assert np.mean(right) > 0.9, "the wall is a plane: each point has one place"
    for name, frame, points in zip(message.names, message.frames, keypoints, strict=True):
        depth = np.frombuffer(frame.depth, np.float32)
        known = np.isfinite(depth)
        assert known.sum() > 30, name
        error = depth[known] / probe.cameras[name].depth(index, points[known]) - 1.0
        assert np.median(np.abs(error)) < 0.03, name
    return len(rows)


@pytest.mark.ros
@pytest.mark.long
def test_three_cameras_one_of_which_dies_and_returns(probe, start):
    process = start("rig_frame:=body", "sync_wait:=1.0")
    probe.wait_active()
    probe.publish_infos()
    message = probe.send_set(0)
    assert message.names == ["left", "front", "right"]
    assert message.header.frame_id == "body"
    assert list(message.has_extrinsics) == [False] * 3
    assert len(message.scores) == 0
    assert "tf does not know" in process.text()
    probe.publish_tf(list(POSES))
    index = 0
    while not all(message.has_extrinsics) and index < 50:
        index += 1
        message = probe.send_set(index)
    for name, given in zip(message.names, message.extrinsics, strict=True):
        where = given.position
        np.testing.assert_allclose([where.x, where.y, where.z], POSES[name][:3, 3], atol=1e-9)
    assert check(probe, index, message) > 150

    # one camera dies: the others go on
    for _ in range(SILENT + 2):
        index += 1
        message = probe.send_set(index, ["left", "right"])
        assert (message.names, message.missing) == (["left", "right"], ["front"])
        assert check(probe, index, message) > 40
    probe.wait(lambda: "Sets go out without camera front" in process.text())
    assert process.text().count("Sets go out without camera front") == 1

    # and returns
    ids = arrays(message)[0]
    for _ in range(3):
        index += 1
        message = probe.send_set(index)
    assert message.names == ["left", "front", "right"]
    assert not message.missing
    assert check(probe, index, message) > 150
    assert process.text().count("Camera front is back in the sets") == 1
    lasting = np.intersect1d(ids[0], arrays(message)[0][0])
    assert len(lasting) > 30, "landmarks of other cameras have lasted"
    assert process.stop() == 0, process.text()
    assert "Traceback" not in process.text()


@pytest.mark.ros
@pytest.mark.long
def test_a_camchain_with_two_cameras_swapped_is_reported(probe, start, tmp_path):
    left, front, right = probe.cameras.values()
    path = tmp_path / "camchain.yaml"
    path.write_text(camchain([left, right, front]), encoding="utf-8")
    process = start(f"camchain:={path}", "sync_wait:=5.0")
    probe.wait_active()
    for index in range(4):
        message = probe.send_set(index)
    assert list(message.has_extrinsics) == [True] * 3, (
        "without CameraInfo the camchain's lens holds"
    )
    assert message.header.frame_id == "left_optical"
    probe.wait(lambda: "Cameras front and right seem to be swapped" in process.text())
    assert "do not fit their images" not in process.text(), "it follows from that"
    assert len(message.frames) == 3
    assert process.stop() == 0, process.text()


@pytest.mark.ros
@pytest.mark.long
def test_a_camera_with_the_calibration_of_another_size_goes_on_without_matches(
    probe, start, tmp_path
):
    left, front, right = probe.cameras.values()
    path = tmp_path / "camchain.yaml"
    text = camchain([left, front, right])
    start_of_last = text.index("cam2:")
    text = text[:start_of_last] + text[start_of_last:].replace("[320, 240]", "[640, 480]")
    path.write_text(text, encoding="utf-8")
    process = start(f"camchain:={path}", "sync_wait:=5.0")
    probe.wait_active()
    message = probe.send_set(0)
    assert all(message.has_extrinsics)
    assert len(message.scores) > 40
    assert 2 not in list(message.second_cameras)
    said = "Camera right has no matches with others: its calibration is for 640×480 images"
    assert said in process.text()
    probe.publish_infos()
    probe.spin(0.3)
    probe.wait_discovered("aliked_rig")
    message = probe.send_set(1)
    assert 2 in list(message.second_cameras), "CameraInfo takes the place of the camchain's lens"
    assert process.stop() == 0, process.text()


def test_a_set_waits_for_a_moving_transform_that_is_about_to_come():
    tf2 = pytest.importorskip("tf2_msgs.msg")
    context = Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    node, said = rclpy.create_node("rig", context=context), []
    warnings = Warnings(said.append, lambda _: None)
    extrinsics = Extrinsics(node, ["head"], "", "body", 2.0, warnings)

    def move(stamp: float) -> None:
        header = Header(frame_id="body", stamp=stamp_from_seconds(stamp))
        moving = TransformStamped(header=header, child_frame_id="head_optical")
        moving.transform.translation.x = stamp
        moving.transform.rotation.w = 1.0
        extrinsics._transforms._receive(False, tf2.TFMessage(transforms=[moving]))

    def pose_at(stamp: float) -> tuple[np.ndarray | None, float]:
        began = time.monotonic()
        header = Header(frame_id="head_optical", stamp=stamp_from_seconds(stamp))
        (found,) = extrinsics.poses({"head": header})
        return found, time.monotonic() - began

    assert pose_at(10.0)[0] is None, "nobody publishes it"
    move(10.0)
    later = threading.Timer(0.1, move, [10.2])
    later.start()
    found, took = pose_at(10.1)
    later.join()
    assert found[0, 3] == pytest.approx(10.1)
    assert took > 0.05
    for stamp in (10.4, 10.45):  # late
        found, took = pose_at(stamp)
        assert found is None
        assert took >= 2.0
    found, took = pose_at(20.0)  # its publisher has stopped
    assert found is None
    assert took < 1.0
    assert len(said) == 1
    context.try_shutdown()


def test_cameras_of_a_camchain_that_are_not_used_are_named(tmp_path, capfd):
    path = tmp_path / "camchain.yaml"
    path.write_text(camchain([MountedCamera(one) for one in POSES.values()]), encoding="utf-8")
    context = Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    node = rclpy.create_node("rig", context=context)
    Extrinsics(node, ["left", "front"], str(path), "", 0.1, Warnings(print, print))
    said = "has 3 cameras, the parameter cameras names 2: cam0 is left, cam1 is front; the others"
    assert said in capfd.readouterr().err
    context.try_shutdown()


@pytest.mark.ros
def test_what_cannot_be_a_rig_is_named(tmp_path):
    path = tmp_path / "camchain.yaml"
    path.write_text(camchain([MountedCamera(POSES["left"])]), encoding="utf-8")
    cases = {
        f"camchain:={path}": "has 1 cameras, the parameter cameras names 3",
        "camchain:=absent.yaml": "cannot read absent.yaml",
        "sync_wait:=0.0": "sync_wait",
        "left.image:=/front/image": "cameras left and front have the same images, /front/image",
    }
    said = refusals(MODULE, [[*PARAMETERS, case] for case in cases])
    for words, text in zip(cases.values(), said, strict=True):
        assert words in text


def test_launch_knows_the_parameters():
    assert {item.name for item in rig_node._DECLARATIONS} == RIG_NAMES - CAMERAS_NAMES
