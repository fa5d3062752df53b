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

"""``export``, ``view`` and ``report``: what to do with a recording."""

from __future__ import annotations

import json
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from aliked_ros.cli.shared import AsJson, console, require_ros, show
from aliked_ros.system.packages import require


class ExportFormat(str, Enum):
    """What a recording can be turned into."""

    colmap = "colmap"
    tum = "tum"


def export_recording(
    recording: Annotated[Path, typer.Argument(help=".mcap file, or folder of 'ros2 bag record'.")],
    output: Annotated[
        Path, typer.Option(help="colmap: folder, empty or not there yet; tum: file to write.")
    ],
    form: Annotated[
        ExportFormat,
        typer.Option("--format", help="COLMAP database with images, or odometry as TUM text."),
    ],
    every: Annotated[int, typer.Option(min=1, help="colmap: export one in N images.")] = 1,
    topics: Annotated[
        list[str] | None,
        typer.Option("--topic", help="Topic to read where several have the same type; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a recording for another program: COLMAP (structure from motion), evo (trajectories)."""
    from aliked_ros.console.progress import share_progress
    from aliked_ros.exporting.recording import RecordingReader
    from aliked_ros.exporting.tum import export_tum

    if form is ExportFormat.colmap:
        require("a COLMAP database", "view", "pycolmap")
    facts: dict[str, Any] = {"recording": str(recording), "output": str(output)}
    with RecordingReader(recording, topics or ()) as reader:
        if form is ExportFormat.tum:
            facts["poses"] = export_tum(reader, output)
        else:
            from aliked_ros.exporting.colmap import export_colmap

            with share_progress(console()) as report:
                facts |= export_colmap(reader, output, every, report)
    show(facts, as_json)


def view(
    recording: Annotated[
        Path | None,
        typer.Argument(help="A .mcap file or rosbag2 folder; without: the running nodes (ROS 2)."),
    ] = None,
    frontend: Annotated[str, typer.Option(help="Name of the front-end.")] = "aliked_frontend",
    odometry: Annotated[str, typer.Option(help="Name of the odometry node, live.")] = "odometry",
    image: Annotated[str, typer.Option(help="Topic of the image, live.")] = "image",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page; 0: any free one.")
    ] = 9090,
    memory_limit: Annotated[
        str, typer.Option(help="Memory for the page; the oldest data are dropped first.")
    ] = "500MB",
    open_browser: Annotated[
        bool,
        typer.Option("--open/--no-open", help="Open the page in a browser if there is a display."),
    ] = True,
) -> None:
    """Show tracks, stage times, drops and map on a page in the browser: live, or a recording."""
    from aliked_ros.viewing.server import has_display, require_viewer

    require_viewer()
    open_browser = open_browser and has_display()
    if recording is not None:
        from aliked_ros.console.progress import share_progress
        from aliked_ros.viewing.playback import serve_recording

        with share_progress(console()) as progress:
            page = serve_recording(recording, frontend, port, memory_limit, progress)
        page.stay(open_browser)
        return
    require_ros("the live page needs", "Or give a recording: it needs no ROS.")
    parameters = {
        "frontend": frontend,
        "odometry": odometry,
        "image": image,
        "port": port,
        "memory_limit": memory_limit,
        "open_browser": open_browser,
    }
    command = [sys.executable, "-m", "aliked_ros.ros.view_node", "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={json.dumps(value)}"]  # JSON is a part of YAML
    os.execv(sys.executable, command)  # in our place, so that Ctrl-C reaches it alone


def report(
    recording: Annotated[Path, typer.Argument(help="A .mcap file or rosbag2 folder.")],
    output: Annotated[
        Path, typer.Option(dir_okay=False, help="The page, one self-contained file.")
    ] = Path("report.html"),
    frontend: Annotated[str, typer.Option(help="Name of the front-end.")] = "aliked_frontend",
    as_json: AsJson = False,
) -> None:
    """Write figures, plots and pictures of a recording to one HTML file."""
    from aliked_ros.console.progress import share_progress
    from aliked_ros.viewing.report import write_report

    with share_progress(console()) as progress:
        facts = write_report(recording, frontend, output, progress)
    show(facts, as_json)
