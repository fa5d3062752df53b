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

"""Binary descriptors: 256 bits that ORB's code (Hamming distance, bags of words) can take.

A code holds the signs of 256 orthogonal projections of a descriptor: each block of D of them
flips the descriptor's elements by fixed signs and applies the D×D Hadamard matrix. The constants
are the 256 signs alone, so every language and library version computes the same projection
(``examples/cpp/include/aliked_examples/codes.hpp`` does it in C++). Bits can differ where a
projection is zero up to rounding.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from aliked_ros.errors import ModelError
from aliked_ros.frontend.similarity import similarities
from aliked_ros.types import Float32Array, UInt8Array

BITS = 256
BYTES = BITS // 8
# Pi's first 256 binary digits after the point, in four words. Counted from each word's lowest bit,
# bit b·D + j is the sign of element j in block b, 1 = minus.
SIGNS = (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89)


def encode(descriptors: Float32Array) -> UInt8Array:
    """The codes N×32 of descriptors N×D; bit i of a code is bit i % 8 of its byte i // 8.

    Raises ModelError unless D is 64 or 128, as ALIKED's are.
    """
    projected = similarities(descriptors, projection(descriptors.shape[1]))
    return np.packbits(projected > 0, axis=1, bitorder="little")


@cache
def projection(dimension: int) -> Float32Array:
    """The matrix 256×D of 1 and -1 whose rows a code has the signs of. ModelError as ``encode``."""
    if dimension not in (64, 128):
        raise ModelError(
            f"descriptors have {dimension} elements, and binary256 takes 64 or 128; set "
            "descriptor_encoding to 'float32'."
        )
    hadamard = np.ones((1, 1), np.float32)
    while len(hadamard) < dimension:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    words = np.array(SIGNS, "<u8").view(np.uint8)
    signs = 1 - 2 * np.unpackbits(words, bitorder="little").astype(np.float32)
    matrix = np.concatenate([hadamard * block for block in signs.reshape(-1, dimension)])
    matrix.setflags(write=False)
    return matrix


def distances(a: UInt8Array, b: UInt8Array) -> NDArray[np.int64]:
    """Hamming distances N×M, in bits, of codes N×32 and M×32."""
    signs = [np.float32(1) - 2 * np.unpackbits(codes, axis=1) for codes in (a, b)]
    return (BITS - similarities(*signs)).astype(np.int64) // 2
