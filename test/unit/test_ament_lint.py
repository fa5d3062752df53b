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

"""ROS's own check of licence headers, where ament_copyright is installed."""

from __future__ import annotations

import pytest

from helpers import ROOT


def test_every_file_names_its_licence():
    copyright = pytest.importorskip(
        "ament_copyright.main", reason="ament_copyright is not installed"
    )
    folders = ("aliked_ros", "aliked_msgs", "docs", "examples", "launch", "test", "tools")
    paths = [str(ROOT / name) for name in (*folders, "LICENSE", "CONTRIBUTING.md")]
    assert copyright.main(argv=paths) == 0, "ament_copyright --add-missing adds what is missing"
