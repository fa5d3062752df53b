"""One image through the network as training needs it: with gradients, dispersities, descriptors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aliked_ros.networks import aliked
from aliked_ros.networks.constants import NMS_RADIUS


@dataclass(frozen=True, slots=True)
class Detections:
    """Keypoints of one image; all but ``peaks`` carry gradients.

    keypoints: N×2 pixels. scores: N, of the score map at the keypoints. dispersities: N, pixels.
    descriptors: N×D, rows of unit length. width, height: of the image, pixels.
    """

    keypoints: Tensor
    scores: Tensor
    dispersities: Tensor
    descriptors: Tensor
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.keypoints)


def detect(
    network: aliked.ALIKED, image: Tensor, top_k: int, random: int = 0, seed: int = 0
) -> Detections:
    """The ``top_k`` best keypoints of an image 3×H×W in [0, 1], and ``random`` more anywhere.

    The random ones are pixels drawn with ``seed``, refined as the others are: so descriptors are
    trained, and keypoints can appear, where nothing is detected yet.
    """
    padded, window = aliked.pad(image[None])
    levels = network.levels(padded)
    rows = slice(window.top, window.top + window.height)
    columns = slice(window.left, window.left + window.width)
    score_map = network.score_map(levels)[0, 0, rows, columns]
    x, y = aliked.peaks(score_map.detach(), top_k, 0.0)
    if random:
        radius = NMS_RADIUS
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.rand(random, 2, generator=generator)
        size = torch.tensor([window.width - 2 * radius, window.height - 2 * radius])
        anywhere = (drawn * size).long().to(x.device) + radius
        x, y = torch.cat([x, anywhere[:, 0]]), torch.cat([y, anywhere[:, 1]])
    keypoints, scores, dispersities = aliked.refine(score_map, x, y)
    descriptors = network.describe(levels, keypoints, window)
    return Detections(keypoints, scores, dispersities, descriptors, window.width, window.height)
