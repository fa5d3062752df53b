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

"""``make demo``: a sequence played through the real node, recorded, drawn and counted.

Player, front-end and recorder are three processes that meet only through DDS topics, in a ROS
domain of their own on this machine. Files are played as fast as this machine processes them, at
most at their own rate. A camera, and whatever is played with ``--rate``, comes in real time: images
that arrive while the front-end is busy are dropped and counted.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rich.console import Console
from rich.table import Table
from std_srvs.srv import Trigger

from aliked_msgs.msg import FrontendStatus
from aliked_ros.console.progress import image_progress
from aliked_ros.errors import AlikedError
from aliked_ros.io.messages import seconds
from aliked_ros.io.results import write_json
from aliked_ros.ros.processes import (
    FRONTEND,
    Child,
    ProcessError,
    Watcher,
    children,
    join_private_domain,
)
from aliked_ros.sources import Source, open_source
from aliked_ros.system.share import Profile, share_path
from aliked_ros.viewing.server import default_port, has_display, require_viewer

_PRELOAD = 300  # images that RATE= decodes first: a camera would not take the front-end's cores
_START_TIMEOUT = 900.0  # seconds: TensorRT engines may have to be built first
_DRAIN_TIMEOUT = 20.0  # seconds for the images still in work when the player has ended
_SETTLING_TIME = 1.0  # seconds in which a last image or result can be under way
_TOLERATED = 0.03  # share of images that may be dropped without a warning

Start = Callable[..., Child]


class Pace(str, Enum):
    """What decides when the next image is played."""

    machine = "this machine"
    rate = "RATE="
    camera = "the camera"


@dataclass(frozen=True, slots=True)
class Demo:
    """What to play, how, and where the results go.

    source: as for ``open_source``. limit: most images; None = all. rate: images per second in real
    time; None = as fast as this machine processes them, at most at the source's own rate.
    profile: the front-end's parameters. view: also start the odometry and the live page.
    """

    source: str
    limit: int | None
    output: Path
    rate: float | None
    profile: Profile
    view: bool

    @property
    def pace(self) -> Pace:
        """What decides when the next image is played."""
        if self.rate:
            return Pace.rate
        return Pace.camera if self.source.startswith("camera:") else Pace.machine

    @property
    def recording(self) -> Path:
        """The file of the messages."""
        return self.output / "demo.mcap"


def run_demo(demo: Demo, console: Console) -> dict[str, Any]:
    """Run the nodes to the end of the source; returns the content of summary.json.

    Raises SourceError for a bad source, ProcessError when a process fails.
    """
    if demo.view:
        require_viewer()
    source = open_source(demo.source, demo.limit)  # says what is wrong with it before any start
    demo.output.mkdir(parents=True, exist_ok=True)
    _play(demo, source, console)
    # imported late, so that the demo starts sooner
    from aliked_ros.ros.demo_report import report_of, write_pictures

    console.print("Drawing the video ...")
    summary = {
        "source": source.name,
        "source_rate": round(source.rate, 2),
        "paced_by": demo.pace.name,
        **report_of(demo.recording),
    }
    write_json(demo.output / "summary.json", summary)
    rate, frames = summary["rate"], summary["frames"]
    if demo.pace is Pace.machine:  # the video shows the source's time, not this machine's
        rate = source.rate * frames["processed"] / max(frames["published"], 1)
    video, sheet = demo.output / "tracks.mp4", demo.output / "contact_sheet.png"
    write_pictures(demo.recording, video, sheet, frames["processed"], rate)
    return summary


def _play(demo: Demo, source: Source, console: Console) -> None:
    """Start the nodes, play the source, end them."""
    domain = join_private_domain()
    with closing(Watcher(domain)) as watcher:
        console.print(f"Source {source.name}; loading the front-end (ROS domain {domain}) ...")
        with children() as start:
            others = [_start_frontend(start, demo), _start_recorder(start, demo)]
            if demo.view:
                others += _start_view(start, demo.output, console)
            player = _start_player(start, demo)
            _begin_play(watcher, player, *others)
            _follow_play(watcher, source.length, player, others, console)
            if not watcher.status.frames_processed:
                raise ProcessError(_nothing_processed(watcher.status))


def _start_frontend(start: Start, demo: Demo) -> Child:
    own_pace = demo.pace is Pace.machine
    return start(
        "front-end",
        "aliked_ros.ros.frontend_node",
        {
            "status_period": 0.1,
            "input_reliability": "reliable" if own_pace else "best_effort",
            # images that wait for nothing would leave no time for detections
            **({"detection": "3"} if own_pace else {}),
        },
        demo.output / "frontend.log",
        share_path(f"config/{demo.profile}.yaml"),
    )


def _start_recorder(start: Start, demo: Demo) -> Child:
    return start(
        "recorder",
        "aliked_ros.ros.recorder",
        {
            "output": str(demo.recording.resolve()),
            "record_images": "jpeg",
            "image_reliability": "reliable",
            "flush_period": 0.2,  # so often it says what it hears
        },
        demo.output / "recorder.log",
    )


def _start_player(start: Start, demo: Demo) -> Child:
    source = demo.source
    return start(
        "player",
        "aliked_ros.ros.player",
        {
            "source": str(Path(source).resolve()) if Path(source).exists() else source,
            "limit": demo.limit or 0,
            "rate": demo.rate or 0.0,
            "reliability": "reliable",
            "wait_for_frontend": FRONTEND if demo.pace is Pace.machine else "",
            "preload": _PRELOAD if demo.pace is Pace.rate else 0,
            # the recorder, the page, and the front-end once it is active
            "wait_for_subscribers": 2 + demo.view,
            "wait_timeout": _START_TIMEOUT,
            "start_paused": True,
        },
        demo.output / "player.log",
    )


def _nothing_processed(status: FrontendStatus) -> str:
    if status.frames_refused:
        return f"the front-end refused {status.frames_refused} images: {status.last_error}"
    return (
        f"the front-end processed none of {status.frames_received} images: this machine is "
        "overloaded; end other programs, or set PROFILE=robot (--profile)."
    )


def _start_view(start: Start, output: Path, console: Console) -> list[Child]:
    """Start the live page, and the odometry, whose map and trajectory it shows."""
    odometry = start("odometry", "aliked_ros.ros.odometry_node", {}, output / "odometry.log")
    port = default_port()
    page = start(
        "live page",
        "aliked_ros.ros.view_node",
        {"port": port, "open_browser": has_display()},
        output / "view.log",
    )
    console.print(f"The page, while the demo runs: http://localhost:{port}")
    return [odometry, page]


def _begin_play(watcher: Watcher, *needed: Child) -> None:
    """Let the player go once the front-end is active and the recorder hears it."""
    heard: list[int] = []

    def look(diagnostics: DiagnosticArray) -> None:
        for status in diagnostics.status:
            if status.name == "recorder: recording":
                heard[:] = [int(fact.value) for fact in status.values if fact.key == "received"]

    watcher.node.create_subscription(DiagnosticArray, "/diagnostics", look, 10)
    resume = watcher.node.create_client(Trigger, "/dataset_player/resume")
    watcher.wait_for_start(_START_TIMEOUT, *needed)
    failure = "the recorder does not hear the front-end"
    watcher.wait(lambda: any(heard), _START_TIMEOUT, failure, *needed)
    failure = "the player does not answer"
    watcher.wait(resume.service_is_ready, _START_TIMEOUT, failure, *needed)
    watcher.wait(resume.call_async(Trigger.Request()).done, _START_TIMEOUT, failure, *needed)


def _follow_play(
    watcher: Watcher, length: int | None, player: Child, others: list[Child], console: Console
) -> None:
    with image_progress(console) as progress:
        task = progress.add_task("images", total=length, note="")

        def show() -> None:
            status = watcher.status
            note = (
                f"{status.output_rate:.1f} of {status.input_rate:.1f} Hz, "
                f"{status.tracked} of {status.features} features tracked"
            )
            progress.update(task, completed=status.frames_received, note=note)

        def played() -> bool:
            show()
            return player.ended()

        def drained() -> bool:
            show()
            status = watcher.status
            done = status.frames_processed + status.frames_dropped + status.frames_refused
            # an older status does not know of the last images
            finished = status.frames_received == done and seconds(status.header.stamp) > settled
            return finished or time.time() > settled + _DRAIN_TIMEOUT

        watcher.wait(played, math.inf, "", *others)
        settled = time.time() + _SETTLING_TIME
        watcher.wait(drained, math.inf, "", *others)


def summary_table(summary: dict[str, Any]) -> Table:
    """The figures for people."""
    table = Table(title=f"{summary['source']}: {summary['model']} on {summary['backend']}")
    table.add_column("")
    table.add_column("median", justify="right")
    table.add_column("90 %", justify="right")
    table.add_row("the source's own images a second", f"{summary['source_rate']:.1f}", "")
    pace = Pace[summary["paced_by"]].value
    table.add_row(f"images played a second, paced by {pace}", f"{summary['played_rate']:.1f}", "")
    table.add_row("frames processed a second", f"{summary['rate']:.1f}", "")
    table.add_section()
    frames = summary["frames"]
    for name in ("published", "received", "processed", "dropped", "refused"):
        table.add_row(f"frames {name}", str(frames[name]), "")
    table.add_section()
    tracks = summary["tracks"]
    table.add_row("features per frame", f"{summary['features']:.0f}", "")
    table.add_row("matches per frame", f"{summary['matches']:.0f}", "")
    table.add_row("track length (tracks of 2 or more)", f"{tracks['median_length']:.0f}", "")
    table.add_row("longest track", str(tracks["max_length"]), "")
    table.add_section()
    for name, figures in summary["latency_ms"].items():
        table.add_row(f"{name}, ms", f"{figures['median']:.1f}", f"{figures['p90']:.1f}")
    return table


def dropped_warning(summary: dict[str, Any], profile: Profile) -> str:
    """What to do about dropped images, in one sentence; empty where there are few."""
    frames = summary["frames"]
    # those that the front-end never received, too
    dropped = frames["published"] - frames["processed"] - frames["refused"]
    if dropped <= _TOLERATED * frames["published"]:
        return ""
    fixed = summary["paced_by"] == "rate"
    remedies = [
        "lower RATE= (--rate)" if fixed else "end other programs",
        *["set PROFILE=robot (--profile)"] * (profile != "robot"),
        *["leave out RATE= to play every image"] * fixed,
    ]
    return (
        f"{dropped} of {frames['published']} images were dropped: this machine processed "
        f"{summary['rate']:.1f} of {summary['played_rate']:.1f} a second; {', or '.join(remedies)}."
    )


def show_demo(demo: Demo, as_json: bool) -> int:
    """Play a sequence through the real front-end node and print what comes out; the exit status.

    Writes demo.mcap, tracks.mp4, contact_sheet.png and summary.json.
    """
    console = Console(stderr=as_json)
    try:
        summary = run_demo(demo, console)
    except AlikedError as error:
        return _failed(f"error: {error}")
    except OSError as error:
        return _failed(f"error: cannot write the results: {error}")
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    warning = dropped_warning(summary, demo.profile)
    if as_json:
        if warning:
            console.print(warning, style="yellow")
        print(json.dumps(summary, indent=2))
        return 0
    console.print(summary_table(summary))
    for name in ("demo.mcap", "tracks.mp4", "contact_sheet.png", "summary.json"):
        console.print(f"  {demo.output / name}")
    if warning:
        console.print(warning, style="yellow")
    if demo.view:
        console.print(f"The page again, without the nodes: aliked_ros view {demo.recording}")
    return 0


def _failed(text: str, status: int = 1) -> int:
    print(text, file=sys.stderr)
    return status
