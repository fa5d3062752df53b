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

"""The files of recordings: MCAP, rosbag2's SQLite databases, ROS 1 bags.

A topic's definition and encoding matter only when its messages are read.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.reader import SeekingReader
from mcap.records import Channel, Message, MessageIndex, Schema
from mcap.stream_reader import StreamReader
from mcap.summary import Summary
from rosbags.rosbag1 import Reader as Ros1Reader

from aliked_ros.errors import SourceError
from aliked_ros.io.definitions import Decoder
from aliked_ros.io.signatures import MCAP_MAGIC as MCAP_MAGIC
from aliked_ros.io.signatures import ROS1_MAGIC, SQLITE_MAGIC, head_of, nature

COMPRESSIONS = (".zstd", ".zst")
_NO_SCHEMA = Schema(id=0, data=b"", encoding="", name="no type")
_RECORD_HEAD = 9  # bytes: kind and length
_EARLIEST = -(1 << 63)  # time of arrival; a robot's clock may begin before 1970
_DISORDER = 8 << 20  # bytes of messages that are sorted together


@dataclass(frozen=True, slots=True)
class Topic:
    """Messages of one type on one topic. count: their number."""

    name: str
    msgtype: str
    count: int


class Part(Protocol):
    """One file.

    topics: those with messages. note: a remark for the user, empty = none. cut_off: the end is
    missing. left_out: names and types of topics that are not read; to be filled in.
    """

    topics: list[Topic]
    note: str
    cut_off: bool
    left_out: set[tuple[str, str]]

    def messages(self, names: Collection[str], start: int = 0) -> Iterator[tuple[int, str, Any]]:
        """Time of arrival (nanoseconds), topic and message, in order of arrival.

        start: of the messages that arrived from then on; only where ``times`` knows them.
        """
        ...

    def times(self, name: str) -> list[int] | None:
        """Times of arrival of a topic's messages, in order; None without an index."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def open_part(path: Path) -> Part:
    """Open one file, of the kind that its first bytes or else its suffix say.

    Raises SourceError if nothing can be read.
    """
    try:
        if path.stat().st_size == 0:  # SQLite would delete the -wal file beside such a database
            raise SourceError(f"cannot read {path}: the file is empty.")
        if path.suffix.lower() in COMPRESSIONS:
            return _Compressed(path)
        head, kind = head_of(path), _KINDS.get(path.suffix.lower())
        if by_content := [one for magic, one in _MAGICS.items() if head.startswith(magic)]:
            kind = by_content[0]  # whatever its name says
        elif other := nature(head):
            raise SourceError(f"cannot read {path}: {other}.")
        if kind is None:
            raise SourceError(
                f"{path} is no recording; give an .mcap or .db3 file, a ROS 1 .bag, or the folder "
                "of a 'ros2 bag record'."
            )
        return kind(path)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}.") from error


