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

"""A vocabulary tree of binary descriptors: bags of words for ORB-style place recognition.

Trained by k-majority (k-means of bits: distances are Hamming's, a centre is the majority of each
bit), level by level. Words, weights and scores are DBoW2's: a word weighs the logarithm of how rare
it is among the images (TF-IDF), and two images score 1 - |v - w| / 2 for bags v, w of sum 1.
:mod:`aliked_ros.exporting.vocabulary_files` writes what back-ends load.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from aliked_ros.errors import ConfigurationError, SourceError
from aliked_ros.exporting.vocabulary_kernels import WORDS, descend, split
from aliked_ros.frontend.codes import BYTES
from aliked_ros.types import (
    BoolArray,
    Float32Array,
    Float64Array,
    IntArray,
    UInt8Array,
    UInt64Array,
)

MAX_BRANCHING, MAX_DEPTH = 20, 10
"""What ORB-SLAM's reader accepts."""
PER_WORD = 20
"""Descriptors a child that a node needs to be split. With fewer, words fit the training images: two
views of a point, which differ by a fifth of their bits, then seldom share one."""


@dataclass(frozen=True)
class Vocabulary:
    """A tree of M nodes; node 0 is the root, parents come before their children.

    branching, depth: what it was trained with, at most so many children and levels.
    parents: M int64, -1 for the root.
    codes: M×32 uint8, what leads a descriptor to a node; zeros for the root.
    weights: M float32, of leaves; zeros for the others.
    """

    branching: int
    depth: int
    parents: IntArray
    codes: UInt8Array
    weights: Float32Array

    @cached_property
    def leaf(self) -> BoolArray:
        """M bool: whether a node is a word."""
        leaf = np.ones(len(self.parents), bool)
        leaf[self.parents[1:]] = False
        return leaf

    @cached_property
    def children(self) -> tuple[IntArray, IntArray]:
        """Node numbers sorted by parent, and where each node's begin in them (M + 1)."""
        ordered = np.argsort(self.parents[1:], kind="stable") + 1
        return ordered, np.searchsorted(self.parents[ordered], np.arange(len(self.parents) + 1))

    @property
    def words(self) -> int:
        """Number of words."""
        return int(self.leaf.sum())

    def nodes(self, codes: UInt8Array) -> IntArray:
        """The leaf of each code (N×32): N node numbers."""
        found = np.zeros(len(codes), np.int64)
        descend(_words(codes), _words(self.codes), *self.children, found)
        return found

    def bags(self, images: Sequence[UInt8Array]) -> csr_array:
        """The bag of words of each image (codes N×32): one row each, of sum 1, by node number."""
        rows = np.repeat(np.arange(len(images)), [len(codes) for codes in images])
        columns = np.concatenate([self.nodes(codes) for codes in images])
        shape = (len(images), len(self.parents))
        bags = csr_array((self.weights[columns].astype(float), (rows, columns)), shape=shape)
        totals = np.asarray(bags.sum(1)).ravel()
        scale = np.divide(1.0, totals, out=np.zeros_like(totals), where=totals > 0)
        return csr_array(bags.multiply(scale[:, None]))


def score(bag: csr_array, bags: csr_array) -> Float64Array:
    """How alike one bag (1×M) and each of others (K×M) are: K scores, 0 to 1."""
    # |v - w| = 2 - 2 Σ min(v, w) for sums of 1; only words of both count
    dense = np.zeros(bags.shape[1])
    dense[bag.indices] = bag.data
    common = np.minimum(bags.data, dense[bags.indices])
    sums = np.add.reduceat(np.append(common, 0.0), bags.indptr[:-1])
    return np.where(np.diff(bags.indptr) > 0, sums, 0.0)  # an empty row gets another's number


def train(
    images: Sequence[UInt8Array],
    branching: int = 10,
    depth: int = 6,
    per_word: int = PER_WORD,
    report: Callable[[str, float], None] = lambda *_: None,
) -> Vocabulary:
    """A vocabulary from the codes (N×32) of images; the same each time for the same images.

    branching, depth: at most branching ** depth words. per_word: a node is split only if it has so
    many descriptors for each child, so fewer images give fewer words. report: called with a stage's
    name and its progress, 0 to 1. Raises ConfigurationError for settings that back-ends cannot
    read, SourceError for fewer than two different codes.
    """
    for name, value, least, most in (
        ("branching", branching, 2, MAX_BRANCHING), ("depth", depth, 1, MAX_DEPTH)
    ):  # fmt: skip
        if not least <= value <= most:
            raise ConfigurationError(f"{name} is {value}; choose {least} to {most}.")
    data = _words(np.concatenate([np.empty((0, BYTES), np.uint8), *images]))
    parents, centres = [np.array([-1])], [np.zeros((1, WORDS), np.uint64)]
    level = [(0, np.arange(len(data)))]  # nodes to split, with the rows of their descriptors
    count = 1
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for step in range(depth):
            clusters = pool.map(lambda one: split(data, one[1], branching, one[0]), level)
            below = []
            for done, ((node, rows), (found, sizes)) in enumerate(
                zip(level, clusters, strict=True)
            ):
                report("training", (step + (done + 1) / len(level)) / depth)
                if len(sizes) < 2:
                    continue
                ends = np.cumsum(sizes)
                below += [
                    (count + i, rows[end - size : end])
                    for i, (end, size) in enumerate(zip(ends, sizes, strict=True))
                ]
                parents.append(np.full(len(sizes), node))
                centres.append(found)
                count += len(sizes)
            level = [one for one in below if len(one[1]) >= per_word * branching]
    if count == 1:
        raise SourceError(
            f"{len(data)} descriptors of {len(images)} images hold no two different ones; give "
            "recordings with more images."
        )
    codes = np.concatenate(centres).view(np.uint8)
    tree = Vocabulary(branching, depth, np.concatenate(parents), codes, np.zeros(count, np.float32))
    return _weighted(tree, images)


def _weighted(tree: Vocabulary, images: Sequence[UInt8Array]) -> Vocabulary:
    """The tree with the weights of its words: log(images / images with the word)."""
    seen = np.zeros(len(tree.parents), np.int64)
    for codes in images:
        seen[np.unique(tree.nodes(codes))] += 1
    weights = np.zeros(len(seen), np.float32)
    np.log(len(images) / np.maximum(seen, 1), out=weights, where=seen > 0, casting="same_kind")
    return Vocabulary(tree.branching, tree.depth, tree.parents, tree.codes, weights)


def _words(codes: UInt8Array) -> UInt64Array:
    """Codes N×32 as N×4 numbers of 64 bits."""
    return np.ascontiguousarray(codes).view(np.uint64)
