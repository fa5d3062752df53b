"""What this machine's processor is."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_EXTENSIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")


@dataclass(frozen=True, slots=True)
class Processor:
    """The processor.

    name: the maker's, else the architecture.
    extensions: those of its instruction set that matter for speed, by Linux's names.
    """

    name: str
    extensions: tuple[str, ...]


def processor() -> Processor:
    """Ask Linux; elsewhere only the name is known."""
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
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))
