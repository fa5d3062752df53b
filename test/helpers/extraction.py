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

"""What every backend's extraction must do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.extractor import create_extractor
from aliked_ros.types import Features, UInt8Array


def assert_threshold_and_top_k(backend: str, pixels: UInt8Array) -> None:
    """Both hold together: the threshold alone decides where it keeps fewer than top-k."""

    def count(**settings: float) -> int:
        config = FrontendConfig(backend=backend, **settings)
        return len(create_extractor(config).extract(pixels))

    everything = count(max_keypoints=8192)
    strong = count(max_keypoints=8192, score_threshold=0.2)
    assert 500 < strong < everything
    assert count(max_keypoints=500, score_threshold=0.2) == 500
    assert count(max_keypoints=1000, score_threshold=0.999) < 100


def assert_grid_spreads(backend: str, pixels: UInt8Array) -> None:
    """Every one of 8×6 cells that has maxima keeps some; the K keypoints stay best first."""
    config = FrontendConfig(
        max_keypoints=300, backend=backend, precision="float32", matcher="nearest"
    )

    def in_cells(features: Features) -> np.ndarray:
        x, y = features.keypoints.T
        cells, _, _ = np.histogram2d(y, x, bins=(6, 8), range=((0, 480), (0, 640)))
        return cells

    best = create_extractor(config).extract(pixels)
    spread = create_extractor(replace(config, grid=8)).extract(pixels)
    assert len(best) == len(spread) == 300
    assert in_cells(spread).min() >= 1
    assert in_cells(spread).max() < in_cells(best).max()
    assert np.percentile(spread.scores[:50], 50) > np.percentile(spread.scores[-50:], 50)
