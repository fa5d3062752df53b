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

Both are exact. ``dense_maps`` keeps the published form, to compare with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aliked_ros.networks.checkpoint import load_strictly
from aliked_ros.networks.constants import NMS_RADIUS, PAD_MULTIPLE, SOFT_ARGMAX_TEMPERATURE
from aliked_ros.networks.deform_conv import deform_conv2d
from aliked_ros.networks.fold import AlikedShape, read_aliked

STRIDES = (1, 2, 8, 32)


class ConvBlock(nn.Module):
    """Two 3×3 convolutions, each with batch normalisation and SELU (paper, section III-A)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.selu(self.bn1(self.conv1(x)))
        return F.selu(self.bn2(self.conv2(x)))


class DeformableConv(nn.Module):
    """3×3 deformable convolution (DCNv1) whose offsets come from a plain 3×3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.offset_conv = nn.Conv2d(inputs, 2 * 9, 3, padding=1)
        self.regular_conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        limit = max(x.shape[-2:]) / 4.0
        offset = self.offset_conv(x).clamp(-limit, limit)
        return deform_conv2d(x, offset, self.regular_conv.weight)


class ResBlock(nn.Module):
    """Residual block; its two convolutions are plain (block 2) or deformable (blocks 3, 4)."""

    def __init__(self, inputs: int, outputs: int, deformable: bool) -> None:
        super().__init__()

        def conv(channels: int) -> nn.Module:
            if deformable:
                return DeformableConv(channels, outputs)
            return nn.Conv2d(channels, outputs, 3, padding=1, bias=False)

        self.conv1 = conv(inputs)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.selu(self.bn1(self.conv1(x)))
        return F.selu(self.bn2(self.conv2(y)) + self.downsample(x))


class SDDH(nn.Module):
    """Sparse deformable descriptor head (paper, section III-C): its parameters.

    The reads it makes depend on how the feature map is held; ``ALIKED.describe`` makes them.
    """

    def __init__(self, dim: int, kernel: int, samples: int) -> None:
        super().__init__()
        self.offset_conv = nn.Sequential(
            nn.Conv2d(dim, 2 * samples, kernel), nn.SELU(), nn.Conv2d(2 * samples, 2 * samples, 1)
        )
        self.sf_conv = nn.Conv2d(dim, dim, 1, bias=False)
        self.agg_weights = nn.Parameter(torch.rand(samples, dim, dim))


