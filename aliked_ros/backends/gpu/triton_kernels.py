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

"""What lies between ALIKED's convolutions and matrix products, as Triton kernels for NVIDIA GPUs.

Arithmetic is float32; what is read and written may be half precision. Images and maps are H×W rows;
a table's channels are innermost (channels last).
"""

from __future__ import annotations

import triton
import triton.language as tl

from aliked_ros.networks.constants import NMS_RADIUS, SELU_ALPHA, SOFT_ARGMAX_TEMPERATURE

_ALPHA = tl.constexpr(SELU_ALPHA)
_RADIUS = tl.constexpr(NMS_RADIUS)
_SIDE = tl.constexpr(2 * NMS_RADIUS + 1)
_CELL = tl.constexpr(NMS_RADIUS + 1)
_TEMPERATURE = tl.constexpr(SOFT_ARGMAX_TEMPERATURE)
_TAPS = tl.constexpr(9)  # of a 3×3 convolution


@triton.jit
def _pixels(width, height, block: tl.constexpr):
    """A program's pixels: number, x, y, and which of them are within the image."""
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    y = pixel // width
    return pixel, pixel - y * width, y, pixel < width * height


@triton.jit
def _elu(x):
    return tl.where(x > 0, x, _ALPHA * (tl.exp(tl.minimum(x, 0.0)) - 1.0))


@triton.jit
def _rows(table, row, inside, channels: tl.constexpr):
    """Rows of a table, R×C, as float32; 0 where not ``inside``."""
    channel = tl.arange(0, channels)
    at = row[:, None] * channels + channel[None, :]
    return tl.load(table + at, mask=inside[:, None], other=0.0).to(tl.float32)


@triton.jit
def _between(table, size, scale, x, y, inside, channels: tl.constexpr):
    """Bilinear reads of a level, R×C, at pixels of the full size; 0 where not ``inside``.

    size: (width, height) of the level. scale: its pixels per full pixel, along x and y.
    """
    width, height = size[0], size[1]
    x, y = x * scale[0], y * scale[1]
    left, top = tl.floor(x), tl.floor(y)
    a, b = (x - left)[:, None], (y - top)[:, None]
    x0, y0 = left.to(tl.int32), top.to(tl.int32)
    x1, y1 = tl.minimum(x0 + 1, width - 1), tl.minimum(y0 + 1, height - 1)
    above = _rows(table, y0 * width + x0, inside, channels) * (1 - a)
    above += _rows(table, y0 * width + x1, inside, channels) * a
    below = _rows(table, y1 * width + x0, inside, channels) * (1 - a)
    below += _rows(table, y1 * width + x1, inside, channels) * a
    return above * (1 - b) + below * b


# Convolutions


