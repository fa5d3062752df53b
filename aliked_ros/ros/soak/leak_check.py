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

"""Memory, threads and open files of a process over time, and whether they grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
from scipy.stats import theilslopes

LEAST_LOOKS = 3
"""Fewer show nothing."""

_MEGABYTE = 1e6
_WINDOWS = 12  # of whose lowest figures the slope is taken: work in progress is no leak
_LEAST_WINDOW = 30.0  # seconds, in which an allocator gives back what it kept (measured)
# MB that come without any leak: what an allocator keeps for a while, and what is left of that when
# the looks are over so many minutes that there are lowest figures to compare.
_KEPT, _LEFT, _LONG = 25.0, 5.0, 3.0
_CONFIDENCE = 0.95
_THREADS, _FILES = 3, 5  # more than at the beginning; fewer may be a pool's


@dataclass(frozen=True, slots=True)
class Vitals:
    """One look at a process.

    time: seconds. memory: MB of its own, without files and memory it shares. resident: MB with
    them. threads, files: their numbers.
    """

    time: float
    memory: float
    resident: float
    threads: int
    files: int


def vitals_of(process: psutil.Process, time: float) -> Vitals:
    """Look at a process on Linux; raises psutil.NoSuchProcess when it has ended."""
    memory = process.memory_info()
    return Vitals(
        time,
        (memory.rss - memory.shared) / _MEGABYTE,
        memory.rss / _MEGABYTE,
        process.num_threads(),
        process.num_fds(),
    )


@dataclass(frozen=True, slots=True)
class Growth:
    """Of a process's own memory, MB a minute: slope by Theil and Sen, with its interval."""

    slope: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.slope:+.2f} MB/min ({self.low:+.2f} to {self.high:+.2f})"


def growth(samples: Sequence[Vitals]) -> Growth:
    """How fast memory grows: zeros with fewer than three looks.

    Time is cut into windows; the lowest figure of each counts, so that what an image in work needs
    for a moment does not. The median of the slopes between them is not moved by single steps.
    """
    if len(samples) < LEAST_LOOKS:
        return Growth(0.0, 0.0, 0.0)
    times = np.array([sample.time for sample in samples]) / 60.0
    memory = np.array([sample.memory for sample in samples])
    count = int(np.clip((samples[-1].time - samples[0].time) / _LEAST_WINDOW, 3, _WINDOWS))
    edges = np.linspace(times[0], times[-1], count + 1)
    window = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, count - 1)
    lowest = [min(np.flatnonzero(window == i), key=memory.__getitem__) for i in np.unique(window)]
    slope, _, low, high = theilslopes(memory[lowest], times[lowest], _CONFIDENCE)
    return Growth(float(slope), float(low), float(high))


def least_leak(samples: Sequence[Vitals], limit: float) -> float:
    """The slowest leak, MB a minute, that these samples can detect.

    It is ``limit`` when the looks are over five minutes or more.
    """
    minutes = (samples[-1].time - samples[0].time) / 60.0 if samples else 0.0
    return max(limit, (_LEFT if minutes >= _LONG else _KEPT) / minutes) if minutes > 0.0 else np.inf


def leaks(samples: Sequence[Vitals], limit: float) -> list[str]:
    """What has grown, in sentences; empty for fewer than three samples.

    limit: MB a minute that are no leak; see ``least_leak``. Memory has grown when the slope is
    above that, and even the low end of its interval above zero.
    """
    if len(samples) < LEAST_LOOKS:
        return []
    found = []
    grown = growth(samples)
    allowed = least_leak(samples, limit)
    if grown.slope > allowed and grown.low > 0.0:
        found.append(f"memory grows by {grown}, {allowed:.3g} MB/min are allowed")
    third = max(len(samples) // 3, 1)
    for name, more in (("threads", _THREADS), ("files", _FILES)):
        counts = [getattr(sample, name) for sample in samples]
        begin, end = max(counts[:third]), min(counts[-third:])
        if end > begin + more:
            found.append(f"{name} grew from {begin} to {end} and never fell")
    return found