class ALIKED(nn.Module):
    """The network of one variant; parameters are named as in the published checkpoints."""

    def __init__(self, shape: AlikedShape) -> None:
        super().__init__()
        self.shape = shape
        c1, c2, c3, c4 = shape.channels
        level = shape.dim // 4
        self.block1 = ConvBlock(3, c1)
        self.block2 = ResBlock(c1, c2, deformable=False)
        self.block3 = ResBlock(c2, c3, deformable=True)
        self.block4 = ResBlock(c3, c4, deformable=True)
        self.conv1 = nn.Conv2d(c1, level, 1, bias=False)
        self.conv2 = nn.Conv2d(c2, level, 1, bias=False)
        self.conv3 = nn.Conv2d(c3, level, 1, bias=False)
        self.conv4 = nn.Conv2d(c4, level, 1, bias=False)
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

    @classmethod
    def from_checkpoint(cls, path: Path) -> ALIKED:
        """The network in a published checkpoint, in evaluation mode.

        Raises WeightsError if the file is unreadable or any tensor is missing or left over.
        """
        state, shape = read_aliked(path)
        network = cls(shape)
        load_strictly(network, state, path)
        return network

    def levels(self, image: Tensor) -> list[Tensor]:
        """The four feature levels, B×(dim/4)×(H/s)×(W/s) for s in STRIDES.

        image: B×3×H×W in [0, 1], H and W multiples of PAD_MULTIPLE.
        """
        x1 = self.block1(image)
        x2 = self.block2(F.avg_pool2d(x1, 2))
        x3 = self.block3(F.avg_pool2d(x2, 4))
        x4 = self.block4(F.avg_pool2d(x3, 4))
        heads = (self.conv1, self.conv2, self.conv3, self.conv4)
        return [F.selu(head(x)) for head, x in zip(heads, (x1, x2, x3, x4), strict=True)]

    def score_map(self, levels: list[Tensor]) -> Tensor:
        """Score map B×1×H×W in (0, 1) from the levels, the first layer applied level by level."""
        size = levels[0].shape[-2:]
        first = self.score_head[0].weight.chunk(4, dim=1)
        parts = [F.conv2d(x, w) for x, w in zip(levels, first, strict=True)]
        summed = parts[0]
        for part in parts[1:]:
            summed = summed + _upsample(part, size)
        return torch.sigmoid(self.score_head[1:](summed))

    def dense_maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The published form: normalised B×dim×H×W feature map and B×1×H×W score map."""
        levels = self.levels(image)
        size = image.shape[-2:]
        features = torch.cat([levels[0], *(_upsample(x, size) for x in levels[1:])], dim=1)
        return F.normalize(features, dim=1), torch.sigmoid(self.score_head(features))

    def describe(self, levels: list[Tensor], keypoints: Tensor, window: Window) -> Tensor:
        """Descriptors N×dim of one image (unit rows), read sparsely from its levels (B = 1).

        keypoints: N×2 pixels of the unpadded image, which lies at ``window`` of the padded one.
        """
        tables = [x[0].flatten(1).T.contiguous() for x in levels]  # each (h·w)×(dim/4)
        sizes = [(x.shape[-2], x.shape[-1]) for x in levels]

        def read(xy: Tensor) -> Tensor:
            return _read_pixels(tables, sizes, xy, window)

        return self._describe(read, keypoints, window)

    def describe_dense(self, features: Tensor, keypoints: Tensor) -> Tensor:
        """Descriptors N×dim read from the published dense map (1×dim×H×W, unpadded)."""
        height, width = features.shape[-2:]
        flat = features[0].flatten(1).T

        def read(xy: Tensor) -> Tensor:
            x, y = xy.unbind(-1)
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            rows = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
            return flat[rows] * inside[..., None]

        return self._describe(read, keypoints, Window(0, 0, height, width))

    def _describe(
        self, read: Callable[[Tensor], Tensor], keypoints: Tensor, window: Window
    ) -> Tensor:
        """SDDH over ``read``: integer pixels (...×2, x then y) → normalised features (...×dim)."""
        head, (kernel, samples) = self.desc_head, (self.shape.kernel, self.shape.samples)
        count = len(keypoints)
        ticks = torch.arange(kernel, device=keypoints.device) - kernel // 2
        patch_y, patch_x = torch.meshgrid(ticks, ticks, indexing="ij")
        patch = torch.stack([patch_x, patch_y], dim=-1).reshape(1, -1, 2)
        pixels = keypoints.long()[:, None] + patch
        features = read(pixels).reshape(count, kernel, kernel, self.shape.dim).permute(0, 3, 1, 2)
        limit = max(window.height, window.width) / 4.0
        offset = head.offset_conv(features).clamp(-limit, limit)
        offset = offset.reshape(count, 2, samples).transpose(1, 2)  # x offsets first, then y
        position = keypoints[:, None] + offset
        corner = position.floor()
        fraction = position - corner
        sampled = torch.zeros((), device=keypoints.device)
        for dy in (0, 1):
            for dx in (0, 1):
                weight = (fraction[..., 0] if dx else 1 - fraction[..., 0]) * (
                    fraction[..., 1] if dy else 1 - fraction[..., 1]
                )
                pixel = corner.long() + torch.tensor([dx, dy], device=keypoints.device)
                sampled = sampled + weight[..., None] * read(pixel)
        activated = F.selu(sampled @ head.sf_conv.weight[:, :, 0, 0].T)
        return F.normalize(torch.einsum("nmc,mcd->nd", activated, head.agg_weights), dim=-1)


@dataclass(frozen=True, slots=True)
class Window:
    """Where the unpadded image lies in the padded one, in pixels."""

    left: int
    top: int
    height: int
    width: int


def pad(image: Tensor) -> tuple[Tensor, Window]:
    """Replicate the edges of B×C×H×W, on both sides, up to multiples of PAD_MULTIPLE."""
    height, width = image.shape[-2:]
    extra_y, extra_x = -height % PAD_MULTIPLE, -width % PAD_MULTIPLE
    left, top = extra_x // 2, extra_y // 2
    padded = F.pad(image, (left, extra_x - left, top, extra_y - top), mode="replicate")
    return padded, Window(left, top, height, width)


def detect(
    score_map: Tensor, top_k: int, threshold: float | None, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Differentiable keypoint detection (paper, section III-B) on one H×W score map.

    Returns keypoints N×2 (pixels, sub-pixel by soft-argmax) and their scores N, best first:
    at most ``top_k``, each a local maximum above ``threshold`` where ``valid`` (H×W bool) holds;
    always ``top_k`` of them, local maximum or not, where ``threshold`` is None.
    """
    x, y = peaks(score_map, top_k, threshold, valid)
    keypoints, scores, _ = refine(score_map, x, y)
    return keypoints, scores