class Mcap:
    """An MCAP file: read by its index, or from its start to the last complete chunk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.note = ""
        self.left_out: set[tuple[str, str]] = set()
        self._decoders: dict[int, Decoder] = {}
        self._names: dict[int, str] = {}
        counts: Counter[int] = Counter()
        self._index, reason = _index(path)
        if self._index is not None and self._index.statistics is not None:
            for channel in self._index.channels.values():
                self._learn(self._index.schemas.get(channel.schema_id, _NO_SCHEMA), channel)
            counts.update(self._index.statistics.channel_message_counts)
        else:
            problems: list[str] = []
            for schema, channel, _ in stream_mcap(path, problems):
                self._learn(schema, channel)
                counts[channel.id] += 1
            reason = reason or "".join(problems)
        self.cut_off = bool(reason)
        if self.cut_off:
            whole = counts.total()
            if not whole:
                raise SourceError(f"cannot read {path}: it has no complete chunk ({reason}).")
            self.note = f"{path}: {reason}. Its {whole} complete messages are read."
        self.topics = [
            Topic(self._names[key], self._decoders[key].msgtype, count)
            for key, count in counts.items()
        ]

    def messages(self, names: Collection[str], start: int = 0) -> Iterator[tuple[int, str, Any]]:
        for schema, channel, message in self._stored(names, start):
            if channel.topic in names:
                self._learn(schema, channel)  # the file may have grown
                decode = self._decoders[channel.id]
                if (channel.topic, decode.msgtype) not in self.left_out:
                    yield message.log_time, channel.topic, decode(message.data)

    def times(self, name: str) -> list[int] | None:
        if self._index is None:
            return None
        channels = [
            key
            for key, topic in self._names.items()
            if topic == name and (name, self._decoders[key].msgtype) not in self.left_out
        ]
        found: list[int] = []
        with self._path.open("rb") as file:
            for chunk in self._index.chunk_indexes:
                if not chunk.message_index_offsets:
                    return None  # written without
                for channel in channels:
                    if (offset := chunk.message_index_offsets.get(channel)) is not None:
                        file.seek(offset + _RECORD_HEAD)
                        index = MessageIndex.read(ReadDataStream(file))
                        found += [time for time, _ in index.records]
        counts = [
            topic.count
            for topic in self.topics
            if topic.name == name and (name, topic.msgtype) not in self.left_out
        ]
        return sorted(found) if len(found) == sum(counts) else None  # else it is damaged

    def close(self) -> None:
        pass

    def _learn(self, schema: Schema | None, channel: Channel) -> None:
        if channel.id not in self._decoders:
            schema = schema or _NO_SCHEMA
            self._names[channel.id] = channel.topic
            self._decoders[channel.id] = Decoder(
                schema.name,
                channel.message_encoding,
                schema.encoding,
                schema.data.decode(errors="replace"),
            )

    def _stored(
        self, names: Collection[str], start: int
    ) -> Iterator[tuple[Schema | None, Channel, Message]]:
        if self._index is None:
            yield from stream_mcap(self._path)
            return
        with self._path.open("rb") as file:
            reader = SeekingReader(file, validate_crcs=True)
            yield from reader.iter_messages(list(names), starting_at=start)


def _index(path: Path) -> tuple[Summary | None, str]:
    """An MCAP file's index (None = not usable), and a problem with its end (empty = none)."""
    with path.open("rb") as file:
        file.seek(-min(len(MCAP_MAGIC), path.stat().st_size), 2)
        if file.read() != MCAP_MAGIC:
            return None, "its end is missing: the recorder was killed, or still runs"
        file.seek(0)
        try:
            summary = SeekingReader(file).get_summary()
        except Exception as error:  # depends on the damage
            return None, f"its index cannot be read ({one_line(error)})"
    if summary is None or summary.statistics is None or not summary.chunk_indexes:
        return None, ""
    counts = summary.statistics.channel_message_counts
    known = {c.id for c in summary.channels.values() if c.schema_id in {0, *summary.schemas}}
    whole = sum(counts.values()) == summary.statistics.message_count
    return (summary if whole and counts.keys() <= known else None), ""


def stream_mcap(
    path: Path, problems: list[str] | None = None
) -> Iterator[tuple[Schema, Channel, Message]]:
    """The messages of an MCAP file in order of arrival, up to the last complete chunk.

    Needs no index, so the file may be truncated or still being written. problems: the reason for
    stopping early is appended there. Raises SourceError if the file cannot be read or is not MCAP.

    Sorting is needed: a delayed recorder empties its queues topic by topic, so features may be
    written before their image, which arrived earlier.
    """
    waiting: list[tuple[int, int, tuple[Schema, Channel, Message]]] = []
    size = 0
    for number, item in enumerate(_written(path, [] if problems is None else problems)):
        heappush(waiting, (item[2].log_time, number, item))
        size += len(item[2].data)
        while size > _DISORDER:
            first = heappop(waiting)[2]
            size -= len(first[2].data)
            yield first
    while waiting:
        yield heappop(waiting)[2]


