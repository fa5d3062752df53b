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

"""``odometry_node`` in a process of its own: on messages made up here, and behind a front-end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("pycolmap", reason="pycolmap is not installed")

from geometry_msgs.msg import PoseArray, Quaternion, TransformStamped, Vector3
from nav_msgs.msg import Odometry as OdometryMessage
from nav_msgs.msg import Path as PathMessage
from rcl_interfaces.msg import Log
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Imu, PointCloud2
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame, RigFrame
from aliked_ros.odometry import Observation
from aliked_ros.odometry.geometry import Transform
from aliked_ros.ros.conversions import (
    feature_frame,
    pose_message,
    seconds,
    stamp_from_seconds,
)
from aliked_ros.ros.gravity import Gravity
from aliked_ros.ros.odometry_node import observation_from_message, observations_from_rig
from aliked_ros.ros.warnings import Warnings
from aliked_ros.types import Features, FrameResult, Matches, Tracks
from helpers.odometry import RigRoom, Room
from helpers.ros import RELIABLE, START_TIMEOUT, Probe, RosProcess, refusals

pytestmark = pytest.mark.ros

MODULE = "aliked_ros.ros.odometry_node"
OPTICAL_TO_BODY = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # x forward, y left, z up


@pytest.fixture
def probe() -> Iterator[Probe]:
    probe = Probe()
    probe.listen(OdometryMessage, "odometry/odometry")
    yield probe
    probe.close()


def wait_connected(probe: Probe, publisher: Publisher) -> None:
    """Wait until frames published now arrive, and what they cause comes back."""
    probe.wait(publisher.get_subscription_count, START_TIMEOUT)
    probe.wait(lambda: probe.node.count_publishers("/odometry/odometry"))
    probe.wait_discovered("odometry")


def frame(observation: Observation, calibrated: bool = True) -> FeatureFrame:
    """A FeatureFrame that carries an observation."""
    count = len(observation.ids)
    keypoints = 500 * observation.rays + 320
    result = FrameResult(
        index=0,
        stamp=observation.stamp,
        features=Features(
            keypoints,
            np.ones(count, np.float32),
            np.zeros((count, 0), np.float32),
            640,
            480,
            "room",
        ),
        matches=Matches.empty(),
        tracks=Tracks(observation.ids, np.ones(count, np.uint32), observation.epoch),
        normalized=observation.rays if calibrated else None,
        depth=observation.depth,
    )
    stamp = stamp_from_seconds(observation.stamp)
    return feature_frame(result, Header(stamp=stamp, frame_id="eye"), None)


def position(message: OdometryMessage) -> np.ndarray:
    point = message.pose.pose.position
    return np.array([point.x, point.y, point.z])


def orientation(message: OdometryMessage) -> Rotation:
    turn = message.pose.pose.orientation
    return Rotation.from_quat([turn.x, turn.y, turn.z, turn.w])


def rig_frame(observations: list[Observation], frame_id: str = "body") -> RigFrame:
    """A RigFrame that carries the observations of a rig's cameras."""
    header = Header(stamp=stamp_from_seconds(observations[0].stamp), frame_id=frame_id)
    message = RigFrame(header=header, names=[one.camera for one in observations])
    message.frames = [frame(one) for one in observations]
    message.has_extrinsics = [True] * len(observations)
    mounts = [one.mount for one in observations]
    message.extrinsics = [pose_message(one.rotation, one.translation) for one in mounts]
    message.landmark_ids = np.concatenate([one.ids for one in observations]).tolist()
    return message


OPTICAL = Transform(OPTICAL_TO_BODY, np.zeros(3))


