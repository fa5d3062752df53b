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

"""The mutual filter of LightGlue's soft assignment, as a compiled loop."""

from __future__ import annotations

import math

import numpy as np

from aliked_ros.backends.cpu.compiled import exp, jit

_LOWEST = np.float32(-3e38)  # fast arithmetic may not see an infinity


@jit
def mutual_matches(similarity, matchability0, matchability1, threshold):
    """Mutual best pairs of LightGlue's soft assignment (arXiv 2306.13643, section 3.2).

    similarity: N0×N1; matchability0, matchability1: probabilities N0 and N1.
    Returns rows, columns and probabilities of the K pairs above ``threshold``.
    """
    count0, count1 = similarity.shape
    f32 = np.float32
    column_max = np.full(count1, _LOWEST)
    for i in range(count0):
        for j in range(count1):
            column_max[j] = max(column_max[j], similarity[i, j])
    row_terms = np.empty(count0, f32)
    column_sums = np.zeros(count1, f32)
    for i in range(count0):
        line = similarity[i]
        row_max = _LOWEST
        for j in range(count1):
            row_max = max(row_max, line[j])
        row_sum = f32(0.0)
        for j in range(count1):
            row_sum += exp(line[j] - row_max)
            column_sums[j] += exp(line[j] - column_max[j])
        row_terms[i] = math.log(max(matchability0[i] / row_sum, f32(1e-37))) - row_max
    column_terms = np.empty(count1, f32)
    for j in range(count1):
        column_terms[j] = math.log(max(matchability1[j] / column_sums[j], f32(1e-37)))
        column_terms[j] -= column_max[j]
    best = np.full(count1, _LOWEST)
    best_row = np.zeros(count1, np.int64)
    forward = np.zeros(count0, np.int64)
    for i in range(count0):
        line = similarity[i]
        top, top_column = _LOWEST, 0
        for j in range(count1):
            doubled = f32(2.0) * line[j]
            here, there = doubled + column_terms[j], doubled + row_terms[i]
            if here > top:
                top, top_column = here, j
            if there > best[j]:
                best[j], best_row[j] = there, i
        forward[i] = top_column
    rows, columns = np.empty(count0, np.int64), np.empty(count0, np.int64)
    probabilities = np.empty(count0, f32)
    count = 0
    for i in range(count0):
        j = forward[i]
        probability = math.exp(f32(2.0) * similarity[i, j] + row_terms[i] + column_terms[j])
        if best_row[j] == i and probability > threshold:
            rows[count], columns[count], probabilities[count] = i, j, probability
            count += 1
    return rows[:count], columns[:count], probabilities[:count]
