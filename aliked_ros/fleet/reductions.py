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

"""What is made of all recordings together, once each of them is done.

A reduction is one row of REDUCTIONS: a function of the plan, the manifests by name, and ``spread``,
which runs a function on the cluster. A vocabulary, one map, or training pairs are further rows:
each reads the files of the recordings that it names in ``needs`` (an operation).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aliked_ros.errors import OutputError
from aliked_ros.fleet.operations import DATABASE_FILE
from aliked_ros.fleet.plan import Plan
from aliked_ros.fleet.report import report_page
from aliked_ros.fleet.storage import Store

Manifests = dict[str, dict[str, Any]]
Spread = Callable[..., Any]
"""``spread(function, *arguments)`` starts a task, whose handle other tasks take as argument;
``spread.get(handle)`` waits for its result."""

DATABASE, REPORT = "colmap.db", "report.html"
_MERGING = ".merging"  # folder of half-joined databases


@dataclass(frozen=True, slots=True)
class Reduction:
    """A result over all recordings: its file in the output, and the operation it builds on."""

    file: str
    needs: str
    make: Callable[[Plan, Manifests, list[dict[str, str]], Any], None]


def _report(plan: Plan, manifests: Manifests, failures: list[dict[str, str]], _: Any) -> None:
    store = Store(plan.output)
    with store.writing(REPORT) as path:
        path.write_text(report_page(plan, store, manifests, failures), encoding="utf-8")


def _colmap(plan: Plan, manifests: Manifests, _: Any, spread: Any) -> None:
    """One database: neighbours are joined two by two, so each is copied log2(N) times."""
    level: list[Any] = [f"{name}/{DATABASE_FILE}" for name in sorted(manifests)]
    step = 0
    while len(level) > 1:
        joined = [
            spread(merge_databases, plan.output, f"{_MERGING}/{step}-{n}.db", *level[n : n + 2])
            for n in range(0, len(level) - 1, 2)
        ]
        level, step = joined + level[len(joined) * 2 :], step + 1
    store, last = Store(plan.output), level[0]
    name = last if isinstance(last, str) else spread.get(last)
    with store.reading(name) as whole, store.writing(DATABASE) as path:
        shutil.copyfile(whole, path)
    store.remove(_MERGING)


def merge_databases(output: str, target: str, first: str, second: str) -> str:
    """Join two COLMAP databases of the output folder; returns the name of the new one."""
    import pycolmap

    store = Store(output)
    with ExitStack() as stack:
        paths = [stack.enter_context(store.reading(name)) for name in (first, second)]
        with store.writing(target) as path:
            try:
                _merge(pycolmap, [*paths, path])
            except (RuntimeError, ValueError) as error:
                raise OutputError(f"cannot join {first} and {second}: {error}") from error
    return target


def _merge(pycolmap: Any, paths: list[Path]) -> None:
    with ExitStack() as stack:
        pycolmap.Database.merge(
            *(stack.enter_context(pycolmap.Database.open(path)) for path in paths)
        )


REDUCTIONS = {
    "report": Reduction(REPORT, "", _report),
    "colmap": Reduction(DATABASE, "export", _colmap),
}
"""By name, as in ``plan.REDUCTIONS``."""
