"""The networks rewritten for inference: same function, fewer and faster operations.

- Batch normalisation is folded into the convolution before it.
- SELU(x) = λ·ELU(x; α), and λ is folded into the next linear layer: runtimes fuse ELU into a
  convolution, SELU they do not.
- LightGlue's output projections are folded into the first linear layer of the feed-forward part.
- The four feature levels leave the encoder without their common factor λ: they are only read
  through an L2 normalisation, which cancels it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from aliked_ros.networks.aliked import ALIKED, DeformableConv, ResBlock
from aliked_ros.networks.constants import SELU_ALPHA, SELU_SCALE
from aliked_ros.networks.deform_conv import deform_conv2d
from aliked_ros.networks.lightglue import (
    DIM,
    HEAD_DIM,
    HEADS,
    LightGlue,
    join_heads,
    split_heads,
)


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


def _fold(
    conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None, scale: float = SELU_SCALE
) -> nn.Conv2d:
    """``conv`` followed by ``norm``, for an input that lacks the factor ``scale``."""
    weight, bias = conv.weight * scale, conv.bias
    if norm is not None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert bias is None
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = weight * gain[:, None, None, None]
        bias = norm.bias - norm.running_mean * gain
    outputs, inputs, *kernel = weight.shape
    folded = nn.Conv2d(inputs, outputs, tuple(kernel), padding=conv.padding, bias=bias is not None)
    folded.weight = nn.Parameter(weight.detach())
    if bias is not None:
        folded.bias = nn.Parameter(bias.detach())
    return folded


class _FoldedDeformable(nn.Module):
    def __init__(self, conv: DeformableConv, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.offset_conv = _fold(conv.offset_conv)
        self.conv = _fold(conv.regular_conv, norm)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        limit = torch.sym_max(height, width) / 4
        offset = torch.minimum(
            torch.maximum(self.offset_conv(x), -torch.scalar_tensor(limit)),
            torch.scalar_tensor(limit),
        )
        assert self.conv.bias is not None
        return deform_conv2d(x, offset, self.conv.weight) + self.conv.bias[:, None, None]


class _FoldedResBlock(nn.Module):
    def __init__(self, block: ResBlock) -> None:
        super().__init__()

        def fold(conv: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
            if isinstance(conv, DeformableConv):
                return _FoldedDeformable(conv, norm)
            assert isinstance(conv, nn.Conv2d)
            return _fold(conv, norm)

        self.conv1 = fold(block.conv1, block.bn1)
        self.conv2 = fold(block.conv2, block.bn2)
        self.downsample = _fold(block.downsample)

    def forward(self, x: Tensor) -> Tensor:
        return elu(self.conv2(elu(self.conv1(x))) + self.downsample(x))


class FoldedEncoder(nn.Module):
    """uint8 image in; the score head's first layer and the feature tables out, level by level.

    What follows (upsampling, the three small convolutions of the score head, detection, SDDH)
    is faster as compiled loops than as graph nodes: see ``aliked_ros.inference.kernels``.
    """

    def __init__(self, network: ALIKED, channels: int) -> None:
        """``channels``: 3 (RGB) or 1 (grey: the first convolution's input channels are summed)."""
        super().__init__()
        first = _fold(network.block1.conv1, network.block1.bn1, scale=1 / 255)
        if channels == 1:
            first.weight = nn.Parameter(first.weight.sum(1, keepdim=True).detach())
        self.conv1 = first
        self.conv2 = _fold(network.block1.conv2, network.block1.bn2)
        self.blocks = nn.ModuleList(
            _FoldedResBlock(b) for b in (network.block2, network.block3, network.block4)
        )
        self.heads = nn.ModuleList(
            _fold(h) for h in (network.conv1, network.conv2, network.conv3, network.conv4)
        )
        weights = (network.score_head[0].weight * SELU_SCALE).chunk(4, dim=1)
        self.score_first = nn.ParameterList(nn.Parameter(w.detach()) for w in weights)

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


def score_tail_weights(network: ALIKED) -> tuple[Tensor, Tensor, Tensor]:
    """The score head's three 3×3 convolutions (8→4, 4→4, 4→1), for ELU inputs without λ."""
    first, second, third = (network.score_head[i].weight * SELU_SCALE for i in (2, 4, 6))
    return first.detach(), second.detach(), third.detach()


class FoldedOffsets(nn.Module):
    """SDDH's deformable offsets from the patch under each keypoint."""

    def __init__(self, network: ALIKED) -> None:
        super().__init__()
        first, _, second = network.desc_head.offset_conv
        assert first.bias is not None
        assert second.bias is not None
        # patches arrive pixel by pixel, the channels of one pixel side by side
        self.weight1 = nn.Parameter(first.weight.permute(2, 3, 1, 0).flatten(0, 2).detach())
        self.bias1 = nn.Parameter(first.bias.detach())
        self.weight2 = nn.Parameter(second.weight[:, :, 0, 0].T.contiguous().detach())
        self.bias2 = nn.Parameter(second.bias.detach())

    def forward(self, patches: Tensor) -> Tensor:
        """N×(K·K·dim) normalised features → N×2M offsets in pixels, all x then all y."""
        return linear(F.selu(linear(patches, self.weight1, self.bias1)), self.weight2, self.bias2)


class FoldedAggregation(nn.Module):
    """SDDH's descriptors from the features at the deformable positions."""

    def __init__(self, network: ALIKED) -> None:
        super().__init__()
        self.select = nn.Parameter(
            network.desc_head.sf_conv.weight[:, :, 0, 0].T.contiguous().detach()
        )
        self.aggregate = nn.Parameter(network.desc_head.agg_weights.flatten(0, 1).detach())

    def forward(self, samples: Tensor) -> Tensor:
        """N×M×dim features → N×dim descriptors of unit length."""
        activated = elu(samples @ self.select).flatten(1)  # λ cancels in the normalisation
        return F.normalize(activated @ self.aggregate, dim=-1)


def _even_odd() -> Tensor:
    """Per head, even channels first: rotating pairs becomes rotating halves."""
    channels = torch.arange(DIM).reshape(HEADS, HEAD_DIM // 2, 2)
    return channels.transpose(1, 2).flatten()


class _FoldedSelf(nn.Module):
    """Self-attention block, for a batch of images."""

    def __init__(self, network: LightGlue, index: int) -> None:
        super().__init__()
        block = network.transformers[index].self_attn
        # rows of Wqkv: head, channel, (q k v)
        weight = block.Wqkv.weight.reshape(DIM, 3, DIM)
        bias = block.Wqkv.bias.reshape(DIM, 3)
        order = _even_odd()
        scale = HEAD_DIM**-0.5
        weights = (weight[order, 0] * scale, weight[order, 1], weight[:, 2])
        biases = (bias[order, 0] * scale, bias[order, 1], bias[:, 2])
        self.qkv = nn.Parameter(torch.cat(weights).T.contiguous().detach())
        self.qkv_bias = nn.Parameter(torch.cat(biases).detach())
        self.ffn = _FoldedFeedForward(block.ffn, block.out_proj)

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

    def __init__(self, network: LightGlue) -> None:
        super().__init__()
        self.weight = nn.Parameter(network.input_proj.weight.T.contiguous().detach())
        self.bias = nn.Parameter(network.input_proj.bias.detach())
        self.block = _FoldedSelf(network, 0)

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

    def __init__(self, network: LightGlue, index: int) -> None:
        super().__init__()
        self.block = _FoldedSelf(network, index) if index > 0 else None
        cross = network.transformers[index].cross_attn
        scale = HEAD_DIM**-0.25
        weights = (cross.to_qk.weight * scale, cross.to_v.weight)
        biases = (cross.to_qk.bias * scale, cross.to_v.bias)
        self.qk_v = nn.Parameter(torch.cat(weights).T.contiguous().detach())
        self.qk_v_bias = nn.Parameter(torch.cat(biases).detach())
        self.ffn = _FoldedFeedForward(cross.ffn, cross.to_out)
        # the last layer has no exit head: it is the exit
        last = index == network.layers - 1
        heads = [network.log_assignment[index].matchability]
        heads.append(heads[0] if last else network.token_confidence[index].token[0])
        self.exits = nn.Parameter(torch.cat([h.weight for h in heads]).T.contiguous().detach())
        self.exits_bias = nn.Parameter(torch.cat([h.bias for h in heads]).detach())

    def forward(
        self, x: Tensor, mask: Tensor, rotation: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Update the states of both images.

        x: 2×N×256. mask: 2×1×1×N, 0 for points, a large negative number for padding.
        rotation: 2×N×64, not in the first layer. Returns x and 2×N×2: matchability and
        confidence, as probabilities.
        """
        if self.block is not None:
            assert rotation is not None
            x = self.block(x, rotation, mask)
        qk, v = (split_heads(y) for y in linear(x, self.qk_v, self.qk_v_bias).chunk(2, dim=-1))
        context = _attend(qk, _swap_images(qk), _swap_images(v), _swap_images(mask))
        x = self.ffn(x, join_heads(context))
        return x, torch.sigmoid(linear(x, self.exits, self.exits_bias))


class _FoldedFeedForward(nn.Module):
    """Residual update from state and attention context, the output projection folded in."""

    def __init__(self, ffn: nn.Sequential, projection: nn.Linear) -> None:
        super().__init__()
        first, norm, _, second = ffn
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        of_state, of_message = first.weight[:, :DIM], first.weight[:, DIM:]
        folded = torch.cat([of_state, of_message @ projection.weight], dim=1)
        self.weight1 = nn.Parameter(folded.T.contiguous().detach())
        self.bias1 = nn.Parameter((first.bias + of_message @ projection.bias).detach())
        assert isinstance(norm, nn.LayerNorm)
        self.gain = nn.Parameter(norm.weight.detach())
        self.shift = nn.Parameter(norm.bias.detach())
        self.epsilon = norm.eps
        self.weight2 = nn.Parameter(second.weight.T.contiguous().detach())
        self.bias2 = nn.Parameter(second.bias.detach())

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = linear(torch.cat([x, context], dim=-1), self.weight1, self.bias1)
        y = F.gelu(F.layer_norm(y, [2 * DIM], self.gain, self.shift, self.epsilon))
        return x + linear(y, self.weight2, self.bias2)


def _rotate_halves(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1)


def _swap_images(x: Tensor) -> Tensor:
    return torch.cat([x[1:], x[:1]])


class FoldedAssignment(nn.Module):
    """LightGlue's match assignment after a given layer."""

    def __init__(self, network: LightGlue, index: int) -> None:
        super().__init__()
        head = network.log_assignment[index]
        scale = DIM**-0.25
        self.weight = nn.Parameter((head.final_proj.weight * scale).T.contiguous().detach())
        self.bias = nn.Parameter((head.final_proj.bias * scale).detach())

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        """States N0×256 and N1×256 → similarity N0×N1."""
        return linear(x0, self.weight, self.bias) @ linear(x1, self.weight, self.bias).T
