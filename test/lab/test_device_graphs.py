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

"""The whole-device graphs, run by ONNX Runtime, against the published networks' arrays."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from aliked_ros.benchmark.dense import DenseExtractor
from aliked_ros.benchmark.lightglue import LightGlue, normalize_keypoints
from aliked_ros.errors import ConfigurationError
from aliked_ros.models import device_export
from aliked_ros.models.device_export import DeviceGraph, extractor_graph, matcher_graphs
from aliked_ros.models.registry import weights_path
from aliked_ros.networks.aliked import ALIKED, FoldedALIKED
from aliked_ros.networks.constants import exit_threshold
from aliked_ros.types import BoolArray, Features, Matches, UInt8Array
from helpers.data import read_rgb
from helpers.device import assert_same, chosen, session_of
from helpers.parity import CASES, PAIRS, Reference, agreement
from helpers.torch_networks import device_extractor, distances

CPU = torch.device("cpu")
K = 1000
FEW = 256
Arrays = dict[str, np.ndarray]


class Session:
    """A graph in ONNX Runtime; what it returns must be what the graph promised."""

    def __init__(self, graph: DeviceGraph) -> None:
        self.graph, self._session = graph, session_of(graph)

    def __call__(self, inputs: Arrays) -> Arrays:
        given = {name: inputs[name] for name in self.graph.inputs}
        for name, spec in self.graph.inputs.items():
            assert (given[name].shape, given[name].dtype) == (spec.shape, spec.dtype), name
        outputs = dict(zip(self.graph.outputs, self._session.run(None, given), strict=True))
        for name, spec in self.graph.outputs.items():
            assert (outputs[name].shape, outputs[name].dtype) == (spec.shape, spec.dtype), name
        return outputs


@lru_cache(maxsize=2)
def _extractor(model: str, height: int, width: int, channels: int, precision: str) -> Session:
    return Session(extractor_graph(model, (width, height), channels, K, precision))


@lru_cache(maxsize=2)
def _matcher(precision: str, top_k: int = K) -> list[Session]:
    return [Session(graph) for graph in matcher_graphs(top_k, precision)]


def extract(
    pixels: UInt8Array,
    model: str = "aliked-n16",
    precision: str = "float32",
    mask: UInt8Array | None = None,
    threshold: float = 0.0,
) -> Features:
    height, width = pixels.shape[:2]
    image = pixels.reshape(1, height, width, -1)
    outputs = _extractor(model, height, width, image.shape[-1], precision)(
        {
            "image": image,
            "mask": np.ones((height, width), np.uint8) if mask is None else mask,
            "threshold": np.array([threshold], np.float32),
        }
    )
    assert all(np.isfinite(array).all() for array in outputs.values())
    count = int(outputs["count"][0])
    arrays = (outputs[name][:count] for name in ("keypoints", "scores", "descriptors"))
    return Features(*(a.astype(np.float32) for a in arrays), width, height, model)


def match(a: Features, b: Features, precision: str = "float32", top_k: int = K) -> list[Arrays]:
    """The outputs after each segment, the matches there among them."""
    sessions = _matcher(precision, top_k)
    held: Arrays = {
        "size": np.array([a.width, a.height], np.float32),
        "match_threshold": np.array([0.1], np.float32),
    }
    for i, features in enumerate((a, b)):
        # what lies behind the valid rows must not matter
        padded = np.random.default_rng(i).normal(0, 100, (top_k, 2)).astype(np.float32)
        padded[: len(features)] = features.keypoints
        descriptors = np.random.default_rng(i).normal(0, 1, (top_k, 128)).astype(precision)
        descriptors[: len(features)] = features.descriptors
        held[f"keypoints{i}"], held[f"descriptors{i}"] = padded, descriptors
        held[f"count{i}"] = np.array([len(features)], np.int32)
    found = []
    for segment, head in zip(sessions[::2], sessions[1::2], strict=True):
        outputs = segment(held)
        held |= {name.removeprefix("new_"): array for name, array in outputs.items()}
        found.append(outputs | head(held))
    return found


def as_matches(outputs: Arrays) -> Matches:
    rows = np.flatnonzero(outputs["matches"] >= 0).astype(np.uint32)
    partners = outputs["matches"][rows].astype(np.uint32)
    return Matches(rows, partners, outputs["match_scores"][rows])


def first(features: Features, count: int) -> Features:
    return chosen(features, slice(count))


@pytest.mark.parametrize(
    "image", ["kitti_0", *(pytest.param(i, marks=pytest.mark.long) for i in ("tum_0", "graf_1"))]
)
def test_features_float32(reference: Reference, image: str) -> None:
    """KITTI's sides are no multiples of 32. The other models: below, in half precision."""
    found = extract(reference.pixels(image))
    assert len(found) == K
    assert_same(found, reference.features("aliked-n16", image))


