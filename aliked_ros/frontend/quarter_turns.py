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

"""Images that are turned against each other, also by more than the networks bear.

ALIKED's descriptors hold for turns of some 45° in the image's plane. Where two images are matched
as wholes and too little agrees, one of them is turned by quarters, which moves pixels and leaves
their values as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from aliked_ros.types import Features, Float32Array, Matches, UInt8Array

QUARTERS = (1, 3, 2)
"""Quarter turns in the order in which they are tried: a half turn is the rarest."""

# Share of the features that, verified, spares the turns. At 90°, up to a third agree all the same,
# 4 pixels off.
_ENOUGH = 0.4
_CLEAR = 50  # of a turned image; unrelated ones had up to 32 in 150 tries

Found = TypeVar("Found")


def turn_pixels(pixels: UInt8Array, turns: int) -> UInt8Array:
    """The image H×W or H×W×3 turned counterclockwise by quarters."""
    return np.ascontiguousarray(np.rot90(pixels, turns))


def turn_points(points: Float32Array, turns: int, width: int, height: int) -> Float32Array:
    """Where points N×2 of an image are after ``turn_pixels``; width, height: before it."""
    for _ in range(turns % 4):
        points = np.column_stack([points[:, 1], width - 1 - points[:, 0]])
        width, height = height, width
    return points


def as_turned(features: Features) -> Features:
    """Features with keypoints, width and height of the turned image that they were found in."""
    if not features.turns:
        return features
    width, height = features.width, features.height
    keypoints = turn_points(features.keypoints, features.turns, width, height)
    if features.turns % 2:
        width, height = height, width
    return replace(features, keypoints=keypoints, width=width, height=height, turns=0)


def best_turn(
    attempt: Callable[[int], tuple[Features, Found]],
    inliers: Callable[[Found], int],
    quarters: Sequence[int] = QUARTERS,
) -> tuple[Features, Found]:
    """The result of matching an image upright, or turned where only that makes it match.

    attempt: features of the image after N quarter turns, and what matching them found.
    inliers: number of verified matches in that.
    quarters: turns to try when upright has too few.
    """
    upright = attempt(0)
    features, found = upright
    if inliers(found) >= max(_CLEAR, _ENOUGH * len(features)):
        return upright
    best = max(map(attempt, quarters), key=lambda result: inliers(result[1]))
    return best if inliers(best[1]) >= max(_CLEAR, inliers(found)) else upright


def roll_between(before: Features, after: Features, matches: Matches) -> float:
    """Degrees by which the matched points have turned about their mean, positive = clockwise.

    The least-squares turn of the inliers, or of all matches where none are verified; 0 without
    matches.
    """
    held = slice(None) if matches.inliers is None else matches.inliers
    first = before.keypoints[matches.reference_indices[held]]
    second = after.keypoints[matches.current_indices[held]]
    if len(first) < 2:
        return 0.0
    (x0, y0), (x1, y1) = (first - first.mean(axis=0)).T, (second - second.mean(axis=0)).T
    return float(np.degrees(np.arctan2(x0 @ y1 - y0 @ x1, x0 @ x1 + y0 @ y1)))
