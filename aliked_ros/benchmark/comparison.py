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

"""Compares two reports of ``aliked_ros bench``: significant slowdowns.

Figures relative to other people's code in the same run (PyTorch's eager networks) are compared as
ratios, which hold on a busy machine and on another one. Others are compared in milliseconds on the
same kind of machine, and otherwise by their ratio within the run, which shows one contender falling
behind the others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aliked_ros.benchmark.markdown import table
from aliked_ros.errors import SourceError

TOLERANCE = 0.1
"""Share by which a contender may be slower; two runs of the same code differ by this much."""

_REFERENCE = "torch eager"
_NORMAL = 1.96  # standard deviations, half a 95 % interval
_P90 = 1.2816  # standard deviations from the median to the 90th percentile
_MEDIAN = 1.2533  # a median's standard error relative to a mean's
_HIGHER, _LOWER = "higher", "lower"


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value and its 95 % interval; better: ``higher`` or ``lower``."""

    value: float
    low: float
    high: float
    better: str

    @property
    def error(self) -> float:
        """Standard error of the logarithm."""
        low, high = max(self.low, 1e-12), max(self.high, 1e-12)
        return max(math.log(high / low), 0.0) / (2 * _NORMAL)


@dataclass(frozen=True, slots=True)
class Contender:
    """One contender's figures in a report; None = absent.

    time: milliseconds. ratio: to the run's baseline. steady: the baseline is other people's code,
    so the ratio holds on other machines.
    """

    time: Figure | None
    ratio: Figure | None
    steady: bool


