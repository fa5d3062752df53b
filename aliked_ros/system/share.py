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

"""Paths of the package's own data files (models, config, launch, rviz)."""

from __future__ import annotations

from pathlib import Path


def share_path(relative: str) -> Path:
    """Path of a data file such as ``models/registry.yaml``.

    In a source tree (editable or ``--symlink-install``) it is the tree's own file; otherwise
    ``share/aliked_ros/`` of the prefix that holds this package: a virtual environment, a colcon
    workspace, ``/opt/ros``. Raises FileNotFoundError if there is no such file.
    """
    package = Path(__file__).resolve().parents[1]
    tree = package.parent
    if (tree / "package.xml").is_file() and (tree / relative).exists():
        return tree / relative
    for prefix in package.parents:
        candidate = prefix / "share" / "aliked_ros" / relative
        if candidate.exists():
            return candidate
    raise FileNotFoundError(
        f"The data file {relative} of aliked_ros is neither in {tree} nor in share/aliked_ros of "
        "any folder above it; install the package again."
    )
