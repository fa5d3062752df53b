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
_ROUNDS = 20  # of k-majority, where it has not settled before


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
def _add(code, ones, number):
    """Add a number to the counts (256) of the code's set bits."""
    for word in range(WORDS):
        for bit in range(64):
            ones[word * 64 + bit] += number * np.int32(code[word] >> np.uint64(bit) & np.uint64(1))


@jit
def split(data, rows, branching, seed):
    """Cluster the codes data[rows] by k-majority; sorts rows by cluster.

    Returns the centres K×4 and the sizes of the K ≤ branching clusters, none of them empty.
    """
    np.random.seed(seed)  # of this thread
    n = len(rows)
    centres = np.empty((branching, WORDS), np.uint64)
    distances = np.full(n, BITS + 1)
    total = np.float64(n)
    count = 0
    while count < branching and total > 0:  # k-means++: far ones are likelier to be chosen
        aim, chosen = np.random.random() * total, n - 1
        if count == 0:
            chosen = int(aim)
        else:
            for i in range(n):
                aim -= distances[i]
                if aim < 0:
                    chosen = i
                    break
            while distances[chosen] == 0:  # rounding
                chosen -= 1
        centres[count] = data[rows[chosen]]
        total = np.float64(0)
        for i in range(n):
            _, away = _nearest(data[rows[i]], centres[count : count + 1], 1)
            distances[i] = min(distances[i], away)
            total += distances[i]
        count += 1

    labels = np.full(n, -1)
    sizes = np.zeros(branching, np.int64)
    ones = np.zeros((branching, BITS), np.int32)  # set bits of the codes of each cluster
    for _ in range(_ROUNDS):
        changed = 0
        for i in range(n):
            code = data[rows[i]]
            label, _ = _nearest(code, centres, count)
            if label != labels[i]:
                changed += 1
                if labels[i] >= 0:
                    sizes[labels[i]] -= 1
                    _add(code, ones[labels[i]], np.int32(-1))
                sizes[label] += 1
                _add(code, ones[label], np.int32(1))
                labels[i] = label
        if changed == 0:
            break
        for label in range(count):
            if sizes[label] == 0:
                continue
            for word in range(WORDS):
                value = np.uint64(0)
                for bit in range(64):
                    if 2 * ones[label, word * 64 + bit] > sizes[label]:
                        value |= np.uint64(1) << np.uint64(bit)
                centres[label, word] = value
    rows[:] = rows[np.argsort(labels, kind="mergesort")]
    filled = np.flatnonzero(sizes[:count])
    return centres[filled], sizes[filled]


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