@pytest.mark.parametrize("to_frame", [Transform.identity(), OPTICAL], ids=["optical", "body"])
def test_the_frame_of_a_rig_is_followed_by_the_cameras_that_are_there(probe, tmp_path, to_frame):
    """The rig's frame has the axes of an optical frame, or of a robot's body."""
    publisher = probe.node.create_publisher(RigFrame, "rig/frames", RELIABLE)
    process = RosProcess(MODULE, tmp_path / "log", "-p", "rig:=rig")
    wait_connected(probe, publisher)
    room, poses = RigRoom(), probe.received["odometry/odometry"]
    room.mounts = {name: to_frame @ one for name, one in room.mounts.items()}
    body = room.camera
    room.camera = lambda index: to_frame @ body(index) @ to_frame.inverse()
    room.points = to_frame(room.points)

    def send(message: RigFrame, expected: int) -> None:
        publisher.publish(message)
        probe.wait(lambda: len(poses) >= expected)

    unknown = rig_frame(room.rig(0))
    unknown.has_extrinsics = [False] * 3
    send(unknown, 0)
    dead = {range(10, 15): {"left"}, range(18, 21): {"left", "right"}}
    for index in range(1, 25):
        names = room.mounts.keys()
        for images, gone in dead.items():
            names = names - gone if index in images else names
        message = rig_frame(room.rig(index, *names))
        if index == 8:  # the transform of a camera is late
            message.has_extrinsics[1] = False
        send(message, index)
    elsewhere = rig_frame(room.rig(25), "left_optical")
    publisher.publish(elsewhere)
    probe.wait(lambda: "The rig's frame is left_optical now" in process.text())
    assert len(poses) == 24
    start = OPTICAL if to_frame is not OPTICAL else Transform.identity()
    first = room.camera(1)
    for index, message in enumerate(poses, 1):
        assert message.child_frame_id == "body"
        assert message.header.stamp == stamp_from_seconds(index / 30)
        expected = start @ first @ room.camera(index).inverse()
        assert np.linalg.norm(position(message) - expected.translation) < 0.015, index
        turned = Rotation.from_matrix(expected.rotation)
        assert (orientation(message).inv() * turned).magnitude() < 0.01
    assert process.stop() == 0, process.text()
    assert "Following the rig's frame body by cameras left, right, back" in process.text()
    assert process.text().count("no poses until then") == 1
    assert "Traceback" not in process.text()


def test_a_rig_frame_that_contradicts_itself_gives_no_observations():
    room = RigRoom()
    message = rig_frame(room.rig(0))
    assert len(observations_from_rig(message)) == 3
    message.extrinsics[1].orientation.w = np.nan
    assert [one.camera for one in observations_from_rig(message)] == ["left", "back"]
    message.extrinsics[2].position.x = 1e300
    assert [one.camera for one in observations_from_rig(message)] == ["left"]
    message.landmark_ids = message.landmark_ids[:-1]
    assert observations_from_rig(message) == []
    assert observations_from_rig(RigFrame()) == []


def test_depth_counts_for_landmarks_that_one_camera_sees():
    room = RigRoom()
    left, right, back = (replace(o, depth=np.ones(len(o.ids), np.float32)) for o in room.rig(0))
    seen = observations_from_rig(rig_frame([left, right, back]))
    shared = np.isin(left.ids, right.ids)
    assert 10 < shared.sum() < len(shared)
    np.testing.assert_array_equal(np.isnan(seen[0].depth), shared)
    assert np.isfinite(seen[2].depth).all()


def test_poses_path_and_map_of_a_camera(probe, tmp_path):
    probe.listen(PathMessage, "odometry/path")
    probe.listen(PoseArray, "odometry/keyframes")
    probe.listen(PointCloud2, "odometry/map")
    publisher = probe.node.create_publisher(FeatureFrame, "eye/features", RELIABLE)
    process = RosProcess(MODULE, tmp_path / "log", "-p", "frontend:=eye", "-p", "frame_id:=world")
    wait_connected(probe, publisher)
    room, poses = Room(), probe.received["odometry/odometry"]
    for index in range(40):
        publisher.publish(frame(room.observation(index)))
        probe.wait(lambda number=index: len(poses) > number)
    for index, message in enumerate(poses):
        assert message.header.stamp == stamp_from_seconds(index / 30)
        assert (message.header.frame_id, message.child_frame_id) == ("world", "eye")
        camera = room.camera(index).inverse()
        expected = OPTICAL_TO_BODY @ camera.translation
        assert np.linalg.norm(position(message) - expected) < 0.03
        turned = Rotation.from_matrix(OPTICAL_TO_BODY @ camera.rotation)
        assert (orientation(message).inv() * turned).magnitude() < 0.01
    probe.wait(lambda: probe.received["odometry/path"] and probe.received["odometry/map"])
    probe.spin(0.5)
    path, cloud = probe.received["odometry/path"][-1], probe.received["odometry/map"][-1]
    assert 1 < len(path.poses) < 40  # the keyframes'
    assert path.poses[0].header.stamp == stamp_from_seconds(0.0)
    keyframes = probe.received["odometry/keyframes"][-1]
    assert keyframes.header == path.header
    assert keyframes.poses == [keyframe.pose for keyframe in path.poses]
    assert (cloud.header.frame_id, cloud.point_step) == ("world", 12)
    assert [field.name for field in cloud.fields] == ["x", "y", "z"]
    points = np.frombuffer(cloud.data, np.float32).reshape(-1, 3)
    assert len(points) == cloud.width > 250
    distances = np.linalg.norm(points[:, None] - room.points @ OPTICAL_TO_BODY.T, axis=2).min(1)
    assert np.median(distances) < 0.05
    probe.listen(Log, "/rosout")
    publisher.publish(frame(room.observation(40, epoch=1)))
    probe.wait(lambda: [log for log in probe.received["/rosout"] if "map 0 ends" in log.msg])
    assert process.stop(signal.SIGINT) == 0, process.text()
    assert "[odometry]: map 0 ends" in process.text()
    assert "Map 0 begins, in metres" in process.text()
    assert "Traceback" not in process.text()


