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

"""Reading bags without ROS: MCAP files, rosbag2 folders and databases, ROS 1 bags.

Incomplete recordings are read as far as possible: without their end, metadata.yaml or index.
Compression works per file and per message.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from mcap.records import Metadata
from mcap.stream_reader import StreamReader

from aliked_ros.errors import SourceError
from aliked_ros.io.storages import COMPRESSIONS, MCAP_MAGIC, Part, one_line, open_part
from aliked_ros.io.storages import Topic as Topic
from aliked_ros.io.storages import stream_mcap as stream_mcap

logger = logging.getLogger(__name__)

_STORAGE_SUFFIXES = (".mcap", ".db3")  # files of rosbag2
_SPLIT = re.compile(r"_(\d+)$")  # rosbag2's numbering of the files of a recording
MACHINE, SETTINGS = "machine", "front-end"  # names of an MCAP file's metadata


class Bag:
    """A recording, complete or truncated. Use as a context manager, or close it.

    topics: those with messages, by name.
    cut_off: files whose end is missing; their intact part is read.
    """

    def __init__(self, path: Path) -> None:
        """Open a file or folder. Raises SourceError if nothing can be read."""
        self.path = path
        self.cut_off: list[Path] = []
        self._parts = self._open()
        counts: Counter[tuple[str, str]] = Counter()
        for part in self._parts:
            for topic in part.topics:
                counts[topic.name, topic.msgtype] += topic.count
        self.topics = [Topic(*key, count) for key, count in sorted(counts.items()) if count]
        self._leave_out_others()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for part in self._parts:
            part.close()
        self._parts = []

    def times(self, name: str) -> list[int] | None:
        """Times of arrival (nanoseconds) of a topic's messages; None without an index for them."""
        found: list[int] = []
        try:
            for part in self._parts:
                if (times := part.times(name)) is None or (
                    found and times and times[0] < found[-1]
                ):
                    return None
                found += times
        except Exception:  # depends on storage and damage, which is reported when it is read
            return None
        return found

    def messages(self, names: Collection[str], start: int = 0) -> Iterator[tuple[int, str, Any]]:
        """Time of arrival (nanoseconds), topic and message, of these topics in order of arrival.

        start: of those that arrived from then on; only for topics whose ``times`` are known.
        Raises SourceError if the bag is damaged; warns if there are fewer messages than its index
        says.
        """
        read = 0
        try:
            for item in chain.from_iterable(part.messages(names, start) for part in self._parts):
                read += 1
                yield item
        except OSError:
            raise
        except SourceError as error:
            raise SourceError(f"{self.path} is damaged: {error}") from error
        except Exception as error:  # depends on storage and damage
            raise SourceError(
                f"{self.path} is damaged ({one_line(error)}); 'mcap recover' or 'ros2 bag reindex' "
                "recovers the intact part."
            ) from error
        promised = sum(topic.count for topic in self.topics if topic.name in names)
        if start:
            promised -= sum(bisect_left(self.times(name) or [], start) for name in names)
        if read < promised:
            logger.warning(
                "%s is damaged: %d of %d messages on %s could be read; 'mcap recover' or 'ros2 bag "
                "reindex' recovers the intact part.", self.path, read, promised, ", ".join(names),
            )  # fmt: skip

    @property
    def contents(self) -> str:
        """The topics in words."""
        held = [f"{topic.name} ({topic.msgtype})" for topic in self.topics]
        return f"it holds {', '.join(held) or 'no messages'}."

    def _open(self) -> list[Part]:
        if not self.path.is_dir():
            return [self._part(self.path)]
        files = sorted((f for f in self.path.iterdir() if is_storage(f)), key=_number)
        if not files:
            raise SourceError(f"{self.path} holds no recording: no .mcap and no .db3 file.")
        named, reason = _named_files(self.path / "metadata.yaml")
        if named & {file.name for file in files}:
            files = [file for file in files if file.name in named]
        elif len({_number(file)[0] for file in files}) > 1:
            names = ", ".join(sorted(file.name for file in files))
            raise SourceError(f"{self.path} holds several recordings ({names}); name one of them.")
        if missing := named - {file.name for file in files}:
            reason = f"{self.path} lacks {', '.join(sorted(missing))} of its metadata.yaml."
        if reason:
            logger.warning("%s The existing files are read.", reason)
        parts: list[Part] = []
        failures: list[SourceError] = []
        for file in files:
            try:
                parts.append(self._part(file))
            except SourceError as error:
                failures.append(error)
        if not parts:
            raise failures[0]
        for failure in failures:
            logger.warning("skipped: %s", failure)
        return parts

    def _leave_out_others(self) -> None:
        """Keep one type of each topic: a sensor's, else that with the most messages."""
        by_name: defaultdict[str, list[Topic]] = defaultdict(list)
        for topic in self.topics:
            by_name[topic.name].append(topic)
        for name, kinds in by_name.items():
            if len(kinds) == 1:
                continue
            best = max(kinds, key=lambda one: (one.msgtype.startswith("sensor_msgs/"), one.count))
            logger.warning(
                "%s: %s has messages of %d types (%s); only those of %s are read.", self.path,
                name, len(kinds), ", ".join(f"{one.count} {one.msgtype}" for one in kinds),
                best.msgtype,
            )  # fmt: skip
            others = [one for one in kinds if one is not best]
            self.topics = [one for one in self.topics if one not in others]
            for part in self._parts:
                part.left_out.update((name, one.msgtype) for one in others)

    def _part(self, path: Path) -> Part:
        part = open_part(path)
        if part.cut_off:
            self.cut_off.append(path)
        if part.note:
            logger.warning("%s", part.note)
        return part


def is_storage(path: Path) -> bool:
    """Whether a file is named like a storage file of rosbag2, compressed or not."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    hidden = path.name.startswith(".")  # macOS creates such files beside copies
    return name.suffix.lower() in _STORAGE_SUFFIXES and not hidden and path.is_file()


def _number(path: Path) -> tuple[str, int]:
    """Name of the recording that a file belongs to, and its number in it."""
    stem = path.name.partition(".mcap")[0].partition(".db3")[0]
    number = _SPLIT.search(stem)
    return _SPLIT.sub("", stem), int(number[1]) if number else -1


def _named_files(metadata: Path) -> tuple[set[str], str]:
    """The file names in a metadata.yaml, and a problem with it (empty: none)."""
    if not metadata.is_file():
        return (
            set(),
            f"{metadata.parent} has no metadata.yaml, its recording was cut short.",
        )
    try:
        facts = yaml.safe_load(metadata.read_text(encoding="utf-8-sig"))
        names = facts["rosbag2_bagfile_information"]["relative_file_paths"]
        return {Path(str(name)).name for name in names}, ""
    except Exception:  # not YAML, nested too deeply, or other content
        return set(), f"{metadata} cannot be read."


def facts_of(path: Path) -> dict[str, dict[str, str]]:
    """What the recorder stored about a run (MACHINE, SETTINGS); empty for other recordings."""
    facts: dict[str, dict[str, str]] = {}
    try:
        with path.open("rb") as file:
            if file.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
                return facts
            file.seek(0)
            for record in StreamReader(file, emit_chunks=True).records:
                if isinstance(record, Metadata):
                    facts[record.name] = record.metadata
    except Exception:  # a folder, or a truncated record
        pass
    return facts
