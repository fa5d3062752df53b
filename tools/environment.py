#!/usr/bin/env python3
"""Makes the virtual environment that `make test` and `make demo` run in; `make setup` calls this.

Each step is skipped when what it depends on has not changed since it last succeeded (stamps in
``.venv/setup``), so a call after an interruption goes on where it stopped. Only the standard
library is used, and any Python from 3.8 can run this file to be told what is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

OLDEST, NEWEST = (3, 10), (3, 12)
DISK_NEEDED = 5e9  # bytes: the environment, and what pip unpacks on the way
ROOT = Path(__file__).resolve().parent.parent

# A sourced ROS 2, or another environment, must not leak into this one.
FOREIGN = (
    "AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "COLCON_PREFIX_PATH", "PYTHONHOME", "PYTHONPATH",
    "VIRTUAL_ENV", "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
)  # fmt: skip

# What pip says, in its several versions, when it cannot reach the package index.
UNREACHABLE = (
    "Failed to establish|Max retries|NewConnectionError|name resolution|timed out|ProxyError"
    r"|\(from versions: none\)"
)

PROBE = """
import importlib.util, json, os, platform, sys, sysconfig
print(json.dumps({
    "version": sys.version_info[:2],
    "implementation": platform.python_implementation(),
    "venv": all(importlib.util.find_spec(module) for module in ("venv", "ensurepip")),
    "headers": os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")),
}))
"""


class SetupError(Exception):
    """Something is missing; the text says what, and how to get it."""


class Interpreter:
    """A Python, and what it lacks for making a virtual environment with message packages."""

    def __init__(self, command: str) -> None:
        """Run ``command``; SetupError when it is no working Python."""
        try:
            output = subprocess.check_output(
                [command, "-c", PROBE], stderr=subprocess.DEVNULL, env=environment()
            )
            facts = json.loads(output)
        except (OSError, subprocess.CalledProcessError, ValueError) as error:
            raise SetupError(f"{command} is not a Python 3 that runs here.") from error
        self.command = command
        self.version: tuple[int, int] = tuple(facts["version"])
        self.implementation: str = facts["implementation"]
        self.has_venv: bool = facts["venv"]
        self.has_headers: bool = facts["headers"]

    @property
    def name(self) -> str:
        """For example python3.11, which is also the name of its Debian package."""
        return "python{}.{}".format(*self.version)

    @property
    def fits(self) -> bool:
        """Whether wheels exist for it."""
        return OLDEST <= self.version <= NEWEST and self.implementation == "CPython"


def environment(prefix: Path | None = None) -> dict[str, str]:
    """Variables of a child process: nothing foreign, and the environment at ``prefix`` first."""
    variables = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    variables["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    if prefix is not None:
        variables["PATH"] = os.pathsep.join([str(prefix / "bin"), variables.get("PATH", "")])
        variables["AMENT_PREFIX_PATH"] = str(prefix)
    return variables


def existing(prefix: Path) -> Interpreter | None:
    """The Python of the environment at ``prefix``; None when it is not whole, or was moved here."""
    try:
        python = Interpreter(str(prefix / "bin" / "python"))
        pip = (prefix / "bin" / "pip").read_text(encoding="utf-8")
    except (SetupError, OSError):
        return None
    return python if python.fits and str(prefix / "bin") in pip else None


def choose_python(wanted: str | None) -> Interpreter:
    """The Python to build the environment with: ``wanted``, else the first that fits."""
    versions = "Python {}.{} to {}.{}".format(*OLDEST, *NEWEST)
    if wanted:
        chosen = Interpreter(shutil.which(wanted) or wanted)
        if not chosen.fits:
            raise SetupError(
                f"PYTHON={wanted} is {chosen.implementation} {chosen.name[6:]}, but ROS 2 wheels "
                f"need {versions}; name another one: make setup PYTHON=python3.12"
            )
        return chosen
    found = []
    for command in [sys.executable, "python3", "python3.12", "python3.11", "python3.10"]:
        try:
            candidate = Interpreter(shutil.which(command) or command)
        except SetupError:
            continue
        if candidate.fits:
            return candidate
        found.append(f"{candidate.name[6:]} ({candidate.command})")
    raise SetupError(
        f"{versions} is needed, found {', '.join(dict.fromkeys(found)) or 'none'}; install one "
        "(Debian, Ubuntu: apt install python3.12 python3.12-venv python3.12-dev), or name it: "
        "make setup PYTHON=/path/to/python3.12"
    )


def check_machine(python: Interpreter) -> None:
    """SetupError naming everything that this machine lacks, with one command to get it."""
    system = f"{platform.system()} {platform.machine()}"
    if system != "Linux x86_64":
        raise SetupError(
            f"ROS 2 wheels exist for Linux on x86_64 only, this is {system}; install ROS 2 from "
            "the system's packages and use `colcon build` (README, on a robot)."
        )
    missing: dict[str, str] = {}
    if not compiler("CC", ("cc", "gcc", "clang")) or not compiler("CXX", ("c++", "g++", "clang++")):
        missing["a C and C++ compiler"] = "build-essential"
    if not python.has_headers:
        missing[f"Python.h of {python.command}"] = f"{python.name}-dev"
    if not python.has_venv:
        missing[f"the venv module of {python.command}"] = f"{python.name}-venv"
    if missing:
        raise SetupError(
            f"Missing: {', '.join(missing)}. Install it (Debian, Ubuntu: apt install "
            f"{' '.join(missing.values())}), then run `make setup` again."
        )


def compiler(variable: str, names: Sequence[str]) -> str | None:
    """Path of the compiler that CMake would take."""
    chosen = os.environ.get(variable, "").split()
    return next(filter(None, map(shutil.which, chosen[:1] or names)), None)


def digest(paths: Iterable[Path], *more: str) -> str:
    """One checksum over the names and contents of files, and over ``more``."""
    state = hashlib.sha256("\0".join(more).encode())
    for path in sorted(paths):
        state.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()


class Progress:
    """Numbered steps with their time; on a terminal, the latest output of the running one."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.number = 0
        self.title = ""
        self.started = 0.0
        self.shown = 0.0
        self.live = sys.stdout.isatty()

    def begin(self, title: str) -> None:
        """Start the next step."""
        self.number += 1
        self.title = title
        self.started = self.shown = time.monotonic()

    def working(self, activity: str) -> None:
        """Show what goes on: at once on a terminal, else every ten seconds."""
        now = time.monotonic()
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{self._text(activity)[:width]}", end="", flush=True)
        elif now - self.shown >= 10:
            print(self._text(activity)[:110], flush=True)
            self.shown = now

    def end(self, outcome: str) -> None:
        """Finish the step."""
        print(f"\r\033[K{self._text(outcome)}" if self.live else self._text(outcome), flush=True)

    def _text(self, text: str) -> str:
        elapsed = time.monotonic() - self.started
        return f"[{self.number}/{self.total}] {self.title:<22} {elapsed:5.1f} s  {text}"


