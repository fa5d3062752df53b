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

"""Node ``odometry``: the reference back-end, which needs only a front-end's ``features``.

An example to start from: poses and a sparse map of one camera, or of all cameras of a rig, without
loop closing. It publishes tf only when asked to: which node owns ``odom`` is the robot's decision.
"""

from __future__ import annotations

import logging
import signal
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose, PoseArray, PoseStamped, TransformStamped, Twist, Vector3
from nav_msgs.msg import Odometry as OdometryMessage
from nav_msgs.msg import Path
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame, RigFrame
from aliked_ros.errors import ConfigurationError
from aliked_ros.odometry import Noise, Observation, Odometry, pixel_size
from aliked_ros.odometry.geometry import Transform
from aliked_ros.odometry.velocity import Velocity
from aliked_ros.ros import mounting, running, transforms
from aliked_ros.ros.conversions import feature_frame, pose_message, seconds, stamp_from_seconds
from aliked_ros.ros.declarations import Declaration
from aliked_ros.ros.parameters import declare
from aliked_ros.ros.subscriptions import warn_of_silence
from aliked_ros.ros.warnings import Warnings
from aliked_ros.types import Float64Array, FrameResult, UInt64Array

_DECLARATIONS = (
    Declaration(
        "frontend", "aliked_frontend", "Name of the front-end node to listen to.", names="node"
    ),
    Declaration(
        "rig",
        "",
        "Name of a rig's node to listen to instead: all its cameras, in metres where they overlap.",
        names="node",
    ),
    *mounting.DECLARATIONS,
    Declaration(
        "ray_noise",
        0.0,
        "Standard deviation of a keypoint on the plane z = 1: pixels / focal length; 0 = of one "
        "pixel, whose size there follows from the features.",
        limits=(0.0, 0.1),
    ),
    Declaration(
        "inverse_depth_noise",
        Noise().inverse_depth,
        "Standard deviation of 1/depth in 1/m; stereo: pixels of disparity / (fx · baseline).",
        limits=(1e-5, 1.0),
    ),
)
_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
_INPUT_QOS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
_PATH_LENGTH = 2000  # keyframes
_LARGEST_RIG = 1e4  # metres from its frame to a camera


def observation_from_message(
    message: FeatureFrame, ids: UInt64Array | None = None
) -> Observation | None:
    """The tracks of a FeatureFrame but for those of moving objects.

    None when it lacks the normalised coordinates. Arrays of another length than the tracks' are
    left out: no message may end the node. ids: of its rows, instead of track ids.
    """
    ids = np.frombuffer(message.track_ids, np.uint64) if ids is None else ids
    if len(message.normalized) != 2 * len(ids):
        return None
    rays = np.frombuffer(message.normalized, np.float32).reshape(-1, 2)
    known = 0 < len(ids) == len(message.depth)
    depth = np.frombuffer(message.depth, np.float32) if known else None
    pixel = 0.0
    if len(message.keypoints) == rays.size:
        pixel = pixel_size(np.frombuffer(message.keypoints, np.float32).reshape(-1, 2), rays)
    if len(message.object_ids) == len(ids):
        rest = np.frombuffer(message.object_ids, np.uint32) == 0
        ids, rays, depth = ids[rest], rays[rest], None if depth is None else depth[rest]
    return Observation(seconds(message.header.stamp), ids, rays, message.epoch, depth, pixel)


def observations_from_rig(message: RigFrame) -> list[Observation]:
    """The landmarks of a RigFrame by camera; without cameras whose rays or pose are not known.

    Where several cameras see a landmark, their rays show how far away it is: depth is left out.
    """
    landmarks = np.frombuffer(message.landmark_ids, np.uint64)
    ends = np.cumsum([len(frame.track_ids) for frame in message.frames])
    if not len(ends) or ends[-1] != len(landmarks):
        return []
    unique, counts = np.unique(landmarks, return_counts=True)
    shared = unique[counts > 1]
    found = []
    ids = np.split(landmarks, ends[:-1])
    cameras = (message.names, message.frames, message.has_extrinsics, message.extrinsics, ids)
    for name, frame, known, pose, its in zip(*cameras, strict=False):
        one, mount = observation_from_message(frame, its), _rigid(pose)
        if one is None or not known or mount is None:
            continue
        alone = ~np.isin(one.ids, shared)
        found.append(
            replace(
                one,
                stamp=seconds(message.header.stamp),
                epoch=message.epoch,
                depth=None if one.depth is None else np.where(alone, one.depth, np.float32(np.nan)),
                camera=name,
                mount=mount,
            )
        )
    return found


