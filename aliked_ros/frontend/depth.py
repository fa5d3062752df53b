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

"""Depth of keypoints: from a depth image that lies pixel by pixel over the camera's, or stereo."""

from __future__ import annotations

import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ImageError
from aliked_ros.frontend.stereo import depth_from_disparity
from aliked_ros.types import Features, Float32Array, Image


def depth_at(depth: Float32Array, keypoints: Float32Array, width: int, height: int) -> Float32Array:
    """Depth at keypoints N×2 (pixels): N, metres, NaN in holes.

    The value of the pixel nearest to the keypoint, as it is: an average with its neighbours would
    lie on neither side of a depth edge.
    depth: metres, NaN = none. width, height: size of the image that the keypoints are of.
    Raises ImageError when the depth image has another size.
    """
    if depth.shape != (height, width):
        raise ImageError(
            f"The depth image is {depth.shape[1]}×{depth.shape[0]} pixels, the image "
            f"{width}×{height}; register the depth to this camera (its aligned depth topic)."
        )
    columns, rows = np.rint(keypoints).astype(np.intp).T
    nearest: Float32Array = depth[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    return nearest


def keypoint_depth(
    image: Image,
    features: Features,
    right_x: Float32Array | None,
    camera: CameraModel | None,
    baseline: float | None,
) -> Float32Array | None:
    """Depth of an image's keypoints, N metres, NaN = none; None without any source of it.

    From the depth image where there is one; else from ``right_x`` (N, pixels), where the camera
    fits the image and the baseline (metres) is known. Raises ImageError as ``depth_at``.
    """
    if image.depth is not None:
        return depth_at(image.depth, features.keypoints, features.width, features.height)
    if right_x is None or camera is None or baseline is None:
        return None
    if not camera.fits(features.width, features.height):
        return None
    focal = float(camera.matrix[0, 0])
    return depth_from_disparity(features.keypoints[:, 0], right_x, focal, baseline)
