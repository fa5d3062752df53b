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

"""Stereo matching against true disparities, an independent tracker and the vehicle's own path."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ImageError
from aliked_ros.frontend.extractor import Extractor, create_extractor
from aliked_ros.frontend.matcher import NearestMatcher
from aliked_ros.frontend.stereo import StereoMatcher, depth_from_disparity
from aliked_ros.sources import open_source
from aliked_ros.types import Features, Float32Array, UInt8Array
from helpers.data import read_rgb

CONFIG = FrontendConfig(matcher="nearest")
FACTORS = {"teddy": 4, "tsukuba": 16}  # of the disparity images


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return create_extractor(CONFIG)


def match(
    extractor: Extractor, left: UInt8Array, right: UInt8Array, config: FrontendConfig = CONFIG
) -> tuple[Features, Float32Array]:
    features = extractor.extract(left)
    right_x = StereoMatcher(config).match(features, extractor.extract(right), left, right)
    assert right_x.dtype == np.float32
    assert right_x.shape == (len(features),)
    return features, right_x


@pytest.fixture(scope="module")
def teddy(shared: Path) -> tuple[UInt8Array, UInt8Array]:
    folder = shared / "data" / "middlebury" / "teddy"
    return read_rgb(folder / "im2.png"), read_rgb(folder / "im6.png")


@pytest.mark.parametrize("scene", FACTORS)
def test_true_disparity(extractor: Extractor, shared: Path, scene: str) -> None:
    folder = shared / "data" / "middlebury" / scene
    left, right_x = match(extractor, *(read_rgb(folder / name) for name in ("im2.png", "im6.png")))
    stored = cv2.imread(str(folder / "disp2.png"), cv2.IMREAD_GRAYSCALE)
    column, row = np.rint(left.keypoints).astype(int).T
    truth = stored[row, column] / FACTORS[scene]
    judged = np.isfinite(right_x) & (stored[row, column] > 0)
    error = np.abs(left.keypoints[:, 0] - right_x - truth)[judged]
    print(
        f"{scene}: {np.isfinite(right_x).sum()} of {len(left)} keypoints, {len(error)} with truth"
    )
    print(f"  {(error <= 1).mean():.1%} within 1 px, median error {np.median(error):.2f} px")
    assert len(error) > 550
    assert (error <= 1.0).mean() >= 0.9


def test_rectified_road_scene(extractor: Extractor, shared: Path) -> None:
    """KITTI: a pyramid tracker that may move points up and down finds them in the same row."""
    pairs = open_source(str(shared / "data" / "kitti_00_first40"), 40, "right")
    found, across, along = [], [], []
    for index, pair in enumerate(pairs):
        if index % 13:
            continue
        assert pair.right is not None
        left, right_x = match(extractor, pair.pixels, pair.right)
        known = np.isfinite(right_x)
        points = left.keypoints[known]
        start = np.stack([right_x[known], points[:, 1]], axis=1)
        tracked, good, _ = cv2.calcOpticalFlowPyrLK(
            pair.pixels, pair.right, points, start.copy(), winSize=(9, 9), maxLevel=0,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        )  # fmt: skip
        difference = np.abs(tracked - start)[good.ravel() == 1]
        found.append(known.mean())
        along.append(difference[:, 0])
        across.append(difference[:, 1])
    dx, dy = (float(np.median(np.concatenate(d))) for d in (along, across))
    print(f"KITTI: {np.mean(found):.1%} of the keypoints; median |dy| {dy:.2f}, |dx| {dx:.2f} px")
    assert min(found) > 0.5
    assert dy <= 0.5
    assert dx <= 0.2


def test_depth_is_metric(extractor: Extractor, shared: Path) -> None:
    """KITTI: while the car drives on, the scene comes nearer by as much.

    Not from image 0: over the first ten images the published poses (GPS and inertial) are up to a
    fifth longer than what stereo sees at all depths alike.
    """
    folder = shared / "data" / "kitti_00_first40"
    calibration = json.loads((folder / "calib.json").read_text())
    pairs = list(open_source(str(folder), 16, "right"))
    seen = []
    for pair in (pairs[12], pairs[15]):
        assert pair.right is not None
        left, right_x = match(extractor, pair.pixels, pair.right)
        depth = depth_from_disparity(
            left.keypoints[:, 0], right_x, calibration["fx"], calibration["stereo_baseline_m"]
        )
        seen.append((left, depth))
    (before, depth_before), (after, depth_after) = seen
    matches = NearestMatcher(CONFIG).match(before, after)
    nearer = depth_before[matches.reference_indices] - depth_after[matches.current_indices]
    close = depth_before[matches.reference_indices] < 20.0
    assert np.count_nonzero(np.isfinite(nearer) & close) > 50
    poses = np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)
    driven = float(np.linalg.norm(poses[15, :, 3] - poses[12, :, 3]))
    assert np.nanmedian(nearer[close]) == pytest.approx(driven, rel=0.05)


def test_refinement_pays(extractor: Extractor, teddy: tuple[UInt8Array, UInt8Array]) -> None:
    """Right images moved by a third of a pixel move what is found by just that."""
    left, right = teddy
    shift = np.array([[1.0, 0.0, 1 / 3], [0.0, 1.0, 0.0]])
    moved = cv2.warpAffine(
        right, shift, right.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    _, before = match(extractor, left, right)
    _, after = match(extractor, left, np.asarray(moved, np.uint8))
    difference = (after - before)[np.isfinite(after) & np.isfinite(before)]
    assert len(difference) > 500
    assert np.median(difference) == pytest.approx(1 / 3, abs=0.05)
    assert np.percentile(np.abs(difference - 1 / 3), 90) < 0.15


def test_limits_hold(extractor: Extractor, teddy: tuple[UInt8Array, UInt8Array]) -> None:
    left, right = teddy
    config = FrontendConfig(matcher="nearest", max_disparity=30.0)
    features, right_x = match(extractor, left, right, config)
    disparity = features.keypoints[:, 0] - right_x
    assert 0.0 <= np.nanmin(disparity) <= np.nanmax(disparity) <= 30.0
    _, swapped = match(extractor, right, left)  # points would lie behind the cameras
    assert np.isfinite(swapped).mean() < 0.05

    matcher = StereoMatcher(config)
    matcher.reconfigure(CONFIG)
    wide = matcher.match(features, extractor.extract(right), left, right)
    assert np.nanmax(features.keypoints[:, 0] - wide) > 30.0


def test_grey_and_colour_mix(extractor: Extractor, teddy: tuple[UInt8Array, UInt8Array]) -> None:
    left, right = teddy
    grey = np.asarray(cv2.cvtColor(right, cv2.COLOR_RGB2GRAY), np.uint8)
    _, colour_x = match(extractor, left, right)
    _, mixed_x = match(extractor, left, grey)
    both = np.isfinite(colour_x) & np.isfinite(mixed_x)
    assert both.sum() > 0.75 * np.isfinite(colour_x).sum()
    assert np.median(np.abs(colour_x - mixed_x)[both]) < 0.05


def test_nothing_to_match(extractor: Extractor, teddy: tuple[UInt8Array, UInt8Array]) -> None:
    left, _ = teddy
    features, blank = extractor.extract(left), np.zeros_like(left)
    none = Features(np.zeros((0, 2), np.float32), np.zeros(0, np.float32),
                    np.zeros((0, 128), np.float32), 450, 375, "aliked-n16")  # fmt: skip
    matcher = StereoMatcher(CONFIG)
    assert np.isnan(matcher.match(features, none, left, blank)).all()
    assert matcher.match(none, features, blank, left).shape == (0,)
    assert np.isnan(matcher.match(features, features, left, blank)).all(), "a patch without texture"
    below = replace(features, keypoints=features.keypoints + np.float32(1000.0))
    assert np.isnan(matcher.match(features, below, left, blank)).all(), "no row in common"
    with pytest.raises(ImageError, match="450×375 pixels, the right one 450×300"):
        matcher.match(features, features, left, left[:300])


def test_depth_by_hand() -> None:
    x_left = np.array([50.0, 50.0, 50.0, 50.0], np.float32)
    right_x = np.array([40.0, 50.0, 60.0, np.nan], np.float32)
    depth = depth_from_disparity(x_left, right_x, focal=500.0, baseline=0.1)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [5.0, np.nan, np.nan, np.nan])
