"""Depth of keypoints, from a depth image that lies pixel by pixel over the camera's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aliked_ros.errors import ImageError
from aliked_ros.types import Float32Array

MILLIMETRES = 1000.0


def depth_in_metres(raw: NDArray[Any], units_per_metre: float = MILLIMETRES) -> Float32Array:
    """A sensor's H×W values as metres, NaN where it gave none (0, negative, infinite or NaN).

    raw: uint16 in ``units_per_metre``, or float32 in metres (REP-118: 16UC1 and 32FC1).
    Raises ImageError for another type or shape.
    """
    if raw.ndim != 2 or raw.dtype not in (np.uint16, np.float32):
        raise ImageError(
            f"The depth image is {raw.dtype} of shape {raw.shape}; it must be H×W, uint16 "
            "millimetres (16UC1) or float32 metres (32FC1)."
        )
    metres = raw.astype(np.float32)
    if raw.dtype == np.uint16:
        metres /= np.float32(units_per_metre)
    metres[~(np.isfinite(metres) & (metres > 0.0))] = np.nan
    return metres


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
