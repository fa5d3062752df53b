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

"""Left-right matching of a rectified stereo pair: where each left keypoint lies on the right.

Mutual best descriptors on the same row choose the pair; the patch around the left keypoint then
places it along that row. The right image's own keypoint is only a start: two detections of one
corner differ by 0.3 px (median on KITTI 00, Middlebury teddy), which at 20 m is a metre of depth.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ImageError
from aliked_ros.frontend.similarity import mutual_best_of
from aliked_ros.io.images import grey
from aliked_ros.types import Features, Float32Array, UInt8Array

# Few wrong candidates share a row, so that the least cosine may be lower than between any two
# images, and a ratio test takes away as many right pairs as wrong ones (measured).
_MIN_SIMILARITY = 0.5
_PATCH = 3  # pixels to each side; larger patches straddle depth edges
_SEARCH = 2  # pixels to each side
# Least correlation of the two patches: costs a tenth of the pairs and half of the wrong ones.
_MIN_CORRELATION = 0.7


class StereoMatcher:
    """Finds the left image's keypoints in the right image."""

    def __init__(self, config: FrontendConfig) -> None:
        self._config = config

    def match(
        self,
        left: Features,
        right: Features,
        left_pixels: UInt8Array,
        right_pixels: UInt8Array,
    ) -> Float32Array:
        """The x of each left keypoint in the right image: N, pixels, NaN = not found.

        left_pixels, right_pixels: the images that the features are of, H×W (grey) or H×W×3 (RGB),
        rectified: a point lies in the same row of both. Raises ImageError when sizes differ.
        """
        _check_sizes(left_pixels, right_pixels)
        right_x = np.full(len(left), np.nan, np.float32)
        rows, columns = self._pairs(left, right)
        if len(rows) == 0:
            return right_x
        found = _placed(
            grey(left_pixels),
            grey(right_pixels),
            left.keypoints[rows],
            right.keypoints[columns, 0],
        )
        disparity = left.keypoints[rows, 0] - found
        possible = (disparity >= 0.0) & (disparity <= self._config.max_disparity)
        right_x[rows[possible]] = found[possible]
        return right_x

    def follow(
        self,
        points: Float32Array,
        disparity: Float32Array,
        left_pixels: UInt8Array,
        right_pixels: UInt8Array,
    ) -> Float32Array:
        """The x in the right image of points N×2 (pixels) whose disparity was N before, NaN = none.

        left_pixels, right_pixels: as for ``match``.
        """
        _check_sizes(left_pixels, right_pixels)
        right_x = np.full(len(points), np.nan, np.float32)
        known = np.flatnonzero(~np.isnan(disparity))
        if len(known):
            start = points[known, 0] - disparity[known]
            found = _placed(grey(left_pixels), grey(right_pixels), points[known], start)
            now = points[known, 0] - found
            right_x[known] = np.where(
                (now >= 0.0) & (now <= self._config.max_disparity), found, np.nan
            )
        return right_x

    def reconfigure(self, config: FrontendConfig) -> None:
        """Take over the band and the largest disparity of ``config``."""
        self._config = config

    def _pairs(self, left: Features, right: Features) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows of left and right of the mutual best pairs that the geometry allows."""
        rows, columns = _in_band(
            left.keypoints[:, 1], right.keypoints[:, 1], self._config.epipolar_band
        )
        disparity = left.keypoints[rows, 0] - right.keypoints[columns, 0]
        near = (disparity >= 0.0) & (disparity <= self._config.max_disparity)
        return mutual_best_of(
            left.descriptors, right.descriptors, rows[near], columns[near], _MIN_SIMILARITY
        )


def depth_from_disparity(
    x_left: Float32Array, right_x: Float32Array, focal: float, baseline: float
) -> Float32Array:
    """Metres along the optical axis, N; NaN where ``right_x`` is or the disparity is not positive.

    x_left, right_x: N, pixels of the rectified images. focal: pixels. baseline: metres.
    """
    disparity = x_left - right_x
    depth = np.full(disparity.shape, np.nan, np.float32)
    np.divide(focal * baseline, disparity, out=depth, where=disparity > 0.0)
    return depth


def _check_sizes(left_pixels: UInt8Array, right_pixels: UInt8Array) -> None:
    if left_pixels.shape[:2] != right_pixels.shape[:2]:
        (height, width), (right_height, right_width) = (
            p.shape[:2] for p in (left_pixels, right_pixels)
        )
        raise ImageError(
            f"The left image is {width}×{height} pixels, the right one "
            f"{right_width}×{right_height}; give a rectified pair of one size."
        )


def _in_band(
    left_y: Float32Array, right_y: Float32Array, band: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All pairs of rows i, j with ``abs(left_y[i] - right_y[j]) <= band``."""
    order = np.argsort(right_y)
    first = np.searchsorted(right_y[order], left_y - band, "left")
    end = np.searchsorted(right_y[order], left_y + band, "right")
    counts = end - first
    rows = np.repeat(np.arange(len(left_y)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, order[np.repeat(first, counts) + within]


def _placed(
    left: UInt8Array, right: UInt8Array, points: Float32Array, start: Float32Array
) -> Float32Array:
    """The x in ``right`` where the patch around each of ``points`` N×2 of ``left`` correlates most.

    start: N, the x to search around. NaN where that is not within reach, or not alike.
    """
    size, shifts = 2 * _PATCH + 1, 2 * _SEARCH + 1
    patch = _sampled(left, points[:, 0], points[:, 1], _PATCH)
    strip = _sampled(right, start, points[:, 1], _PATCH + _SEARCH)
    windows = sliding_window_view(strip, size, axis=2).transpose(0, 2, 1, 3)
    fixed = _standardised(patch.reshape(len(points), -1))
    moving = _standardised(windows.reshape(len(points), shifts, -1))
    correlation = np.einsum("np,nsp->ns", fixed, moving)
    best = correlation.argmax(1)
    rows, inner = np.arange(len(points)), np.clip(best, 1, shifts - 2)
    before, peak, after = (correlation[rows, inner + step] for step in (-1, 0, 1))
    good = (best == inner) & (peak > _MIN_CORRELATION)
    curvature = np.where(good, before - 2 * peak + after, -1.0)
    vertex = (before - after) / (2 * np.minimum(curvature, -1e-6))
    found = start + (inner - _SEARCH + vertex)
    return np.where(good, found, np.nan).astype(np.float32)


def _sampled(image: UInt8Array, x: Float32Array, y: Float32Array, reach: int) -> Float32Array:
    """Patches N×(2·_PATCH + 1)×(2·reach + 1) around the points, edges replicated."""
    across = np.arange(-reach, reach + 1, dtype=np.float32)
    down = np.arange(-_PATCH, _PATCH + 1, dtype=np.float32)
    map_y, map_x = np.broadcast_arrays(y[:, None, None] + down[:, None], x[:, None, None] + across)
    flat = (len(x), -1)  # OpenCV's images have less than 32768 rows
    samples = cv2.remap(
        image,
        map_x.reshape(flat),
        map_y.reshape(flat),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(samples, np.float32).reshape(map_x.shape)


def _standardised(patches: Float32Array) -> Float32Array:
    """Zero mean and unit length along the last axis; zeros for a patch without contrast."""
    patches = patches - patches.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(patches, axis=-1, keepdims=True)
    return np.asarray(patches / np.maximum(lengths, 1.0), np.float32)
