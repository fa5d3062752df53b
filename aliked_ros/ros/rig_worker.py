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

"""The thread in which the cameras of a rig are processed, set by set."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from aliked_ros.io.messages import nanoseconds
from aliked_ros.ros.frame import Frame
from aliked_ros.ros.session import Session
from aliked_ros.ros.sets import ItemSet, Sets


class Job(NamedTuple):
    """One camera's image of a set."""

    session: Session
    frame: Frame


class RigWorker:
    """Puts the images of all cameras together to sets, and works on one set at a time.

    A set that waits for the thread is dropped once a newer one has all of its cameras.
    """

    def __init__(
        self, tolerance: float, wait: float, work: Callable[[Mapping[str, Job]], None]
    ) -> None:
        """``tolerance``, ``wait``: see ``Sets``.

        work: called with each set, in this thread; handles its own exceptions.
        """
        self.sets: Sets[Job] = Sets(tolerance, wait)
        self._work = work
        self._changed = threading.Condition()
        self._waiting: list[ItemSet[Job]] = []
        self._dropped: Counter[str] = Counter()  # by camera, since it was told
        self._working: set[str] = set()  # cameras of the set in work
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="rig", daemon=True)
        self._thread.start()

    def open(self, camera: str, session: Session) -> CameraPort:
        """What takes the place of the session's own worker."""
        with self._changed:
            self.sets.join(camera)
        return CameraPort(self, camera, session)

    def submit(self, camera: str, job: Job) -> int:
        """Hand over an image; how many of this camera's were dropped since the last call."""
        stamp, now = nanoseconds(job.frame.header.stamp), time.perf_counter()
        with self._changed:
            if not self.sets.add(camera, stamp, job, now):
                self._dropped[camera] += 1
            self._release(now)
            self._changed.notify_all()
            return self._dropped.pop(camera, 0)

    def leave(self, camera: str) -> int:
        """Let the camera's image in work finish and take no more; as ``submit``."""
        with self._changed:
            dropped = self.sets.leave(camera) + self._dropped.pop(camera, 0)
            dropped += sum(one.items.pop(camera, None) is not None for one in self._waiting)
            self._waiting = [one for one in self._waiting if one.items]
            self._changed.wait_for(lambda: camera not in self._working)
        return dropped

    def close(self) -> None:
        """End the thread; sets that wait are dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while (one := self._next()) is not None:
            self._work(one.items)
            with self._changed:
                self._working = set()
                self._changed.notify_all()

    def _next(self) -> ItemSet[Job] | None:
        """Wait for a set; None = the end."""
        with self._changed:
            while not self._stopping:
                now = time.perf_counter()
                self._release(now)
                if self._waiting:
                    first = self._waiting.pop(0)
                    self._working = set(first.items)
                    return first
                deadline = self.sets.deadline
                self._changed.wait(None if deadline is None else max(deadline - now, 0.0))
        return None

    def _release(self, now: float) -> None:
        """Let sets wait for the thread; drop those that they replace."""
        for newer in self.sets.release(now):
            replaced = [one for one in self._waiting if one.items.keys() <= newer.items.keys()]
            for one in replaced:
                self._waiting.remove(one)
                self._dropped.update(one.items.keys())
            self._waiting.append(newer)


class CameraPort:
    """One camera's part of a :class:`RigWorker`; see ``Worker``."""

    def __init__(self, worker: RigWorker, camera: str, session: Session) -> None:
        self._worker, self._camera, self._session = worker, camera, session

    def submit(self, item: Frame) -> int:
        """See ``Worker``; drops are reported with a delay of one image."""
        return self._worker.submit(self._camera, Job(self._session, item))

    def stop(self) -> int:
        """See ``Worker``."""
        return self._worker.leave(self._camera)
