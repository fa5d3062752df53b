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

"""Field data, which lies beside the clone or where ALIKED_ROS_DATA says."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from aliked_ros.types import UInt8Array
from helpers import ROOT


def shared_folder() -> Path | None:
    """Folder that holds ``data/`` and ``reference/``, or None."""
    named = os.environ.get("ALIKED_ROS_DATA")
    folder = Path(named) if named else ROOT.parent / "shared"
    return folder if (folder / "data").is_dir() else None


def read_rgb(path: Path) -> UInt8Array:
    """An image file as RGB."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert pixels is not None, path
    return np.ascontiguousarray(pixels[..., ::-1])


def copy_sequence(sequence: Path, folder: Path, *names: str) -> Path:
    """Some files of a sequence in another folder; images stay where they are."""
    for name in names:
        shutil.copyfile(sequence / name, folder / name)
    for inside in sequence.iterdir():
        if inside.is_dir():
            (folder / inside.name).symlink_to(inside)
    return folder