@triton.jit
def bias_elu(
    x, bias, other, size, channels: tl.constexpr, added: tl.constexpr, block: tl.constexpr
):
    """ELU of a table with a bias, and with another table where ``added``, in its place."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < size
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + at % channels).to(tl.float32)
    if added:
        value += tl.load(other + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + at, _elu(value).to(x.dtype.element_ty), mask=inside)


@triton.jit
def _first_level(
    table, weight, row, inside,
    inputs: tl.constexpr, padded: tl.constexpr, channels: tl.constexpr,
):  # fmt: skip
    """Features R×C of rows of the first block's table, in the table's type.

    weight: C×inputs. padded: inputs, but not below 16, the least that a product sums over.
    """
    given = tl.arange(0, padded)
    real = given < inputs
    at = row[:, None] * inputs + given[None, :]
    values = tl.load(table + at, mask=inside[:, None] & real[None, :], other=0.0)
    at = tl.arange(0, channels)[None, :] * inputs + given[:, None]
    factors = tl.load(weight + at, mask=real[:, None], other=0.0)
    return _elu(tl.dot(values, factors, input_precision="ieee")).to(values.dtype)


@triton.jit
def first_scores(
    table, weight, next_weight, part, pixels,
    inputs: tl.constexpr, padded: tl.constexpr, channels: tl.constexpr, outputs: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """The first level's part of the scores: its features are never in memory.

    next_weight: outputs×C.
    """
    row = tl.program_id(0) * block + tl.arange(0, block)
    inside = row < pixels
    features = _first_level(table, weight, row, inside, inputs, padded, channels)
    output = tl.arange(0, outputs)[None, :]
    factors = tl.load(next_weight + output * channels + tl.arange(0, channels)[:, None])
    total = tl.dot(features, factors, input_precision="ieee")
    at = row[:, None] * outputs + output
    tl.store(part + at, total.to(part.dtype.element_ty), mask=inside[:, None])


# The score map


@triton.jit
def join_scores(
    parts, sizes, scales, joined, width, height, channels: tl.constexpr, block: tl.constexpr
):
    """ELU of the sum of four levels, the coarse ones brought to full size: C planes of H×W."""
    pixel, x, y, inside = _pixels(width, height, block)
    x, y = x.to(tl.float32), y.to(tl.float32)
    total = _rows(parts[0], pixel, inside, channels)
    for level in tl.static_range(1, 4):
        total += _between(parts[level], sizes[level], scales[level], x, y, inside, channels)
    at = tl.arange(0, channels)[None, :] * (width * height) + pixel[:, None]
    tl.store(joined + at, _elu(total), mask=inside[:, None])


@triton.jit
def score_convolution(
    source, weight, target, width, height,
    inputs: tl.constexpr, outputs: tl.constexpr, last: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """3×3 convolution of planes, zeros around them; ELU, or after the last one the sigmoid."""
    pixel, x, y, inside = _pixels(width, height, block)
    output = tl.arange(0, outputs)
    total = tl.zeros((outputs, block), tl.float32)
    for plane in tl.static_range(inputs):
        for tap in tl.static_range(_TAPS):
            at_y, at_x = y + tap // 3 - 1, x + tap % 3 - 1
            there = inside & (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
            at = plane * width * height + at_y * width + at_x
            value = tl.load(source + at, mask=there, other=0.0)
            factor = tl.load(weight + (output * inputs + plane) * _TAPS + tap)
            total += factor[:, None] * value[None, :]
    total = 1.0 / (1.0 + tl.exp(-total)) if last else _elu(total)
    at = output[:, None] * (width * height) + pixel[None, :]
    tl.store(target + at, total, mask=inside[None, :])


# Detection (DKD)


@triton.jit
def _widened(values, x, y, width, height, inside, block: tl.constexpr):
    """The largest of the 5×5 values around pixels, none of which is negative."""
    largest = tl.zeros((block,), tl.float32)
    for step_y in tl.static_range(_SIDE):
        for step_x in tl.static_range(_SIDE):
            at_y, at_x = y + step_y - _RADIUS, x + step_x - _RADIUS
            there = inside & (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
            value = tl.load(values + at_y * width + at_x, mask=there, other=0.0)
            largest = tl.maximum(largest, value.to(tl.float32))
    return largest


@triton.jit
def find_maxima(scores, maxima, width, height, block: tl.constexpr):
    """1 where a score is the highest of the 5×5 around it, else 0."""
    pixel, x, y, inside = _pixels(width, height, block)
    score = tl.load(scores + pixel, mask=inside, other=0.0)
    largest = _widened(scores, x, y, width, height, inside, block)
    tl.store(maxima + pixel, (score == largest).to(tl.int8), mask=inside)


@triton.jit
def leave_out(scores, maxima, remaining, width, height, block: tl.constexpr):
    """Scores, 0 near the maxima that were found."""
    pixel, x, y, inside = _pixels(width, height, block)
    near = _widened(maxima, x, y, width, height, inside, block) > 0
    score = tl.load(scores + pixel, mask=inside & ~near, other=0.0)
    tl.store(remaining + pixel, score, mask=inside)


@triton.jit
def add_maxima(remaining, maxima, width, height, block: tl.constexpr):
    """Add the maxima of what remains; each program changes its own pixels only."""
    pixel, x, y, inside = _pixels(width, height, block)
    score = tl.load(remaining + pixel, mask=inside, other=0.0)
    largest = _widened(remaining, x, y, width, height, inside, block)
    new = inside & (score == largest) & (score > 0)
    tl.store(maxima + pixel, tl.full((block,), 1, tl.int8), mask=new)


@triton.jit
def best_in_cells(
    scores, maxima, remaining, mask, best, places, width, height, across, cells,
    block: tl.constexpr,
):  # fmt: skip
    """The last maxima, and of each cell of 3×3 pixels the best one and its place there."""
    cell = tl.program_id(0) * block + tl.arange(0, block)
    inside = cell < cells
    row = cell // across
    column = cell - row * across
    highest = tl.zeros((block,), tl.float32)
    place = tl.zeros((block,), tl.int32)
    for step_y in tl.static_range(_CELL):
        for step_x in tl.static_range(_CELL):
            y, x = row * _CELL + step_y, column * _CELL + step_x
            pixel = y * width + x
            wanted = inside & (x >= _RADIUS) & (x < width - _RADIUS)
            wanted = wanted & (y >= _RADIUS) & (y < height - _RADIUS)
            wanted = wanted & (tl.load(mask + pixel, mask=wanted, other=0) > 0)
            rest = tl.load(remaining + pixel, mask=wanted, other=0.0)
            largest = _widened(remaining, x, y, width, height, wanted, block)
            found = tl.load(maxima + pixel, mask=wanted, other=0) > 0
            found = found | ((rest == largest) & (rest > 0))
            score = tl.load(scores + pixel, mask=wanted & found, other=0.0)
            place = tl.where(score > highest, step_y * _CELL + step_x, place)
            highest = tl.maximum(score, highest)
    tl.store(best + cell, highest, mask=inside)
    tl.store(places + cell, place, mask=inside)


@triton.jit
def refine(
    scores, chosen, places, keypoints, refined_scores, width, height, across, count,
    block: tl.constexpr, patch: tl.constexpr,
):  # fmt: skip
    """Soft-argmax over 5×5, and the score at the place it gives, one row a keypoint."""
    slot = tl.program_id(0) * block + tl.arange(0, block)
    used = slot < count
    cell = tl.load(chosen + slot, mask=used, other=0).to(tl.int32)
    place = tl.load(places + cell, mask=used, other=0)
    row = cell // across
    x = (cell - row * across) * _CELL + place % _CELL
    y = row * _CELL + place // _CELL
    # cells without a candidate may lie at the border
    x = tl.minimum(tl.maximum(x, _RADIUS), width - 1 - _RADIUS)
    y = tl.minimum(tl.maximum(y, _RADIUS), height - 1 - _RADIUS)
    tick = tl.arange(0, patch)
    step_x, step_y = tick % _SIDE - _RADIUS, tick // _SIDE - _RADIUS
    real = (tick < _SIDE * _SIDE)[None, :]
    at = (y[:, None] + step_y[None, :]) * width + x[:, None] + step_x[None, :]
    value = tl.load(scores + at, mask=used[:, None] & real, other=0.0)
    largest = tl.max(value, 1)
    weight = tl.where(real, tl.exp((value - largest[:, None]) / _TEMPERATURE), 0.0)
    total = tl.sum(weight, 1)
    across_patch, down_patch = step_x.to(tl.float32)[None, :], step_y.to(tl.float32)[None, :]
    shift_x = tl.sum(weight * across_patch, 1) / total
    shift_y = tl.sum(weight * down_patch, 1) / total
    near = tl.maximum(1 - tl.abs(shift_x[:, None] - across_patch), 0.0)
    near = near * tl.maximum(1 - tl.abs(shift_y[:, None] - down_patch), 0.0)
    tl.store(keypoints + slot * 2, x.to(tl.float32) + shift_x, mask=used)
    tl.store(keypoints + slot * 2 + 1, y.to(tl.float32) + shift_y, mask=used)
    tl.store(refined_scores + slot, tl.sum(tl.where(real, value * near, 0.0), 1), mask=used)


# Deformable convolutions


@triton.jit
def deform_reads(
    table, offsets, reads, width, height, limit, channels: tl.constexpr, block: tl.constexpr
):
    """One of the nine bilinear reads of each pixel, zeros outside: (H·W)×9×C."""
    pixel, column, row, inside = _pixels(width, height, block)
    tap = tl.program_id(1)
    at = offsets + pixel * (2 * _TAPS) + tap * 2
    dy = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    dx = tl.load(at + 1, mask=inside, other=0.0).to(tl.float32)
    y = (row + tap // 3 - 1).to(tl.float32) + tl.minimum(tl.maximum(dy, -limit), limit)
    x = (column + tap % 3 - 1).to(tl.float32)
    x += tl.minimum(tl.maximum(dx, -limit), limit)
    left, top = tl.floor(x), tl.floor(y)
    a, b = x - left, y - top
    total = tl.zeros((block, channels), tl.float32)
    for corner in tl.static_range(4):
        at_x, at_y = left.to(tl.int32) + corner % 2, top.to(tl.int32) + corner // 2
        weight = (a if corner % 2 else 1 - a) * (b if corner // 2 else 1 - b)
        there = inside & (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
        total += _rows(table, at_y * width + at_x, there, channels) * weight[:, None]
    channel = tl.arange(0, channels)[None, :]
    at = (pixel[:, None] * _TAPS + tap) * channels + channel
    tl.store(reads + at, total.to(reads.dtype.element_ty), mask=inside[:, None])


# Descriptors (SDDH)


@triton.jit
def _feature(
    tables, first, sizes, scales, left, top, width, height, x, y, inside,
    inputs: tl.constexpr, padded: tl.constexpr, channels: tl.constexpr,
):  # fmt: skip
    """Features of unit length at pixels of the image (floats), four parts R×C; 0 outside it."""
    inside = inside & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x = tl.where(inside, x, 0.0) + left
    y = tl.where(inside, y, 0.0) + top
    pixel = y.to(tl.int32) * sizes[0][0] + x.to(tl.int32)
    part0 = _first_level(tables[0], first, pixel, inside, inputs, padded, channels).to(tl.float32)
    part1 = _between(tables[1], sizes[1], scales[1], x, y, inside, channels)
    part2 = _between(tables[2], sizes[2], scales[2], x, y, inside, channels)
    part3 = _between(tables[3], sizes[3], scales[3], x, y, inside, channels)
    squares = part0 * part0 + part1 * part1 + part2 * part2 + part3 * part3
    factor = (1.0 / tl.maximum(tl.sqrt(tl.sum(squares, 1)), 1e-12))[:, None]
    return part0 * factor, part1 * factor, part2 * factor, part3 * factor


@triton.jit
def _store_feature(target, row, used, part0, part1, part2, part3, channels: tl.constexpr):
    """Four parts R×C side by side in rows of 4·C."""
    at = target + row[:, None] * (4 * channels) + tl.arange(0, channels)[None, :]
    kind = target.dtype.element_ty
    tl.store(at, part0.to(kind), mask=used[:, None])
    tl.store(at + channels, part1.to(kind), mask=used[:, None])
    tl.store(at + 2 * channels, part2.to(kind), mask=used[:, None])
    tl.store(at + 3 * channels, part3.to(kind), mask=used[:, None])


@triton.jit
def read_patches(
    tables, first, sizes, scales, left, top, width, height, keypoints, patches, rows,
    inputs: tl.constexpr, padded: tl.constexpr, channels: tl.constexpr,
    kernel: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The features of the kernel×kernel pixels around each keypoint."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    used = row < rows
    slot = row // (kernel * kernel)
    tick = row - slot * (kernel * kernel)
    x = tl.floor(tl.load(keypoints + slot * 2, mask=used, other=0.0))
    y = tl.floor(tl.load(keypoints + slot * 2 + 1, mask=used, other=0.0))
    x += (tick % kernel - kernel // 2).to(tl.float32)
    y += (tick // kernel - kernel // 2).to(tl.float32)
    part0, part1, part2, part3 = _feature(
        tables, first, sizes, scales, left, top, width, height, x, y, used,
        inputs, padded, channels,
    )  # fmt: skip
    _store_feature(patches, row, used, part0, part1, part2, part3, channels)


@triton.jit
def read_samples(
    tables, first, sizes, scales, left, top, width, height,
    keypoints, offsets, limit, samples, rows,
    inputs: tl.constexpr, padded: tl.constexpr, channels: tl.constexpr,
    count: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The features at each keypoint's deformable positions, between the pixels' unit vectors."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    used = row < rows
    slot = row // count
    at = offsets + slot * (2 * count) + row - slot * count
    dx = tl.load(at, mask=used, other=0.0).to(tl.float32)
    dy = tl.load(at + count, mask=used, other=0.0).to(tl.float32)
    x = tl.load(keypoints + slot * 2, mask=used, other=0.0)
    y = tl.load(keypoints + slot * 2 + 1, mask=used, other=0.0)
    x += tl.minimum(tl.maximum(dx, -limit), limit)
    y += tl.minimum(tl.maximum(dy, -limit), limit)
    corner_x, corner_y = tl.floor(x), tl.floor(y)
    a, b = x - corner_x, y - corner_y
    sum0 = tl.zeros((block, channels), tl.float32)
    sum1 = tl.zeros((block, channels), tl.float32)
    sum2 = tl.zeros((block, channels), tl.float32)
    sum3 = tl.zeros((block, channels), tl.float32)
    for corner in tl.static_range(4):
        weight = (a if corner % 2 else 1 - a) * (b if corner // 2 else 1 - b)
        part0, part1, part2, part3 = _feature(
            tables, first, sizes, scales, left, top, width, height,
            corner_x + corner % 2, corner_y + corner // 2, used, inputs, padded, channels,
        )  # fmt: skip
        weight = weight[:, None]
        sum0 += part0 * weight
        sum1 += part1 * weight
        sum2 += part2 * weight
        sum3 += part3 * weight
    _store_feature(samples, row, used, sum0, sum1, sum2, sum3, channels)


@triton.jit
def unit_rows(x, unit, rows, channels: tl.constexpr, block: tl.constexpr):
    """Rows of a table at length one."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    inside = row < rows
    value = _rows(x, row, inside, channels)
    length = tl.maximum(tl.sqrt(tl.sum(value * value, 1)), 1e-12)
    at = unit + row[:, None] * channels + tl.arange(0, channels)[None, :]
    tl.store(at, (value / length[:, None]).to(unit.dtype.element_ty), mask=inside[:, None])
