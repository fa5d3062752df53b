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

"""What a camera driver publishes, made of a source's images and calibration."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_ros.errors import ConfigurationError
from aliked_ros.io.images import MILLIMETRES, grey
from aliked_ros.sources import Partner
from aliked_ros.types import Float32Array, UInt8Array

PARTNERS: dict[str, Partner] = {"mono": "none", "stereo": "right", "rgbd": "depth"}
"""What a source's images come with, by the parameters ``input`` and ``publish``."""

_MODELS = {"radtan": "plumb_bob", "none": "plumb_bob", "equidistant": "equidistant"}


class CameraOutput:
    """The topics of one camera: its images, and under the same stamps its CameraInfo."""

    def __init__(self, node: Node, prefix: str, qos: QoSProfile, info: CameraInfo | None) -> None:
        self.images = node.create_publisher(ImageMessage, f"{prefix}image", qos)
        self._node = node
        self._info = info
        self._infos = None
        if info is not None:
            self._infos = node.create_publisher(CameraInfo, f"{prefix}camera_info", qos)

    def publish(self, image: ImageMessage) -> None:
        """Publish both."""
        self.images.publish(image)
        if self._info is not None and self._infos is not None:
            self._info.header = image.header
            self._infos.publish(self._info)

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in filter(None, (self.images, self._infos)):
            self._node.destroy_publisher(publisher)


def encoded(pixels: UInt8Array, encoding: str) -> UInt8Array:
    """The pixels in ``mono8`` or ``rgb8``; any other encoding leaves them as they are."""
    if encoding == "mono8":
        return grey(pixels)
    if encoding == "rgb8" and pixels.ndim == 2:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), np.uint8)
    return pixels


def camera_info(calibration: dict[str, Any] | None) -> CameraInfo | None:
    """The CameraInfo of a calib.json, without header; None for none.

    Raises ConfigurationError when the calibration lacks something.
    """
    if calibration is None:
        return None
    try:
        fx, fy, cx, cy = (float(calibration[name]) for name in ("fx", "fy", "cx", "cy"))
        model = str(calibration.get("distortion_model", "none"))
        distortion = [float(value) for value in calibration.get("distortion", [])]
        return CameraInfo(
            width=int(calibration["width"]),
            height=int(calibration["height"]),
            distortion_model=_MODELS.get(model, model),
            d=distortion or [0.0] * 5,
            k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
            r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"calib.json of the source is incomplete: {error!r}; it needs width, height, fx, fy, "
            "cx, cy, distortion_model and distortion, or must be removed."
        ) from error


def right_camera_info(calibration: dict[str, Any] | None) -> CameraInfo | None:
    """The CameraInfo of the right camera of a rectified pair: P holds the baseline, if known."""
    info = camera_info(calibration)
    if calibration is None or info is None:
        return None
    baseline = calibration.get("stereo_baseline_m")
    if baseline is None:
        return info
    if not isinstance(baseline, int | float) or not 0.0 < baseline < np.inf:
        raise ConfigurationError(
            f"calib.json of the source has stereo_baseline_m {baseline!r}; it must be the distance "
            "of the two cameras in metres."
        )
    info.p[3] = -info.p[0] * baseline
    return info


def depth_message(depth: Float32Array, encoding: str, header: Header) -> ImageMessage:
    """A 16UC1 (millimetres, 0 = none) or 32FC1 (metres, NaN = none) image of metres H×W."""
    values = depth
    if encoding == "16UC1":
        millimetres = np.rint(depth * MILLIMETRES)
        known = millimetres <= np.iinfo(np.uint16).max  # NaN is not
        values = np.where(known, millimetres, 0.0).astype(np.uint16)
    height, width = depth.shape
    message = ImageMessage(header=header, height=height, width=width, encoding=encoding)
    message.step = width * values.itemsize
    message.data.frombytes(np.ascontiguousarray(values).view(np.uint8).data)
    return message
