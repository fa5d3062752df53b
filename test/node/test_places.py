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


"""Places in the real node: loops, maps that outlive it, and where an image was taken."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from aliked_msgs.msg import LoopCandidate
from aliked_msgs.srv import Localize, MapFile, Relocalize
from aliked_ros.io.messages import nanoseconds
from aliked_ros.ros.conversions import image_message
from aliked_ros.sources.virtual import VirtualCamera
from aliked_ros.types import UInt8Array
from helpers.ros import RELIABLE, Probe, RosProcess

pytestmark = [pytest.mark.ros, pytest.mark.long]

MODULE = "aliked_ros.ros.frontend_node"
VIEWS = (0, 12, 24, 36, 48, 60, 72, 84, 96, 108, 120, 132, 144, 156)
"""Numbers of the images that the robot sees on its way: each overlaps with the one before."""


class World:
    """A virtual camera with its topics; the same images as often as asked for."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.camera = VirtualCamera(length=200, size=(320, 240), shutter=0.0)
        self.nanoseconds = 1_700_000_000_000_000_000
        self.info = probe.node.create_publisher(CameraInfo, "camera_info", RELIABLE)
        self.odometry = probe.node.create_publisher(Odometry, "odometry", RELIABLE)

    def pixels(self, number: int) -> UInt8Array:
        return self.camera.render(number).pixels

    def camera_info(self) -> CameraInfo:
        info = CameraInfo(width=320, height=240, distortion_model="plumb_bob", d=[0.0] * 5)
        info.k = self.camera.camera_matrix.ravel()
        return info

    def show(self, number: int) -> None:
        """One image, with the robot's pose, whose x is the number."""
        self.nanoseconds += 500_000_000
        sec, nanosec = divmod(self.nanoseconds, 10**9)
        header = Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id="camera")
        pose = Odometry(header=Header(stamp=header.stamp, frame_id="odom"))
        pose.child_frame_id = "base_link"
        pose.pose.pose.position.x = float(number)
        self.odometry.publish(pose)
        self.probe.send(image_message(self.pixels(number), header))

    def seconds(self) -> float:
        """Stamp of the last image."""
        return self.nanoseconds * 1e-9


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    probe = Probe()
    probe.listen(LoopCandidate, "aliked_frontend/loops")
    yield probe
    probe.close()


@pytest.fixture(scope="module")
def world(probe: Probe) -> World:
    return World(probe)


_STARTED: list[RosProcess] = []


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    """A test that fails leaves no node to answer in the next one."""
    yield
    for process in _STARTED:
        process.process.kill()
    _STARTED.clear()


def started(probe: Probe, log: Path, *parameters: str) -> RosProcess:
    arguments = [word for one in parameters for word in ("-p", one)]
    process = RosProcess(
        MODULE, log, "-p", "matcher:=nearest", "-p", "max_keypoints:=400",
        "-p", "status_period:=0.1", "-p", "keyframe_interval:=0.1", *arguments,
    )  # fmt: skip
    _STARTED.append(process)
    probe.wait_for_state("active")
    probe.wait_connected()
    return process


