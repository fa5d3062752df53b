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

"""Means with uncertainty, and paired differences between methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aliked_ros.types import Float64Array

_SAMPLES = 2000
_LEAST_BLOCKS = 4  # least number drawn; with fewer, all samples are nearly equal

Statistic = Literal["mean", "rms", "median"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over units (image pairs, poses, queries) and its 95 % bootstrap interval.

    Or of another statistic. value, low, high: NaN if no unit has a value. units: number with a
    value.
    """

    value: float
    low: float
    high: float
    units: int


def mean_of(values: ArrayLike, blocks: int = 1, statistic: Statistic = "mean") -> Estimate:
    """Mean (or another statistic) of the finite values.

    blocks: block length of the bootstrap, for sequences, whose neighbouring units are dependent.
    """
    data = np.asarray(values, np.float64).ravel()
    data = data[np.isfinite(data)]
    if not len(data):
        return _NONE
    found = _over_rows(data[_draws(len(data), blocks)], statistic)
    return _estimate(_over_rows(data[None], statistic)[0], found, len(data))


def difference_of(
    ours: ArrayLike, others: ArrayLike, blocks: int = 1, statistic: Statistic = "mean"
) -> Estimate:
    """Mean (or another statistic) of ours minus that of others, over common units.

    A paired bootstrap: both are resampled together. The difference is significant if the interval
    excludes zero.
    """
    both = np.stack([np.asarray(one, np.float64).ravel() for one in (ours, others)])
    both = both[:, np.isfinite(both).all(0)]
    if not both.shape[1]:
        return _NONE
    draws = _draws(both.shape[1], blocks)
    one, other = (_over_rows(data[draws], statistic) for data in both)
    whole = _over_rows(both, statistic)
    return _estimate(whole[0] - whole[1], one - other, both.shape[1])


def area_under_recall(errors: ArrayLike, limit: float) -> Float64Array:
    """Each unit's contribution to the area under the recall-error curve, up to a limit.

    errors: N, NaN = failed. The mean of the result is the normalised area (AUC), in 0..1.
    """
    shares = 1.0 - np.asarray(errors, np.float64) / limit
    return np.clip(np.nan_to_num(shares, nan=0.0, neginf=0.0), 0.0, 1.0)


def _over_rows(samples: Float64Array, statistic: Statistic) -> Float64Array:
    """The statistic of each row."""
    if statistic == "rms":
        return np.asarray(np.sqrt((samples**2).mean(1)))
    return np.asarray(np.median(samples, axis=1) if statistic == "median" else samples.mean(1))


def _estimate(value: float, found: Float64Array, units: int) -> Estimate:
    low, high = np.percentile(found, (2.5, 97.5))
    return Estimate(float(value), float(low), float(high), units)


_NONE = Estimate(float("nan"), float("nan"), float("nan"), 0)


def _draws(count: int, blocks: int) -> NDArray[np.int64]:
    """Samples × count indices, drawn with replacement in runs of ``blocks`` (circularly)."""
    rng = np.random.default_rng(0)
    blocks = max(1, min(blocks, count // _LEAST_BLOCKS))
    starts = rng.integers(0, count, (_SAMPLES, -(-count // blocks)))
    runs = (starts[:, :, None] + np.arange(blocks)) % count
    return runs.reshape(_SAMPLES, -1)[:, :count]
