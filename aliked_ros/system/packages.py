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

"""The Python packages beside ROS, what they are for, and messages for missing ones.

Imports none of them.
"""

from __future__ import annotations

from importlib.util import find_spec

from aliked_ros.errors import BackendError

# By module: its distributions (install the first), and what needs it (empty = everything).
PACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "numpy": (("numpy",), ""),
    "cv2": (("opencv-python-headless", "opencv-python", "opencv-contrib-python"), ""),
    "scipy": (("scipy",), ""),
    "numba": (("numba",), ""),
    "yaml": (("pyyaml",), ""),
    "platformdirs": (("platformdirs",), ""),
    "threadpoolctl": (("threadpoolctl",), ""),
    "psutil": (("psutil",), ""),
    "typer": (("typer",), "the command line"),
    "rich": (("rich",), "the command line"),
    "rosbags": (("rosbags",), "reading recordings"),
    "mcap": (("mcap",), "reading and writing recordings"),
    "skimage": (("scikit-image",), "source: virtual"),
    "av": (("av",), "video: image_transport h264 or h265, recordings of it"),
    "pycolmap": (("pycolmap",), "the odometry, and export to COLMAP"),
}
_OTHER_NAMES = {"rerun": "rerun-sdk", "ray": "'ray[client]'"}
INSTALL = "pip install -r requirements/robot.txt (in a clone: make setup)"


def install_name(module: str) -> str:
    """The distribution of a module, as pip names it."""
    if module in PACKAGES:
        return PACKAGES[module][0][0]
    return _OTHER_NAMES.get(module, module.replace("_", "-"))


def require(who: str, group: str, *modules: str) -> None:
    """Raise BackendError if a module is missing.

    who: what needs it, for the message. group: of ``make setup``, has them all.
    """
    if absent := [install_name(module) for module in modules if not _is_there(module)]:
        names = [name.strip("'") for name in absent]
        raise BackendError(
            f"{who} needs {', '.join(names)}: make setup GROUP={group}, or pip install "
            f"{' '.join(absent)}."
        )


def missing(error: ImportError) -> str:
    """One sentence for a failed import: what is missing, and how to install it."""
    cause = error if error.name else error.__cause__
    if not isinstance(cause, ModuleNotFoundError) or not cause.name:
        return f"{str(error).rstrip('.')}; install it again: {INSTALL}."
    module = cause.name.partition(".")[0]
    if module == "aliked_msgs":
        return (
            "The messages aliked_msgs are not found: build the workspace with colcon and source "
            "install/setup.bash, or run 'make setup'."
        )
    if module in ("rclpy", "ament_index_python") or module.endswith(("_msgs", "_interfaces")):
        return (
            f"ROS 2's package {module} is not found: source /opt/ros/$ROS_DISTRO/setup.bash, or "
            f"install it (apt install ros-$ROS_DISTRO-{module.replace('_', '-')})."
        )
    absent = [name for name in PACKAGES if not _is_there(name) and not PACKAGES[name][1]]
    wanted = " ".join(map(install_name, dict.fromkeys([module, *absent])))
    return (
        f"The Python package {install_name(module)} is not installed: pip install {wanted}; "
        f"'{INSTALL}' installs all."
    )


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # a module in sys.modules without a spec
        return False
