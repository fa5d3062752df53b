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

"""Reading bags without ROS: MCAP files, also cut-off ones, rosbag2 folders, ROS 1 bags.

An MCAP file has its index at the end; where that is missing, because the recorder was killed or
the disk was full, the file is streamed from its beginning to its last whole chunk.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush, merge
from pathlib import Path
from typing import Any, Protocol

from mcap.records import Channel, Message, Metadata, Schema
from mcap.stream_reader import StreamReader
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from aliked_ros.errors import SourceError

logger = logging.getLogger(__name__)

_STORAGE_SUFFIXES = (".mcap", ".db3")  # files of rosbag2
_SPLIT = re.compile(r"_\d+(?=\.\w+$)")  # what rosbag2 adds to the names of one recording's files
MACHINE, SETTINGS = "machine", "front-end"  # names of an MCAP file's metadata
_MAGIC = b"\x89MCAP0\r\n"
_DISORDER = 8 << 20  # bytes of messages among which those of a file are put in order


@dataclass(frozen=True, slots=True)
class Topic:
    """Messages of one type on one topic. count: how many."""

    name: str
    msgtype: str
    count: int


class _Part(Protocol):
    """One file, or one rosbag2 folder."""

    topics: list[Topic]

    def messages(self, names: Collection[str]) -> Iterator[tuple[int, str, Any]]: ...

    def close(self) -> None: ...


class Bag:
    """A recording, whole or cut off. Use as a context manager, or close it.

    topics: those with messages, by name.
    cut_off: files whose end is missing; what is whole of them is read.
    """

    def __init__(self, path: Path) -> None:
        """Open a file or folder. Raises SourceError when nothing of it can be read."""
        self.path = path
        self.cut_off: list[Path] = []
        self._parts = self._open()
        counts: Counter[tuple[str, str]] = Counter()
        for part in self._parts:
            for topic in part.topics:
                counts[topic.name, topic.msgtype] += topic.count
        self.topics = [Topic(*key, count) for key, count in sorted(counts.items()) if count]

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for part in self._parts:
            part.close()
        self._parts = []

    def messages(self, names: Collection[str]) -> Iterator[tuple[int, str, Any]]:
        """Time of arrival (nanoseconds), topic and message, of these topics in order of arrival.

        Raises SourceError where the bag is damaged.
        """
        try:
            yield from merge(*(p.messages(names) for p in self._parts), key=lambda item: item[0])
        except (OSError, SourceError):
            raise
        except Exception as error:  # by storage plugin and kind of damage
            raise SourceError(
                f"{self.path} is damaged ({error}); 'mcap recover' or 'ros2 bag reindex' saves "
                "what is whole."
            ) from error

    @property
    def contents(self) -> str:
        """The topics in words."""
        held = [f"{topic.name} ({topic.msgtype})" for topic in self.topics]
        return f"it holds {', '.join(held) or 'no messages'}."

    def _open(self) -> list[_Part]:
        if not self.path.is_dir():
            return [self._file(self.path)]
        reason = f"{self.path} has no metadata.yaml, its recorder did not come to its end."
        if (self.path / "metadata.yaml").is_file():
            try:
                whole = _Whole(self.path)
                if whole.topics:
                    return [whole]
                whole.close()
                reason = f"{self.path}/metadata.yaml knows of no messages."
            except SourceError as error:
                reason = str(error)
        files = sorted(f for f in self.path.iterdir() if f.suffix in _STORAGE_SUFFIXES)
        if not files:
            raise SourceError(f"{self.path} holds no recording: no .mcap and no .db3 file.")
        if len({_SPLIT.sub("", file.name) for file in files}) > 1:
            names = ", ".join(file.name for file in files)
            raise SourceError(f"{self.path} holds several recordings ({names}); name one of them.")
        logger.warning("%s Its files are read one by one.", reason)
        parts: list[_Part] = []
        for file in files:
            try:
                parts.append(self._file(file))
            except SourceError as error:
                logger.warning("left out: %s", error)
        if not parts:
            raise SourceError(reason)
        return parts

    def _file(self, path: Path) -> _Part:
        try:
            if path.suffix != ".mcap" or _has_its_end(path):
                return _Whole(path)
            reason = "its end is missing: the recorder was killed, or still runs"
        except SourceError as error:
            if path.suffix != ".mcap" or not path.is_file():
                raise
            reason = str(error)
        part = _CutOff(path, reason)
        self.cut_off.append(path)
        whole = sum(topic.count for topic in part.topics)
        logger.warning("%s: %s. Its %d whole messages are read.", path, reason, whole)
        return part


def stream_mcap(path: Path) -> Iterator[tuple[Schema, Channel, Message]]:
    """The messages of an MCAP file in order of arrival, to the last whole chunk.

    Needs no index, so the file may be cut off, or still be written to. Raises SourceError when it
    cannot be read or is no MCAP file.

    A recorder that was held up takes what waited from one topic after the other: features may be
    written before their image, which arrived before them.
    """
    waiting: list[tuple[int, int, tuple[Schema, Channel, Message]]] = []
    size = 0
    for number, item in enumerate(_written(path)):
        heappush(waiting, (item[2].log_time, number, item))
        size += len(item[2].data)
        while size > _DISORDER:
            first = heappop(waiting)[2]
            size -= len(first[2].data)
            yield first
    while waiting:
        yield heappop(waiting)[2]


def _written(path: Path) -> Iterator[tuple[Schema, Channel, Message]]:
    """The messages in the order they were written."""
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise SourceError(
                    f"{path} is no MCAP file, or an empty one; give a file of the recorder or of "
                    "'ros2 bag record'."
                )
            file.seek(0)
            records = StreamReader(file, validate_crcs=True).records
            while True:
                try:
                    record = next(records, None)
                except OSError:
                    raise
                except Exception:  # by kind of record and compression that stops in the middle
                    return
                if record is None:
                    return
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, Message):
                    channel = channels.get(record.channel_id)
                    schema = schemas.get(channel.schema_id) if channel else None
                    if channel and schema:
                        yield schema, channel, record
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}.") from error


def facts_of(path: Path) -> dict[str, dict[str, str]]:
    """What the recorder stored about a run (MACHINE, SETTINGS); nothing for other recordings."""
    facts: dict[str, dict[str, str]] = {}
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return facts
            file.seek(0)
            for record in StreamReader(file, emit_chunks=True).records:
                if isinstance(record, Metadata):
                    facts[record.name] = record.metadata
    except Exception:  # a folder; by kind of record that stops in the middle
        pass
    return facts


def _has_its_end(path: Path) -> bool:
    """Whether an MCAP file ends as it should."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - len(_MAGIC), 0))
            return file.tell() > 0 and file.read() == _MAGIC
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}.") from error


