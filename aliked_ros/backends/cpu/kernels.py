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

"""Compiled loops (numba) for what a graph runtime does slowly.

These are the tail of the score head, the sparse reads of SDDH, sub-pixel refinement and the
mutual filter of LightGlue.

Each function works on a range of rows or keypoints, so that ``Workers`` can share it out, and
holds no GIL. Feature tables are float32, or bfloat16 seen as uint16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from aliked_ros.networks.constants import NMS_RADIUS, SELU_ALPHA, SOFT_ARGMAX_TEMPERATURE

_ALPHA = np.float32(SELU_ALPHA)
_TEMPERATURE = np.float32(SOFT_ARGMAX_TEMPERATURE)
_LOWEST = np.float32(-3e38)  # fast arithmetic may not see an infinity


def _jit(function: Any, inline: str = "never") -> Any:
    """Compile at the first call; the machine code is cached where a folder can be written."""
    compiler = partial(numba.njit, nogil=True, fastmath=True, error_model="numpy", inline=inline)
    try:
        return compiler(cache=True)(function)
    except RuntimeError:  # no such folder
        return compiler()(function)


def _inline(function: Any) -> Any:
    return _jit(function, inline="always")


class Workers:
    """A few threads that share out a range; the loops above release the GIL."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "kernels") if threads > 1 else None

    def run(self, function: Callable[..., None], count: int, *arguments: Any) -> None:
        """Call ``function(*arguments, start, stop)`` on parts that cover range(count)."""
        if self._pool is None:
            function(*arguments, 0, count)
            return
        bounds = [count * i // self.threads for i in range(self.threads + 1)]
        futures = [
            self._pool.submit(function, *arguments, bounds[i], bounds[i + 1])
            for i in range(1, self.threads)
        ]
        function(*arguments, bounds[0], bounds[1])
        for future in futures:
            future.result()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


@intrinsic
def _float_from_bits(typing_context: Any, bits: Any) -> Any:
    """The float32 with the given 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _float(typing_context: Any, value: Any) -> Any:
    """A table's value as float32: as it is, or widened where uint16 holds a bfloat16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if value != types.uint16:
            return arguments[0]
        bits = builder.shl(builder.zext(arguments[0], ir.IntType(32)), ir.IntType(32)(16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(value), generate


@_inline
def _exp(x):
    """Exponential of a float32 ≤ 0, as 2^n times a polynomial, so that loops over it vectorise."""
    t = max(x, np.float32(-80.0)) * np.float32(1.4426950408889634)
    n = np.floor(t)
    f = t - n
    p = np.float32(1.8775767e-3)
    p = p * f + np.float32(8.9893397e-3)
    p = p * f + np.float32(5.5826318e-2)
    p = p * f + np.float32(2.4015361e-1)
    p = p * f + np.float32(6.9315308e-1)
    p = p * f + np.float32(9.9999994e-1)
    return p * _float_from_bits((np.int32(n) + np.int32(127)) << np.int32(23))


@_inline
def _elu(x):
    """ELU with SELU's alpha."""
    negative = _ALPHA * (_exp(min(x, np.float32(0.0))) - np.float32(1.0))
    return x if x > np.float32(0.0) else negative


@_jit
def _widen_row(part, row, left, fraction, wide):
    """One row of a coarse level, brought to full width and channel by channel."""
    channels, width = wide.shape
    last = part.shape[1] - 1
    for x in range(width):
        i, a = left[x], fraction[x]
        j = min(i + 1, last)
        for c in range(channels):
            u, v = _float(part[row, i, c]), _float(part[row, j, c])
            wide[c, x] = u + a * (v - u)


@_jit
def _add_level(part, y, height, left, fraction, wide, held, sums):
    """Add row ``y`` of a coarse level, brought to full size (align_corners), to ``sums``.

    ``wide`` keeps the two widened rows around ``y``, ``held`` their numbers.
    """
    channels, width = wide.shape[1], wide.shape[2]
    rows = part.shape[0]
    v = np.float32(y) * np.float32((rows - 1) / (height - 1))
    top = min(int(v), rows - 1)
    b = v - np.float32(top)
    for row in (top, min(top + 1, rows - 1)):
        if held[row & 1] != row:
            _widen_row(part, row, left, fraction, wide[row & 1])
            held[row & 1] = row
    upper, lower = wide[top & 1], wide[min(top + 1, rows - 1) & 1]
    for c in range(channels):
        for x in range(width):
            sums[c, x + 1] += upper[c, x] + b * (lower[c, x] - upper[c, x])


@_jit
def _convolve_to_four(rows, y, weight, out):
    """3×3 convolution of the ring of three padded rows around ``y`` into ``out`` (4×W).

    Four outputs at once, because the loads of the inputs are what takes the time.
    """
    ring = rows[(y - 1) % 3], rows[y % 3], rows[(y + 1) % 3]
    o0, o1, o2, o3 = out[0], out[1], out[2], out[3]
    out[:] = np.float32(0.0)
    for i in range(weight.shape[1]):
        for dy in range(3):
            line, w = ring[dy][i], weight[:, i, dy]
            a0, a1, a2 = w[0, 0], w[0, 1], w[0, 2]
            b0, b1, b2 = w[1, 0], w[1, 1], w[1, 2]
            c0, c1, c2 = w[2, 0], w[2, 1], w[2, 2]
            d0, d1, d2 = w[3, 0], w[3, 1], w[3, 2]
            for x in range(out.shape[1]):
                p, q, r = line[x], line[x + 1], line[x + 2]
                o0[x] += a0 * p + a1 * q + a2 * r
                o1[x] += b0 * p + b1 * q + b2 * r
                o2[x] += c0 * p + c1 * q + c2 * r
                o3[x] += d0 * p + d1 * q + d2 * r


@_jit
def _convolve_to_one(rows, y, weight, out):
    """The same into a single row ``out`` (W)."""
    ring = rows[(y - 1) % 3], rows[y % 3], rows[(y + 1) % 3]
    out[:] = np.float32(0.0)
    for i in range(weight.shape[1]):
        for dy in range(3):
            line, w = ring[dy][i], weight[0, i, dy]
            a, b, c = w[0], w[1], w[2]
            for x in range(len(out)):
                out[x] += a * line[x] + b * line[x + 1] + c * line[x + 2]


@_jit
def _activate_row(source, target):
    for c in range(source.shape[0]):
        for x in range(source.shape[1]):
            target[c, x + 1] = _elu(source[c, x])


@_jit
def score_rows(part1, part2, part3, part4, weight1, weight2, weight3, out, start, stop):
    """Rows start..stop of the score map, from the score head's first layer level by level.

    part1..part4: h×w×8 at strides 1, 2, 8, 32. weight1..weight3: the 3×3 convolutions.
    Works row by row on rings of three rows, so that everything stays in the first-level cache.
    """
    height, width, channels = part1.shape
    f32 = np.float32
    lefts = np.empty((3, width), np.int32)
    fractions = np.empty((3, width), f32)
    for x in range(width):
        for level, columns in enumerate((part2.shape[1], part3.shape[1], part4.shape[1])):
            u = f32(x) * f32((columns - 1) / (width - 1))
            lefts[level, x] = int(u)
            fractions[level, x] = u - f32(int(u))
    wide = np.empty((3, 2, channels, width), f32)
    held = np.full((3, 2), -1, np.int64)
    a = np.zeros((3, channels, width + 2), f32)
    b = np.zeros((3, weight1.shape[0], width + 2), f32)
    c = np.zeros((3, weight2.shape[0], width + 2), f32)
    four, one = np.empty((4, width), f32), np.empty(width, f32)
    for y in range(start - 3, stop + 3):
        sums = a[y % 3]
        if 0 <= y < height:
            for x in range(width):
                for k in range(channels):
                    sums[k, x + 1] = _float(part1[y, x, k])
            _add_level(part2, y, height, lefts[0], fractions[0], wide[0], held[0], sums)
            _add_level(part3, y, height, lefts[1], fractions[1], wide[1], held[1], sums)
            _add_level(part4, y, height, lefts[2], fractions[2], wide[2], held[2], sums)
            for k in range(channels):
                line = sums[k]
                for x in range(1, width + 1):
                    line[x] = _elu(line[x])
        else:
            sums[:] = f32(0.0)
        if y - 1 >= start - 2:
            if 0 <= y - 1 < height:
                _convolve_to_four(a, y - 1, weight1, four)
                _activate_row(four, b[(y - 1) % 3])
            else:
                b[(y - 1) % 3][:] = f32(0.0)
        if y - 2 >= start - 1:
            if 0 <= y - 2 < height:
                _convolve_to_four(b, y - 2, weight2, four)
                _activate_row(four, c[(y - 2) % 3])
            else:
                c[(y - 2) % 3][:] = f32(0.0)
        if y - 3 >= start:
            _convolve_to_one(c, y - 3, weight3, one)
            line = out[y - 3]
            for x in range(width):
                e = _exp(-abs(one[x]))  # the sigmoid, without overflow
                line[x] = (f32(1.0) if one[x] > f32(0.0) else e) / (f32(1.0) + e)


@_jit
def refine_keypoints(score_map, columns, rows, keypoints, scores, start, stop):
    """Soft-argmax over the 5×5 patch around each maximum, and the score at the refined position.

    (ALIKED, section III-B.) columns, rows: N integers, at least 2 pixels inside the map.
    """
    height, width = score_map.shape
    f32 = np.float32
    for n in range(start, stop):
        x, y = columns[n], rows[n]
        peak = score_map[y, x]
        for dy in range(-NMS_RADIUS, NMS_RADIUS + 1):
            for dx in range(-NMS_RADIUS, NMS_RADIUS + 1):
                peak = max(peak, score_map[y + dy, x + dx])
        total, shift_x, shift_y = f32(0.0), f32(0.0), f32(0.0)
        for dy in range(-NMS_RADIUS, NMS_RADIUS + 1):
            for dx in range(-NMS_RADIUS, NMS_RADIUS + 1):
                e = math.exp((score_map[y + dy, x + dx] - peak) / _TEMPERATURE)
                total += e
                shift_x += e * f32(dx)
                shift_y += e * f32(dy)
        px, py = f32(x) + shift_x / total, f32(y) + shift_y / total
        left, top = int(px), int(py)
        right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
        a, b = px - f32(left), py - f32(top)
        upper = score_map[top, left] * (f32(1.0) - a) + score_map[top, right] * a
        lower = score_map[bottom, left] * (f32(1.0) - a) + score_map[bottom, right] * a
        keypoints[n, 0], keypoints[n, 1] = px, py
        scores[n] = upper * (f32(1.0) - b) + lower * b


@intrinsic
def _read_channels(typing_context: Any, tables: Any, offsets: Any, weights: Any, out: Any) -> Any:
    """Weighted sums of table rows, for each of the four levels, as explicit vector code.

    tables: four arrays h×w×d. offsets: 1 + 4 + 4 + 4 element offsets of the pixels to read, level
    by level; weights: their 13 weights. out: 4·d floats. Returns the sum of their squares.
    LLVM does not vectorise the equivalent loop over bfloat16, whose pointers might overlap.
    """
    lanes = 8  # d is a multiple of it in every variant
    counts = (1, 4, 4, 4)
    vector = ir.VectorType(ir.FloatType(), lanes)
    bits = ir.VectorType(ir.IntType(32), lanes)
    fast = ("fast",)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        levels = [
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(tables, cgutils.unpack_tuple(builder, arguments[0]), strict=True)
        ]
        starts = cgutils.unpack_tuple(builder, arguments[1])
        factors = cgutils.unpack_tuple(builder, arguments[2])
        target = context.make_array(out)(context, builder, arguments[3]).data
        channels = cgutils.unpack_tuple(builder, levels[0].shape)[2]
        word = channels.type

        def load(level: int, index: Any) -> Any:
            pointer = builder.gep(levels[level].data, [index])
            if tables[level].dtype == types.float32:
                return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=4)
            narrow = ir.VectorType(ir.IntType(16), lanes)
            value = builder.load(builder.bitcast(pointer, narrow.as_pointer()), align=2)
            shift = ir.Constant(bits, [16] * lanes)
            return builder.bitcast(builder.shl(builder.zext(value, bits), shift), vector)

        def splat(scalar: Any) -> Any:
            value = ir.Constant(vector, ir.Undefined)
            for lane in range(lanes):
                value = builder.insert_element(value, scalar, ir.IntType(32)(lane))
            return value

        spread = [splat(factor) for factor in factors]
        squares = cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * lanes))
        steps = builder.udiv(channels, word(lanes))
        with cgutils.for_range(builder, steps, intp=word) as loop:
            channel = builder.mul(loop.index, word(lanes))
            total, read = builder.load(squares), 0
            for level, count in enumerate(counts):
                value = None
                for _ in range(count):
                    pixel = load(level, builder.add(starts[read], channel))
                    term = builder.fmul(pixel, spread[read], flags=fast)
                    value = term if value is None else builder.fadd(value, term, flags=fast)
                    read += 1
                at = builder.add(builder.mul(channels, word(level)), channel)
                pointer = builder.bitcast(builder.gep(target, [at]), vector.as_pointer())
                builder.store(value, pointer, align=4)
                square = builder.fmul(value, value, flags=fast)
                total = builder.fadd(total, square, flags=fast)
            builder.store(total, squares)
        total = builder.load(squares)
        result = builder.extract_element(total, ir.IntType(32)(0))
        for lane in range(1, lanes):
            element = builder.extract_element(total, ir.IntType(32)(lane))
            result = builder.fadd(result, element, flags=fast)
        return result

    return types.float32(tables, offsets, weights, out), generate