def test_arrays_that_contradict_each_other_are_left_out():
    message = frame(Room().observation(0))
    assert len(observation_from_message(message).depth) == len(message.track_ids)
    message.depth = message.depth[:10]
    assert observation_from_message(message).depth is None
    message.normalized = message.normalized[:7]
    assert observation_from_message(message) is None


def test_features_without_calibration_are_named_once(probe, tmp_path):
    publisher = probe.node.create_publisher(FeatureFrame, "aliked_frontend/features", RELIABLE)
    process = RosProcess(MODULE, tmp_path / "log")
    wait_connected(probe, publisher)
    room = Room()
    for index in range(5):
        publisher.publish(frame(room.observation(index), calibrated=False))
    publisher.publish(frame(room.observation(5, seen=0)))
    publisher.publish(frame(room.observation(6)))
    probe.wait(lambda: probe.received["odometry/odometry"])
    assert process.stop(signal.SIGTERM) == 0, process.text()
    assert process.text().count("CameraInfo") == 1
    assert "Traceback" not in process.text()


def transform(parent: str, child: str, pose: Transform) -> TransformStamped:
    message = TransformStamped(header=Header(frame_id=parent), child_frame_id=child)
    x, y, z = pose.translation.tolist()
    message.transform.translation = Vector3(x=x, y=y, z=z)
    x, y, z, w = Rotation.from_matrix(pose.rotation).as_quat().tolist()
    message.transform.rotation = Quaternion(x=x, y=y, z=z, w=w)
    return message


def at_rest(stamp: float, up: np.ndarray, frame: str = "imu") -> Imu:
    """What an IMU at rest measures; up: away from the earth, in its axes, in m/s²."""
    message = Imu(header=Header(stamp=stamp_from_seconds(stamp), frame_id=frame))
    x, y, z = up.tolist()
    message.linear_acceleration = Vector3(x=x, y=y, z=z)
    return message