class Setup:
    """The steps, each of which can be repeated at any time."""

    def __init__(self, prefix: Path, python: Interpreter, progress: Progress) -> None:
        self.prefix = prefix
        self.python = python
        self.progress = progress
        self.state = prefix / "setup"
        self.interpreter = prefix / "bin" / "python"

    def run(self) -> None:
        """Do every step that is not done yet."""
        self.make_environment()
        folder, python = ROOT / "requirements", self.python.name
        self.step("Python packages", digest(folder.glob("*.txt"), python), self.install_packages)
        messages = [path for path in (ROOT / "aliked_msgs").rglob("*") if path.is_file()]
        generators = [folder / "ros.txt", folder / "build.txt", ROOT / "tools" / "ros_wheels.cmake"]
        self.step("aliked_msgs", digest([*messages, *generators], python), self.build_messages)
        description = [ROOT / name for name in ("setup.py", "setup.cfg", "pyproject.toml")]
        self.step("aliked_ros", digest(description, python), self.install_package)
        # The cache can change behind our back; both commands look for themselves.
        self.step("Weights", None, self.fetch_weights)
        self.step("Exported networks", None, self.export_networks)

    def step(self, title: str, key: str | None, action: Callable[[], None]) -> None:
        """Run ``action`` unless its stamp says that it succeeded with the same ``key``."""
        self.progress.begin(title)
        stamp = self.state / (title.lower().replace(" ", "-") + ".stamp")
        if key is not None and stamp.is_file() and stamp.read_text() == key:
            self.progress.end("up to date")
            return
        stamp.unlink(missing_ok=True)
        action()
        if key is not None:
            stamp.write_text(key)
        self.progress.end("done")

    def make_environment(self) -> None:
        """Create the virtual environment, or anew when it is broken or has another Python."""
        self.progress.begin("Virtual environment")
        made = existing(self.prefix)
        if made is not None and made.version == self.python.version:
            self.state.mkdir(exist_ok=True)
            self.progress.end("up to date")
            return
        if free_space(self.prefix.parent) < DISK_NEEDED:
            raise SetupError(
                f"{self.prefix.parent} has {free_space(self.prefix.parent) / 1e9:.1f} GB left, "
                f"{DISK_NEEDED / 1e9:.0f} GB are needed; free some space."
            )
        command = [self.python.command, "-m", "venv", "--clear", str(self.prefix)]
        creation = subprocess.run(command, capture_output=True, text=True, env=environment())
        if creation.returncode != 0:
            raise SetupError(
                f"{' '.join(command)} failed: {last_line(creation.stdout + creation.stderr)}; on "
                f"Debian and Ubuntu: apt install {self.python.name}-venv"
            )
        self.state.mkdir()
        self.progress.end(f"{self.python.name} ({self.python.command})")

    def install_packages(self) -> None:
        """Install the pinned requirements, first those that build others."""
        build = ROOT / "requirements" / "build.txt"
        rest = sorted(set((ROOT / "requirements").glob("*.txt")) - {build})
        self.pip("install", "-r", str(build))
        self.pip("install", *(word for path in rest for word in ("-r", str(path))))

    def build_messages(self) -> None:
        """Generate, compile and install the message package."""
        build = self.state / "aliked_msgs"
        shutil.rmtree(build, ignore_errors=True)
        configure = [
            "cmake", "-G", "Ninja", "-S", str(ROOT / "aliked_msgs"), "-B", str(build),
            f"-DCMAKE_INSTALL_PREFIX={self.prefix}", f"-DPython3_EXECUTABLE={self.interpreter}",
            f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'tools' / 'ros_wheels.cmake'}", "-DBUILD_TESTING=OFF",
        ]  # fmt: skip
        for command in (configure, ["cmake", "--build", str(build), "--target", "install"]):
            self.call(command, "aliked_msgs cannot be built")

    def install_package(self) -> None:
        """Install this tree, editable, so that its commands lie in the environment's bin/."""
        self.pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))

    def fetch_weights(self) -> None:
        """Fetch the published weights that are missing from the cache."""
        command = [str(self.interpreter), "-m", "aliked_ros.models.registry"]
        self.call(command, "The weights cannot be fetched")

    def export_networks(self) -> None:
        """Export the networks that are missing from the cache or stale."""
        command = [str(self.interpreter), "-m", "aliked_ros.models.export", "--all"]
        self.call(command, "The networks cannot be exported")

    def pip(self, *arguments: str) -> None:
        """Run pip; SetupError that tells a missing network from a full disk."""
        command = [str(self.interpreter), "-m", "pip", *arguments, "--no-input"]
        self.call(command, "pip failed")

    def call(self, command: Sequence[str], failure: str) -> None:
        """Run a command, showing its output as progress and keeping it in the log."""
        log = self.state / "setup.log"
        lines: deque[str] = deque(maxlen=200)
        with log.open("a", encoding="utf-8") as file:
            print("$", *command, file=file)
            code = follow(command, environment(self.prefix), file.write, lines, self.progress)
        if code != 0:
            raise SetupError(f"{failure}: {explain(lines)} (all of its output: {log})")


