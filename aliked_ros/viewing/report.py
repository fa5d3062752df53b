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

"""A recorded run as one self-contained HTML page: figures, plots, pictures, identity.

The interactive plots use Plotly, whose JavaScript is in the page (4.8 MB). A
Content-Security-Policy blocks requests to other hosts.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from aliked_ros.io.bags import MACHINE, SETTINGS
from aliked_ros.io.drawing import LONG_TRACK
from aliked_ros.io.results import output_path
from aliked_ros.system.packages import require
from aliked_ros.viewing import recorded
from aliked_ros.viewing.run import Run, Series, read_run

_POINTS = 2000  # maximum per curve; longer curves are thinned
_HOW = {
    recorded.MATCHES: "matches: turn publish_matches on",
    recorded.STATUS: "status (rates, drops, stage times, identity): record the topic ~/status",
    recorded.IMAGE: "images: record with record_images: jpeg",
    recorded.ODOMETRY: "odometry (trajectory): run odometry_node while recording",
}
_COLOURS = {
    "total": "#888888", "publish": "#12a3b4", "features": "#888888", "received": "#888888",
    "tracked": "#2ca05a", "processed": "#2ca05a", "inliers": "#2ca05a", "matches": "#3f7fe0",
    "dropped": "#e88c14", "refused": "#dc3c3c",
}  # fmt: skip
_STYLE = """
:root { color-scheme: light dark; --text: #1d2125; --soft: #6a737b; --back: #ffffff;
  --card: #f4f6f8; --line: #dde2e6; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7ea; --soft: #98a2ab;
  --back: #14171a; --card: #1e2327; --line: #333a40; } }
body { margin: 0 auto; padding: 24px; max-width: 1240px; background: var(--back);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 18px; margin: 32px 0 12px; }
p.soft, figcaption { color: var(--soft); margin: 4px 0 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin-top: 20px; }
.tile { background: var(--card); border-radius: 8px; padding: 12px 16px; }
.tile b { display: block; font-size: 24px; font-weight: 600; line-height: 1.3; }
.tile span { color: var(--soft); font-size: 13px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 16px; }
.plot { background: var(--card); border-radius: 8px; height: 340px; min-width: 0; }
figure { margin: 0; min-width: 0; } figure img { width: 100%; border-radius: 8px; display: block; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(360px, 1fr)); gap: 16px; }
table { border-collapse: collapse; } td, th { text-align: left; padding: 4px 20px 4px 0;
  border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; } code { overflow-wrap: anywhere; }
"""
_SCRIPT = """
const style = () => getComputedStyle(document.documentElement);
const colours = () => {
  const [text, line] = ['--text', '--line'].map((name) => style().getPropertyValue(name));
  const axis = {gridcolor: line, zerolinecolor: line, linecolor: line};
  return {paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', font: {color: text},
    xaxis: axis, yaxis: axis, modebar: {bgcolor: 'rgba(0,0,0,0)', color: line, activecolor: text}};
};
const deep = (a, b) => { const r = {...a}; for (const k in b) r[k] =
  (b[k] && b[k].constructor === Object) ? deep(a[k] || {}, b[k]) : b[k]; return r; };
const figures = JSON.parse(document.getElementById('figures').textContent);
const config = {responsive: true, displaylogo: false, showSendToCloud: false,
  plotlyServerURL: ''};  // no button that sends the plot to its makers
const draw = () => { for (const id in figures) Plotly.react(id, figures[id].data,
  deep(colours(), figures[id].layout), config); };
draw();
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
"""
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)
Plots = dict[str, dict[str, Any]]


def write_report(
    recording: Path, frontend: str, output: Path, report: Callable[[str, float], None]
) -> dict[str, Any]:
    """Read a recording and write its page; returns its main figures.

    Raises SourceError if it cannot be read or has no features, OutputError if the page cannot be
    written, BackendError without Plotly.
    """
    require("the report", "view", "plotly")
    run = read_run(recording, frontend, report)
    page = page_of(run)
    with output_path(output) as path:
        path.write_text(page, encoding="utf-8")
    return {
        "recording": str(recording),
        "images": len(run.series["features"]),
        "rate": round(run.rate, 2),
        **run.counts,
        "not_recorded": ", ".join(run.missing) or None,
        "output": str(output),
    }


def page_of(run: Run) -> str:
    """The HTML of a run."""
    from plotly.offline import get_plotlyjs

    plots = _plots(run)
    drawn = json.dumps(plots).replace("</", "<\\/")
    begin = datetime.fromtimestamp(run.begin, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    cut = " The end of the recording is missing." if run.cut_off else ""
    title = f"Run of the front-end: {html.escape(run.name)}"
    boxes = "".join(f'<div class="plot" id="{name}"></div>' for name in plots)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title><style>{_STYLE}</style></head><body>
<h1>{title}</h1>
<p class="soft">{begin}, {run.duration:.1f} s.{cut}</p>
<div class="tiles">{_tiles(run)}</div>
<h2>Figures</h2>
{_figures(run)}
<h2>Plots</h2>
<div class="grid">{boxes}</div>
{_pictures(run)}
<h2>What ran</h2>
{_identity(run)}
{_facts(run)}
{_not_recorded(run)}
<script>{get_plotlyjs()}</script>
<script type="application/json" id="figures">{drawn}</script>
<script>{_SCRIPT}</script>
</body></html>
"""


