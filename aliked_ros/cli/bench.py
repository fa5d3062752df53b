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

"""The commands ``aliked_ros bench ...``; ``run`` is the default."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from aliked_ros.cli.shared import AsJson, console, require_ros, say, show

_DEFAULT = "run"


class _Commands(TyperGroup):
    """``bench extractor --rounds 5`` is ``bench run extractor --rounds 5``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Commands,
    help="Time this package and others in turns, in one run; compare two runs.\n\n"
    "Without a command: run. Example: aliked_ros bench extractor matcher --rounds 50 --json",
)


@app.command(_DEFAULT, epilog="Example: aliked_ros bench extractor matcher --rounds 50 --json")
def run(
    suites: Annotated[
        list[str] | None,
        typer.Argument(
            help="Of extractor, matcher, frontend, peers, scaling, node, detection, device; "
            "default: the first three, with --backend the last."
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=3, help="Number of rounds; each contender runs once in each.")
    ] = 40,
    backend: Annotated[
        Literal["tensorrt", "torch"] | None,
        typer.Option(help="Time a GPU: image to matches, memory, stages (suite 'device')."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Images as for 'track'; default as for 'demo'.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Write the JSON to this file too; plots of peers, scaling, node beside it.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time this package against the published code, other implementations and settings."""
    from aliked_ros.benchmark.markdown import as_text
    from aliked_ros.benchmark.suites import run
    from aliked_ros.console.progress import share_progress
    from aliked_ros.io.results import write_json

    with share_progress(console()) as report:
        usual = ["device"] if backend else ["extractor", "matcher", "frontend"]
        results = run(suites or usual, rounds, source, report, backend or "torch")
    if output is not None:
        write_json(output, results)
    print(json.dumps(results, indent=2) if as_json else as_text(results), flush=True)
    if output is not None:
        _draw(results, output)


@app.command(epilog="Example: aliked_ros bench places --count 1000")
def places(
    count: Annotated[int, typer.Option(min=100, help="Synthetic keyframes to remember.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Memory of many keyframes; time to find one, to save and to load them. Needs ROS 2."""
    require_ros("the definitions of a map's messages need")
    from aliked_ros.benchmark.places import time_places
    from aliked_ros.console.progress import share_progress

    with share_progress(console()) as report:
        facts = time_places(count, lambda share: report("places", share))
    show(facts, as_json)


@app.command(epilog="Example: aliked_ros bench batch --json")
def batch(
    images: Annotated[int, typer.Option(min=8, help="Images of each of the two recordings.")] = 80,
    rounds: Annotated[int, typer.Option(min=3, help="Each contender runs once in each.")] = 8,
    hours: Annotated[
        float, typer.Option(min=0.0, help="Of video at 30 images a second, for the cost.")
    ] = 10_000.0,
    source: Annotated[
        str | None, typer.Option(help="Images as for 'track'; default as for 'demo'.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time 'batch': two workers against one and against two threads, its overhead, and the cost.

    Needs two cores, 'make setup GROUP=fleet' and ROS 2; takes about seven minutes on a quiet
    machine.
    """
    from aliked_ros.cli.batch import require_fleet
    from aliked_ros.console.progress import share_progress

    require_fleet("bench batch")
    require_ros("the recordings of 'bench batch' need")
    from aliked_ros.fleet.benchmark import as_text, time_batch

    with share_progress(console()) as report:
        facts = time_batch(images, rounds, hours, source, lambda share: report("batch", share))
    print(json.dumps(facts, indent=2) if as_json else as_text(facts))


@app.command(epilog="Example: aliked_ros bench compare before.json after.json")
def compare(
    old: Annotated[Path, typer.Argument(help="JSON of 'bench --output', from before.")],
    new: Annotated[Path, typer.Argument(help="The same, from after.")],
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Difference to ignore: 0.1 = 10 %.")
    ] = 0.1,
    as_json: AsJson = False,
) -> None:
    """Show what became slower or faster; exit status 1 if something is significantly slower.

    Compares ratios to PyTorch's networks if the run has them, otherwise milliseconds on machines of
    one kind, otherwise ratios within the run.
    """
    from aliked_ros.benchmark.comparison import compare_files

    found = compare_files(old, new, tolerance)
    print(json.dumps(found.as_dict(), indent=2) if as_json else found.as_text())
    if found.regressions:
        raise typer.Exit(1)


@app.command(epilog="Example: aliked_ros bench report --only peers --only node")
def report(
    data: Annotated[Path, typer.Option(file_okay=False, help="Folder of the shared data.")] = Path(
        "../shared/data"
    ),
    output: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for REPORT.md and its pictures.")
    ] = Path("docs/benchmarks"),
    work: Annotated[
        Path, typer.Option(file_okay=False, help="Keeps each section's results between runs.")
    ] = Path("build/report"),
    only: Annotated[
        list[str] | None, typer.Option(help="Run this section only; may be given again.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Rerun finished sections.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run all evaluations and benchmarks on the shared data; exit status 1 if one fails.

    Writes one page. Finished results of an earlier run are kept.
    """
    from aliked_ros.benchmark.document import write_document

    program = [sys.executable, "-m", "aliked_ros.cli"]
    states = write_document(program, data, output, work, only or (), restart, say)
    if as_json:
        print(json.dumps(states, indent=2))
    else:
        print("\n".join(f"{name}: {state}" for name, state in states.items()))
    if any(state.startswith("failed") for state in states.values()):
        raise typer.Exit(1)


def _draw(results: dict[str, Any], output: Path) -> None:
    from aliked_ros.benchmark.plots import write_plots
    from aliked_ros.errors import BackendError

    prefix = "" if output.stem in (*results["suites"], "results") else f"{output.stem}_"
    try:
        for path in write_plots(results, output.parent, prefix):
            print(f"plot: {path}", file=sys.stderr)
    except BackendError as error:  # without matplotlib there are still the figures
        print(f"no plots: {error}", file=sys.stderr)
