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

"""Resumable record of an evaluation on disk; an interruption loses at most one unit."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from aliked_ros.errors import OutputError

FILE = "progress.jsonl"

Row = dict[str, Any]
"""One measurement: names (method, scene, ...) and figures, as in JSON."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work that gives rows; ``key`` is its name, equal in every run."""

    key: str
    run: Callable[[], list[Row]]


class Ledger:
    """A file of JSON lines: the question, then the rows of each finished unit.

    Use as a context manager.
    """

    def __init__(self, folder: Path, question: Row, restart: bool = False) -> None:
        """Open the ledger in a folder, created if missing.

        question: everything that determines the figures: evaluation, data, settings. restart:
        discard existing rows.
        Raises OutputError if the folder has the rows of another question, or cannot be written.
        """
        self._path = folder / FILE
        self._done: dict[str, list[Row]] = {}
        question = json.loads(json.dumps(question))
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            whole = 0 if restart or not self._path.exists() else self._read(question)
            self._file = self._path.open("ab")
            self._file.truncate(whole)
            if not whole:
                self._write(question)

    @property
    def resumed(self) -> int:
        """Number of units finished by an earlier run."""
        return len(self._done)

    def measure(self, units: Iterable[Unit], report: Callable[[float], None]) -> list[Row]:
        """Rows of all units in order; finished ones are not run again.

        report: called with the progress, 0 to 1. Raises OutputError if the disk is full.
        """
        units = list(units)
        keys = [unit.key for unit in units]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"two units are called {twice!r}")
        rows: list[Row] = []
        for number, unit in enumerate(units):
            if unit.key not in self._done:
                found = json.loads(json.dumps(unit.run()))  # so resumed rows are identical
                with self._writing():
                    self._write({"unit": unit.key, "rows": found})
                self._done[unit.key] = found
            rows += self._done[unit.key]
            report((number + 1) / len(units))
        return rows

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, question: Row) -> int:
        """Size of an earlier run's complete lines; a truncated last line does not count."""
        lines = self._path.read_bytes().splitlines(keepends=True)
        whole = 0
        for line in lines:
            try:
                content = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                content = None
            if not isinstance(content, dict):
                break
            if not whole and content != question:
                raise OutputError(
                    f"{self._path} belongs to an evaluation that differs in "
                    f"{_differing(content, question)}; choose another --output, or overwrite it "
                    "with --restart."
                )
            if whole:
                self._done[content["unit"]] = content["rows"]
            whole += len(line)
        return whole

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror or error}.") from error

    def _write(self, content: Row) -> None:
        self._file.write(json.dumps(content).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _differing(there: Row, here: Row) -> str:
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    name = names[0]
    return f"{name} ({there.get(name)!r}, now {here.get(name)!r})"
