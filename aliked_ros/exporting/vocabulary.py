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
bit), level by level. Only sums over the codes decide, so the codes may lie in shards on many
machines, and any shards give the same vocabulary. Words, weights and scores are DBoW2's: a word
weighs the logarithm of how rare it is among the images (TF-IDF), and two images score
1 - |v - w| / 2 for bags v, w of sum 1.
:mod:`aliked_ros.exporting.vocabulary_files` writes what back-ends load.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from random import Random
from typing import Any, Protocol, TypeAlias

import numpy as np
from scipy.sparse import csr_array

from aliked_ros.errors import ConfigurationError, SourceError
from aliked_ros.exporting.vocabulary_kernels import WORDS, assign, descend, seek, tally
from aliked_ros.frontend.codes import BITS
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
PART = 1 << 17
"""Codes of a task: 4 MiB."""
_ROUNDS = 20  # of k-majority, where it has not settled before

Report = Callable[[str, float], None]
Piece: TypeAlias = tuple[Any, int, int]
"""Handle of codes (N×4 uint64), and the first and the one after the last that are meant."""
Tree: TypeAlias = tuple[IntArray, UInt64Array]
"""Parents and codes of nodes; node 0 is the root, parents come before their children."""


class Spread(Protocol):
    """Where functions run, such as a cluster's tasks."""

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Start a function; returns a handle, which other functions take as an argument."""
        ...

    def put(self, value: Any) -> Any:
        """A handle of a value that many functions take."""
        ...

    def get(self, handle: Any) -> Any:
        """Wait for a result."""
        ...


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
        descend(as_words(codes), as_words(self.codes), *self.children, found)
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
    report: Report = lambda *_: None,
    part: int = PART,
) -> Vocabulary:
    """A vocabulary from the codes (N×32) of images; the same each time for the same images.

    ``train_shards`` on threads of this process.
    """
    ends = np.cumsum([0, *map(len, images)])
    shards = []
    for _, group in groupby(range(len(images)), key=lambda index: ends[index] // part):
        codes = [images[index] for index in group]
        shards.append((as_words(np.concatenate(codes)), np.array([*map(len, codes)])))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return train_shards(shards, Threads(pool), branching, depth, per_word, report, part)


def train_shards(
    shards: Sequence[tuple[Any, IntArray]],
    spread: Spread,
    branching: int = 10,
    depth: int = 6,
    per_word: int = PER_WORD,
    report: Report = lambda *_: None,
    part: int = PART,
) -> Vocabulary:
    """A vocabulary from the codes of many images, which no task holds all of.

    shards: of a number of images each: a handle of their codes (``as_words``, one image after the
    other), and each one's number of codes. How images are shared out makes no difference.
    branching, depth: at most branching ** depth words. per_word: a node is split only if it has so
    many descriptors for each child, so fewer images give fewer words. report: called with a stage's
    name and its progress, 0 to 1. part: most codes of a task, unless a shard has more.
    Raises ConfigurationError for settings that back-ends cannot read, SourceError for fewer than
    two different codes.
    """
    for name, value, least, most in (
        ("branching", branching, 2, MAX_BRANCHING), ("depth", depth, 1, MAX_DEPTH)
    ):  # fmt: skip
        if not least <= value <= most:
            raise ConfigurationError(f"{name} is {value}; choose {least} to {most}.")
    images, total, settled = sum(len(counts) for _, counts in shards), 0, 0
    pieces: list[Piece] = []
    for codes, counts in shards:
        if size := int(counts.sum()):
            pieces.append((codes, 0, size))
            total += size

    def settle(size: int) -> None:
        nonlocal settled
        settled += size
        report("training", settled / max(total, 1))

    rules = _Rules(branching, per_word, part)
    parents, centres = _tree(rules, depth, "", pieces, spread, settle)
    if len(parents) == 1:
        raise SourceError(
            f"{total} descriptors of {images} images hold no two different ones; give recordings "
            "with more images."
        )
    weights = np.zeros(len(parents), np.float32)
    tree = Vocabulary(branching, depth, parents, centres.view(np.uint8), weights)
    at = spread.put(tree)
    seen = np.zeros(len(parents), np.int64)
    for found in [spread(_sightings, at, *shard) for shard in shards]:
        seen += spread.get(found)
    np.log(images / np.maximum(seen, 1), out=weights, where=seen > 0, casting="same_kind")
    return tree


def as_words(codes: UInt8Array) -> UInt64Array:
    """Codes N×32 as N×4 numbers of 64 bits."""
    return np.ascontiguousarray(codes).view(np.uint64)


class Threads:
    """Runs functions on a pool of threads; see ``Spread``."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See ``Spread``. What it waits for was begun before it, so that it has a thread."""
        return self._pool.submit(lambda: function(*map(self.get, arguments)))

    def put(self, value: Any) -> Any:
        """See ``Spread``."""
        return value

    def get(self, handle: Any) -> Any:
        """See ``Spread``."""
        return handle.result() if isinstance(handle, Future) else handle


