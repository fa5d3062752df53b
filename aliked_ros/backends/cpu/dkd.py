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

"""Keypoint detection on a score map (DKD; ALIKED, arXiv 2304.03608, section III-B)."""

from __future__ import annotations

import math

import cv2
import numpy as np

from aliked_ros.backends.cpu.compiled import Workers, jit
from aliked_ros.networks.constants import NMS_RADIUS, SOFT_ARGMAX_TEMPERATURE
from aliked_ros.types import BoolArray, Float32Array, IntArray, UInt8Array

_TEMPERATURE = np.float32(SOFT_ARGMAX_TEMPERATURE)
_WINDOW = np.ones((2 * NMS_RADIUS + 1,) * 2, np.uint8)


def detect(
    score_map: Float32Array,
    mask: UInt8Array | None,
    top_k: int,
    threshold: float,
    grid: int,
    workers: Workers,
) -> tuple[Float32Array, Float32Array]:
    """Keypoints N×2 (pixels, sub-pixel) and their scores N, by falling score-map maximum.

    score_map: H×W. At most ``top_k`` maxima above ``threshold``, none where ``mask`` is 0 and none
    within 2 pixels of the border. grid: see ``spread``.
    """
    maxima = _local_maxima(score_map)
    if mask is not None:
        maxima &= mask != 0
    radius = NMS_RADIUS
    inner = maxima[radius:-radius, radius:-radius]
    rows, columns = np.divmod(np.flatnonzero(inner), inner.shape[1])
    rows, columns = rows + radius, columns + radius
    values = score_map[rows, columns]
    kept = np.flatnonzero(values > max(threshold, 0.0))
    if len(kept) > top_k and not grid:
        kept = kept[np.argpartition(values[kept], len(kept) - top_k)[-top_k:]]
    kept = kept[np.argsort(-values[kept], kind="stable")]
    if grid:
        kept = kept[spread(columns[kept], rows[kept], score_map.shape, top_k, grid)]
    keypoints = np.empty((len(kept), 2), np.float32)
    scores = np.empty(len(kept), np.float32)
    workers.run(
        refine_keypoints,
        len(kept),
        score_map,
        columns[kept],
        rows[kept],
        keypoints,
        scores,
    )
    return keypoints, scores


def spread(x: IntArray, y: IntArray, shape: tuple[int, ...], top_k: int, grid: int) -> IntArray:
    """Rows of at most ``top_k`` of the pixels (x, y), given best first, spread over the image.

    The image (shape H, W, ...) is cut into square cells, ``grid`` along its longer side. The best
    of each cell come first, up to the cell's share of ``top_k`` (at least one); the best others
    fill up the rest.
    """
    height, width = shape[:2]
    longer = max(height, width)
    across, down = (-(-side * grid // longer) for side in (width, height))
    cells = y * grid // longer * across + x * grid // longer
    by_cell = np.argsort(cells, kind="stable")
    starts = np.searchsorted(cells[by_cell], np.arange(across * down))
    rank = np.empty(len(cells), np.int64)  # within its cell
    rank[by_cell] = np.arange(len(cells)) - starts[cells[by_cell]]
    behind = rank >= max(1, top_k // (across * down))
    return np.sort(np.argsort(behind, kind="stable")[:top_k])


def _local_maxima(scores: Float32Array) -> BoolArray:
    """Non-maximum suppression in three rounds: maxima hidden by suppressed pixels count too."""
    maxima: BoolArray = scores == cv2.dilate(scores, _WINDOW)
    for _ in range(2):
        free = ~cv2.dilate(maxima.view(np.uint8), _WINDOW).view(np.bool_)
        remaining = cv2.copyTo(scores, free.view(np.uint8))  # 0 elsewhere
        maxima |= (remaining == cv2.dilate(remaining, _WINDOW)) & free
    return maxima


@jit
def refine_keypoints(score_map, columns, rows, keypoints, scores, start, stop):
    """Soft-argmax over the 5×5 patch around each maximum, and the score at the refined position.

    (ALIKED, section III-B.) columns, rows: N integers, at least 2 pixels inside the map.
    """
    height, width = score_map.shape
    f32 = np.float32
    for n in range(start, stop):
        x, y = columns[n], rows[n]
        peak = score_map[y, x]
        for dy in range(-NMS_RADIUS, NMS_RADIUS + 1):
            for dx in range(-NMS_RADIUS, NMS_RADIUS + 1):
                peak = max(peak, score_map[y + dy, x + dx])
        total, shift_x, shift_y = f32(0.0), f32(0.0), f32(0.0)
        for dy in range(-NMS_RADIUS, NMS_RADIUS + 1):
            for dx in range(-NMS_RADIUS, NMS_RADIUS + 1):
                e = math.exp((score_map[y + dy, x + dx] - peak) / _TEMPERATURE)
                total += e
                shift_x += e * f32(dx)
                shift_y += e * f32(dy)
        px, py = f32(x) + shift_x / total, f32(y) + shift_y / total
        left, top = int(px), int(py)
        right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
        a, b = px - f32(left), py - f32(top)
        upper = score_map[top, left] * (f32(1.0) - a) + score_map[top, right] * a
        lower = score_map[bottom, left] * (f32(1.0) - a) + score_map[bottom, right] * a
        keypoints[n, 0], keypoints[n, 1] = px, py
        scores[n] = upper * (f32(1.0) - b) + lower * b
