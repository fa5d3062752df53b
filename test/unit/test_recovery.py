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

"""Lost tracks get their ids back: after darkness, behind somebody, and only where they belong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.types import FrameResult, Image, UInt8Array, UInt64Array

Images = Callable[[int], UInt8Array]
BLACK = np.zeros((480, 640, 3), np.uint8)


@pytest.fixture(params=["nearest", "adaptive", "lightglue"])
def pipeline(request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    pipeline = Pipeline(FrontendConfig(max_keypoints=512, matcher=request.param))
    yield pipeline
    pipeline.close()


def _alive(result: FrameResult) -> UInt64Array:
    return result.tracks.ids[result.tracks.lengths > 1]


def _back(alive: UInt64Array, result: FrameResult) -> float:
    """Share of tracks that are in an image, after checking that no id occurs twice in it."""
    assert len(np.unique(result.tracks.ids)) == len(result.tracks.ids)
    return float(np.isin(alive, result.tracks.ids).mean())


@pytest.mark.long
@pytest.mark.parametrize(("frames", "share"), [(5, 0.6), (30, 0.4)])
def test_after_a_blackout(
    pipeline: Pipeline, tum_images: Images, frames: int, share: float
) -> None:
    """fr1_xyz, the images 30 to 30 + frames black; 30 images are a second."""
    for i in range(25, 30):
        before = pipeline.process(Image(tum_images(i), i / 30))
    alive = _alive(before)
    assert len(alive) > 300
    for i in range(30, 30 + frames):
        dark = pipeline.process(Image(BLACK, i / 30))
        assert _back(alive, dark) == 0.0
        assert not dark.is_keyframe
    after = pipeline.process(Image(tum_images(30 + frames), (30 + frames) / 30))
    assert _back(alive, after) >= share
    assert after.tracks.recovered is not None
    same = np.isin(after.tracks.ids, alive)
    assert after.tracks.recovered[same].all()
    assert after.tracks.lengths[same].min() >= 3  # two images before, and this one

    _, rows, columns = np.intersect1d(before.tracks.ids, after.tracks.ids, return_indices=True)
    _, inliers = cv2.findFundamentalMat(
        before.features.keypoints[rows], after.features.keypoints[columns], cv2.USAC_MAGSAC, 2.0
    )
    assert inliers.mean() > 0.9


@pytest.mark.parametrize("model", ["aliked-n16", "aliked-n16rot", "aliked-t16"])
def test_after_a_dark_noisy_time(tum_images: Images, model: str) -> None:
    """What a sensor gives in darkness is no view: it takes no keyframe's place."""
    rng = np.random.default_rng(0)
    pipeline = Pipeline(FrontendConfig(model=model, max_keypoints=512, matcher="nearest"))
    for i in range(5):
        before = pipeline.process(Image(tum_images(i), i / 30))
    for i in range(5, 10):
        noise = rng.normal(6, 2.5, (480, 640, 3)).clip(0).astype(np.uint8)
        assert not pipeline.process(Image(noise, i / 30)).is_keyframe
    after = pipeline.process(Image(tum_images(10), 10 / 30))
    assert _back(_alive(before), after) > 0.6
    pipeline.close()


def test_behind_somebody(tum_images: Images) -> None:
    """A third of the image is covered for four images; what was there comes back."""
    pipeline = Pipeline(FrontendConfig(max_keypoints=512, matcher="nearest"))
    for i in range(40, 46):
        before = pipeline.process(Image(tum_images(i), i / 30))
    hidden = before.features.keypoints[:, 0] < 213
    behind = before.tracks.ids[hidden & (before.tracks.lengths > 2)]
    assert len(behind) > 50
    for i in range(46, 50):
        covered = tum_images(i).copy()
        covered[:, :213] = 90
        pipeline.process(Image(covered, i / 30))
    for i in range(50, 53):
        after = pipeline.process(Image(tum_images(i), i / 30))
    assert _back(behind, after) > 0.6
    pipeline.close()


def test_another_place_brings_nothing_back(tum_images: Images, shared_kitti: Images) -> None:
    """Ids do not come back in images of another scene."""
    pipeline = Pipeline(FrontendConfig(max_keypoints=512, matcher="nearest"))
    for i in range(5):
        pipeline.process(Image(tum_images(i), i / 30))
    for i in range(5):
        there = pipeline.process(Image(shared_kitti(i), 1 + i / 30))
        assert there.tracks.recovered is None or there.matches.geometry != "unverified"
        assert there.tracks.epoch == 0
        assert (there.tracks.lengths <= 1 + i).all()
    pipeline.close()


@pytest.mark.parametrize("settings", [{"verification": "none"}, {"max_keypoints": 40}])
def test_whatever_the_settings(tum_images: Images, settings: dict[str, Any]) -> None:
    """Keyframes are verified even where consecutive images are not, and may be small."""
    config = replace(FrontendConfig(max_keypoints=300, matcher="nearest"), **settings)
    pipeline = Pipeline(config)
    for i, pixels in enumerate([tum_images(0), tum_images(1), BLACK, tum_images(2)]):
        result = pipeline.process(Image(pixels, i / 30))
        if i == 1:
            alive = _alive(result)
    assert _back(alive, result) > 0.5
    assert len(pipeline.relocalize(result.features)) > 0
    pipeline.close()


def test_can_be_switched_off(tum_images: Images) -> None:
    pipeline = Pipeline(FrontendConfig(max_keypoints=300, matcher="nearest", recover_tracks=False))
    results = [
        pipeline.process(Image(pixels, i / 30))
        for i, pixels in enumerate([tum_images(0), tum_images(1), BLACK, tum_images(2)])
    ]
    assert all(result.tracks.recovered is None for result in results)
    assert _back(_alive(results[1]), results[3]) == 0.0
    pipeline.close()
