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

"""Plots of evaluations, with one colour per method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from aliked_ros.evaluation.epipolar import survival
from aliked_ros.evaluation.homography import ACCURACY_CURVE
from aliked_ros.evaluation.result_table import Metric, ResultTable
from aliked_ros.io.results import output_path

mpl.use("Agg")

from matplotlib import pyplot as plt

# Okabe and Ito's colours, safe for colour blindness; ours is the strongest.
_COLOURS = {
    "aliked+lightglue": "#d55e00",
    "aliked+nearest": "#e69f00",
    "sift": "#0072b2",
    "orb": "#009e73",
    "gftt+lk": "#7f7f7f",
    "disk+lightglue": "#cc79a7",
    "xfeat+lighterglue": "#56b4e9",
}
_OTHERS = ("#332288", "#882255", "#117733", "#000000")
_STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.3,
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "font.size": 10,
}


def colour_of(method: str) -> str:
    """A method's colour in every plot."""
    return _COLOURS.get(method, _OTHERS[sum(method.encode()) % len(_OTHERS)])


@contextmanager
def figure(target: Path, columns: int, width: float = 4.5, height: float = 3.4) -> Iterator[Any]:
    """Axes in a row; the figure is written to ``target`` (.png) when the block ends."""
    with plt.rc_context(_STYLE):
        drawing, axes = plt.subplots(1, columns, figsize=(width * columns, height), squeeze=False)
        try:
            yield axes[0]
            with output_path(target) as path:
                drawing.savefig(path, format="png")
        finally:
            plt.close(drawing)


def plot_homography(table: ResultTable, folder: Path) -> None:
    """matching.png: matching accuracy by limit, homographies; kinds.png: by kind."""
    with figure(folder / "matching.png", 2) as (left, right):
        for method in table.methods:
            rows = [row for row in table.rows if row["method"] == method]
            means = [100 * np.mean([row[f"mma_{t}"] for row in rows]) for t in ACCURACY_CURVE]
            left.plot(ACCURACY_CURVE, means, "o-", ms=3, color=colour_of(method), label=method)
            errors = [np.inf if r["corner_error"] is None else r["corner_error"] for r in rows]
            limits = np.linspace(0.0, 10.0, 201)
            shares = [100 * np.mean(np.asarray(errors) <= limit) for limit in limits]
            right.plot(limits, shares, color=colour_of(method), label=method)
        left.set(xlabel="error of a match, px", ylabel="mean share of matches within, %")
        right.set(xlabel="mean error of the corners, px", ylabel="pairs within, %")
        left.set_ylim(0, 100)
        right.set_ylim(0, 102)
        left.legend(fontsize=8)
    if len(table.parts()) > 1:
        metrics = [metric for metric in table.metrics if metric.key in ("correct", "auc_5")]
        with figure(folder / "kinds.png", len(metrics), width=5.5) as axes:
            for axis, metric in zip(axes, metrics, strict=True):
                bars_by_part(axis, table, metric)
            axes[0].legend(fontsize=8)


def plot_epipolar(pairs: ResultTable, tracks: ResultTable, folder: Path) -> None:
    """pairs.png: correct matches and precision by gap; survival.png: how long tracks last."""
    metrics = [metric for metric in pairs.metrics if metric.key in ("correct", "precision_3")]
    with figure(folder / "pairs.png", len(metrics), width=5.5) as axes:
        for axis, metric in zip(axes, metrics, strict=True):
            bars_by_part(axis, pairs, metric)
            axis.set_xlabel("images apart")
        axes[0].legend(fontsize=8)
    with figure(folder / "survival.png", 1, width=6.5) as (axis,):
        for method in tracks.methods:
            counts = survival(tracks, method)
            axis.plot(np.arange(1, len(counts)), counts[1:], color=colour_of(method), label=method)
        axis.set(
            xlabel="images over which a point is correctly tracked",
            ylabel="points an image",
            xlim=(1, None),
            ylim=(0, None),
        )
        axis.legend(fontsize=8)


def bars_by_part(axis: Any, table: ResultTable, metric: Metric) -> None:
    """Grouped bars of a metric with intervals, one group per part."""
    parts = table.parts()[1:]
    scale = 100.0 if metric.percent else 1.0
    width = 0.8 / len(table.methods)
    for number, method in enumerate(table.methods):
        found = [table.estimate(metric, method, rows) for _, rows in parts]
        values = scale * np.array([estimate.value for estimate in found])
        spread = [
            values - scale * np.array([estimate.low for estimate in found]),
            scale * np.array([estimate.high for estimate in found]) - values,
        ]
        places = np.arange(len(parts)) + (number - (len(table.methods) - 1) / 2) * width
        axis.bar(places, values, width, yerr=spread, color=colour_of(method), label=method,
                 error_kw={"lw": 0.8})  # fmt: skip
    names = [name.split(" ", 1)[1] for name, _ in parts]
    axis.set_xticks(range(len(parts)), names)
    axis.set_ylabel(f"{metric.label}, %" if metric.percent else metric.label)
