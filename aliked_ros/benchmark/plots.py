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

"""Plots of benchmark results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from aliked_ros.benchmark.markdown import machine_line
from aliked_ros.errors import BackendError
from aliked_ros.io.results import output_path

_DPI = 120
_STAGES = {"extract": "#3465a4", "match": "#73a946", "verify": "#e0a030", "track": "#8e5ea2"}
_OURS, _PUBLISHED, _OTHERS = "#3465a4", "#777777", "#bbbbbb"
_BUSY = ("#9ec1e6", "#5a94cf", "#24518a")


def write_plots(results: dict[str, Any], folder: Path, prefix: str = "") -> list[Path]:
    """Draw the suites that have plots (peers, scaling, node) to PNG files; their paths.

    prefix: of the file names. Raises BackendError if matplotlib is not installed, OutputError if
    they cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError(f"plots need matplotlib ({error}): pip install matplotlib") from error
    drawings: dict[str, Callable[[Any, dict[str, Any]], None]] = {
        "peers": _peers,
        "scaling": _scaling,
        "node": _node,
    }
    written = []
    for name, suite in results["suites"].items():
        if name not in drawings:
            continue
        figure = Figure(layout="constrained")
        drawings[name](figure, suite)
        figure.supxlabel(_caption(results), fontsize=7, color="#555555")
        target = folder / f"{prefix}{name}.png"
        with output_path(target) as path, path.open("wb") as file:
            figure.savefig(file, dpi=_DPI, format="png")
        written.append(target)
    return written


def _caption(results: dict[str, Any], width: int = 130) -> str:
    """The machine, in lines of at most ``width`` characters."""
    lines = [""]
    for part in f"{machine_line(results['machine'])}, images: {results['source']}".split(", "):
        if len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += f"{part}, "
    return "\n".join(line.removesuffix(" ") for line in lines).removesuffix(",")


def _peers(figure: Any, suite: dict[str, Any]) -> None:
    parts = suite["parts"]
    figure.set_size_inches(9, 1.5 + 0.34 * sum(len(part["timings"]) + 2 for part in parts))
    axes = figure.subplots(
        len(parts), 1, height_ratios=[len(part["timings"]) + 1 for part in parts], squeeze=False
    )
    for axis, part in zip(axes[:, 0], parts, strict=True):
        rows = part["timings"]
        for place, t in enumerate(rows):
            ours = t["name"].startswith("aliked_ros")
            colour = _OURS if ours else _PUBLISHED if t["name"] == part["baseline"] else _OTHERS
            error = [[t["median_ms"] - t["median_low_ms"]], [t["median_high_ms"] - t["median_ms"]]]
            axis.barh(place, t["median_ms"], color=colour, xerr=error, error_kw={"lw": 1})
            text = f"  {_short(t['median_ms'])} ms, {_short(t['speedup'])}×"
            axis.text(t["median_high_ms"], place, text, va="center", fontsize=8)
        axis.set_yticks(range(len(rows)), [t["name"] for t in rows], fontsize=8)
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        low, high = axis.get_xlim()
        axis.set_xlim(low, high * (high / low) ** 0.35)  # room for the labels
        axis.set_xlabel("median, ms (logarithmic); × = times as fast as the first", fontsize=8)
        axis.set_title(part["title"], fontsize=10, loc="left")
        _clean(axis)


def _scaling(figure: Any, suite: dict[str, Any]) -> None:
    factors = suite["factors"]
    figure.set_size_inches(11, 2.7 * len(factors) + 0.8)
    axes = figure.subplots(len(factors), 2, width_ratios=[3, 2], squeeze=False)
    for (times, memory), factor in zip(axes, factors, strict=True):
        points = factor["points"]
        ordered = all("at" in point for point in points)
        places = [point["at"] if ordered else n for n, point in enumerate(points)]
        labels = [point["name"].replace(", ", "\n") for point in points]
        (_curves if ordered else _stacks)(times, points, places)
        title = factor["factor"] + (f", {factor['unit']}" if factor["unit"] else "")
        times.set_title(title, fontsize=10, loc="left")
        times.set_ylabel("ms an image (logarithmic)" if ordered else "ms an image", fontsize=8)
        memory.bar(
            range(len(points)), [point["memory_mib"] or 0 for point in points], 0.62, color=_OTHERS
        )
        memory.set_ylabel("peak memory, MiB", fontsize=8)
        for axis, at in ((times, places), (memory, list(range(len(points))))):
            axis.set_xticks(at, labels)
            _clean(axis, "y")
            axis.tick_params(axis="x", labelsize=7)
    handles = dict(zip(*reversed(axes[0][0].get_legend_handles_labels()), strict=True))
    axes[0][0].legend(
        handles.values(), handles, fontsize=7, ncols=len(handles), loc="upper left", frameon=False
    )
    figure.suptitle(f"One thing varied at a time around {suite['setting']}", fontsize=10)


