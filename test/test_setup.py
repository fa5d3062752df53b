"""`make setup` does what is missing, once, and says in one line what it cannot do."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tools" / "environment.py"

_spec = importlib.util.spec_from_file_location("environment", SCRIPT)
environment = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(environment)


def set_up(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script as the Makefile does."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a user reads; everything else must be progress."""
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 1
    assert line.startswith("error: ")
    return line


def stand_in_python(folder: Path, version: tuple[int, int]) -> Path:
    """A program that answers as a Python of that version does."""
    facts = {"version": version, "implementation": "CPython", "venv": True, "headers": True}
    program = folder / f"python{version[0]}.{version[1]}"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(facts)}'\n")
    program.chmod(0o755)
    return program


def test_a_python_without_wheels_is_refused(tmp_path):
    old = stand_in_python(tmp_path, (3, 8))
    line = error_line(set_up("--prefix", tmp_path / "venv", "--python", old))
    assert "3.8" in line
    assert "Python 3.10 to 3.12" in line
    assert "make setup PYTHON=" in line
    assert not (tmp_path / "venv").exists()


def test_something_else_than_python_is_refused(tmp_path):
    line = error_line(set_up("--prefix", tmp_path / "venv", "--python", shutil.which("true")))
    assert "is not a Python 3 that runs here" in line


def test_the_first_python_that_fits_is_taken(tmp_path, monkeypatch):
    for version in ((3, 13), (3, 11), (3, 10)):
        stand_in_python(tmp_path, version)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(environment.sys, "executable", str(tmp_path / "python3.13"))
    (tmp_path / "python3").symlink_to("python3.13")
    assert environment.choose_python(None).version in {(3, 12), (3, 11)}


def test_a_missing_compiler_is_named_with_its_package(tmp_path):
    done = set_up("--prefix", tmp_path / "venv", PATH=str(tmp_path), CC="", CXX="")
    line = error_line(done)
    assert "C and C++ compiler" in line
    assert "apt install build-essential" in line
    assert not (tmp_path / "venv").exists()


@pytest.mark.long
def test_an_unreachable_index_is_told_and_the_environment_kept(tmp_path):
    nowhere = {
        "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "", "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
    }  # fmt: skip
    prefix = tmp_path / "venv"
    line = error_line(set_up("--prefix", prefix, **nowhere))
    assert "the package index cannot be reached; check the network" in line
    again = set_up("--prefix", prefix, **nowhere)
    assert "Virtual environment" in again.stdout
    assert "up to date" in again.stdout.splitlines()[0]


def test_what_is_set_up_already_takes_seconds():
    prefix = Path(sys.prefix)
    stamps = sorted(path.name for path in (prefix / "setup").glob("*.stamp"))
    if stamps != ["aliked_msgs.stamp", "aliked_ros.stamp", "python-packages.stamp"]:
        pytest.skip(f"{prefix} was not made by `make setup`")
    before = time.monotonic()
    done = set_up("--prefix", prefix)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("up to date") == 4
    assert time.monotonic() - before < 30


@pytest.fixture
def steps(tmp_path):
    """A set-up with a state folder, for running single steps."""
    python = environment.Interpreter(sys.executable)
    setup = environment.Setup(tmp_path, python, environment.Progress(total=1))
    setup.state.mkdir()
    return setup


def test_a_step_runs_again_when_it_failed_or_its_inputs_changed(steps):
    runs = []

    def fail() -> None:
        runs.append("failed")
        raise environment.SetupError("no")

    with pytest.raises(environment.SetupError):
        steps.step("Messages", "a", fail)
    steps.step("Messages", "a", lambda: runs.append("done"))
    steps.step("Messages", "a", lambda: runs.append("needless"))
    steps.step("Messages", "b", lambda: runs.append("changed"))
    assert runs == ["failed", "done", "changed"]


def test_the_key_of_a_step_follows_names_contents_and_python(tmp_path):
    file = tmp_path / "a.msg"
    file.write_text("uint8 x")
    key = environment.digest([file], "python3.11")
    assert key == environment.digest([file], "python3.11")
    assert key != environment.digest([file], "python3.12")
    file.write_text("uint8 y")
    assert key != environment.digest([file], "python3.11")
    renamed = file.rename(tmp_path / "b.msg")
    renamed.write_text("uint8 x")
    assert key != environment.digest([renamed], "python3.11")


def test_a_moved_environment_is_not_used(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    pip = tmp_path / "bin" / "pip"
    assert environment.existing(tmp_path) is None
    pip.write_text(f"#!{tmp_path}/bin/python\n")
    assert environment.existing(tmp_path).version == sys.version_info[:2]
    pip.write_text("#!/elsewhere/.venv/bin/python\n")
    assert environment.existing(tmp_path) is None


def test_a_sourced_ros_does_not_leak_in(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "/opt/ros/jazzy/lib/python3.12/site-packages")
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/opt/ros/jazzy")
    variables = environment.environment(tmp_path)
    assert "PYTHONPATH" not in variables
    assert variables["AMENT_PREFIX_PATH"] == str(tmp_path)
    assert variables["PATH"].startswith(f"{tmp_path}/bin{os.pathsep}")


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("NameResolutionError: Temporary failure in name resolution", "cannot be reached"),
        ("ERROR: No matching distribution found (from versions: none)", "cannot be reached"),
        ("ERROR: Cannot install a and b\nsee the documentation", "Cannot install a and b"),
        ("[3/9] c++ x.cpp\nx.cpp:1:2: error: expected ';'\n1 error generated.", "expected ';'"),
    ],
)  # fmt: skip
def test_a_failed_command_is_told_in_one_line(output, told):
    line = environment.explain(output.splitlines())
    assert told in line
    assert "\n" not in line
