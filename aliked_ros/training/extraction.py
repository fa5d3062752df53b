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

"""Keypoints, dispersities and descriptors of images, with gradients, for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aliked_ros.networks import aliked
from aliked_ros.networks.constants import NMS_RADIUS


@dataclass(frozen=True, slots=True)
class Detections:
    """Keypoints of one image, with gradients.

    keypoints: N×2 pixels. scores: N, of the score map at the keypoints. dispersities: N, pixels.
    descriptors: N×D, rows of unit length. width, height: of the image, pixels. detected: number of
    peaks of the score map; they come first, then random points.
    """

    keypoints: Tensor
    scores: Tensor
    dispersities: Tensor
    descriptors: Tensor
    width: int
    height: int
    detected: int

    def __len__(self) -> int:
        return len(self.keypoints)


def detect(
    network: aliked.ALIKED,
    images: Tensor,
    top_k: int,
    random: int = 0,
    seeds: Sequence[int] = (),
) -> list[Detections]:
    """The ``top_k`` best keypoints of each image of B×3×H×W in [0, 1], and ``random`` others.

    The others are random pixels, drawn with one of B ``seeds`` per image and refined like
    keypoints. They train descriptors, and let keypoints appear, where nothing is detected yet.
    """
    padded, window = aliked.pad(images)
    levels = network.levels(padded)
    # In mixed precision only the levels may be in half precision. Coordinates and scores stay in
    # full: equal scores would not suppress each other.
    with torch.autocast(images.device.type, enabled=False):
        return _read(network, [x.float() for x in levels], window, top_k, random, seeds)


def _read(
    network: aliked.ALIKED,
    levels: list[Tensor],
    window: aliked.Window,
    top_k: int,
    random: int,
    seeds: Sequence[int],
) -> list[Detections]:
    score_maps = window.of(network.score_map(network.score_parts(levels)))[:, 0]
    size = torch.tensor([window.width, window.height]) - 2 * NMS_RADIUS
    everywhere, threshold = torch.ones_like(score_maps[0]), score_maps.new_zeros(1)
    room = (window.height // aliked.CELL) * (window.width // aliked.CELL)
    found = []
    for number, score_map in enumerate(score_maps):
        x, y, count = aliked.peaks(score_map.detach(), everywhere, threshold, min(top_k, room))
        detected = int(count)
        x, y = x[:detected], y[:detected]
        if random:
            generator = torch.Generator().manual_seed(seeds[number])
            drawn = (torch.rand(random, 2, generator=generator) * size).long().to(x.device)
            x, y = (torch.cat([p, drawn[:, axis] + NMS_RADIUS]) for axis, p in enumerate((x, y)))
        keypoints, scores, dispersities = aliked.refine(score_map, x, y)
        own = [level[number : number + 1] for level in levels]
        # (of a training that diverges, only the loss is not finite: it names the pair)
        descriptors = network.describe(own, keypoints.nan_to_num(), window)
        found.append(
            Detections(
                keypoints, scores, dispersities, descriptors, window.width, window.height, detected
            )
        )
    return found
