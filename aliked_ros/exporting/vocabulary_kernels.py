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

"""Compiled loops of the vocabulary: clusters of codes, and the way down the tree.

A code is 4 numbers of 64 bits here. The loops hold no GIL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from aliked_ros.backends.cpu.compiled import jit
from aliked_ros.frontend.codes import BITS

WORDS = BITS // 64


@intrinsic
def _popcount(_context: Any, _number: Any) -> Any:
    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@jit
def _nearest(code, centres, count):
    """The nearest of the first ``count`` centres (the first of equals) and its distance."""
    best, least = 0, BITS + 1
    for i in range(count):
        bits = 0
        for word in range(WORDS):
            bits += _popcount(code[word] ^ centres[i, word])
        if bits < least:
            best, least = i, bits
    return best, least


@jit
def seek(codes, centres, aim):
    """The first row where the sum of the distances to the nearest centres passes ``aim``.

    Returns -1 for a negative ``aim``, and the sum of all distances. Without centres, all codes are
    equally far.
    """
    row, total = -1, 0
    for i in range(len(codes)):
        _, away = _nearest(codes[i], centres, len(centres))
        total += away
        if row < 0 and 0 <= aim < total:
            row = i
    return row, total


@jit
def assign(codes, centres):
    """The number of each code's nearest centre."""
    labels = np.empty(len(codes), np.uint8)
    for i in range(len(codes)):
        labels[i], _ = _nearest(codes[i], centres, len(centres))
    return labels


@jit
def tally(codes, centres, sizes, ones):
    """Add the number of codes of each cluster (K), and of its set bits (K×256)."""
    for i in range(len(codes)):
        label, _ = _nearest(codes[i], centres, len(centres))
        sizes[label] += 1
        for word in range(WORDS):
            for bit in range(64):
                ones[label, word * 64 + bit] += codes[i, word] >> np.uint64(bit) & np.uint64(1)


@jit
def descend(data, centres, children, begins, found):
    """Write the leaf of each code (N×4) into found."""
    for i in range(len(data)):
        node = 0
        while begins[node + 1] > begins[node]:
            best, least = 0, BITS + 1
            for j in range(begins[node], begins[node + 1]):
                bits = 0
                for word in range(WORDS):
                    bits += _popcount(data[i, word] ^ centres[children[j], word])
                if bits < least:
                    best, least = children[j], bits
            node = best
        found[i] = node
