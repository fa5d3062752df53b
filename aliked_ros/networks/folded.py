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

"""The networks as they are run: modules over the weights that ``fold`` makes.

They serve PyTorch on a GPU, and are what the published graphs are exported from.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from aliked_ros.networks.constants import DIM, HEAD_DIM, HEADS, SELU_ALPHA
from aliked_ros.networks.deform_conv import deform_conv2d
from aliked_ros.networks.fold import Array, Weights
from aliked_ros.networks.lightglue import join_heads, split_heads


def parameter(array: Array) -> nn.Parameter:
    """An array as parameter of a module."""
    return nn.Parameter(torch.from_numpy(np.ascontiguousarray(array)))


def part(weights: Weights, name: str) -> Weights:
    """The weights of a submodule, without its name before them."""
    start = f"{name}."
    return {n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)}


def elu(x: Tensor) -> Tensor:
    """SELU without its factor λ."""
    return F.elu(x, SELU_ALPHA)


# with a mask and any number of rows; not cuDNN's, which may not have been tried with such strides
_FUSED = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight + bias``, which on a GPU is one operation."""
    return F.linear(x, weight.T, bias) if x.is_cuda else x @ weight + bias


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention of B×H×N×C, queries scaled; on a GPU its N×N weights never are in memory."""
    if query.is_cuda:
        with sdpa_kernel(_FUSED):
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
    return (query @ key.transpose(-1, -2) + mask).softmax(-1) @ value


def conv(weights: Weights, name: str) -> nn.Conv2d:
    """A convolution that keeps the image's size; ``name``: before its weights' names."""
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    outputs, inputs, *kernel = weight.shape
    module = nn.Conv2d(
        inputs, outputs, tuple(kernel), padding=kernel[0] // 2, bias=bias is not None
    )
    module.weight = parameter(weight)
    if bias is not None:
        module.bias = parameter(bias)
    return module


class _FoldedDeformable(nn.Module):
    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.offset_conv = conv(weights, "offset_conv")
        self.weight, self.bias = parameter(weights["weight"]), parameter(weights["bias"])

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        limit = torch.sym_max(height, width) / 4
        offset = torch.minimum(
            torch.maximum(self.offset_conv(x), -torch.scalar_tensor(limit)),
            torch.scalar_tensor(limit),
        )
        return deform_conv2d(x, offset, self.weight) + self.bias


class _FoldedResBlock(nn.Module):
    def __init__(self, weights: Weights, deformable: type[nn.Module]) -> None:
        super().__init__()

        def any_conv(name: str) -> nn.Module:
            if f"{name}.offset_conv.weight" in weights:
                return deformable(part(weights, name))
            return conv(weights, name)

        self.conv1, self.conv2 = any_conv("conv1"), any_conv("conv2")
        self.downsample = conv(weights, "downsample")

    def forward(self, x: Tensor) -> Tensor:
        return elu(self.conv2(elu(self.conv1(x))) + self.downsample(x))


class FoldedEncoder(nn.Module):
    """uint8 image in; the score head's first layer and the feature tables out, level by level.

    What follows (upsampling, the three small convolutions of the score head, detection, SDDH)
    is faster as compiled loops than as graph nodes: see ``aliked_ros.backends.cpu.kernels``.
    """

    def __init__(self, weights: Weights, deformable: type[nn.Module] = _FoldedDeformable) -> None:
        """``weights``: from ``fold.encoder``; ``deformable``: takes those of such a convolution."""
        super().__init__()
        self.conv1, self.conv2 = conv(weights, "conv1"), conv(weights, "conv2")
        self.blocks = nn.ModuleList(
            _FoldedResBlock(part(weights, f"blocks.{i}"), deformable) for i in range(3)
        )
        self.heads = nn.ModuleList(conv(weights, f"heads.{i}") for i in range(4))
        self.score_first = nn.ParameterList(
            parameter(weights[f"score_first.{i}"]) for i in range(4)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """1×H×W×C uint8 → four 1×h×w×8 score parts, then four 1×h×w×(dim/4) feature tables.

        h, w: H and W divided by 1, 2, 8, 32.
        """
        x = image.permute(0, 3, 1, 2).float()
        x = elu(self.conv2(elu(self.conv1(x))))
        stages = [x]
        for pool, block in zip((2, 4, 4), self.blocks, strict=True):
            stages.append(block(F.avg_pool2d(stages[-1], pool)))
        levels = [elu(head(x)) for head, x in zip(self.heads, stages, strict=True)]
        parts = [F.conv2d(x, w) for x, w in zip(levels, self.score_first, strict=True)]
        return tuple(x.permute(0, 2, 3, 1) for x in (*parts, *levels))


class _Weights(nn.Module):
    """A module whose parameters are these weights, all of them its own."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_parameter(name, parameter(weight))


class FoldedOffsets(_Weights):
    """SDDH's deformable offsets from the patch under each keypoint (``fold.offsets``)."""

    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor

    def forward(self, patches: Tensor) -> Tensor:
        """N×(K·K·dim) normalised features → N×2M offsets in pixels, all x then all y."""
        return linear(F.selu(linear(patches, self.weight1, self.bias1)), self.weight2, self.bias2)


