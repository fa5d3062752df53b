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

"""The result of an evaluation: a table of methods with intervals, as Markdown, JSON, CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from aliked_ros.benchmark.markdown import table
from aliked_ros.evaluation.ledger import Row
from aliked_ros.evaluation.statistics import Estimate, Statistic, difference_of, mean_of
from aliked_ros.io.results import output_path, write_json

RESULTS, ROWS = "results", "rows"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of the rows; NaN or absent if a method does not give it.

    key: its name in the rows. label: with unit. better: ``higher``, ``lower``, or empty if neither.
    percent: a share, shown in per cent. statistic: over the rows.
    """

    key: str
    label: str
    better: str = "higher"
    digits: int = 1
    percent: bool = False
    statistic: Statistic = "mean"

    @property
    def name(self) -> str:
        """Its name in results.json, where one key may have several statistics."""
        return self.key if self.statistic == "mean" else f"{self.key}_{self.statistic}"

    def text(self, value: float, signed: bool = False) -> str:
        """The figure for a table."""
        if not math.isfinite(value):
            return "–"
        sign = "+" if signed else ""
        if self.percent:
            return f"{100 * value:{sign}.{self.digits}f} %"
        return f"{value:{sign}.{self.digits}f}"


@dataclass(frozen=True, slots=True)
class ResultTable:
    """The rows of an evaluation, their statistics and description.

    facts: evaluation, data, settings, machine, date. rows: each with ``method``, ``unit`` (by which
    methods are paired) and the metrics' keys; None stands for NaN. groups: keys of rows with
    separate figures (scene kind, gap). methods: in table order; all are compared with the first.
    blocks: see ``statistics.mean_of``; ``whole_blocks``: for the whole, if rows of groups
    alternate. remarks: notes for the reader.
    """

    facts: dict[str, Any]
    rows: list[Row]
    metrics: Sequence[Metric]
    methods: Sequence[str]
    groups: Sequence[str] = ()
    blocks: int = 1
    remarks: Sequence[str] = ()
    whole_blocks: int | None = None

    def estimate(
        self, metric: Metric, method: str, chosen: Iterable[Row] | None = None
    ) -> Estimate:
        """Mean (or the metric's other statistic) over a method's rows."""
        values = list(self._values(metric, method, chosen).values())
        return mean_of(values, self._blocks(chosen), metric.statistic)

    def difference(
        self, metric: Metric, method: str, chosen: Iterable[Row] | None = None
    ) -> Estimate:
        """The first method's estimate minus this one's, over common units."""
        ours = self._values(metric, self.methods[0], chosen)
        other = self._values(metric, method, chosen)
        both = [unit for unit in ours if unit in other]
        return difference_of(
            [ours[unit] for unit in both],
            [other[unit] for unit in both],
            self._blocks(chosen),
            metric.statistic,
        )

    def parts(self) -> list[tuple[str, list[Row]]]:
        """Name and rows of the whole and of each group."""
        found = [("all", self.rows)]
        for key in self.groups:
            values = list(dict.fromkeys(row[key] for row in self.rows))
            if len(values) > 1:
                found += [
                    (f"{key} {value}", [row for row in self.rows if row[key] == value])
                    for value in values
                ]
        return found

    def as_dict(self) -> dict[str, Any]:
        """Facts, and for each part, method and metric the mean and the difference; for JSON."""
        parts = {
            name: {
                method: {
                    metric.name: {
                        "estimate": _finite(asdict(self.estimate(metric, method, rows))),
                        "first_minus_this": _finite(asdict(self.difference(metric, method, rows))),
                    }
                    for metric in self.metrics
                }
                for method in self.methods
            }
            for name, rows in self.parts()
        }
        return {
            "facts": self.facts,
            "metrics": [asdict(metric) for metric in self.metrics],
            "remarks": list(self.remarks),
            "parts": parts,
        }

    def as_text(self) -> str:
        """Markdown: a table for the whole and for each group."""
        return "\n".join(self._lines())

    def write(self, folder: Path, part: str = "") -> None:
        """Write results.json and rows.csv into a folder; ``part`` goes before their names."""
        prefix = f"{part}_" if part else ""
        write_json(folder / f"{prefix}{RESULTS}.json", self.as_dict())
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        with output_path(folder / f"{prefix}{ROWS}.csv") as path:
            path.write_text(text.getvalue(), encoding="utf-8")

    def _lines(self) -> list[str]:
        lines: list[str] = []
        for number, (name, rows) in enumerate(self.parts()):
            units = len({row["unit"] for row in rows})
            heads = [f"{name}, {units} units", *(metric.label for metric in self.metrics)]
            cells = [
                [method, *(self._cell(m, method, rows, number == 0) for m in self.metrics)]
                for method in self.methods
            ]
            lines += table(heads, cells)
            lines.append("")
        lines += [
            f"[ ]: 95 % bootstrap interval over units. **Bold**: {self.methods[0]} is "
            "significantly better (the paired interval of the difference excludes 0); "
            "_italic_: worse.",
            *self.remarks,
        ]
        return lines

    def _cell(self, metric: Metric, method: str, rows: list[Row], spread: bool) -> str:
        mean = self.estimate(metric, method, rows)
        if not mean.units:
            return "–"
        text = metric.text(mean.value)
        if spread and mean.units > 1:
            text += f" [{metric.text(mean.low)}, {metric.text(mean.high)}]"
        if method == self.methods[0] or not metric.better:
            return text
        gap = self.difference(metric, method, rows)
        sign = 1.0 if metric.better == "higher" else -1.0
        low, high = sorted((sign * gap.low, sign * gap.high))
        if gap.units > 1 and low > 0.0:
            return f"**{text}**"
        return f"_{text}_" if gap.units > 1 and high < 0.0 else text

    def _blocks(self, chosen: Iterable[Row] | None) -> int:
        whole = chosen is None or chosen is self.rows
        return self.whole_blocks if whole and self.whole_blocks else self.blocks

    def _values(
        self, metric: Metric, method: str, chosen: Iterable[Row] | None
    ) -> dict[str, float]:
        rows = self.rows if chosen is None else chosen
        return {
            row["unit"]: np.nan if row.get(metric.key) is None else float(row[metric.key])
            for row in rows
            if row["method"] == method
        }


Report = Callable[[str, float], None]
"""Called with a task's name and its progress, 0 to 1."""


def _finite(content: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in content.items()
    }
