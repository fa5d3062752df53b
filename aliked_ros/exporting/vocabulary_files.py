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

"""Vocabulary files of others: DBoW2's text and binary forms of ORB-SLAM2 and 3, and FBoW's.

``.txt``: a line ``branching depth scoring weighting``, then one a node: parent, whether it is a
word, 32 bytes, weight. ``.bin``: the same as numbers. ``.fbow``: a header, then a block for each
node with children. The root is node 0 and has no line; others are numbered as they come, each after
its parent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aliked_ros.errors import OutputError, SourceError
from aliked_ros.exporting.vocabulary import MAX_BRANCHING, MAX_DEPTH, Vocabulary
from aliked_ros.frontend.codes import BYTES
from aliked_ros.io.results import output_path

SUFFIXES = (".txt", ".bin", ".fbow")
_L1, _TF_IDF = 0, 0  # DBoW2's numbers of the scoring and the weighting
_HEADER = np.dtype(
    [("nodes", "<u4"), ("size", "<u4"), ("branching", "<i4"), ("depth", "<i4"),
     ("scoring", "<i4"), ("weighting", "<i4")]
)  # fmt: skip
_NODE = np.dtype([("parent", "<u4"), ("code", "u1", BYTES), ("weight", "<f4"), ("leaf", "u1")])

_Numbers: TypeAlias = NDArray[Any]

_SIGNATURE = 55824124  # of FBoW's files
_FBOW_LIMIT = 2**31  # bytes: its reader counts them in an int
_FBOW_HEADER = np.dtype(
    {
        "names": ["signature", "name", "alignment", "blocks", "code_size", "block_size",
                  "codes_begin", "children_begin", "total_size", "type", "size", "branching"],
        "formats": ["<u8", "S50", "<u4", "<u4", "<u8", "<u8", "<u8", "<u8", "<u8", "<i4", "<i4",
                    "<u4"],
        "offsets": [0, 8, 60, 64, 72, 80, 88, 96, 104, 112, 116, 120],
        "itemsize": 128,
    }
)  # fmt: skip
_FBOW_CODES = 8  # bytes of a block before its codes
_FBOW_LEAF = 1 << 31
_UINT8 = 0  # OpenCV's CV_8UC1


def save(vocabulary: Vocabulary, path: Path) -> None:
    """Write a vocabulary in the form that the file's suffix names.

    Raises OutputError for another suffix, for a file that cannot be written, and for one that is
    too large for its reader.
    """
    writers = {".txt": _text, ".bin": _binary, ".fbow": _fbow}
    check_suffix(path)
    data = writers[path.suffix](vocabulary, path)
    with output_path(path) as made:
        made.write_bytes(data)


def check_suffix(path: Path) -> None:
    """Raise OutputError unless the suffix names one of the forms."""
    if path.suffix not in SUFFIXES:
        raise OutputError(
            f"cannot write {path}: give it the suffix .txt or .bin (DBoW2) or .fbow (FBoW)."
        )


def load(path: Path) -> Vocabulary:
    """Read a ``.txt`` or ``.bin`` file, also of ORB. SourceError for another, or a damaged one."""
    try:
        if path.suffix == ".txt":
            return _from_text(path)
        if path.suffix == ".bin":
            return _from_binary(path)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, IndexError) as error:
        raise SourceError(f"{path} is not a vocabulary, or damaged: {error}.") from error
    raise SourceError(f"cannot read {path}: give a .txt or .bin file of DBoW2.")


def _text(vocabulary: Vocabulary, _path: Path) -> bytes:
    lines = [f"{vocabulary.branching} {vocabulary.depth} {_L1} {_TF_IDF}"]
    for parent, leaf, code, weight in zip(
        vocabulary.parents[1:].tolist(), vocabulary.leaf[1:].tolist(),
        vocabulary.codes[1:].tolist(), vocabulary.weights[1:].tolist(), strict=True,
    ):  # fmt: skip
        lines.append(f"{parent} {leaf:d} {' '.join(map(str, code))} {weight:.9g}")
    return "\n".join(
        lines
    ).encode()  # no end of line: ORB-SLAM's reader makes a node of what follows


def _from_text(path: Path) -> Vocabulary:
    with path.open(encoding="ascii") as file:
        header = [int(one) for one in file.readline().split()]
        lines = file.readlines()
    rows = np.loadtxt(lines, ndmin=2) if lines else np.empty((0, 0))
    if len(header) != 4 or rows.shape[1] != 2 + BYTES + 1:
        raise ValueError("it has other columns than a DBoW2 vocabulary of 32 bytes")
    return _checked(header, rows[:, 0], rows[:, 2:-1], rows[:, -1])


def _binary(vocabulary: Vocabulary, _path: Path) -> bytes:
    header = np.zeros(1, _HEADER)
    count = len(vocabulary.parents)
    header[0] = (count, _NODE.itemsize, vocabulary.branching, vocabulary.depth, _L1, _TF_IDF)
    nodes = np.zeros(count - 1, _NODE)
    nodes["parent"], nodes["code"] = vocabulary.parents[1:], vocabulary.codes[1:]
    nodes["weight"], nodes["leaf"] = vocabulary.weights[1:], vocabulary.leaf[1:]
    return header.tobytes() + nodes.tobytes()


def _from_binary(path: Path) -> Vocabulary:
    data = path.read_bytes()
    header = np.frombuffer(data, _HEADER, 1)[0]
    if header["size"] != _NODE.itemsize:
        raise ValueError(f"its nodes have {header['size']} bytes, not {_NODE.itemsize}")
    nodes = np.frombuffer(data, _NODE, int(header["nodes"]) - 1, _HEADER.itemsize)
    settings = [int(header[name]) for name in ("branching", "depth", "scoring", "weighting")]
    return _checked(settings, nodes["parent"], nodes["code"], nodes["weight"])


def _checked(
    header: list[int], parents: _Numbers, codes: _Numbers, weights: _Numbers
) -> Vocabulary:
    """The vocabulary of what was read; ValueError for numbers that make no sense."""
    branching, depth, scoring, weighting = header
    if not (2 <= branching <= MAX_BRANCHING and 1 <= depth <= MAX_DEPTH):
        raise ValueError(f"branching {branching} and depth {depth} are out of range")
    if (scoring, weighting) != (_L1, _TF_IDF):
        raise ValueError(f"scoring {scoring} and weighting {weighting} are not L1 and TF-IDF")
    parents = np.concatenate([[-1], np.asarray(parents, np.int64)])
    if len(parents) < 3 or (parents[1:] < 0).any() or (parents >= np.arange(len(parents))).any():
        raise ValueError("a node comes before its parent, or there are none")
    codes = np.concatenate([np.zeros((1, BYTES)), codes]).astype(np.uint8)
    weights = np.concatenate([[0.0], weights]).astype(np.float32)
    return Vocabulary(branching, depth, parents, codes, weights)


def _fbow(vocabulary: Vocabulary, path: Path) -> bytes:
    # A block: number of children, whether all are words, own number; their codes; for each child
    # its word, marked by the highest bit, or its block, and its weight.
    k, parents, leaf = vocabulary.branching, vocabulary.parents, vocabulary.leaf
    block = np.dtype(
        [("count", "<u2"), ("all_words", "<u2"), ("node", "<u4"), ("codes", "u1", (k, BYTES)),
         ("children", [("number", "<u4"), ("weight", "<f4")], k)]
    )  # fmt: skip
    inner = np.flatnonzero(~leaf)
    if len(inner) * block.itemsize >= _FBOW_LIMIT:
        raise OutputError(
            f"cannot write {path}: {len(inner)} nodes take more than FBoW's 2 GiB; train with a "
            "smaller depth or branching."
        )
    number = np.where(leaf, np.cumsum(leaf) - 1 + _FBOW_LEAF, np.cumsum(~leaf) - 1)
    children, begins = vocabulary.children
    counts = np.diff(begins)
    row = np.cumsum(~leaf)[parents[children]] - 1
    slot = np.arange(len(children)) - begins[parents[children]]
    blocks = np.zeros(len(inner), block)
    blocks["count"], blocks["node"] = counts[inner], inner
    blocks["all_words"] = np.bincount(row, ~leaf[children], len(inner)) == 0
    blocks["codes"][row, slot] = vocabulary.codes[children]
    blocks["children"]["number"][row, slot] = number[children]
    blocks["children"]["weight"][row, slot] = vocabulary.weights[children]
    header = np.zeros(1, _FBOW_HEADER)
    for name, value in (
        ("signature", _SIGNATURE), ("name", b"binary256"), ("alignment", 8),
        ("blocks", len(inner)), ("code_size", BYTES), ("block_size", block.itemsize),
        ("codes_begin", _FBOW_CODES), ("total_size", blocks.nbytes),
        ("children_begin", _FBOW_CODES + k * BYTES), ("type", _UINT8), ("size", BYTES),
        ("branching", k),
    ):  # fmt: skip
        header[name] = value
    return header.tobytes() + blocks.tobytes()