def peaks(
    score_map: Tensor, top_k: int, threshold: float | None, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Pixels x and y, N integers each, of what ``detect`` refines; see there."""
    height, width = score_map.shape
    radius = NMS_RADIUS
    maxima = suppress_non_maxima(score_map[None, None])[0, 0]
    border = torch.zeros_like(maxima)
    border[radius : height - radius, radius : width - radius] = 1
    if valid is not None:
        border = border * valid
    candidates = (maxima * border).flatten()
    values, rows = candidates.topk(min(top_k, candidates.numel()))
    if threshold is not None:
        rows = rows[values > max(threshold, 0.0)]
    return rows % width, rows // width


def refine(score_map: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sub-pixel keypoints N×2 by soft-argmax around pixels, their scores N and dispersities N.

    The dispersity is the mean distance in pixels of the softmax's weight from the keypoint
    (ALIKE, arXiv 2112.02906): small where the score map has a sharp peak.
    """
    height, width = score_map.shape
    radius = NMS_RADIUS
    ticks = torch.arange(-radius, radius + 1, device=score_map.device)
    patch_y, patch_x = torch.meshgrid(ticks, ticks, indexing="ij")
    padded = F.pad(score_map, (radius,) * 4)
    patch = padded[
        (y[:, None] + patch_y.flatten() + radius), (x[:, None] + patch_x.flatten() + radius)
    ]
    weight = ((patch - patch.amax(dim=1, keepdim=True)) / SOFT_ARGMAX_TEMPERATURE).exp()
    grid = torch.stack([patch_x.flatten(), patch_y.flatten()], dim=-1).to(weight.dtype)
    total = weight.sum(dim=1, keepdim=True)
    shift = weight @ grid / total
    keypoints = torch.stack([x, y], dim=-1) + shift
    scale = torch.tensor([width - 1, height - 1], device=score_map.device)
    scores = F.grid_sample(
        score_map[None, None], (keypoints / scale * 2 - 1)[None, None], align_corners=True
    )[0, 0, 0]
    distance = torch.linalg.vector_norm(grid - shift[:, None], dim=-1)
    return keypoints, scores, (weight * distance).sum(dim=1) / total[:, 0]


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


def _upsample(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=True)


def _read_pixels(
    tables: list[Tensor], sizes: list[tuple[int, int]], xy: Tensor, window: Window
) -> Tensor:
    """Normalised features (...×dim) at integer pixels of the unpadded image, 0 outside it."""
    x, y = xy.unbind(-1)
    inside = (x >= 0) & (x < window.width) & (y >= 0) & (y < window.height)
    x = x.clamp(0, window.width - 1) + window.left
    y = y.clamp(0, window.height - 1) + window.top
    full_height, full_width = sizes[0]
    parts = [tables[0][y * full_width + x]]
    for table, (height, width) in zip(tables[1:], sizes[1:], strict=True):
        u = x * ((width - 1) / (full_width - 1))
        v = y * ((height - 1) / (full_height - 1))
        left, top = u.floor().long(), v.floor().long()
        right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
        a, b = (u - left)[..., None], (v - top)[..., None]
        upper = table[top * width + left] * (1 - a) + table[top * width + right] * a
        lower = table[bottom * width + left] * (1 - a) + table[bottom * width + right] * a
        parts.append(upper * (1 - b) + lower * b)
    return F.normalize(torch.cat(parts, dim=-1), dim=-1) * inside[..., None]
