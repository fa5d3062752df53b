"""A trained checkpoint against what it started from, by the evaluations (``compare``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aliked_ros.configuration import FrontendConfig
from aliked_ros.evaluation.epipolar import evaluate_epipolar
from aliked_ros.evaluation.homography import evaluate_homography
from aliked_ros.evaluation.outcome import Outcome, Report
from aliked_ros.evaluation.statistics import Estimate
from aliked_ros.training.settings import NEW, Comparison, TrainingSettings

_PUBLISHED = "aliked-n16"  # what a network from nothing is compared with


@dataclass(frozen=True, slots=True)
class Compared:
    """Correct matches at 3 px a pair on one source.

    before, after: of the start and of the checkpoint. change: after − before, paired.
    """

    name: str
    before: Estimate
    after: Estimate
    change: Estimate

    def as_dict(self) -> dict[str, Any]:
        """For JSON; change_percent: with its 95 % interval, of ``before``."""
        return {
            "evaluation": self.name,
            "before": round(self.before.value, 1),
            "after": round(self.after.value, 1),
            "change_percent": [round(value, 1) for value in self._percent()],
        }

    def line(self) -> str:
        """A row of the table."""
        value, low, high = self._percent()
        return (
            f"| {self.name} | {self.before.value:.1f} | {self.after.value:.1f} "
            f"| {value:+.1f} % [{low:+.1f}, {high:+.1f}] |"
        )

    def _percent(self) -> tuple[float, float, float]:
        whole = self.before.value / 100.0 or 1.0
        return self.change.value / whole, self.change.low / whole, self.change.high / whole


HEAD = "| correct matches at 3 px a pair | before | after | change [95 %] |\n|---|---|---|---|"
"""Of the table that ``Compared.line`` gives the rows of."""


def compare(
    settings: TrainingSettings,
    checkpoint: Path,
    report: Report,
    say: Callable[[str], None] = lambda _text: None,
) -> list[Compared]:
    """Evaluate a checkpoint and the start on ``settings.compare``, each pair by both.

    The evaluations' own files are in folders of ``settings.output``. Raises SourceError for data
    that cannot be evaluated, OutputError.
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
    outcome: Outcome
    if task.kind == "homography":
        outcome = evaluate_homography(
            Path(task.source), names, config, output, report, restart=True, say=say
        )
        rows = outcome.rows
    else:
        outcome, _ = evaluate_epipolar(
            task.source, names, config, output, report, restart=True, say=say,
            gaps=(task.gap,), first=task.first,
        )  # fmt: skip
        rows = [row for row in outcome.rows if row["gap"] == task.gap]
    metric = next(one for one in outcome.metrics if one.key == "correct")
    return Compared(
        task.name,
        outcome.estimate(metric, names[1], rows),
        outcome.estimate(metric, names[0], rows),
        outcome.difference(metric, names[1], rows),
    )
