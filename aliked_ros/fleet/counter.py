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

"""Counts the images of a batch, in a process of its own, which has nothing else to load."""

from __future__ import annotations


class Counter:
    """How many images each task has done; a task that is repeated counts once."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}

    def set(self, task: str, images: int) -> None:
        """So many images of a task are done."""
        self._done[task] = max(images, self._done.get(task, 0))

    def total(self) -> int:
        """Images of all tasks."""
        return sum(self._done.values())
