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

"""The networks as graphs that never leave a GPU: image → keypoints and descriptors → matches.

The same functions as in ``folded``, with all that the CPU backend does in compiled loops written as
operations that every TensorRT has (no DeformConv, no plugin, no loop, no condition):

- deformable convolutions are nine bilinear reads in one GridSample, and one matrix product;
- no two keypoints share one of the 3×3 cells of the score map (non-maximum suppression keeps
  them 3 pixels apart), so the best K are sought among one candidate per cell;
- SDDH reads rows of the four feature tables, one Gather per level, and weights them;
- the number of rows is fixed, and a count says how many of them mean something.

In half precision (``half=True``) the convolutions, feature tables, matrix products and attention
are float16; coordinates, the score map, sums of squares and match probabilities stay float32.
Measured: float32 for LightGlue's states, exit heads and assignment too changes no match.

Made to be exported (``aliked_ros.models.device_export``): constants are created on the CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aliked_ros.networks import folded
from aliked_ros.networks.aliked import Window, pad, suppress_non_maxima
from aliked_ros.networks.constants import (
    DIM,
    HEAD_DIM,
    NMS_RADIUS,
    SOFT_ARGMAX_TEMPERATURE,
    exit_threshold,
)
from aliked_ros.networks.deform_conv import deform_reads
from aliked_ros.networks.fold import PIXEL_SCALE, AlikedShape, LightGlueShape, Weights
from aliked_ros.networks.folded import elu

CELL = NMS_RADIUS + 1
"""Pixels: two local maxima are at least so far apart, so that one cell holds one at most."""

_PADDING = -30000.0  # added to the attention of padding rows: no weight, and within half precision
_IMPOSSIBLE = -1e9  # similarity of padding rows
_LEAST_PROBABILITY = 1e-37

EXTRACTOR_OUTPUTS = ("keypoints", "scores", "descriptors", "count")


def extractor_inputs(height: int, width: int, channels: int, top_k: int) -> dict[str, Tensor]:
    """Tensors as ``DeviceExtractor`` takes them, in its order."""
    return {
        "image": torch.zeros(1, height, width, channels, dtype=torch.uint8),
        "mask": torch.ones(height, width, dtype=torch.uint8),
        "threshold": torch.zeros(1),
        "slots": torch.zeros(top_k),
    }


def matcher(
    weights: Weights, layers: range, shape: LightGlueShape, half: bool
) -> DeviceMatcher | DeviceMatcherStart:
    """These of LightGlue's layers, with what comes before the first one (``fold.matcher``)."""
    kind = DeviceMatcher if layers.start else DeviceMatcherStart
    return kind(weights, layers, shape.layers, half)


def matcher_inputs(
    shape: LightGlueShape, layers: range, rows: int, half: bool
) -> dict[str, Tensor]:
    """Tensors as ``matcher`` takes them, in its order, for images of ``rows`` points."""
    dtype = torch.float16 if half else torch.float32
    ends = {
        "count0": torch.full((1,), rows, dtype=torch.int32),
        "count1": torch.full((1,), rows, dtype=torch.int32),
        "match_threshold": torch.zeros(1),
    }
    if layers.start:
        return {
            "state": torch.zeros(2, rows, DIM, dtype=dtype),
            "rotation": torch.zeros(2, rows, HEAD_DIM, dtype=dtype),
            **ends,
        }
    return {
        "keypoints0": torch.zeros(rows, 2),
        "keypoints1": torch.zeros(rows, 2),
        "descriptors0": torch.zeros(rows, shape.input_dim, dtype=dtype),
        "descriptors1": torch.zeros(rows, shape.input_dim, dtype=dtype),
        "size": torch.full((2,), 64.0),
        **ends,
    }


def matcher_outputs(shape: LightGlueShape, layers: range) -> list[str]:
    """Names of what ``matcher`` gives, in its order."""
    kept = ["new_state", *([] if layers.start else ["rotation"]), "undecided"]
    return [*([] if layers.stop == shape.layers else kept), "matches", "match_scores"]


