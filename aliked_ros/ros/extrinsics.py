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

"""Where the cameras of a rig are: from Kalibr's camchain.yaml, or from tf."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rclpy.node import Node
from std_msgs.msg import Header

from aliked_ros.camera import CameraModel
from aliked_ros.errors import AlikedError, ConfigurationError
from aliked_ros.io.messages import seconds
from aliked_ros.ros.transforms import TransformError, Transforms
from aliked_ros.ros.warnings import Warnings, reason
from aliked_ros.sources.calibration_files import read_camchain
from aliked_ros.types import Float64Array

_PERIOD = 0.002  # seconds between two looks for a transform that is late


class Extrinsics:
    """Looks up the pose of each camera on the rig; warns of one that is not known.

    models: what the camchain says of the lenses, by camera. source: where poses come from, for
    people. frame: the rig's; empty while it is not known.
    """

    def __init__(
        self,
        node: Node,
        cameras: Sequence[str],
        camchain: str,
        rig_frame: str,
        wait: float,
        warnings: Warnings,
    ) -> None:
        """``camchain``: path of the file, its cameras in the order of ``cameras``; "" = use tf.

        wait: seconds that a moving transform may come after the images of its set.

        Raises SourceError for a file that cannot be used, ConfigurationError for one with too few
        cameras, or where tf's messages are not installed.
        """
        self.frame = rig_frame
        self._node = node
        self._wait = wait
        self.models: dict[str, CameraModel] = {}
        self._first = cameras[0]
        self._warnings = warnings
        self._poses: dict[str, Float64Array] = {}
        self.source = camchain or "tf"
        self._transforms = None if camchain else Transforms(node)
        if camchain:
            chain = read_camchain(Path(camchain))
            if len(chain) < len(cameras):
                raise ConfigurationError(
                    f"camchain {camchain} has {len(chain)} cameras, the parameter cameras names "
                    f"{len(cameras)}: {', '.join(cameras)}. Give them in the file's order, cam0 "
                    "first."
                )
            if len(chain) > len(cameras):
                pairs = [f"cam{number} is {name}" for number, name in enumerate(cameras)]
                node.get_logger().warning(
                    f"camchain {camchain} has {len(chain)} cameras, the parameter cameras names "
                    f"{len(cameras)}: {', '.join(pairs)}; the others are not used. If that is not "
                    "what they are, name all cameras in the file's order."
                )
            for camera, (calibration, pose) in zip(cameras, chain, strict=False):
                self.models[camera] = CameraModel.from_calibration(calibration)
                self._poses[camera] = pose

    def poses(self, headers: Mapping[str, Header]) -> list[Float64Array | None]:
        """rig_from_camera, 4×4, for the image of each camera; None, with a warning: not known.

        Waits for moving transforms that are about to come.
        """
        deadline = time.monotonic() + self._wait
        return [self._pose(camera, header, deadline) for camera, header in headers.items()]

    def _pose(self, camera: str, header: Header, deadline: float) -> Float64Array | None:
        if not self.frame and camera == self._first:
            self.frame = header.frame_id
        if self._transforms is None:
            return self._poses[camera]
        subject = f"extrinsics of {camera}"
        try:
            if header.frame_id and not self.frame:
                raise ConfigurationError(
                    f"rig_frame is empty, and no image of {self._first} has told its frame; set "
                    "rig_frame"
                )
            pose = self._lookup(header, deadline)
        except AlikedError as error:
            remedy = "Publish its transform, correct rig_frame, or give a camchain."
            if isinstance(error, TransformError) and math.isfinite(error.ahead):
                remedy = (
                    f"Publish its transform more often and sooner, or raise sync_wait "
                    f"({self._wait:.3f} s), for which a set waits."
                )
            self._warnings.warn(
                subject,
                f"Camera {camera} has no matches with others, as its pose is not known: "
                f"{reason(error)}. {remedy}",
            )
            return None
        self._warnings.clear(subject)
        return pose

    def _lookup(self, header: Header, deadline: float) -> Float64Array:
        """From tf; raises TransformError, at the deadline where the transform could still come.

        A transform further ahead than the wait does not come in time: its publisher has stopped.
        """
        assert self._transforms is not None
        while True:
            try:
                return self._transforms.lookup(self.frame, header.frame_id, seconds(header.stamp))
            except TransformError as error:
                late = error.ahead > self._wait or time.monotonic() >= deadline
                if late or not self._node.context.ok():
                    raise
            time.sleep(_PERIOD)