@dataclass(frozen=True, slots=True)
class Change:
    """One contender, before and after.

    slower: times as slow as before; low, high: its 95 % interval. unit: ``ms`` or ``ratio``.
    verdict: ``slower`` or ``faster`` beyond interval and tolerance, else ``same``.
    """

    suite: str
    name: str
    unit: str
    old: float
    new: float
    slower: float
    low: float
    high: float
    verdict: str

    @property
    def row(self) -> list[str]:
        """Cells of a table."""
        unit = " ms" if self.unit == "ms" else "×"
        took = f"{self.slower:.2f} [{self.low:.2f}, {self.high:.2f}]"
        verdict = "" if self.verdict == "same" else self.verdict
        return [self.name, f"{self.old:.4g}{unit}", f"{self.new:.4g}{unit}", took, verdict]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All changes; remarks: differences between the two runs, one line each."""

    changes: list[Change]
    remarks: list[str]
    tolerance: float

    @property
    def regressions(self) -> list[Change]:
        """What became slower."""
        return [change for change in self.changes if change.verdict == "slower"]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tolerance": self.tolerance,
            "regressions": len(self.regressions),
            "remarks": self.remarks,
            "changes": [asdict(change) for change in self.changes],
        }

    def as_text(self) -> str:
        """Markdown: a table for each suite, then the slowdowns."""
        lines = [f"- {remark}" for remark in self.remarks]
        for suite in dict.fromkeys(change.suite for change in self.changes):
            rows = [change.row for change in self.changes if change.suite == suite]
            lines += ["", *table([suite, "old", "new", "time after / before [95 %]", ""], rows)]
        found = self.regressions
        names = ", ".join(f"{change.suite}: {change.name}" for change in found)
        limit = f"beyond the interval and {self.tolerance:.0%}"
        verdict = f"{len(found)} slower {limit}: {names}" if found else f"Nothing slower {limit}."
        return "\n".join([*lines, "", verdict]).strip()


def compare_files(old: Path, new: Path, tolerance: float = TOLERANCE) -> Comparison:
    """Compare two files that ``aliked_ros bench --output`` wrote.

    Raises SourceError for any other file, and if the two have no contender in common.
    """
    return compare_reports(_read(old), _read(new), tolerance, (str(old), str(new)))


def compare_reports(
    old: dict[str, Any],
    new: dict[str, Any],
    tolerance: float = TOLERANCE,
    names: tuple[str, str] = ("the old report", "the new report"),
) -> Comparison:
    """Compare two reports made by ``suites.run``. SourceError if nothing is common."""
    remarks, alike = _machines(old["machine"], new["machine"])
    if old.get("source") != new.get("source"):
        remarks.append(f"other images: {old.get('source')}, now {new.get('source')}")
    changes: list[Change] = []
    for suite in dict.fromkeys([*old["suites"], *new["suites"]]):
        here = [name for name, one in zip(names, (old, new), strict=True) if suite in one["suites"]]
        if len(here) == 1:
            remarks.append(f"{suite}: only in {here[0]}")
            continue
        before, after = (dict(_contenders(suite, one["suites"][suite])) for one in (old, new))
        if not before or not after:
            remarks.append(f"{suite}: its figures cannot be compared")
        for part, others in ((before, after), (after, before)):
            missing = [name for name in part if name not in others]
            if missing and others:
                where = names[0] if part is before else names[1]
                remarks.append(f"{suite}: only in {where}: {'; '.join(missing)}")
        for name, contender in before.items():
            if name in after:
                change = _change(suite, name, contender, after[name], alike, tolerance)
                if change is None:
                    remarks.append(f"{suite}: {name}: no common figure to compare")
                else:
                    changes.append(change)
    if not changes:
        raise SourceError(
            f"{names[0]} and {names[1]} have no contender in common (suites "
            f"{', '.join(old['suites']) or 'none'}, and {', '.join(new['suites']) or 'none'})."
        )
    return Comparison(changes, remarks, tolerance)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise SourceError(f"{path} is not JSON ({error}).") from error
    good = isinstance(content, dict) and all(
        isinstance(content.get(part), dict) for part in ("machine", "suites")
    )
    if not good:
        raise SourceError(
            f"{path} is not a report of 'aliked_ros bench': it has no 'machine' and 'suites'; make "
            "one with 'aliked_ros bench --output FILE'."
        )
    report: dict[str, Any] = content
    return report


def _machines(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[str], bool]:
    """Differences between the runs, and whether their milliseconds are comparable."""
    remarks = []
    alike = True
    for name in ("cpu", "cores", "gpu", "frequency", "system", "memory_gib"):
        before, after = old.get(name), new.get(name)
        if before != after and before is not None and after is not None:
            remarks.append(f"another machine: {name} {before}, now {after}")
            alike = alike and name not in ("cpu", "cores", "gpu", "system")
    packages = [one.get("packages", {}) for one in (old, new)]
    for name in dict.fromkeys([*packages[0], *packages[1]]):
        before, after = (one.get(name, "none") for one in packages)
        if before != after:
            remarks.append(f"other versions: {name} {before}, now {after}")
    if old.get("python") != new.get("python"):
        remarks.append(f"other versions: Python {old.get('python')}, now {new.get('python')}")
    loads = [float(one.get("load_1min", 0.0)) for one in (old, new)]
    for when, load, one in zip(("old", "new"), loads, (old, new), strict=True):
        if load > 0.5 * float(one.get("cores", 1)):
            remarks.append(f"the {when} run began on a busy machine (load {load})")
    if not alike:
        remarks.append(
            "milliseconds of two machines are not comparable: ratios within runs are compared"
        )
    return remarks, alike


def _change(
    suite: str, name: str, old: Contender, new: Contender, alike: bool, tolerance: float
) -> Change | None:
    """Compare ratios if they are steady or machines differ, otherwise milliseconds."""
    by_ratio = (old.steady and new.steady) or not alike
    pairs = [("ratio", old.ratio, new.ratio), ("ms", old.time, new.time)]
    if not by_ratio:
        pairs.reverse()
    elif not alike:
        pairs.pop()
    comparable = [
        (unit, before, after)
        for unit, before, after in pairs
        if before is not None and after is not None and min(before.value, after.value) > 0.0
    ]
    if not comparable:
        return None
    unit, before, after = comparable[0]
    slower = after.value / before.value
    if before.better == _HIGHER:
        slower = 1.0 / slower
    spread = math.exp(_NORMAL * math.hypot(before.error, after.error))
    low, high = slower / spread, slower * spread
    verdict = "same"
    if low > 1.0 and slower > 1.0 + tolerance:
        verdict = "slower"
    elif high < 1.0 and 1.0 / slower > 1.0 + tolerance:
        verdict = "faster"
    then, now, slower, low, high = (
        round(number, 4) for number in (before.value, after.value, slower, low, high)
    )
    return Change(suite, name, unit, then, now, slower, low, high, verdict)


def _contenders(name: str, suite: dict[str, Any]) -> Iterator[tuple[str, Contender]]:
    """A suite's contenders, for all report versions; none for an unknown one."""
    try:
        if "parts" in suite:
            for part in suite["parts"]:
                yield from _timings(part)
        elif "timings" in suite:
            yield from _timings(suite)
        elif "factors" in suite:
            yield from _scaling(suite)
        elif "rates" in suite:
            yield from _node(suite)
        elif "cameras" in suite:
            yield from _detection(suite)
    except (KeyError, TypeError, ValueError, IndexError):
        return


