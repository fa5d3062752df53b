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

"""The first run on a GPU (tools/first_gpu_run.py), rehearsed on the CPU from a small bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT

BAD = """
import os, time


def crash(run):
    run.report(before=1)
    os.abort()


def hang(run):
    run.report(before=2)
    time.sleep(600)


def wrong(run):
    raise RuntimeError("three is not four")
"""

BARE = """
import sys
from importlib.machinery import PathFinder

PROMISED = (
    "torch", "torchgen", "functorch", "triton", "numpy", "cv2", "scipy", "numba", "yaml", "pytest",
    "llvmlite", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec",
    "typing_extensions", "pluggy", "iniconfig", "packaging", "pygments", "py", "psutil",
)


class Bare(PathFinder):
    @staticmethod
    def find_spec(name, path=None, target=None):
        if path is None and name.lstrip("_") not in PROMISED:
            path = [folder for folder in sys.path if "site-packages" not in folder]
        return PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
"""
"""What a machine has that has nothing but what ``first_gpu_run.py`` asks for."""


@pytest.fixture(scope="module")
def bundle(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "bundle"
    command = [sys.executable, "tools/gpu_bundle.py", "--small", "--output", folder]
    environment = os.environ | {"ALIKED_ROS_DATA": str(shared)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return folder


@pytest.mark.long
def test_a_part_that_crashes_or_hangs_loses_no_other(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bad_parts.py").write_text(BAD)
    (tmp_path / "sitecustomize.py").write_text(BARE)
    bad = [f"bad_parts:{part}" for part in ("crash:120", "hang:20", "wrong:120")]
    parts = ",".join(["versions", *bad, "parity", "attention", "cuda_graph"])
    command = [sys.executable, "tools/first_gpu_run.py", "--output", tmp_path, "--parts", parts]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True)
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 3, done.stdout + done.stderr + log
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]

    def of(part: str) -> dict[str, Any]:
        return {key: value for line in lines if line["part"] == part for key, value in line.items()}

    assert of("versions")["gpu"] is None
    assert "ModuleNotFoundError" in of("versions")["packages"]["onnxruntime"]
    assert (of("crash")["state"], of("crash")["reason"]) == ("crashed", "SIGABRT")
    assert (of("hang")["state"], of("hang")["reason"]) == ("timed out", "after 20 s")
    assert (of("crash")["before"], of("hang")["before"]) == (1, 2)
    assert of("wrong")["state"] == "failed"
    assert of("wrong")["reason"] == "RuntimeError: three is not four"
    assert of("parity")["state"] == "passed"
    assert of("parity")["in_common"] >= 0.98
    assert of("attention")["state"] == "passed"
    assert of("cuda_graph")["reason"] == "there is no GPU here"
    assert of("all")["not_passed"] == 3


def test_every_part_is_there() -> None:
    """What the runner names, without importing any of it into the runner."""
    program = (
        "import importlib, gpu_parts\n"
        "for part in gpu_parts.PARTS:\n"
        "    assert callable(getattr(importlib.import_module(part.module), part.name)), part\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tools'}{os.pathsep}{ROOT}"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
