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

"""LightGlue (Lindenberger et al., arXiv 2306.13643) for ALIKED features.

Self- and cross-attention between the keypoints of two images, layer by layer; after each layer a
small head says how sure every point is of its match, which ends the layers early for easy pairs
(section 3.3, "exit criterion") and prunes points that will not match ("point pruning").

One definition serves PyTorch and the exported graphs. It has a fixed number of rows, of which a
mask or a count says how many hold points. A device may replace the stages in ``Operations``.

In half precision the matrix products and attention are float16, match probabilities float32.
Measured: float32 for the states, exit heads and assignment too changes no match.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aliked_ros.networks.constants import DIM, HEAD_DIM, HEADS, exit_threshold
from aliked_ros.networks.fold import LightGlueShape, Weights
from aliked_ros.networks.weights import Weighted, parameter, part

_PADDING = -30000.0  # added to the attention of padding rows: no weight, and within half precision
_IMPOSSIBLE = -1e9  # similarity of padding rows
_LEAST_PROBABILITY = 1e-37


def split_heads(x: Tensor) -> Tensor:
    """B×N×256 → B×4×N×64."""
    return x.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """B×4×N×64 → B×N×256."""
    return x.transpose(1, 2).flatten(-2)


class Operations:
    """Stages that a device may compute another way.

    valid, padding: what ``rows`` returned, or in plain operations a mask as ``Layer`` takes it.
    """

    def rows(self, like: Tensor, count0: Tensor, count1: Tensor) -> tuple[Any, Any]:
        """Which of two images' rows hold points, for ``undecided`` and for attention.

        like: 2×K×…, of the states' type. count0, count1: [1], valid rows.
        """
        valid = torch.arange(like.shape[1]) < torch.stack([count0, count1])
        return valid, torch.where(valid, 0.0, _PADDING).to(like.dtype)[:, None, None]

    def encode(
        self,
        keypoints0: Tensor,
        keypoints1: Tensor,
        size: Tensor,
        angles: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        """Positions N×2 in two images of a size [2] → rotation 2×N×64: cosines, then sines."""
        points = torch.stack([keypoints0, keypoints1])
        turned = ((points - size / 2) / (size.amax(0) / 2)) @ angles
        return torch.cat([turned.cos(), turned.sin()], dim=-1).to(dtype)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``x @ weight + bias``."""
        return x @ weight + bias

    def rotate(self, qkv: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """B×N×768 → queries and keys, rotated, and values, each B×4×N×64.

        rotation: B×N×64, 32 cosines, then 32 sines; within a head the channels are halves, not
        pairs.
        """
        cosine, sine = (r[:, None] for r in rotation.chunk(2, dim=-1))

        def rotated(x: Tensor) -> Tensor:
            a, b = split_heads(x).chunk(2, dim=-1)
            return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1)

        q, k, v = qkv.chunk(3, dim=-1)
        return rotated(q), rotated(k), split_heads(v)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, padding: Any) -> Tensor:
        """Attention of B×4×N×64, queries scaled."""
        return (query @ key.transpose(-1, -2) + padding).softmax(-1) @ value

    def attend_self(self, x: Tensor, qkv: Tensor, rotation: Tensor, padding: Any) -> Tensor:
        """States B×N×256 and the context of self-attention beside them, B×N×512."""
        query, key, value = self.rotate(qkv, rotation)
        return torch.cat([x, join_heads(self.attend(query, key, value, padding))], dim=-1)

    def attend_other(self, x: Tensor, qk_v: Tensor, padding: Any) -> Tensor:
        """As ``attend_self``, of two images to each other. qk_v: 2×N×512."""
        qk, v = (split_heads(y) for y in qk_v.chunk(2, dim=-1))
        context = self.attend(qk, _swap_images(qk), _swap_images(v), _swap_images(padding))
        return torch.cat([x, join_heads(context)], dim=-1)

    def residual(self, x: Tensor, y: Tensor, ffn: FeedForward) -> Tensor:
        """The rest of the feed-forward part, after its first linear layer (y: B×N×512)."""
        y = F.gelu(F.layer_norm(y, [2 * DIM], ffn.gain, ffn.shift))
        return x + self.linear(y, ffn.weight2, ffn.bias2)

    def undecided(
        self, confidence: Tensor, threshold: float, valid: Any, count0: Tensor, count1: Tensor
    ) -> Tensor:
        """Share [1] of the valid rows whose confidence, 2×N×1, is below a threshold."""
        unsure = (confidence[..., 0].float() < threshold) & valid
        return unsure.float().sum().reshape(1) / (count0 + count1).clamp(min=1)


