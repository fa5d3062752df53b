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

"""Modules that are named in strings obey the layers too; import-linter reads statements only.

A string names a module for ``import_module``, or for ``python -m`` in another process.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import ROOT

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
PACKAGE = ROOT / "aliked_ros"
STARTERS = {"console/executables.py"}  # the entry points of all programs; nothing imports them


def layers() -> dict[str, tuple[int, bool]]:
    """Of each room: its layer, from the top, and whether its neighbours there are closed to it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (
        contract
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    return {
        room.strip(): (number, "|" in layer)
        for number, layer in enumerate(contract["layers"])
        for room in layer.replace("|", ":").split(":")
    }


def named_modules(text: str) -> Iterator[str]:
    """Modules of the package that a program names in strings, formatted ones included."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            root, *parts = node.value.rstrip(".").split(".")
            if root == PACKAGE.name and parts and all(part.isidentifier() for part in parts):
                path = PACKAGE.joinpath(*parts)
                if path.is_dir() or path.with_suffix(".py").is_file():
                    yield node.value


def upwards(path: Path, text: str) -> list[str]:
    """Modules that the file names in strings though they lie above it."""
    rooms = layers()
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    layer, closed = rooms[room]
    found = []
    for name in named_modules(text):
        other = name.split(".")[1]
        above, _ = rooms[other]
        if above < layer or (above == layer and closed and other != room):
            found.append(name)
    return found


def test_modules_named_in_strings_lie_below() -> None:
    wrong = {
        str(path.relative_to(PACKAGE)): found
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE or path.stem in layers()
        if (found := upwards(path, path.read_text(encoding="utf-8")))
    }
    assert wrong.keys() <= STARTERS, wrong


@pytest.mark.parametrize(
    ("room", "text", "found"),
    [
        ("frontend", 'import_module("aliked_ros.ros.frontend_node")', True),
        ("ros", '[sys.executable, "-m", "aliked_ros.cli"]', True),
        ("backends", 'import_module(f"aliked_ros.frontend.{name}")', True),
        ("odometry", 'import_module("aliked_ros.viewing")', True),
        ("cli", '[sys.executable, "-m", "aliked_ros.ros.demo"]', False),
        ("ros", 'start("odometry", "aliked_ros.ros.odometry_node")', False),
        ("backends", 'print("aliked_ros.org is no module")', False),
    ],
)
def test_an_import_upwards_is_seen(room: str, text: str, found: bool) -> None:
    assert bool(upwards(PACKAGE / room / "module.py", text)) == found
