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

"""ALIKED's losses (arXiv 2304.03608, its section on training losses), one function each.

Symbols: p_A keypoints of image A (N×2 pixels), p_AB their true positions in image B, d_A
their descriptors (unit rows), s_A their scores. Weights and temperatures are those of the paper's
training: reprojection 1, dispersity peakiness 0.5, sparse NRE 5, reliability 1; t_des 0.1, t_rel 1.
The losses of the keypoints come from ALIKE (arXiv 2112.02906), the neural reprojection error from
Germain et al. (arXiv 2103.07153).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from aliked_ros.training.extraction import Detections
from aliked_ros.training.warps import Warp

Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
_NONE = 1e-12


@dataclass(frozen=True, slots=True)
class LossSettings:
    """Weights and constants; the defaults are the paper's.

    reprojection, peakiness, descriptors, reliability: weights. threshold: largest
    distance in pixels of corresponding keypoints. t_des, t_rel: temperatures. no_match: None
    excludes keypoints without a counterpart in B from the descriptor loss, as published; a cosine
    adds the class "no match" with that similarity, which is then right for those keypoints.
    """

    reprojection: Weight = 1.0
    peakiness: Weight = 0.5
    descriptors: Weight = 5.0
    reliability: Weight = 1.0
    threshold: Positive = 5.0
    t_des: Positive = 0.1
    t_rel: Positive = 1.0
    no_match: Annotated[float, Field(ge=-1, le=1)] | None = None


@dataclass(frozen=True, slots=True)
class Correspondence:
    """The true correspondences of two images' keypoints.

    warped_a, warped_b: positions of A's keypoints in B, and of B's in A; visible_a, visible_b:
    whether they are visible there. a, b: rows of mutually nearest keypoints, within the threshold
    in both images.
    """

    warped_a: Tensor
    visible_a: Tensor
    warped_b: Tensor
    visible_b: Tensor
    a: Tensor
    b: Tensor


def correspond(
    a: Detections, b: Detections, a_to_b: Warp, b_to_a: Warp, threshold: float
) -> Correspondence:
    """Warp both images' keypoints and pair the corresponding ones."""
    warped_a, visible_a = a_to_b(a.keypoints)
    warped_b, visible_b = b_to_a(b.keypoints)
    rows_a, rows_b = mutual_nearest(
        warped_a.detach(), visible_a, b.keypoints.detach(), warped_b.detach(), visible_b,
        a.keypoints.detach(), threshold,
    )  # fmt: skip
    return Correspondence(warped_a, visible_a, warped_b, visible_b, rows_a, rows_b)


def mutual_nearest(
    warped_a: Tensor,
    visible_a: Tensor,
    keypoints_b: Tensor,
    warped_b: Tensor,
    visible_b: Tensor,
    keypoints_a: Tensor,
    threshold: float,
) -> tuple[Tensor, Tensor]:
    """Rows of A and of B that are mutually nearest, by the mean of both images' distances."""
    if not len(warped_a) or not len(warped_b):
        none = torch.zeros(0, dtype=torch.long, device=warped_a.device)
        return none, none
    distance = 0.5 * (_distances(warped_a, keypoints_b) + _distances(keypoints_a, warped_b))
    seen = visible_a[:, None] & visible_b[None, :]
    distance = torch.where(seen, distance, torch.full_like(distance, torch.inf))
    nearest_b, nearest_a = distance.argmin(1), distance.argmin(0)
    rows = torch.arange(len(warped_a), device=warped_a.device)
    kept = (nearest_a[nearest_b] == rows) & (distance[rows, nearest_b] <= threshold)
    return rows[kept], nearest_b[kept]


def reprojection_loss(a: Detections, b: Detections, pairs: Correspondence) -> Tensor:
    """L_rp = mean over pairs of ½(‖p_AB − p_B‖ + ‖p_BA − p_A‖), pixels (ALIKE).

    The gradient moves the keypoints through the soft-argmax of both score maps. Random points,
    which are not peaks, are excluded.
    """
    detected = (pairs.a < a.detected) & (pairs.b < b.detected)
    if not detected.any():
        return a.keypoints.sum() * 0.0
    rows_a, rows_b = pairs.a[detected], pairs.b[detected]
    forth = _length(pairs.warped_a[rows_a] - b.keypoints[rows_b])
    back = _length(pairs.warped_b[rows_b] - a.keypoints[rows_a])
    return 0.5 * (forth + back).mean()


def peakiness_loss(detections: Detections) -> Tensor:
    """L_pk = mean over keypoints of Σ softmax(s / t) · ‖pixel − p‖, pixels (ALIKE).

    Small where the score map has one sharp peak exactly at the keypoint. Random points, which are
    not peaks, are excluded.
    """
    dispersities = detections.dispersities[: detections.detected]
    return dispersities.sum() / max(detections.detected, 1)


