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

"""The front-ends to compare with speak the pipeline's language, and do what their names say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from aliked_ros.configuration import FrontendConfig
from aliked_ros.evaluation.baselines import (
    CornerDetector,
    DescriptorFrontend,
    FlowFrontend,
    HammingMatcher,
    OrbDetector,
    RatioMatcher,
    SiftDetector,
    flow,
)
from aliked_ros.types import Image

CONFIG = FrontendConfig(max_keypoints=500)
FRONTENDS = {
    "orb": lambda: DescriptorFrontend(CONFIG, OrbDetector(500), HammingMatcher()),
    "sift": lambda: DescriptorFrontend(CONFIG, SiftDetector(500), RatioMatcher()),
    "flow": lambda: FlowFrontend(CONFIG),
}


def grey(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def test_orb_descriptors_are_unit_vectors_whose_cosine_is_the_hamming_distance(tum_images):
    pixels = tum_images(0)
    features = OrbDetector(300)(pixels)
    found, bits = cv2.ORB.create(nfeatures=300).detectAndCompute(grey(pixels), None)
    rows = np.argsort([-point.response for point in found], kind="stable")
    np.testing.assert_allclose(features.keypoints, [found[row].pt for row in rows])
    assert (np.diff(features.scores) <= 0).all()
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1.0, rtol=1e-6)
    distance = cv2.norm(bits[rows[0]], bits[rows[1]], cv2.NORM_HAMMING)
    cosine = features.descriptors[0] @ features.descriptors[1]
    np.testing.assert_allclose(cosine, 1 - distance / 128, atol=1e-6)


def test_orb_matches_are_opencvs_cross_checked_ones(tum_images):
    first, second = (OrbDetector(400)(tum_images(i)) for i in (0, 5))
    matches = HammingMatcher().match(first, second)
    bits = [np.packbits(one.descriptors > 0, axis=1) for one in (first, second)]
    theirs = {
        (m.queryIdx, m.trainIdx): m.distance
        for m in cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(*bits)
    }
    ours = set(zip(*(r.tolist() for r in rows_of(matches)), strict=True))
    assert len(ours) > 100
    assert sum(theirs.get(pair, 999) < 64 for pair in ours) >= 0.99 * len(ours)  # ties
    assert len(ours) >= 0.95 * sum(distance < 64 for distance in theirs.values())


def test_sift_matches_are_those_of_opencvs_ratio_test(tum_images):
    images = [grey(tum_images(i)) for i in (0, 5)]
    features = [SiftDetector(400)(image) for image in images]
    np.testing.assert_allclose(np.linalg.norm(features[0].descriptors, axis=1), 1.0, rtol=1e-5)
    matches = RatioMatcher().match(*features)
    ours = set(zip(*(r.tolist() for r in rows_of(matches)), strict=True))
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    forward = matcher.knnMatch(features[0].descriptors, features[1].descriptors, k=2)
    backward = {
        m.queryIdx: m.trainIdx for m in matcher.match(*(f.descriptors for f in features[::-1]))
    }
    theirs = {
        (a.queryIdx, a.trainIdx) for a, b in forward
        if a.distance < 0.8 * b.distance and backward[a.trainIdx] == a.queryIdx
    }  # fmt: skip
    assert len(ours) > 100
    assert len(ours & theirs) >= 0.99 * len(ours | theirs)


def rows_of(matches):
    return matches.reference_indices, matches.current_indices


def test_flow_arrives_where_the_image_was_shifted_to(tum_images):
    image = grey(tum_images(0))
    shifted = np.roll(image, (4, -7), axis=(0, 1))
    corners = CornerDetector(300)(image)
    assert len(corners) > 100
    assert corners.descriptors.shape == (len(corners), 0)
    apart = np.linalg.norm(corners.keypoints[:, None] - corners.keypoints, axis=2)
    assert apart[~np.eye(len(corners), dtype=bool)].min() >= 0.5 * np.sqrt(640 * 480 / 300) - 1e-3
    arrived, found = flow(image, shifted, corners.keypoints)
    assert found.mean() > 0.9
    error = np.linalg.norm(arrived - corners.keypoints - [-7, 4], axis=1)[found]
    assert np.median(error) < 0.05
    assert not flow(image, np.zeros_like(image), corners.keypoints)[1].any()


@pytest.mark.parametrize("name", FRONTENDS)
def test_tracks_depth_and_disparity(tum_images, name):
    frontend = FRONTENDS[name]()
    pixels = tum_images(0)
    depth = np.full(pixels.shape[:2], 2.0, np.float32)
    right = np.roll(pixels, -10, axis=1)
    first = frontend.process(Image(pixels, 0.0, right=right, depth=depth))
    second = frontend.process(Image(tum_images(1), 0.1))
    assert np.isin(second.tracks.ids, first.tracks.ids).mean() > 0.4
    assert len(np.unique(second.tracks.ids)) == len(second.tracks.ids) == len(second.features)
    assert (np.diff(second.features.scores) <= 0).all()
    assert (first.depth == 2.0).all()
    disparity = first.features.keypoints[:, 0] - first.right_x
    assert abs(np.nanmedian(disparity) - 10.0) < 0.1
    assert (second.right_x, second.depth, second.normalized) == (None, None, None)
    rows, now = rows_of(second.matches)
    kept = second.matches.inliers
    np.testing.assert_array_equal(first.tracks.ids[rows[kept]], second.tracks.ids[now[kept]])
    again = frontend.process(Image(tum_images(2)[:320], 0.2))
    assert again.tracks.epoch == 1, "images of another size begin anew"
    assert (again.index, again.reference_index, len(again.matches)) == (2, None, 0)


def test_flow_follows_the_scene_and_fills_the_room(tum_images):
    """Tracks of ten images agree with one epipolar geometry; points keep their distance."""
    frontend = FRONTENDS["flow"]()
    results = [frontend.process(Image(tum_images(i), i / 30)) for i in range(10)]
    first, last = results[0], results[-1]
    _, rows, columns = np.intersect1d(first.tracks.ids, last.tracks.ids, return_indices=True)
    assert len(rows) > 150
    assert (last.tracks.lengths[columns] == 10).all()
    _, inliers = cv2.findFundamentalMat(
        first.features.keypoints[rows], last.features.keypoints[columns], cv2.USAC_MAGSAC, 2.0
    )
    assert inliers.mean() > 0.9
    assert min(len(result.features) for result in results) > 0.8 * max(map(len_of, results))
    assert max(map(len_of, results)) <= 500


def len_of(result):
    return len(result.features)


@pytest.mark.parametrize("name", FRONTENDS)
def test_where_the_mask_is_zero_nothing_is_found(tum_images, name):
    frontend = FRONTENDS[name]()
    mask = np.full((480, 640), 255, np.uint8)
    frontend.process(Image(tum_images(0), 0.0))
    mask[:, :320] = 0
    result = frontend.process(Image(tum_images(1), 0.1, mask))
    assert len(result.features) > 30
    assert result.features.keypoints[:, 0].min() > 318


@pytest.mark.parametrize("name", FRONTENDS)
def test_an_image_that_shows_nothing_has_no_features(tum_images, name):
    frontend = FRONTENDS[name]()
    dark = np.zeros((480, 640), np.uint8)
    for pixels in (dark, dark, tum_images(0), dark):
        result = frontend.process(Image(pixels, right=pixels))
    assert len(result.features) == len(result.tracks.ids) == len(result.right_x) == 0
    assert result.features.descriptors.shape[0] == 0
