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

"""PyTorch on the CPU against the arrays that the published implementations made, and against us."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest

from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.extractor import Extractor, create_extractor
from aliked_ros.frontend.matcher import create_matcher
from aliked_ros.types import Features, UInt8Array
from helpers.extraction import assert_grid_spreads, assert_threshold_and_top_k
from helpers.parity import (
    CASES,
    MODES,
    Reference,
    assert_features_agree,
    assert_matches_agree,
)


@lru_cache(maxsize=1)  # cases of one model follow each other
def _extractor(model: str) -> Extractor:
    return create_extractor(FrontendConfig(model=model, backend="torch", matcher="nearest"))


@pytest.mark.parametrize(("model", "image"), CASES)
def test_features(reference: Reference, model: str, image: str) -> None:
    found = _extractor(model).extract(reference.pixels(image))
    assert_features_agree(found, reference.features(model, image))


@pytest.mark.parametrize("mode", MODES)
def test_lightglue(reference: Reference, mode: str) -> None:
    depth, width = MODES[mode]
    settings = {"depth_confidence": depth, "width_confidence": width}
    matcher = create_matcher(FrontendConfig(backend="torch", **settings))
    assert_matches_agree(matcher.match, reference, mode)


def test_lightglue_with_unequal_and_few_points(reference: Reference) -> None:
    """Padding must not change what the points see: compare with PyTorch, which pads nothing."""
    first = reference.features("aliked-n16", "tum_0")
    second = reference.features("aliked-n16", "tum_30")
    settings = {"precision": "float32", "width_confidence": -1.0}
    ours = create_matcher(FrontendConfig(**settings))
    torch = create_matcher(FrontendConfig(backend="torch", width_confidence=-1.0))
    for counts in ((1000, 300), (7, 200), (1, 1), (0, 100)):
        a, b = (
            Features(f.keypoints[:n], f.scores[:n], f.descriptors[:n], f.width, f.height, f.model)
            for f, n in zip((first, second), counts, strict=True)
        )
        found, expected = ours.match(a, b), torch.match(a, b)
        assert found.reference_indices.tolist() == expected.reference_indices.tolist()
        assert found.current_indices.tolist() == expected.current_indices.tolist()
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)


def test_threshold_and_top_k(tum_images: Callable[[int], UInt8Array]) -> None:
    assert_threshold_and_top_k("torch", tum_images(0))


def test_grid_spreads_the_keypoints(tum_images: Callable[[int], UInt8Array]) -> None:
    assert_grid_spreads("torch", tum_images(0))
