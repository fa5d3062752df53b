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

"""ALIKED as published, over a full-resolution feature map, to compare with."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aliked_ros.backends.cpu.dkd import spread
from aliked_ros.networks.aliked import ALIKED, pad, suppress_non_maxima, upsample
from aliked_ros.networks.constants import NMS_RADIUS, SOFT_ARGMAX_TEMPERATURE
from aliked_ros.types import Features, Float32Array, UInt8Array


class DenseAliked(nn.Module):
    """Image to keypoints, scores, descriptors over the full-resolution feature map."""

    def __init__(self, network: ALIKED, top_k: int) -> None:
        super().__init__()
        self.network, self.top_k = network, top_k

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """1×3×H×W in [0, 1], sides multiples of 32 → N×2 pixels, N, N×dim; N is always top_k."""
        features, score_map = self.maps(image)
        keypoints, scores = detect(score_map[0, 0], self.top_k, None)
        return keypoints, scores, self.describe(features, keypoints)

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised B×dim×H×W feature map and B×1×H×W score map."""
        first, *coarse = self.network.levels(image)
        size = image.shape[-2:]
        features = torch.cat([first, *(upsample(x, size) for x in coarse)], dim=1)
        score_map = torch.sigmoid(self.network.score_head(features))
        return F.normalize(features, dim=1), score_map

    def describe(self, features: Tensor, keypoints: Tensor) -> Tensor:
        """Descriptors N×dim (unit rows) of keypoints N×2, from a map 1×dim×H×W."""
        head, shape = self.network.desc_head, self.network.shape
        height, width = features.shape[-2:]
        flat = features[0].flatten(1).T

        def read(xy: Tensor) -> Tensor:
            x, y = xy.unbind(-1)
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            rows = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
            return flat[rows] * inside[..., None]

        count, kernel = len(keypoints), shape.kernel
        ticks = torch.arange(kernel, device=keypoints.device) - kernel // 2
        patch_y, patch_x = torch.meshgrid(ticks, ticks, indexing="ij")
        patch = torch.stack([patch_x, patch_y], dim=-1).reshape(1, -1, 2)
        pixels = keypoints.long()[:, None] + patch
        patches = read(pixels).reshape(count, kernel, kernel, shape.dim).permute(0, 3, 1, 2)
        limit = max(height, width) / 4.0
        offset = head.offset_conv(patches).clamp(-limit, limit)
        offset = offset.reshape(count, 2, shape.samples).transpose(1, 2)  # x offsets first, then y
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


class DenseExtractor:
    """The published form in eager PyTorch; see ``FeatureNetwork``."""

    users = 1

    def __init__(self, network: ALIKED, device: torch.device) -> None:
        self._network, self._device = DenseAliked(network, 0), device

    @torch.inference_mode()
    def extract(
        self,
        pixels: UInt8Array,
        mask: UInt8Array | None,
        top_k: int,
        threshold: float,
        grid: int,
        reference: Features | None = None,
    ) -> tuple[Float32Array, Float32Array, Float32Array]:
        """See ``FeatureNetwork``."""
        image = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)
        image = image.reshape(1, *image.shape[:2], -1).permute(0, 3, 1, 2).float() / 255
        padded, window = pad(image.expand(-1, 3, -1, -1))
        valid = None if mask is None else torch.from_numpy(mask != 0).to(self._device)
        features, score_map = (window.of(x) for x in self._network.maps(padded))
        candidates = score_map.numel() if grid else top_k
        keypoints, scores = detect(score_map[0, 0], candidates, threshold, valid)
        if grid:
            x, y = keypoints.cpu().numpy().round().astype(np.int64).T
            kept = torch.from_numpy(spread(x, y, pixels.shape, top_k, grid)).to(self._device)
            keypoints, scores = keypoints[kept], scores[kept]
        descriptors = self._network.describe(features, keypoints)
        return keypoints.cpu().numpy(), scores.cpu().numpy(), descriptors.cpu().numpy()


def export_dense(network: ALIKED, width: int, height: int, top_k: int) -> bytes:
    """Plain ONNX export of the published form for one image size: content of an ONNX file."""
    from aliked_ros.models.export import trace

    outputs = ["keypoints", "scores", "descriptors"]
    image = torch.zeros(1, 3, height, width)
    model = trace(DenseAliked(network, top_k), {"image": image}, outputs, None)
    return bytes(model.SerializeToString())


def detect(
    score_map: Tensor, top_k: int, threshold: float | None, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Keypoints N×2 (pixels, sub-pixel by soft-argmax) of an H×W score map, their scores N.

    Best first: at most ``top_k``, each a local maximum above ``threshold`` where ``valid`` (H×W
    bool) holds; always ``top_k`` of them, local maximum or not, where ``threshold`` is None.
    """
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
    x, y = rows % width, rows // width
    ticks = torch.arange(-radius, radius + 1, device=score_map.device)
    patch_y, patch_x = torch.meshgrid(ticks, ticks, indexing="ij")
    padded = F.pad(score_map, (radius,) * 4)
    patch = padded[
        (y[:, None] + patch_y.flatten() + radius), (x[:, None] + patch_x.flatten() + radius)
    ]
    weight = ((patch - patch.amax(dim=1, keepdim=True)) / SOFT_ARGMAX_TEMPERATURE).exp()
    grid = torch.stack([patch_x.flatten(), patch_y.flatten()], dim=-1).to(weight.dtype)
    keypoints = torch.stack([x, y], dim=-1) + weight @ grid / weight.sum(dim=1, keepdim=True)
    scale = torch.tensor([width - 1, height - 1], device=score_map.device)
    scores = F.grid_sample(
        score_map[None, None], (keypoints / scale * 2 - 1)[None, None], align_corners=True
    )[0, 0, 0]
    return keypoints, scores
