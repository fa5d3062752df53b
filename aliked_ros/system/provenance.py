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

"""Where figures and recordings come from: the machine, its packages, and the code's revision."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from aliked_ros.system.cpu import cores, processor
from aliked_ros.system.nvidia import GpuError, find_gpu


def machine() -> dict[str, Any]:
    """The machine, packages and code revision, for results."""
    packages = {}
    for package in ("numpy", "numba", "opencv-python-headless", "openvino", "onnxruntime", "torch"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    cpu = processor()
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "revision": _revision(),
        "cpu": " ".join([cpu.name, *cpu.extensions]),
        "cores": cores(),
        "frequency": _frequency(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": _gpu(),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": packages,
    }
    return {name: value for name, value in found.items() if value != ""}


def _revision() -> str:
    """The code's git revision, with + if modified; empty = not in a repository."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    answers = []
    for question in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "-uno")):
        command = ["git", "--no-optional-locks", "-C", str(root), *question]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return ""
        answers.append(done.stdout.strip())
    return answers[0] + ("+" if answers[1] else "")


def _frequency() -> str:
    """Governor and frequency range of the first core; empty if unknown."""
    folder = Path("/sys/devices/system/cpu/cpu0/cpufreq")
    try:
        governor, low, high = (
            (folder / name).read_text(encoding="utf-8").strip()
            for name in ("scaling_governor", "cpuinfo_min_freq", "cpuinfo_max_freq")
        )
        return f"{governor}, {int(low) / 1e6:.2f} to {int(high) / 1e6:.2f} GHz"  # from kHz
    except (OSError, ValueError):
        return ""


def _gpu() -> str:
    try:
        return str(find_gpu())
    except GpuError:
        return ""
