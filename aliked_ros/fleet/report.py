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

"""The fleet report: one HTML file with a row for each recording, the unusual ones first."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from statistics import median
from typing import Any

from aliked_ros.fleet.operations import PICTURE_FILE
from aliked_ros.fleet.plan import Plan
from aliked_ros.fleet.storage import Store

_PICTURES = 60  # in the page, which stays below some megabytes
_UNUSUAL = 3.5  # scaled deviations from the median: Iglewicz and Hoaglin's bound for outliers
_NORMAL = 1.4826  # median absolute deviation to standard deviation
_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 24px; max-width: 1240px; font: 15px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { text-align: left; padding: 4px 16px 4px 0; border-bottom: 1px solid #8886; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.odd { color: #dc3c3c; font-weight: 600; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 16px; }
figure { margin: 0; } img { width: 100%; } figcaption { overflow-wrap: anywhere; }
"""
_COLUMNS = (
    ("images", ("images",)),
    ("refused", ("figures", "refused")),
    ("unreadable", ("figures", "skipped")),
    ("features an image", ("figures", "track", "features")),
    ("matches an image", ("figures", "track", "matches")),
    ("mean track", ("figures", "track", "tracks", "mean_length")),
    ("keyframes", ("figures", "track", "keyframes")),
    ("epochs", ("figures", "track", "epochs")),
    ("poses", ("figures", "odometry", "poses")),
    ("maps", ("figures", "odometry", "maps")),
    ("verified pairs", ("figures", "export", "verified_pairs")),
    ("seconds", ("seconds", "total")),
)


def report_page(
    plan: Plan,
    store: Store,
    manifests: dict[str, dict[str, Any]],
    failures: list[dict[str, str]],
) -> str:
    """The page: failures, a table, and pictures, those with most unusual figures first."""
    figures = {name: figures_of(manifest) for name, manifest in manifests.items()}
    scores = deviations(figures)
    order = sorted(figures, key=lambda name: (-max(scores[name].values(), default=0.0), name))
    titles = [title for title, _ in _COLUMNS if any(title in row for row in figures.values())]
    rows = [
        [
            f"<td>{html.escape(name)}</td>",
            *(_cell(figures[name].get(t), scores[name].get(t, 0.0)) for t in titles),
        ]
        for name in order
    ]
    head = "<th>recording</th>" + "".join(f'<th class="n">{title}</th>' for title in titles)
    total = sum(manifest["images"] for manifest in manifests.values())
    parts = [
        "<!doctype html><meta charset=utf-8>",
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; "
        "style-src 'unsafe-inline'; img-src data:\">",
        f"<title>Fleet report</title><style>{_STYLE}</style><h1>Fleet report</h1>",
        f"<p>{len(manifests)} recordings with {total} images, {len(failures)} failed; "
        f"{html.escape(', '.join(plan.operations))}; {html.escape(plan.config.model)}.</p>",
        _failures(failures),
        "<h2>Recordings, the unusual ones first</h2><p>Red: more than 3.5 robust standard "
        "deviations from the median of all recordings.</p>",
        f"<table><tr>{head}</tr>{_lines(rows)}</table>",
        _pictures(store, [name for name in order if PICTURE_FILE in manifests[name]["files"]]),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def figures_of(manifest: dict[str, Any]) -> dict[str, float]:
    """A recording's figures by the titles of the report's columns; absent ones are left out."""
    seconds = {"total": round(sum(manifest["seconds"].values()), 1)}
    found = {}
    for title, path in _COLUMNS:
        value: Any = manifest | {"seconds": seconds}
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found[title] = float(value)
    return found


def deviations(figures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """By recording and figure: robust standard deviations from the median of all recordings.

    0 where fewer than five recordings have the figure. Where more than half have the same value,
    any other one counts as unusual.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in figures}
    for title, _ in _COLUMNS:
        values = {name: row[title] for name, row in figures.items() if title in row}
        if len(values) < 5 or title in ("images", "seconds"):  # recordings differ in length
            continue
        middle = median(values.values())
        spread = _NORMAL * median(abs(value - middle) for value in values.values())
        for name, value in values.items():
            distance = abs(value - middle)
            if distance:
                found[name][title] = distance / spread if spread else 2 * _UNUSUAL
    return found


def _cell(value: float | None, deviation: float) -> str:
    if value is None:
        return "<td></td>"
    kind = "n odd" if deviation > _UNUSUAL else "n"
    return (
        f'<td class="{kind}">{value:g}</td>'
        if value < 1e5
        else f'<td class="{kind}">{value:.0f}</td>'
    )


def _lines(rows: Iterable[list[str]]) -> str:
    return "".join(f"<tr>{''.join(row)}</tr>" for row in rows)


def _failures(failures: list[dict[str, str]]) -> str:
    if not failures:
        return ""
    rows = [
        [f"<td>{html.escape(one['recording'])}</td>", f"<td>{html.escape(one['reason'])}</td>"]
        for one in failures
    ]
    return f"<h2>Failed</h2><table><tr><th>recording</th><th>reason</th></tr>{_lines(rows)}</table>"


def _pictures(store: Store, names: list[str]) -> str:
    figures = []
    for name in names[:_PICTURES]:
        with store.reading(f"{name}/{PICTURE_FILE}") as path:
            data = base64.b64encode(path.read_bytes()).decode()
        figures.append(
            f'<figure><img loading="lazy" src="data:image/jpeg;base64,{data}" alt="">'
            f"<figcaption>{html.escape(name)}</figcaption></figure>"
        )
    return f'<h2>Pictures</h2><div class="pictures">{"".join(figures)}</div>' if figures else ""