def _tiles(run: Run) -> str:
    lasting = run.lengths[run.lengths > 1]
    tiles = [("images processed a second", f"{run.rate:.1f}")]
    if run.counts:
        share = run.counts["dropped"] / max(1, run.counts["received"])
        tiles.append(("of the images dropped", f"{share:.0%}"))
    if "latency" in run.series:
        latency = np.median(run.series["latency"].values)
        tiles.append(("from stamp to recorder, median", f"{latency * 1e3:.0f} ms"))
    tiles.append(("features of an image, median", f"{_median(run.series['features']):.0f}"))
    if len(run.series["inliers"]):
        tiles.append(("of the matches are inliers", f"{_median(run.series['inliers']):.0%}"))
    if len(lasting):
        tiles.append(("length of a track, median", f"{np.median(lasting):.0f} images"))
    return "".join(f'<div class="tile"><b>{v}</b><span>{name}</span></div>' for name, v in tiles)


def _figures(run: Run) -> str:
    rows: list[tuple[str, Any, float, int]] = []  # name, values, factor, decimals
    if "latency" in run.series:
        values = run.series["latency"].values
        rows.append(("from stamp to recorder, ms", values, 1e3, 1))
    for stage, series in _shown_stages(run, 5e-5).items():
        rows.append((f"stage {stage}, ms", series.values, 1e3, 1))
    for name in ("features", "tracked", "matches"):
        if len(run.series[name]):
            rows.append((f"{name} of an image", run.series[name].values, 1.0, 0))
    if len(run.series["inliers"]):
        rows.append(("share of inliers, %", run.series["inliers"].values, 100.0, 1))
    if len(lasting := run.lengths[run.lengths > 1]):
        rows.append(("length of tracks of 2 and more, images", lasting, 1.0, 0))
    body = []
    for name, values, factor, digits in rows:
        figures = [*np.percentile(values, (50, 90, 99)), np.max(values)]
        body.append([name, *(f"{figure * factor:.{digits}f}" for figure in figures)])
    table = _table(["", "median", "90 %", "99 %", "largest"], body, numbers=True)
    counts = ", ".join(f"{name} {number}" for name, number in run.counts.items())
    said = f"<p>Images: {counts}.</p>" if counts else ""
    if run.errors:
        items = "".join(f"<li>{html.escape(error)}</li>" for error in run.errors)
        said += f"<p>Warnings and errors of the front-end:</p><ul>{items}</ul>"
    return f'<div class="wide">{table}</div>{said}'


def _plots(run: Run) -> Plots:
    plots: Plots = {}
    if stages := _shown_stages(run, 5e-4):
        curves = [
            _curve(stage, series, reduce=np.max, factor=1e3) for stage, series in stages.items()
        ]
        plots["stages"] = _plot("Stage times, ms", curves, "s")
    if len(run.series["input_rate"]):
        rates = [
            _curve("received", run.series["input_rate"]),
            _curve("processed", run.series["output_rate"]),
            *(_curve(name, _a_second(run.series[name])) for name in ("dropped", "refused")),
        ]
        plots["rates"] = _plot("Images a second", rates, "s")
    counts = [
        _curve(name, run.series[name])
        for name in ("features", "tracked", "matches")
        if len(run.series[name])
    ]
    if len(run.keyframes):
        x, y = run.keyframes.thinned(_POINTS)
        marker = {"color": "#dc3c3c", "size": 6}
        counts.append(_trace("keyframe", x, y, mode="markers", marker=marker))
    plots["counts"] = _plot("Features of an image", counts, "s")
    if len(run.series["inliers"]):
        share = _curve("inliers", run.series["inliers"], factor=100.0)
        plots["inliers"] = _plot("Matches that are inliers, %", [share], "s")
        plots["inliers"]["layout"]["yaxis"]["range"] = [0, 102]
    if len(run.lengths):
        plots |= _length_plots(run)
    plots["coverage"] = _coverage(run)
    if len(run.trajectory):
        plots["trajectory"] = _trajectory(run)
    return plots


def _shown_stages(run: Run, least: float) -> dict[str, Series]:
    """The stages that at least once took longer than ``least`` seconds."""
    return {stage: series for stage, series in run.stages.items() if series.values.max() > least}


def _length_plots(run: Run) -> Plots:
    clipped = np.minimum(run.lengths, LONG_TRACK)
    counts = np.bincount(clipped, minlength=LONG_TRACK + 1)[1:]
    names = [*(str(n) for n in range(1, LONG_TRACK)), f"{LONG_TRACK}+"]
    bars = {"type": "bar", "x": names, "y": counts.tolist(), "marker": {"color": "#8a63d2"}}
    histogram = _plot("Tracks by length", [bars], "images")
    histogram["layout"]["xaxis"] |= {"type": "category", "nticks": 12}
    ordered = np.sort(run.lengths)
    steps = np.unique(np.geomspace(1, ordered[-1], 200).round().astype(int))
    share = 100.0 * (1.0 - np.searchsorted(ordered, steps) / len(ordered))
    survival = _plot(
        "Tracks of at least this length, %",
        [_trace("tracks", steps, share, line={"color": "#8a63d2"})],
        "images",
    )
    survival["layout"]["yaxis"]["range"] = [0, 102]
    return {"lengths": histogram, "survival": survival}


