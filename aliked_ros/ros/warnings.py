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

"""Warnings about the inputs, for the log, ``~/status`` and ``/diagnostics``."""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from aliked_ros.errors import AlikedError
from aliked_ros.system.packages import missing

_PACKAGE = Path(__file__).parents[1]
_PERIOD = 5.0  # seconds between two log entries about one subject


class Warnings:
    """What is wrong now, one sentence for each subject; safe from several threads.

    A sentence stands until the condition clears. It is logged once while it stands: at once, or
    when the last log entry about its subject is five seconds old.
    """

    def __init__(self, log: Callable[[str], None], remember: Callable[[str], None]) -> None:
        """``remember`` takes the latest sentence, for ``last_error``."""
        self._log = log
        self._remember = remember
        self._lock = threading.Lock()
        self._standing: dict[str, str] = {}
        self._logged: dict[str, float] = {}
        self._unlogged: set[str] = set()  # subjects that stand and have not been logged yet
        self._said: set[str] = set()

    def warn(self, subject: str, sentence: str) -> None:
        """Something is wrong; replaces the last sentence about the subject."""
        now = time.monotonic()
        with self._lock:
            if subject not in self._standing:
                self._unlogged.add(subject)
            self._standing[subject] = sentence
            old = now - self._logged.get(subject, -math.inf) >= _PERIOD
            log = old and subject in self._unlogged
            if log:
                self._unlogged.remove(subject)
                self._logged[subject] = now
        self._remember(sentence)
        if log:
            self._log(sentence)

    def clear(self, subject: str) -> None:
        """Nothing is wrong with the subject any more."""
        with self._lock:
            self._standing.pop(subject, None)
            self._unlogged.discard(subject)

    def once(self, sentence: str) -> None:
        """Log, once, something that needs no action."""
        with self._lock:
            new = sentence not in self._said
            self._said.add(sentence)
        if new:
            self._log(sentence)

    def __str__(self) -> str:
        """Everything that stands."""
        with self._lock:
            return " ".join(self._standing.values())


def passed_through_us(error: Exception) -> bool:
    """Whether this package raised the error or called what did; the catching frame is ignored."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    return any(Path(frame.filename).is_relative_to(_PACKAGE) for frame in frames)


def reason(error: Exception) -> str:
    """The error as a sentence; an unexpected one with its place in the code."""
    if isinstance(error, AlikedError):
        return str(error)
    if isinstance(error, ImportError):
        return missing(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"unexpected {type(error).__name__}: {error} ({place.filename}:{place.lineno}); "
        "please report this."
    )
