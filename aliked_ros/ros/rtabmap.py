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

rtabmap_msgs comes with ROS, not with Python's registries; only this output needs it.
"""

from __future__ import annotations

import importlib
import struct
import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from aliked_ros.types import FrameResult

_FAST = 1  # zlib's level: descriptors do not compress, whatever the effort
_SIZE = 8.0  # pixels; the patch that a descriptor sees varies, rtabmap only draws it


def message_type() -> type:
    """RGBDImage; ImportError where rtabmap_msgs is not installed."""
    return importlib.import_module("rtabmap_msgs.msg").RGBDImage  # type: ignore[no-any-return]


def rgbd_image(
    result: FrameResult,
    image: ImageMessage | CompressedImage,
    partner: ImageMessage | CompressedImage | None,
    infos: tuple[CameraInfo | None, CameraInfo | None],
) -> Any:
    """The message of one image, for rtabmap's ``subscribe_rgbd``.

    image, partner: as they came; partner is the depth image, or the right one of a stereo pair.
    infos: their CameraInfos. Points are in the camera's optical frame, NaN where no depth is known.
    """
    types = importlib.import_module("rtabmap_msgs.msg")
    message = types.RGBDImage(header=image.header)
    for name, source in (("rgb", image), ("depth", partner)):
        if source is not None:
            compressed = isinstance(source, CompressedImage)
            setattr(message, f"{name}_compressed" if compressed else name, source)
    for name, info in zip(("rgb", "depth"), infos, strict=True):
        if info is not None:
            setattr(message, f"{name}_camera_info", info)
    features = result.features
    message.key_points = [
        types.KeyPoint(
            pt=types.Point2f(x=x, y=y),
            size=_SIZE, angle=-1.0, response=score, octave=0, class_id=-1,
        )
        for (x, y), score in zip(
            features.keypoints.tolist(), features.scores.tolist(), strict=True
        )
    ]  # fmt: skip
    if result.depth is not None and result.normalized is not None:
        points = np.column_stack([result.normalized, np.ones(len(features))])
        points *= result.depth[:, np.newaxis]
        message.points = [types.Point3f(x=x, y=y, z=z) for x, y, z in points.tolist()]
    message.descriptors = packed(features.descriptors)
    return message


def packed(matrix: NDArray[np.float32]) -> bytes:
    """A float32 matrix as rtabmap::compressData writes it, empty for an empty one.

    The zlib stream of its rows, then three int32: rows, columns and OpenCV's type.
    """
    if not matrix.size:
        return b""
    rows, columns = matrix.shape
    stream = zlib.compress(np.ascontiguousarray(matrix, "<f4").tobytes(), _FAST)
    return stream + struct.pack("<3i", rows, columns, cv2.CV_32F)
