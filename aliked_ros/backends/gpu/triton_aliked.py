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

"""Stages of ALIKED as Triton kernels, for PyTorch on NVIDIA GPUs.

In PyTorch each operation is a launch and a pass over the GPU's memory; here a stage is one kernel
or a few (``triton_kernels``): the score map from the four levels, non-maximum suppression,
sub-pixel refinement, and the reads of deformable convolutions and of SDDH.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import triton
from torch import Tensor, nn

from aliked_ros.backends.gpu import triton_kernels as kernels
from aliked_ros.networks import fold
from aliked_ros.networks.aliked import (
    ALIKED,
    CELL,
    ConvBlock,
    FoldedALIKED,
    FoldedDeformableConv,
    ResBlock,
    Window,
    elu,
    pad,
)
from aliked_ros.networks.checkpoint import State, state_of
from aliked_ros.networks.fold import PIXEL_SCALE, AlikedShape, Weights

_PIXELS = 128  # of the image, that one program computes
_CELLS = 64  # of the image; one in nine pixels is one, so they fill a GPU in smaller groups
_NUMBERS = 1024  # of a table, that one program adds a bias to
_CONVOLVED = 512  # the same of a score convolution, whose neighbours share most of what they read
_SLOTS = 16  # keypoints that one program refines
_ROWS = 16  # pixels whose features one program reads
_USUAL = AlikedShape((16, 32, 64, 128), 128, 3, 16)


class TritonDeformableConv(FoldedDeformableConv):
    """A folded deformable convolution: reads by one kernel, then one matrix product."""

    def arrange(self) -> None:
        """Order the weights as the kernel's reads: tap by tap, the channels of one side by side."""
        weight = self.weight.unflatten(1, (-1, 9)).permute(2, 1, 0).flatten(0, 1)
        self.weight = nn.Parameter(weight.contiguous())
        self.bias = nn.Parameter(self.bias[:, 0, 0])

    def products(self, x: Tensor) -> Tensor:
        """The convolution without its bias."""
        _, channels, height, width = x.shape
        table, offset = _table(x), _table(self.offset_conv(x))
        reads = table.new_empty(height * width, 9 * channels)
        grid = (*_blocks(height * width, _ROWS), 9)
        limit = max(height, width) / 4
        kernels.deform_reads[grid](
            table, offset, reads, width, height, limit, channels=channels, block=_ROWS
        )
        return _image(reads @ self.weight, height, width)


