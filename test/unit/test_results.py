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

"""Result files: what cannot be written is said once, and leaves nothing half."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.errors import OutputError
from aliked_ros.io.results import VideoFile, write_json


def test_a_video_that_opencv_cannot_begin_is_told_as_that(tmp_path: Path) -> None:
    name = "tracks.unknown"  # refused as it would be without an encoder
    with (
        pytest.raises(OutputError, match="no encoder"),
        VideoFile(tmp_path / name, 30.0) as video,
    ):
        video.add(np.zeros((64, 64, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_a_video_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "tracks.mp4"
    with VideoFile(target, 10.0) as video:
        for size in (64, 96):
            video.add(np.zeros((size, size, 3), np.uint8))
            assert not target.exists()
    assert cv2.VideoCapture(str(target)).get(cv2.CAP_PROP_FRAME_COUNT) == 2
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(OutputError, match="is a folder"):
        write_json(tmp_path, {})
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]
