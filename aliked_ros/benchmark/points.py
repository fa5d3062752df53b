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

"""One setting of the front-end in a separate process, with its own cores and memory.

So peak memory is measured per setting, pinning to cores affects only this process, and a crash or a
lack of memory costs only this point.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import AlikedError, BackendError
from aliked_ros.system.cpu import cores
from aliked_ros.types import Image, UInt8Array

_START_TIMEOUT = 900.0  # seconds: TensorRT engines may have to be built first
_STOP_TIMEOUT = 10.0
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Setting:
    """The setting of a point.

    width, height: pixels. config: of the front-end. cores: number of cores to use; 0 = all that
    this process may use. hidden: Python packages to hide from it.
    """

    width: int
    height: int
    config: FrontendConfig
    cores: int = 0
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Burst:
    """Consecutive images.

    stages: seconds of each stage, one per image. wall: seconds in total. processor: seconds of all
    threads.
    """

    stages: dict[str, list[float]]
    wall: float
    processor: float

    @property
    def per_image(self) -> float:
        """Seconds an image."""
        return self.wall / len(self.stages["total"])


class Point:
    """The process of one setting; use as a context manager.

    backend: description of what runs the networks. cores: number it may use.
    """

    def __init__(self, setting: Setting, images: Sequence[UInt8Array]) -> None:
        """Start it and load the networks (seconds); BackendError if that fails."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, setting, list(images)), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            facts = self._receive(_START_TIMEOUT)
        except BaseException:
            self.close()
            raise
        self.backend, self.cores = str(facts["backend"]), int(facts["cores"])

    def run(self, count: int) -> Burst:
        """Process the next images of the sequence; BackendError if the process ends."""
        self._send(count)
        return Burst(**self._receive(_START_TIMEOUT))

    def peak_memory(self) -> float | None:
        """Peak memory of the front-end, MiB; None = unknown."""
        self._send(0)
        peak = self._receive(_STOP_TIMEOUT)["peak"]
        return None if peak is None else float(peak)

    def close(self) -> None:
        """End it."""
        self._pipe.close()  # ends the process's loop
        self._process.join(_STOP_TIMEOUT)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Point:
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()

    def _send(self, count: int) -> None:
        try:
            self._pipe.send(count)
        except OSError as error:
            raise self._ended() from error

    def _receive(self, timeout: float) -> dict[str, Any]:
        try:
            if not self._pipe.poll(timeout):
                raise BackendError(f"no answer in {timeout:.0f} s.")
            answer: dict[str, Any] = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if "error" in answer:
            raise BackendError(answer["error"])
        return answer

    def _ended(self) -> BackendError:
        self._process.join(_STOP_TIMEOUT)
        status = self._process.exitcode or 0
        how = f"signal {-status}" if status < 0 else f"status {status}"
        hint = " (too little memory?)" if status == -signal.SIGKILL else ""
        return BackendError(f"its process ended with {how}{hint}.")


def _serve(pipe: Connection, setting: Setting, images: list[UInt8Array]) -> None:
    """The process's loop: load, then reply to a count of images with times, to 0 with memory."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the parent, which ends this process
    for package in setting.hidden:
        sys.modules[package] = None  # type: ignore[assignment]
    if setting.cores:
        # before any library counts cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: setting.cores])
        cv2.setNumThreads(setting.cores)
    with suppress(EOFError, OSError):  # the parent is gone or done
        try:
            _answer(pipe, setting, images)
        except AlikedError as error:
            pipe.send({"error": str(error)})
        except MemoryError:
            pipe.send({"error": "not enough memory."})


def _answer(pipe: Connection, setting: Setting, images: list[UInt8Array]) -> None:
    from aliked_ros.benchmark.timing import keep_freed_memory
    from aliked_ros.frontend.pipeline import Pipeline

    keep_freed_memory()
    size = (setting.width, setting.height)
    scaled = [np.asarray(cv2.resize(pixels, size), np.uint8) for pixels in images]
    scaled += scaled[-2:0:-1]  # forward and back, without a jump
    process = psutil.Process()
    before = process.memory_info().rss
    pipeline = Pipeline(replace(setting.config, threads=setting.cores or setting.config.threads))
    pipe.send({"backend": pipeline.backend, "cores": cores()})
    number = 0
    while True:
        count = pipe.recv()
        if count == 0:
            peak = _peak()
            pipe.send({"peak": None if peak is None else (peak - before) / _MIB})
            continue
        stages: dict[str, list[float]] = {}
        begin, spent = time.perf_counter(), time.process_time()
        for _ in range(count):
            result = pipeline.process(Image(scaled[number % len(scaled)], float(number)))
            number += 1
            for stage, duration in result.stage_times.items():
                stages.setdefault(stage, []).append(duration)
        wall, spent = time.perf_counter() - begin, time.process_time() - spent
        pipe.send(asdict(Burst(stages, wall, spent)))


def _peak() -> int | None:
    """Peak resident bytes of this process, from Linux."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM:")), None)