def _timings(suite: dict[str, Any]) -> Iterator[tuple[str, Contender]]:
    first = suite["timings"][0]["name"]
    for t in suite["timings"]:
        time = Figure(t["median_ms"], *_ends(t), _LOWER)
        ratio = None
        if t["name"] != first:  # the baseline's ratio is 1
            ratio = Figure(t["speedup"], t["speedup_low"], t["speedup_high"], _HIGHER)
        steady = first.startswith(_REFERENCE) and ratio is not None
        yield t["name"], Contender(time, ratio, steady)


def _ends(t: dict[str, Any]) -> tuple[float, float]:
    """The interval of a median; estimated from the 90th percentile in older reports."""
    if "median_low_ms" in t:
        return t["median_low_ms"], t["median_high_ms"]
    spread = math.log(max(t["p90_ms"] / t["median_ms"], 1.0)) / _P90
    factor = math.exp(_NORMAL * _MEDIAN * spread / math.sqrt(t["rounds"]))
    return t["median_ms"] / factor, t["median_ms"] * factor


def _scaling(suite: dict[str, Any]) -> Iterator[tuple[str, Contender]]:
    for factor in suite["factors"]:
        for point in factor["points"]:
            median = point["stages"]["total"]["median_ms"]
            time = Figure(median, point["total_low_ms"], point["total_high_ms"], _LOWER)
            ratio = None
            if point["name"] != factor["default"]:
                ends = (point["times_as_long_low"], point["times_as_long_high"])
                ratio = Figure(point["times_as_long"], *ends, _LOWER)
            yield f"{factor['factor']} {point['name']}", Contender(time, ratio, False)


def _node(suite: dict[str, Any]) -> Iterator[tuple[str, Contender]]:
    for rate in suite["rates"]:
        for row in rate["listeners"]:
            name = f"{row['name']} at {rate['images_hz']:.0f} images/s"
            latency = row.get("to_arrival") or row.get("to_publication")
            if latency:
                ends = (latency["low_ms"], latency["high_ms"])
                time = Figure(latency["median_ms"], *ends, _LOWER)
                yield f"{name}, latency", Contender(time, None, False)
            if row["name"] != suite["baseline"]:
                ratio = Figure(row["of_baseline"], row["low"], row["high"], _HIGHER)
                yield f"{name}, images processed", Contender(None, ratio, False)


def _detection(suite: dict[str, Any]) -> Iterator[tuple[str, Contender]]:
    for camera in suite["cameras"]:
        width, height = camera["size"]
        for row in camera["detections"]:
            name = f"{row['name']} at {camera['images_hz']:.0f} images/s of {width}×{height}"
            if latency := row.get("to_arrival"):
                ends = (latency["low_ms"], latency["high_ms"])
                time = Figure(latency["median_ms"], *ends, _LOWER)
                yield f"{name}, latency", Contender(time, None, False)
            if row["name"] != suite["baseline"]:
                ratio = Figure(row["of_baseline"], row["low"], row["high"], _HIGHER)
                yield f"{name}, images processed", Contender(None, ratio, False)
