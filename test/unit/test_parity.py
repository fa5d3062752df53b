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

"""Our networks against the arrays that the published implementations made."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from scipy.spatial import cKDTree

from aliked_ros.backends.cpu.backend import CpuExtractor, CpuLightGlue, _rounded
from aliked_ros.backends.cpu.kernels import Workers
from aliked_ros.backends.cpu.onnxruntime import OnnxRuntime
from aliked_ros.configuration import MODELS, FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.frontend.extractor import Extractor, create_extractor
from aliked_ros.frontend.matcher import create_matcher
from aliked_ros.models.graphs import AlikedGraphs, LightGlueGraphs
from aliked_ros.types import Features, Matches
from helpers.parity import (
    CASES,
    IMAGES,
    MODES,
    PAIRS,
    Reference,
    agreement,
    assert_features_agree,
    assert_matches_agree,
)


@lru_cache(maxsize=1)  # cases of one model follow each other
def _extractor(model: str, precision: str) -> Extractor:
    return create_extractor(
        FrontendConfig(model=model, backend="cpu", precision=precision, matcher="nearest")
    )


def test_every_reference_case_is_tested(reference: Reference) -> None:
    assert sorted(reference.cases()) == sorted(CASES)
    assert set(IMAGES) == set(MODELS)


@pytest.mark.parametrize(("model", "image"), CASES)
def test_features_float32(reference: Reference, model: str, image: str) -> None:
    found = _extractor(model, "float32").extract(reference.pixels(image))
    assert_features_agree(found, reference.features(model, image))


@pytest.mark.parametrize("model", MODELS)
def test_score_map(reference: Reference, model: str) -> None:
    from aliked_ros.backends.cpu.openvino import OpenVinoRuntime

    extractor = CpuExtractor(AlikedGraphs(model), OpenVinoRuntime(2), False, Workers(2))
    score_map, _, _ = extractor.encode(reference.pixels("tum_0"))
    expected = reference[f"{model}/tum_0/score_map"]
    assert np.abs(score_map - expected).max() < 1e-3  # kept in float16


def test_onnxruntime_features(reference: Reference) -> None:
    """The portable fallback gives the same features, at a size that needs padding too."""
    extractor = CpuExtractor(AlikedGraphs("aliked-n16"), OnnxRuntime(2), False, Workers(2))
    for image in ("tum_0", "kitti_0"):
        pixels = reference.pixels(image)
        arrays = extractor.extract(pixels, None, 1000, 0.0, 0)
        found = Features(*arrays, pixels.shape[1], pixels.shape[0], "aliked-n16")
        assert_features_agree(found, reference.features("aliked-n16", image))


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_equals_rgb_of_the_same_values(reference: Reference, channels: int) -> None:
    """KITTI's images are grey: both encoders must find the published features."""
    pixels = reference.pixels("kitti_0")
    pixels = np.ascontiguousarray(pixels[..., 0]) if channels == 1 else pixels
    found = _extractor("aliked-n16", "float32").extract(pixels)
    assert_features_agree(found, reference.features("aliked-n16", "kitti_0"))


def test_features_bfloat16(reference: Reference) -> None:
    try:
        extractor = _extractor("aliked-n16", "bfloat16")
    except BackendError as error:
        pytest.skip(str(error))
    shares = []
    for image in IMAGES["aliked-n16"]:
        expected = reference.features("aliked-n16", image)
        found = extractor.extract(reference.pixels(image))
        distance, row = cKDTree(found.keypoints).query(expected.keypoints)
        same = distance < 0.5
        shares.append(same.mean())
        cosine = np.einsum("nd,nd->n", found.descriptors[row], expected.descriptors)
        assert np.median(cosine[same]) >= 0.999, image
    # what is missing ranks last: scores near the K-th best change places
    assert min(shares) >= 0.95, shares
    assert np.mean(shares) >= 0.97, shares


def test_graphs_run_with_few_numbers_of_rows() -> None:
    """The runtimes keep code for each of them."""
    assert {_rounded(count, 500) for count in range(1, 501)} == {125, 250, 375, 500}
    assert [_rounded(count, 3) for count in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert all(count <= _rounded(count, 10) < count + 3 for count in range(1, 50))


def test_few_keypoints_are_described_like_many(reference: Reference) -> None:
    """Graphs run with few numbers of rows; those that are no keypoint's change nothing."""
    pixels = reference.pixels("tum_0")
    points = 400
    config = FrontendConfig(precision="float32", matcher="nearest", max_keypoints=points)
    extractor = create_extractor(config)
    whole = extractor.extract(pixels)
    counts = []
    for rank in (0.01, 0.1, 0.4, 0.7):
        threshold = float(np.quantile(whole.scores, 1 - rank))
        extractor.reconfigure(replace(config, score_threshold=threshold))
        found = extractor.extract(pixels)
        counts.append(len(found))
        distance, row = cKDTree(whole.keypoints).query(found.keypoints)
        assert distance.max() == 0.0
        np.testing.assert_allclose(found.descriptors, whole.descriptors[row], atol=1e-5)
    assert len({_rounded(count, points) for count in counts}) > 2, counts


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("mode", MODES)
def test_lightglue_float32(reference: Reference, runtime: str, mode: str) -> None:
    depth, width = MODES[mode]
    if runtime == "onnxruntime":
        network = CpuLightGlue(LightGlueGraphs(), OnnxRuntime(2), False, 1000)

        def match(a: Features, b: Features) -> Matches:
            return network.match(a, b, 0.1, depth, width)
    else:
        settings = {"depth_confidence": depth, "width_confidence": width}
        match = create_matcher(FrontendConfig(precision="float32", **settings)).match
    assert_matches_agree(match, reference, mode)


def test_lightglue_bfloat16(reference: Reference) -> None:
    try:
        matcher = create_matcher(FrontendConfig(precision="bfloat16", depth_confidence=-1.0))
    except BackendError as error:
        pytest.skip(str(error))
    for pair in PAIRS:
        first, second = (reference.features("aliked-n16", image) for image in pair)
        found = matcher.match(first, second)
        assert agreement(found, reference[f"lightglue-full/{'-'.join(pair)}/matches0"]) >= 0.97
