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

"""``bench compare`` finds what became slower, and nothing else."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aliked_ros.benchmark.comparison import compare_files, compare_reports
from aliked_ros.benchmark.timing import machine, summarise
from aliked_ros.errors import SourceError
from helpers import ROOT

FILES = sorted((ROOT / "docs" / "benchmarks").glob("*.json"))
RECORDED = [path for path in FILES if "suites" in json.loads(path.read_text())]
TORCH = "torch eager, dense (published)"


def timings(seed: int, noise: float = 0.05, **milliseconds: float) -> dict:
    """A suite as the benchmarks make it, of runs that vary by ``noise``."""
    rng = np.random.default_rng(seed)
    seconds = {n: ms * 1e-3 * rng.lognormal(0, noise, 20) for n, ms in milliseconds.items()}
    return {"timings": [timing.as_dict() for timing in summarise(seconds)]}


def report(**suites: dict) -> dict:
    return {"machine": machine() | {"load_1min": 0.0}, "source": "virtual", "suites": suites}


def verdicts(old: dict, new: dict) -> dict[str, str]:
    return {change.name: change.verdict for change in compare_reports(old, new).changes}


def test_a_regression_is_found_and_noise_is_not():
    old = report(frontend=timings(0, lightglue=90.0, nearest=50.0, tiny=30.0))
    new = report(frontend=timings(1, lightglue=91.0, nearest=65.0, tiny=20.0))
    assert verdicts(old, new) == {"lightglue": "same", "nearest": "slower", "tiny": "faster"}
    found = compare_reports(old, new)
    (slow,) = found.regressions
    assert (slow.unit, slow.low < 1.3 < slow.high) == ("ms", True)
    assert "1 slower beyond the interval and 10%: frontend: nearest" in found.as_text()
    assert json.loads(json.dumps(found.as_dict()))["regressions"] == 1


def test_what_the_intervals_do_not_show_is_no_regression():
    old = report(frontend=timings(0, noise=0.8, node=50.0))
    new = report(frontend=timings(1, noise=0.8, node=58.0))
    assert verdicts(old, new) == {"node": "same"}


def test_a_busy_machine_slows_the_reference_too_and_is_no_regression():
    old = report(extractor=timings(0, **{TORCH: 400.0, "ours": 50.0}))
    new = report(extractor=timings(1, **{TORCH: 800.0, "ours": 100.0}))
    assert verdicts(old, new) == {TORCH: "slower", "ours": "same"}
    new = report(extractor=timings(1, **{TORCH: 800.0, "ours": 130.0}))
    assert verdicts(old, new)["ours"] == "slower"


def test_of_two_machines_only_ratios_are_compared_and_it_is_said():
    old = report(frontend=timings(0, first=90.0, second=50.0))
    new = report(frontend=timings(1, first=45.0, second=35.0))
    new["machine"] |= {"cpu": "another", "cores": 64}
    found = compare_reports(old, new)
    assert {c.name: (c.unit, c.verdict) for c in found.changes} == {"second": ("ratio", "slower")}
    remarks = "\n".join(found.remarks)
    assert "another machine: cpu" in remarks
    assert "now 64" in remarks
    assert "ratios within runs" in remarks
    assert "first: no common figure to compare" in remarks


def test_what_only_one_of_them_has_is_named():
    suite = timings(0, a=1.0, b=2.0)
    old, new = report(frontend=suite), report(frontend=copy.deepcopy(suite), node={})
    new["suites"]["frontend"]["timings"].pop()
    new["machine"]["packages"] = {"numpy": "0.1"}
    remarks = "\n".join(compare_reports(old, new).remarks)
    assert "frontend: only in the old report: b" in remarks
    assert "node: only in the new report" in remarks
    assert "numpy" in remarks


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_reports_of_older_versions_are_read(path: Path):
    found = compare_files(path, path)
    assert not found.regressions
    assert found.changes or found.remarks
    assert all(change.verdict == "same" for change in found.changes)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "cannot read"),
        ("{", "is not JSON"),
        ("[]", "is not a report of 'aliked_ros bench'"),
        ('{"machine": {}, "suites": 3}', "is not a report of 'aliked_ros bench'"),
    ],
)
def test_what_is_no_report_is_named(tmp_path: Path, text: str | None, problem: str):
    other = tmp_path / "other.json"
    if text is not None:
        other.write_text(text)
    good = tmp_path / "good.json"
    good.write_text(json.dumps(report(frontend=timings(0, a=1.0))))
    with pytest.raises(SourceError, match=problem) as caught:
        compare_files(good, other)
    assert str(other) in str(caught.value)


def test_two_reports_without_anything_in_common_are_refused():
    with pytest.raises(SourceError, match="no contender in common"):
        compare_reports(report(a=timings(0, x=1.0)), report(b=timings(0, y=1.0)))


def test_the_command_line_tells_by_its_status(tmp_path: Path):
    paths = []
    for number, milliseconds in enumerate((50.0, 80.0)):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(report(frontend=timings(number, node=milliseconds))))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "aliked_ros.cli", "bench", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    done = run("compare", *paths)
    assert (done.returncode, done.stderr) == (1, "")
    assert "frontend: node" in done.stdout
    assert run("compare", paths[0], paths[0]).returncode == 0
    assert run("compare", *paths, "--tolerance", "1", "--json").returncode == 0
    # without a command it is 'run'
    done = run("nonsense", "--rounds", "3")
    assert done.returncode == 2
    assert "There is no benchmark 'nonsense'" in done.stderr
    assert "Traceback" not in done.stderr