class FoldedAggregation(_Weights):
    """SDDH's descriptors from the features at the deformable positions (``fold.aggregation``)."""

    select: Tensor
    aggregate: Tensor

    def forward(self, samples: Tensor) -> Tensor:
        """N×M×dim features → N×dim descriptors of unit length."""
        activated = elu(samples @ self.select).flatten(1)  # λ cancels in the normalisation
        return F.normalize(activated @ self.aggregate, dim=-1)


class _FoldedSelf(nn.Module):
    """Self-attention block, for a batch of images."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.qkv, self.qkv_bias = parameter(weights["qkv"]), parameter(weights["qkv_bias"])
        self.ffn = _FoldedFeedForward(part(weights, "ffn"))

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor) -> Tensor:
        qkv = linear(x, self.qkv, self.qkv_bias)
        cosine, sine = (r[:, None] for r in rotation.chunk(2, dim=-1))
        if x.is_cuda:  # a third of the launches
            heads = qkv[..., : 2 * DIM].unflatten(-1, (2 * HEADS, HEAD_DIM)).transpose(1, 2)
            a, b = heads.chunk(2, dim=-1)
            turned = (
                torch.addcmul(a * cosine, b, sine, value=-1),
                torch.addcmul(b * cosine, a, sine),
            )
            q, k = torch.cat(turned, dim=-1).chunk(2, dim=1)
            v = qkv[..., 2 * DIM :]
        else:
            q, k, v = qkv.chunk(3, dim=-1)
            q, k = (_rotate_halves(split_heads(y), cosine, sine) for y in (q, k))
        return self.ffn(x, join_heads(_attend(q, k, split_heads(v), mask)))


class FoldedEmbedding(nn.Module):
    """Input projection and the first self-attention: all that needs one image alone.

    A frame's embedding serves twice, against the frame before and against the one after.
    """

    def __init__(self, weights: Weights) -> None:
        """``weights``: from ``fold.embedding``."""
        super().__init__()
        self.weight, self.bias = parameter(weights["weight"]), parameter(weights["bias"])
        self.block = _FoldedSelf(part(weights, "block"))

    def forward(self, descriptors: Tensor, rotation: Tensor, mask: Tensor) -> Tensor:
        """First states 1×N×256 of one image's points.

        descriptors: 1×N×input_dim. rotation: 1×N×64, 32 cosines, then 32 sines.
        mask: 1×1×1×N, 0 for points, a large negative number for padding.
        """
        return self.block(linear(descriptors, self.weight, self.bias), rotation, mask)


class FoldedLayer(nn.Module):
    """One LightGlue layer for a batch of the two images, with its exit and pruning heads.

    The first layer's self-attention belongs to ``FoldedEmbedding``.
    """

    def __init__(self, weights: Weights) -> None:
        """``weights``: from ``fold.layer``."""
        super().__init__()
        block = part(weights, "block")
        self.block = _FoldedSelf(block) if block else None
        self.qk_v, self.qk_v_bias = parameter(weights["qk_v"]), parameter(weights["qk_v_bias"])
        self.ffn = _FoldedFeedForward(part(weights, "ffn"))
        self.has_exits = "exits" in weights
        if self.has_exits:
            self.exits = parameter(weights["exits"])
            self.exits_bias = parameter(weights["exits_bias"])

    def forward(
        self, x: Tensor, mask: Tensor, rotation: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Update the states of both images.

        x: 2×N×256. mask: 2×1×1×N, 0 for points, a large negative number for padding.
        rotation: 2×N×64, not in the first layer. Returns x and, where it has exit heads, 2×N×2:
        matchability and confidence, as probabilities.
        """
        if self.block is not None:
            assert rotation is not None
            x = self.block(x, rotation, mask)
        qk, v = (split_heads(y) for y in linear(x, self.qk_v, self.qk_v_bias).chunk(2, dim=-1))
        context = _attend(qk, _swap_images(qk), _swap_images(v), _swap_images(mask))
        x = self.ffn(x, join_heads(context))
        if not self.has_exits:
            return (x,)
        return x, torch.sigmoid(linear(x, self.exits, self.exits_bias))


class _FoldedFeedForward(_Weights):
    """Residual update from state and attention context."""

    weight1: Tensor
    bias1: Tensor
    gain: Tensor
    shift: Tensor
    weight2: Tensor
    bias2: Tensor

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = linear(torch.cat([x, context], dim=-1), self.weight1, self.bias1)
        y = F.gelu(F.layer_norm(y, [2 * DIM], self.gain, self.shift))
        return x + linear(y, self.weight2, self.bias2)


def _rotate_halves(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1)


def _swap_images(x: Tensor) -> Tensor:
    return torch.cat([x[1:], x[:1]])


class FoldedAssignment(_Weights):
    """LightGlue's match assignment after a given layer (``fold.assignment``)."""

    weight: Tensor
    bias: Tensor

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        """States N0×256 and N1×256 → similarity N0×N1."""
        return linear(x0, self.weight, self.bias) @ linear(x1, self.weight, self.bias).T
