"""How well a network matches pairs whose correspondences are known."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from aliked_ros.networks.aliked import ALIKED
from aliked_ros.training.detection import detect
from aliked_ros.training.pairs import Pair

CORRECT = 3.0  # pixels


@torch.no_grad()
def count_matches(network: ALIKED, pair: Pair, top_k: int) -> tuple[int, int]:
    """Mutually nearest descriptors of a pair: how many are right within 3 px, of how many seen.

    Matches whose true place is not known (hidden, without depth, outside) are not counted.
    """
    device = next(network.parameters()).device
    images = torch.stack([pair.first, pair.second]).to(device)
    first, second = detect(network, images, top_k)
    if not len(first) or not len(second):
        return 0, 0
    similarity = first.descriptors @ second.descriptors.T
    forth, back = similarity.argmax(1), similarity.argmax(0)
    rows = torch.arange(len(forth), device=device)
    rows = rows[back[forth] == rows]
    there, visible = pair.first_to_second(first.keypoints[rows])
    errors = (there - second.keypoints[forth[rows]]).norm(dim=1)[visible]
    return int((errors <= CORRECT).sum()), int(visible.sum())


def validate(network: ALIKED, pairs: Iterable[Pair], top_k: int) -> dict[str, float]:
    """Mean number of correct matches a pair, and the share of matches that are; eval mode kept."""
    training = network.training
    network.eval()
    counts = [count_matches(network, pair, top_k) for pair in pairs]
    network.train(training)
    right, seen = (sum(column) for column in zip(*counts, strict=True))
    return {"correct": right / max(len(counts), 1), "precision": right / max(seen, 1)}
