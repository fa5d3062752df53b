"""Benchmark results as Markdown, for people and for docs/benchmarks."""

from __future__ import annotations

from typing import Any


def as_text(results: dict[str, Any]) -> str:
    """Markdown tables of a report made by ``suites.run``."""
    machine = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, "
        f"load {machine['load_1min']}, Python {machine['python']}, {packages}; "
        f"images: {results['source']}, 640×480",
    ]
    for name, suite in results["suites"].items():
        lines += ["", f"### {name}", ""]
        if "timings" in suite:
            lines += _timings(suite)
        else:
            lines += _node(suite) if "rates" in suite else _memory(suite)
    return "\n".join(lines)


def _timings(suite: dict[str, Any]) -> list[str]:
    rounds = suite["timings"][0]["rounds"]
    lines = [
        f"| {rounds} rounds | median ms | p90 ms | times as fast as the first [95 %] |",
        "|---|---|---|---|",
    ]
    if "unit" in suite:
        lines[0] = lines[0].replace("median ms", f"median ms of {suite['unit']}")
    if "verified" in suite["timings"][0]:
        lines = [f"{lines[0]} verified matches | LightGlue's share |", lines[1] + "---|---|"]
    for t in suite["timings"]:
        interval = f"{t['speedup']:.2f} [{t['speedup_low']:.2f}, {t['speedup_high']:.2f}]"
        row = f"| {t['name']} | {t['median_ms']:.1f} | {t['p90_ms']:.1f} | {interval} |"
        if "verified" in t:
            row += f" {t['verified']} | {t['lightglue_share']:.0%} |"
        lines.append(row)
    return lines


def _memory(suite: dict[str, Any]) -> list[str]:
    lines = [
        f"Growth after warm-up over {suite['frames']} images: "
        f"{suite['growth_mib_after_warm_up']} MiB.",
        "",
        "| image | resident MiB |",
        "|---|---|",
    ]
    return lines + [f"| {s['frame']} | {s['rss_mib']} |" for s in suite["samples"]]


def _node(suite: dict[str, Any]) -> list[str]:
    lines = []
    for rate in suite["rates"]:
        rounds = rate["listeners"][0]["rounds"]
        lines += [
            f"| {rate['images_hz']:.0f} images/s, {rounds} rounds | processed, Hz "
            f"| of '{suite['baseline']}' [95 %] | processor time, ms an image |",
            "|---|---|---|---|",
        ]
        for row in rate["listeners"]:
            share = f"{row['of_baseline']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            lines.append(
                f"| {row['name']} | {row['processed_hz']:.1f} | {share} | {row['cpu_ms']:.0f} |"
            )
        lines.append("")
    return lines[:-1]
