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

"""Times ``batch``: workers against threads, its overhead, and what many hours of video cost.

Each contender is a process with its own Ray and loaded networks. In every round each goes once
through the same recordings, in a random order; ratios are within a round.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import psutil

from aliked_ros.backends.create import create_backend
from aliked_ros.benchmark.timing import interval
from aliked_ros.errors import AlikedError, BackendError
from aliked_ros.fleet.cost import HOUR, Cost, overhead
from aliked_ros.fleet.plan import Plan
from aliked_ros.fleet.run import Cluster, process, running
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.sources import default_source, open_source
from aliked_ros.system.provenance import machine

_RECORDINGS = 2
_WARM_UP, _TRACKED = 4, 12  # images of each recording
_SIZE = 640, 480  # pixels
_PATIENCE = 900.0  # seconds
_LOOP, _ONE, _TWO, _THREADS = "loop without batch", "1 worker", "2 workers", "1 worker, 2 threads"
_CONTENDERS = {_LOOP: (0, 1), _ONE: (1, 1), _TWO: (2, 1), _THREADS: (1, 2)}
"""Workers and the threads of each; 0 workers: the images and the extractor alone."""


def time_batch(
    images: int, rounds: int, hours: float, source: str | None, report: Callable[[float], None]
) -> dict[str, Any]:
    """Time ``batch extract`` of two recordings of ``images`` images each.

    hours: of video at 30 images a second, whose cost is given. source: of the images, repeated as
    needed; None = as for the demo. Raises BackendError if a contender's process ends.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        recordings = _write_recordings(folder, source or default_source(), images)
        contenders = {
            name: stack.enter_context(closing(_Contender(*sizes, recordings, folder / name)))
            for name, sizes in _CONTENDERS.items()
        }
        runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in contenders}
        order = np.random.default_rng(0)
        for done in range(rounds):
            for name in order.permutation(list(contenders)):
                runs[name].append(contenders[name].extract())
            report((done + 1) / rounds)
        track, sizes = contenders[_ONE].track()
        start = contenders[_ONE].start - contenders[_LOOP].start
    count = _RECORDINGS * images
    wall, cores, tasks = (
        {name: np.array(one)[:, column] / count for name, one in runs.items()}
        for column in range(3)
    )
    between = float(np.median(wall[_ONE] - tasks[_ONE])) * count
    task_ratio = interval(tasks[_ONE] / wall[_LOOP])
    middle = {name: round(float(np.median(one)), 5) for name, one in wall.items()}
    cost = Cost(extract=middle[_ONE], track=track, **sizes)
    return {
        "machine": machine(),
        "images": count,
        "rounds": rounds,
        "seconds_an_image": middle,
        "core_seconds_an_image": {n: round(float(np.median(one)), 5) for n, one in cores.items()},
        "two_workers_to_one": interval(wall[_ONE] / wall[_TWO]),
        "two_workers_to_two_threads": interval(wall[_THREADS] / wall[_TWO]),
        "core_seconds_to_loop": interval(cores[_ONE] / cores[_LOOP]),
        "tasks_to_loop": task_ratio,
        "seconds_to_start": round(start, 2),
        "seconds_between_tasks": round(between, 2),
        "overhead_of_an_hour": round(overhead(middle[_LOOP], task_ratio[0], start + between), 4),
        "an_image": asdict(cost),
        "hours": hours,
        "cost": {name: round(value, 1) for name, value in cost.of(hours * HOUR).items()},
    }


def as_text(facts: dict[str, Any]) -> str:
    """The figures as a text."""
    wall, cores, cost = (
        facts[name] for name in ("seconds_an_image", "core_seconds_an_image", "cost")
    )
    load = facts["machine"]["load_1min"]
    lines = [f"{facts['rounds']} rounds of {facts['images']} images; load at the end {load}", ""]
    lines += [f"{'ms an image':<34}{'wall':>8}{'cores':>8}"]
    lines += [f"{name:<34}{1e3 * wall[name]:8.1f}{1e3 * cores[name]:8.1f}" for name in wall]
    lines += ["", f"{'ratio [95 %]':<34}"]
    for title, name, goal in (
        ("2 workers to 1", "two_workers_to_one", "goal: 1.7"),
        ("2 workers to 2 threads", "two_workers_to_two_threads", "goal: 1.15"),
        ("core seconds of 1 worker to loop", "core_seconds_to_loop", ""),
        ("an image in a task to loop", "tasks_to_loop", ""),
    ):
        ratio, low, high = facts[name]
        lines.append(f"{title:<34}{ratio:8.3f} [{low:.3f}, {high:.3f}]  {goal}".rstrip())
    share = facts["overhead_of_an_hour"]
    fixed = facts["seconds_to_start"] + facts["seconds_between_tasks"]
    lines += [
        f"{'overhead of an hour of video':<34}{share:8.1%} with {fixed:.1f} s once  goal: 2 %",
        "",
        f"{facts['hours']:g} hours at 30 images a second",
        f"{'':<10}{'core hours':>12}{'TB':>10}",
    ]
    for name, hours, size in (
        ("extract", "extract_core_hours", "features_tb"),
        ("track", "track_core_hours", "tracks_tb"),
        ("record", "track_core_hours", "recording_tb"),
    ):
        lines.append(f"{name:<10}{cost[hours]:12.0f}{cost[size]:10.1f}")
    return "\n".join(lines)