def _written(path: Path, problems: list[str]) -> Iterator[tuple[Schema, Channel, Message]]:
    """The messages in the order they were written."""
    schemas: dict[int, Schema] = {0: _NO_SCHEMA}
    channels: dict[int, Channel] = {}
    try:
        with path.open("rb") as file:
            if file.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
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
                except Exception as error:  # depends on record and compression
                    problems.append(f"it is damaged before its end ({one_line(error)})")
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


class Sqlite:
    """A database of rosbag2."""

    cut_off = False

    def __init__(self, path: Path) -> None:
        self.note = ""
        self.left_out: set[tuple[str, str]] = set()
        self._copy: TemporaryDirectory[str] | None = None
        try:
            self._database = self._connect(path)
            self._read_topics()
        except sqlite3.Error as error:
            self.close()
            if "no such table" in str(error):
                raise SourceError(f"{path} is not a recording of rosbag2: {error}.") from error
            raise SourceError(
                f"cannot read {path}: {error}. Copy it again with the files beside it, or "
                "'sqlite3 FILE .recover' recovers the intact part."
            ) from error

    def messages(self, names: Collection[str], start: int = 0) -> Iterator[tuple[int, str, Any]]:
        wanted = self._keys(names)
        places = ",".join("?" * len(wanted))
        for key, time, data in self._database.execute(
            f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({places}) "
            "AND timestamp >= ? ORDER BY timestamp",
            [*wanted, start or _EARLIEST],
        ):
            yield int(time), self._names[key], self._decoders[key](data)

    def times(self, name: str) -> list[int] | None:
        wanted = self._keys([name])
        rows = self._database.execute(
            "SELECT timestamp FROM messages WHERE topic_id IN "
            f"({','.join('?' * len(wanted))}) ORDER BY timestamp",
            wanted,
        )
        return [int(time) for (time,) in rows]

    def close(self) -> None:
        if (database := getattr(self, "_database", None)) is not None:
            database.close()
        if self._copy is not None:
            self._copy.cleanup()

    def _keys(self, names: Collection[str]) -> list[int]:
        return [
            key
            for key, name in self._names.items()
            if name in names and (name, self._decoders[key].msgtype) not in self.left_out
        ]

    def _connect(self, path: Path) -> sqlite3.Connection:
        beside = [path.with_name(path.name + end) for end in ("-wal", "-journal")]
        beside = [file for file in beside if file.is_file() and file.stat().st_size]
        if not beside:
            return _open_database(path, "immutable=1")
        names = " and ".join(file.name for file in beside)
        self.note = f"{path}: its recording was cut short; {names} is read too."
        with suppress(sqlite3.Error):
            return _open_database(path, "mode=ro")
        # A read-only folder, or a transaction that needs rolling back.
        self._copy = TemporaryDirectory(prefix="aliked_ros_")
        for file in (path, *beside):
            shutil.copy(file, self._copy.name)
        return _open_database(Path(self._copy.name, path.name), "mode=rw")

    def _read_topics(self) -> None:
        definitions: dict[str, tuple[str, str]] = {}
        with suppress(sqlite3.OperationalError):  # Humble's have none
            for name, notation, text in self._database.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            ):
                definitions[str(name)] = str(notation), str(text)
        self._names: dict[int, str] = {}
        self._decoders: dict[int, Decoder] = {}
        self.topics: list[Topic] = []
        for key, name, kind, encoding, count in self._database.execute(
            "SELECT topics.id, name, type, serialization_format, count(messages.topic_id) "
            "FROM topics LEFT JOIN messages ON topics.id = messages.topic_id GROUP BY topics.id"
        ):
            self._names[key] = str(name)
            decoder = Decoder(str(kind), str(encoding), *definitions.get(str(kind), ("", "")))
            self._decoders[key] = decoder
            self.topics.append(Topic(str(name), decoder.msgtype, count))