def test_a_keypoint_on_the_edge_of_a_pixel_is_no_difference(reference: Reference) -> None:
    """Eight of the published ones lie within 1e-4 pixels of one; others' descriptors must agree."""
    expected = reference.features("aliked-n16", "tum_0")
    keypoints, descriptors = expected.keypoints.copy(), expected.descriptors.copy()
    keypoints[3] = np.ceil(keypoints[3])
    expected = replace(expected, keypoints=keypoints.copy())
    keypoints[3, 0] -= 5e-5  # in the pixel to the left, by rounding
    descriptors[3] = descriptors[4]
    assert_same(replace(expected, keypoints=keypoints, descriptors=descriptors), expected)
    descriptors[7] = descriptors[8]
    with pytest.raises(AssertionError):
        assert_same(replace(expected, keypoints=keypoints, descriptors=descriptors), expected)


def test_distances_of_equal_points_are_zero() -> None:
    points = 600 * torch.rand((1000, 2), generator=torch.Generator().manual_seed(0))
    assert distances(points, points).diagonal().max() == 0


def test_grey_image(reference: Reference) -> None:
    pixels = np.ascontiguousarray(reference.pixels("kitti_0")[..., 0])
    assert_same(extract(pixels), reference.features("aliked-n16", "kitti_0"))


def test_mask_threshold_and_fewer_keypoints(reference: Reference) -> None:
    """As the reference network finds them: fewer than K, the best first, none where the mask is."""
    pixels = np.ascontiguousarray(reference.pixels("kitti_0")[100:300, 400:810])
    mask = np.full(pixels.shape[:2], 255, np.uint8)
    mask[:, 100:300] = 0
    network = DenseExtractor(ALIKED.from_checkpoint(weights_path("aliked-n16")), CPU)
    usual = float(np.median(extract(pixels).scores))
    for threshold, visible in ((0.0, mask), (usual, None), (usual, mask), (0.0, 0 * mask)):
        found = extract(pixels, mask=visible, threshold=threshold)
        arrays = network.extract(pixels, visible, K, threshold, 0)
        expected = Features(*arrays, pixels.shape[1], pixels.shape[0], "aliked-n16")
        assert len(found) == len(expected)
        if len(expected):
            assert_same(found, expected)
    assert 300 < len(extract(pixels, threshold=usual)) < 700
    assert len(extract(pixels, threshold=1.0)) == 0


def test_a_blank_image_gives_finite_numbers(reference: Reference) -> None:
    extract(np.zeros_like(reference.pixels("kitti_0")))


def _same_keypoints(found: Features, expected: Features) -> tuple[BoolArray, np.ndarray]:
    """Which of the expected keypoints were found, and the cosines of their descriptors."""
    distance, row = cKDTree(found.keypoints).query(expected.keypoints)
    same = distance < 0.5
    cosine = np.einsum("nd,nd->n", found.descriptors[row], expected.descriptors)
    norms = np.linalg.norm(found.descriptors[row], axis=1) * np.linalg.norm(
        expected.descriptors, axis=1
    )
    return same, (cosine / norms)[same]


# N16rot's graph is N16's.
HALF = [c for c in CASES if c[1] in ("tum_0", "kitti_0") and c[0] != "aliked-n16rot"]