def _write_recordings(folder: Path, source: str, images: int) -> list[str]:
    """Folders of PNG files; their paths."""
    pixels = [
        cv2.resize(image.pixels, _SIZE, interpolation=cv2.INTER_AREA)
        for image in open_source(source, images)
    ]
    paths = []
    for number in range(_RECORDINGS):
        (path := folder / f"run{number}").mkdir()
        for index, one in enumerate(islice(cycle(pixels), images)):
            cv2.imwrite(str(path / f"{index:06}.png"), one if one.ndim == 2 else one[..., ::-1])
        paths.append(str(path))
    return paths


class _Contender:
    """A process that goes through the recordings when asked to.

    start: seconds from its creation until it has processed the images of the warm-up.
    """

    def __init__(self, workers: int, threads: int, recordings: list[str], folder: Path) -> None:
        begun = time.monotonic()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, workers, threads, recordings, str(folder))
        )
        self._process.start()
        theirs.close()
        self._receive()
        self.start = time.monotonic() - begun

    def extract(self) -> tuple[float, float, float]:
        """Seconds of wall clock, of all cores, and in tasks, for all recordings."""
        before, begun = self._core_seconds(), time.monotonic()
        self._pipe.send("extract")
        in_tasks = self._receive()
        return time.monotonic() - begun, self._core_seconds() - before, in_tasks

    def track(self) -> tuple[float, dict[str, float]]:
        """Seconds an image of ``track``, and bytes an image of the results by kind."""
        self._pipe.send("track")
        seconds, sizes = self._receive()
        return seconds, sizes

    def close(self) -> None:
        """End the process and its Ray."""
        self._pipe.close()
        self._process.join(_PATIENCE)

    def _core_seconds(self) -> float:
        parent, total = psutil.Process(self._process.pid), 0.0
        for one in (parent, *parent.children(recursive=True)):
            try:
                times = one.cpu_times()
            except psutil.Error:  # has ended
                continue
            total += times.user + times.system
        return total

    def _receive(self) -> Any:
        try:
            if self._pipe.poll(_PATIENCE):
                found = self._pipe.recv()
                if isinstance(found, str):
                    raise BackendError(f"a process of the benchmark failed: {found}")
                return found
        except EOFError:
            pass
        raise BackendError("a process of the benchmark has ended; its error is above.")


def _serve(
    pipe: Connection, workers: int, threads: int, recordings: list[str], folder: str
) -> None:
    """Answer a contender's requests until its pipe is closed; a text is an error's."""
    try:
        _answer(pipe, workers, threads, recordings, folder)
    except AlikedError as error:
        pipe.send(str(error))


def _answer(
    pipe: Connection, workers: int, threads: int, recordings: list[str], folder: str
) -> None:
    plan = Plan(tuple(recordings), folder, ("extract",), (), {"threads": threads})
    go: Callable[[Plan], dict[str, Any]]
    with ExitStack() as stack:
        if workers:
            stack.enter_context(running(plan, Cluster(workers=workers), lambda _: None))
            go = _with_ray
        else:
            cv2.setNumThreads(threads)
            backend = stack.enter_context(closing(create_backend(plan.config)))
            extractor = Extractor(plan.config, backend)
            go = _loop(extractor)
        go(replace(plan, limit=_WARM_UP))
        pipe.send(None)
        while True:
            try:
                request = pipe.recv()
            except EOFError:
                return
            if request == "extract":
                pipe.send(go(plan).get("task_seconds", 0.0))
            else:
                pipe.send(_tracked(replace(plan, limit=_TRACKED), go))


def _with_ray(plan: Plan) -> dict[str, Any]:
    with TemporaryDirectory(prefix="output-", dir=Path(plan.recordings[0]).parent) as output:
        plan = replace(plan, output=output)
        facts = process(plan, plan.named_recordings(), lambda _: None)
    if facts["failures"]:
        raise BackendError(f"the benchmark's batch failed: {facts['failures']}")
    return facts


def _loop(extractor: Extractor) -> Callable[[Plan], dict[str, Any]]:
    def go(plan: Plan) -> dict[str, Any]:
        for recording in plan.recordings:
            for image in open_source(recording, plan.limit):
                extractor.extract(image.pixels, image.mask)
        return {}

    return go


def _tracked(plan: Plan, go: Callable[[Plan], dict[str, Any]]) -> tuple[float, dict[str, float]]:
    """Seconds an image of tracking, and bytes an image of features, tracks and a recording."""
    sizes, seconds = {}, 0.0
    for name, operation in (("features", "extract"), ("recording", "record"), ("tracks", "track")):
        facts = go(replace(plan, operations=(operation,)))
        files = [size for one in facts["results"].values() for size in one["files"].values()]
        sizes[name] = sum(files) / facts["images"]
        seconds = facts["seconds"] / facts["images"]  # of the last one, its networks loaded
    return seconds, sizes
