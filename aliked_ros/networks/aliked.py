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

"""ALIKED (Zhao et al., arXiv 2304.03608) without its dense descriptor map.

The published network brings four 32-channel levels (strides 1, 2, 8, 32) to full resolution,
concatenates them into one map of 128 channels, normalises it, and feeds it to the score head and
to the sparse deformable descriptor head (SDDH). Neither head needs that map:

- the score head starts with a 1×1 convolution, which commutes with bilinear upsampling, so each
  level is reduced to 8 channels at its own resolution before it is upsampled;
- SDDH reads a 3×3 patch and the 4 neighbours of M deformable positions at each keypoint, so only
  those pixels are interpolated, concatenated and normalised.

Both are exact. The published form is ``aliked_ros.benchmark.dense``, to compare with.

This one definition is trained, run by PyTorch and exported; its parameters have two forms,
``ALIKED`` and, after ``fold``, ``FoldedALIKED``. It uses only operations that every TensorRT has:
no branch on values, no loop, no plugin, and a fixed number of rows with a count of the valid ones.
Two local maxima are at least 3 pixels apart (non-maximum suppression), so the best K are sought
among one candidate per 3×3 cell.

In half precision the convolutions, feature tables, reads between their pixels and matrix products
are float16; coordinates, the score map and sums of squares stay float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aliked_ros.networks.checkpoint import load_strictly
from aliked_ros.networks.constants import (
    NMS_RADIUS,
    PAD_MULTIPLE,
    SELU_ALPHA,
    SOFT_ARGMAX_TEMPERATURE,
)
from aliked_ros.networks.deform_conv import deform_conv2d, deform_reads
from aliked_ros.networks.fold import PIXEL_SCALE, AlikedShape, Weights, read_aliked
from aliked_ros.networks.weights import Weighted, part, tensors

if TYPE_CHECKING:
    from typing_extensions import Self

CELL = NMS_RADIUS + 1
"""Side in pixels of the cells that hold one local maximum at most."""

OUTPUTS = ("keypoints", "scores", "descriptors", "count")
"""What ``FoldedALIKED.forward`` returns."""

Deformable = Callable[[int, int], nn.Module]
"""Makes a deformable convolution of so many inputs and outputs."""


def example_inputs(height: int, width: int, channels: int, top_k: int) -> dict[str, Tensor]:
    """Tensors as ``FoldedALIKED.forward`` takes them, in its order."""
    return {
        "image": torch.zeros(1, height, width, channels, dtype=torch.uint8),
        "mask": torch.ones(height, width, dtype=torch.uint8),
        "threshold": torch.zeros(1),
        "slots": torch.zeros(top_k),
    }


def elu(x: Tensor) -> Tensor:
    """SELU without its factor λ."""
    return F.elu(x, SELU_ALPHA)


class ConvBlock(nn.Module):
    """Two 3×3 convolutions (paper, section III-A)."""

    def __init__(self, inputs: int, outputs: int, folded: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=folded)
        self.bn1 = _norm(outputs, folded)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=folded)
        self.bn2 = _norm(outputs, folded)
        self.activation = elu if folded else F.selu

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.bn1(self.conv1(x)))
        return self.activation(self.bn2(self.conv2(x)))


class _Deformable(nn.Module):
    """3×3 deformable convolution (DCNv1) whose offsets come from a plain 3×3 convolution.

    weight: outputs×(inputs·9). bias: outputs×1×1, where there is one.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.offset_conv = nn.Conv2d(inputs, 2 * 9, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Nine bilinear reads at float32 positions, and one matrix product."""
        batch, _, height, width = x.shape
        limit = max(height, width) / 4
        offset = self.offset_conv(x).float().clamp(-limit, limit)
        reads = deform_reads(x.float(), offset).to(x.dtype)
        result = (self.weight @ reads).reshape(batch, -1, height, width)
        return result if self.bias is None else result + self.bias


class DeformableConv(_Deformable):
    """With the parameters that are trained."""

    bias = None

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs)
        self.regular_conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.regular_conv.weight.flatten(1)


class FoldedDeformableConv(_Deformable):
    """With folded weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs * 9))
        self.bias = nn.Parameter(torch.empty(outputs, 1, 1))


