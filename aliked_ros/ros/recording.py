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

"""An MCAP file in the making.

Messages are stored as they came over the wire (CDR) with their full definitions, so that Foxglove,
``ros2 bag`` and ``rosbags`` read the file on machines without ``aliked_msgs``.

The file grows beside its final name, as ``NAME.partial.mcap``, and is renamed when it is complete:
a file of the final name is always whole, and an earlier one stays until then.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import Future as Written
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import IO

from mcap.writer import CompressionType, Writer

from aliked_ros.errors import ConfigurationError, OutputError
from aliked_ros.system.cache import check_target

_CHUNK_BYTES = 1 << 20
_SEPARATOR = "\n" + "=" * 80 + "\n"
# A field of another message type: optional package, type, optional array bounds, name.
_FIELD = re.compile(r"^\s*(?:(\w+)/)?(?:msg/)?([A-Z]\w*)(?:\[.*?\])?\s+\w+")


def message_definition(kind: type) -> str:
    """The text of a message type with those of all types in it, as MCAP's ``ros2msg`` wants it.

    Raises OutputError when a definition is not installed.
    """
    name = _type_name(kind)
    texts: dict[str, str] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop(0)
        if current in texts:
            continue
        texts[current] = _definition_file(current).read_text(encoding="utf-8")
        package = current.split("/")[0]
        for line in texts[current].splitlines():
            if field := _FIELD.match(line):
                waiting.append(f"{field[1] or package}/{field[2]}")
    others = [f"MSG: {key}\n{text}" for key, text in texts.items() if key != name]
    return _SEPARATOR.join([texts[name], *others])


def _type_name(kind: type) -> str:
    """``package/Type`` of a message class."""
    return f"{kind.__module__.split('.')[0]}/{kind.__name__}"


def _definition_file(name: str) -> Path:
    """The .msg file: in share/ of whatever prefix the Python package of the messages lies in."""
    package, message = name.split("/")
    module = Path(import_module(package).__file__ or "").resolve()
    for prefix in module.parents:
        path = prefix / "share" / package / "msg" / f"{message}.msg"
        if path.is_file():
            return path
    raise OutputError(
        f"the definition share/{package}/msg/{message}.msg is not in any folder above {module}; "
        f"install {package} again."
    )


class Recording:
    """An MCAP file in the making: messages in CDR, one channel per topic.

    count: messages added. safe: those that are on the disk for certain.
    left_over: partial file of an earlier recording that was cut short; it is kept.
    """

    def __init__(self, output: Path) -> None:
        """Open the partial file. Raises OutputError when that is impossible."""
        if output.suffix != ".mcap":
            raise ConfigurationError(f"output is {str(output)!r}; it must end in .mcap.")
        check_target(output)
        self.output = output
        self.partial = output.with_suffix(".partial.mcap")
        self.left_over: Path | None = None
        self.count = self.safe = 0
        self._syncing: tuple[int, Written[None]] | None = None
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
            _sync_folder(output)
        except OSError as error:
            raise self._failure(error) from error
        self._thread = ThreadPoolExecutor(1, "sync")
        self._writer = Writer(self._file, chunk_size=_CHUNK_BYTES, compression=CompressionType.LZ4)
        self._writer.start(profile="ros2", library="aliked_ros")

    @property
    def topics(self) -> set[str]:
        """Those that were added."""
        return set(self._channels)

    def add_topic(self, topic: str, kind: type) -> None:
        """Store the definition of a topic's messages; before its first message."""
        name = _type_name(kind)
        if name not in self._schemas:
            self._schemas[name] = self._writer.register_schema(
                name.replace("/", "/msg/"), "ros2msg", message_definition(kind).encode()
            )
        self._channels[topic] = self._writer.register_channel(
            topic, "cdr", self._schemas[name], {"offered_qos_profiles": ""}
        )

    def add(self, topic: str, data: bytes, received: int, published: int) -> None:
        """Store one message; times in nanoseconds since the epoch."""
        try:
            self._writer.add_message(
                self._channels[topic], log_time=received, data=data, publish_time=published
            )
        except OSError as error:
            raise self._failure(error) from error
        self.count += 1

    def add_facts(self, name: str, facts: dict[str, str]) -> None:
        """Store what describes the run, as MCAP metadata."""
        try:
            self._writer.add_metadata(name, facts)
        except OSError as error:
            raise self._failure(error) from error

    def flush(self) -> None:
        """Start to write out what was added; ``safe`` is how far the last call came.

        Returns at once: the disk is waited for in a thread. Raises OutputError when that failed.
        """
        try:
            if self._syncing is not None and self._syncing[1].done():
                count, done = self._syncing
                self._syncing = None
                done.result()
                self.safe = count
            if self._syncing is None and self.count > self.safe:
                self._writer.flush()  # ends the chunk: only whole ones can be read
                self._syncing = (self.count, self._thread.submit(os.fsync, self._file.fileno()))
        except OSError as error:
            raise self._failure(error) from error

    def finish(self) -> None:
        """Complete the file and give it its name."""
        self._thread.shutdown()
        try:
            self._writer.finish()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self.partial, self.output)
            _sync_folder(self.output)
        except OSError as error:
            raise self._failure(error) from error

    def discard(self) -> None:
        """Close and remove the partial file."""
        self._thread.shutdown()
        self._file.close()
        self.partial.unlink(missing_ok=True)

    def _open(self) -> IO[bytes]:
        """A new partial file; never overwrite that of a recorder that was killed."""
        number = 1
        while True:
            try:
                return self.partial.open("xb")
            except FileExistsError:
                self.left_over = self.left_over or self.partial
                number += 1
                self.partial = self.output.with_suffix(f".partial{number}.mcap")

    def _failure(self, error: OSError) -> OutputError:
        kept = "What was recorded until then is in that file ('mcap recover' rebuilds its index). "
        return OutputError(
            f"cannot write {self.partial}: {error.strerror}. {kept if self.count else ''}"
            "Free space, or choose another output."
        )


def _sync_folder(file: Path) -> None:
    """Bring the name of a file to the disk."""
    descriptor = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
