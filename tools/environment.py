#!/usr/bin/env python3

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

"""Makes the virtual environment that `make demo`, `make test` and the others run in.

    python3 tools/environment.py GROUP

uv installs ``requirements/GROUP.txt`` (pip where uv cannot be had); this file does what no tool
does: it says what the machine lacks, hands pip's settings to uv, builds the messages and fetches
the weights. Stamps in ``.venv/setup`` tell which step succeeded with what, so that a call after an
interruption goes on where it stopped. The environment gets the Python that runs this file, from
3.8 on, or the first on the PATH that fits; only the standard library is used.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import os
import platform
import pty
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

OLDEST, NEWEST = (3, 10), (3, 14)
ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"

# Each group, and the disk in GB that it takes with what is unpacked on the way.
GROUPS = {
    "demo": 2, "view": 3, "evaluate": 3, "train": 4, "docs": 2, "gpu": 4, "fleet": 4, "test": 6,
}  # fmt: skip

# A sourced ROS 2, or another environment, must not leak into this one.
FOREIGN = (
    "AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "COLCON_PREFIX_PATH", "PYTHONHOME", "PYTHONPATH",
    "VIRTUAL_ENV", "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
)  # fmt: skip

# pip's settings, which name the index, the proxy and the certificates here, as uv's variables.
OF_PIP = {
    "index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX", "trusted-host": "UV_INSECURE_HOST", "constraint": "UV_CONSTRAINT",
    "timeout": "UV_HTTP_TIMEOUT", "default-timeout": "UV_HTTP_TIMEOUT", "proxy": "ALL_PROXY",
    "cert": "SSL_CERT_FILE", "client-cert": "SSL_CLIENT_CERT",
}  # fmt: skip

# What the tools say, in their several versions, and the sentence for it.
KNOWN = {
    "No space left on device": "the disk is full; free some space",
    "Permission denied|Read-only file system": "a folder cannot be written; where it is a cache "
    "in your home, set UV_CACHE_DIR and ALIKED_ROS_CACHE to folders that can",
    "Failed to establish|Max retries|NewConnectionError|name resolution|timed out|ProxyError"
    r"|from versions: none|error sending request|[Ff]ailed to fetch": "the package index cannot "
    "be reached; check the network and pip's settings (pip config list)",
}  # fmt: skip


class SetupError(Exception):
    """Something is missing; the text says what, and how to get it."""


def use_a_python_that_fits(chosen: bool) -> None:
    """Go on in the first Python on the PATH that ROS 2 has wheels for, if this one is not it."""
    here = f"{platform.python_implementation()} {platform.python_version()}"
    if OLDEST <= sys.version_info[:2] <= NEWEST and here.startswith("CPython"):
        return
    minors = range(NEWEST[1], OLDEST[1] - 1, -1)
    others = filter(None, (shutil.which(f"python3.{minor}") for minor in minors))
    for other in [] if chosen else others:
        if subprocess.call([other, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            os.execv(other, [other, *sys.argv])
    raise SetupError(
        "ROS 2 wheels need CPython {}.{} to {}.{}".format(*OLDEST, *NEWEST)
        + f", and {sys.executable} is {here}; install one (Debian, Ubuntu: apt install python3 "
        "python3-venv python3-dev), or name it: make setup PYTHON=/path/to/python3.12"
    )


def check_machine() -> None:
    """SetupError naming everything that this machine lacks, with one command to get it."""
    system = f"{platform.system()} {platform.machine()}"
    if system != "Linux x86_64":
        raise SetupError(
            f"ROS 2 wheels exist for Linux on x86_64 only, this is {system}; install ROS 2 from "
            "the system's packages and use `colcon build` (README, on a robot)."
        )
    version = "python{}.{}".format(*sys.version_info)
    missing: dict[str, str] = {}
    if not compiler("CC", ("cc", "gcc", "clang")) or not compiler("CXX", ("c++", "g++", "clang++")):
        missing["a C and C++ compiler"] = "build-essential"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        missing[f"Python.h of {sys.executable}"] = f"{version}-dev"
    if not all(importlib.util.find_spec(module) for module in ("venv", "ensurepip")):
        missing[f"the venv module of {sys.executable}"] = f"{version}-venv"
    if missing:
        raise SetupError(
            f"Missing: {', '.join(missing)}. Install it (Debian, Ubuntu: apt install "
            f"{' '.join(missing.values())}), then run `make setup` again."
        )


def compiler(variable: str, names: Sequence[str]) -> str | None:
    """Path of the compiler that CMake would take."""
    chosen = os.environ.get(variable, "").split()
    return next(filter(None, map(shutil.which, chosen[:1] or names)), None)


def is_whole(prefix: Path) -> bool:
    """Whether there is an environment of this Python, made at this place."""
    name = "python{}.{}".format(*sys.version_info)
    try:
        pip = (prefix / "bin" / "pip").read_text(encoding="utf-8")
    except OSError:
        return False
    return str(prefix / "bin") in pip and (prefix / "lib" / name).is_dir()


class Setup:
    """The steps, each of which can be repeated at any time."""

    def __init__(self, prefix: Path, group: str) -> None:
        self.prefix, self.group, self.lock = prefix, group, REQUIREMENTS / f"{group}.txt"
        self.state, self.python = prefix / "setup", str(prefix / "bin" / "python")
        self.pip = [
            self.python,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--no-input",
            "--no-cache-dir",
        ]
        self.variables = {n: value for n, value in os.environ.items() if n not in FOREIGN}
        path = [str(prefix / "bin"), self.variables.get("PATH", "")]
        self.variables |= {"PATH": os.pathsep.join(path), "AMENT_PREFIX_PATH": str(prefix)}

    def run(self) -> None:
        """Do every step that is not done yet."""
        packages = f"packages-{self.group}"
        free = shutil.disk_usage(self.prefix.parent).free / 1e9
        if not (self.state / f"{packages}.stamp").exists() and free < GROUPS[self.group]:
            raise SetupError(
                f"{self.prefix.parent} has {free:.1f} GB left, {GROUPS[self.group]} GB are needed "
                f"for {self.group}; free some space."
            )
        if not is_whole(self.prefix):
            self.make_environment()
        self.state.mkdir(exist_ok=True)
        self.step(packages, [self.lock], self.install_packages)
        generators = [REQUIREMENTS / "demo.in", ROOT / "tools" / "ros_wheels.cmake"]
        # those of a ROS 2 distribution that have no wheel: tests publish them
        foreign = sorted((ROOT / "test" / "msgs").glob("*/package.xml"))
        others = [path.parent for path in foreign] if self.group == "test" else []
        for folder in [ROOT / "aliked_msgs", *others]:
            files = [path for path in folder.rglob("*") if path.is_file()]
            self.step(folder.name, [*files, *generators], partial(self.build_messages, folder))
        description = [ROOT / name for name in ("setup.py", "setup.cfg", "pyproject.toml")]
        self.step("aliked_ros", description, self.install_package)
        # the cache can change behind our back; the other networks are there to compare with
        peers = ["--peers"] if self.group == "test" else []
        fetch = [self.python, "-m", "aliked_ros.models.registry", *peers]
        self.call(fetch, "The weights cannot be fetched")

    def step(self, name: str, inputs: Sequence[Path], action: Callable[[bool], None]) -> None:
        """Run ``action`` unless its stamp says that it succeeded with the same inputs.

        It is told whether the last try was cut off.
        """
        key = digest(inputs)
        stamp = self.state / f"{name}.stamp"
        found = stamp.read_text() if stamp.is_file() else ""
        if found == key:
            return
        started = time.monotonic()
        print(f"{name} ...", flush=True)
        stamp.write_text("begun")
        action(found == "begun")
        stamp.write_text(key)
        print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)

    def make_environment(self) -> None:
        """Create the virtual environment."""
        python = getattr(sys, "_base_executable", sys.executable)
        print(f"{self.prefix} with Python {platform.python_version()} ({python})", flush=True)
        command = [python, "-m", "venv", "--clear", str(self.prefix)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.variables)
        if done.returncode != 0:
            raise SetupError(
                f"{' '.join(command)} failed: {explain(done.stdout + done.stderr)} (On Debian and "
                "Ubuntu it needs python{}.{}-venv.)".format(*sys.version_info)
            )

    def install_packages(self, again: bool) -> None:
        """Install the group's lock file; all of it ``again`` where an installation was cut off."""
        failure = "The Python packages cannot be installed"
        code, said = self.follow([*self.pip, "install", "-r", str(REQUIREMENTS / "uv.txt")])
        if code != 0 and any(re.search(pattern, said) for pattern in KNOWN):
            raise SetupError(f"{failure}: {explain(said)}")
        if code != 0:
            print("uv cannot be had here; pip takes its place, which takes minutes.", flush=True)
            self.call([*self.pip, "install", "-r", str(self.lock)], failure)
            return
        self.variables |= uv_settings(self.pip, self.variables)
        uv = [str(self.prefix / "bin" / "uv"), "--no-config", "pip", "install", "-p", self.python]
        command = [*uv, "-r", str(self.lock), *(["--reinstall"] if again else [])]
        elsewhere = {"UV_TORCH_BACKEND", "UV_FIND_LINKS", "UV_INDEX"} & self.variables.keys()
        if "\ntorch==" in self.lock.read_text() and not elsewhere:
            # the usual index has PyTorch's CUDA build, of several gigabytes
            if self.follow([*command, "--torch-backend", "cpu"])[0] == 0:
                return
            print("PyTorch's own index cannot be reached; the usual one's CUDA build is taken.")
        self.call(command, failure)

    def build_messages(self, package: Path, again: bool) -> None:
        """Generate, compile and install a message package, a folder."""
        build = self.state / package.name
        shutil.rmtree(build, ignore_errors=True)
        configure = [
            "cmake", "-G", "Ninja", "-S", str(package), "-B", str(build),
            f"-DCMAKE_INSTALL_PREFIX={self.prefix}", f"-DPython3_EXECUTABLE={self.python}",
            f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'tools' / 'ros_wheels.cmake'}", "-DBUILD_TESTING=OFF",
        ]  # fmt: skip
        for command in (configure, ["cmake", "--build", str(build), "--target", "install"]):
            self.call(command, f"{package.name} cannot be built")
        shutil.rmtree(build)

    def install_package(self, again: bool) -> None:
        """Install this tree, editable, so that its commands lie in the environment's bin/."""
        options = ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
        self.call([*self.pip, "install", *options], "aliked_ros cannot be installed")

    def call(self, command: Sequence[str], failure: str) -> None:
        """Run a command; SetupError with one line out of what it said when it fails."""
        code, said = self.follow(command)
        if code != 0:
            log = self.state / "setup.log"
            raise SetupError(f"{failure}: {explain(said)} (All of its output: {log})")

    def follow(self, command: Sequence[str]) -> tuple[int, str]:
        """Run a command; its exit status, and what it said, which goes into the log.

        On a terminal all of it is shown as it comes, progress bars too.
        """
        said = bytearray()
        os.environ.clear()
        os.environ.update(self.variables)
        if sys.stdout.isatty():

            def read(file: int) -> bytes:
                data = os.read(file, 4096)
                said.extend(data)
                return data

            code = os.waitstatus_to_exitcode(pty.spawn(list(command), read))
        else:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            code, said = done.returncode, bytearray(done.stdout)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", said.decode(errors="replace"))
        with (self.state / "setup.log").open("a", encoding="utf-8") as log:
            print("$", *command, f"\n{text}", file=log)
        if code in (-2, 130):  # Ctrl-C went to the command
            raise KeyboardInterrupt
        return code, text


