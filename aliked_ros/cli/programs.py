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

"""``doctor``, ``demo`` and ``soak``: this machine, and the real node on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from aliked_ros.cli.shared import AsJson, require_ros
from aliked_ros.system.share import Profile

Source = Annotated[
    str | None, typer.Option(help="As for 'track'; default: $SOURCE, shared data, or 'virtual'.")
]


def doctor(
    gpu: Annotated[
        bool,
        typer.Option("--gpu", help="Compare the GPU's results with the CPU's; may build engines."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is installed, which backend will run, and how to get what is missing."""
    from dataclasses import asdict

    from aliked_ros.cli.doctor import FAIL, OK, WARN, examine

    checks = examine(gpu)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        colours = {OK: typer.colors.GREEN, WARN: typer.colors.YELLOW, FAIL: typer.colors.RED}
        for check in checks:
            state = typer.style(f"{check.state:<4}", fg=colours[check.state])
            typer.echo(f"{state}  {check.name}: {check.finding}")
            if check.remedy:
                typer.echo(f"      → {check.remedy}")
    if any(check.state == FAIL for check in checks):
        raise typer.Exit(1)


def demo(
    source: Source = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of images.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo_output"),
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=1000.0,
            help="Images per second, in real time; default: as fast as this machine "
            "processes them, at most at the source's own rate.",
        ),
    ] = None,
    profile: Annotated[Profile, typer.Option(help="Parameters: config/PROFILE.yaml.")] = "cpu",
    view_page: Annotated[
        bool, typer.Option("--view", help="Also show it live in the browser.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Play a sequence through the ROS 2 node: MCAP, video, contact sheet, figures."""
    require_ros("the demo needs")
    from aliked_ros.ros.demo import Demo, show_demo
    from aliked_ros.sources import default_source

    asked = Demo(source or default_source(), limit, output, rate, profile, view_page)
    raise typer.Exit(show_demo(asked, as_json))


def soak(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long.")] = 10.0,
    source: Annotated[str | None, typer.Option(help="Images as for 'demo'.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random faults and their order.")] = 0,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the JSON to this file too.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(dir_okay=False, help="The node's log; default: a new file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the real node while faults are injected; exit status 1 if it does not hold."""
    require_ros("the soak test needs")
    from aliked_ros.ros.soak.runner import show_soak

    raise typer.Exit(show_soak(minutes, source, seed, output, log, as_json))
