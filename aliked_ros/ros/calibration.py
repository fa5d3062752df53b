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

"""The calibration from CameraInfo messages, checked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError
from aliked_ros.io.image_messages import says_raw, says_rectified
from aliked_ros.ros.conversions import baseline_from_message
from aliked_ros.ros.warnings import Warnings
from aliked_ros.types import FrameResult

_MISSING_AFTER = 30  # images without a CameraInfo before the node warns
_SMALLEST, _LARGEST = 1e-3, 100.0  # metres, of a baseline that is plausible
_FARTHEST = 0.2  # of width and of height, that the principal point lies from the middle


class Calibration:
    """The model of the camera, and the baseline of a stereo pair.

    camera, baseline: from the latest CameraInfos, None = not known.
    info, right_info: those, None = none came. Their headers are empty.
    """

    def __init__(
        self,
        topic: str,
        right_topic: str,
        rectified: bool,
        warnings: Warnings,
        unheard: Callable[[str], str] = lambda topic: "",
    ) -> None:
        """``rectified``: P holds instead of K and D; the topics are named in warnings.

        unheard: says why nothing comes on a topic.
        """
        self.camera: CameraModel | None = None
        self.baseline: float | None = None
        self.info: CameraInfo | None = None
        self.right_info: CameraInfo | None = None
        self._topic = topic
        self._right_topic = right_topic
        self._rectified = rectified
        self._warnings = warnings
        self._unheard = unheard
        self._missing: set[str] = set()  # topics
        self._frame_id = ""

    def assume(self, camera: CameraModel) -> None:
        """Take a model that holds until a CameraInfo comes."""
        if self.info is None:
            self.camera = camera

    def set_info(self, message: CameraInfo) -> None:
        """Take over the camera's CameraInfo; warn of a bad one and continue without."""
        self._frame_id = message.header.frame_id
        message.header = Header()  # the model does not depend on the stamp
        if message == self.info:
            self._warnings.clear("changing camera_info")
            return
        if self.info is not None:
            self._warnings.warn(
                "changing camera_info",
                f"CameraInfo on {self._topic} has changed; the latest is used. If this keeps "
                "happening, two cameras publish there.",
            )
        self.info = message
        try:
            self.camera = CameraModel.from_info(message, self._rectified)
        except ConfigurationError as error:
            self.camera = None
            self._warnings.clear("principal point")
            self._warnings.warn("camera_info", f"CameraInfo refused: {error}")
            return
        self._warnings.clear("camera_info")
        self._check_principal_point(message, self.camera)

    def _check_principal_point(self, message: CameraInfo, camera: CameraModel) -> None:
        """Warn of a matrix that seems to be of other images.

        Those are of another scale, which moves the point along both axes; cropping often moves it
        along one. A region of interest may lie anywhere.
        """
        x, y = camera.matrix[:2, 2]
        shares = np.array([x / camera.width, y / camera.height])
        cropped = message.roi.x_offset or message.roi.y_offset
        if not cropped and np.abs(shares - 0.5).min() > _FARTHEST:
            self._warnings.warn(
                "principal point",
                f"The principal point of CameraInfo on {self._topic} is ({x:.0f}, {y:.0f}), the "
                f"images are {camera.width}×{camera.height}: is it for another resolution, or for "
                f"binned images already (binning is {message.binning_x}×{message.binning_y})? "
                "Correct the driver's calibration file, unless the images are cropped.",
            )
        else:
            self._warnings.clear("principal point")

    def set_right_info(self, message: CameraInfo) -> None:
        """Take over the right camera's CameraInfo: its P holds the baseline."""
        message.header = Header()
        if message == self.right_info:
            return
        self.right_info = message
        self.baseline = baseline_from_message(message)
        if self.baseline is not None and not _SMALLEST < self.baseline < _LARGEST:
            self._warnings.warn(
                "baseline",
                f"CameraInfo on {self._right_topic} has a baseline of {self.baseline:g} m (P[3] is "
                f"{message.p[3]:g}), so depth is of that scale. P[3] must be -fx · baseline, in "
                "pixels times metres: correct the driver.",
            )
            return
        if self.baseline is not None:
            self._warnings.clear("baseline")
            return
        self._warnings.warn(
            "baseline",
            f"CameraInfo on {self._right_topic} has no baseline (P[3] is {message.p[3]:g}): "
            "right_x is filled, depth is not. Let the driver publish the rectified pair's P.",
        )

    def check(self, result: FrameResult, stereo: bool, topic: str, frame_id: str) -> None:
        """Warn, with the reason, when ``normalized`` or stereo's ``depth`` stay empty or are wrong.

        topic, frame_id: of the images.
        """
        self._check_rectification(topic)
        self._check_frame(topic, frame_id)
        camera, features = self.camera, result.features
        if camera is not None and not camera.fits(features.width, features.height):
            self._warnings.warn(
                "size of camera_info",
                f"CameraInfo is for {camera.width}×{camera.height} images, these are "
                f"{features.width}×{features.height}: normalized stays empty. "
                "Let the driver publish the CameraInfo of this resolution.",
            )
        else:
            self._warnings.clear("size of camera_info")
        if result.index < _MISSING_AFTER:
            return
        if self.info is None and camera is None:
            self._warn_of_missing(self._topic, "normalized")
        if stereo and self.right_info is None:
            self._warn_of_missing(self._right_topic, "depth")

    def _warn_of_missing(self, topic: str, output: str) -> None:
        if topic not in self._missing:
            self._missing.add(topic)
            sentence = f"No CameraInfo on {topic}: {output} stays empty. {self._unheard(topic)}"
            self._warnings.once(sentence.rstrip())

    def _check_frame(self, topic: str, frame_id: str) -> None:
        """Warn of a CameraInfo that seems to be another camera's."""
        own, other = (name.removeprefix("/") for name in (frame_id, self._frame_id))
        if own and other and own != other:
            self._warnings.warn(
                "frame of camera_info",
                f"CameraInfo on {self._topic} has the frame_id {other!r}, {topic} has {own!r}: is "
                "it that of another camera? It is used. Remap camera_info, or let the driver give "
                "both one frame_id.",
            )
        else:
            self._warnings.clear("frame of camera_info")

    def _check_rectification(self, topic: str) -> None:
        """Warn where the topic's name contradicts how CameraInfo is applied."""
        sentence = ""
        if self.info is not None and any(self.info.d):
            if says_rectified(topic) and not self._rectified:
                sentence = (
                    f"{topic} has rectified images by its name, but normalized is made with the "
                    f"distortion of {self._topic}. Set rectified, or remap image to the raw images."
                )
            elif says_raw(topic) and self._rectified:
                sentence = (
                    f"{topic} has raw images by its name, but they are taken as rectified, and "
                    f"{self._topic} has distortion. Unless they are rectified, remap image to "
                    "those of image_proc, say; mono and rgbd can also take raw ones: rectified "
                    "false."
                )
        if sentence:
            self._warnings.warn("rectification", sentence)
        else:
            self._warnings.clear("rectification")