def digest(paths: Sequence[Path]) -> str:
    """One checksum over the names and contents of files."""
    state = hashlib.sha256()
    for path in sorted(paths):
        state.update(f"{path}\0".encode() + path.read_bytes() + b"\0")
    return state.hexdigest()


def uv_settings(pip: Sequence[str], variables: dict[str, str]) -> dict[str, str]:
    """Pip's settings, of its files and variables, as those variables of uv's that are not set."""
    command = [*pip, "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, env=variables).stdout
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        variable = OF_PIP.get(name.rpartition(".")[2], "")
        if variable and variable not in variables and (text := ast.literal_eval(value)):
            separator = "," if variable == "UV_FIND_LINKS" else " "
            settings[variable] = separator.join(text.split())
    if "UV_INDEX" in settings:  # pip takes the best of all indexes
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return settings


def explain(said: str) -> str:
    """One sentence out of a failed command's output, with the remedy where it is known."""
    for pattern, text in KNOWN.items():
        if re.search(pattern, said):
            return f"{text}, then call it again: what is done is kept."
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it said nothing"]
    errors = [line for line in lines if re.search("(?i)error: |cmake error", line)]
    return re.sub("^(?i:error): ", "", (errors or lines)[-1])[:300].rstrip(".") + "."


def main() -> int:
    """Set up, or say in one line what is missing; 0 = all is there."""
    parser = argparse.ArgumentParser(description="Make the virtual environment of aliked_ros.")
    parser.add_argument("group", choices=GROUPS, help="what it is for")
    parser.add_argument("--prefix", type=Path, default=ROOT / ".venv", help="where to make it")
    parser.add_argument("--this-python", action="store_true", help="and no other that would fit")
    arguments = parser.parse_args()
    try:
        use_a_python_that_fits(arguments.this_python)
        check_machine()
        Setup(arguments.prefix.absolute(), arguments.group).run()
    except SetupError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"\nerror: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
