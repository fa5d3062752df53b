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

"""Decoding recorded messages with the definitions stored in the recording."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import zstandard
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.msg import normalize_msgtype
from rosbags.typesys.store import Typestore

from aliked_ros.errors import SourceError
from aliked_ros.io.video import COMPRESSED_VIDEO, FFMPEG_PACKET

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no serialised message starts like this
_DDS = re.compile(r"^(\w+)::msg::(?:dds_::)?(\w+?)_?$")  # names as DDS recorders write them
_SERIALIZATIONS = {"cdr": "deserialize_cdr", "ros1": "deserialize_ros1"}
# Humble stores no definitions; these packages are not part of ROS's own.
_VIDEO = {
    COMPRESSED_VIDEO: (
        "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n"
    ),
    FFMPEG_PACKET: (
        "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\n"
        "uint8 flags\nbool is_bigendian\nuint8[] data\n"
    ),
}
_IDL_SEPARATOR = "=" * 80 + "\n"


class Decoder:
    """Decodes the messages of one topic.

    Definitions in recordings may be missing, empty, unreadable or of another version. Each topic
    therefore has its own. It is tried with the first message; if it fails, ROS's standard
    definition of that name is tried.

    msgtype: ``package/msg/Type``; for anything but a ROS message, its name and encoding.
    """

    def __init__(self, name: str, encoding: str, notation: str, definition: str) -> None:
        """Describe a topic as the recording does.

        name: of the type. encoding: of the messages: ``cdr`` or ``ros1``. notation: of the
        definition: ``ros2msg``, ``ros1msg``, ``ros2idl`` or ``omgidl``.
        """
        self._method = _SERIALIZATIONS.get(encoding, "")
        self._notation, self._definition = notation, definition
        self._decode: Callable[[bytes, str], Any] | None = None
        name = _DDS.sub(r"\1/msg/\2", name)
        self.msgtype = normalize_msgtype(name) if self._method else f"{name} in {encoding or '?'}"

    def __call__(self, data: bytes) -> Any:
        """The message; raises an exception if no definition fits."""
        if data[:4] == ZSTD_MAGIC:  # compressed per message
            data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        if self._decode is not None:
            return self._decode(data, self.msgtype)
        failure: Exception | None = None
        for store in self._stores():
            decode = getattr(store, self._method)
            try:
                message = decode(data, self.msgtype)
            except Exception as error:  # any error of code generated from wrong definitions
                failure = failure or error
            else:
                self._decode = decode
                return message
        raise failure or SourceError(
            f"there is no readable definition of {self.msgtype} in it; record it again with ROS 2 "
            "Iron or newer, or as MCAP"
        )

    def _stores(self) -> Iterator[Typestore]:
        try:
            types = self._types()
            store = get_typestore(Stores.EMPTY)
            store.register(types)
        except Exception:  # what rosbags' parsers raise
            types = {}
        if self.msgtype in types:
            yield store
        standard = _standard(self._method == "deserialize_ros1")
        if self.msgtype in standard.fielddefs:
            yield standard

    def _types(self) -> dict[str, Any]:
        text = self._definition
        if self._notation in ("ros2msg", "ros1msg"):
            return dict(get_types_from_msg(text, self.msgtype))
        if self._notation not in ("ros2idl", "omgidl"):
            return {}
        if not text.startswith(f"{_IDL_SEPARATOR}IDL: "):
            return dict(get_types_from_idl(text))
        types: dict[str, Any] = {}
        for part in text.split(_IDL_SEPARATOR)[1:]:
            types |= get_types_from_idl(part.partition("\n")[2])
        return types


@cache
def _standard(ros1: bool) -> Typestore:
    if ros1:
        return get_typestore(Stores.ROS1_NOETIC)
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, fields in _VIDEO.items():
        store.register(get_types_from_msg(fields, name))
    return store
