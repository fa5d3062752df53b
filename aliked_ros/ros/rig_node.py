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

"""Node ``aliked_rig``: the cameras of a rig, image by image of the same moment.

Each camera has a whole front-end, as with :mod:`aliked_ros.ros.cameras_node`. Their images are
processed as sets, and what a set has in common goes out as one ``aliked_msgs/RigFrame``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose as PoseMessage
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame, RigFrame
from aliked_ros.backends.base import OpenBackend
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ConfigurationError
from aliked_ros.frontend.rig import Rig
from aliked_ros.frontend.rig_check import Problem
from aliked_ros.frontend.rig_geometry import View
from aliked_ros.io.messages import nanoseconds
from aliked_ros.ros import cameras_node, running
from aliked_ros.ros.cameras_node import CamerasNode
from aliked_ros.ros.conversions import pose_message, rig_message
from aliked_ros.ros.declarations import Change, Declaration
from aliked_ros.ros.extrinsics import Extrinsics
from aliked_ros.ros.frontend_node import FrontendNode
from aliked_ros.ros.frontend_parameters import DECLARATIONS
from aliked_ros.ros.numbering import Epochs
from aliked_ros.ros.rig_worker import CameraPort, Job, RigWorker
from aliked_ros.ros.session import Session
from aliked_ros.ros.sets import SILENT
from aliked_ros.ros.warnings import Warnings, reason
from aliked_ros.system.cpu import limit_heaps
from aliked_ros.types import Float64Array

_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
_LOG_PERIOD = 5.0  # seconds between two log entries about sets that fail
_SHARED = ("min_similarity", "inlier_threshold")  # between cameras, as between images

_DECLARATIONS = (
    Declaration(
        "camchain",
        "",
        "Kalibr's camchain.yaml with the cameras' poses, cam0 first, as in the parameter cameras; "
        "its lenses hold for cameras without CameraInfo. Empty: poses from tf.",
    ),
    Declaration(
        "rig_frame",
        "",
        "Frame of the extrinsics: with tf, one that the cameras are fixed to; with a camchain, the "
        "name of cam0's. Empty: the frame of the first camera's images.",
    ),
    Declaration(
        "sync_tolerance",
        0.005,
        "Largest distance of the stamps of a set; keep it below half the time between two images.",
        limits=(0.0, 10.0),
        unit="seconds",
    ),
    Declaration(
        "sync_wait",
        0.1,
        "How long a set waits for a camera before it goes without it, and for a moving transform.",
        limits=(0.001, 10.0),
        unit="seconds",
    ),
    *(replace(item, change=Change.AT_START) for item in DECLARATIONS if item.name in _SHARED),
)


class RigNode(CamerasNode):
    """Processes the images of all cameras in sets; publishes ``~/frames``."""

    def __init__(self) -> None:
        super().__init__("aliked_rig", _DECLARATIONS)
        settings = self.settings
        self._check_images()
        self._warnings = Warnings(self.get_logger().warning, lambda _sentence: None)
        self._extrinsics = Extrinsics(
            self,
            self.names,
            settings["camchain"],
            settings["rig_frame"],
            settings["sync_wait"],
            self._warnings,
        )
        self._rig = Rig(FrontendConfig(**{name: settings[name] for name in _SHARED}))
        self._epoch, self._index = Epochs().number(0), 0
        self._absent: Counter[str] = Counter()  # sets in a row
        self._incomplete = 0  # sets in a row
        self._model = ""  # whose descriptors are compared
        self._contradicted: set[tuple[str, str]] = set()
        self._publisher = self.create_publisher(RigFrame, "~/frames", _QOS)
        self._pool = ThreadPoolExecutor(len(self.names), "rig camera")
        self._worker = RigWorker(settings["sync_tolerance"], settings["sync_wait"], self._work)

    def make_frontend(self, camera: str, open_backend: OpenBackend, **options: Any) -> FrontendNode:
        """As ``CamerasNode``; its session leaves its images to the rig."""
        return FrontendNode(open_backend, partial(self._open_port, camera), **options)

    def close(self) -> None:
        """End all cameras, then the rig."""
        super().close()
        self._worker.close()
        self._pool.shutdown()

    def _check_images(self) -> None:
        """ConfigurationError for two cameras with the same images."""
        camera_of: dict[str, str] = {}
        for camera, frontend in self.frontends.items():
            other = camera_of.setdefault(topic := frontend.resolve_topic_name("image"), camera)
            if other != camera:
                raise ConfigurationError(
                    f"cameras {other} and {camera} have the same images, {topic}: give each its "
                    f"own, as in {camera}.image:=/{camera}/image_raw."
                )

    def _open_port(self, camera: str, session: Session) -> CameraPort:
        session.inputs.in_sets = True
        if camera in self._extrinsics.models:
            session.inputs.calibration.assume(self._extrinsics.models[camera])
        return self._worker.open(camera, session)

    # The worker's thread

    def _work(self, jobs: Mapping[str, Job]) -> None:
        """Process a set; errors are logged, never raised."""
        try:
            self._process(jobs)
        except Exception as error:
            if self.context.ok():
                self.get_logger().warning(
                    f"A set has failed: {reason(error)}", throttle_duration_sec=_LOG_PERIOD
                )

    def _process(self, jobs: Mapping[str, Job]) -> None:
        # Networks take turns; meanwhile the geometry of other cameras is computed.
        list(self._pool.map(lambda job: job.session.work(job.frame), jobs.values()))
        done = {
            name: jobs[name] for name in self.names if name in jobs and jobs[name].frame.messages
        }
        self._report_missing(done)
        if not done:
            return
        poses = self._extrinsics.poses({name: job.frame.header for name, job in done.items()})
        views = [
            self._view(name, job, pose)
            for (name, job), pose in zip(done.items(), poses, strict=True)
        ]
        results = [job.frame.result for job in done.values()]
        rig = self._rig.process(list(done), [result.tracks for result in results], views)
        message = rig_message(list(done), [_features(job) for job in done.values()], rig)
        stamp = min((job.frame.header.stamp for job in done.values()), key=nanoseconds)
        message.header = Header(stamp=stamp, frame_id=self._extrinsics.frame)
        message.set_index, message.epoch = self._index, self._epoch
        message.has_extrinsics = [pose is not None for pose in poses]
        message.extrinsics = [_pose_message(pose) for pose in poses]
        message.missing = [name for name in self.names if name not in done]
        self._index += 1
        self._publisher.publish(message)
        self._report_problems(rig.problems)

    def _view(self, name: str, job: Job, pose: Float64Array | None) -> View | None:
        """What a camera sees, where its model and its pose are known."""
        camera, result = job.session.inputs.calibration.camera, job.frame.result
        subject = f"calibration of {name}"
        if camera is None and self._index < SILENT:
            return None  # its CameraInfo may be on the way
        if camera is None or result.normalized is None:
            height, width = job.frame.image.pixels.shape[:2]
            size = f"for {camera.width}×{camera.height} images" if camera else "missing"
            self._warnings.warn(
                subject,
                f"Camera {name} has no matches with others: its calibration is {size}, its images "
                f"are {width}×{height}. Publish the CameraInfo of this size, or give a camchain "
                "for it.",
            )
            return None
        self._model = self._model or result.features.model
        if result.features.model != self._model:
            self._warnings.warn(
                subject,
                f"Camera {name} has no matches with others: its model is {result.features.model}, "
                f"theirs is {self._model}. Give all cameras one model.",
            )
            return None
        self._warnings.clear(subject)
        return None if pose is None else View(result.features, camera, pose, result.normalized)

    def _report_missing(self, names: Collection[str]) -> None:
        """Warn of cameras that keep missing from sets, and report those that come back."""
        for name in self.names:
            if name not in names:
                self._absent[name] += 1
                if self._absent[name] >= SILENT:
                    self._warnings.warn(f"absence of {name}", self._why_missing(name))
                continue
            if self._absent[name] >= SILENT:
                self._warnings.clear(f"absence of {name}")
                self.get_logger().info(f"Camera {name} is back in the sets")
            self._absent[name] = 0
        self._incomplete = self._incomplete + 1 if len(names) < len(self.names) else 0
        offsets = dict(self._worker.sets.offsets)  # which the cameras' threads change
        if self._incomplete >= SILENT and offsets and max(self._absent.values()) < SILENT:
            name = max(offsets, key=offsets.__getitem__)
            self._warnings.warn(
                "synchronisation",
                f"Stamps of {name} are {offsets[name]:.3f} s from the nearest of other cameras "
                f"(tolerance {self.settings['sync_tolerance']:.3f} s): no set is complete. "
                "Synchronise the cameras and their clocks, or raise sync_tolerance.",
            )
        elif not self._incomplete:
            self._warnings.clear("synchronisation")

    def _why_missing(self, name: str) -> str:
        frontend = self.frontends.get(name)
        delay = self._worker.sets.delays.get(name)  # which the cameras' threads change
        if frontend is None or frontend.state != "active":
            why = "its front-end is not active. See its log"
        elif delay is not None:
            why = (
                f"its images come {delay:.3f} s after the first of their set, sync_wait is "
                f"{self.settings['sync_wait']:.3f} s. Raise sync_wait"
            )
        else:
            why = "no usable image of the sets' stamps comes. See its status"
        return f"Sets go out without camera {name}: {why}."

    def _report_problems(self, problems: Sequence[Problem]) -> None:
        """Warn of extrinsics that the images contradict.

        Not of those that swapped cameras have with others: they follow from that.
        """
        source = self._extrinsics.source
        swapped = {name for one in problems if one.swapped for name in one.names}
        for one in problems:
            first, second = one.names
            if not one.swapped and swapped & {first, second}:
                continue
            if one.swapped:
                sentence = (
                    f"Cameras {first} and {second} seem to be swapped: {one.better:.0%} of their "
                    f"matches agree with each in the other's place, {one.share:.0%} with the "
                    f"extrinsics given by {source}. They have no matches with each other until "
                    "that is right: exchange their topics, or their poses."
                )
            else:
                sentence = (
                    f"The extrinsics of {first} and {second} do not fit their images: "
                    f"{one.share:.0%} of their matches agree with {source}, {one.better:.0%} with "
                    "another pose. They have no matches with each other until that is right: "
                    "correct the poses, or calibrate again."
                )
            self._warnings.warn(f"poses of {first} and {second}", sentence)
        standing = {one.names for one in problems}
        for first, second in self._contradicted - standing:
            self._warnings.clear(f"poses of {first} and {second}")
        self._contradicted = standing


def _features(job: Job) -> FeatureFrame:
    """The message that went out on the camera's ``~/features``."""
    return next(message for message in job.frame.messages if isinstance(message, FeatureFrame))


def _pose_message(pose: Float64Array | None) -> PoseMessage:
    matrix = np.eye(4) if pose is None else pose
    return pose_message(matrix[:3, :3], matrix[:3, 3])


def main(args: Sequence[str] | None = None) -> int:
    """Run the rig until SIGINT or SIGTERM."""
    limit_heaps()
    declarations = (cameras_node.CAMERAS, *_DECLARATIONS, *cameras_node.declarations("CAMERA"))
    return running.run(RigNode, args, declarations, "aliked_rig")


if __name__ == "__main__":
    raise SystemExit(main())
