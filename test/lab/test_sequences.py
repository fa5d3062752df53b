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

from pathlib import Path

import numpy as np
import pytest

from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.frontend.verification import MIN_MATCHES
from aliked_ros.sources import open_source


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