def _curves(axis: Any, points: list[dict[str, Any]], places: list[float]) -> None:
    for stage, colour in {**_STAGES, "total": "black"}.items():
        figures = [point["stages"][stage] for point in points]
        medians, p90 = ([one[name] for one in figures] for name in ("median_ms", "p90_ms"))
        axis.plot(places, medians, marker="o", ms=3, lw=1.5, color=colour, label=stage)
        axis.fill_between(places, medians, p90, color=colour, alpha=0.2, lw=0)
    axis.plot([], [], color="black", alpha=0.2, lw=6, label="median to p90")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    _figures(axis, points, places)
    axis.set_ylim(axis.get_ylim()[0], 5 * max(p["stages"]["total"]["p90_ms"] for p in points))


def _stacks(axis: Any, points: list[dict[str, Any]], places: list[float]) -> None:
    below = [0.0] * len(points)
    for stage, colour in _STAGES.items():
        medians = [point["stages"][stage]["median_ms"] for point in points]
        axis.bar(places, medians, 0.62, bottom=below, color=colour)
        below = [a + b for a, b in zip(below, medians, strict=True)]
    for place, point in zip(places, points, strict=True):
        total = point["stages"]["total"]
        axis.plot([place, place], [total["median_ms"], total["p90_ms"]], color="black", lw=1)
    _figures(axis, points, places)
    axis.set_ylim(0, 1.35 * max(point["stages"]["total"]["p90_ms"] for point in points))


def _figures(axis: Any, points: list[dict[str, Any]], places: list[float]) -> None:
    """Write total and rate above each point."""
    totals = [point["stages"]["total"] for point in points]
    for place, point, total in zip(places, points, totals, strict=True):
        axis.annotate(
            f"{_short(total['median_ms'])} ms\n{_short(point['images_per_s'])} images/s",
            (place, total["p90_ms"]),
            (0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
    axis.margins(x=0.1)


def _node(figure: Any, suite: dict[str, Any]) -> None:
    figure.set_size_inches(10, 6.5)
    (latency, rate), (busy, topics) = figure.subplots(2, 2)
    rates = suite["rates"]
    names = [row["name"] for row in rates[0]["listeners"]]
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        rows = [one["listeners"][number] for one in rates]
        places = [i + (number - (len(names) - 1) / 2) * width for i in range(len(rates))]
        times = [row.get("to_arrival") or row["to_publication"] or {} for row in rows]
        for axis, heights in (
            (latency, [one.get("median_ms", 0.0) for one in times]),
            (rate, [row["processed_hz"] for row in rows]),
            (busy, [row["cpu_cores"] for row in rows]),
        ):
            axis.bar(places, heights, width, color=_BUSY[number % len(_BUSY)], label=name)
        for place, one in zip(places, times, strict=True):
            if one:
                ends = [one["median_ms"], one["p99_ms"]]
                latency.plot([place, place], ends, color="black", lw=1)
    for axis, label, title in (
        (latency, "ms, median (line: to p99)", "image to features received ('nobody': published)"),
        (rate, "images processed a second", "throughput; the rest gave way to newer images"),
        (busy, "cores", "processor time of the node a second"),
    ):
        axis.set_xticks(range(len(rates)), [f"{one['images_hz']:.0f}" for one in rates])
        axis.set_xlabel("images published a second", fontsize=8)
        axis.set_ylabel(label, fontsize=8)
        axis.set_title(title, fontsize=9, loc="left")
        _clean(axis, "y")
    top = latency.get_ylim()[1]
    latency.set_ylim(0, 1.25 * top)
    latency.legend(title="subscribers", fontsize=7, title_fontsize=7, ncols=3, frameon=False)
    rows = suite["topics"]["rows"][1:]
    for place, row in enumerate(rows):
        value = row["extra_cpu_ms"]
        error = [[value - row["low"]], [row["high"] - value]]
        topics.barh(place, value, color=_OURS, xerr=error, error_kw={"lw": 1})
    topics.set_yticks(range(len(rows)), [f"~/{row['name']}" for row in rows])
    topics.invert_yaxis()
    topics.set_xlabel("ms of processor time an image, more than with nobody [95 %]", fontsize=8)
    hertz = suite["topics"]["images_hz"]
    topics.set_title(
        f"what one subscriber costs the node at {hertz:.0f} images/s", fontsize=9, loc="left"
    )
    _clean(topics)


def _short(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100.0 else f"{value:.3g}"


def _clean(axis: Any, grid: str = "x") -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.grid(axis=grid, color="#dddddd", lw=0.6)
    axis.set_axisbelow(True)
