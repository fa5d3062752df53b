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

"""Where features are not wanted. A mask is H×W uint8, 0 = ignore."""

from __future__ import annotations

from functools import reduce

import cv2
import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ImageError
from aliked_ros.types import BoolArray, Float32Array, Float64Array, UInt8Array

_BORDER_MARGIN = 4  # pixels; up to 3 away, the edge of black attracts keypoints
_ROUNDING = 0.1  # pixels, of which a border pixel of an image without distortion may miss it

_WINDOW = 15  # pixels, as flow compares them
_LEAST_GRADIENT = 2.0  # squared grey levels a pixel, mean: below it noise moves a point
_ROOM = 64  # pixels of the image for each keypoint that is wanted: as dense as ALIKED finds them
_SAMPLED = 4  # each so many pixels, to rank them

_CELL = 16  # pixels
_CAMERA_MOVES = 2.0  # pixels, median displacement; below it everything looks fixed
_FIXED = 0.5  # pixels: the noise of two detections of one pattern
_FREE = 1.0  # pixels
_MEMORY = 0.985  # of the evidence is left after each image: about 70 images count
_LEAST_EVIDENCE = 8.0  # matches
_MOST_FIXED = 1 / 3  # of the matches; more are the background of something that moves
_LITTLE_EVIDENCE = 2.0  # matches: what a masked place, where none is gathered, fades to first


def combine(*masks: UInt8Array | None) -> UInt8Array | None:
    """What every mask lets through; None where there is no mask.

    Raises ImageError when two of them differ in size.
    """
    given = [mask for mask in masks if mask is not None]
    for mask in given[1:]:
        if mask.shape != given[0].shape:
            (height, width), (other_height, other_width) = given[0].shape, mask.shape
            raise ImageError(
                f"One mask is {width}×{height} pixels, another {other_width}×{other_height}; "
                "give them the size of the images."
            )
    return reduce(np.minimum, given) if given else None


def rectified_border(
    rectified: CameraModel, rotation: Float64Array, raw: CameraModel
) -> UInt8Array:
    """The mask of a rectified image that leaves out what lies outside the raw image.

    rectified: the camera of the rectified image (P). rotation: 3×3, from the raw to the rectified
    optical frame (R). raw: the camera as it is (K and D).
    """
    size = (rectified.width, rectified.height)
    x, y = raw.rectification_maps(rotation, rectified.matrix, size)
    inside = (x > -_ROUNDING) & (x < raw.width - 1 + _ROUNDING)
    inside &= (y > -_ROUNDING) & (y < raw.height - 1 + _ROUNDING)
    reach = np.ones((2 * _BORDER_MARGIN + 1,) * 2, np.uint8)
    return np.asarray(cv2.erode(np.where(inside, np.uint8(255), np.uint8(0)), reach))


def corners(grey: UInt8Array, mask: UInt8Array | None, count: int) -> UInt8Array:
    """A mask of an image H×W without what an edge alone holds, or little contrast.

    There points slide, for the gradient is weak in some direction (Shi and Tomasi, Good Features
    to Track, 1994). mask: what the image has already; None = none. count: of the keypoints that are
    wanted; where too few places are good, the best others leave room for them.
    """
    unit = 255.0 / 2.0  # grey levels a pixel: OpenCV's, with a 3×3 Sobel filter
    weakest = cv2.cornerMinEigenVal(grey, _WINDOW, ksize=3) * unit**2
    weakest = np.maximum(weakest, 0.0)  # rounding gives less
    if mask is not None:
        weakest[mask == 0] = -1.0
    ranked = weakest[::_SAMPLED, ::_SAMPLED].ravel()
    room = count * _ROOM * len(ranked) // weakest.size
    least = _LEAST_GRADIENT
    if np.count_nonzero(ranked >= least) < room:
        least = np.partition(ranked, -room)[-room] if room < len(ranked) else 0.0
    return np.where(weakest >= max(least, 0.0), np.uint8(255), np.uint8(0))


class StaticParts:
    """What is fixed to the image while the camera moves: a watermark, dirt, the robot's own parts.

    Such features do not move between images. Neither does far scenery near the point that the
    camera heads for, but only until the camera turns by the least bit; so a place is static where,
    over many images in which most matches moved, features that did not outweigh those that did.
    Evidence fades with those images: what was masked wrongly, or has gone, is looked at again.
    While the camera stands nothing is learned and nothing forgotten; nor is it while something
    large moves past a camera that stands.
    """

    def __init__(self) -> None:
        self._size = (0, 0)
        self._fixed = self._free = np.zeros((0, 0))  # evidence for and against, by cell
        self._static: BoolArray = np.zeros((0, 0), bool)

    @property
    def share(self) -> float:
        """Share of the image's cells that are static."""
        return float(self._static.mean()) if self._static.size else 0.0

    def update(self, before: Float32Array, after: Float32Array, width: int, height: int) -> None:
        """Learn from the matches of two images in a row: K×2 each, pixels, outliers included.

        width, height: of the images; another size begins anew.
        """
        if self._size != (width, height):
            self._size = (width, height)
            self._fixed, self._free = np.zeros((2, -(-height // _CELL), -(-width // _CELL)))
            self._static = np.zeros(self._fixed.shape, bool)
        moved = np.linalg.norm(after - before, axis=1)
        if len(moved) == 0 or np.median(moved) < _CAMERA_MOVES:
            return
        if np.mean(moved < _FIXED) > _MOST_FIXED:
            return
        cells = tuple((after[:, ::-1] // _CELL).astype(np.intp).T)
        for evidence, matches in ((self._fixed, moved < _FIXED), (self._free, moved > _FREE)):
            evidence *= _MEMORY
            np.add.at(evidence, cells, matches)
        enough = np.where(self._static, _LITTLE_EVIDENCE, _LEAST_EVIDENCE)
        self._static = (self._fixed >= enough) & (self._fixed > self._free)

    def mask(self, width: int, height: int) -> UInt8Array | None:
        """The mask of the static parts; None where none are known in images of this size."""
        static = self._static
        if self._size != (width, height) or not static.any():
            return None
        cells = np.where(static, np.uint8(0), np.uint8(255))
        return cells.repeat(_CELL, axis=0).repeat(_CELL, axis=1)[:height, :width]