def matching_log_probability(
    queries: Tensor, descriptors: Tensor, temperature: float, no_match: float | None = None
) -> Tensor:
    """Logarithms of q_m = softmax((cosine − 1) / temperature), N×M, with ``no_match`` N×(M+1).

    queries: N×D; descriptors: M×D; unit rows. The last column is the class "no match".
    """
    logits = (queries @ descriptors.T - 1.0) / temperature
    if no_match is not None:
        none = torch.full_like(logits[:, :1], (no_match - 1.0) / temperature)
        logits = torch.cat([logits, none], dim=1)
    return logits.log_softmax(1)


def sparse_nre_loss(
    queries: Tensor,
    descriptors: Tensor,
    warped: Tensor,
    visible: Tensor,
    keypoints: Tensor,
    threshold: float,
    temperature: float,
    no_match: float | None = None,
) -> Tensor:
    """Neural reprojection error over sparse keypoints (ALIKED), one way.

    For each keypoint of A the reprojection probability q_r is 1 at the keypoint of B nearest to its
    true position, if that is within ``threshold`` pixels; the loss is the
    cross-entropy −Σ q_r log q_m with the matching probability over B's keypoints.

    queries: N×D, A's descriptors; warped, visible: N×2, N: their true positions in B. descriptors,
    keypoints: M×D, M×2, B's. no_match: see ``LossSettings``.
    """
    if not len(descriptors) and no_match is None:
        return queries.sum() * 0.0
    answers, counted = _answers(warped, visible, keypoints, threshold, no_match is not None)
    log_probability = matching_log_probability(queries, descriptors, temperature, no_match)
    found = -log_probability.gather(1, answers[:, None])[:, 0]
    return (found * counted).sum() / counted.sum().clamp(min=1)


def _answers(
    warped: Tensor, visible: Tensor, keypoints: Tensor, threshold: float, with_none: bool
) -> tuple[Tensor, Tensor]:
    """The correct column of q_m for each query, and N bool: whether it has one."""
    if not len(keypoints):
        column = torch.zeros(len(warped), dtype=torch.long, device=warped.device)
        return column, torch.full_like(visible, with_none)
    distance, nearest = _distances(warped.detach(), keypoints.detach()).min(1)
    found = visible & (distance <= threshold)
    if not with_none:
        return nearest, found
    return torch.where(found, nearest, len(keypoints)), torch.ones_like(found)


def reliability_loss(a: Detections, b: Detections, pairs: Correspondence, t_rel: float) -> Tensor:
    """L_re = Σ w (1 − r) with w = s_A s_B / Σ s_A s_B over pairs (ALIKED), one way.

    r = exp((d_A·d_B − 1) / t_rel), in (0, 1], is constant here: only scores learn, to be high where
    the descriptors, which have their own loss, are similar.
    """
    if not len(pairs.a):
        return a.scores.sum() * 0.0
    cosine = (a.descriptors[pairs.a] * b.descriptors[pairs.b]).sum(1).detach()
    reliability = ((cosine - 1.0) / t_rel).exp()
    weight = a.scores[pairs.a] * b.scores[pairs.b]
    return (weight * (1.0 - reliability)).sum() / weight.sum().clamp(min=_NONE)


def total_loss(
    a: Detections, b: Detections, a_to_b: Warp, b_to_a: Warp, settings: LossSettings
) -> dict[str, Tensor]:
    """All losses of a pair, unweighted, and their weighted sum as ``total``."""
    pairs = correspond(a, b, a_to_b, b_to_a, settings.threshold)
    nre = [
        sparse_nre_loss(
            here.descriptors, there.descriptors, warped, visible, there.keypoints,
            settings.threshold, settings.t_des, settings.no_match,
        )
        for here, there, warped, visible in (
            (a, b, pairs.warped_a, pairs.visible_a), (b, a, pairs.warped_b, pairs.visible_b),
        )
    ]  # fmt: skip
    found = {
        "reprojection": reprojection_loss(a, b, pairs),
        "peakiness": 0.5 * (peakiness_loss(a) + peakiness_loss(b)),
        "descriptors": 0.5 * (nre[0] + nre[1]),
        "reliability": reliability_loss(a, b, pairs, settings.t_rel),
    }
    weighted = [getattr(settings, name) * value for name, value in found.items()]
    return found | {"total": torch.stack(weighted).sum()}


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """N×M; without a matrix product, which loses a fraction of a pixel in float32."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _length(vectors: Tensor) -> Tensor:
    """Length of rows, with a gradient at zero."""
    return (vectors.square().sum(1) + _NONE).sqrt()
