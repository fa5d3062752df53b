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

"""``aliked_ros bench report``: a page of what commands measured; goes on where it was."""

from __future__ import annotations

import json
import sys

import pytest

pytest.importorskip("evo", reason="make setup GROUP=test")

from aliked_ros.benchmark.document import PAGE, SECTIONS, Section, write_document
from aliked_ros.errors import SourceError

PROGRAM = [sys.executable, "-m", "aliked_ros.cli"]
COMMAND = ("evaluate", "homography", "DATA/oxford_affine", "--methods", "orb", "--limit", "2")


def test_sections_are_run_once_and_shown_with_their_commands(shared, tmp_path):
    sections = (
        Section("good", "Good matches", "How many?", COMMAND, "oxford_affine"),
        Section("bad", "No such data", "What?", ("evaluate", "homography", "DATA/nowhere")),
        Section("absent", "Absent", "Why?", COMMAND, "not_here"),
    )
    data, output, work = shared / "data", tmp_path / "docs", tmp_path / "work"
    said = []
    states = write_document(PROGRAM, data, output, work, say=said.append, sections=sections)
    assert states["good"].startswith("done in")
    assert states["bad"] == "failed with status 2"
    assert states["absent"].startswith("left out: no not_here in")
    page = (output / PAGE).read_text()
    assert "## Good matches" in page
    assert "aliked_ros evaluate homography ../shared/data/oxford_affine --methods orb" in page
    assert "| orb |" in page
    assert "No such data" not in page  # what failed is no figure
    pictures = sorted(path.name for path in (output / "report").iterdir())
    assert "good_matching.png" in pictures
    assert all(f"(report/{name})" in page for name in pictures)
    done = json.loads((work / "good" / "done.json").read_text())
    assert done["machine"]["date"] in page
    again = write_document(PROGRAM, data, output, work, only=["good"], sections=sections)
    assert again["good"] == "kept"
    assert again["bad"] == "not run"
    anew = write_document(
        PROGRAM, data, output, work, only=["good"], restart=True, sections=sections
    )
    assert anew["good"].startswith("done in")
    assert said == ["good ...", "bad ..."]
    with pytest.raises(SourceError, match=r"no section 'speed'.*good, bad, absent"):
        write_document(PROGRAM, data, output, work, only=["speed"], sections=sections)


def test_each_section_has_its_own_name_and_a_command_that_is_known():
    names = [section.name for section in SECTIONS]
    assert len(set(names)) == len(names)
    from aliked_ros.benchmark.suites import SUITES
    from aliked_ros.cli.evaluate import app

    evaluations = {c.name or c.callback.__name__ for c in app.registered_commands}
    for section in SECTIONS:
        group, name = section.arguments[:2]
        assert name in (evaluations if group == "evaluate" else SUITES), section.name
