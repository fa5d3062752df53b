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

"""Which images become keyframes, and how many are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.keyframes import Keyframes
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.types import Features, Image, Keyframe, Tracks, UInt8Array

COUNT = 100
CONFIG = FrontendConfig(keyframe_tracked=0.6, keyframe_parallax=20.0, keyframe_interval=2.0)


def _features(shift: float = 0.0, score: float = 0.5) -> Features:
    x = np.linspace(10, 600, COUNT, dtype=np.float32)
    return Features(
        np.column_stack([x + np.float32(shift), x / 2]).astype(np.float32),
        np.full(COUNT, score, np.float32),
        np.zeros((COUNT, 128), np.float32),
        640,
        480,
        "aliked-n16",
    )


def _ids(kept: int = COUNT) -> np.ndarray:
    """Ids of COUNT keypoints, of which the first ``kept`` continue the keyframe's tracks."""
    ids = np.arange(1, COUNT + 1, dtype=np.uint64)
    ids[kept:] = 0
    return ids


def _started(config: FrontendConfig = CONFIG) -> Keyframes:
    keyframes = Keyframes(config)
    tracks = Tracks(_ids(), np.ones(COUNT, np.uint32), 0)
    keyframes.add(Keyframe(0, 0.0, _features(), tracks))
    return keyframes


def test_the_first_image_that_shows_anything() -> None:
    keyframes = Keyframes(CONFIG)
    assert keyframes.reason(0.0, _features(score=0.01), np.zeros(COUNT, np.uint64)) == ""
    assert keyframes.reason(0.1, _features(), np.zeros(COUNT, np.uint64)) == "first"


@pytest.mark.parametrize(
    ("stamp", "shift", "kept", "expected"),
    [
        (0.1, 0.0, 80, ""),
        (0.1, 19.0, 80, ""),
        (0.1, 21.0, 80, "parallax"),
        (0.1, 0.0, 47, "tracks"),
        (0.1, 0.0, 49, ""),
        (0.1, 0.0, 0, "lost"),
        (1.9, 0.0, 80, ""),
        (2.0, 0.0, 80, "time"),
    ],
)
def test_reasons(stamp: float, shift: float, kept: int, expected: str) -> None:
    keyframes = _started()
    # 80 of the keyframe's 100 features can be followed: the share counts from there
    assert keyframes.reason(0.05, _features(), _ids(80)) == ""
    assert keyframes.reason(stamp, _features(shift), _ids(kept)) == expected


def test_zero_switches_parallax_and_time_off() -> None:
    keyframes = _started(replace(CONFIG, keyframe_parallax=0.0, keyframe_interval=0.0))
    assert keyframes.reason(1e6, _features(500.0), _ids()) == ""


def test_the_ring_keeps_the_newest() -> None:
    keyframes = Keyframes(replace(CONFIG, keyframe_count=3))
    tracks = Tracks(_ids(), np.ones(COUNT, np.uint32), 0)
    for index in range(5):
        keyframes.add(Keyframe(index, float(index), _features(), tracks))
    assert [k.index for k in keyframes] == [2, 3, 4]
    keyframes.reconfigure(replace(CONFIG, keyframe_count=2))
    assert [k.index for k in keyframes] == [3, 4]
    keyframes.clear()
    assert len(keyframes) == 0


def test_a_sequence_has_some(tum_images: Callable[[int], UInt8Array]) -> None:
    """fr1_xyz moves up to 10 pixels an image: a keyframe every few images, not at every one."""
    pipeline = Pipeline(FrontendConfig(max_keypoints=300, matcher="nearest"))
    results = [pipeline.process(Image(tum_images(i), i / 30)) for i in range(30)]
    chosen = [r.index for r in results if r.is_keyframe]
    assert chosen[0] == 0
    assert results[0].keyframe_reason == "first"
    assert 3 <= len(chosen) <= 10
    assert [k.index for k in pipeline.keyframes] == chosen
    pipeline.reset()
    assert pipeline.keyframes == []
    assert pipeline.process(Image(tum_images(30), 1.0)).keyframe_reason == "first"
    pipeline.close()
