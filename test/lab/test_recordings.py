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

"""The command line on a recording."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rosbags.rosbag2 import StoragePlugin

from aliked_ros.sources import open_source
from helpers import bags
from helpers.bags import SECOND


@pytest.mark.long
def test_the_command_line_tracks_a_recording(tmp_path: Path) -> None:
    topic, start = "/camera/image_raw", 1_700_000_000 * SECOND
    images = [
        (topic, stamp, bags.image(image.pixels, stamp, "rgb8"))
        for image in open_source("virtual", limit=5)
        for stamp in [start + int(image.stamp * SECOND)]
    ]
    recording = bags.write(tmp_path / "run", images, StoragePlugin.MCAP)
    command = [sys.executable, "-m", "aliked_ros.cli", "track", f"{recording / 'run.mcap'}#{topic}"]
    facts = subprocess.run(
        [*command, "--limit", "4", "--matcher", "nearest", "--output", tmp_path / "t", "--json"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    summary = json.loads(facts)
    assert summary["frames"] == 4
    assert summary["tracks"]["max_length"] == 4