PLAIN = Operations()


class _Block(Weighted):
    def __init__(self, weights: Weights, operations: Operations = PLAIN) -> None:
        super().__init__(weights)
        self.operations = operations


class FeedForward(_Block):
    """Residual update from state and attention context."""

    weight1: Tensor
    bias1: Tensor
    gain: Tensor
    shift: Tensor
    weight2: Tensor
    bias2: Tensor

    def forward(self, x: Tensor, joined: Tensor) -> Tensor:
        """x: B×N×256. joined: B×N×512, x and the context side by side."""
        y = self.operations.linear(joined, self.weight1, self.bias1)
        return self.operations.residual(x, y, self)


class SelfBlock(_Block):
    """Self-attention, for a batch of images."""

    qkv: Tensor
    qkv_bias: Tensor

    def __init__(self, weights: Weights, operations: Operations = PLAIN) -> None:
        super().__init__(weights, operations)
        self.ffn = FeedForward(part(weights, "ffn"), operations)

    def forward(self, x: Tensor, rotation: Tensor, padding: Any) -> Tensor:
        qkv = self.operations.linear(x, self.qkv, self.qkv_bias)
        return self.ffn(x, self.operations.attend_self(x, qkv, rotation, padding))


class Embedding(_Block):
    """Input projection and the first self-attention: all that needs one image alone.

    A frame's embedding serves twice, against the frame before and against the one after.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weights: Weights, operations: Operations = PLAIN) -> None:
        """``weights``: from ``fold.embedding``."""
        super().__init__(weights, operations)
        self.block = SelfBlock(part(weights, "block"), operations)

    def forward(self, descriptors: Tensor, rotation: Tensor, mask: Any) -> Tensor:
        """First states 1×N×256 of one image's points.

        descriptors: 1×N×input_dim. rotation: 1×N×64, 32 cosines, then 32 sines.
        mask: 1×1×1×N, 0 for points, a large negative number for padding; or the second of a
        device's ``Operations.rows``.
        """
        state = self.operations.linear(descriptors, self.weight, self.bias)
        return self.block(state, rotation, mask)


class Layer(_Block):
    """One layer for a batch of the two images, with its exit and pruning heads.

    The first layer's self-attention belongs to ``Embedding``.
    """

    qk_v: Tensor
    qk_v_bias: Tensor
    exits: Tensor
    exits_bias: Tensor

    def __init__(self, weights: Weights, operations: Operations = PLAIN) -> None:
        """``weights``: from ``fold.layer``."""
        super().__init__(weights, operations)
        block = part(weights, "block")
        self.block = SelfBlock(block, operations) if block else None
        self.ffn = FeedForward(part(weights, "ffn"), operations)
        self.has_exits = "exits" in weights

    def forward(self, x: Tensor, mask: Any, rotation: Tensor | None = None) -> tuple[Tensor, ...]:
        """Update the states of both images.

        x: 2×N×256. mask: 2×1×1×N, or as ``Embedding`` takes it.
        rotation: 2×N×64, not in the first layer. Returns x and, where it has exit heads, 2×N×2:
        matchability and confidence, as probabilities.
        """
        linear = self.operations.linear
        if self.block is not None:
            assert rotation is not None
            x = self.block(x, rotation, mask)
        qk_v = linear(x, self.qk_v, self.qk_v_bias)
        x = self.ffn(x, self.operations.attend_other(x, qk_v, mask))
        if not self.has_exits:
            return (x,)
        return x, torch.sigmoid(linear(x, self.exits, self.exits_bias))


class Assignment(_Block):
    """Match assignment after a given layer (``fold.assignment``)."""

    weight: Tensor
    bias: Tensor

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        """States N0×256 and N1×256 → similarity N0×N1."""
        y0, y1 = (self.operations.linear(x, self.weight, self.bias) for x in (x0, x1))
        return y0 @ y1.T


def segment(
    weights: Weights,
    layers: range,
    shape: LightGlueShape,
    half: bool,
    operations: Operations = PLAIN,
) -> Segment | FirstSegment:
    """These of LightGlue's layers, with what comes before the first one (``fold.matcher``)."""
    kind = Segment if layers.start else FirstSegment
    return kind(weights, layers, shape.layers, half, operations)


