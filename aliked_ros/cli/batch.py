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

"""``aliked_ros batch``: many recordings, on the cores of this machine or a Ray cluster."""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aliked_ros.cli.shared import AsJson, console, require_ros, say
from aliked_ros.errors import ConfigurationError
from aliked_ros.system.packages import require

if TYPE_CHECKING:
    from aliked_ros.fleet.plan import Plan

_NEEDED = ("ray", "pyarrow", "fsspec")


def batch(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="PLAN.yaml | OPERATION RECORDING...",
            help="A plan (docs/fleet.md), or extract, track, keyframes, record, odometry or export "
            "and the recordings: paths or fsspec URIs, with * for several.",
        ),
    ],
    output: Annotated[
        str | None, typer.Option(help="Folder or fsspec URI; needed without a plan.")
    ] = None,
    address: Annotated[
        str, typer.Option(help="Of a Ray cluster: auto, or ray://HOST:10001. Default: here.")
    ] = "",
    workers: Annotated[
        int, typer.Option(min=0, help="Here: processes; 0: one for each --threads cores.")
    ] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores of a task; default: the plan's, or 1.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many images of a recording.")
    ] = None,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Here: also start Ray's dashboard.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Process many recordings; run again, it does only what is missing or has changed.

    Exit status 1: some recordings failed; the table says why, and the others are complete.
    """
    require_fleet("batch")
    from aliked_ros.fleet.run import Cluster, State, run_batch

    if address not in ("", "auto") and not address.startswith("ray://"):
        raise ConfigurationError(f"--address is {address!r}; give auto or ray://HOST:10001.")
    plan = _plan(what, output, threads, limit)
    if "record" in plan.operations:
        require_ros("the messages of 'record' need")
    begun = time.monotonic()
    with redirect_stdout(sys.stderr), _bar() as bar:  # Ray repeats its workers' lines there
        task = bar.add_task("starting", total=None, rate="")

        def show(state: State) -> None:
            rate = state.images / (time.monotonic() - begun)
            failed = f", {len(state.failures)} failed" if state.failures else ""
            making = f", making the {state.reduction}" if state.reduction else ""
            bar.update(
                task,
                description=f"{state.done} of {state.recordings} recordings{failed}{making}",
                completed=state.images,
                total=state.work or None,
                rate=f"{rate:.1f} images/s",
            )

        facts = run_batch(plan, Cluster(address, workers, dashboard), say, show)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts, plan.output)
    if facts["failures"]:
        raise typer.Exit(1)


def require_fleet(who: str) -> None:
    """BackendError, unless what ``batch`` needs is installed."""
    require(who, "fleet", *_NEEDED)


def _plan(what: list[str], output: str | None, threads: int | None, limit: int | None) -> Plan:
    """The plan of the command line."""
    from aliked_ros.fleet.plan import OPERATIONS, absolute, plan_of, read_plan

    first, *recordings = what
    if first in OPERATIONS:
        if not recordings or output is None:
            raise ConfigurationError(
                f"batch {first} needs recordings and --output: aliked_ros batch {first} "
                "'bags/*.mcap' --output results/"
            )
        plan = plan_of({"recordings": recordings, "operations": [first], "output": output})
    elif recordings:
        raise ConfigurationError(
            f"{first!r} is no operation; give a plan alone, or one of {', '.join(OPERATIONS)}."
        )
    else:
        plan = read_plan(Path(first))
    if output is not None:
        plan = replace(plan, output=absolute(output))
    if threads is not None:
        plan = replace(plan, frontend={**plan.frontend, "threads": threads})
    return plan if limit is None else replace(plan, limit=limit)


def _bar() -> Any:
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(), TimeRemainingColumn(), console=console(), transient=True,
    )  # fmt: skip


def _print(facts: dict[str, Any], output: str) -> None:
    """The figures of a batch, and a table of the failures."""
    from rich.console import Console
    from rich.table import Table

    rate = facts["images"] / facts["seconds"]
    print(f"recordings  {facts['complete']} of {facts['recordings']} complete"
          f" ({facts['unchanged']} unchanged)")  # fmt: skip
    print(f"images      {facts['images']}")
    print(f"seconds     {facts['seconds']:.1f} ({rate:.1f} images/s)")
    print(f"output      {output}")
    if facts["failures"]:
        table = Table("failed", "reason")
        for one in facts["failures"]:
            table.add_row(one["recording"], one["reason"])
        Console().print(table)
