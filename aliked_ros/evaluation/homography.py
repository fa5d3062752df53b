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

"""Matching of image pairs with a known homography (``aliked_ros evaluate homography``).

The measures are those of the field: mean matching accuracy (Dusmanu et al., D2-Net, CVPR 2019),
homography accuracy by the corners' mean error (DeTone et al., SuperPoint, CVPRW 2018), the area
under its curve (Sarlin et al., SuperGlue, CVPR 2020), repeatability (Mikolajczyk et al., IJCV
2005).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from aliked_ros.evaluation.layouts import HomographyPair, homography_pairs
from aliked_ros.evaluation.ledger import Row, Unit
from aliked_ros.evaluation.methods import Method, View
from aliked_ros.evaluation.result_table import Metric, ResultTable
from aliked_ros.evaluation.run import Run, described
from aliked_ros.evaluation.statistics import area_under_recall
from aliked_ros.sources import read_image
from aliked_ros.types import Float64Array

ACCURACY_CURVE = tuple(range(1, 11))
"""Limits of the mean matching accuracy, pixels."""

_CORRECT = 3.0  # pixels
_RANSAC_THRESHOLD = 3.0  # pixels, the same for every method
_ITERATIONS, _CONFIDENCE = 5000, 0.9999
_LEAST = 4  # points for a homography

METRICS = (
    Metric("matches", "matches", better="", digits=0),
    Metric("correct", "correct at 3 px", digits=0),
    Metric("mma_1", "MMA at 1 px", percent=True),
    Metric("mma_3", "MMA at 3 px", percent=True),
    Metric("mma_5", "MMA at 5 px", percent=True),
    Metric("h_1", "homography within 1 px", percent=True, digits=0),
    Metric("h_3", "within 3 px", percent=True, digits=0),
    Metric("h_5", "within 5 px", percent=True, digits=0),
    Metric("auc_5", "AUC to 5 px", percent=True),
    Metric("auc_10", "AUC to 10 px", percent=True),
    Metric("repeatability", "repeatability at 3 px", percent=True),
)
REMARKS = (
    "MMA: share of a pair's matches within these pixels of the true homography. "
    "Homography within: share of the pairs whose estimated homography (USAC MAGSAC, 3 px, the same "
    "for all) has at most this mean corner error. AUC: area under that share up to the limit. "
    "Repeatability: share of the keypoints in the common area that have one of the other image "
    "within 3 px.",
)


def evaluate_homography(run: Run) -> ResultTable:
    """Match every pair with every method; writes table and ledger.

    Raises SourceError for a folder in no known layout; ConfigurationError, OutputError.
    """
    pairs = homography_pairs(Path(run.data))[: run.limit]
    question = run.question("homography", pairs=[pair.name for pair in pairs])
    with run.open(question) as (ledger, methods):
        units = [
            Unit(f"{pair.name} {method.name}", partial(_measure, pair, method))
            for pair in pairs
            for method in methods
        ]
        rows = ledger.measure(units, partial(run.report, "pairs"))
        facts = described(question, methods)
    table = ResultTable(facts, rows, METRICS, run.methods, groups=("kind",), remarks=REMARKS)
    table.write(run.output)
    return table


def _measure(pair: HomographyPair, method: Method) -> list[Row]:
    first, second = (method.view(read_image(path)) for path in (pair.first, pair.second))
    found = method.match(first, second)
    errors = transfer_errors(pair.homography, found.first, found.second)
    corner = corner_error(pair.homography, found.first, found.second, first.pixels.shape)
    row: Row = {
        "unit": pair.name,
        "method": method.name,
        "kind": pair.kind,
        "matches": len(found),
        "correct": int((errors <= _CORRECT).sum()),
        "corner_error": corner if np.isfinite(corner) else None,
        "repeatability": _known(repeatability(pair.homography, first, second)),
    }
    for limit in ACCURACY_CURVE:
        # without matches, nothing is correct
        row[f"mma_{limit}"] = float((errors <= limit).mean()) if len(errors) else 0.0
    for limit in (1, 3, 5):
        row[f"h_{limit}"] = float(corner <= limit)
    for limit in (5, 10):
        row[f"auc_{limit}"] = float(area_under_recall([corner], limit)[0])
    return [row]


def transfer_errors(
    homography: Float64Array, first: NDArray[np.float32], second: NDArray[np.float32]
) -> Float64Array:
    """K distances in pixels between ``first`` (K×2), mapped by the homography, and ``second``."""
    return np.asarray(np.linalg.norm(_map(homography, first) - second, axis=1))


def corner_error(
    homography: Float64Array,
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    shape: tuple[int, ...],
) -> float:
    """Mean distance in pixels of the first image's corners, mapped by the estimate and the truth.

    shape: of the first image. Infinite if no homography can be estimated.
    """
    if len(first) < _LEAST:
        return float("inf")
    try:
        estimated, _ = cv2.findHomography(
            first, second, cv2.USAC_MAGSAC, _RANSAC_THRESHOLD, None, _ITERATIONS, _CONFIDENCE
        )
    except cv2.error:  # degenerate points
        return float("inf")
    if estimated is None:
        return float("inf")
    found: Float64Array = estimated.astype(np.float64)
    height, width = shape[:2]
    corners = np.array(
        [(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], np.float64
    )
    moved = _map(found, corners) - _map(homography, corners)
    return float(np.linalg.norm(moved, axis=1).mean())


def repeatability(homography: Float64Array, first: View, second: View) -> float:
    """Share of keypoints in the common area within 3 px of one of the other image.

    NaN if there are none. Keypoints of both images count.
    """
    inverse: NDArray[Any] = np.linalg.inv(homography)
    forth = _inside(_map(homography, first.features.keypoints), second.pixels.shape)
    back = _inside(_map(inverse, second.features.keypoints), first.pixels.shape)
    a = _map(homography, first.features.keypoints[forth])
    b = np.asarray(second.features.keypoints[back], np.float64)
    if not len(a) or not len(b):
        return float("nan")
    near = cKDTree(b).query(a)[0] <= _CORRECT
    near_back = cKDTree(a).query(b)[0] <= _CORRECT
    return float((near.sum() + near_back.sum()) / (len(a) + len(b)))


def _map(homography: NDArray[Any], points: NDArray[Any]) -> Float64Array:
    if not len(points):
        return np.zeros((0, 2))
    mapped = cv2.perspectiveTransform(np.asarray(points, np.float64)[:, None], homography)
    return np.asarray(mapped[:, 0])


def _inside(points: Float64Array, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    height, width = shape[:2]
    x, y = points[:, 0], points[:, 1]
    return np.asarray((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