def segment_inputs(
    shape: LightGlueShape, layers: range, rows: int, half: bool
) -> dict[str, Tensor]:
    """Tensors as ``segment`` takes them, in its order, for images of ``rows`` points."""
    dtype = torch.float16 if half else torch.float32
    counts = _full_counts(rows)
    if layers.start:
        return {
            "state": torch.zeros(2, rows, DIM, dtype=dtype),
            "rotation": torch.zeros(2, rows, HEAD_DIM, dtype=dtype),
            **counts,
        }
    return {
        "keypoints0": torch.zeros(rows, 2),
        "keypoints1": torch.zeros(rows, 2),
        "descriptors0": torch.zeros(rows, shape.input_dim, dtype=dtype),
        "descriptors1": torch.zeros(rows, shape.input_dim, dtype=dtype),
        "size": torch.full((2,), 64.0),
        **counts,
    }


def segment_outputs(shape: LightGlueShape, layers: range) -> list[str]:
    """Names of what ``segment`` returns, in its order."""
    last = layers.stop == shape.layers
    return ["new_state", *([] if layers.start else ["rotation"]), *([] if last else ["undecided"])]


HEAD_OUTPUTS = ("matches", "match_scores")
"""What ``MatchHead`` returns."""


def head_inputs(rows: int, half: bool) -> dict[str, Tensor]:
    """Tensors as ``MatchHead`` takes them, in its order, for images of ``rows`` points."""
    return {
        "state": torch.zeros(2, rows, DIM, dtype=torch.float16 if half else torch.float32),
        **_full_counts(rows),
        "match_threshold": torch.zeros(1),
    }


def _full_counts(rows: int) -> dict[str, Tensor]:
    return {f"count{i}": torch.full((1,), rows, dtype=torch.int32) for i in (0, 1)}


class Segment(nn.Module):
    """Later layers of LightGlue for two images of K rows each."""

    def __init__(
        self, weights: Weights, layers: range, of: int, half: bool, operations: Operations = PLAIN
    ) -> None:
        """``weights``: of these ``layers`` of ``of``, from ``fold.matcher``."""
        super().__init__()
        self.operations = operations
        self.layers = nn.ModuleList(
            Layer(part(weights, f"layers.{i}"), operations) for i in range(len(layers))
        )
        self.exit_threshold = exit_threshold(layers[-1], of)
        if half:
            self.half()

    def forward(
        self, state: Tensor, rotation: Tensor, count0: Tensor, count1: Tensor
    ) -> tuple[Tensor, ...]:
        """State, and undecided share [1] (not from the last layer).

        state: 2×K×256. rotation: 2×K×64. count0, count1: [1], valid rows.
        See ``aliked_ros.models.device_export.matcher_graphs``.
        """
        valid, padding = self.operations.rows(rotation, count0, count1)
        for layer in self.layers:
            state, *heads = layer(state, padding, *([] if layer.block is None else [rotation]))
        if not heads:
            return (state,)
        (confidence,) = heads  # of the last layer
        share = self.operations.undecided(confidence, self.exit_threshold, valid, count0, count1)
        return state, share