class OneOperatorDeformableConv(FoldedDeformableConv):
    """As one operator of the exported graph, for runtimes that have it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        limit = torch.scalar_tensor(torch.sym_max(*x.shape[-2:]) / 4)
        offset = torch.minimum(torch.maximum(self.offset_conv(x), -limit), limit)
        return deform_conv2d(x, offset, self.weight) + self.bias


class ResBlock(nn.Module):
    """Residual block; its two convolutions are plain (block 2) or deformable (blocks 3, 4)."""

    def __init__(
        self, inputs: int, outputs: int, folded: bool, deformable: Deformable | None
    ) -> None:
        super().__init__()

        def conv(channels: int) -> nn.Module:
            if deformable:
                return deformable(channels, outputs)
            return nn.Conv2d(channels, outputs, 3, padding=1, bias=folded)

        self.conv1 = conv(inputs)
        self.bn1 = _norm(outputs, folded)
        self.conv2 = conv(outputs)
        self.bn2 = _norm(outputs, folded)
        self.downsample = nn.Conv2d(inputs, outputs, 1)
        self.activation = elu if folded else F.selu

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.bn1(self.conv1(x)))
        return self.activation(self.bn2(self.conv2(y)) + self.downsample(x))


class _DescriptorHead(nn.Module):
    """SDDH (paper, section III-C) without the reads that it needs.

    Those depend on how the feature map is held: ``ALIKED.describe``.
    """

    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    select: Tensor
    aggregate: Tensor

    def offsets(self, patches: Tensor) -> Tensor:
        """N×(K·K·dim) normalised features, pixel by pixel → N×2M pixels, all x then all y."""
        hidden = F.selu(patches @ self.weight1 + self.bias1)
        return hidden @ self.weight2 + self.bias2

    def descriptors(self, samples: Tensor) -> Tensor:
        """N×M×dim features at the deformable positions → N×dim descriptors of unit length."""
        activated = elu(samples @ self.select).flatten(1)  # λ cancels in the normalisation
        descriptors = F.normalize((activated @ self.aggregate).float(), dim=-1)
        return descriptors.to(samples.dtype)


class SDDH(_DescriptorHead):
    """The descriptor head with the parameters that are trained."""

    def __init__(self, dim: int, kernel: int, samples: int) -> None:
        super().__init__()
        self.offset_conv = nn.Sequential(
            nn.Conv2d(dim, 2 * samples, kernel), nn.SELU(), nn.Conv2d(2 * samples, 2 * samples, 1)
        )
        self.sf_conv = nn.Conv2d(dim, dim, 1, bias=False)
        self.agg_weights = nn.Parameter(torch.rand(samples, dim, dim))

    weight1 = property(lambda self: self.offset_conv[0].weight.permute(2, 3, 1, 0).flatten(0, 2))
    bias1 = property(lambda self: self.offset_conv[0].bias)
    weight2 = property(lambda self: self.offset_conv[2].weight.flatten(1).T)
    bias2 = property(lambda self: self.offset_conv[2].bias)
    select = property(lambda self: self.sf_conv.weight.flatten(1).T)
    aggregate = property(lambda self: self.agg_weights.flatten(0, 1))

    def offsets(self, patches: Tensor) -> Tensor:
        """As declared; finite even if a training diverges, since they become indices."""
        return super().offsets(patches).nan_to_num()


class FoldedSDDH(Weighted, _DescriptorHead):
    """The descriptor head with folded weights."""


@dataclass(frozen=True, slots=True)
class Window:
    """Where the unpadded image lies in the padded one, in pixels."""

    left: int
    top: int
    height: int
    width: int

    def of(self, image: Tensor) -> Tensor:
        """That part of ...×H×W."""
        rows = slice(self.top, self.top + self.height)
        return image[..., rows, self.left : self.left + self.width]


class _Network(nn.Module):
    """ALIKED, whatever form its parameters have.

    score_first, score_tail: weights of the score head's first layer, level by level, and of the
    three 3×3 convolutions after it.
    """

    conv_block: type[ConvBlock] = ConvBlock
    res_block: type[ResBlock] = ResBlock
    score_first: Iterable[Tensor]
    score_tail: Iterable[Tensor]
    desc_head: _DescriptorHead

    def __init__(
        self, shape: AlikedShape, channels: int, folded: bool, deformable: Deformable
    ) -> None:
        super().__init__()
        self.shape = shape
        c1, c2, c3, c4 = shape.channels
        level = shape.dim // 4
        self.block1 = self.conv_block(channels, c1, folded)
        self.block2 = self.res_block(c1, c2, folded, None)
        self.block3 = self.res_block(c2, c3, folded, deformable)
        self.block4 = self.res_block(c3, c4, folded, deformable)
        self.conv1 = nn.Conv2d(c1, level, 1, bias=False)
        self.conv2 = nn.Conv2d(c2, level, 1, bias=False)
        self.conv3 = nn.Conv2d(c3, level, 1, bias=False)
        self.conv4 = nn.Conv2d(c4, level, 1, bias=False)
        self.activation = elu if folded else F.selu

    def blocks(self, image: Tensor) -> list[Tensor]:
        """The four blocks' results, B×c×(H/s)×(W/s) for s in 1, 2, 8, 32.

        image: B×3×H×W, H and W multiples of PAD_MULTIPLE, in [0, 1] in the form that is trained.
        """
        x1 = self.block1(image)
        x2 = self.block2(F.avg_pool2d(x1, 2))
        x3 = self.block3(F.avg_pool2d(x2, 4))
        return [x1, x2, x3, self.block4(F.avg_pool2d(x3, 4))]

    def levels(self, image: Tensor) -> list[Tensor]:
        """The four feature levels, B×(dim/4)×(H/s)×(W/s); image: see ``blocks``."""
        return self.heads(self.blocks(image))

    def heads(self, blocks: list[Tensor]) -> list[Tensor]:
        """``levels`` from ``blocks``, or from the last of them."""
        heads = (self.conv1, self.conv2, self.conv3, self.conv4)[-len(blocks) :]
        return [self.activation(head(x)) for head, x in zip(heads, blocks, strict=True)]

    def score_parts(self, levels: list[Tensor]) -> list[Tensor]:
        """The score head's first layer, B×8×(H/s)×(W/s), of each of ``levels``."""
        weights = [*self.score_first][-len(levels) :]
        return [F.conv2d(x, w) for x, w in zip(levels, weights, strict=True)]

    def score_map(self, parts: list[Tensor]) -> Tensor:
        """Score map B×1×H×W in (0, 1), float32, from ``score_parts``."""
        summed, *coarse = parts
        for level in coarse:
            summed = summed + upsample(level, summed.shape[-2:])
        score = summed.float()
        for weight in self.score_tail:
            score = F.conv2d(self.activation(score), weight, padding=1)
        return torch.sigmoid(score)

    def detect(
        self, score_map: Tensor, mask: Tensor, threshold: Tensor, top_k: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``detect``."""
        return detect(score_map, mask, threshold, top_k)

    def describe(self, levels: list[Tensor], keypoints: Tensor, window: Window) -> Tensor:
        """Descriptors N×dim of one image (unit rows), read sparsely from its levels (B = 1).

        keypoints: N×2 pixels of the unpadded image, which lies at ``window`` of the padded one.
        """
        head, kernel, device = self.desc_head, self.shape.kernel, keypoints.device
        tables = [x[0].permute(1, 2, 0) for x in levels]
        ticks = torch.arange(kernel**2, device=device)
        patch = torch.stack([ticks % kernel, ticks // kernel], dim=-1) - kernel // 2
        features = _read_pixels(tables, keypoints.floor()[:, None] + patch, window)
        limit = max(window.height, window.width) / 4
        offset = head.offsets(features.flatten(1)).float().clamp(-limit, limit)
        position = keypoints[:, None] + offset.unflatten(1, (2, -1)).transpose(1, 2)
        corner = position.floor()
        fraction = (position - corner)[:, :, None]
        ticks = torch.arange(4, device=device)
        step = torch.stack([ticks % 2, ticks // 2], dim=-1)
        # x and y parts of the bilinear weights of the four pixels around
        weight = torch.where(step == 1, fraction, 1 - fraction).prod(-1)
        pixels = _read_pixels(tables, corner[:, :, None] + step, window)
        samples = (pixels * weight[..., None].to(pixels.dtype)).sum(2)
        return head.descriptors(samples)


class ALIKED(_Network):
    """The network as it is trained; parameters are named as in the published checkpoints."""

    def __init__(self, shape: AlikedShape) -> None:
        super().__init__(shape, 3, folded=False, deformable=DeformableConv)
        self.score_head = nn.Sequential(
            nn.Conv2d(shape.dim, 8, 1, bias=False),
            nn.SELU(),
            nn.Conv2d(8, 4, 3, padding=1, bias=False),
            nn.SELU(),
            nn.Conv2d(4, 4, 3, padding=1, bias=False),
            nn.SELU(),
            nn.Conv2d(4, 1, 3, padding=1, bias=False),
        )
        self.desc_head = SDDH(shape.dim, shape.kernel, shape.samples)

    score_first = property(lambda self: self.score_head[0].weight.chunk(4, dim=1))
    score_tail = property(lambda self: [layer.weight for layer in self.score_head[2::2]])

    @classmethod
    def from_checkpoint(cls, path: Path) -> Self:
        """The network in a published checkpoint, in evaluation mode.

        Raises WeightsError if the file is unreadable or any tensor is missing or left over.
        """
        state, shape = read_aliked(path)
        network = cls(shape)
        load_strictly(network, state, path)
        return network


class FoldedALIKED(_Network):
    """The network as it is run, from an image to keypoints and descriptors."""

    deformable: Deformable = FoldedDeformableConv
    """Computes the deformable convolutions."""

    def __init__(self, weights: Weights, shape: AlikedShape, half: bool = False) -> None:
        """``weights``: from ``fold.extractor``."""
        channels = weights["block1.conv1.weight"].shape[1]
        super().__init__(shape, channels, folded=True, deformable=self.deformable)
        self.score_first = nn.ParameterList(tensors(part(weights, "score_first")).values())
        self.desc_head = FoldedSDDH(part(weights, "desc_head"))
        if half:
            self.half()
        self.score_tail = nn.ParameterList(tensors(part(weights, "score_tail")).values())
        self.load_state_dict(tensors(weights))
        self.eval()

    def forward(
        self, image: Tensor, mask: Tensor, threshold: Tensor, slots: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keypoints K×2, scores K, descriptors K×dim, number of valid rows [1] int32.

        image: 1×H×W×C uint8. mask: H×W uint8, 0 = no keypoint. threshold: [1]. slots: K values
        that are not read; K is how many keypoints to return.
        """
        parts, levels, window = self.encode(image)
        score_map = window.of(self.score_map(parts))[0, 0]
        keypoints, scores, count = self.detect(score_map, mask, threshold, slots.shape[0])
        return keypoints, scores, self.describe(levels, keypoints, window), count

    def encode(self, image: Tensor) -> tuple[list[Tensor], list[Tensor], Window]:
        """``score_parts``, and ``levels`` of ``describe``, of an image 1×H×W×C uint8.

        It is padded around the window.
        """
        # TensorRT's only operation on 8-bit inputs is the cast
        pixels = image.to(self.conv1.weight.dtype).permute(0, 3, 1, 2)
        padded, window = pad(pixels * (1 / PIXEL_SCALE))
        return *self.tables(self.blocks(padded)), window

    def tables(self, blocks: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """``score_parts``, and ``levels`` of ``describe``, from ``blocks``."""
        levels = self.heads(blocks)
        return self.score_parts(levels), levels


class Encoder(FoldedALIKED):
    """The part that the CPU backend runs as a graph; what follows are its compiled loops."""

    deformable = OneOperatorDeformableConv

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """1×H×W×C uint8 → four 1×h×w×8 score parts, then four 1×h×w×(dim/4) feature tables.

        h, w: H and W divided by 1, 2, 8, 32.
        """
        levels = self.levels(image.permute(0, 3, 1, 2).float())
        return tuple(x.permute(0, 2, 3, 1) for x in (*self.score_parts(levels), *levels))


class Offsets(FoldedSDDH):
    """``offsets`` as a graph."""

    forward = FoldedSDDH.offsets


class Aggregation(FoldedSDDH):
    """``descriptors`` as a graph."""

    forward = FoldedSDDH.descriptors


def pad(image: Tensor) -> tuple[Tensor, Window]:
    """Replicate the edges of B×C×H×W, on both sides, up to multiples of PAD_MULTIPLE."""
    height, width = image.shape[-2:]
    extra_y, extra_x = -height % PAD_MULTIPLE, -width % PAD_MULTIPLE
    left, top = extra_x // 2, extra_y // 2
    padded = F.pad(image, (left, extra_x - left, top, extra_y - top), mode="replicate")
    return padded, Window(left, top, height, width)


def upsample(x: Tensor, size: torch.Size) -> Tensor:
    """Bilinear, corners on corners."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def detect(
    score_map: Tensor, mask: Tensor, threshold: Tensor, top_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keypoint detection (DKD; paper, section III-B) on one H×W score map.

    Returns keypoints K×2 (pixels, sub-pixel by soft-argmax), their scores K, and how many of the K
    rows are valid [1] int32: local maxima above ``threshold`` [1] where ``mask`` (H×W) is not 0,
    best first. K = ``top_k``, at most one for each 3×3 cell of the map.
    """
    x, y, count = peaks(score_map, mask, threshold, top_k)
    keypoints, scores, _ = refine(score_map, x, y)
    return keypoints, scores, count


def peaks(
    score_map: Tensor, mask: Tensor, threshold: Tensor, top_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels x and y (K int32 each) that ``detect`` refines, and its count."""
    height, width = score_map.shape
    radius, device = NMS_RADIUS, score_map.device
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    inside = (y >= radius) & (y < height - radius) & (x >= radius) & (x < width - radius)
    maxima = suppress_non_maxima(score_map[None, None])
    wanted = inside & (mask.float() > 0)
    candidates = torch.where(wanted, maxima, torch.zeros((), device=device))
    # the one or two rows and columns left over at the far sides belong to the border
    best = F.max_pool2d(candidates, CELL)[0, 0]
    values, cells = best.flatten().topk(top_k)
    count = (values > threshold.clamp(min=0.0)).sum(0, keepdim=True).to(torch.int32)

    cells = cells.to(torch.int32)
    across = best.shape[1]
    row = _quotient(cells, across)
    column = cells - row * across
    ticks = torch.arange(CELL**2, dtype=torch.int32, device=device)
    first = row * (CELL * width) + column * CELL
    in_cell = _take(candidates.flatten(), first[:, None] + (ticks // CELL) * width + ticks % CELL)
    place = in_cell.argmax(1).to(torch.int32)
    place_y = _quotient(place, CELL)
    # cells without a candidate may lie at the border
    x = (column * CELL + place - place_y * CELL).clamp(radius, width - 1 - radius)
    y = (row * CELL + place_y).clamp(radius, height - 1 - radius)
    return x, y, count


def refine(score_map: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sub-pixel keypoints N×2 by soft-argmax around pixels, their scores N and dispersities N.

    x, y: N integers each, NMS_RADIUS pixels or more from the border. The dispersity is the mean
    distance in pixels of the softmax's weight from the keypoint (ALIKE, arXiv 2112.02906): small
    where the score map has a sharp peak.
    """
    width, radius = score_map.shape[1], NMS_RADIUS
    side = 2 * radius + 1
    ticks = torch.arange(side**2, dtype=torch.int32, device=score_map.device)
    step_x, step_y = ticks % side - radius, ticks // side - radius
    patch = _take(score_map.flatten(), (y * width + x)[:, None] + step_y * width + step_x)
    weight = ((patch - patch.amax(1, keepdim=True)) / SOFT_ARGMAX_TEMPERATURE).softmax(1)
    steps = torch.stack([step_x, step_y], dim=-1).to(score_map.dtype)
    shift = weight @ steps
    away = shift[:, None] - steps
    # the bilinear read at the refined position, which lies within the patch
    near = (1 - away.abs()).clamp(min=0.0).prod(-1)
    keypoints = torch.stack([x, y], dim=-1).to(score_map.dtype) + shift
    distance = torch.linalg.vector_norm(away, dim=-1)
    return keypoints, (patch * near).sum(1), (weight * distance).sum(1)


def suppress_non_maxima(scores: Tensor) -> Tensor:
    """Scores at local maxima, else 0; two more rounds find maxima behind suppressed ones."""

    def widen(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2 * NMS_RADIUS + 1, stride=1, padding=NMS_RADIUS)

    maxima = scores == widen(scores)
    for _ in range(2):
        suppressed = widen(maxima.float()) > 0
        remaining = torch.where(suppressed, torch.zeros_like(scores), scores)
        maxima = maxima | ((remaining == widen(remaining)) & ~suppressed)
    return torch.where(maxima, scores, torch.zeros_like(scores))


def _norm(channels: int, folded: bool) -> nn.Module:
    return nn.Identity() if folded else nn.BatchNorm2d(channels)


def _quotient(numbers: Tensor, divisor: int) -> Tensor:
    """``numbers // divisor`` of int32 ≥ 0, exact on every device.

    Exported, an integer division becomes one of floats, which TensorRT computes as a product with
    the reciprocal: multiples of the divisor may land just below their quotient. The remainder
    shows it.
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
    parts = [_take(tables[0].flatten(0, 1), y.int() * full_width + x.int())]
    for table in tables[1:]:
        height, width = table.shape[:2]
        u = x * ((width - 1) / (full_width - 1))
        v = y * ((height - 1) / (full_height - 1))
        left, top = u.floor(), v.floor()
        a, b = u - left, v - top
        weight = torch.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b], dim=-1)
        weight = weight.to(table.dtype)
        columns = torch.stack([left, left + 1], dim=-1).int().clamp(max=width - 1)
        rows = torch.stack([top, top + 1], dim=-1).int().clamp(max=height - 1)
        corners = (rows[..., :, None] * width + columns[..., None, :]).flatten(-2)
        values = _take(table.flatten(0, 1), corners)
        parts.append((values * weight[..., None]).sum(-2))
    features = torch.cat(parts, dim=-1)
    # as normalize() does, but no float32 copy of half precision is kept for the division
    length = torch.linalg.vector_norm(features.float(), dim=-1, keepdim=True)
    least = max(1e-12, torch.finfo(features.dtype).tiny)
    length = length.clamp_min(least).to(features.dtype).expand_as(features)
    return (features / length) * inside[..., None]
