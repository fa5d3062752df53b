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

"""Benchmark results as Markdown, for people and for docs/benchmarks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def as_text(results: dict[str, Any]) -> str:
    """Markdown tables of a report made by ``suites.run``."""
    lines = [f"{machine_line(results['machine'])}; images: {results['source']}, 640×480"]
    for name, suite in results["suites"].items():
        lines += ["", f"### {name}", ""]
        if "memory_mib" in suite:
            lines += _device(suite)
        elif "timings" in suite:
            lines += _timings(suite)
        elif "parts" in suite:
            lines += _peers(suite)
        elif "factors" in suite:
            lines += _scaling(suite)
        elif "cameras" in suite:
            lines += _detection(suite)
        else:
            lines += _node(suite)
    return "\n".join(lines)


def machine_line(machine: dict[str, Any]) -> str:
    """Date, revision and machine in one line."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    parts = [machine["date"]]
    if "revision" in machine:
        parts.append(f"revision {machine['revision']}")
    parts += [machine["cpu"], f"{machine['cores']} cores"]
    parts += [machine[name] for name in ("frequency", "gpu") if name in machine]
    if "memory_gib" in machine:
        parts.append(f"{machine['memory_gib']:.0f} GiB")
    parts += [f"load {machine['load_1min']}", f"Python {machine['python']}", packages]
    return ", ".join(parts)


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a Markdown table."""
    heads = list(heads)
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def _between(value: float, low: float, high: float, digits: int = 2) -> str:
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _left_out(reasons: dict[str, str]) -> list[str]:
    lines = [f"- left out: {name}: {reason}" for name, reason in reasons.items()]
    return ["", *lines] if lines else []


def _timings(suite: dict[str, Any]) -> list[str]:
    rounds = suite["timings"][0]["rounds"]
    heads = [f"{rounds} rounds", "median ms", "p90 ms", "times as fast as the first [95 %]"]
    rows = []
    for t in suite["timings"]:
        speedup = _between(t["speedup"], t["speedup_low"], t["speedup_high"])
        rows.append([t["name"], f"{t['median_ms']:.1f}", f"{t['p90_ms']:.1f}", speedup])
    return table(heads, rows)


def _device(suite: dict[str, Any]) -> list[str]:
    lines = [suite["setting"] + ". Images and results are in host memory.", ""]
    for part in suite["parts"]:
        heads = [
            part["title"],
            "median ms",
            "p90 ms",
            "p99 ms",
            "times as fast as the first [95 %]",
        ]
        rows = []
        for t in part["timings"]:
            times = (f"{t[name]:.2f}" for name in ("median_ms", "p90_ms", "p99_ms"))
            speedup = _between(t["speedup"], t["speedup_low"], t["speedup_high"])
            rows.append([t["name"], *times, speedup])
        lines += [*table(heads, rows), ""]
    memory = suite["memory_mib"]
    lines += [
        f"GPU memory, all programs: {memory['before']} MiB before the networks, "
        f"{memory['loaded']} with them ({memory['loaded'] - memory['before']} more), "
        f"{memory['released']} after their release.",
        *_left_out(suite["left_out"]),
    ]
    if "stages" not in suite:
        return lines
    rates = suite["rates"]
    heads = ["stage, GPU time", "ms", "GFLOP", "least MB", "floor, ms", "floor / ms"]
    rows = [
        [
            row["name"],
            f"{row['ms']:.3f}",
            f"{row['gflop']:.2f}",
            f"{row['mb']:.1f}",
            f"{row['floor_ms']:.4f}",
            f"{row['floor_ms'] / row['ms']:.0%}",
        ]
        for row in suite["stages"]
    ]
    floor = (
        f"Floor: at the {rates['gb_per_s']:.0f} GB/s and {rates['tflop_per_s']:.0f} TFLOP/s that a "
        "copy of 268 MB and a matrix product reached in this run (cached data are faster). GFLOP: "
        "convolutions and products outside Triton's kernels."
    )
    return [*lines, "", *table(heads, rows), "", floor]


def _peers(suite: dict[str, Any]) -> list[str]:
    lines = []
    for part in suite["parts"]:
        matching = part["title"].startswith("matching")
        what = "matches" if matching else "keypoints"
        heads = [
            f"{part['title']}, {part['timings'][0]['rounds']} rounds",
            "median ms",
            "p90 ms",
            "times as fast as the first [95 %]",
            f"times as fast: '{part['ours']}' [95 %]",
            what,
            f"the first's {what} also found",
        ]
        rows = []
        for t in part["timings"]:
            common = f"{t['in_common']:.1%}" if "in_common" in t else "–"
            rows.append(
                [
                    t["name"] + (f" ({t['note']})" if "note" in t else ""),
                    f"{t['median_ms']:.1f}",
                    f"{t['p90_ms']:.1f}",
                    _between(t["speedup"], t["speedup_low"], t["speedup_high"]),
                    _between(t["of_ours"], t["of_ours_low"], t["of_ours_high"]),
                    f"{t['found']:.0f}",
                    common,
                ]
            )
        lines += [*table(heads, rows), *_left_out(part["left_out"]), ""]
    return lines[:-1]


def _scaling(suite: dict[str, Any]) -> list[str]:
    lines = [
        f"Other settings: {suite['setting']}. Each row ran in its own process. Memory: peak, above "
        "that before the front-end was loaded. Images of other sizes are scaled.",
        "",
    ]
    stages = ("extract", "match", "verify", "track")
    for factor in suite["factors"]:
        unit = f", {factor['unit']}" if factor["unit"] else ""
        heads = [
            f"{factor['factor']}{unit}",
            *(f"{stage}, ms" for stage in stages),
            "total, ms (p90, p99)",
            f"times as long as {factor['default']} [95 %]",
            "images/s",
            "cores busy",
            "memory, MiB",
        ]
        rows = []
        for point in factor["points"]:
            times = point["stages"]
            total = times["total"]
            name = point["name"]
            if factor["factor"] == "backend":
                name += f" ({point['backend']})"
            memory = point["memory_mib"]
            longer = (point[f"times_as_long{end}"] for end in ("", "_low", "_high"))
            rows.append(
                [
                    name,
                    *(f"{times[stage]['median_ms']:.1f}" for stage in stages),
                    f"{total['median_ms']:.0f} ({total['p90_ms']:.0f}, {total['p99_ms']:.0f})",
                    _between(*longer),
                    f"{point['images_per_s']:.1f}",
                    f"{point['cores_busy']:.1f} of {point['cores']}",
                    "–" if memory is None else f"{memory}",
                ]
            )
        lines += [*table(heads, rows), *_left_out(factor["left_out"]), ""]
    return lines[:-1]


def _detection(suite: dict[str, Any]) -> list[str]:
    lines = [f"{suite['setting']}; camera, node and subscriber share the cores.", ""]
    for camera in suite["cameras"]:
        width, height = camera["size"]
        heads = [
            f"{camera['images_hz']:.0f} images/s of {width}×{height}, "
            f"{camera['detections'][0]['rounds']} rounds",
            "image to features received, median ms (p90, p99)",
            f"of '{suite['baseline']}' [95 %]",
            "processed, Hz",
            f"of '{suite['baseline']}' [95 %]",
            "detections, Hz",
            "processor time, ms an image",
            f"of '{suite['baseline']}' [95 %]",
        ]
        rows = []
        for row in camera["detections"]:
            arrival = row.get("to_arrival")
            rows.append(
                [
                    row["name"],
                    f"{arrival['median_ms']:.1f} ({arrival['p90_ms']:.0f}, {arrival['p99_ms']:.0f})"
                    if arrival
                    else "–",
                    _between(*row["latency_of_baseline"]),
                    f"{row['processed_hz']:.1f}",
                    _between(row["of_baseline"], row["low"], row["high"]),
                    f"{row['detections_hz']:.1f}",
                    f"{row['cpu_ms']:.0f}",
                    _between(*row["cpu_of_baseline"]),
                ]
            )
        lines += [*table(heads, rows), ""]
    return lines


def _node(suite: dict[str, Any]) -> list[str]:
    lines = [f"{suite['setting']}; camera, node and subscribers share the cores.", ""]
    for rate in suite["rates"]:
        heads = [
            f"{rate['images_hz']:.0f} images/s, {rate['listeners'][0]['rounds']} rounds",
            "image to features received, median ms [95 %] (p90, p99)",
            "image to features published, median ms (p90, p99)",
            "processed, Hz",
            f"of '{suite['baseline']}' [95 %]",
            "dropped for a newer one",
            "lost before, after the node",
            "cores busy",
            "CPU time, ms an image",
        ]
        rows = []
        for row in rate["listeners"]:
            arrival, publication = row.get("to_arrival"), row["to_publication"]
            lost = row.get("features_lost")
            received = "–"
            if arrival:
                received = _between(arrival["median_ms"], arrival["low_ms"], arrival["high_ms"], 1)
                received += f" ({arrival['p90_ms']:.0f}, {arrival['p99_ms']:.0f})"
            rows.append(
                [
                    row["name"],
                    received,
                    f"{publication['median_ms']:.1f} "
                    f"({publication['p90_ms']:.0f}, {publication['p99_ms']:.0f})"
                    if publication
                    else "–",
                    f"{row['processed_hz']:.1f}",
                    _between(row["of_baseline"], row["low"], row["high"]),
                    f"{row['dropped']:.0%}",
                    f"{row['not_received']:.0%}, {'–' if lost is None else f'{lost:.0%}'}",
                    f"{row['cpu_cores']:.2f}",
                    f"{row['cpu_ms']:.0f}",
                ]
            )
        lines += [*table(heads, rows), ""]
    topics = suite["topics"]
    heads = [
        f"one subscriber at {topics['images_hz']:.0f} images/s, to",
        "the node's CPU time, ms an image",
        "more than with nobody, ms [95 %]",
    ]
    rows = [
        [
            row["name"],
            f"{row['cpu_ms']:.1f}",
            _between(row["extra_cpu_ms"], row["low"], row["high"], 1),
        ]
        for row in topics["rows"]
    ]
    return [*lines, *table(heads, rows), *_left_out(topics["left_out"])]