class MatchHead(_Block):
    """Matches after a layer, of two images of K rows each: run once, after the layer of the exit.

    It compares every row with every other, as much memory as several layers of attention.
    """

    matchability: Tensor
    matchability_bias: Tensor

    def __init__(self, weights: Weights, half: bool, operations: Operations = PLAIN) -> None:
        """``weights``: from ``fold.match_head``."""
        super().__init__(weights, operations)
        self.assignment = Assignment(part(weights, "assignment"), operations)
        if half:
            self.half()

    def forward(
        self, state: Tensor, count0: Tensor, count1: Tensor, match_threshold: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mutual best pairs of the soft assignment (section 3.2): matches K, their scores K.

        state: 2×K×256. count0, count1: [1], valid rows. match_threshold: [1].
        See ``aliked_ros.models.device_export.matcher_graphs``.
        """
        valid, _ = PLAIN.rows(state, count0, count1)
        logit = self.operations.linear(state, self.matchability, self.matchability_bias)
        matchability = torch.sigmoid(logit)[..., 0].float()
        similarity = self.assignment(state[0], state[1]).float()
        pairs = valid[0][:, None] & valid[1]
        similarity = torch.where(pairs, similarity, torch.scalar_tensor(_IMPOSSIBLE))
        certainty = matchability.clamp(min=_LEAST_PROBABILITY).log()
        row_term = certainty[0] - _log_sum_exp(similarity, 1)
        column_term = certainty[1] - _log_sum_exp(similarity, 0)
        doubled = 2 * similarity
        best, forward = (doubled + column_term).topk(1, dim=1)
        backward = (doubled + row_term[:, None]).argmax(0)
        score = (best[:, 0] + row_term).exp()
        forward = forward[:, 0]
        rows = torch.arange(forward.shape[0])
        kept = (backward[forward] == rows) & valid[0] & valid[1][forward]
        kept = kept & (score > match_threshold)
        matches = torch.where(kept, forward, -1).to(torch.int32)
        return matches, torch.where(kept, score, torch.zeros(()))


class FirstSegment(nn.Module):
    """``Segment`` from keypoints and descriptors on, with the first layers."""

    def __init__(
        self, weights: Weights, layers: range, of: int, half: bool, operations: Operations = PLAIN
    ) -> None:
        """See ``Segment``."""
        super().__init__()
        self.embedding = Embedding(part(weights, "embedding"), operations)
        if half:
            self.embedding.half()
        self.angles = parameter(weights["angles"])
        self.matcher = Segment(part(weights, "matcher"), layers, of, half, operations)

    def forward(
        self,
        keypoints0: Tensor,
        keypoints1: Tensor,
        descriptors0: Tensor,
        descriptors1: Tensor,
        size: Tensor,
        count0: Tensor,
        count1: Tensor,
    ) -> tuple[Tensor, ...]:
        """As ``Segment.forward``, and with the state the rotation.

        keypoints0, keypoints1: K×2 pixels. descriptors0, descriptors1: K×D. size: width, height.
        """
        operations, dtype = self.matcher.operations, descriptors0.dtype
        rotation = operations.encode(keypoints0, keypoints1, size, self.angles, dtype)
        _, padding = operations.rows(rotation, count0, count1)
        state = self.embedding(torch.stack([descriptors0, descriptors1]), rotation, padding)
        state, *share = self.matcher(state, rotation, count0, count1)
        return state, rotation, *share


def _swap_images(x: Tensor) -> Tensor:
    return torch.cat([x[1:], x[:1]])


def _log_sum_exp(x: Tensor, dim: int) -> Tensor:
    """As torch.logsumexp; TensorRT's ReduceLogSumExp does not subtract the maximum."""
    largest = x.amax(dim, keepdim=True)
    return (x - largest).exp().sum(dim).log() + largest.squeeze(dim)
