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

"""Features as rtabmap reads them: an rtabmap_msgs/RGBDImage with its images.

All in it is of one pinhole camera without distortion: rtabmap takes keypoints, points and images
for rectified, whatever D of the CameraInfo says.

rtabmap_msgs comes with ROS, not with Python's registries; only this output needs it.
"""

from __future__ import annotations

import importlib
import re
import struct
import zlib
from copy import copy
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError
from aliked_ros.ros.conversions import depth_from_message, image_from_message, image_message
from aliked_ros.ros.frame import AnyImage, Frame, Maker, OutputContext
from aliked_ros.types import Float32Array, Float64Array, FrameResult, UInt8Array

_FAST = 1  # zlib's level: descriptors do not compress, whatever the effort
_SIZE = 8.0  # pixels; the patch that a descriptor sees varies, rtabmap only draws it
_READ = ("mono8", "rgb8", "bgr8")  # encodings of either image of a pair; depth is read as it is
_NOT_READ = re.compile("bayer|16")  # in the format of a compressed one


def message_type() -> type:
    """RGBDImage; ImportError where rtabmap_msgs is not installed."""
    return importlib.import_module("rtabmap_msgs.msg").RGBDImage  # type: ignore[no-any-return]


class RtabmapOutput:
    """Makes the messages of successive images, for rtabmap's ``subscribe_rgbd``."""

    def __init__(self) -> None:
        self._camera: CameraModel | None = None
        self._maps: tuple[Any, Any] | None = None  # for images with distortion

    def message(
        self,
        result: FrameResult,
        camera: CameraModel,
        image: AnyImage,
        pixels: UInt8Array,
        partner: AnyImage | None = None,
        right: tuple[CameraInfo | None, float | None] = (None, None),
    ) -> Any | None:
        """The message of one image; None where ``normalized`` is not known, or without features.

        image, pixels: as it came, and decoded. partner: the depth image, or the right one of a
        stereo pair; right: its CameraInfo and the baseline. Points are in the camera's optical
        frame, NaN where no depth is known.
        """
        if result.normalized is None:
            return None
        if camera is not self._camera:
            self._camera, self._maps = camera, None
            if camera.distortion.any():
                size = (camera.width, camera.height)
                self._maps = camera.rectification_maps(np.eye(3), camera.matrix, size)
        keypoints = self._rectified(result.features.keypoints, result.normalized)
        size = (camera.width, camera.height)
        kept = ((keypoints >= 0.0) & (keypoints <= np.subtract(size, 1))).all(axis=1)
        kept &= result.tracks.at_rest
        # Where the first image has no features, rtabmap detects its own, of another kind, and
        # aborts at the next that has.
        if not kept.any():
            return None
        types = importlib.import_module("rtabmap_msgs.msg")
        message = types.RGBDImage(header=image.header)
        message.rgb_camera_info = _info(camera, camera.matrix, 0.0, image.header)
        self._set_image(message, "rgb", image, pixels)
        if partner is not None and result.right_x is None:
            message.depth_camera_info = message.rgb_camera_info  # registered: the camera's own
            message.depth = self._depth(partner)
        elif partner is not None:
            matrix, shift = _right(camera, *right)
            message.depth_camera_info = _info(camera, matrix, shift, image.header)
            self._set_image(message, "depth", partner, None)
        message.key_points = [
            types.KeyPoint(
                pt=types.Point2f(x=x, y=y),
                size=_SIZE, angle=-1.0, response=score, octave=0, class_id=-1,
            )
            for (x, y), score in zip(
                keypoints[kept].tolist(), result.features.scores[kept].tolist(), strict=True
            )
        ]  # fmt: skip
        if result.depth is not None:
            points = np.column_stack([result.normalized, np.ones(len(keypoints))])[kept]
            points *= result.depth[kept, np.newaxis]
            message.points = [types.Point3f(x=x, y=y, z=z) for x, y, z in points.tolist()]
        message.descriptors = packed(result.features.descriptors[kept])
        return message

    def _rectified(self, keypoints: Float32Array, normalized: Float32Array) -> Float32Array:
        """The keypoints without distortion, N×2 pixels; NaN where the lens cannot see."""
        assert self._camera is not None
        if self._maps is None:
            return keypoints
        matrix = self._camera.matrix
        return (normalized @ matrix[:2, :2].T + matrix[:2, 2]).astype(np.float32)

    def _set_image(
        self, message: Any, field: str, image: AnyImage, pixels: UInt8Array | None
    ) -> None:
        """Fill the raw or the compressed field with the rectified image in what rtabmap reads.

        pixels: the image decoded, None = is to be.
        """
        if self._maps is None and isinstance(image, CompressedImage):
            if not _NOT_READ.search(image.format):
                image = copy(image)
                image.format = "jpg"  # by this word it tells a right image from a depth image
                setattr(message, f"{field}_compressed", image)
                return
        elif self._maps is None and image.encoding in _READ:
            setattr(message, field, image)
            return
        if pixels is None:
            pixels = image_from_message(image).pixels
        if self._maps is not None:
            pixels = np.asarray(cv2.remap(pixels, *self._maps, cv2.INTER_LINEAR), np.uint8)
        setattr(message, field, image_message(pixels, image.header))

    def _depth(self, image: ImageMessage) -> ImageMessage:
        """The rectified depth image."""
        if self._maps is None and not isinstance(image, CompressedImage):
            return image
        depth: Any = depth_from_message(image)
        if self._maps is not None:
            depth = cv2.remap(depth, *self._maps, cv2.INTER_NEAREST, borderValue=np.nan)
        height, width = depth.shape
        message = ImageMessage(header=image.header, height=height, width=width, step=4 * width)
        message.encoding = "32FC1"
        message.data.frombytes(depth.astype("<f4").tobytes())
        return message


