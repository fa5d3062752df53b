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

"""Whole sequences that are hard: every image keeps its connection to the one before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.frontend.extractor import create_extractor
from aliked_ros.frontend.matcher import create_matcher
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.frontend.verification import MIN_MATCHES
from aliked_ros.sources import open_source
from aliked_ros.types import UInt8Array


@pytest.mark.long
@pytest.mark.parametrize("matcher", ["nearest", "adaptive"])
def test_motion_blur(shared: Path, matcher: str) -> None:
    """A hand-held RealSense: blur, little light; no pair of images without verified matches."""
    pipeline = Pipeline(FrontendConfig(max_keypoints=512, matcher=matcher))
    verified, tracked = [], []
    for image in open_source(str(shared / "data" / "realsense_desk" / "rgb")):
        result = pipeline.process(image)
        inliers = result.matches.inliers
        verified.append(0 if inliers is None else int(inliers.sum()))
        tracked.append((result.tracks.lengths > 1).mean())
    pipeline.close()
    assert len(verified) >= 40
    assert min(verified[1:]) >= 10 * MIN_MATCHES
    assert np.median(tracked[1:]) > 0.6


def test_bfloat16_loses_no_verified_matches(tum_images: Callable[[int], UInt8Array]) -> None:
    """Epipolar inliers of the whole chain, over pairs five images apart: within 1 %."""

    def inliers(precision: str) -> int:
        config = FrontendConfig(precision=precision)
        extractor, matcher = create_extractor(config), create_matcher(config)
        count = 0
        for i in range(0, 100, 20):
            a, b = extractor.extract(tum_images(i)), extractor.extract(tum_images(i + 5))
            matches = matcher.match(a, b)
            _, good = cv2.findFundamentalMat(
                a.keypoints[matches.reference_indices],
                b.keypoints[matches.current_indices],
                cv2.USAC_MAGSAC,
                2.0,
            )
            count += int(good.sum())
        return count

    try:
        found = inliers("bfloat16")
    except BackendError as error:
        pytest.skip(str(error))
    expected = inliers("float32")
    assert expected > 2000
    assert found >= 0.99 * expected, (found, expected)
