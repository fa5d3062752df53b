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

"""Builds the messages of video topics (test/msgs/video) for the tests that ask for them.

They are not installed for all tests: those of rviz and Foxglove would take this foxglove_msgs for a
whole one.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from helpers import ROOT

PACKAGES = ("ffmpeg_image_transport_msgs", "foxglove_msgs")
# In the order in which they need each other.
_LIBRARIES = (
    "generator_c", "typesupport_fastrtps_c", "typesupport_introspection_c", "typesupport_c",
    "generator_py",
)  # fmt: skip


def build(prefix: Path) -> None:
    """Build both packages as ``make setup`` builds aliked_msgs, and install them."""
    venv = Path(sys.prefix)
    environment = os.environ | {
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "AMENT_PREFIX_PATH": str(venv)
    }  # fmt: skip
    for package in PACKAGES:
        folder = prefix.with_name(f"build_{package}")
        for command in (
            ["cmake", "-G", "Ninja", "-S", str(ROOT / "test" / "msgs" / "video" / package), "-B",
             str(folder), f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DBUILD_TESTING=OFF",
             f"-DPython3_EXECUTABLE={sys.executable}",
             f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'tools' / 'ros_wheels.cmake'}"],
            ["cmake", "--build", str(folder), "--target", "install"],
        ):  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def environment(prefix: Path) -> dict[str, str]:
    """What a process needs to import them."""
    paths = {
        "PYTHONPATH": _modules(prefix), "LD_LIBRARY_PATH": prefix / "lib",
        "AMENT_PREFIX_PATH": prefix,
    }  # fmt: skip
    return {
        name: os.pathsep.join([str(path), *filter(None, [os.environ.get(name)])])
        for name, path in paths.items()
    }


def load(prefix: Path) -> None:
    """Make them importable in this process, whose library path is fixed."""
    for package in PACKAGES:
        for name in _LIBRARIES:
            library = prefix / "lib" / f"lib{package}__rosidl_{name}.so"
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(_modules(prefix)))


def _modules(prefix: Path) -> Path:
    """The folder for Python's modules, which lies in each prefix as in this environment."""
    return prefix / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
