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

"""A thread that always works on the newest item."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
ItemT = TypeVar("ItemT", contravariant=True)


class Worker(Protocol[ItemT]):
    """Works on items in a thread of its own, not on all of them."""

    def submit(self, item: ItemT) -> int:
        """Hand over an item; returns how many were dropped."""
        ...

    def stop(self) -> int:
        """Let the item in work finish and take no more; returns how many items were dropped."""
        ...


class LatestWorker(Generic[T]):
    """One thread behind a slot for one item: a newer item replaces one that waits.

    work: called with each item in the worker's thread; it handles its own exceptions.
    """

    def __init__(self, name: str, work: Callable[[T], None]) -> None:
        self._work = work
        self._changed = threading.Condition()
        self._waiting: list[T] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: T) -> int:
        """Hand over an item; returns how many waiting items (0 or 1) it replaced."""
        with self._changed:
            replaced = len(self._waiting)
            self._waiting = [item]
            self._changed.notify()
        return replaced

    def stop(self) -> int:
        """Let the item in work finish, end the thread; returns how many items were dropped."""
        with self._changed:
            left = len(self._waiting)
            self._waiting = []
            self._stopping = True
            self._changed.notify()
        self._thread.join()
        return left

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
                item = self._waiting.pop()
            self._work(item)
