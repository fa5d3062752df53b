"""Keypoint detection on a score map (DKD; ALIKED, arXiv 2304.03608, section III-B)."""

from __future__ import annotations

import cv2
import numpy as np

from aliked_ros.inference import kernels
from aliked_ros.networks.constants import NMS_RADIUS
from aliked_ros.types import BoolArray, Float32Array, UInt8Array

_WINDOW = np.ones((2 * NMS_RADIUS + 1,) * 2, np.uint8)


def detect(
    score_map: Float32Array,
    mask: UInt8Array | None,
    top_k: int,
    threshold: float,
    workers: kernels.Workers,
) -> tuple[Float32Array, Float32Array]:
    """Keypoints N×2 (pixels, sub-pixel) and their scores N, by falling score-map maximum.

    score_map: H×W. At most ``top_k`` maxima above ``threshold``, none where ``mask`` is 0 and none
    within 2 pixels of the border.
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
    if len(kept) > top_k:
        kept = kept[np.argpartition(values[kept], len(kept) - top_k)[-top_k:]]
    kept = kept[np.argsort(-values[kept], kind="stable")]
    keypoints = np.empty((len(kept), 2), np.float32)
    scores = np.empty(len(kept), np.float32)
    workers.run(
        kernels.refine_keypoints,
        len(kept),
        score_map,
        columns[kept],
        rows[kept],
        keypoints,
        scores,
    )
    return keypoints, scores


def _local_maxima(scores: Float32Array) -> BoolArray:
    """Non-maximum suppression in three rounds: maxima hidden by suppressed pixels count too."""
    maxima: BoolArray = scores == cv2.dilate(scores, _WINDOW)
    for _ in range(2):
        free = ~cv2.dilate(maxima.view(np.uint8), _WINDOW).view(np.bool_)
        remaining = cv2.copyTo(scores, free.view(np.uint8))  # 0 elsewhere
        maxima |= (remaining == cv2.dilate(remaining, _WINDOW)) & free
    return maxima