@pytest.mark.long
@pytest.mark.parametrize(("model", "image"), HALF)
def test_features_float16(reference: Reference, model: str, image: str) -> None:
    same, cosines = _same_keypoints(
        extract(reference.pixels(image), model, "float16"), reference.features(model, image)
    )
    assert same.mean() >= 0.99
    assert np.median(cosines) >= 0.9999


@pytest.mark.long
def test_features_float16_with_every_result_rounded(reference: Reference) -> None:
    """ONNX Runtime computes chains of float16 operations in float32 on a CPU; PyTorch does not."""
    pixels = reference.pixels("graf_1")
    network = device_extractor(FoldedALIKED, "aliked-n16", half=True)
    image, mask = torch.from_numpy(pixels)[None], torch.ones(pixels.shape[:2], dtype=torch.uint8)
    with torch.inference_mode():
        *arrays, count = network.eval()(image, mask, torch.zeros(1), torch.zeros(K))
    found = Features(
        *(a.float().numpy() for a in arrays), pixels.shape[1], pixels.shape[0], "aliked-n16"
    )
    assert arrays[2].dtype == torch.float16
    assert int(count) == K
    same, cosines = _same_keypoints(found, reference.features("aliked-n16", "graf_1"))
    assert same.mean() >= 0.99
    assert np.median(cosines) >= 0.9999


@pytest.mark.parametrize("pair", PAIRS)
def test_lightglue_float32(reference: Reference, pair: tuple[str, str]) -> None:
    a, b = (reference.features("aliked-n16", image) for image in pair)
    *_, last = match(a, b)
    name = f"lightglue-full/{'-'.join(pair)}"
    found = as_matches(last)
    assert agreement(found, reference[f"{name}/matches0"]) >= 0.995
    expected = reference[f"{name}/scores0"][found.reference_indices]
    assert np.median(np.abs(found.scores - expected)) < 1e-4


@pytest.mark.parametrize("counts", [(FEW, 80), (7, 200), (1, 1)])
def test_lightglue_exits_with_unequal_and_few_points(
    reference: Reference, counts: tuple[int, int]
) -> None:
    """After each segment: what the published network says there, which pads nothing."""
    pair = [
        first(reference.features("aliked-n16", image), n)
        for image, n in zip(PAIRS[0], counts, strict=True)
    ]
    network = LightGlue.from_checkpoint(weights_path("aliked-lightglue"))
    keypoints = [
        normalize_keypoints(torch.from_numpy(f.keypoints), f.width, f.height)[None] for f in pair
    ]
    with torch.inference_mode():
        x = [network.input_proj(torch.from_numpy(f.descriptors))[None] for f in pair]
        encoding = [network.posenc(k) for k in keypoints]
        for i, outputs in enumerate(match(*pair, top_k=FEW)):
            for layer in range(3 * i, 3 * i + 3):
                x = list(network.transformers[layer](*x, *encoding))
            assignment = network.log_assignment[layer](*x)[0].exp().numpy()
            found = as_matches(outputs)
            forward, backward = assignment.argmax(1), assignment.argmax(0)
            score = assignment.max(1)
            kept = (backward[forward] == np.arange(len(forward))) & (score > 0.1)
            assert found.reference_indices.tolist() == np.flatnonzero(kept).tolist()
            assert found.current_indices.tolist() == forward[kept].tolist()
            np.testing.assert_allclose(found.scores, score[kept], atol=1e-3)
            if layer < 8:
                certain = exit_threshold(layer, 9)
                unsure = [network.token_confidence[layer](y)[0] < certain for y in x]
                expected = sum(int(u.sum()) for u in unsure) / sum(counts)
                assert outputs["undecided"][0] == pytest.approx(expected, abs=2.5 / sum(counts))


def test_lightglue_without_points_matches_nothing(reference: Reference) -> None:
    features = reference.features("aliked-n16", "tum_0")
    for counts in ((0, 100), (100, 0), (0, 0)):
        for outputs in match(*(first(features, n) for n in counts), top_k=FEW):
            assert not as_matches(outputs).scores.size
            assert np.isfinite(outputs["match_scores"]).all()


