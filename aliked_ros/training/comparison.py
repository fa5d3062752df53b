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

"""Compares a trained checkpoint with its start, using the evaluations (``compare``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import SourceError
from aliked_ros.evaluation.epipolar import evaluate_epipolar
from aliked_ros.evaluation.homography import evaluate_homography
from aliked_ros.evaluation.layouts import homography_pairs
from aliked_ros.evaluation.result_table import Report, ResultTable
from aliked_ros.evaluation.run import Run
from aliked_ros.evaluation.statistics import Estimate
from aliked_ros.io.results import output_path, write_picture
from aliked_ros.sources import open_source
from aliked_ros.training.frames import rgb
from aliked_ros.training.settings import NEW, Comparison, TrainingSettings

_PUBLISHED = "aliked-n16"  # what a network trained from scratch is compared with


@dataclass(frozen=True, slots=True)
class Compared:
    """Correct matches at 3 px per pair on one source.

    before, after: of the start and the checkpoint. change: after − before, paired.
    """

    name: str
    before: Estimate
    after: Estimate
    change: Estimate

    def as_dict(self) -> dict[str, Any]:
        """For JSON; change_percent: of ``before``, with its 95 % interval; None if that is 0."""
        return {
            "evaluation": self.name,
            "before": _rounded(self.before.value),
            "after": _rounded(self.after.value),
            "change_percent": [_rounded(value) for value in self._percent()] or None,
        }

    def line(self) -> str:
        """A row of the table."""
        change = "from none"
        if percent := self._percent():
            value, low, high = percent
            change = f"{value:+.1f} % [{low:+.1f}, {high:+.1f}]"
        return f"| {self.name} | {self.before.value:.1f} | {self.after.value:.1f} | {change} |"

    def _percent(self) -> list[float]:
        """Change relative to ``before``, with its interval; empty if that is 0."""
        if not self.before.value:
            return []
        change = (self.change.value, self.change.low, self.change.high)
        return [100.0 * value / self.before.value for value in change]


HEAD = "| correct matches at 3 px a pair | before | after | change [95 %] |\n|---|---|---|---|"
"""Head of the table with the rows of ``Compared.line``."""


def check(settings: TrainingSettings) -> None:
    """Check ``compare`` before training; SourceError for what cannot be compared."""
    for task in settings.compare:
        if task.kind == "homography":
            homography_pairs(Path(task.source).expanduser())
            continue
        length = open_source(task.source).length
        least = task.first + (task.gap if task.kind == "epipolar" else 0) + 1
        if length is not None and length < least:
            raise SourceError(
                f"compare: {task.source} has {length} images; first {task.first} and gap "
                f"{task.gap} need at least {least}."
            )


def compare(
    settings: TrainingSettings,
    checkpoint: Path,
    report: Report,
    say: Callable[[str], None] = lambda _text: None,
) -> list[Compared]:
    """Evaluate a checkpoint and the start on the same pairs of ``settings.compare``.

    The evaluations write to folders in ``settings.output``. Raises SourceError for data that cannot
    be evaluated, and OutputError.
    """
    start = _PUBLISHED if settings.start == NEW else settings.start
    return [
        _compared(task, settings.output / f"compared_{number}", checkpoint, start, report, say)
        for number, task in enumerate(settings.compare)
    ]


def _compared(
    task: Comparison,
    output: Path,
    checkpoint: Path,
    start: str,
    report: Report,
    say: Callable[[str], None],
) -> Compared:
    names = [f"{checkpoint}+{task.matcher}", f"{start}+{task.matcher}"]
    config = FrontendConfig(max_keypoints=task.top_k, matcher="nearest")

    def run(data: str) -> Run:
        return Run(data, names, config, output, report, restart=True, say=say)

    table: ResultTable
    if task.kind != "epipolar":
        folder = (
            Path(task.source).expanduser()
            if task.kind == "homography"
            else turned(task, output / "pairs")
        )
        table = evaluate_homography(run(str(folder)))
        rows = table.rows
    else:
        table, _ = evaluate_epipolar(run(task.source), gaps=(task.gap,), first=task.first)
        rows = [row for row in table.rows if row["gap"] == task.gap]
    metric = next(one for one in table.metrics if one.key == "correct")
    return Compared(
        task.name,
        table.estimate(metric, names[1], rows),
        table.estimate(metric, names[0], rows),
        table.difference(metric, names[1], rows),
    )


def turned(task: Comparison, folder: Path) -> Path:
    """Write pairs of images and their 90° rotations, as a folder with a ``pairs.txt``."""
    lines = []
    images = islice(open_source(task.source), task.first, None, task.gap)
    for number, image in enumerate(images):
        pixels = rgb(image.pixels)
        turn = np.array([[0, 1, 0], [-1, 0, pixels.shape[1] - 1], [0, 0, 1]])
        write_picture(folder / f"{number}.png", pixels)
        write_picture(folder / f"{number}_turned.png", np.ascontiguousarray(np.rot90(pixels)))
        with output_path(folder / f"{number}.txt") as path:
            np.savetxt(path, turn, fmt="%d")
        lines.append(f"{number}.png {number}_turned.png {number}.txt\n")
    with output_path(folder / "pairs.txt") as path:
        path.write_text("".join(lines), encoding="utf-8")
    return folder


def _rounded(value: float) -> float | None:
    return round(value, 1) if math.isfinite(value) else None