@_inline
def _corners(table, x, y, width, height):
    """Element offsets and weights of a coarse level's bilinear read at a full-resolution pixel."""
    f32 = np.float32
    rows, columns, channels = table.shape
    u = f32(x) * f32((columns - 1) / (width - 1))
    v = f32(y) * f32((rows - 1) / (height - 1))
    left, top = int(u), int(v)
    right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
    a, b = u - f32(left), v - f32(top)
    offsets = (
        (top * columns + left) * channels, (top * columns + right) * channels,
        (bottom * columns + left) * channels, (bottom * columns + right) * channels,
    )  # fmt: skip
    upper, lower = f32(1.0) - b, b
    return offsets, (upper * (f32(1.0) - a), upper * a, lower * (f32(1.0) - a), lower * a)


@_inline
def _read_pixel(table1, table2, table3, table4, x, y, out):
    """The concatenated levels at one pixel of the padded image; returns 1 / their norm.

    Inlined: a call would take longer than its work.
    """
    height, width, channels = table1.shape
    offsets2, weights2 = _corners(table2, x, y, width, height)
    offsets3, weights3 = _corners(table3, x, y, width, height)
    offsets4, weights4 = _corners(table4, x, y, width, height)
    offsets = ((y * width + x) * channels, *offsets2, *offsets3, *offsets4)
    weights = (np.float32(1.0), *weights2, *weights3, *weights4)
    squares = _read_channels((table1, table2, table3, table4), offsets, weights, out)
    return np.float32(1.0) / max(math.sqrt(squares), np.float32(1e-12))


