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

"""Validation: how well a network matches pairs with known correspondences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aliked_ros.io.drawing import draw_matches
from aliked_ros.networks.aliked import ALIKED
from aliked_ros.training.extraction import Detections, detect
from aliked_ros.training.pairs import Pair
from aliked_ros.types import BoolArray, Features, Matches, UInt8Array, UInt32Array

CORRECT = 3.0  # pixels


@dataclass(frozen=True, slots=True)
class CheckedMatches:
    """Mutual nearest neighbours of a pair, checked against the known correspondences.

    rows: K×2 rows of the first and second image's keypoints. right: K, within 3 px.
    """

    first: Detections
    second: Detections
    rows: UInt32Array
    right: BoolArray


@torch.no_grad()
def check_matches(network: ALIKED, pair: Pair, top_k: int) -> CheckedMatches:
    """Match a pair and check the matches; the network's mode is restored.

    Excludes matches whose true position is unknown (hidden, without depth, outside).
    """
    device = next(network.parameters()).device
    images = torch.stack([pair.first, pair.second]).to(device)
    training = network.training
    network.eval()
    first, second = detect(network, images, top_k)
    network.train(training)
    if not len(first) or not len(second):
        return CheckedMatches(first, second, np.zeros((0, 2), np.uint32), np.zeros(0, np.bool_))
    similarity = first.descriptors @ second.descriptors.T
    forth, back = similarity.argmax(1), similarity.argmax(0)
    rows = torch.arange(len(forth), device=device)
    rows = rows[back[forth] == rows]
    there, visible = pair.first_to_second(first.keypoints[rows])
    rows, there = rows[visible], there[visible]
    errors = (there - second.keypoints[forth[rows]]).norm(dim=1)
    return CheckedMatches(
        first,
        second,
        torch.stack([rows, forth[rows]], dim=1).cpu().numpy().astype(np.uint32),
        (errors <= CORRECT).cpu().numpy(),
    )


def figures(checked: Sequence[CheckedMatches]) -> dict[str, float]:
    """Mean number of correct matches per pair, and the share of correct matches."""
    right = sum(int(one.right.sum()) for one in checked)
    seen = sum(len(one.right) for one in checked)
    return {"correct": right / max(len(checked), 1), "precision": right / max(seen, 1)}


def picture(pair: Pair, found: CheckedMatches) -> UInt8Array:
    """A pair's matches, H×2W×3 RGB: score 1 is right within 3 px, 0 is wrong."""
    order = np.argsort(~found.right, kind="stable")
    first, second = found.rows[order].T
    matches = Matches(first, second, found.right[order].astype(np.float32))
    return draw_matches(
        _pixels(pair.first), _features(found.first), _pixels(pair.second), _features(found.second),
        matches, caption=f"{found.right.sum()} of {len(found.right)} right",
    )  # fmt: skip


def _pixels(image: Tensor) -> UInt8Array:
    return np.asarray((image * 255).round().byte().permute(1, 2, 0).contiguous().numpy())


def _features(found: Detections) -> Features:
    keypoints, scores, descriptors = (
        part.cpu().numpy() for part in (found.keypoints, found.scores, found.descriptors)
    )
    return Features(keypoints, scores, descriptors, found.width, found.height, "")
