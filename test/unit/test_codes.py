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

"""Binary descriptors: the projection is fixed, distances follow angles, messages carry them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from aliked_ros.errors import ModelError
from aliked_ros.frontend.codes import distances, encode, projection
from aliked_ros.types import Float32Array


def unit_rows(count: int, dimension: int, seed: int = 0) -> Float32Array:
    rows = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("dimension", "digest"), [(64, "662bbfa2689502bf"), (128, "5d8232b9b8aa8035")],
)  # fmt: skip
def test_the_projection_never_changes(dimension, digest):
    """Codes are kept in maps and vocabularies: another matrix would make them worthless."""
    matrix = projection(dimension)
    assert hashlib.sha256(matrix.astype("<i1").tobytes()).hexdigest()[:16] == digest
    blocks = matrix.reshape(-1, dimension, dimension)
    for block in blocks:
        np.testing.assert_array_equal(block @ block.T, dimension * np.eye(dimension))


@pytest.mark.parametrize("dimension", [64, 128])
def test_distances_follow_the_angle(dimension):
    """Of 256 bits, the share that differs is the angle between descriptors as a share of π."""
    a, noise = unit_rows(300, dimension), unit_rows(300, dimension, 1)
    across = noise - a * (noise * a).sum(1, keepdims=True)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    for angle in (0.0, 0.3, 1.0, np.pi / 2, np.pi):
        b = (np.cos(angle) * a + np.sin(angle) * across).astype(np.float32)
        found = np.diag(distances(encode(a), encode(b)))
        assert found.mean() == pytest.approx(256 * angle / np.pi, abs=2)
        assert found.std() < 10


def test_bits_are_those_of_the_documented_order():
    descriptors = unit_rows(5, 128)
    codes = encode(descriptors)
    assert (codes.shape, codes.dtype) == ((5, 32), np.uint8)
    projected = descriptors.astype(np.float64) @ projection(128).T
    for i in range(256):
        np.testing.assert_array_equal(codes[:, i // 8] >> i % 8 & 1, projected[:, i] > 0)
    assert distances(codes[:1], ~codes[:1]) == 256


def test_no_descriptors_and_unknown_ones():
    assert encode(np.empty((0, 64), np.float32)).shape == (0, 32)
    with pytest.raises(ModelError, match=r"have 32 elements.*descriptor_encoding to 'float32'"):
        encode(unit_rows(3, 32))
