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

"""The command ``aliked_ros``.

Results go to standard output (as JSON with ``--json``), progress and errors to standard error.
Exit status: 0 done, 1 the doctor found something broken, a comparison something slower, or
recordings of a batch failed, 2 bad input or set-up (one line says what and how to go on), 130
interrupted.

Whatever takes long to import is imported inside the command that needs it, so ``--help`` is quick.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from io import TextIOWrapper
from typing import Any

import typer
from typer.core import TyperGroup

from aliked_ros.cli import bench, evaluate, maps, models, vocabulary
from aliked_ros.cli.batch import batch
from aliked_ros.cli.features import extract, match, track
from aliked_ros.cli.programs import demo, doctor, soak
from aliked_ros.cli.recordings import export_recording, report, view
from aliked_ros.cli.train import train
from aliked_ros.errors import AlikedError
from aliked_ros.system.packages import missing

_HOME = re.compile(r"^(--[\w-]+=|)~/")


class _Commands(TyperGroup):
    """Says what went wrong in one line instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        logging.basicConfig(format="%(levelname)s: %(message)s")
        if isinstance(sys.stdout, TextIOWrapper):  # names of files need not be valid UTF-8
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except AlikedError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        except ImportError as error:
            print(f"error: {missing(error)}", file=sys.stderr)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="ALIKED features, LightGlue matches and tracks, from the command line.",
)
for group, name in (
    (models.app, "models"),
    (maps.app, "map"),
    (bench.app, "bench"),
    (evaluate.app, "evaluate"),
    (vocabulary.app, "vocabulary"),
):
    app.add_typer(group, name=name)
for command, name, example in (
    (batch, "batch", "track 'bags/*.mcap' --output results/"),
    (train, "train", "config/train_images.yaml"),
    (extract, "extract", "photo.jpg --top-k 2000 --output features.npz"),
    (match, "match", "a.jpg b.jpg --output matches.png --npz matches.npz"),
    (track, "track", "video.mp4 --limit 300 --output tracks/"),
    (export_recording, "export", "run.mcap --format colmap --output sfm/"),
    (doctor, "doctor", ""),
    (demo, "demo", "--source virtual --limit 100"),
    (soak, "soak", "--minutes 1 --source virtual"),
    (view, "view", "demo_output/demo.mcap"),
    (report, "report", "demo_output/demo.mcap --output report.html"),
):
    app.command(name, epilog=f"Example: aliked_ros {name} {example}".rstrip())(command)


def main(*command: str) -> None:
    """Run the command line; command: what goes before the arguments, e.g. ``models build``."""
    arguments = [_HOME.sub(_expanded, argument) for argument in sys.argv[1:]]
    app([*command, *arguments], prog_name="aliked_ros")


def _expanded(match: re.Match[str]) -> str:
    """``--option=~/file``, which shells leave as it is, and a quoted ``~/file``."""
    return match[1] + os.path.expanduser("~/")