class _Whole:
    """A finished file or rosbag2 folder, read by its index."""

    def __init__(self, path: Path) -> None:
        try:
            # Bags of Humble and older hold no definitions: ROS's own are known.
            store = get_typestore(Stores.ROS2_HUMBLE)
            self._reader = AnyReader([path], default_typestore=store)
            self._reader.open()
        except Exception as error:  # AnyReaderError, OSError, and what damage makes of the plugins
            raise SourceError(
                f"cannot read {path}: {error} Give an .mcap file, a ROS 1 .bag, or the folder of a "
                "'ros2 bag record'; 'ros2 bag reindex' mends a folder."
            ) from error
        self._connections = [c for c in self._reader.connections if c.msgcount]
        self.topics = [Topic(c.topic, c.msgtype, c.msgcount) for c in self._connections]

    def messages(self, names: Collection[str]) -> Iterator[tuple[int, str, Any]]:
        wanted = [c for c in self._connections if c.topic in names]
        if not wanted:  # which would mean all of them
            return
        for connection, time, raw in self._reader.messages(wanted):
            yield time, connection.topic, self._reader.deserialize(raw, connection.msgtype)

    def close(self) -> None:
        self._reader.close()


class _CutOff:
    """An MCAP file without its end, read from its beginning each time."""

    def __init__(self, path: Path, reason: str) -> None:
        """``reason``: why it cannot be read by its index."""
        self._path = path
        self._store = get_typestore(Stores.EMPTY)
        counts: Counter[tuple[str, str]] = Counter()
        unknown: set[str] = set()
        for schema, channel, _ in stream_mcap(path):
            if (schema.encoding, channel.message_encoding) != ("ros2msg", "cdr"):
                continue
            if schema.name not in self._store.fielddefs and schema.name not in unknown:
                try:
                    self._store.register(get_types_from_msg(schema.data.decode(), schema.name))
                except Exception as error:  # UnicodeDecodeError, and what rosbags' parser raises
                    unknown.add(schema.name)
                    logger.warning("%s: %s is left out, its definition cannot be read: %s",
                                   path, schema.name, error)  # fmt: skip
            if schema.name not in unknown:
                counts[channel.topic, schema.name] += 1
        if not counts:
            raise SourceError(f"cannot read {path}, nothing in it is whole ({reason}).")
        self.topics = [Topic(*key, count) for key, count in counts.items()]

    def messages(self, names: Collection[str]) -> Iterator[tuple[int, str, Any]]:
        for schema, channel, message in stream_mcap(self._path):
            if channel.topic in names:
                decoded = self._store.deserialize_cdr(message.data, schema.name)
                yield message.log_time, channel.topic, decoded

    def close(self) -> None:
        pass
