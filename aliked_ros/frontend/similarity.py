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

"""Cosines of descriptors and their mutual best pairs, without the price of BLAS's idle threads."""

from __future__ import annotations

import threading
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from aliked_ros.types import Float32Array

_blas_limit = threading.Lock()  # the limit holds for the whole process


def similarities(a: Float32Array, b: Float32Array) -> Float32Array:
    """Cosines N×M of descriptors N×D and M×D, rows of unit length."""
    # BLAS's other threads would spin for 20 ms after the product, on the cores that the next
    # image needs
    with _blas_limit, _libraries().limit(limits=1, user_api="blas"):
        return np.asarray(a @ b.T, np.float32)


def mutual_best(cosines: Float32Array, least: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the entries above ``least`` that are the best of both, by rising row."""
    if cosines.size == 0:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    forward, backward = cosines.argmax(1), cosines.argmax(0)
    rows = np.arange(len(forward))
    kept = (backward[forward] == rows) & (cosines[rows, forward] > least)
    return rows[kept], forward[kept]


def mutual_best_of(
    a: Float32Array,
    b: Float32Array,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    least: float,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """``mutual_best`` among candidate pairs only: rows of a and of b (descriptors N×D, M×D)."""
    cosines = np.einsum("kd,kd->k", a[rows], b[columns])
    ascending = np.argsort(cosines)
    best_a, best_b = np.zeros(len(a), np.intp), np.zeros(len(b), np.intp)
    best_a[rows[ascending]] = ascending  # the last, best one stays
    best_b[columns[ascending]] = ascending
    pair = np.arange(len(cosines))
    kept = (best_a[rows] == pair) & (best_b[columns] == pair) & (cosines > least)
    return rows[kept], columns[kept]


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # looking for the loaded libraries takes milliseconds
