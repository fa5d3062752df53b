"""Means with their uncertainty, and differences between methods on the same units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_SAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over units (image pairs, poses, queries) and its 95 % bootstrap interval.

    value, low, high: NaN where no unit has a value. units: how many have one.
    """

    value: float
    low: float
    high: float
    units: int


def mean_of(values: ArrayLike, blocks: int = 1) -> Estimate:
    """Mean of the finite values.

    blocks: length of the runs of neighbouring units that are drawn together, for sequences, whose
    neighbours are not independent.
    """
    data = np.asarray(values, np.float64).ravel()
    data = data[np.isfinite(data)]
    if not len(data):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    means = data[_draws(len(data), blocks)].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Estimate(float(data.mean()), float(low), float(high), len(data))


def difference_of(ours: ArrayLike, others: ArrayLike, blocks: int = 1) -> Estimate:
    """Mean of ours − others over the units that both have: the paired bootstrap.

    Its interval lies wholly above (or below) zero where one is ahead beyond chance.
    """
    return mean_of(np.asarray(ours, np.float64) - np.asarray(others, np.float64), blocks)


def area_under_recall(errors: ArrayLike, limit: float) -> NDArray[np.float64]:
    """What each unit adds to the area under the curve of recall over error, up to a limit.

    errors: N, NaN = failed. The mean of the result is the normalised area (AUC), in 0..1.
    """
    shares = 1.0 - np.asarray(errors, np.float64) / limit
    return np.clip(np.nan_to_num(shares, nan=0.0, neginf=0.0), 0.0, 1.0)


def _draws(count: int, blocks: int) -> NDArray[np.int64]:
    """Samples × count indices, drawn with replacement in runs of ``blocks`` (circularly)."""
    rng = np.random.default_rng(0)
    blocks = max(1, min(blocks, count))
    starts = rng.integers(0, count, (_SAMPLES, -(-count // blocks)))
    runs = (starts[:, :, None] + np.arange(blocks)) % count
    return runs.reshape(_SAMPLES, -1)[:, :count]