@pytest.mark.parametrize("pair", PAIRS)
def test_lightglue_float16(reference: Reference, pair: tuple[str, str]) -> None:
    a, b = (reference.features("aliked-n16", image) for image in pair)
    *_, last = match(a, b, "float16")
    expected = reference[f"lightglue-full/{'-'.join(pair)}/matches0"]
    assert agreement(as_matches(last), expected) >= 0.99


@pytest.mark.long
def test_float16_loses_no_verified_matches(shared: Path) -> None:
    """Homography inliers on Oxford's images, epipolar inliers on KITTI's: within 0.5 %."""
    oxford, kitti = shared / "data" / "oxford_affine", shared / "data" / "kitti_00_first40"

    def inliers(precision: str) -> int:
        total = 0
        for folder, names, planar in (
            (oxford / "graf", ("img1.png", "img3.png"), True),
            (kitti / "image_0", ("000000.png", "000004.png"), False),
            (kitti / "image_0", ("000020.png", "000024.png"), False),
        ):
            a, b = (extract(read_rgb(folder / name), precision=precision) for name in names)
            found = as_matches(match(a, b, precision)[-1])
            points = a.keypoints[found.reference_indices], b.keypoints[found.current_indices]
            fit = cv2.findHomography if planar else cv2.findFundamentalMat
            _, good = fit(*points, cv2.USAC_MAGSAC, 2.0)
            total += int(good.sum())
        return total

    expected = inliers("float32")
    assert expected > 1000
    assert inliers("float16") >= 0.995 * expected


def test_equal_identities_mean_the_same_bytes() -> None:
    one, other = (extractor_graph("aliked-n16", (96, 64), 1, 100, "float32") for _ in range(2))
    assert one.identity == other.identity
    assert one.onnx == other.onnx
    assert one.identity != extractor_graph("aliked-n16", (96, 64), 1, 101, "float32").identity


def test_sizes_that_no_graph_can_have_are_refused() -> None:
    for top_k in (1, 3841):
        with pytest.raises(ConfigurationError, match=rf"max_keypoints is {top_k}; .*2 to 3840"):
            extractor_graph("aliked-n16", (640, 480), 3, top_k, "float32")
        with pytest.raises(ConfigurationError, match=rf"max_keypoints is {top_k}"):
            matcher_graphs(top_k, "float32")
    with pytest.raises(ConfigurationError, match=r"96x64 pixels has room for 672 at most"):
        extractor_graph("aliked-n16", (96, 64), 3, 673, "float32")
    with pytest.raises(ConfigurationError, match=r"480x32 pixels is too small"):
        extractor_graph("aliked-n16", (480, 32), 3, 100, "float32")
    extractor_graph("aliked-n16", (96, 64), 3, 672, "float32")


def test_making_a_graph_needs_no_torch() -> None:
    program = """
import sys
sys.modules["torch"] = None  # an import of it now fails
from aliked_ros.models.device_export import extractor_graph, matcher_graphs
for precision in ("float32", "float16"):
    extractor_graph("aliked-n16", (640, 480), 3, 500, precision)
print(len(matcher_graphs(512, "float16")))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "6\n", run.stderr


@pytest.mark.long
@pytest.mark.parametrize("model", ["aliked-n32", "aliked-t16"])
def test_tensorrt_builds_the_graph(tmp_path: Path, model: str) -> None:
    """For Ampere, Ada and Blackwell, grey, with padding; N16 and LightGlue: see test_engines.

    (N16rot's graph is N16's, with other numbers in it.)
    """
    pytest.importorskip("tensorrt_rtx_bindings", reason="make setup GROUP=test")
    from aliked_ros.backends.gpu.engine_builder import build_plan
    from aliked_ros.backends.gpu.tensorrt_library import choose_target

    graph = extractor_graph(model, (1241, 376), 1, device_export.LARGEST_TOP_K, "float16")
    target = choose_target(["8.6", "8.9", "12.0"])
    assert build_plan(model, graph, target, None, lambda *_: None, tmp_path)