def _coverage(run: Run) -> dict[str, Any]:
    rows, columns = run.coverage.shape
    heat = {
        "type": "heatmap", "z": np.round(run.coverage, 3).tolist(), "colorscale": "Viridis",
        "x": [(c + 0.5) * 100 / columns for c in range(columns)],
        "y": [(r + 0.5) * 100 / rows for r in range(rows)],
        "colorbar": {"thickness": 12},
    }  # fmt: skip
    plot = _plot("Keypoints by place in the image, mean of a cell", [heat], "% of the width")
    plot["layout"]["yaxis"] |= {"autorange": "reversed", "title": {"text": "% of the height"}}
    return plot


def _trajectory(run: Run) -> dict[str, Any]:
    step = -(-len(run.trajectory) // _POINTS)
    x, y = run.trajectory[::step, 0], run.trajectory[::step, 1]
    path = _trace("camera", x, y, line={"color": "#3f7fe0"})
    ends = [
        _trace(name, x[[i]], y[[i]], mode="markers", marker={"color": colour, "size": 9})
        for name, i, colour in (("begin", 0, "#2ca05a"), ("end", -1, "#dc3c3c"))
    ]
    plot = _plot("Trajectory of the odometry from above", [path, *ends], "x")
    plot["layout"]["yaxis"] |= {"scaleanchor": "x", "title": {"text": "y"}}
    return plot


def _a_second(counted: Series) -> Series:
    """Growth of a count per second, over windows of about a second."""
    times, values = counted.times, counted.values
    rates = Series()
    before = 0
    for index in range(1, len(times)):
        if times[index] - times[before] >= 1.0:
            growth = (values[index] - values[before]) / (times[index] - times[before])
            rates.add(times[index], growth)
            before = index
    return rates


def _curve(
    name: str, series: Series, reduce: Callable[..., Any] = np.median, factor: float = 1.0
) -> dict[str, Any]:
    x, y = series.thinned(_POINTS, reduce)
    line = {"width": 3.0 if name == "total" else 1.5} | (
        {"color": _COLOURS[name]} if name in _COLOURS else {}
    )
    return _trace(name, x, y * factor, line=line)


def _trace(name: str, x: Any, y: Any, mode: str = "lines", **style: Any) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": mode, "name": name,
        "x": np.round(x, 3).tolist(), "y": np.round(y, 3).tolist(), **style,
    }  # fmt: skip


def _plot(title: str, traces: Sequence[dict[str, Any]], unit: str) -> dict[str, Any]:
    layout = {
        "title": {"text": title, "font": {"size": 15}, "x": 0.03},
        "margin": {"l": 56, "r": 16, "t": 44, "b": 44},
        "xaxis": {"title": {"text": unit}},
        "yaxis": {"rangemode": "tozero"},
        "showlegend": len(traces) > 1,
        "hovermode": "x unified" if unit == "s" else "closest",
    }
    return {"data": list(traces), "layout": layout}


def _pictures(run: Run) -> str:
    if not run.pictures:
        return ""
    figures = "".join(
        f'<figure><img alt="{html.escape(line)}" src="data:image/jpeg;base64,'
        f'{base64.b64encode(data).decode()}"><figcaption>{html.escape(line)}</figcaption></figure>'
        for data, line in run.pictures
    )
    return f'<h2>Pictures</h2><div class="pictures">{figures}</div>'


def _identity(run: Run) -> str:
    if not run.identity:
        return "<p>Not recorded.</p>"
    rows = [[name.replace("_", " "), value] for name, value in run.identity.items()]
    return f'<div class="wide">{_table([], rows)}</div>'


def _facts(run: Run) -> str:
    return "".join(
        f'<h2>{title}</h2><div class="wide">{_table([], sorted(run.facts[name].items()))}</div>'
        for name, title in (
            (MACHINE, "Where it was recorded"),
            (SETTINGS, "Parameters of the front-end at the beginning"),
        )
        if name in run.facts
    )


def _not_recorded(run: Run) -> str:
    if not run.missing:
        return ""
    items = "".join(f"<li>{_HOW[kind]}</li>" for kind in run.missing)
    return f'<h2>What was not recorded</h2><ul id="missing">{items}</ul>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        kinds = ["", *(' class="n"' if numbers else "" for _ in cells[1:])]
        texts = (
            f"<{tag}{kind}>{html.escape(cell)}</{tag}>"
            for kind, cell in zip(kinds, cells, strict=True)
        )
        return f"<tr>{''.join(texts)}</tr>"

    top = line(head, "th") if head else ""
    return f"<table>{top}{''.join(line(row, 'td') for row in rows)}</table>"


def _median(series: Series) -> float:
    return float(np.median(series.values)) if len(series) else 0.0
