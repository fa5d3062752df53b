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


"""What others find places with: VLAD vectors and bags of words, learnt from the keyframes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aliked_ros.frontend.similarity import similarities
from aliked_ros.types import Features, Float32Array

_CENTRES = 64  # of a VLAD
_WORDS = 1000
_ROUNDS = 10
_MOST = 60_000  # descriptors to learn from


class Vlad:
    """A VLAD of descriptors of unit length, with normalised residuals."""

    def __init__(self, keyframes: Sequence[Float32Array]) -> None:
        """keyframes: the descriptors N×D of each."""
        self._centres = k_means(np.concatenate(keyframes), _CENTRES)
        self._vectors = np.stack([self._vector(rows) for rows in keyframes])

    def first(self, features: Features, count: int) -> list[int]:
        """Numbers of the keyframes that look most like an image, best first."""
        likeness = self._vectors @ self._vector(features.descriptors)
        return [int(k) for k in np.argsort(-likeness, kind="stable")[:count]]

    def _vector(self, rows: Float32Array) -> Float32Array:
        total = np.zeros_like(self._centres)
        if len(rows):
            nearest = similarities(rows, self._centres).argmax(1)
            np.add.at(total, nearest, rows - self._centres[nearest])
        return _unit(_unit(total).ravel())


class Words:
    """A bag of words with the weights tf-idf, of descriptors of unit length.

    For ORB's, rows of ±1/16, cosine and Hamming distance give the same order, and the sign of a
    centre is the majority of its bits.
    """

    def __init__(self, keyframes: Sequence[Float32Array]) -> None:
        """keyframes: the descriptors N×D of each."""
        self._words = k_means(np.concatenate(keyframes), _WORDS)
        counts = np.stack([self._counts(rows) for rows in keyframes])
        self._weights = np.log(len(counts) / np.maximum((counts > 0).sum(0), 1)).astype(np.float32)
        self._vectors = _unit(counts * self._weights)

    def first(self, features: Features, count: int) -> list[int]:
        """Numbers of the keyframes that look most like an image, best first."""
        likeness = self._vectors @ _unit(self._counts(features.descriptors) * self._weights)
        return [int(k) for k in np.argsort(-likeness, kind="stable")[:count]]

    def _counts(self, rows: Float32Array) -> Float32Array:
        if not len(rows):
            return np.zeros(len(self._words), np.float32)
        nearest = similarities(rows, self._words).argmax(1)
        return np.bincount(nearest, minlength=len(self._words)).astype(np.float32)


def k_means(rows: Float32Array, count: int) -> Float32Array:
    """Centres of unit length, at most ``count``, of rows of unit length."""
    rng = np.random.default_rng(0)
    rows = rows[rng.permutation(len(rows))[:_MOST]]
    centres = rows[:count].copy()
    for _ in range(_ROUNDS):
        nearest = similarities(rows, centres).argmax(1)
        total = np.zeros_like(centres)
        np.add.at(total, nearest, rows)
        filled = np.bincount(nearest, minlength=len(centres)) > 0
        centres[filled] = _unit(total[filled])
    return centres


def _unit(vectors: Float32Array) -> Float32Array:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), np.float32)