class _AtOnce:
    """Runs functions when they are called; see ``Spread``."""

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def put(self, value: Any) -> Any:
        return value

    def get(self, handle: Any) -> Any:
        return handle


@dataclass(frozen=True, slots=True)
class _Rules:
    branching: int
    per_word: int
    part: int


def _tree(
    rules: _Rules,
    depth: int,
    path: str,
    pieces: list[Piece],
    spread: Spread,
    settle: Callable[[int], None],
) -> Tree:
    """The tree of these codes. path: from the root to here, seeds the random numbers.

    A child whose codes fit into one task is grown there; larger ones here, by tasks on their parts.
    """
    centres, sizes = _clusters(rules.branching, path, pieces, spread)
    if len(centres) < 2:
        settle(int(sizes.sum()))
        return _LEAF
    ordered = [spread(_ordered, *piece, centres) for piece in pieces] if depth > 1 else []
    ends = np.cumsum(sizes, axis=1)
    small: dict[int, Any] = {}  # handles of trees
    large: dict[int, Tree] = {}
    for child, size in enumerate(sizes.sum(axis=0).tolist()):
        if depth == 1 or size < rules.per_word * rules.branching:
            continue
        below: list[Piece] = [
            (codes, int(end - number), int(end))
            for codes, end, number in zip(ordered, ends[:, child], sizes[:, child], strict=True)
            if number
        ]
        way = f"{path}.{child}"
        if size > rules.part:
            joined = _joined(below, rules.part, spread)
            large[child] = _tree(rules, depth - 1, way, joined, spread, settle)
        else:
            codes, bounds = _flat(below)
            small[child] = spread(_subtree, rules, depth - 1, way, bounds, *codes)
    parents, centre_codes = [np.array([-1])], [np.zeros((1, WORDS), np.uint64)]
    count = 1
    for child in range(len(centres)):
        grown = spread.get(small[child]) if child in small else large.get(child, _LEAF)
        if child not in large:
            settle(int(sizes[:, child].sum()))
        parents.append(np.where(grown[0] < 0, 0, grown[0] + count))
        centre_codes += [centres[child : child + 1], grown[1][1:]]
        count += len(grown[0])
    return np.concatenate(parents), np.concatenate(centre_codes)


def _subtree(
    rules: _Rules, depth: int, path: str, bounds: list[tuple[int, int]], *codes: UInt64Array
) -> Tree:
    whole = _together(bounds, *codes)
    return _tree(rules, depth, path, [(whole, 0, len(whole))], _AtOnce(), lambda _: None)


