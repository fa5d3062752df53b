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

"""Images that are turned against each other by quarters: found, and their keypoints in place."""

from __future__ import annotations

import numpy as np
import pytest

from aliked_ros import Features, FrontendConfig, Pipeline
from aliked_ros.frontend.quarter_turns import as_turned, best_turn, turn_pixels, turn_points
from aliked_ros.sources.virtual import VirtualCamera
from aliked_ros.types import Image


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_points_stay_on_their_pixels(turns: int) -> None:
    pixels = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7)
    rows, columns = np.indices(pixels.shape).reshape(2, -1)
    points = np.column_stack([columns, rows]).astype(np.float32)
    turned = turn_pixels(pixels, turns)
    x, y = turn_points(points, turns, 7, 5).astype(int).T
    np.testing.assert_array_equal(turned[y, x], pixels[rows, columns])
    back = turn_points(turn_points(points, turns, 7, 5), -turns, *turned.shape[::-1])
    np.testing.assert_array_equal(back, points)


def test_features_as_the_network_saw_them() -> None:
    points = np.array([[0, 0], [6, 4]], np.float32)
    features = Features(points, points[0], np.ones((2, 1), np.float32), 7, 5, "aliked-n16", turns=1)
    seen = as_turned(features)
    assert (seen.width, seen.height, seen.turns) == (5, 7, 0)
    np.testing.assert_array_equal(seen.keypoints, [[0, 6], [4, 0]])


@pytest.mark.parametrize(
    ("inliers", "chosen"),
    [((410, 0, 0, 0), 0), ((150, 10, 300, 90), 2), ((20, 32, 30, 10), 0), ((60, 55, 10, 0), 0)],
)
def test_a_turn_is_chosen_where_only_that_matches_clearly(inliers, chosen: int) -> None:
    tried = []
    points = np.zeros((1000, 2), np.float32)
    features = Features(points, points[:, 0], points, 640, 480, "aliked-n16")

    def attempt(turns: int) -> tuple[Features, int]:
        tried.append(turns)
        return features, turns

    assert best_turn(attempt, lambda turns: inliers[turns]) == (features, chosen)
    assert len(tried) == (1 if inliers[0] >= 400 else 4)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """After one image of the virtual camera."""
    pipeline = Pipeline(FrontendConfig(max_keypoints=400))
    pipeline.process(Image(VirtualCamera(noise=0.5).render(0).pixels))
    return pipeline


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_camera_on_its_side_is_relocalised(pipeline: Pipeline, turns: int) -> None:
    later = VirtualCamera(noise=0.5).render(20).pixels
    features, candidates = pipeline.relocalize(turn_pixels(later, turns))
    assert features.turns == 4 - turns
    height, width = later.shape[:2]
    assert (features.width, features.height) == ((width, height), (height, width))[turns % 2]
    (best,) = candidates
    assert best.inliers > 100
    matches = best.matches.verified()
    first = best.keyframe.features.keypoints[matches.reference_indices]
    moved = (
        VirtualCamera().homography_between(0, 20) @ np.column_stack([first, np.ones(len(first))]).T
    )
    expected = turn_points((moved[:2] / moved[2]).T.astype(np.float32), turns, width, height)
    error = np.linalg.norm(features.keypoints[matches.current_indices] - expected, axis=1)
    assert np.median(error) < 1.0


def test_a_mask_is_turned_with_its_image(pipeline: Pipeline) -> None:
    pixels = VirtualCamera(noise=0.5).render(0).pixels
    mask = np.zeros(pixels.shape[:2], np.uint8)
    mask[:, :200] = 255
    features = pipeline.extract(pixels, mask, turns=1)
    assert len(features) > 50
    assert features.keypoints[:, 0].max() < 203.0
