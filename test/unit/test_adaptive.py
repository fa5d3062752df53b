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

"""The adaptive matcher: nearest neighbours where that is enough, LightGlue where it is not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from aliked_ros.backends.create import create_backend
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.matcher import AdaptiveMatcher, LightGlueMatcher, PairMatcher
from aliked_ros.frontend.prediction import Turn
from aliked_ros.types import UInt8Array
from helpers.gyroscope import camera

CONFIG = FrontendConfig(max_keypoints=512, matcher="adaptive")
Images = Callable[[int], UInt8Array]


@pytest.fixture(scope="module")
def parts() -> tuple[Extractor, LightGlueMatcher]:
    backend = create_backend(CONFIG)
    return Extractor(CONFIG, backend), LightGlueMatcher(CONFIG, backend)


def test_hard_images_are_lightglues(
    parts: tuple[Extractor, LightGlueMatcher], tum_images: Images, shared_kitti: Images
) -> None:
    extractor, lightglue = parts
    adaptive = AdaptiveMatcher(CONFIG, lightglue)
    order = [tum_images(0), tum_images(1), tum_images(2), shared_kitti(0), tum_images(3)]
    images = [extractor.extract(pixels) for pixels in order]
    pairs = list(pairwise(images))
    used = [adaptive.match(before, now).matcher for before, now in pairs]
    assert used == ["lightglue", "nearest", "lightglue", "lightglue"]


def test_matches_hold_each_row_once_and_lie_near(
    parts: tuple[Extractor, LightGlueMatcher], tum_images: Images
) -> None:
    extractor, lightglue = parts
    adaptive = AdaptiveMatcher(CONFIG, lightglue)
    images = [extractor.extract(tum_images(i)) for i in range(3)]
    adaptive.match(images[0], images[1])
    matches = adaptive.match(images[1], images[2])
    assert matches.matcher == "nearest"
    for rows in (matches.reference_indices, matches.current_indices):
        assert len(np.unique(rows)) == len(rows)
    moved = (
        images[2].keypoints[matches.current_indices]
        - images[1].keypoints[matches.reference_indices]
    )
    assert np.linalg.norm(moved, axis=1).max() < 100


@pytest.mark.parametrize("degrees", [(0, 0, 15), (0, 8, 12)], ids=["roll", "roll and pan"])
def test_a_known_turn_spares_lightglue(
    degrees: tuple[float, float, float],
    parts: tuple[Extractor, LightGlueMatcher],
    tum_images: Images,
) -> None:
    """Descriptors have changed; the place that the turn predicts tells the points apart."""
    extractor, lightglue = parts
    before = cv2.cvtColor(tum_images(0), cv2.COLOR_RGB2GRAY)
    turn = Turn(camera(), Rotation.from_rotvec(degrees, degrees=True).as_matrix())
    shifted = np.roll(turn.turned(before), 6, axis=1)  # what no turn explains
    first, second = extractor.extract(before), extractor.extract(shifted)
    matcher = PairMatcher(CONFIG, lightglue)
    matches = matcher.match(first, second, turn=turn)
    there = turn.carried(first.keypoints[matches.reference_indices]) + np.float32([6.0, 0.0])
    off = np.linalg.norm(second.keypoints[matches.current_indices] - there, axis=1)
    assert matches.matcher == "nearest"
    assert len(matches) > 150
    assert np.mean(off < 5.0) > 0.95
    wrong = Turn(camera(), Rotation.from_rotvec((0, -25, -40), degrees=True).as_matrix())
    assert matcher.match(first, second, turn=wrong).matcher == "lightglue"