def test_the_robot_on_tf_upright_with_covariances_and_velocity(probe, tmp_path):
    """A camera on a tilted robot, whose transform comes late; an IMU on the robot."""
    tf2_msgs = pytest.importorskip("tf2_msgs.msg", reason="make setup GROUP=test, or ROS 2's own")
    probe.listen(tf2_msgs.TFMessage, "/tf")
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    static = probe.node.create_publisher(tf2_msgs.TFMessage, "/tf_static", latched)
    imu = probe.node.create_publisher(Imu, "imu", RELIABLE)
    publisher = probe.node.create_publisher(FeatureFrame, "eye/features", RELIABLE)
    process = RosProcess(
        MODULE, tmp_path / "log", "-p", "frontend:=eye", "-p", "base_frame:=base_link",
        "-p", "publish_tf:=true", "-p", "imu_topic:=imu",
    )  # fmt: skip
    wait_connected(probe, publisher)
    probe.wait(imu.get_subscription_count)
    room, poses = Room(), probe.received["odometry/odometry"]
    mount = Transform(OPTICAL_TO_BODY, np.array([0.3, 0.0, 0.2]))  # base_link from camera
    tilt = Rotation.from_euler("xy", [12.0, -7.0], degrees=True)  # of base_link, true
    turned = Transform(Rotation.from_euler("z", 90, degrees=True).as_matrix(), np.zeros(3))
    up = turned.rotation.T @ tilt.inv().apply([0.0, 0.0, 9.81])  # in the IMU's axes
    for index in range(70):
        imu.publish(at_rest(index / 100 - 0.7, up))
    probe.spin(0.5)
    for index in range(40):
        publisher.publish(frame(room.observation(index)))
    probe.wait(lambda: "No pose of base_link: tf does not know" in process.text())
    assert not poses
    static.publish(
        tf2_msgs.TFMessage(
            transforms=[
                transform("base_link", "eye", mount), transform("base_link", "imu", turned)
            ]
        )
    )  # fmt: skip
    probe.spin(0.5)
    for index in range(100):
        imu.publish(at_rest(40 / 30 - 1.0 + index / 100, up))
    probe.spin(0.5)
    for index in range(40, 60):
        publisher.publish(frame(room.observation(index)))
    probe.wait(lambda: len(poses) == 60)
    probe.wait(lambda: sum(len(m.transforms) for m in probe.received["/tf"]) == 60)
    level = orientation(poses[0])
    # IMU's tilt is that at image 40, to which the robot has turned from image 0
    to_world = mount @ room.camera(40).inverse() @ mount.inverse()
    vertical = level.apply(to_world.rotation @ tilt.inv().apply([0.0, 0.0, 1.0]))
    np.testing.assert_allclose(vertical, [0, 0, 1], atol=0.01)
    before = None
    for index, message in enumerate(poses):
        assert message.header.stamp == stamp_from_seconds(index / 30)
        assert (message.header.frame_id, message.child_frame_id) == ("odom", "base_link")
        expected = mount @ room.camera(index).inverse() @ mount.inverse()
        where = level.apply(expected.translation)
        assert np.linalg.norm(position(message) - where) < 0.03
        for covariance in (message.pose.covariance, message.twist.covariance):
            np.linalg.cholesky(np.asarray(covariance).reshape(6, 6))
        if before is not None and index > 5:
            way = 30 * expected.rotation.T @ (expected.translation - before.translation)
            linear = message.twist.twist.linear
            assert np.linalg.norm(way - [linear.x, linear.y, linear.z]) < 0.15
        before = expected
    (shown,) = probe.received["/tf"][-1].transforms
    assert (shown.header, shown.child_frame_id) == (poses[-1].header, "base_link")
    assert shown.transform.translation.x == poses[-1].pose.pose.position.x
    assert shown.transform.rotation == poses[-1].pose.pose.orientation
    assert process.stop(signal.SIGINT) == 0, process.text()
    assert process.text().count("No pose of base_link") == 1
    assert "Traceback" not in process.text()


@pytest.fixture
def gravity(probe) -> tuple[Gravity, list[str]]:
    said: list[str] = []
    return Gravity(probe.node, "imu", Warnings(said.append, lambda _: None)), said


def rest(gravity: Gravity, up: list[float], start: float = 0.0, count: int = 100) -> None:
    for index in range(count):
        gravity._receive(at_rest(start + index / 100, np.array(up)))


def test_gravity_is_the_direction_that_is_measured_at_rest(gravity):
    found, said = gravity
    assert found.up(1.0) is None
    rest(found, [0.0, 6.0, 8.0])
    np.testing.assert_allclose(found.up(1.0), [0.0, 0.6, 0.8])
    assert found.up(0.05) is None  # of too few samples
    assert (found.frame, said) == ("imu", [])
    for index in range(100):  # driving over stones
        shaken = np.array([0.0, 6.0, 8.0]) + 2.0 * np.array([index % 2, -(index % 3), 0.0])
        found._receive(at_rest(1.0 + index / 100, shaken))
    assert found.up(2.0) is None
    assert said == []


@pytest.mark.parametrize(
    ("up", "start", "sentence", "used"),
    [
        ([0.0, 0.0, 1.0], 0.0, "that is g, not m/s²", True),
        ([0.0, 0.0, 0.02], 0.0, "acceleration of 0.02 m/s² while it stands still", False),
        ([0.0, 0.0, 32.2], 0.0, "acceleration of 32.20 m/s² while it stands still", False),
        ([0.0, 0.0, 9.8], 1.7e9, "is 1700000000.0 s ahead of the images", False),
        ([np.nan, 0.0, 9.8], 0.0, "has no acceleration", False),
    ],
)
def test_an_imu_that_is_wrong_is_named_once(gravity, up, start, sentence, used):
    found, said = gravity
    rest(found, up, start)
    for _ in range(3):
        assert (found.up(1.0) is not None) == used
    assert len(said) == bool(sentence)
    assert sentence in "".join(said)