def _clusters(
    branching: int, path: str, pieces: list[Piece], spread: Spread
) -> tuple[UInt64Array, IntArray]:
    """Cluster codes by k-majority: centres K×4, and the size of each in each piece.

    Begins as k-means++. Sums of integers do not depend on how the codes are shared out.
    """

    def each(function: Callable[..., Any], *more: Any) -> list[Any]:
        started = [spread(function, *piece, *more) for piece in pieces]
        return [spread.get(one) for one in started]

    random = Random(path)
    centres = np.empty((0, WORDS), np.uint64)
    while len(centres) < branching:
        distances = each(_distance, centres)
        aim = int(random.random() * sum(distances))
        for piece, distance in zip(pieces, distances, strict=True):
            if aim < distance:
                chosen = spread.get(spread(_code_at, *piece, centres, aim))
                centres = np.concatenate([centres, chosen])
                break
            aim -= distance
        else:  # all codes are centres
            break
    sizes = np.zeros((len(pieces), len(centres)), np.int64)
    for left in reversed(range(_ROUNDS)):
        tallies = each(_tally, centres)
        sizes = np.array([size for size, _ in tallies]).reshape(sizes.shape)
        total = sizes.sum(axis=0)
        ones = sum((bits for _, bits in tallies), np.zeros((len(centres), BITS), np.int64))
        majority = np.packbits(2 * ones > total[:, None], axis=1, bitorder="little")
        moved = np.where(total[:, None] > 0, as_words(majority), centres)
        if not left or np.array_equal(moved, centres):
            break
        centres = moved
    filled = sizes.sum(axis=0) > 0
    return centres[filled], sizes[:, filled]


def _distance(codes: UInt64Array, start: int, stop: int, centres: UInt64Array) -> int:
    """Sum of the distances of codes to their nearest centres."""
    return int(seek(codes[start:stop], centres, -1)[1])


def _code_at(
    codes: UInt64Array, start: int, stop: int, centres: UInt64Array, aim: int
) -> UInt64Array:
    """The code (1×4) where the sum of the distances so far passes ``aim``."""
    row = start + int(seek(codes[start:stop], centres, aim)[0])
    return codes[row : row + 1].copy()


def _tally(
    codes: UInt64Array, start: int, stop: int, centres: UInt64Array
) -> tuple[IntArray, IntArray]:
    sizes, ones = np.zeros(len(centres), np.int64), np.zeros((len(centres), BITS), np.int64)
    tally(codes[start:stop], centres, sizes, ones)
    return sizes, ones


def _ordered(codes: UInt64Array, start: int, stop: int, centres: UInt64Array) -> UInt64Array:
    """The codes, sorted by their nearest centre."""
    mine = codes[start:stop]
    return mine[np.argsort(assign(mine, centres), kind="stable")]


def _joined(pieces: list[Piece], part: int, spread: Spread) -> list[Piece]:
    """The same codes in fewer pieces, of about ``part`` codes."""
    ends = np.cumsum([0, *(stop - start for _, start, stop in pieces)])
    found: list[Piece] = []
    for _, group in groupby(range(len(pieces)), key=lambda index: ends[index] // part):
        numbers = list(group)
        codes, bounds = _flat([pieces[number] for number in numbers])
        size = int(ends[numbers[-1] + 1] - ends[numbers[0]])
        found.append((spread(_together, bounds, *codes), 0, size))
    return found


def _flat(pieces: list[Piece]) -> tuple[list[Any], list[tuple[int, int]]]:
    """Handles, which tasks take only as arguments of their own, and bounds."""
    return [codes for codes, *_ in pieces], [(start, stop) for _, start, stop in pieces]


def _together(bounds: list[tuple[int, int]], *codes: UInt64Array) -> UInt64Array:
    cut = [one[start:stop] for one, (start, stop) in zip(codes, bounds, strict=True)]
    return np.concatenate(cut)


def _sightings(tree: Vocabulary, codes: UInt64Array, counts: IntArray) -> IntArray:
    """How many of these images have each node of the tree as a word."""
    seen = np.zeros(len(tree.parents), np.int64)
    for image in np.split(tree.nodes(codes.view(np.uint8)), np.cumsum(counts)[:-1]):
        seen[np.unique(image)] += 1
    return seen


_LEAF: Tree = np.array([-1]), np.zeros((1, WORDS), np.uint64)
