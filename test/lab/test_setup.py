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

"""`make setup` does what is missing, once, and says in one line what it cannot do."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT

SCRIPT = ROOT / "tools" / "environment.py"

_spec = importlib.util.spec_from_file_location("environment", SCRIPT)
environment = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(environment)

NOWHERE = {
    "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "", "PIP_RETRIES": "0",
}  # fmt: skip


def set_up(prefix: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script as the Makefile does."""
    command = [sys.executable, str(SCRIPT), "demo", "--prefix", str(prefix), *options]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a user reads; everything else must be progress."""
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 1
    assert line.startswith("error: ")
    return line


def test_a_python_without_wheels_is_refused(monkeypatch):
    monkeypatch.setattr(environment.sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(environment.platform, "python_version", lambda: "3.9.2")
    with pytest.raises(environment.SetupError) as refusal:
        environment.use_a_python_that_fits(chosen=True)
    for part in ("3.10 to 3.14", "CPython 3.9.2", "make setup PYTHON="):
        assert part in str(refusal.value)


def test_the_newest_python_that_fits_takes_over(tmp_path, monkeypatch):
    for minor in (15, 13, 11):
        program = tmp_path / f"python3.{minor}"
        program.write_text("#!/bin/sh\nexit 0\n")
        program.chmod(0o755)
    called = []
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment.sys, "version_info", (3, 8, 1))
    monkeypatch.setattr(environment.os, "execv", lambda *command: called.append(command))
    with pytest.raises(environment.SetupError):  # the real execv does not come back
        environment.use_a_python_that_fits(chosen=False)
    assert called[0][0] == str(tmp_path / "python3.13")


def test_a_missing_compiler_is_named_with_its_package(tmp_path):
    line = error_line(set_up(tmp_path / "venv", PATH=str(tmp_path), CC="", CXX=""))
    assert "C and C++ compiler" in line
    assert "apt install build-essential" in line
    assert not (tmp_path / "venv").exists()


def test_a_full_disk_is_told_before_anything_is_made(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(environment.SetupError, match=r"has 1\.0 GB left, 2 GB are needed for demo"):
        environment.Setup(tmp_path / "venv", "demo").run()
    assert not (tmp_path / "venv").exists()


@pytest.mark.long
def test_an_unreachable_index_is_told_and_the_environment_kept(tmp_path):
    prefix = tmp_path / "venv"
    line = error_line(set_up(prefix, **NOWHERE))
    assert "the package index cannot be reached; check the network" in line
    again = set_up(prefix, **NOWHERE)
    assert str(prefix) not in again.stdout  # not made again
    error_line(again)


def test_what_is_set_up_already_takes_no_time():
    prefix = Path(sys.prefix)
    if not (prefix / "setup" / "packages-demo.stamp").is_file():
        pytest.skip(f"{prefix} was not made by `make demo`")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = set_up(prefix)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 20


@pytest.fixture
def steps(tmp_path):
    """A set-up with a state folder, for running single steps."""
    setup = environment.Setup(tmp_path, "demo")
    setup.state.mkdir()
    return setup


def test_a_step_runs_again_when_it_was_cut_off_or_its_inputs_changed(steps, tmp_path):
    file = tmp_path / "a.msg"
    file.write_text("uint8 x")
    runs = []

    def fail(again: bool) -> None:
        runs.append("failed")
        raise environment.SetupError("no")

    with pytest.raises(environment.SetupError):
        steps.step("messages", [file], fail)
    steps.step("messages", [file], lambda again: runs.append(f"done, again: {again}"))
    steps.step("messages", [file], lambda again: runs.append("needless"))
    file.write_text("uint8 y")
    steps.step("messages", [file], lambda again: runs.append(f"changed, again: {again}"))
    assert runs == ["failed", "done, again: True", "changed, again: False"]


def test_a_moved_environment_is_not_used(tmp_path):
    pip = tmp_path / "bin" / "pip"
    pip.parent.mkdir()
    (tmp_path / "lib" / "python{}.{}".format(*sys.version_info)).mkdir(parents=True)
    assert not environment.is_whole(tmp_path)
    pip.write_text(f"#!{tmp_path}/bin/python\n")
    assert environment.is_whole(tmp_path)
    pip.write_text("#!/elsewhere/.venv/bin/python\n")
    assert not environment.is_whole(tmp_path)


def test_an_environment_of_another_python_is_not_used(tmp_path):
    pip = tmp_path / "bin" / "pip"
    pip.parent.mkdir()
    pip.write_text(f"#!{tmp_path}/bin/python\n")
    (tmp_path / "lib" / "python3.9").mkdir(parents=True)
    assert not environment.is_whole(tmp_path)


def test_a_sourced_ros_does_not_leak_in(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "/opt/ros/jazzy/lib/python3.12/site-packages")
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/opt/ros/jazzy")
    variables = environment.Setup(tmp_path, "demo").variables
    assert "PYTHONPATH" not in variables
    assert variables["AMENT_PREFIX_PATH"] == str(tmp_path)
    assert variables["PATH"].startswith(f"{tmp_path}/bin{os.pathsep}")


def test_uv_gets_the_settings_of_pip_but_not_over_its_own(tmp_path):
    """Of its file and of its variables."""
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = http://mirror.local/simple\nproxy = http://proxy.local:3128\n"
        "extra-index-url =\n  http://one.local/simple\n  http://two.local/simple\n"
    )
    variables = {
        "PATH": os.environ["PATH"], "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
        "PIP_FIND_LINKS": "/wheels /more", "UV_HTTP_TIMEOUT": "7", "PIP_DEFAULT_TIMEOUT": "180",
    }  # fmt: skip
    found = environment.uv_settings([sys.executable, "-m", "pip"], variables)
    assert "UV_HTTP_TIMEOUT" not in found
    assert found.items() >= {
        "UV_DEFAULT_INDEX": "http://mirror.local/simple", "ALL_PROXY": "http://proxy.local:3128",
        "UV_INDEX": "http://one.local/simple http://two.local/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match", "UV_FIND_LINKS": "/wheels,/more",
    }.items()  # fmt: skip


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("NameResolutionError: Temporary failure in name resolution", "cannot be reached"),
        ("ERROR: No matching distribution found (from versions: none)", "cannot be reached"),
        ("error: Failed to fetch: `a`\n cause: error sending request for url", "cannot be reached"),
        ("error: Failed to create /x: Permission denied (os error 13)", "set UV_CACHE_DIR"),
        ("ERROR: Cannot install a and b\nsee the documentation", "Cannot install a and b"),
        ("[3/9] c++ x.cpp\nx.cpp:1:2: error: expected ';'\n1 error generated.", "expected ';'"),
    ],
)  # fmt: skip
def test_a_failed_command_is_told_in_one_line(output, told):
    line = environment.explain(output)
    assert told in line
    assert "\n" not in line


LOCKS = sorted(
    path
    for path in (ROOT / "requirements").glob("*.in")
    if path.stem not in ("robot", "gpu_jetson")  # for system packages, which have NumPy 1
)


@pytest.mark.parametrize("source", LOCKS, ids=lambda path: path.stem)
def test_every_lock_holds_what_its_source_asks_for(source):
    """And names no address; `make lock` remakes it."""

    def asked(path: Path) -> set[str]:
        lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
        names = {re.split(r"[\[<>=; ]", line)[0] for line in lines if line and line[0] != "-"}
        parts = [path.with_name(line[3:]) for line in lines if line.startswith("-r ")]
        return names.union(*map(asked, parts))

    lock = source.with_suffix(".txt").read_text()
    pinned = re.findall(r"^([a-z0-9-]+)(?:\[[a-z]+\])?==[\w.+]+(?: ;.*)?$", lock, re.MULTILINE)
    rows = [line for line in lock.splitlines() if not line.strip().startswith("#")]
    assert len(pinned) == len(rows)  # nothing unpinned, no option, no address
    assert asked(source) <= set(pinned)
    test = (ROOT / "requirements" / "test.txt").read_text()
    if source.stem == "fleet":  # Ray is not installed for the tests
        known = set(re.findall(r"^([a-z0-9-]+)==", test, re.MULTILINE))
        rows = [row for row in rows if row.partition("==")[0] in known]
    assert set(rows) <= set(test.splitlines())  # one version for all groups, which add up
