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

"""Paired, interleaved timing: every contender once a round, in a new random order each round.

Machines are noisy, but ratios of contenders within a round are robust. Results are medians, and the
median ratio to the baseline with a bootstrap interval over rounds.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aliked_ros.system.provenance import machine as machine

Run = Callable[[int], object]
"""One timed piece of work; its argument is the round's number."""

_BOOTSTRAP_SAMPLES = 2000
_PAUSE = 0.02  # seconds, until the previous contender's threads stop spinning


@dataclass(frozen=True, slots=True)
class Timing:
    """Result of one contender.

    median_ms, p90_ms, p99_ms: milliseconds a run.
    median_low_ms, median_high_ms: 95 % bootstrap interval of the median.
    speedup: median over rounds of baseline time / own time; 1 for the baseline.
    speedup_low, speedup_high: its 95 % bootstrap interval.
    """

    name: str
    rounds: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float
    median_low_ms: float
    median_high_ms: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare(
    contenders: dict[str, Run],
    rounds: int,
    warm_up: int = 3,
    burst: int = 1,
    progress: Callable[[float], None] | None = None,
) -> list[Timing]:
    """Time all contenders together; the first one is the baseline. See ``measure``."""
    return summarise(measure(contenders, rounds, warm_up, burst, progress))


def measure(
    contenders: dict[str, Run],
    rounds: int,
    warm_up: int = 3,
    burst: int = 1,
    progress: Callable[[float], None] | None = None,
) -> dict[str, NDArray[Any]]:
    """Seconds per run, by contender and round.

    burst: consecutive runs averaged into one measurement; for streams, which would otherwise find
    another contender's data in the caches.
    """
    names = list(contenders)
    for run in contenders.values():
        for i in range(warm_up):
            run(i)
    seconds = {name: np.zeros(rounds) for name in names}
    order = np.random.default_rng(0)
    for i in range(rounds):
        for name in order.permutation(names):
            time.sleep(_PAUSE)
            begin = time.perf_counter()
            for j in range(burst):
                contenders[name](i * burst + j)
            seconds[name][i] = (time.perf_counter() - begin) / burst
        if progress is not None:
            progress((i + 1) / rounds)
    return seconds


def summarise(seconds: dict[str, NDArray[Any]]) -> list[Timing]:
    """Figures from ``measure``'s results; the first contender is the baseline."""
    baseline = next(iter(seconds.values()))
    return [_summary(name, own, baseline) for name, own in seconds.items()]


def _summary(name: str, seconds: NDArray[Any], baseline: NDArray[Any]) -> Timing:
    median, p90, p99 = (round(1e3 * float(v), 3) for v in np.percentile(seconds, (50, 90, 99)))
    ends = interval(1e3 * seconds)[1:]
    return Timing(name, len(seconds), median, p90, p99, *interval(baseline / seconds), *ends)


def interval(ratios: NDArray[Any]) -> tuple[float, float, float]:
    """Median over rounds, and the ends of its 95 % bootstrap interval."""
    samples = np.random.default_rng(0).choice(ratios, (_BOOTSTRAP_SAMPLES, len(ratios)))
    low, high = np.percentile(np.median(samples, axis=1), (2.5, 97.5))
    return round(float(np.median(ratios)), 3), round(float(low), 3), round(float(high), 3)


def keep_freed_memory() -> None:
    """Raise glibc's mmap and trim thresholds; page faults would slow eager PyTorch unfairly."""
    m_trim_threshold, m_mmap_threshold = -1, -3
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_trim_threshold, 1 << 30)
        libc.mallopt(m_mmap_threshold, 1 << 30)
    except (OSError, AttributeError):
        pass  # another C library keeps its defaults