def follow(
    command: Sequence[str],
    variables: dict[str, str],
    write: Callable[[str], object],
    lines: deque[str],
    progress: Progress,
) -> int:
    """Run ``command`` and hand each line of its output on; its exit status.

    A thread reads, so that the time shown goes on while the command says nothing.
    """
    output: queue.Queue[str | None] = queue.Queue()
    process = subprocess.Popen(
        command, env=variables, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            output.put(line)
        output.put(None)

    threading.Thread(target=read, daemon=True).start()
    activity = Path(command[0]).name
    try:
        while True:
            try:
                line = output.get(timeout=1)
            except queue.Empty:
                progress.working(activity)
                continue
            if line is None:
                return process.wait()
            write(line)
            if line.strip():
                activity = brief(line.strip())
                lines.append(line.strip())
                progress.working(activity)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def brief(line: str) -> str:
    """A line of output as progress: pip names all packages that it is going to install."""
    start = "Installing collected packages: "
    return f"Installing {line.count(',') + 1} packages" if line.startswith(start) else line


def explain(lines: Sequence[str]) -> str:
    """One line out of a failed command's output, with the remedy where it is a known failure."""
    text = "\n".join(lines)
    if "No space left on device" in text:
        return "the disk is full; free some space and run `make setup` again"
    if re.search(UNREACHABLE, text):
        return (
            "the package index cannot be reached; check the network and pip's settings "
            "(pip config list), then run `make setup` again: what is done is kept"
        )
    return last_line(text)


def last_line(text: str) -> str:
    """The last line that speaks of an error, else the last one; at most 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"]
    errors = [line for line in lines if re.search("(?i)error: |cmake error", line)]
    return re.sub("^ERROR: ", "", (errors or lines)[-1])[:300].rstrip(".")


def free_space(folder: Path) -> float:
    """Bytes left on the disk of ``folder``."""
    return float(shutil.disk_usage(folder).free)


def main() -> int:
    """Set up, or say in one line what is missing; 0 = all is there."""
    parser = argparse.ArgumentParser(description="Make the virtual environment of aliked_ros.")
    parser.add_argument("--python", help="interpreter to use instead of python3 (3.10 to 3.12)")
    parser.add_argument("--prefix", type=Path, default=ROOT / ".venv", help="where to make it")
    arguments = parser.parse_args()
    started = time.monotonic()
    progress = Progress(total=6)
    prefix = arguments.prefix.absolute()
    try:
        python = (not arguments.python and existing(prefix)) or choose_python(arguments.python)
        check_machine(python)
        Setup(prefix, python, progress).run()
    except SetupError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"\nerror: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. `make setup` goes on from here.", file=sys.stderr)
        return 130
    print(f"Set up in {time.monotonic() - started:.1f} s: {prefix}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