def _open_database(path: Path, how: str) -> sqlite3.Connection:
    database = sqlite3.connect(
        f"{path.resolve().as_uri()}?{how}", uri=True, check_same_thread=False
    )
    database.text_factory = lambda text: text.decode(errors="replace")
    try:
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        database.close()
        raise
    return database


class Ros1:
    """A bag of ROS 1."""

    note, cut_off = "", False

    def __init__(self, path: Path) -> None:
        self.left_out: set[tuple[str, str]] = set()
        try:
            self._reader = Ros1Reader(path)
            self._reader.open()
        except OSError:
            raise
        except Exception as error:  # ReaderError, or anything else after damage
            raise SourceError(
                f"cannot read {path}: {one_line(error)} 'rosbag reindex {path.name}' (ROS 1) "
                "recovers the intact part."
            ) from error
        self._decoders = {
            c.id: Decoder(c.msgtype, "ros1", "ros1msg", c.msgdef.data)
            for c in self._reader.connections
        }
        self.topics = [Topic(c.topic, c.msgtype, c.msgcount) for c in self._reader.connections]

    def messages(self, names: Collection[str], start: int = 0) -> Iterator[tuple[int, str, Any]]:
        wanted = [
            c
            for c in self._reader.connections
            if c.topic in names and (c.topic, c.msgtype) not in self.left_out
        ]
        if not wanted:  # an empty list would mean all
            return
        for connection, time, data in self._reader.messages(wanted):
            yield time, connection.topic, self._decoders[connection.id](bytes(data))

    def times(self, name: str) -> list[int] | None:
        return None

    def close(self) -> None:
        self._reader.close()


class _Compressed:
    """A compressed file, unpacked while it is being read."""

    def __init__(self, path: Path) -> None:
        self._folder = TemporaryDirectory(prefix="aliked_ros_")
        unpacked = Path(self._folder.name, path.stem)
        try:
            problem = _unpack(path, unpacked)
            if not unpacked.stat().st_size:
                raise SourceError(f"cannot read {path}: it cannot be unpacked: {problem}.")
            self._part = open_part(unpacked)
        except SourceError as error:
            self._folder.cleanup()
            raise SourceError(str(error).replace(str(unpacked), str(path))) from error
        except OSError:
            self._folder.cleanup()
            raise
        self.topics, self.left_out = self._part.topics, self._part.left_out
        self.note = self._part.note.replace(str(unpacked), str(path))
        if problem:
            self.note = f"{path}: {problem}. What could be unpacked is read. {self.note}".strip()
        self.cut_off = bool(problem) or self._part.cut_off

    def messages(self, names: Collection[str], start: int = 0) -> Iterator[tuple[int, str, Any]]:
        return self._part.messages(names, start)

    def times(self, name: str) -> list[int] | None:
        return self._part.times(name)

    def close(self) -> None:
        self._part.close()
        self._folder.cleanup()


def _unpack(packed: Path, target: Path) -> str:
    """Unpack a file as far as possible; returns the problem, empty = none."""
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    with packed.open("rb") as source, target.open("wb") as file:
        while block := source.read(1 << 20):
            while block:
                try:
                    if unpacker.eof:
                        unpacker = zstandard.ZstdDecompressor().decompressobj()
                    file.write(unpacker.decompress(block))
                except zstandard.ZstdError as error:
                    return one_line(error)
                block = unpacker.unused_data if unpacker.eof else b""
    return "" if unpacker.eof else "its end is missing"


def one_line(error: Exception) -> str:
    """An exception of another library, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


_MAGICS: dict[bytes, Callable[[Path], Part]] = {
    MCAP_MAGIC: Mcap, SQLITE_MAGIC: Sqlite, ROS1_MAGIC: Ros1,
}  # fmt: skip
_KINDS: dict[str, Callable[[Path], Part]] = {
    ".mcap": Mcap,
    ".db3": Sqlite,
    ".bag": Ros1,
    ".active": Ros1,  # NAME.bag.active, left by a killed recorder
}