class TritonConvBlock(ConvBlock):
    """``ConvBlock`` with one pass over memory after each convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """See ``ConvBlock``."""
        x = _bias_elu(_products(self.conv1, x), self.conv1.bias)
        return _bias_elu(_products(self.conv2, x), self.conv2.bias)


class TritonResBlock(ResBlock):
    """``ResBlock`` with one pass over memory after each convolution, the sum included."""

    def arrange(self) -> None:
        """Add the biases of what is summed."""
        bias = self.conv2.bias + self.downsample.bias
        self.conv2.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """See ``ResBlock``."""
        y = _bias_elu(_products(self.conv1, x), self.conv1.bias)
        return _bias_elu(_products(self.conv2, y), self.conv2.bias, _products(self.downsample, x))


class TritonALIKED(FoldedALIKED):
    """``FoldedALIKED`` with these stages."""

    deformable = TritonDeformableConv
    conv_block = TritonConvBlock
    res_block = TritonResBlock

    def __init__(self, weights: Weights, shape: AlikedShape, half: bool = False) -> None:
        """See ``FoldedALIKED``."""
        super().__init__(weights, shape, half)
        for module in self.modules():
            if isinstance(module, TritonDeformableConv):
                module.arrange()
        for module in self.modules():
            if isinstance(module, TritonResBlock):
                module.arrange()
        for block in (self.block1, self.block2, self.block3, self.block4):
            block.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for head in (self.conv1, self.conv2, self.conv3, self.conv4):
            head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def tables(self, blocks: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """See ``FoldedALIKED``; the first level is what its head reads, with half the channels.

        Its features are computed where they are wanted: of a whole image they would take as much
        memory as all that comes before them.
        """
        first, *coarse = blocks
        levels = self.heads(coarse)
        _, inputs, height, width = first.shape
        weight, next_weight = self.conv1.weight, self.score_first[0]
        outputs, channels = next_weight.shape[:2]
        part = first.new_empty(height * width, outputs)
        kernels.first_scores[_blocks(height * width, _PIXELS)](
            _table(first), weight, next_weight, part, height * width,
            inputs=inputs, padded=max(inputs, 16), channels=channels, outputs=outputs,
            block=_PIXELS,
        )  # fmt: skip
        return [_image(part, height, width), *self.score_parts(levels)], [first, *levels]

    def score_map(self, parts: list[Tensor]) -> Tensor:
        """See ``FoldedALIKED``."""
        _, channels, height, width = parts[0].shape
        tables = tuple(map(_table, parts))
        sizes, scales = _levels(parts)
        block = _blocks(height * width, _PIXELS)
        planes = parts[0].new_empty(channels, height, width, dtype=torch.float32)
        kernels.join_scores[block](
            tables, sizes, scales, planes, width, height, channels=channels, block=_PIXELS
        )
        block = _blocks(height * width, _CONVOLVED)
        for weight in self.score_tail:
            outputs, inputs = weight.shape[:2]
            result = planes.new_empty(outputs, height, width)
            kernels.score_convolution[block](
                planes, weight, result, width, height,
                inputs=inputs, outputs=outputs, last=outputs == 1, block=_CONVOLVED,
            )  # fmt: skip
            planes = result
        return planes[None]

    def detect(
        self, score_map: Tensor, mask: Tensor, threshold: Tensor, top_k: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``FoldedALIKED``."""
        score_map = score_map.contiguous()  # of a padded image it is a part
        height, width = score_map.shape
        down, across = height // CELL, width // CELL
        maxima = score_map.new_empty(height, width, dtype=torch.int8)
        remaining = torch.empty_like(score_map)
        best = score_map.new_empty(down * across)
        places = best.new_empty(down * across, dtype=torch.int32)
        block = _blocks(height * width, _PIXELS)
        kernels.find_maxima[block](score_map, maxima, width, height, block=_PIXELS)
        kernels.leave_out[block](score_map, maxima, remaining, width, height, block=_PIXELS)
        kernels.add_maxima[block](remaining, maxima, width, height, block=_PIXELS)
        kernels.leave_out[block](score_map, maxima, remaining, width, height, block=_PIXELS)
        kernels.best_in_cells[_blocks(len(best), _CELLS)](
            score_map, maxima, remaining, mask, best, places, width, height, across, len(best),
            block=_CELLS, num_warps=2,
        )  # fmt: skip
        values, chosen = best.topk(top_k)
        count = (values > threshold.clamp(min=0.0)).sum(0, keepdim=True).to(torch.int32)
        keypoints = score_map.new_empty(top_k, 2)
        scores = score_map.new_empty(top_k)
        kernels.refine[_blocks(top_k, _SLOTS)](
            score_map, chosen, places, keypoints, scores, width, height, across, top_k,
            block=_SLOTS, patch=32,
        )  # fmt: skip
        return keypoints, scores, count

    def describe(self, levels: list[Tensor], keypoints: Tensor, window: Window) -> Tensor:
        """See ``FoldedALIKED``."""
        tables = tuple(map(_table, levels))
        first = self.conv1.weight
        inner = (window.left, window.top, window.width, window.height)
        place = (tables, first, *_levels(levels), *inner)
        count, (channels, inputs) = len(keypoints), first.shape[:2]
        widths = {"inputs": inputs, "padded": max(inputs, 16), "channels": channels}
        kernel, samples_each = self.shape.kernel, self.shape.samples
        patches = tables[0].new_empty(count, kernel**2 * 4 * channels)
        rows = count * kernel**2
        kernels.read_patches[_blocks(rows, _ROWS)](
            *place, keypoints, patches, rows, **widths, kernel=kernel, block=_ROWS
        )  # fmt: skip
        head = self.desc_head
        hidden = F.selu(torch.addmm(head.bias1, patches, head.weight1))
        offsets = torch.addmm(head.bias2, hidden, head.weight2)
        samples = tables[0].new_empty(count, samples_each, 4 * channels)
        limit = max(window.height, window.width) / 4
        rows = count * samples_each
        kernels.read_samples[_blocks(rows, _ROWS)](
            *place, keypoints, offsets, limit, samples, rows,
            **widths, count=samples_each, block=_ROWS,
        )  # fmt: skip
        activated = elu(samples.flatten(0, 1) @ head.select).view(count, -1)
        summed = activated @ head.aggregate
        descriptors = torch.empty_like(summed)
        kernels.unit_rows[_blocks(count, _ROWS)](
            summed, descriptors, count, channels=summed.shape[1], block=_ROWS
        )
        return descriptors


