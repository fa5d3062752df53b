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

"""The tail of ALIKED's score head, as a compiled loop."""

from __future__ import annotations

import numpy as np

from aliked_ros.backends.cpu.compiled import elu, exp, jit, widened


@jit
def _widen_row(part, row, left, fraction, wide):
    """One row of a coarse level, brought to full width and channel by channel."""
    channels, width = wide.shape
    last = part.shape[1] - 1
    for x in range(width):
        i, a = left[x], fraction[x]
        j = min(i + 1, last)
        for c in range(channels):
            u, v = widened(part[row, i, c]), widened(part[row, j, c])
            wide[c, x] = u + a * (v - u)


@jit
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


@jit
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


@jit
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


@jit
def _activate_row(source, target):
    for c in range(source.shape[0]):
        for x in range(source.shape[1]):
            target[c, x + 1] = elu(source[c, x])


@jit
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
                    sums[k, x + 1] = widened(part1[y, x, k])
            _add_level(part2, y, height, lefts[0], fractions[0], wide[0], held[0], sums)
            _add_level(part3, y, height, lefts[1], fractions[1], wide[1], held[1], sums)
            _add_level(part4, y, height, lefts[2], fractions[2], wide[2], held[2], sums)
            for k in range(channels):
                line = sums[k]
                for x in range(1, width + 1):
                    line[x] = elu(line[x])
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
                e = exp(-abs(one[x]))  # the sigmoid, without overflow
                line[x] = (f32(1.0) if one[x] > f32(0.0) else e) / (f32(1.0) + e)
