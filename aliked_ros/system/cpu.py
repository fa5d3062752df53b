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

"""The machine's processor and memory, and how this process uses them."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_M_ARENA_MAX = -8  # of malloc.h
_HEAPS = 2
_BEHIND = 5  # nice value: a third of the time of a thread that wants the same core
_EXTENSIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")


@dataclass(frozen=True, slots=True)
class Processor:
    """The processor.

    name: as given by the maker, else the architecture.
    extensions: instruction sets that matter for speed, by Linux's names.
    """

    name: str
    extensions: tuple[str, ...]


def processor() -> Processor:
    """The processor, from Linux; elsewhere only its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    facts = {
        key.strip(): value.split() for key, _, value in (line.partition(":") for line in lines)
    }
    name = " ".join(facts.get("model name", ())) or platform.processor() or platform.machine()
    flags = facts.get("flags") or facts.get("Features") or []  # x86, Arm
    return Processor(name, tuple(extension for extension in _EXTENSIONS if extension in flags))


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def lower_priority() -> None:
    """Let other threads go first from now on; threads that this one starts inherit that (Linux).

    Elsewhere nothing changes.
    """
    with suppress(OSError, AttributeError):
        thread = threading.get_native_id()
        own = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, own + _BEHIND)


def free_memory(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may still allocate; less in a limited container (cgroup v2).

    groups: mount point of the control groups.
    """
    free: int = psutil.virtual_memory().available
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    own = groups / "".join(line.removeprefix("0::/") for line in lines if line.startswith("0::"))
    for group in (own, *own.parents):
        if group.is_relative_to(groups):
            free = min(free, _left_in(group, free))
    return max(free, 0)


def _left_in(group: Path, unlimited: int) -> int:
    """Bytes left below a control group's limit; ``unlimited`` if it has none."""
    try:
        limit, used, stat = (
            (group / f"memory.{name}").read_text(encoding="utf-8")
            for name in ("max", "current", "stat")
        )
    except OSError:
        return unlimited
    if limit.strip() == "max":
        return unlimited
    # the page cache counts as used, but is freed when memory is needed
    files = sum(int(line.split()[1]) for line in stat.splitlines() if "inactive_file " in line)
    return int(limit) - int(used) + files


def give_back_memory() -> None:
    """Return freed memory to the system, if the C library can (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def limit_heaps() -> None:
    """Limit glibc's heaps (arenas); call it before threads start.

    By default there are up to 8 per core. Short-lived threads fragment all of them: 30 MB a minute
    in the soak test, never returned.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _HEAPS)