@torch.inference_mode()
def check(
    place: torch.device,
    shape: AlikedShape = _USUAL,
    half: bool = False,
    size: tuple[int, int] = (45, 70),
    top_k: int = 100,
) -> None:
    """Compile all kernels, and compare each stage with plain operations, on noise.

    shape, half: of the network that they are for. size, top_k: of the image (height, width), and
    how many keypoints are sought in it. Raises RuntimeError where a result is wrong, and whatever
    Triton, its compiler or the GPU raises.
    """
    fused, plain = (network.to(place) for network in _on_noise(shape, half))
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (1, *size, 3), np.uint8)
    image, mask = torch.from_numpy(pixels).to(place), torch.ones(*size, dtype=torch.uint8)
    mask[:, :20] = 0
    with place:
        padded, window = pad(image.to(plain.conv1.weight.dtype).permute(0, 3, 1, 2) / PIXEL_SCALE)
        blocks = plain.blocks(padded)
        parts, levels = plain.tables(blocks)
        fused_parts, fused_levels = fused.tables(blocks)
        compare("convolutions", 2e-2 if half else 1e-3, fused.blocks(padded), blocks)
        compare("score parts", 1e-2 if half else 1e-3, fused_parts, parts)
        scores = plain.score_map(parts)
        compare("score map", 1e-2 if half else 1e-3, [fused.score_map(parts)], [scores])
        inner = window.of(scores)[0, 0]
        given = (inner, mask.to(place), inner.median()[None], top_k)
        detected = plain.detect(*given)
        compare("keypoints", 1e-3, fused.detect(*given), detected)
        described = [
            network.describe(tables, detected[0], window)
            for network, tables in ((fused, fused_levels), (plain, levels))
        ]
        compare("descriptors", 4e-3 if half else 1e-3, described[:1], described[1:])


def _on_noise(shape: AlikedShape, half: bool) -> tuple[TritonALIKED, FoldedALIKED]:
    """With random weights, that keep the size of what they are multiplied with."""
    random = np.random.default_rng(0)
    with torch.device("cpu"):
        state: State = {
            name: (random.standard_normal(value.shape) / np.prod(value.shape[1:]) ** 0.5)
            for name, value in state_of(ALIKED(shape)).items()
        }
        state |= {name: 1 + abs(v) for name, v in state.items() if name.endswith("running_var")}
        wide = fold.extractor(state, 3)
        weights = {name: value.astype(np.float32) for name, value in wide.items()}
        return TritonALIKED(weights, shape, half), FoldedALIKED(weights, shape, half)


def compare(what: str, limit: float, found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """RuntimeError where tensors differ by more than a limit, or hold no number."""
    for ours, theirs in zip(found, expected, strict=True):
        difference = float((ours.float() - theirs.float()).abs().max())
        if not difference <= limit:  # NaN, too
            raise RuntimeError(
                f"Triton self-test failed: {what} differ from plain operations' by "
                f"{difference:.2g}, {limit:.2g} is allowed"
            )


def _products(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution without its bias."""
    if isinstance(conv, TritonDeformableConv):
        return conv.products(x)
    assert isinstance(conv, nn.Conv2d)
    return F.conv2d(x, conv.weight, padding=conv.padding)


def _bias_elu(x: Tensor, bias: Tensor, other: Tensor | None = None) -> Tensor:
    """In the place of ``x``."""
    _, channels, height, width = x.shape
    table = _table(x)
    added = table if other is None else _table(other)
    kernels.bias_elu[_blocks(table.numel(), _NUMBERS)](
        table, bias, added, table.numel(),
        channels=channels, added=other is not None, block=_NUMBERS,
    )  # fmt: skip
    return _image(table, height, width)


def _image(table: Tensor, height: int, width: int) -> Tensor:
    """h·w×C as 1×C×h×w."""
    return table.view(1, height, width, -1).permute(0, 3, 1, 2)


def _table(x: Tensor) -> Tensor:
    """1×C×h×w as h·w×C, without a copy where the channels are innermost already."""
    return x[0].permute(1, 2, 0).flatten(0, 1).contiguous()


def _levels(x: list[Tensor]) -> tuple[Any, Any]:
    """(width, height) of each level, and its pixels per pixel of the first one."""
    sizes = tuple((level.shape[3], level.shape[2]) for level in x)
    full_width, full_height = sizes[0]
    scales = tuple(((w - 1) / (full_width - 1), (h - 1) / (full_height - 1)) for w, h in sizes)
    return sizes, scales


def _blocks(count: int, size: int) -> tuple[int]:
    return (triton.cdiv(count, size),)
