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

"""``aliked_ros train CONFIG.yaml``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from aliked_ros.cli.shared import AsJson, console
from aliked_ros.system.packages import require


def train(
    config: Annotated[Path, typer.Argument(dir_okay=False, help="YAML; see docs/training.md.")],
    accelerator: Annotated[
        str, typer.Option(help="Lightning Fabric's: auto, cpu, cuda, mps.")
    ] = "auto",
    restart: Annotated[
        bool, typer.Option("--restart", help="Start over if the output folder has a run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train ALIKED on your own images; an interrupted training resumes.

    On several GPUs: torchrun --nproc-per-node 4 -m aliked_ros.cli train CONFIG.yaml
    """
    require("training", "train", "torch", "lightning_fabric", "tensorboard", "h5py", "pydantic")
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    from aliked_ros.console.progress import share_progress
    from aliked_ros.training.comparison import HEAD, check, compare
    from aliked_ros.training.settings import read_settings
    from aliked_ros.training.trainer import train as run

    settings = read_settings(config)
    check(settings)
    first = os.environ.get("RANK", "0") == "0"
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    terminal = console()
    with Progress(*columns, console=terminal, transient=True, disable=not first) as bar:
        tasks: dict[str, TaskID] = {}

        def report(step: int, losses: dict[str, float]) -> None:
            show("training", step, settings.steps, f"loss {losses['total']:.3f}")

        def reading(name: str, done: int, of: int | None) -> None:
            show(name, done, of, f"reading {name}")

        def show(name: str, done: int, of: int | None, text: str) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(text)
            bar.update(tasks[name], completed=done, total=of, description=text)

        result = run(settings, restart, report, accelerator, reading)
    if not first:
        return
    facts = {
        "checkpoint": str(result.best),
        "steps": result.steps,
        "best_step": result.after.get("step"),
        "stopped": result.stopped or None,
        "correct_matches_before": _rounded(result.before.get("correct")),
        "correct_matches_after": _rounded(result.after.get("correct")),
        "precision_before": _rounded(result.before.get("precision")),
        "precision_after": _rounded(result.after.get("precision")),
    }
    if not as_json:  # printed first, since the comparison may fail
        for name, value in facts.items():
            if value is not None:
                print(f"{name.replace('_', ' '):<24}{value}")
    with share_progress(terminal) as share:
        compared = compare(settings, result.best, share, terminal.print)
    if as_json:
        print(json.dumps(facts | {"compared": [one.as_dict() for one in compared]}, indent=2))
        return
    if compared:
        print("\n".join(["", HEAD, *(one.line() for one in compared)]))
    print("use this path as --model, or as the node's parameter model", file=sys.stderr)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