class DeformableReads(nn.Module):
    """A folded deformable convolution, decomposed; positions are in float32."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.offset_conv = folded.conv(weights, "offset_conv")
        self.weight, self.bias = (folded.parameter(weights[n]) for n in ("weight", "bias"))

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        limit = max(height, width) / 4
        offset = self.offset_conv(x).float().clamp(-limit, limit)
        reads = deform_reads(x.float(), offset).to(x.dtype)
        return (self.weight @ reads + self.bias).reshape(batch, -1, height, width)


class DeviceExtractor(nn.Module):
    """ALIKED from the camera's image to descriptors."""

    deformable: type[nn.Module] = DeformableReads
    """Computes a folded deformable convolution."""

    def __init__(self, weights: Weights, shape: AlikedShape, half: bool) -> None:
        """``weights``: from ``fold.extractor``."""
        super().__init__()
        self.encoder = folded.FoldedEncoder(folded.part(weights, "encoder"), self.deformable)
        self.offsets = folded.FoldedOffsets(folded.part(weights, "offsets"))
        self.aggregation = folded.FoldedAggregation(folded.part(weights, "aggregation"))
        if half:
            self.half()
        self.score_tail = nn.ParameterList(
            folded.parameter(weights[f"score_tail.{i}"]) for i in range(3)
        )
        self.kernel, self.samples = shape.kernel, shape.samples
        self.half_precision = half

    def forward(
        self, image: Tensor, mask: Tensor, threshold: Tensor, slots: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keypoints K×2, scores K, descriptors K×dim, number of valid rows [1] int32.

        image: 1×H×W×C uint8. mask: H×W uint8, 0 = no keypoint. threshold: [1]. slots: K values
        that are not read: their number is how many keypoints to give.
        """
        parts, levels, window = self.encode(image)
        score_map = self.score(parts)
        rows, columns = (
            slice(window.top, window.top + window.height),
            slice(window.left, window.left + window.width),
        )
        keypoints, scores, count = self.detect(
            score_map[0, 0, rows, columns], mask, threshold, slots.shape[0]
        )
        return keypoints, scores, self.describe(levels, keypoints, window), count

    def encode(self, image: Tensor) -> tuple[list[Tensor], list[Tensor], Window]:
        """The score head's first layer 1×8×h×w and the features 1×(dim/4)×h×w, level by level."""
        encoder = self.encoder
        dtype = torch.float16 if self.half_precision else torch.float32
        # TensorRT's only operation on 8-bit inputs is the cast
        x, window = pad(image.to(dtype).permute(0, 3, 1, 2) * (1 / PIXEL_SCALE))
        x = elu(encoder.conv2(elu(encoder.conv1(x))))
        stages = [x]
        for size, block in zip((2, 4, 4), encoder.blocks, strict=True):
            stages.append(block(F.avg_pool2d(stages[-1], size)))
        levels = [elu(head(x)) for head, x in zip(encoder.heads, stages, strict=True)]
        parts = [F.conv2d(x, w) for x, w in zip(levels, encoder.score_first, strict=True)]
        return parts, levels, window

    def score(self, parts: list[Tensor]) -> Tensor:
        """Score map 1×1×H×W float32 of what ``encode`` gives."""
        summed, *coarse = parts
        for part in coarse:
            summed = summed + F.interpolate(
                part, size=summed.shape[-2:], mode="bilinear", align_corners=True
            )
        score = summed.float()
        for weight in self.score_tail:
            score = F.conv2d(elu(score), weight, padding=1)
        return torch.sigmoid(score)

    def detect(
        self, score_map: Tensor, mask: Tensor, threshold: Tensor, top_k: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keypoints, scores and count as ``forward`` gives them, of a score map H×W."""
        return detect(score_map, mask.float() > 0, threshold, top_k)

    def describe(self, levels: list[Tensor], keypoints: Tensor, window: Window) -> Tensor:
        """See ``ALIKED.describe``."""
        tables = [x[0].permute(1, 2, 0) for x in levels]
        ticks = torch.arange(self.kernel**2)
        patch = torch.stack([ticks % self.kernel, ticks // self.kernel], dim=-1) - self.kernel // 2
        features = _read_pixels(tables, keypoints.floor()[:, None] + patch, window)
        limit = max(window.height, window.width) / 4
        offset = self.offsets(features.flatten(1)).float().clamp(-limit, limit)
        position = keypoints[:, None] + offset.unflatten(1, (2, self.samples)).transpose(1, 2)
        corner = position.floor()
        fraction = (position - corner)[:, :, None]
        ticks = torch.arange(4)
        step = torch.stack([ticks % 2, ticks // 2], dim=-1)
        # of the four pixels around: x and y parts of the bilinear weight
        weight = torch.where(step == 1, fraction, 1 - fraction).prod(-1)
        pixels = _read_pixels(tables, corner[:, :, None] + step, window)
        samples = (pixels.float() * weight[..., None]).sum(2).to(pixels.dtype)
        return self.aggregate(samples)

    def aggregate(self, samples: Tensor) -> Tensor:
        """Descriptors K×dim of the features K×M×dim at the deformable positions."""
        head = self.aggregation
        activated = elu(samples @ head.select).flatten(1)  # see FoldedAggregation
        descriptors = F.normalize((activated @ head.aggregate).float(), dim=-1)
        return descriptors.to(samples.dtype)


def detect(
    score_map: Tensor, mask: Tensor, threshold: Tensor, top_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``aliked.detect``: here always ``top_k`` rows, and the number of those that count."""
    height, width = score_map.shape
    radius = NMS_RADIUS
    y, x = torch.arange(height)[:, None], torch.arange(width)
    inside = (y >= radius) & (y < height - radius) & (x >= radius) & (x < width - radius)
    maxima = suppress_non_maxima(score_map[None, None])
    candidates = torch.where(inside & mask, maxima, torch.zeros(()))
    # the one or two rows and columns left over at the far sides belong to the border
    best = F.max_pool2d(candidates, CELL)[0, 0]
    values, cells = best.flatten().topk(top_k)
    count = (values > threshold.clamp(min=0.0)).sum(0, keepdim=True).to(torch.int32)

    cells = cells.to(torch.int32)
    across = best.shape[1]
    row = _quotient(cells, across)
    ticks = torch.arange(CELL**2, dtype=torch.int32)
    first = row * (CELL * width) + (cells - row * across) * CELL
    in_cell = _take(candidates.flatten(), first[:, None] + (ticks // CELL) * width + ticks % CELL)
    place = in_cell.argmax(1).to(torch.int32)
    place_y = _quotient(place, CELL)
    x = ((cells - row * across) * CELL + place - place_y * CELL).clamp(radius, width - 1 - radius)
    y = (row * CELL + place_y).clamp(radius, height - 1 - radius)

    side = 2 * radius + 1
    ticks = torch.arange(side**2, dtype=torch.int32)
    step_x, step_y = ticks % side - radius, ticks // side - radius
    patch = _take(score_map.flatten(), (y * width + x)[:, None] + step_y * width + step_x)
    weight = ((patch - patch.amax(1, keepdim=True)) / SOFT_ARGMAX_TEMPERATURE).softmax(1)
    steps = torch.stack([step_x, step_y], dim=-1).float()
    shift = weight @ steps
    keypoints = torch.stack([x, y], dim=-1).float() + shift
    # the bilinear read at the refined position, which lies within the patch
    near = (1 - (shift[:, None] - steps).abs()).clamp(min=0.0).prod(-1)
    return keypoints, (patch * near).sum(1), count


class DeviceMatcher(nn.Module):
    """Later layers of LightGlue for two images of K rows each, and the matches after the last."""

    def __init__(self, weights: Weights, layers: range, of: int, half: bool) -> None:
        """``weights``: of these ``layers`` of ``of``, from ``fold.matcher``."""
        super().__init__()
        self.layers = nn.ModuleList(
            folded.FoldedLayer(folded.part(weights, f"layers.{i}")) for i in range(len(layers))
        )
        self.assignment = folded.FoldedAssignment(folded.part(weights, "assignment"))
        self.is_last = layers.stop == of
        self.exit_threshold = exit_threshold(layers[-1], of)
        if half:
            self.half()

    def forward(
        self,
        state: Tensor,
        rotation: Tensor,
        count0: Tensor,
        count1: Tensor,
        match_threshold: Tensor,
    ) -> tuple[Tensor, ...]:
        """State, undecided share [1] (neither from the last layer), matches K, their scores K.

        state: 2×K×256. rotation: 2×K×64. count0, count1: [1], valid rows. match_threshold: [1].
        See ``aliked_ros.models.device_export.matcher_graphs``.
        """
        valid, mask = _valid_rows(rotation, count0, count1)
        for layer in self.layers:
            state, *heads = layer(state, mask, *([] if layer.block is None else [rotation]))
        (exits,) = heads  # of the last layer
        matches = self._match(state, exits[..., 0].float(), valid, match_threshold)
        if self.is_last:
            return matches
        unsure = (exits[..., 1].float() < self.exit_threshold) & valid
        share = unsure.float().sum().reshape(1) / (count0 + count1).clamp(min=1)
        return state, share, *matches

    def _match(
        self, state: Tensor, matchability: Tensor, valid: Tensor, threshold: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mutual best pairs of the soft assignment (section 3.2): see ``matcher_graphs``."""
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
        kept = (backward[forward] == rows) & valid[0] & valid[1][forward] & (score > threshold)
        matches = torch.where(kept, forward, -1).to(torch.int32)
        return matches, torch.where(kept, score, torch.zeros(()))


class DeviceMatcherStart(nn.Module):
    """``DeviceMatcher`` from keypoints and descriptors on, with the first layers."""

    def __init__(self, weights: Weights, layers: range, of: int, half: bool) -> None:
        """See ``DeviceMatcher``."""
        super().__init__()
        self.embedding = folded.FoldedEmbedding(folded.part(weights, "embedding"))
        if half:
            self.embedding.half()
        self.angles = folded.parameter(weights["angles"])
        self.matcher = DeviceMatcher(folded.part(weights, "matcher"), layers, of, half)

    def forward(
        self,
        keypoints0: Tensor,
        keypoints1: Tensor,
        descriptors0: Tensor,
        descriptors1: Tensor,
        size: Tensor,
        count0: Tensor,
        count1: Tensor,
        match_threshold: Tensor,
    ) -> tuple[Tensor, ...]:
        """As ``DeviceMatcher.forward``, and with the state the rotation.

        keypoints0, keypoints1: K×2 pixels. descriptors0, descriptors1: K×D. size: width, height.
        """
        points = torch.stack([keypoints0, keypoints1])
        angles = ((points - size / 2) / (size.amax(0) / 2)) @ self.angles
        rotation = torch.cat([angles.cos(), angles.sin()], dim=-1).to(descriptors0.dtype)
        _, mask = _valid_rows(rotation, count0, count1)
        state = self.embedding(torch.stack([descriptors0, descriptors1]), rotation, mask)
        outputs = self.matcher(state, rotation, count0, count1, match_threshold)
        if self.matcher.is_last:
            return outputs
        return outputs[0], rotation, *outputs[1:]


def _valid_rows(rotation: Tensor, count0: Tensor, count1: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows hold points, 2×K, and what is added to the attention that they get."""
    valid = torch.arange(rotation.shape[1]) < torch.stack([count0, count1])
    mask = torch.where(valid, 0.0, _PADDING).to(rotation.dtype)
    return valid, mask[:, None, None]


def _log_sum_exp(x: Tensor, dim: int) -> Tensor:
    """As torch.logsumexp; TensorRT's ReduceLogSumExp does not subtract the maximum."""
    largest = x.amax(dim, keepdim=True)
    return (x - largest).exp().sum(dim).log() + largest.squeeze(dim)


def _quotient(numbers: Tensor, divisor: int) -> Tensor:
    """``numbers // divisor`` of int32 ≥ 0, exact on every device.

    Exported, an integer division is one of floats, which TensorRT makes a product with the
    reciprocal: multiples of the divisor may land just below their quotient. The rest shows it.
    """
    quotient = (numbers.float() / divisor).to(torch.int32)
    rest = numbers - quotient * divisor
    return quotient + (rest >= divisor).to(torch.int32) - (rest < 0).to(torch.int32)


def _take(table: Tensor, rows: Tensor) -> Tensor:
    """``table[rows]`` as one Gather with 32-bit indices."""
    return torch.index_select(table, 0, rows.flatten()).reshape(*rows.shape, *table.shape[1:])


def _read_pixels(tables: list[Tensor], xy: Tensor, window: Window) -> Tensor:
    """Normalised features ...×dim at integer pixels (floats, ...×2), 0 outside the image.

    tables: h×w×(dim/4) of each level of the padded image.
    """
    x, y = xy.unbind(-1)
    inside = (x >= 0) & (x < window.width) & (y >= 0) & (y < window.height)
    x = x.clamp(0, window.width - 1) + window.left
    y = y.clamp(0, window.height - 1) + window.top
    full_height, full_width = tables[0].shape[:2]
    parts = [_take(tables[0].flatten(0, 1), y.int() * full_width + x.int()).float()]
    for table in tables[1:]:
        height, width = table.shape[:2]
        u = x * ((width - 1) / (full_width - 1))
        v = y * ((height - 1) / (full_height - 1))
        left, top = u.floor(), v.floor()
        a, b = u - left, v - top
        weight = torch.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b], dim=-1)
        columns = torch.stack([left, left + 1], dim=-1).int().clamp(max=width - 1)
        rows = torch.stack([top, top + 1], dim=-1).int().clamp(max=height - 1)
        corners = (rows[..., :, None] * width + columns[..., None, :]).flatten(-2)
        values = _take(table.flatten(0, 1), corners).float()
        parts.append((values * weight[..., None]).sum(-2))
    features = F.normalize(torch.cat(parts, dim=-1), dim=-1) * inside[..., None]
    return features.to(tables[0].dtype)
