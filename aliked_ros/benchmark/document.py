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

"""docs/benchmarks/REPORT.md: every evaluation and benchmark on the shared data, on one page.

Each section shows one command of this package and its results, run as users run it. Finished
sections are kept, so an interrupted run resumes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aliked_ros.benchmark.markdown import machine_line
from aliked_ros.benchmark.timing import machine
from aliked_ros.errors import OutputError, SourceError
from aliked_ros.io.results import output_path, write_json

PAGE, PICTURES = "REPORT.md", "report"
_TEXT, _DONE = "summary.md", "done.json"


@dataclass(frozen=True, slots=True)
class Section:
    """One command and the question that it answers.

    arguments: of ``aliked_ros``; DATA stands for the folder of the shared data. question: one
    sentence above the table. needs: folder in DATA, without which the section is skipped; empty =
    none.
    """

    name: str
    title: str
    question: str
    arguments: tuple[str, ...]
    needs: str = ""

    def command(self, data: str, output: str) -> list[str]:
        """The arguments with paths filled in."""
        placed = [argument.replace("DATA", data) for argument in self.arguments]
        return [*placed, "--output", output]


def _evaluation(
    kind: str, data: str, title: str, question: str, *more: str, name: str = ""
) -> Section:
    sequence = data.partition("/")[0]
    return Section(
        name or f"{kind}_{sequence}", title, question, ("evaluate", kind, f"DATA/{data}", *more),
        sequence,
    )  # fmt: skip


_TRACKED = "aliked+lightglue,aliked+flow,aliked+nearest,sift,orb,gftt+lk"
_METHODS = "aliked+lightglue,aliked+nearest,sift,orb,gftt+lk,disk+lightglue,xfeat+lighterglue"
SECTIONS = (
    _evaluation(
        "homography", "oxford_affine", "Matching across viewpoint, zoom, blur and light",
        "Oxford affine regions: how many matches and homographies are correct?",
        "--methods", _METHODS,
    ),
    _evaluation(
        "homography", "oxford_affine", "The same with ALIKED-N16rot",
        "The model trained for in-plane rotation, instead of N16.",
        "--methods", "aliked+lightglue,aliked+nearest,sift", "--model", "aliked-n16rot",
        name="homography_rotation",
    ),
    _evaluation(
        "epipolar", "tum_fr1_xyz", "Matches and tracks of a moving camera",
        "TUM fr1_xyz: are matches 1, 5 and 10 images apart correct, and how long do correct tracks "
        "last?",
        "--methods", _TRACKED,
    ),
    _evaluation(
        "epipolar", "realsense_desk/rgb", "The same with fast motion and motion blur",
        "A hand-held RealSense in an office, without ground truth.",
        "--methods", _TRACKED,
    ),
    _evaluation(
        "odometry", "tum_fr1_xyz", "Odometry, RGB-D",
        "The reference back-end on each front-end's tracks and depths, against motion capture.",
        "--methods", _TRACKED,
    ),
    _evaluation(
        "odometry", "tum_fr1_xyz", "Odometry, one camera",
        "The same sequence without depth.",
        "--methods", _TRACKED, "--mode", "mono", name="odometry_mono",
    ),
    _evaluation(
        "odometry", "kitti_00_first40", "Odometry, stereo",
        "KITTI 00 from image 12 on. The published poses of the earlier images are up to 20 % too "
        "far apart, as stereo, ORB and one camera played backwards all show.",
        "--methods", _TRACKED, "--first", "12",
    ),
    _evaluation(
        "reconstruction", "tum_fr1_xyz", "Structure from motion",
        "COLMAP's incremental mapping, from each front-end's tracks and matches.",
        "--methods", _TRACKED,
    ),
    _evaluation(
        "relocalization", "tum_fr1_xyz", "Relocalization",
        "Images of the harder half of the sequence are located in 10, 3 and 1 keyframes of the "
        "other half.",
        "--every", "2",
    ),
    Section(
        "peers", "Speed against other implementations",
        "All implementations take turns in one run. Above 1 = faster than the first row.",
        ("bench", "peers", "--rounds", "15"),
    ),
    Section(
        "scaling", "Speed by image size, keypoints, model, backend and threads",
        "One setting varies at a time; the others are 640×480, 1000 keypoints and all cores.",
        ("bench", "scaling", "--rounds", "5"),
    ),
    Section(
        "node", "Through ROS 2",
        "Latency from an image's publication to its features' arrival, by number of subscribers.",
        ("bench", "node", "--rounds", "3"),
    ),
)  # fmt: skip


def write_document(
    program: Sequence[str],
    data: Path,
    output: Path,
    work: Path,
    only: Sequence[str] = (),
    restart: bool = False,
    say: Callable[[str], None] = lambda _text: None,
    sections: Sequence[Section] = SECTIONS,
) -> dict[str, Any]:
    """Run unfinished sections and write the page; returns each section's name → state.

    program: the command line that the sections' arguments follow. data: folder of the shared data.
    output: folder for REPORT.md and its pictures. work: folder for each section's results between
    runs. only: names of sections to run now; the page has all finished ones. restart: rerun
    finished sections. say: called with a line per section. sections: of the page.
    Raises SourceError for an unknown section, OutputError if nothing can be written.
    """
    known = [section.name for section in sections]
    for name in only:
        if name not in known:
            raise SourceError(f"There is no section {name!r}; choose from {', '.join(known)}.")
    states: dict[str, Any] = {}
    for section in sections:
        folder = work / section.name
        if section.needs and not (data / section.needs).is_dir():
            states[section.name] = f"left out: no {section.needs} in {data}"
        elif only and section.name not in only:
            states[section.name] = "kept" if (folder / _DONE).is_file() else "not run"
        elif (folder / _DONE).is_file() and not restart:
            states[section.name] = "kept"
        else:
            say(f"{section.name} ...")
            states[section.name] = _run(program, section, data, folder, restart)
    _write_page(output, work, sections)
    return states


def _run(program: Sequence[str], section: Section, data: Path, folder: Path, restart: bool) -> str:
    """Run a section's command; returns its state."""
    if restart and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    benchmark = section.arguments[0] == "bench"
    target = folder / "results.json" if benchmark else folder
    begin = time.monotonic()
    command = [*program, *section.command(str(data), str(target))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        return f"failed with status {done.returncode}"
    with output_path(folder / _TEXT) as path:
        path.write_text(done.stdout, encoding="utf-8")
    seconds = time.monotonic() - begin
    write_json(folder / _DONE, {"machine": machine(), "seconds": round(seconds)})
    return f"done in {seconds:.0f} s"


def _write_page(output: Path, work: Path, sections: Sequence[Section]) -> None:
    lines = [
        "# Report",
        "",
        "Every evaluation and benchmark on the shared data. `make report` (`aliked_ros bench "
        "report`) makes this page: it runs the command above each table. The methods are "
        "described in [evaluation](../evaluation.md) and [benchmarks](README.md).",
    ]
    for section in sections:
        folder = work / section.name
        try:
            done = json.loads((folder / _DONE).read_text(encoding="utf-8"))
            text = (folder / _TEXT).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        command = " ".join(section.command("../shared/data", f"build/report/{section.name}"))
        lines += ["", f"## {section.title}", "", section.question, ""]
        made = f"{machine_line(done['machine'])}; took {done['seconds']} s."
        lines += [f"    aliked_ros {command}", "", made, "", text]
        lines += _pictures(section, folder, output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {output}: {error.strerror}.") from error
    with output_path(output / PAGE) as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _pictures(section: Section, folder: Path, output: Path) -> list[str]:
    """Copy a section's plots beside the page; returns the lines that show them."""
    lines = []
    for plot in sorted(folder.glob("*.png")):
        name = f"{section.name}_{plot.name}"
        with output_path(output / PICTURES / name) as path:
            shutil.copyfile(plot, path)
        lines += ["", f"![{section.title}: {plot.stem.replace('_', ' ')}]({PICTURES}/{name})"]
    return lines