def by_message(result: FrameResult) -> Observation:
    """What a subscriber sees of a result: written to a FeatureFrame, serialised, and read."""
    header = Header(stamp=stamp_from_seconds(result.stamp))
    data = serialize_message(feature_frame(result, header))
    observation = observation_from_message(deserialize_message(data, FeatureFrame))
    if observation is None:
        raise ConfigurationError(
            "there is no model of the camera; odometry needs a calibrated one."
        )
    return observation


class OdometryNode(Node):
    """Publishes ``~/odometry`` for each image; path, keyframes and map for each keyframe."""

    def __init__(self) -> None:
        super().__init__("odometry")
        self._to_node = running.ToNode(self)
        logging.getLogger("aliked_ros").addHandler(self._to_node)
        settings = declare(self, _DECLARATIONS)
        noise = Noise(settings["ray_noise"], settings["inverse_depth_noise"])
        self._odometry = Odometry(noise)
        self._frame_id: str = settings["frame_id"]
        warnings = Warnings(self.get_logger().warning, lambda _: None)
        self._mounting = mounting.Mounting(self, settings, warnings)
        self._velocity = Velocity()
        self._map_index = -1
        self._last = (-1, 0.0)  # epoch, stamp
        self._keyframes: deque[PoseStamped] = deque(maxlen=_PATH_LENGTH)
        self._poses = self.create_publisher(OdometryMessage, "~/odometry", _QOS)
        self._path = self.create_publisher(Path, "~/path", _QOS)
        self._keyframe_poses = self.create_publisher(PoseArray, "~/keyframes", _QOS)
        self._map = self.create_publisher(PointCloud2, "~/map", _QOS)
        self._tf: Publisher | None = None
        if settings["publish_tf"]:
            self._tf_message = transforms.message_type()
            self._tf = self.create_publisher(self._tf_message, "/tf", transforms.QOS)
        self._rig_frame = ""
        if settings["rig"]:
            self._listen(RigFrame, f"{settings['rig']}/frames", self._process_rig)
        else:
            self._listen(FeatureFrame, f"{settings['frontend']}/features", self._process)

    def _listen(self, kind: type, topic: str, process: Callable[[Any], None]) -> None:
        heard = False

        def receive(message: Any) -> None:
            nonlocal heard
            heard = True
            process(message)

        name = self.create_subscription(kind, topic, receive, _INPUT_QOS).topic_name
        warn_of_silence(self, name, kind, lambda: heard)

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Follow the camera or the rig until shutdown."""
        executor.spin()

    def close(self) -> None:
        """Leave Python's log."""
        logging.getLogger("aliked_ros").removeHandler(self._to_node)

    def _process_rig(self, message: RigFrame) -> None:
        """Follow the rig's frame by the cameras of this set."""
        observations = observations_from_rig(message)
        frame = message.header.frame_id
        if not observations:
            self.get_logger().warning(
                "No camera of the set has both extrinsics and a calibration: no poses until then. "
                "See the log of the rig's node.",
                once=True,
            )
            return
        if not frame:
            self.get_logger().warning(
                "The rig's frame has no name until its first camera sends images with a frame_id: "
                "no poses until then. Set the parameter rig_frame of the rig's node.",
                once=True,
            )
            return
        if not self._rig_frame:
            self._rig_frame = frame
            down = np.mean([one.mount.rotation[:, 1] for one in observations], axis=0)
            self._mounting.is_optical = bool(down[1] > -down[2])
            cameras = ", ".join((*message.names, *message.missing))
            self.get_logger().info(f"Following the rig's frame {frame} by cameras {cameras}")
        if frame != self._rig_frame:
            self.get_logger().warning(
                f"The rig's frame is {frame} now, it was {self._rig_frame}: no poses. Restart this "
                "node.",
                once=True,
            )
            return
        merged = np.frombuffer(message.merged_ids, np.uint64)
        pairs = zip(merged[::2].tolist(), merged[1::2].tolist(), strict=False)
        self._follow(observations, message.header, pairs)

    def _process(self, message: FeatureFrame) -> None:
        observation = observation_from_message(message)
        if observation is None:
            self.get_logger().warning(
                "The features have no normalized coordinates: calibrate the camera and publish "
                "its CameraInfo to the front-end; no poses until then.",
                once=True,
            )
            return
        self._follow([observation], message.header)

    def _follow(
        self,
        observations: Sequence[Observation],
        header: Header,
        merged: Iterable[tuple[int, int]] = (),
    ) -> None:
        self._check_stamp(observations[0])
        estimate = self._odometry.process(*observations, merged=merged)
        if estimate is None:
            return
        found = [  # those of images that waited for the map to begin first
            (one, Header(stamp=stamp_from_seconds(one.stamp), frame_id=header.frame_id))
            for one in self._odometry.earlier
        ]
        for placed in self._mounting.place([*found, (estimate, header)]):
            self._publish(placed)

    def _check_stamp(self, observation: Observation) -> None:
        epoch, stamp = self._last
        self._last = observation.epoch, observation.stamp
        if observation.epoch == epoch and observation.stamp <= stamp:
            self.get_logger().warning(
                f"An image has the stamp {observation.stamp:.9f} s, the one before {stamp:.9f} s: "
                "it gets no pose. Correct the camera driver's clock, or set the "
                "front-end's parameter stamps to arrival.",
                once=True,
            )

    def _publish(self, placed: mounting.Placed) -> None:
        estimate = placed.estimate
        if estimate.map_index != self._map_index:
            self._map_index, self._velocity = estimate.map_index, Velocity()
            scale = "in metres" if estimate.metric else "of arbitrary scale"
            self.get_logger().info(f"Map {estimate.map_index} begins, {scale}")
        header = Header(stamp=placed.header.stamp, frame_id=self._frame_id)
        velocity, doubt = self._velocity.update(estimate.stamp, placed.pose, placed.noise)
        message = OdometryMessage(header=header, child_frame_id=placed.frame)
        message.pose.pose = pose_message(placed.pose.rotation, placed.pose.translation)
        message.pose.covariance = placed.covariance.ravel()
        message.twist.twist = _twist(velocity)
        message.twist.covariance = doubt.ravel()
        self._poses.publish(message)
        if self._tf is not None:
            self._tf.publish(self._tf_message(transforms=[_transform(message)]))
        if not estimate.is_keyframe:
            return
        self._keyframes.append(PoseStamped(header=header, pose=message.pose.pose))
        if self._path.get_subscription_count():
            self._path.publish(Path(header=header, poses=list(self._keyframes)))
        if self._keyframe_poses.get_subscription_count():
            poses = [keyframe.pose for keyframe in self._keyframes]
            self._keyframe_poses.publish(PoseArray(header=header, poses=poses))
        if self._map.get_subscription_count():
            self._map.publish(
                _cloud(self._mounting.odom_from_world(self._odometry.points()), header)
            )