def test_a_robot_that_comes_back_and_its_map_in_another_process(probe, world, tmp_path):
    path = tmp_path / "office.mcap"
    process = started(probe, tmp_path / "log", "loops:=true", f"map:={path}")
    assert "does not exist yet" in process.text()
    answer = probe.call(MapFile, "aliked_frontend/save_map")
    assert not answer.success
    assert "no keyframe is remembered yet" in answer.message
    probe.wait(
        lambda: world.info.get_subscription_count() and world.odometry.get_subscription_count()
    )
    world.info.publish(world.camera_info())
    for number in VIEWS:
        world.show(number)
    first = {nanoseconds(f.header.stamp): f for f in probe.features}
    assert not probe.received["loops"]
    assert probe.trigger("reset").success  # lost its tracks: another epoch
    for count, number in enumerate(VIEWS):
        world.show(number + 1)
        probe.spin(0.5)  # so that each is searched for
        if count >= 4 and probe.received["loops"]:
            break
    loop = probe.wait(lambda: probe.received["loops"])[-1]
    earlier = first[nanoseconds(loop.keyframe_stamp)]
    assert (loop.keyframe_index, loop.keyframe_epoch) == (earlier.frame_index, earlier.epoch)
    current = next(f for f in probe.features if f.header.stamp == loop.header.stamp)
    assert (loop.frame_index, loop.epoch) == (current.frame_index, current.epoch)
    assert loop.inlier_count == len(loop.scores) == len(loop.keyframe_indices) >= 30
    assert max(loop.keyframe_indices) < len(earlier.scores)
    assert max(loop.current_indices) < len(current.scores)

    answer = probe.call(MapFile, "aliked_frontend/save_map")
    assert answer.success, answer.message
    assert answer.places >= 15
    copy = tmp_path / "copy.mcap"
    shutil.copy(path, copy)
    assert process.stop() == 0, process.text()

    process = started(probe, tmp_path / "log2", "places:=true")
    answer = probe.call(MapFile, "aliked_frontend/load_map", MapFile.Request(path="/none.mcap"))
    assert not answer.success
    assert "/none.mcap does not exist" in answer.message
    answer = probe.call(Localize, "aliked_frontend/localize")
    assert "no keyframe is remembered" in answer.message
    answer = probe.call(MapFile, "aliked_frontend/load_map", MapFile.Request(path=str(copy)))
    assert answer.success, answer.message
    for turns in (0, 1):  # a phone that is held upright
        pixels = np.ascontiguousarray(np.rot90(world.pixels(VIEWS[3] + 2), turns))
        request = Localize.Request(
            image=image_message(pixels, Header()), camera_info=world.camera_info()
        )
        if turns:
            request.camera_info = CameraInfo()
        answer = probe.call(Localize, "aliked_frontend/localize", request)
        assert answer.success, answer.message
        best = answer.candidates[0]
        assert (best.map_frame, best.body_frame) == ("odom", "base_link")
        assert abs(best.keyframe_pose.position.x - VIEWS[3]) <= 40
        assert answer.features.width == pixels.shape[1]
    request.camera_info = world.camera_info()
    request.camera_info.width *= 2
    answer = probe.call(Localize, "aliked_frontend/localize", request)
    assert "camera_info is of 640x240 pixels" in answer.message
    assert not any(candidate.has_pose for candidate in answer.candidates)
    assert not probe.call(Relocalize, "aliked_frontend/relocalize").success
    assert probe.transition("deactivate")
    answer = probe.call(Localize, "aliked_frontend/localize")
    assert "in state inactive" in answer.message
    assert process.stop() == 0, process.text()
    assert "Traceback" not in process.text()


def test_poses_from_tf_wait_for_their_transform_and_say_what_is_missing(probe, world, tmp_path):
    messages = pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not installed")
    from geometry_msgs.msg import TransformStamped

    from aliked_ros.ros.conversions import stamp_from_seconds

    moving = probe.node.create_publisher(messages.TFMessage, "/tf", RELIABLE)

    def move(x: float, stamp: float, parent: str = "map") -> None:
        message = TransformStamped(child_frame_id="camera")
        message.header.frame_id, message.header.stamp = parent, stamp_from_seconds(stamp)
        message.transform.translation.x = x
        message.transform.rotation.w = 1.0
        moving.publish(messages.TFMessage(transforms=[message]))

    process = started(probe, tmp_path / "log", "places:=true", "map_frame:=map")
    probe.wait(moving.get_subscription_count)
    world.show(VIEWS[0])
    probe.spin(0.5)
    move(1.0, world.seconds() - 0.1)  # around the keyframe, and after it
    move(2.0, world.seconds() + 0.1)
    request = Localize.Request(image=image_message(world.pixels(VIEWS[0] + 1), Header()))
    answer = probe.wait(
        lambda: (
            (a := probe.call(Localize, "aliked_frontend/localize", request)).success
            and a.candidates[0].map_frame
            and a
        )
    )
    best = answer.candidates[0]
    assert (best.map_frame, best.body_frame) == ("map", "camera")
    assert best.keyframe_frame_id == "camera"
    assert best.keyframe_pose.position.x == pytest.approx(1.5, abs=1e-3)
    world.show(VIEWS[2])  # nobody says where this was
    probe.wait(lambda: "after that; are the clocks the same" in process.text())
    assert "Keyframes have no pose: tf has 'camera' in 'map' from" in process.text()
    assert process.stop() == 0, process.text()
    assert "Traceback" not in process.text()


def test_a_bad_map_is_named_and_mapping_goes_on(probe, world, tmp_path):
    path = tmp_path / "noise.mcap"
    path.write_bytes(bytes(range(256)) * 50)
    process = started(probe, tmp_path / "log", f"map:={path}")
    assert "The map is not loaded: " in process.text()
    world.show(VIEWS[0])
    answer = probe.wait(
        lambda: (
            (a := probe.call(MapFile, "aliked_frontend/save_map"))
            and "no keyframe is remembered" not in a.message
            and a
        )
    )
    assert not answer.success, "what is there may be somebody's"
    assert "noise.mcap" in answer.message
    other = MapFile.Request(path=str(tmp_path / "new.mcap"))
    answer = probe.wait(
        lambda: (a := probe.call(MapFile, "aliked_frontend/save_map", other)).success and a
    )
    assert answer.places == 1
    assert process.stop() == 0, process.text()