def test_a_robot_upside_down_and_no_rest_go_on_with_a_sentence(probe, tmp_path):
    imu = probe.node.create_publisher(Imu, "imu", RELIABLE)
    publisher = probe.node.create_publisher(FeatureFrame, "eye/features", RELIABLE)
    process = RosProcess(
        MODULE, tmp_path / "log", "-p", "frontend:=eye", "-p", "base_frame:=base_link",
        "-p", "camera_pose:=0.3 0 0.2 -0.5 0.5 -0.5 0.5", "-p", "imu_topic:=imu",
        "-p", "gravity_wait:=0.5",
    )  # fmt: skip
    wait_connected(probe, publisher)
    probe.wait(imu.get_subscription_count)
    for index in range(70):
        imu.publish(at_rest(index / 100 - 0.7, np.array([0.0, 0.0, -9.81]), "base_link"))
    probe.spin(0.5)
    room, poses = Room(), probe.received["odometry/odometry"]
    for index in range(20):
        publisher.publish(frame(room.observation(index)))
    probe.wait(lambda: len(poses) == 20)
    assert orientation(poses[0]).magnitude() < 1e-6  # odom is where base_link began
    assert process.stop(signal.SIGINT) == 0, process.text()
    assert process.text().count("180° from upright") == 1
    assert process.text().count("No gravity from the IMU") == 1


def test_what_is_wrong_is_said_in_one_line():
    name, noise, tf, numbers = refusals(
        MODULE,
        [
            ["frontend:=no name"], ["ray_noise:=-1.0"], ["publish_tf:=true"],
            ["base_frame:=base_link", "camera_pose:=0 0 0"],
        ],
    )  # fmt: skip
    assert "parameter frontend is 'no name'" in name
    assert "parameter ray_noise is -1.0; it must lie in" in noise
    assert "publish_tf is set, but not base_frame" in tf
    assert "parameter camera_pose is '0 0 0'; it must be seven numbers" in numbers


@pytest.mark.long
def test_behind_a_front_end_a_camera_is_followed(probe, shared: Path, tmp_path):
    """Player → front-end → odometry, with depth; evo compares with ground truth."""
    why = "evo is not installed"
    trajectories = pytest.importorskip("aliked_ros.evaluation.trajectories", reason=why)
    read_truth = pytest.importorskip("aliked_ros.evaluation.poses", reason=why).read_truth
    sequence = shared / "data" / "tum_fr1_xyz"
    processes = [
        RosProcess(MODULE, tmp_path / "odometry"),
        RosProcess(
            "aliked_ros.ros.frontend_node", tmp_path / "frontend", "-p", "input:=rgbd",
            "-p", "input_reliability:=reliable", "-p", "max_keypoints:=500",
            "-p", "matcher:=adaptive",
        ),
    ]  # fmt: skip
    probe.wait_for_state("active")
    player = RosProcess(
        "aliked_ros.ros.player", tmp_path / "player", "-p", f"source:={sequence}",
        "-p", "limit:=40", "-p", "wait_for_frontend:=aliked_frontend", "-p", "publish:=rgbd",
        "-p", "stamp:=dataset", "-p", "reliability:=reliable",
    )  # fmt: skip
    assert player.wait(START_TIMEOUT) == 0, player.text()
    poses = probe.received["odometry/odometry"]
    probe.wait(lambda: len(poses) >= 0.9 * len(probe.features) > 20)
    probe.spin(2.0)
    assert {str(m.header.stamp) for m in poses} <= {str(f.header.stamp) for f in probe.features}
    assert len(poses) >= 0.9 * len(probe.features) > 20
    poses = trajectories.trajectory(
        [seconds(message.header.stamp) for message in poses],
        [Transform(orientation(m).as_matrix(), position(m)) for m in poses],
    )
    truth = read_truth(sequence / "groundtruth_tum.txt")
    found = trajectories.align(truth, poses, metric=True)
    print(f"fr1_xyz 0-39 through three processes: ATE {found.ate * 100:.1f} cm")
    assert found.ate < 0.03
    for process in processes:
        assert process.stop(signal.SIGINT) == 0, process.text()