def _rigid(pose: Pose) -> Transform | None:
    """A camera's pose on the rig from a message; None for what cannot be one, such as NaN."""
    place, turn = pose.position, pose.orientation
    where = np.array([place.x, place.y, place.z])
    quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
    if not ((abs(where) < _LARGEST_RIG).all() and 0.9 < np.linalg.norm(quaternion) < 1.1):
        return None
    return Transform(Rotation.from_quat(quaternion).as_matrix(), where)


def _twist(velocity: Float64Array) -> Twist:
    linear, angular = (
        Vector3(**dict(zip("xyz", part.tolist(), strict=True)))
        for part in (velocity[:3], velocity[3:])
    )
    return Twist(linear=linear, angular=angular)


def _transform(message: OdometryMessage) -> TransformStamped:
    transform = TransformStamped(header=message.header, child_frame_id=message.child_frame_id)
    place = message.pose.pose.position
    transform.transform.translation = Vector3(x=place.x, y=place.y, z=place.z)
    transform.transform.rotation = message.pose.pose.orientation
    return transform


def _cloud(points: Float64Array, header: Header) -> PointCloud2:
    """N×3 points as x, y, z float32."""
    fields: list[Any] = [
        PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
        for index, name in enumerate("xyz")
    ]
    cloud = PointCloud2(header=header, height=1, width=len(points), fields=fields, is_dense=True)
    cloud.point_step, cloud.row_step = 12, 12 * len(points)
    cloud.data = array("B", points.astype("<f4").tobytes())
    return cloud


def main(args: Sequence[str] | None = None) -> int:
    """Follow the camera until SIGINT or SIGTERM."""
    # pycolmap's import has set a handler that takes a request to end for a crash
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return running.run(OdometryNode, args, _DECLARATIONS, "odometry")


if __name__ == "__main__":
    raise SystemExit(main())
