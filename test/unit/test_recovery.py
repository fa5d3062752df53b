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
from aliked_ros.frontend.keyframes import Keyframes
from aliked_ros.frontend.matcher import NearestMatcher
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.frontend.recovery import Recovery, smooth
from aliked_ros.frontend.verification import Verifier
from aliked_ros.types import (
    Features,
    Float32Array,
    FrameResult,
    Image,
    Keyframe,
    Tracks,
    UInt8Array,
    UInt64Array,
)

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
@pytest.mark.parametrize(("frames", "share"), [(5, 0.8), (30, 0.4)])
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
    assert len(pipeline.relocalize(tum_images(2))[1]) > 0
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


class Street:
    """200 points in depth on a textured picture that a camera saw from two places.

    Every keypoint of the second view has the id of the first, but the last 40, which were lost.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        grid = np.stack(np.meshgrid(np.arange(24, 620, 32), np.arange(24, 460, 40)), 2)
        self.before = rng.permutation(grid.reshape(-1, 2))[:200].astype(np.float32)
        depth = rng.uniform(0.9, 1.1, (200, 1)).astype(np.float32)
        self.after = self.before + depth * np.float32([6.0, 0.0])
        descriptors = rng.normal(size=(200, 128))
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        self.descriptors = descriptors.astype(np.float32)
        noise = rng.uniform(0, 255, (480, 640)).astype(np.uint8)
        self.picture = cv2.GaussianBlur(noise, (0, 0), 1.5)
        self.ids = np.arange(1, 201, dtype=np.uint64)

    def features(self, keypoints: Float32Array) -> Features:
        ones = np.ones(len(keypoints), np.float32)
        return Features(keypoints, ones, self.descriptors, 640, 480, "aliked-n16")

    def recover(self, after: Float32Array, ids: UInt64Array, patches: bool = True) -> UInt64Array:
        config = FrontendConfig(matcher="nearest")
        keyframes = Keyframes(config)
        tracks = Tracks(self.ids, np.ones(200, np.uint32), 0)
        picture = smooth(self.picture) if patches else None
        keyframes.add(Keyframe(0, 0.0, self.features(self.before), tracks, picture=picture))
        moved = np.float32([[1, 0, 6], [0, 1, 0]])
        now = smooth(cv2.warpAffine(self.picture, moved, (640, 480))) if patches else None
        recovery = Recovery(config, NearestMatcher(config), Verifier(config))
        return recovery.recover(self.features(after), ids, keyframes, None, False, now)


@pytest.fixture
def street() -> Street:
    return Street()


def test_what_was_lost_comes_back_where_the_motion_puts_it(street: Street) -> None:
    ids = street.ids.copy()
    ids[160:] = 0
    assert (street.recover(street.after, ids) == street.ids).mean() > 0.98


@pytest.mark.parametrize("shift", [(0.0, 4.0), (4.0, 0.0), (-4.0, 0.0)])
def test_a_neighbour_of_what_was_lost_does_not_get_its_id(
    street: Street, shift: tuple[float, float]
) -> None:
    """It looks the same and is near: off the epipolar line, or on it and on another patch."""
    ids, after = street.ids.copy(), street.after.copy()
    ids[160:] = 0
    after[160:180] += np.float32(shift)
    found = street.recover(after, ids)
    assert (found[160:180] == 0).all()
    assert (found[180:] == street.ids[180:]).mean() > 0.9


def test_a_track_that_contradicts_its_keyframe_ends(street: Street) -> None:
    """A wrong recovery that the next image goes on with; and a plane does not end good tracks."""
    depth = np.random.default_rng(1).uniform(0.5, 2.0, 200)
    after = street.before + np.float32([6.0, 3.0]) * depth[:, None].astype(np.float32)
    after[:10] += np.float32([[2.0, -4.0], [-2.0, 4.0]] * 5)
    found = street.recover(after, street.ids.copy(), patches=False)
    assert (found[:10] == 0).all()
    np.testing.assert_array_equal(found[10:], street.ids[10:])
    street.after = street.before + np.float32([6.0, 3.0])
    np.testing.assert_array_equal(
        street.recover(street.after, street.ids.copy(), patches=False), street.ids
    )


def test_flow_finds_what_is_not_detected_again(street: Street) -> None:
    """Where the patch is, whatever the neighbours; not behind somebody, and not what has ended."""
    config = FrontendConfig(matcher="nearest")
    keyframes = Keyframes(config)
    tracks = Tracks(street.ids, np.ones(200, np.uint32), 0)
    picture = smooth(street.picture)
    keyframes.add(Keyframe(0, 0.0, street.features(street.before), tracks, picture=picture))
    now = cv2.warpAffine(street.picture, np.float32([[1, 0, 6], [0, 1, 0]]), (640, 480))
    now[:, :200] = 90
    ended = street.ids[190:]
    recovery = Recovery(config, NearestMatcher(config), Verifier(config))
    (found,) = recovery.follow(
        street.ids[:160], street.after[:160], keyframes, None, smooth(now), ended
    )
    assert found.keyframe.index == 0
    free = np.flatnonzero(street.before[160:190, 0] > 230) + 160
    assert np.isin(free, found.rows).mean() > 0.9
    assert (street.before[found.rows, 0] > 180).all()
    assert ((found.rows >= 160) & (found.rows < 190)).all()
    off = np.linalg.norm(found.points - street.before[found.rows] - [6.0, 0.0], axis=1)
    assert off.max() < 0.3
