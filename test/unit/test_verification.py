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

"""Verification on real images: outliers go, and no kind of motion ends the tracks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.extractor import Extractor, create_extractor
from aliked_ros.frontend.matcher import NearestMatcher
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.frontend.verification import MIN_MATCHES, TwoViews, Verifier
from aliked_ros.types import Features, Image, Matches, UInt8Array
from helpers.parity import Reference

CONFIG = FrontendConfig(matcher="nearest", max_keypoints=600)


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return create_extractor(CONFIG)


@pytest.fixture(scope="module")
def fr1_camera(shared: Path) -> CameraModel:
    calibration = json.loads((shared / "data" / "tum_fr1_xyz" / "calib.json").read_text())
    return CameraModel.from_calibration(calibration)


def match(a: Features, b: Features) -> Matches:
    return NearestMatcher(CONFIG).match(a, b)


def test_general_motion_drops_outliers(
    extractor: Extractor, tum_images: Callable[[int], UInt8Array], fr1_camera: CameraModel
) -> None:
    """A fifth of the matches is wired wrongly; nearly all of it, and little else, is rejected."""
    first, second = extractor.extract(tum_images(0)), extractor.extract(tum_images(30))
    matches = match(first, second)
    clean = Verifier(CONFIG).verify(first, second, matches)
    assert clean.geometry == "epipolar"
    assert clean.inliers is not None
    assert clean.inliers.mean() > 0.7

    spoiled = matches.current_indices.copy()
    wrong = np.arange(0, len(matches), 5)
    spoiled[wrong] = np.roll(spoiled[wrong], len(wrong) // 2)
    for camera in (None, fr1_camera):
        verified = Verifier(CONFIG).verify(
            first, second, replace(matches, current_indices=spoiled), camera
        )
        assert verified.inliers is not None
        # by chance some lie near their epipolar line: 1 to 12 %, which processor computes matters
        assert verified.inliers[wrong].mean() < 0.2
        kept = clean.inliers.copy()
        kept[wrong] = False
        assert verified.inliers[kept].mean() > 0.9


def test_essential_geometry_of_a_calibrated_camera(
    extractor: Extractor, tum_images: Callable[[int], UInt8Array], fr1_camera: CameraModel
) -> None:
    """Its inliers are one rigid motion's; without a camera it is the fundamental geometry."""
    first, second = extractor.extract(tum_images(0)), extractor.extract(tum_images(30))
    matches = match(first, second)
    rays = (fr1_camera.normalize(first.keypoints), fr1_camera.normalize(second.keypoints))
    config = replace(CONFIG, verification="essential")
    fundamental = Verifier(CONFIG).verify(first, second, matches, fr1_camera)
    essential = Verifier(config).verify(first, second, matches, fr1_camera, rays)
    assert essential.geometry == "epipolar"
    assert essential.inliers is not None
    assert fundamental.inliers is not None
    assert essential.inliers.sum() > 0.9 * fundamental.inliers.sum()
    assert not np.array_equal(essential.inliers, fundamental.inliers)
    before, after = (
        r[i][essential.inliers].astype(np.float64)
        for r, i in zip(rays, (matches.reference_indices, matches.current_indices), strict=True)
    )
    _, _, _, in_front = cv2.recoverPose(
        cv2.findEssentialMat(before, after, np.eye(3))[0], before, after, np.eye(3)
    )
    assert (in_front > 0).mean() > 0.9

    without_rays = Verifier(config).verify(first, second, matches, fr1_camera)
    np.testing.assert_array_equal(without_rays.inliers, essential.inliers)
    uncalibrated = Verifier(config).verify(first, second, matches)
    np.testing.assert_array_equal(
        uncalibrated.inliers, Verifier(CONFIG).verify(first, second, matches).inliers
    )


def test_rays_without_a_direction_are_outliers(
    extractor: Extractor, tum_images: Callable[[int], UInt8Array], fr1_camera: CameraModel
) -> None:
    first, second = extractor.extract(tum_images(0)), extractor.extract(tum_images(30))
    matches = match(first, second)
    rays = (fr1_camera.normalize(first.keypoints), fr1_camera.normalize(second.keypoints))
    rays[1][matches.current_indices[:10]] = np.nan
    verified = Verifier(CONFIG).verify(first, second, matches, fr1_camera, rays)
    assert verified.inliers is not None
    assert not verified.inliers[:10].any()
    assert verified.inliers[10:].mean() > 0.7


def test_standing_still(extractor: Extractor, tum_images: Callable[[int], UInt8Array]) -> None:
    """The same view with other noise: no parallax, no lost matches."""
    pixels = tum_images(3)
    noise = np.random.default_rng(0).normal(0, 3, pixels.shape)
    noisy = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    first, second = extractor.extract(pixels), extractor.extract(noisy)
    verified = Verifier(CONFIG).verify(first, second, match(first, second))
    assert verified.geometry == "still"
    assert verified.inliers is not None
    assert verified.inliers.mean() > 0.9


def test_turning_camera(extractor: Extractor, tum_images: Callable[[int], UInt8Array]) -> None:
    """Three degrees of pure rotation, made exactly by its homography."""
    matrix = np.array([[517.0, 0, 320], [0, 517, 240], [0, 0, 1]])
    rotation, _ = cv2.Rodrigues(np.radians([1.0, 3.0, 2.0]))
    pixels = tum_images(3)
    turned = cv2.warpPerspective(
        pixels, matrix @ rotation @ np.linalg.inv(matrix), (640, 480), borderMode=cv2.BORDER_REFLECT
    )
    first, second = extractor.extract(pixels), extractor.extract(turned)
    verified = Verifier(CONFIG).verify(first, second, match(first, second))
    assert verified.geometry == "homography"
    assert verified.inliers is not None
    assert verified.inliers.mean() > 0.85