class RtabmapFeatures(Maker):
    """``~/rtabmap_features``."""

    def __init__(self, context: OutputContext) -> None:
        super().__init__(context)
        self._rtabmap = RtabmapOutput()

    def message(self, frame: Frame) -> Any | None:
        """The features of an image with its images; warns, once, where there are none."""
        result, calibration = frame.result, self.context.calibration
        message = None
        if calibration.camera is not None:
            used = result.right_x is not None or result.depth is not None
            message = self._rtabmap.message(
                result,
                calibration.camera,
                frame.message,
                frame.image.pixels,
                frame.partner if used else None,  # one that cannot be used is left out
                (calibration.right_info, calibration.baseline),
            )
        if message is None and result.normalized is None:
            self.context.warnings.once(
                "Nothing on ~/rtabmap_features for images without a CameraInfo that fits them."
            )
        elif message is None:
            self.context.warnings.once(
                "Nothing on ~/rtabmap_features for images without features: rtabmap aborts where "
                "the first has none."
            )
        return message


def _right(
    camera: CameraModel, info: CameraInfo | None, baseline: float | None
) -> tuple[Float64Array, float]:
    """Matrix of the right camera of a rectified pair, and P[3]: 0 where that is not known."""
    if info is None or baseline is None:
        return camera.matrix, 0.0
    try:
        matrix = CameraModel.from_info(info, rectified=True).matrix
    except ConfigurationError:
        matrix = camera.matrix
    return matrix, -baseline * float(matrix[0, 0])


def _info(camera: CameraModel, matrix: Float64Array, shift: float, header: Header) -> CameraInfo:
    """The CameraInfo of rectified images of the camera's size; shift: P[3]."""
    info = CameraInfo(header=header, width=camera.width, height=camera.height)
    info.distortion_model = "plumb_bob"
    info.d = [0.0] * 5
    info.k, info.r = matrix.ravel(), np.eye(3).ravel()
    info.p = np.column_stack([matrix, [shift, 0.0, 0.0]]).ravel()
    return info


def packed(matrix: NDArray[np.float32]) -> bytes:
    """A float32 matrix as rtabmap::compressData writes it, empty for an empty one.

    The zlib stream of its rows, then three int32: rows, columns and OpenCV's type.
    """
    if not matrix.size:
        return b""
    rows, columns = matrix.shape
    stream = zlib.compress(np.ascontiguousarray(matrix, "<f4").tobytes(), _FAST)
    return stream + struct.pack("<3i", rows, columns, cv2.CV_32F)