@_jit
def gather_patches(table1, table2, table3, table4, keypoints, order, window, out, start, stop):
    """Normalised features of the K×K pixels under each keypoint, 0 outside the image.

    keypoints: N×2. order: the sequence in which to visit them. window: left, top, height, width
    of the image in the padded one. out: N×(K·K)×dim.
    """
    left, top, height, width = window
    kernel = int(math.sqrt(out.shape[1]))
    dim = out.shape[2]
    buffer = np.empty(dim, np.float32)
    for n in order[start:stop]:
        x0, y0 = int(keypoints[n, 0]) - kernel // 2, int(keypoints[n, 1]) - kernel // 2
        for k in range(kernel * kernel):
            x, y = x0 + k % kernel, y0 + k // kernel
            target = out[n, k]
            if 0 <= x < width and 0 <= y < height:
                gain = _read_pixel(table1, table2, table3, table4, x + left, y + top, buffer)
                for c in range(dim):
                    target[c] = gain * buffer[c]
            else:
                target[:] = np.float32(0.0)


@_jit
def gather_samples(
    table1, table2, table3, table4, keypoints, order, offsets, window, out, start, stop
):
    """Bilinear reads, among normalised pixels, at the deformable positions of each keypoint.

    offsets: N×2M pixels, all x then all y. out: N×M×dim. The rest as in ``gather_patches``.
    """
    left, top, height, width = window
    samples, dim = out.shape[1], out.shape[2]
    f32 = np.float32
    limit = f32(max(height, width)) / f32(4.0)
    pixels, gains = np.empty((4, dim), f32), np.empty(4, f32)
    p0, p1, p2, p3 = pixels[0], pixels[1], pixels[2], pixels[3]
    for n in order[start:stop]:
        for m in range(samples):
            px = keypoints[n, 0] + min(max(offsets[n, m], -limit), limit)
            py = keypoints[n, 1] + min(max(offsets[n, samples + m], -limit), limit)
            x0, y0 = math.floor(px), math.floor(py)
            a, b = px - f32(x0), py - f32(y0)
            for k in range(4):
                x, y = x0 + k % 2, y0 + k // 2
                if 0 <= x < width and 0 <= y < height:
                    weight = (a if k % 2 else f32(1.0) - a) * (b if k // 2 else f32(1.0) - b)
                    gains[k] = weight * _read_pixel(
                        table1, table2, table3, table4, x + left, y + top, pixels[k]
                    )
                else:
                    gains[k], pixels[k] = f32(0.0), f32(0.0)
            g0, g1, g2, g3 = gains[0], gains[1], gains[2], gains[3]
            target = out[n, m]
            for c in range(dim):
                target[c] = g0 * p0[c] + g1 * p1[c] + g2 * p2[c] + g3 * p3[c]


@_jit
def widen_half(half, out):
    """Finite float16 numbers, seen as uint16, as float32 (NumPy takes ten times as long)."""
    for i in range(len(half)):
        bits = np.uint32(half[i])
        magnitude = _float_from_bits((bits & np.uint32(0x7FFF)) << np.uint32(13))
        magnitude *= np.float32(2.0**112)  # what the two types' exponents differ by
        out[i] = -magnitude if bits & np.uint32(0x8000) else magnitude


@_jit
def mutual_matches(similarity, matchability0, matchability1, threshold):
    """Mutual best pairs of LightGlue's soft assignment (arXiv 2306.13643, section 3.2).

    similarity: N0×N1; matchability0, matchability1: probabilities N0 and N1.
    Returns rows, columns and probabilities of the K pairs above ``threshold``.
    """
    count0, count1 = similarity.shape
    f32 = np.float32
    column_max = np.full(count1, _LOWEST)
    for i in range(count0):
        for j in range(count1):
            column_max[j] = max(column_max[j], similarity[i, j])
    row_terms = np.empty(count0, f32)
    column_sums = np.zeros(count1, f32)
    for i in range(count0):
        line = similarity[i]
        row_max = _LOWEST
        for j in range(count1):
            row_max = max(row_max, line[j])
        row_sum = f32(0.0)
        for j in range(count1):
            row_sum += _exp(line[j] - row_max)
            column_sums[j] += _exp(line[j] - column_max[j])
        row_terms[i] = math.log(max(matchability0[i] / row_sum, f32(1e-37))) - row_max
    column_terms = np.empty(count1, f32)
    for j in range(count1):
        column_terms[j] = math.log(max(matchability1[j] / column_sums[j], f32(1e-37)))
        column_terms[j] -= column_max[j]
    best = np.full(count1, _LOWEST)
    best_row = np.zeros(count1, np.int64)
    forward = np.zeros(count0, np.int64)
    for i in range(count0):
        line = similarity[i]
        top, top_column = _LOWEST, 0
        for j in range(count1):
            doubled = f32(2.0) * line[j]
            here, there = doubled + column_terms[j], doubled + row_terms[i]
            if here > top:
                top, top_column = here, j
            if there > best[j]:
                best[j], best_row[j] = there, i
        forward[i] = top_column
    rows, columns = np.empty(count0, np.int64), np.empty(count0, np.int64)
    probabilities = np.empty(count0, f32)
    count = 0
    for i in range(count0):
        j = forward[i]
        probability = math.exp(f32(2.0) * similarity[i, j] + row_terms[i] + column_terms[j])
        if best_row[j] == i and probability > threshold:
            rows[count], columns[count], probabilities[count] = i, j, probability
            count += 1
    return rows[:count], columns[:count], probabilities[:count]