def test_plane(extractor: Extractor, reference: Reference, shared: Path) -> None:
    """Graffiti, a flat wall: what is kept lies on the published homography."""
    first, second = (extractor.extract(reference.pixels(name)) for name in ("graf_1", "graf_3"))
    matches = match(first, second)
    verified = Verifier(CONFIG).verify(first, second, matches)
    assert verified.inliers is not None
    truth = np.loadtxt(shared / "data" / "oxford_affine" / "graf" / "H_1_3.txt")
    points = first.keypoints[matches.reference_indices].reshape(-1, 1, 2)
    expected = cv2.perspectiveTransform(points, truth)[:, 0]
    error = np.linalg.norm(expected - second.keypoints[matches.current_indices], axis=1)
    assert np.count_nonzero(verified.inliers & (error < 5)) > 0.95 * np.count_nonzero(error < 3)
    assert (error[verified.inliers] < 5).mean() > (error < 5).mean()


@pytest.mark.parametrize("count", [0, 1, MIN_MATCHES - 1])
def test_too_few_matches_are_not_judged(extractor: Extractor, count: int) -> None:
    features = extractor.extract(np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8))
    rows = np.arange(count, dtype=np.uint32)
    verified = Verifier(CONFIG).verify(
        features, features, Matches(rows, rows, np.ones(count, np.float32))
    )
    assert verified.inliers is None
    assert verified.geometry == "unverified"


@pytest.mark.parametrize("count", [MIN_MATCHES, 40, 200])
def test_random_matches_are_outliers(
    extractor: Extractor, tum_images: Callable[[int], UInt8Array], count: int
) -> None:
    """Nonsense has no motion; it must not come out as a handful of lucky inliers.

    (Of 40 random matches 14 agree once in 400 times.)
    """
    first, second = extractor.extract(tum_images(0)), extractor.extract(tum_images(60))
    lucky = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = [rng.permutation(600)[:count].astype(np.uint32) for _ in range(2)]
        matches = Matches(*rows, np.ones(count, np.float32))
        verified = Verifier(CONFIG).verify(first, second, matches)
        assert verified.inliers is not None
        assert verified.inliers.any() == (verified.geometry != "unverified")
        lucky += bool(verified.inliers.any())
    assert lucky <= 1


def test_pipeline_ends_the_tracks_of_outliers_only(
    tum_images: Callable[[int], UInt8Array], fr1_camera: CameraModel
) -> None:
    # recovered, an outlier of the image before may be an inlier of a keyframe
    pipeline = Pipeline(replace(CONFIG, recover_tracks=False))
    pipeline.camera = fr1_camera
    results = [pipeline.process(Image(tum_images(i), i / 30)) for i in range(4)]
    for before, now in pairwise(results):
        matches = now.matches
        assert matches.inliers is not None
        same = (
            before.tracks.ids[matches.reference_indices] == now.tracks.ids[matches.current_indices]
        )
        np.testing.assert_array_equal(same, matches.inliers)
        assert now.normalized is not None
        pixels = pipeline.camera.project(now.normalized)
        np.testing.assert_allclose(pixels, now.features.keypoints, atol=0.05)
    other = pipeline.process(Image(tum_images(4)[:400], 1.0))
    assert other.normalized is None, "the camera model is for another size"
    pipeline.close()


def _two_images(noise: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """600 points in depth, spread over a VGA image, seen before and after a move forward, aside."""
    rng = np.random.default_rng(0)
    rays = np.column_stack([rng.uniform((-320, -240), (320, 240), (600, 2)) / 500, np.ones(600)])
    points = rays * rng.uniform(1.0, 4.0, (600, 1))
    moved = points - (0.1, 0.02, 0.1)
    before, after = (500 * p[:, :2] / p[:, 2:] for p in (points, moved))
    return before, after + rng.normal(0, noise, after.shape)


def test_an_unlikely_match_has_to_agree_better() -> None:
    """1.5 pixels off its line, within the threshold of 2: a sure match stays, another goes."""
    before, after = _two_images(0.1)
    x, y = (after[:40] - (500.0, 100.0)).T  # from the epipole
    after[:40] += 1.5 * np.column_stack([-y, x]) / np.hypot(x, y)[:, None]
    scores = np.ones(600, np.float32)
    scores[20:40] = 0.3
    rows = np.arange(600, dtype=np.uint32)
    first, second = (
        Features(
            (p + np.array([320, 240])).astype(np.float32),
            scores,
            np.ones((600, 1), np.float32),
            640,
            480,
            "",
        )
        for p in (before, after)
    )
    verified = Verifier(CONFIG).verify(
        first, second, Matches(rows, rows, scores, matcher="lightglue")
    )
    assert verified.inliers is not None
    assert verified.inliers[:20].mean() > 0.9
    assert verified.inliers[20:40].mean() < 0.1
    assert verified.inliers[40:].mean() > 0.95


def test_lines_are_known_less_well_far_from_the_points() -> None:
    """Fitted to some points on the right: how much larger errors on the left may be is known."""
    before, after = _two_images(0.5)
    right = before[:, 0] > 0
    some = np.flatnonzero(right)[::8]
    views = TwoViews.of(before[some], after[some], 2.0)
    errors, widening = (f(before, after) for f in (views.errors, views.widening))
    assert np.median(widening[~right]) > 1.5 * np.median(widening[right])
    assert np.mean(errors[~right] < 1.0) < 0.85  # two standard deviations
    assert np.mean(errors[~right] < widening[~right]) > 0.9
