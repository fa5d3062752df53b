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

"""Outputs of the published networks, and how ours must agree with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from aliked_ros.types import Features, Matches, UInt8Array
from helpers.data import read_rgb

IMAGES = {
    "aliked-n16": ("tum_0", "tum_30", "kitti_0", "graf_1", "graf_3"),
    "aliked-n16rot": ("tum_0",),
    "aliked-n32": ("tum_0",),
    "aliked-t16": ("tum_0", "kitti_0"),
}
CASES = [(model, image) for model, images in IMAGES.items() for image in images]
MODES = {"full": (-1.0, -1.0), "adaptive": (0.95, 0.99)}
PAIRS = [("tum_0", "tum_30"), ("graf_1", "graf_3")]


class Reference:
    """Outputs of the published networks."""

    def __init__(self, folder: Path) -> None:
        self._arrays = np.load(folder / "reference" / "aliked_lightglue_reference.npz")
        self._images = json.loads((folder / "reference" / "images.json").read_text())
        self._data = folder / "data"

    def __getitem__(self, key: str) -> np.ndarray:
        return self._arrays[key]

    def cases(self) -> list[tuple[str, str]]:
        """(model, image) pairs that the file has features of."""
        keys = [key.split("/") for key in self._arrays.files if key.endswith("keypoints")]
        return [(model, image) for model, image, _ in keys]

    def pixels(self, image: str) -> UInt8Array:
        """The image as RGB."""
        return read_rgb(self._data / self._images[image])

    def features(self, model: str, image: str) -> Features:
        """The published network's features."""
        height, width = self.pixels(image).shape[:2]
        arrays = [
            self._arrays[f"{model}/{image}/{name}"].astype(np.float32)
            for name in ("keypoints", "scores", "descriptors")
        ]
        return Features(*arrays, width, height, model)


def assert_features_agree(found: Features, expected: Features) -> None:
    """DESIGN's parity in float32: same keypoints, scores, descriptors."""
    distance, row = cKDTree(found.keypoints).query(expected.keypoints)
    same = distance < 0.01
    assert same.mean() >= 0.999
    assert np.abs(found.scores[row] - expected.scores)[same].max() <= 1e-4
    norms = np.linalg.norm(expected.descriptors, axis=1)
    cosine = np.einsum("nd,nd->n", found.descriptors[row], expected.descriptors) / norms
    assert cosine[same].min() >= 0.99999


def agreement(found: Matches, expected: np.ndarray) -> float:
    """Share of the expected matches found, less the found ones that are not expected."""
    partner = np.full(len(expected), -1)
    partner[found.reference_indices] = found.current_indices
    wrong = np.count_nonzero((partner != expected) & (partner >= 0) & (expected < 0))
    same = np.count_nonzero((partner == expected) & (expected >= 0))
    return (same - wrong) / np.count_nonzero(expected >= 0)


def assert_matches_agree(
    match: Callable[[Features, Features], Matches], reference: Reference, mode: str
) -> None:
    """DESIGN's parity in float32: same matches, layers and scores."""
    for pair in PAIRS:
        found = match(*(reference.features("aliked-n16", image) for image in pair))
        name = f"lightglue-{mode}/{'-'.join(pair)}"
        assert agreement(found, reference[f"{name}/matches0"]) >= 0.995
        assert found.layers == reference[f"{name}/stop"]
        partner_scores = reference[f"{name}/scores0"][found.reference_indices]
        assert np.median(np.abs(found.scores - partner_scores)) < 1e-4


def common(one: Features, other: Features) -> tuple[float, float]:
    """Share of keypoints that are within 0.01 pixels of one of the other's, least cosine there."""
    distance = np.linalg.norm(one.keypoints[:, None] - other.keypoints[None], axis=2)
    nearest, same = distance.argmin(1), distance.min(1) < 0.01
    cosines = (one.descriptors[same] * other.descriptors[nearest[same]]).sum(1)
    return float(same.mean()), float(cosines.min())
