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

"""What lies between LightGlue's matrix products, as Triton kernels for NVIDIA GPUs.

Sums are float32; what is read and written may be half precision. The number of valid rows is read
on the device. Rows behind them are computed too, without attention: they must stay finite.
"""

from __future__ import annotations

import triton
import triton.language as tl

from aliked_ros.backends.gpu.triton_kernels import _rows
from aliked_ros.networks.constants import DIM, HEAD_DIM

_DIM = tl.constexpr(DIM)
_HEAD_DIM = tl.constexpr(HEAD_DIM)
_HALF = tl.constexpr(HEAD_DIM // 2)
_LOG2_E = tl.constexpr(1.4426950408889634)
_SQRT_HALF = tl.constexpr(0.7071067811865476)
_EPSILON = tl.constexpr(1e-5)  # of layer normalisation


@triton.jit
def _count(count0, count1, image):
    """An image's valid rows."""
    return tl.where(image == 0, tl.load(count0), tl.load(count1))


@triton.jit
def encode(keypoints0, keypoints1, size, angles, rotation, rows, block: tl.constexpr):
    """Cosines, then sines, of the angles of normalised positions: 2×N×64."""
    row, image = tl.program_id(0) * block + tl.arange(0, block), tl.program_id(1)
    inside = row < rows
    one, other = inside & (image == 0), inside & (image == 1)
    x = tl.load(keypoints0 + 2 * row, mask=one, other=0.0)
    x += tl.load(keypoints1 + 2 * row, mask=other, other=0.0)
    y = tl.load(keypoints0 + 2 * row + 1, mask=one, other=0.0)
    y += tl.load(keypoints1 + 2 * row + 1, mask=other, other=0.0)
    width, height = tl.load(size), tl.load(size + 1)
    scale = tl.maximum(width, height) / 2
    x, y = (x - width / 2) / scale, (y - height / 2) / scale
    channel = tl.arange(0, _HALF)
    of_x, of_y = tl.load(angles + channel)[None, :], tl.load(angles + _HALF + channel)[None, :]
    angle = x[:, None] * of_x + y[:, None] * of_y
    at = rotation + (image * rows + row)[:, None] * _HEAD_DIM + channel[None, :]
    kind = rotation.dtype.element_ty
    tl.store(at, tl.cos(angle).to(kind), mask=inside[:, None])
    tl.store(at + _HALF, tl.sin(angle).to(kind), mask=inside[:, None])


@triton.jit
def _halves(table, row, width: tl.constexpr, inside, rotation, rotated: tl.constexpr):
    """The two halves of a head's queries or keys, N×32 each."""
    channel = tl.arange(0, _HALF)[None, :]
    inside = inside[:, None]
    at = table + row[:, None] * width + channel
    a, b = tl.load(at, mask=inside, other=0.0), tl.load(at + _HALF, mask=inside, other=0.0)
    if rotated:
        at = rotation + row[:, None] * _HEAD_DIM + channel
        cosine = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        sine = tl.load(at + _HALF, mask=inside, other=0.0).to(tl.float32)
        x, y = a.to(tl.float32), b.to(tl.float32)
        a, b = (x * cosine - y * sine).to(a.dtype), (y * cosine + x * sine).to(b.dtype)
    return a, b


@triton.jit
def attend(
    x, projected, rotation, count0, count1, joined, rows,
    crossing: tl.constexpr, block: tl.constexpr, keys: tl.constexpr,
):  # fmt: skip
    """States 2×N×256 and the context of attention beside them, 2×N×512.

    A program computes a head's context for a block of queries, and copies as much of the states.
    projected: queries, keys and values, 2×N×768, of which queries and keys are yet to be rotated;
    crossing: keys, which are the queries of the other image, and values, 2×N×512.
    """
    first, head, image = tl.program_id(0) * block, tl.program_id(1), tl.program_id(2)
    other = 1 - image if crossing else image
    width: tl.constexpr = (2 if crossing else 3) * _DIM
    table = projected + head * _HEAD_DIM
    query = first + tl.arange(0, block)
    inside = query < rows
    query = image * rows + query
    query_a, query_b = _halves(table, query, width, inside, rotation, not crossing)
    of_keys = table if crossing else table + _DIM
    channel = tl.arange(0, _HEAD_DIM)[None, :]
    highest = tl.full((block,), float("-inf"), tl.float32)
    total = tl.zeros((block,), tl.float32)
    context = tl.zeros((block, _HEAD_DIM), tl.float32)
    known = _count(count0, count1, other)
    end = tl.where(first < _count(count0, count1, image), known, 0)
    for start in range(0, end, keys):
        key = start + tl.arange(0, keys)
        there = key < known
        key = other * rows + key
        key_a, key_b = _halves(of_keys, key, width, there, rotation, not crossing)
        similarity = tl.dot(query_a, tl.trans(key_a), input_precision="ieee")
        similarity = tl.dot(query_b, tl.trans(key_b), similarity, input_precision="ieee")
        similarity = tl.where(there[None, :], similarity * _LOG2_E, float("-inf"))
        before, highest = highest, tl.maximum(highest, tl.max(similarity, 1))
        weight = tl.exp2(similarity - highest[:, None])
        faded = tl.exp2(before - highest)
        total = total * faded + tl.sum(weight, 1)
        at = projected + key[:, None] * width + (width - _DIM) + head * _HEAD_DIM + channel
        value = tl.load(at, mask=there[:, None], other=0.0)
        context *= faded[:, None]
        context = tl.dot(weight.to(value.dtype), value, context, input_precision="ieee")
    context = context / tl.maximum(total, 1.0)[:, None]  # the largest weight is 1
    column = head * _HEAD_DIM + channel
    target = joined + query[:, None] * (2 * _DIM) + column
    state = tl.load(x + query[:, None] * _DIM + column, mask=inside[:, None])
    tl.store(target, state, mask=inside[:, None])
    tl.store(target + _DIM, context.to(joined.dtype.element_ty), mask=inside[:, None])


@triton.jit
def norm_gelu(y, gain, shift, x, bias, hidden, moved, rows, block: tl.constexpr):
    """GELU of normalised rows, R×512; and states R×256 with the bias of what comes to them."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    inside = row < rows
    value = _rows(y, row, inside, 2 * _DIM)
    value -= (tl.sum(value, 1) / (2 * _DIM))[:, None]
    variance = tl.sum(value * value, 1) / (2 * _DIM)
    column = tl.arange(0, 2 * _DIM)
    value *= (1.0 / tl.sqrt(variance + _EPSILON))[:, None]
    value *= tl.load(gain + column).to(tl.float32)[None, :]
    value += tl.load(shift + column).to(tl.float32)[None, :]
    value *= 0.5 * (1.0 + tl.erf(value * _SQRT_HALF))
    at = hidden + row[:, None] * (2 * _DIM) + column[None, :]
    tl.store(at, value.to(hidden.dtype.element_ty), mask=inside[:, None])
    column = tl.arange(0, _DIM)
    state = _rows(x, row, inside, _DIM) + tl.load(bias + column).to(tl.float32)[None, :]
    at = moved + row[:, None] * _DIM + column[None, :]
    tl.store(at, state.to(moved.dtype.element_ty), mask=inside[:, None])


@triton.jit
def count_undecided(confidence, threshold, count0, count1, share, rows, block: tl.constexpr):
    """Share of both images' valid rows, 2×N, below a threshold; one program."""
    total = tl.zeros((block,), tl.float32)
    for start in range(0, 2 * rows, block):
        row = start + tl.arange(0, block)
        image = row // rows
        valid = (row < 2 * rows) & (row - image * rows < _count(count0, count1, image))
        value = tl.load(confidence + row, mask=valid, other=float("inf")).to(tl.float32)
        total += (value < threshold).to(tl.float32)
    points = tl.maximum(tl.load(count0) + tl.load(count1), 1)
    tl.store(share, tl.sum(total, 0) / points.to(tl.float32))
