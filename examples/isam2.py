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

"""A back-end: gtsam's ISAM2 over the front-end's keyframes, tracks and loops.

    python examples/isam2.py run.mcap trajectory.png                # a recording
    python examples/isam2.py --live trajectory.png --ros-args -r features:=/aliked_frontend/features
                                                                    # until Ctrl-C

Needs depth, from stereo or RGB-D (parameter input), and camera_info. Each keyframe is a pose, each
track a smart factor: gtsam eliminates its point, and a track that comes back after a gap closes a
small loop by itself. Loops (LoopCandidate) tie two poses. The picture shows the keyframes from
above, as each was first estimated (red) and after all messages (green).

    pip install gtsam==4.3.0    # Python 3.11 or newer
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import gtsam
import numpy as np
from gtsam_unstable import SmartStereoProjectionPoseFactor

PIXEL = gtsam.noiseModel.Isotropic.Sigma(3, 1.0)  # of u, u in the right image, v
RGBD_BASELINE = (
    0.1  # metres: depth from a depth image is used as a stereo camera's of this baseline
)
MIN_SHARED = 10  # points that the motion between two keyframes is computed from


class BackEnd:
    """Poses of the keyframes: ``first`` as first estimated, ``poses()`` after all that came."""

    def __init__(self) -> None:
        parameters = gtsam.ISAM2Params()
        parameters.relinearizeSkip = 1
        parameters.setFactorization("QR")  # Cholesky fails where tracking was lost
        self.isam = gtsam.ISAM2(parameters)
        self.smart = gtsam.SmartProjectionParams()  # far and odd points count for nothing
        self.smart.setLinearizationMode(gtsam.LinearizationMode.JACOBIAN_SVD)  # QR wants it
        self.smart.setDegeneracyMode(gtsam.DegeneracyMode.ZERO_ON_DEGENERACY)
        self.smart.setDynamicOutlierRejectionThreshold(3.0)
        self.first: list[gtsam.Pose3] = []
        self.keys: dict[tuple[int, int], int] = {}  # stamp → keyframe
        self.tracks: dict[tuple[int, int], list[Any]] = {}  # (epoch, id) → what was seen of it
        self.slots: dict[tuple[int, int], int] = {}  # (epoch, id) → its factor in ISAM2
        self.before: dict[tuple[int, int], np.ndarray] = {}  # points in the last keyframe's frame

    def add_features(self, message: Any) -> None:
        """Take over a FeatureFrame; only keyframes count."""
        depth = np.frombuffer(message.depth, np.float32)
        if not message.is_keyframe:
            return
        if not len(depth) or not getattr(message, "focal_length", 0.0):  # older recordings
            print("a keyframe without depth or camera_info is left out", file=sys.stderr)
            return
        fx, baseline = message.focal_length, message.baseline or RGBD_BASELINE
        rays = np.frombuffer(message.normalized, np.float32).reshape(-1, 2).astype(float)
        ids = np.frombuffer(message.track_ids, np.uint64)
        good = (ids > 0) & (depth > 0) & np.isfinite(rays).all(1)
        objects = getattr(message, "object_ids", ())
        if len(objects):
            good &= np.frombuffer(objects, np.uint32) == 0  # what moves is no landmark
        points = np.column_stack([rays, np.ones(len(rays))]) * depth[:, None]
        seen = {(message.epoch, int(ids[i])): i for i in np.flatnonzero(good)}
        key, camera = len(self.first), gtsam.Cal3_S2Stereo(fx, fx, 0, 0, 0, baseline)
        graph, values, old = gtsam.NonlinearFactorGraph(), gtsam.Values(), []
        motion, sigma = self._motion(seen, rays, fx)
        if key == 0:
            graph.add(gtsam.PriorFactorPose3(0, motion, gtsam.noiseModel.Isotropic.Sigma(6, 1e-4)))
            pose = motion
        else:  # a weak factor: the tracks say the rest, where there are enough of them
            noise = gtsam.noiseModel.Isotropic.Sigma(6, sigma)
            graph.add(gtsam.BetweenFactorPose3(key - 1, key, motion, noise))
            pose = self.isam.calculateEstimatePose3(key - 1).compose(motion)
        values.insert(key, pose)
        renewed = []
        for track, i in seen.items():
            u, v = fx * rays[i]
            point = gtsam.StereoPoint2(u, u - fx * baseline / depth[i], v)
            views = self.tracks.setdefault(track, [])
            views.append((point, key, camera))
            if len(views) > 1:  # a factor cannot grow in ISAM2: another one takes its place
                factor = SmartStereoProjectionPoseFactor(PIXEL, self.smart)
                for view in views:
                    factor.add(*view)
                graph.add(factor)
                renewed.append((track, graph.size() - 1))
                old += [self.slots[track]] if track in self.slots else []
        result = self.isam.update(graph, values, old)
        slots = result.getNewFactorsIndices()
        self.slots.update((track, slots[index]) for track, index in renewed)
        self.first.append(self.isam.calculateEstimatePose3(key))
        self.keys[message.header.stamp.sec, message.header.stamp.nanosec] = key
        self.before = {track: points[i] for track, i in seen.items()}

    def add_loop(self, message: Any) -> None:
        """Take over a LoopCandidate between two keyframes of this run."""
        stamps = message.keyframe_stamp, message.header.stamp
        earlier, current = (self.keys.get((stamp.sec, stamp.nanosec)) for stamp in stamps)
        if earlier is None or current is None or not (message.has_pose and message.metric):
            return
        if getattr(message, "keyframe_frame_id", "") not in ("", message.header.frame_id):
            return  # another camera's keyframe, of the same stamp as one of ours
        p, q = message.pose.pose.position, message.pose.pose.orientation
        pose = gtsam.Pose3(gtsam.Rot3.Quaternion(q.w, q.x, q.y, q.z), np.array([p.x, p.y, p.z]))
        order = [3, 4, 5, 0, 1, 2]  # gtsam has rotations first
        covariance = np.reshape(message.pose.covariance, (6, 6))[np.ix_(order, order)]
        noise = gtsam.noiseModel.Gaussian.Covariance(covariance + 1e-8 * np.eye(6))
        cauchy = gtsam.noiseModel.mEstimator.Cauchy.Create(3.0)  # a wrong loop pulls only a little
        robust = gtsam.noiseModel.Robust.Create(cauchy, noise)
        graph = gtsam.NonlinearFactorGraph()
        graph.add(gtsam.BetweenFactorPose3(earlier, current, pose, robust))
        self.isam.update(graph, gtsam.Values())

    def poses(self) -> list[gtsam.Pose3]:
        """The keyframes' poses now, camera to world; the world is the first one's optical frame."""
        for _ in range(5):
            self.isam.update()
        values = self.isam.calculateEstimate()
        return [values.atPose3(key) for key in range(len(self.first))]

    def _motion(self, seen: dict[Any, int], rays: np.ndarray, fx: float) -> tuple[Any, float]:
        """From the last keyframe to this one, and its deviation (metres, radians)."""
        shared = [track for track in seen if track in self.before]
        if len(shared) >= MIN_SHARED:
            found, turn, shift, _ = cv2.solvePnPRansac(
                np.array([self.before[track] for track in shared]),
                np.array([rays[seen[track]] for track in shared]),
                np.eye(3), None, reprojectionError=2.0 / fx,
            )  # fmt: skip
            if found:
                last_to_this = gtsam.Pose3(gtsam.Rot3(cv2.Rodrigues(turn)[0]), shift.ravel())
                return last_to_this.inverse(), 0.3
        return gtsam.Pose3(), 1.0  # tracking was lost


def draw(first: list[gtsam.Pose3], after: list[gtsam.Pose3], path: str) -> None:
    """Both trajectories from above, x to the right, z up: first estimates red, final ones green."""
    tracks = [np.array([pose.translation()[[0, 2]] for pose in poses]) for poses in (first, after)]
    low, high = np.min(np.concatenate(tracks), 0), np.max(np.concatenate(tracks), 0)
    scale = 700 / max(*(high - low), 1e-6)
    picture = np.full((800, 800, 3), 255, np.uint8)
    for track, colour in zip(tracks, ((0, 0, 220), (0, 150, 0)), strict=True):
        pixels = np.round(((track - low) * scale + 50) * [1, -1] + [0, 800]).astype(np.int32)
        cv2.polylines(picture, [pixels], False, colour, 2, cv2.LINE_AA)
    cv2.imwrite(path, picture)


def replay(back_end: BackEnd, path: Path) -> None:
    """Read a recording, without ROS."""
    from aliked_ros.io.bags import Bag

    handlers = {
        "aliked_msgs/msg/FeatureFrame": back_end.add_features,
        "aliked_msgs/msg/LoopCandidate": back_end.add_loop,
    }
    with Bag(path) as bag:
        topics = {t.name: handlers[t.msgtype] for t in bag.topics if t.msgtype in handlers}
        for _, topic, message in bag.messages(topics):
            topics[topic](message)


def listen(back_end: BackEnd) -> None:
    """Subscribe to ``features`` and ``loops`` until Ctrl-C."""
    import rclpy
    from rclpy.executors import ExternalShutdownException

    import aliked_msgs.msg

    rclpy.init()
    node = rclpy.create_node("isam2")
    node.create_subscription(aliked_msgs.msg.FeatureFrame, "features", back_end.add_features, 100)
    if hasattr(aliked_msgs.msg, "LoopCandidate"):  # older messages have none
        node.create_subscription(aliked_msgs.msg.LoopCandidate, "loops", back_end.add_loop, 100)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


def main() -> None:
    """Estimate, draw, and print what changed."""
    source, picture = sys.argv[1:3]
    back_end = BackEnd()
    if source == "--live":
        listen(back_end)
    else:
        replay(back_end, Path(source))
    if not back_end.first:
        sys.exit("no keyframe had depth and camera_info; use input: stereo or rgbd")
    after = back_end.poses()
    draw(back_end.first, after, picture)
    moved = [
        np.linalg.norm(a.translation() - b.translation())
        for a, b in zip(back_end.first, after, strict=True)
    ]
    print(f"{len(after)} keyframes, moved by up to {max(moved):.3f} m since first estimated")


if __name__ == "__main__":
    main()
