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

"""The tree is a Python package and a ROS 2 workspace, and both installations are complete."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from catkin_pkg.package import parse_package
from catkin_pkg.packages import find_packages

import aliked_ros
from aliked_ros.system.share import share_path
from helpers import ROOT

PACKAGES = {"aliked_ros": ROOT, "aliked_msgs": ROOT / "aliked_msgs"}
DATA_FOLDERS = ("launch", "config", "rviz", "models")
EXECUTABLES = (
    "aliked_ros", "build_engine", "cameras_node", "dataset_player", "demo", "frontend_node",
    "odometry_node", "recorder", "rig_node", "soak",
)  # fmt: skip
LAB = {"benchmark", "evaluation", "fleet", "training"}  # folders that no node imports
# Asked for where they are used; requirements/robot.in and docs/ say where they come from.
OPTIONAL = {"evo", "onnx", "onnxscript", "plotly", "rerun", "torch", "triton"}
BIN = Path(sys.executable).parent
MADE = shutil.ignore_patterns(
    ".venv", ".git", "build", "install", "log", "demo_output", "__pycache__", ".*_cache",
    "*.egg-info",
)  # fmt: skip


def data_files() -> set[str]:
    """What belongs into share/aliked_ros."""
    found = {"package.xml", "LICENSE", "NOTICE"}
    for folder in DATA_FOLDERS:
        paths = (path for path in (ROOT / folder).rglob("*") if path.is_file())
        found |= {str(path.relative_to(ROOT)) for path in paths if path.suffix != ".pyc"}
    return found


def copy_of_the_tree(target: Path) -> Path:
    """The tree as a clone has it."""
    return Path(shutil.copytree(ROOT, target, ignore=MADE))


@pytest.fixture
def tool_environment() -> dict[str, str]:
    """Variables with this environment's tools and message generators first."""
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "AMENT_PREFIX_PATH": str(BIN.parent)}


@pytest.mark.parametrize("name", PACKAGES)
def test_package_description_is_valid(name):
    package = parse_package(str(PACKAGES[name] / "package.xml"))
    warnings: list[str] = []
    package.validate(warnings)
    assert warnings == []
    assert (package.name, package.package_format) == (name, 3)
    assert package.version == aliked_ros.__version__
    assert package.licenses == ["Apache-2.0"]


def test_a_robot_gets_all_that_is_imported():
    """ROS packages by package.xml, without rosdep's rules for pip; Python's by robot.txt."""
    described = parse_package(str(ROOT / "package.xml"))
    keys = {depend.name for depend in described.exec_depends}
    assert not [key for key in keys if key.endswith("-pip")]
    lock = (ROOT / "requirements" / "robot.txt").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([\w.-]+)==", lock, re.M))

    imported = set()
    files = [*(ROOT / "aliked_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    for path in (path for path in files if not LAB & set(path.parts)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).partition(".")[0])
    distributions = importlib.metadata.packages_distributions()
    missing = {
        module
        for module in imported - keys - OPTIONAL - {"aliked_ros"} - sys.stdlib_module_names
        if not locked & {name.lower().replace("_", "-") for name in distributions.get(module, ())}
    }
    assert not missing


def test_versions_agree():
    assert importlib.metadata.version("aliked_ros") == aliked_ros.__version__


@pytest.mark.parametrize("name", EXECUTABLES)
def test_executables_are_installed_and_their_functions_exist(name):
    (entry,) = importlib.metadata.distribution("aliked_ros").entry_points.select(name=name)
    assert callable(entry.load())
    assert os.access(BIN / name, os.X_OK)


def test_the_distribution_holds_every_module_and_data_file(tmp_path):
    tree = copy_of_the_tree(tmp_path / "tree")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--quiet", "--wheel-dir", tmp_path, tree], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "aliked_ros").rglob("*.py")}
    assert modules | {"aliked_ros/py.typed"} <= packed
    share = "aliked_ros-0.1.0.data/data/share/aliked_ros/"
    assert {name[len(share) :] for name in packed if name.startswith(share)} == data_files()


def test_data_files_are_found_in_the_tree():
    assert share_path("models/registry.yaml") == ROOT / "models" / "registry.yaml"
    with pytest.raises(FileNotFoundError, match=r"config/absent\.yaml"):
        share_path("config/absent.yaml")


def test_colcon_finds_both_packages_in_a_clone(tool_environment):
    listed = subprocess.check_output(
        ["colcon", "--log-base", os.devnull, "list"], cwd=ROOT, env=tool_environment, text=True
    )
    found = {tuple(line.split("\t")) for line in listed.splitlines()}
    assert found == {
        ("aliked_msgs", "aliked_msgs", "(ros.ament_cmake)"),
        ("aliked_ros", ".", "(ros.ament_python)"),
    }


def workspace(folder: Path) -> Path:
    """The tree in a workspace, set up as docs/installation.md says."""
    tree = copy_of_the_tree(folder / "src" / "aliked_ros")
    command = "ln -s aliked_ros/aliked_msgs src/aliked_msgs"
    for page in ("docs/installation.md", "README.md"):
        assert f"    {command}\n" in (ROOT / page).read_text(encoding="utf-8"), page
    subprocess.run(command.split(), cwd=folder, check=True)
    return tree


def test_plain_commands_find_both_packages_in_a_workspace(tmp_path, tool_environment):
    workspace(tmp_path)
    listed = subprocess.check_output(
        ["colcon", "--log-base", os.devnull, "list", "--names-only"],
        cwd=tmp_path, env=tool_environment, text=True,
    )  # fmt: skip
    assert listed.split() == ["aliked_msgs", "aliked_ros"]
    found = find_packages(str(tmp_path / "src"))  # as rosdep does
    assert {package.name for package in found.values()} == set(PACKAGES)


@pytest.mark.long
def test_colcon_builds_both_packages_in_a_workspace(tmp_path, tool_environment):
    tree = workspace(tmp_path)
    repair = f"-DCMAKE_PROJECT_INCLUDE={tree / 'tools' / 'ros_wheels.cmake'}"
    build = ["colcon", "build"]
    build += ["--cmake-args", repair, "-GNinja", f"-DPython3_EXECUTABLE={sys.executable}"]
    done = subprocess.run(
        build, cwd=tmp_path, env=tool_environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    prefix = tmp_path / "install" / "aliked_ros"
    executables = {path.name for path in (prefix / "lib" / "aliked_ros").iterdir()}
    assert executables == set(EXECUTABLES)
    installed = {str(path.relative_to(prefix / "share" / "aliked_ros"))
                 for path in (prefix / "share" / "aliked_ros").rglob("*")}  # fmt: skip
    assert data_files() <= installed

    # As a user has it: the workspace sourced, another folder, the tree gone.
    shutil.rmtree(tree)
    code = (
        "import aliked_msgs.msg, aliked_ros.system.share as share;"
        "print(aliked_msgs.__file__, share.share_path('models/registry.yaml'))"
    )
    used = subprocess.check_output(
        ["bash", "-c", f'. install/local_setup.bash && cd / && python -c "{code}"'],
        cwd=tmp_path, env=tool_environment, text=True,
    )  # fmt: skip
    for path in used.split():
        assert path.startswith(str(tmp_path / "install"))
