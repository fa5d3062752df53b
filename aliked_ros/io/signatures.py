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

"""What a file is by its first bytes, whatever its name says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

MCAP_MAGIC = b"\x89MCAP0\r\n"
SQLITE_MAGIC = b"SQLite format 3\0"
ROS1_MAGIC = b"#ROSBAG V"
HEAD = 64  # bytes that tell

_LFS = b"version https://git-lfs.github.com/spec/"
_PAGE = re.compile(rb"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)
_HEIF = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")  # brands, after size and "ftyp"
_KNOWN = {
    MCAP_MAGIC: "an MCAP file; name it .mcap",
    SQLITE_MAGIC: "an SQLite database; if it is a recording of rosbag2, name it .db3",
    ROS1_MAGIC: "a bag of ROS 1; name it .bag",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"PK\3\4": "a zip archive; unpack it first",
    b"BZh": "compressed with bzip2; unpack it first",
    b"\xfd7zXZ\0": "compressed with xz; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
}


def nature(head: Buffer) -> str:
    """What a file is, with the remedy, if it is surely not what it was opened as; else empty.

    head: its first bytes, HEAD of them.
    """
    start = bytes(memoryview(head)[:HEAD])
    if start.startswith(_LFS):
        return "it is a pointer of Git LFS, not the file itself; run 'git lfs pull' in its folder"
    if _PAGE.match(start):
        return "it is a web page, probably of a failed download; download the file again"
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF:
        return "it is a HEIF/HEIC image; convert it to JPEG or PNG"
    for magic, name in _KNOWN.items():
        if start.startswith(magic):
            return f"it is {name}"
    return ""


def head_of(path: Path) -> bytes:
    """The first bytes of a file. Raises OSError."""
    with path.open("rb") as file:
        return file.read(HEAD)
