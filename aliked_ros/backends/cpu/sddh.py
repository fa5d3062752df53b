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

"""The sparse reads of ALIKED's descriptor head (SDDH), as compiled loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from aliked_ros.backends.cpu.compiled import inline, jit


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


@inline
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


@inline
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


@jit
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


@jit
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
