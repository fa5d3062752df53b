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

"""``aliked_ros soak``: the real node for minutes, while everything around it goes wrong.

A camera in this process plays a sequence to a node in a process of its own and injects one fault
after the other. After each one the books are balanced: every image that was sent has to be
processed, dropped or refused by the node's own counts; images come by a reliable topic with room
for all, so that none may be lost on the way. Memory, threads and files are watched meanwhile.

Memory is compared where it can be: before the time begins, what fills once is filled. In the first
part of it the node stays active, in the second one it is taken down again and again, and looked at
when it has freed all.

The seed decides what is injected and in which order; how much of it fits into the time depends on
the machine.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from aliked_ros.errors import AlikedError
from aliked_ros.io.results import write_json
from aliked_ros.ros.processes import (
    Child,
    ProcessError,
    Watcher,
    children,
    join_private_domain,
)
from aliked_ros.ros.soak.leak_check import Vitals, growth, leaks, least_leak
from aliked_ros.ros.soak.scenario import PARAMETERS, Soak
from aliked_ros.sources import default_source, open_source
from aliked_ros.system.share import share_path

LEAK_LIMIT = 1.0
"""MB a minute of the node's own memory."""
_START_TIMEOUT = 900.0  # seconds: TensorRT engines may have to be built first
_IMAGES = 60  # of the sequence, there and back again
# glibc's own choice of these grows to 32 and 64 MB, and what it keeps hides what leaks.
_EAGER_ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}


def run_soak(
    source: str, seconds: float, seed: int, log: Path, progress: Callable[[str, float], None]
) -> dict[str, Any]:
    """Run it; returns the figures, with ``failures`` in sentences.

    log: of the node. Raises SourceError for a bad source, ProcessError when the node cannot start.
    """
    images = [image.pixels for image in open_source(source, _IMAGES)]
    colour = [pixels if pixels.ndim == 3 else pixels[..., None].repeat(3, 2) for pixels in images]
    watcher = Watcher(join_private_domain())
    failures = []
    soak = None
    try:
        with _frontend(log) as node:
            progress("loading the front-end", 0.0)
            watcher.wait_for_start(_START_TIMEOUT, node)
            soak = Soak(colour, seed, watcher, node)
            last = watcher.status
            try:
                soak.run(seconds, progress)
            except (ProcessError, psutil.NoSuchProcess) as error:
                failures.append(str(error))
            last = watcher.status
    except ProcessError as error:  # it did not end well
        if soak is None:
            raise
        failures.append(str(error))
    finally:
        watcher.close()
    failures += soak.failures + _said(log)
    resting = soak.resting[1:]  # the first one is of the warming up
    for state, looks in (("active", soak.active), ("unconfigured", resting)):
        failures += [f"while {state}, {sentence}" for sentence in leaks(looks, LEAK_LIMIT)]
    return {
        "source": source,
        "seed": seed,
        "backend": last.backend,
        "minutes": round(seconds / 60.0, 2),
        "injected": dict(soak.injected),
        "frames": dict(soak.frames),
        "active": _course(soak.active),
        "unconfigured": _course(resting),
        "failures": failures,
    }


def _course(looks: list[Vitals]) -> dict[str, Any]:
    """How the process fared in one state; ``looks``: seconds, MB, threads, files."""
    if not looks:
        return {}
    grown, least = growth(looks), least_leak(looks, LEAK_LIMIT)
    begin, end = looks[0], looks[-1]
    return {
        "minutes": round((end.time - begin.time) / 60.0, 2),
        "memory_mb": [round(begin.memory, 1), round(end.memory, 1)],
        "growth_mb_per_minute": round(grown.slope, 2),
        "interval": [round(grown.low, 2), round(grown.high, 2)],
        "least_leak_told": round(least, 2) if math.isfinite(least) else None,
        "threads": [begin.threads, end.threads],
        "files": [begin.files, end.files],
        "looks": [
            [round(v.time - begin.time, 1), round(v.memory, 1), v.threads, v.files] for v in looks
        ],
    }


@contextmanager
def _frontend(log: Path) -> Iterator[Child]:
    os.environ.update(_EAGER_ALLOCATOR)
    with children() as start:
        yield start(
            "front-end",
            "aliked_ros.ros.frontend_node",
            PARAMETERS,
            log,
            share_path("config/cpu.yaml"),
        )


def _said(log: Path) -> list[str]:
    """What the node's log says of faults of its own."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [line for line in lines if "unexpected " in line or "Traceback" in line]
    return [f"{len(found)} lines in the log like: {found[0]}"] if found else []


def summary_table(figures: dict[str, Any]) -> Table:
    """The figures for people."""
    table = Table(title=f"Soak test, seed {figures['seed']}: {figures['source']}")
    table.add_column("")
    table.add_column("", justify="right")
    for name, count in figures["injected"].items():
        table.add_row(name, str(count))
    table.add_section()
    for name, count in figures["frames"].items():
        table.add_row(f"images {name}", str(count))
    for state in ("active", "unconfigured"):
        course = figures[state]
        if not course:
            continue
        table.add_section()
        low, high = course["interval"]
        growing = f"{course['growth_mb_per_minute']:+.2f} ({low:+.2f} to {high:+.2f})"
        table.add_row(f"{state}: minutes watched", str(course["minutes"]))
        table.add_row("memory of its own, MB", "{} → {}".format(*course["memory_mb"]))
        table.add_row("growth, MB a minute", growing)
        table.add_row("leaks told from, MB a minute", str(course["least_leak_told"]))
        table.add_row("threads", "{} → {}".format(*course["threads"]))
        table.add_row("files", "{} → {}".format(*course["files"]))
    return table


def show_soak(
    minutes: float,
    source: str | None,
    seed: int,
    output: Path | None,
    log: Path | None,
    as_json: bool,
) -> int:
    """Run the soak test and print its figures; the exit status is 1 when something did not hold.

    output: file for the figures. log: file for the node's log; None = a new one.
    """
    console = Console(stderr=as_json)
    if log is None:
        log = Path(tempfile.mkdtemp(prefix="aliked_ros_soak_")) / "frontend.log"
    columns = (
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=minutes * 60.0)
            figures = run_soak(
                source or default_source(), minutes * 60.0, seed, log,
                lambda what, now: bar.update(task, description=f"{what:<22}", completed=now),
            )  # fmt: skip
        if output is not None:
            write_json(output, figures)
    except AlikedError as error:
        return _failed(f"error: {error}", 2)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    if as_json:
        print(json.dumps(figures, indent=2))
    else:
        console.print(summary_table(figures))
    if figures["failures"]:
        return _failed("\n".join(f"failed: {f}" for f in figures["failures"]) + f"\nlog: {log}", 1)
    console.print("It held.")
    return 0


def _failed(text: str, status: int) -> int:
    print(text, file=sys.stderr)
    return status
