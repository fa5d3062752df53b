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

A reduction is a row of REDUCTIONS: its file in the output, and the function that makes it from the
plan, the manifests by name, the failures, and ``spread``, which runs functions on the cluster. A
vocabulary, a common map, or training pairs are further rows here and in ``plan.REDUCTIONS``, which
names the operation whose files they read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aliked_ros.errors import OutputError
from aliked_ros.fleet.operations import DATABASE_FILE
from aliked_ros.fleet.plan import Plan
from aliked_ros.fleet.report import report_page
from aliked_ros.fleet.storage import Store

Manifests = dict[str, dict[str, Any]]

DATABASE, REPORT = "colmap.db", "report.html"
_MERGING = ".merging"  # folder of half-joined databases


def _report(plan: Plan, manifests: Manifests, failures: list[dict[str, str]], _: Any) -> None:
    store = Store(plan.output)
    with store.writing(REPORT) as path:
        path.write_text(report_page(plan, store, manifests, failures), encoding="utf-8")


def _colmap(plan: Plan, manifests: Manifests, _: Any, spread: Any) -> None:
    """One database: neighbours are joined two by two, so each is copied log2(N) times.

    spread: ``spread(function, *arguments)`` starts a task, whose handle other tasks take as an
    argument; ``spread.get(handle)`` waits for its result.
    """
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


Make = Callable[[Plan, Manifests, list[dict[str, str]], Any], None]
REDUCTIONS: dict[str, tuple[str, Make]] = {
    "report": (REPORT, _report),
    "colmap": (DATABASE, _colmap),
}
"""By name: file and function."""
