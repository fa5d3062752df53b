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

"""What README and docs/ say runs, runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT
from helpers.docs import PAGES, name_of


def test_the_python_example_of_the_readme_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    tracked = [int(count) for count in re.findall(r"image \d+: (\d+) tracked", done.stdout)]
    assert len(tracked) == 20
    assert tracked[0] == 0
    assert min(tracked[1:]) > 100


def runnable(page: Path) -> list[tuple[str, str]]:
    """Language and text of the blocks that are said to run."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"<!-- runnable -->\n```(bash|python)\n(.*?)```", text, re.DOTALL)


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=name_of)
def test_what_is_said_to_run_runs(page: Path, tmp_path: Path) -> None:
    """In their order, in an empty folder that has the environment in .venv as a clone does."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for language, text in runnable(page):
        command = ["bash", "-ec", text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=os.environ
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        assert done.stdout.strip()


def test_quick_start_is_said_to_run() -> None:
    assert len(runnable(ROOT / "docs" / "quick_start.md")) >= 3
