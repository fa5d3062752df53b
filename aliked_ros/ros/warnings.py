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

"""What is wrong with the inputs now: sentences for the log, ``~/status`` and ``/diagnostics``."""

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


class Complaints:
    """One sentence for each subject that something is wrong with; safe from several threads.

    A sentence stands until its subject is well again; it is logged once while it stands, at the
    beginning, or when the last entry about its subject is five seconds old.
    """

    def __init__(self, log: Callable[[str], None], remember: Callable[[str], None]) -> None:
        """``remember`` takes the latest sentence, for ``last_error``."""
        self._log = log
        self._remember = remember
        self._lock = threading.Lock()
        self._standing: dict[str, str] = {}
        self._logged: dict[str, float] = {}
        self._unsaid: set[str] = set()  # subjects that stand and have not been logged yet

    def file(self, subject: str, sentence: str) -> None:
        """Something is wrong; replaces what was said about the subject before."""
        now = time.monotonic()
        with self._lock:
            if subject not in self._standing:
                self._unsaid.add(subject)
            self._standing[subject] = sentence
            old = now - self._logged.get(subject, -math.inf) >= _PERIOD
            say = old and subject in self._unsaid
            if say:
                self._unsaid.remove(subject)
                self._logged[subject] = now
        self._remember(sentence)
        if say:
            self._log(sentence)

    def settle(self, subject: str) -> None:
        """All is well with the subject."""
        with self._lock:
            self._standing.pop(subject, None)
            self._unsaid.discard(subject)

    def clear(self) -> None:
        """Forget all: a new beginning."""
        with self._lock:
            self._standing.clear()
            self._unsaid.clear()
            self._logged.clear()

    def mention(self, sentence: str) -> None:
        """Log, once, something that need not be mended."""
        with self._lock:
            known = sentence in self._logged
            self._logged[sentence] = 0.0
        if not known:
            self._log(sentence)

    def __str__(self) -> str:
        """All that stands."""
        with self._lock:
            return " ".join(self._standing.values())


def passed_through_us(error: Exception) -> bool:
    """Whether this package's code raised it, or called what did; who caught it does not count."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    return any(Path(frame.filename).is_relative_to(_PACKAGE) for frame in frames)


def reason(error: Exception) -> str:
    """What to tell: our own errors speak for themselves, others need their place in the code."""
    if isinstance(error, AlikedError):
        return str(error)
    if isinstance(error, ImportError):
        return missing(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"unexpected {type(error).__name__}: {error} ({place.filename}:{place.lineno}); "
        "please report this."
    )
