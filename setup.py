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

"""Installs the Python package, its executables and the data that ROS looks for in share/."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "aliked_ros"
DATA_FOLDERS = ("launch", "config", "rviz", "models")


def data_files() -> list[tuple[str, list[str]]]:
    """Pairs of a folder under the prefix and the files of this tree that go there."""
    pairs = [
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml", "LICENSE", "NOTICE"]),
    ]
    for name in DATA_FOLDERS:
        files = [path for path in sorted(Path(name).rglob("*.*")) if path.suffix != ".pyc"]
        pairs += [(f"share/{NAME}/{path.parent}", [str(path)]) for path in files]
    return pairs


setup(
    name=NAME,
    version="0.1.0",
    description="ALIKED features, LightGlue matches and persistent tracks from camera images.",
    license="Apache-2.0",
    maintainer="aliked_ros maintainers",
    maintainer_email="aliked-ros@users.noreply.github.com",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["py.typed"]},
    data_files=data_files(),
    install_requires=["setuptools"],
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "aliked_ros = aliked_ros.console.executables:aliked_ros",
            "build_engine = aliked_ros.console.executables:build_engine",
            "frontend_node = aliked_ros.console.executables:frontend_node",
            "cameras_node = aliked_ros.console.executables:cameras_node",
            "rig_node = aliked_ros.console.executables:rig_node",
            "dataset_player = aliked_ros.console.executables:dataset_player",
            "odometry_node = aliked_ros.console.executables:odometry_node",
            "recorder = aliked_ros.console.executables:recorder",
            "demo = aliked_ros.console.executables:demo",
            "soak = aliked_ros.console.executables:soak",
        ],
    },
)
