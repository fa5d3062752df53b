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


"""Places seen again: the second half of a sequence, and a second flight over a photograph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import OutputError, SourceError
from aliked_ros.evaluation.failures import FAILURES, reason_of
from aliked_ros.evaluation.ledger import Row, Unit
from aliked_ros.evaluation.methods import Method
from aliked_ros.evaluation.poses import true_poses
from aliked_ros.evaluation.relocalization import keyframe_of, pose_error
from aliked_ros.evaluation.result_table import Metric, Report, ResultTable
from aliked_ros.evaluation.run import Run, described
from aliked_ros.evaluation.sequences import Mode, offered_mode
from aliked_ros.evaluation.words import Vlad, Words
from aliked_ros.frontend.places import KeyframeDatabase, Place
from aliked_ros.frontend.relocalization import find_candidate
from aliked_ros.frontend.verification import Verifier
from aliked_ros.odometry.geometry import Transform
from aliked_ros.sources import open_source
from aliked_ros.sources.virtual import VirtualCamera
from aliked_ros.types import (
    Features,
    Float64Array,
    FrameResult,
    Image,
    Keyframe,
    Matches,
)

_SAME = 0.25  # share of the view that is seen in a keyframe, for it to show the same place
_VERIFIED = 3  # candidates of an index
_FLIGHT = (900, 30)  # images of a flight, and one of how many is used
_ROLL = np.radians(30.0)
_LEAST = 20  # images with a true pose
_BLOCKS = 5  # block length of the bootstrap, queries; neighbouring answers correlate
_STRANGERS = 40

METRICS = (
    Metric("first", "first by the index", percent=True),
    Metric("right", "best of 3, verified", percent=True),
    Metric("recall_100", "recall at 100 % precision", percent=True),
    Metric("recall_99", "at 99 %", percent=True),
    Metric("posed", "pose within 5 cm, 5°", percent=True),
    Metric("inliers", "inliers", digits=0),
)


class Index(Protocol):
    """Which keyframes look most like an image."""

    def first(self, features: Features, count: int) -> list[int]:
        """Numbers of the keyframes, best first."""
        ...


class _Places:
    """The front-end's own index."""

    def __init__(self, keyframes: Sequence[Keyframe]) -> None:
        self._database = KeyframeDatabase()
        for number, keyframe in enumerate(keyframes):
            result = FrameResult(
                number, keyframe.stamp, keyframe.features, Matches.empty(), keyframe.tracks
            )
            self._database.add(Place.of(result, 0))

    def first(self, features: Features, count: int) -> list[int]:
        """See ``Index``."""
        return [place.index for place in self._database.candidates(features, count)]


@dataclass(frozen=True, slots=True)
class _View:
    """An image of the task.

    scene: ``sequence``, ``flight`` or ``strangers``. number: of the image in it. pose:
    world_from_camera, of a sequence. homography: from the photograph, of a flight.
    """

    scene: str
    number: int
    image: Image
    camera: CameraModel | None
    pose: Transform | None = None
    homography: Float64Array | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    """The same for all methods."""

    keyframes: list[_View]
    queries: list[_View]
    baseline: float | None
    config: FrontendConfig

    def right(self) -> NDArray[np.bool_]:
        """Queries × keyframes: whether they show the same place."""
        return np.array(
            [[_shared(q, k) >= _SAME for k in self.keyframes] for q in self.queries], bool
        )


def evaluate_places(
    run: Run,
    every: int = 5,
    strangers: str = "",
) -> ResultTable:
    """Find each image of the second half among keyframes of the first, and answer only when sure.

    The sequence is as for ``evaluate_relocalization``.
    every: one in ``every`` images of the first half is a keyframe. strangers: another sequence,
    whose images are asked for, too: each answer is wrong.

    Keyframes of a virtual camera's flight over a photograph are among the others; a second flight,
    with other light and 30° of roll, is asked for, too. The first three keyframes of each index are
    verified by the method's own matcher and the same geometry; the one with most inliers is the
    answer, and more inliers make it surer. Raises SourceError for a sequence without pose or depth.
    """
    mode = offered_mode(run.data)
    if mode == "mono":
        raise SourceError(
            f"{run.data} has no depth images and no stereo pairs with a baseline; without them "
            "nobody knows which images show the same place."
        )
    task = _task(run, mode, every, strangers)
    question = run.question(
        "places",
        every=every,
        strangers=strangers,
        queries=len(task.queries),
        keyframes=len(task.keyframes),
    )
    right = task.right()
    with run.open(question) as (ledger, methods):
        units = [Unit(one.name, partial(_rows, one, task, right, run.report)) for one in methods]
        rows = ledger.measure(units, lambda _share: None)
        facts = described(question, methods) | {"known": int(right.any(1).sum())}
    table = ResultTable(
        facts, rows, METRICS, run.methods, ("scene",), _BLOCKS, _remarks(facts, rows)
    )
    table.write(run.output)
    return table


def plot_places(table: ResultTable, folder: Path) -> None:
    """places.png: precision by recall, for each method."""
    from aliked_ros.evaluation.plots import colour_of, figure

    with figure(folder / "places.png", 1, width=5.0) as (axis,):
        for method in table.methods:
            rows = [row for row in table.rows if row["method"] == method and "inliers" in row]
            if rows:
                recall, precision = precision_by_recall(
                    np.array([row["inliers"] for row in rows]),
                    np.array([row["right"] == 1.0 for row in rows]),
                    sum(row["right"] is not None for row in rows),
                )
                axis.plot(100 * recall, 100 * precision, color=colour_of(method), label=method)
        axis.set(xlabel="recall, %", ylabel="precision, %", xlim=(0, 102), ylim=(50, 101))
        axis.legend(fontsize=8)


def precision_by_recall(
    scores: NDArray[np.generic], right: NDArray[np.bool_], known: int
) -> tuple[Float64Array, Float64Array]:
    """Recall and precision of the answers whose score is at least each of the scores.

    scores, right: of all answers; known: number of queries that have a right answer.
    """
    levels = np.unique(scores)[::-1]
    given = np.array([(scores >= level).sum() for level in levels])
    good = np.array([(right & (scores >= level)).sum() for level in levels])
    return good / max(known, 1), good / given


def least_score(scores: NDArray[np.generic], right: NDArray[np.bool_], precision: float) -> float:
    """The lowest score down to which so many of the answers are right; inf = not even the best."""
    levels = np.unique(scores)
    kept = [level for level in levels if right[scores >= level].mean() >= precision]
    return float(kept[0]) if kept else float("inf")


def _task(run: Run, mode: Mode, every: int, strangers: str) -> _Task:
    source = run.open_source(mode)
    camera = CameraModel.from_calibration(source.calibration or {})
    images = list(source)
    poses = true_poses(run.data, [one.stamp for one in images], rectified=mode == "stereo")
    usable = [
        _View("sequence", number, image, camera, pose)
        for number, (image, pose) in enumerate(zip(images, poses, strict=True))
        if pose is not None
    ]
    if len(usable) < _LEAST:
        raise SourceError(
            f"{len(usable)} images of {run.data} have a true pose; at least {_LEAST} are needed. "
            "Use more images."
        )
    middle = len(usable) // 2
    first, second = (list(_flight(number)) for number in (0, 1))
    unknown: list[_View] = []
    if strangers:
        unknown = [
            _View("strangers", number, image, None)
            for number, image in enumerate(open_source(strangers, _STRANGERS))
        ]
    baseline = (source.calibration or {}).get("stereo_baseline_m")
    return _Task(
        usable[:middle:every] + first, usable[middle:] + second + unknown, baseline, run.config
    )


def _flight(number: int) -> Iterator[_View]:
    """One of the two flights over the photograph: other path, light and roll."""
    length, every = _FLIGHT
    camera = VirtualCamera(
        length=length, seed=11 + number, stops=(0.3, 1.5)[number], roll=(0.0, float(_ROLL))[number]
    )
    model = CameraModel.from_calibration(camera.calibration or {})
    for index in range(0, length, every):
        view = camera.homography(index)
        yield _View("flight", index, camera.render(index), model, homography=view)


def _shared(query: _View, keyframe: _View) -> float:
    """Share of the query's view that the keyframe sees."""
    if query.scene != keyframe.scene or query.camera is None or keyframe.camera is None:
        return 0.0
    height, width = query.image.pixels.shape[:2]
    grid = np.stack(np.meshgrid(np.arange(8, width, 16), np.arange(8, height, 16)), -1)
    grid = grid.reshape(-1, 2)
    if query.homography is not None and keyframe.homography is not None:
        matrix = keyframe.homography @ np.linalg.inv(query.homography)
        seen = cv2.perspectiveTransform(grid[None].astype(np.float64), matrix)[0]
        return float((((seen >= 0) & (seen < (width, height))).all(1)).mean())
    assert query.pose is not None
    assert keyframe.pose is not None
    depth = np.full(len(grid), np.nan)
    if query.image.depth is not None:
        depth = query.image.depth[grid[:, 1], grid[:, 0]].astype(np.float64)
    depth = np.where(np.isfinite(depth), depth, np.nanmedian(depth) if depth.any() else 10.0)
    rays = query.camera.normalize(grid.astype(np.float32)).astype(np.float64)
    points = np.column_stack([rays, np.ones(len(rays))]) * depth[:, None]
    there = keyframe.pose.inverse() @ query.pose
    points = points @ there.rotation.T + there.translation
    before = points[:, 2] > 0.05
    if not before.any():
        return 0.0
    pixels = keyframe.camera.project((points[before, :2] / points[before, 2:]).astype(np.float32))
    return float(((pixels >= 0) & (pixels < (width, height))).all(1).sum() / len(grid))


def _rows(method: Method, task: _Task, right: NDArray[np.bool_], report: Report) -> list[Row]:
    """One row per query."""
    rows: list[Row] = [
        {"method": method.name, "unit": f"{view.scene} {view.number}", "scene": view.scene}
        for view in task.queries
    ]
    if method.matcher is None:
        rows[0]["failed"] = "it has no descriptors to recognise a place"
        return rows
    try:
        _answer(method, task, right, rows, partial(report, method.name))
    except OutputError:
        raise
    except FAILURES as error:
        rows[0]["failed"] = reason_of(error)
    return rows


def _answer(
    method: Method,
    task: _Task,
    right: NDArray[np.bool_],
    rows: list[Row],
    report: Callable[[float], None],
) -> None:
    assert method.matcher is not None
    verifier = Verifier(task.config)
    keyframes = [
        keyframe_of(method, view.number, view.image, view.camera, task.baseline, task.config)
        for view in task.keyframes
    ]
    index = _index(method.name, keyframes)
    for number, (view, row) in enumerate(zip(task.queries, rows, strict=True)):
        features = method.view(view.image.pixels, view.image.mask).features
        numbers = index.first(features, _VERIFIED)
        found = [
            (one.inliers, k, one)
            for k in numbers
            if (one := find_candidate(
                features, keyframes[k], view.camera, method.matcher, verifier
            )) is not None
        ]  # fmt: skip
        inliers, k, candidate = max(found, key=lambda one: one[0], default=(0, -1, None))
        row["inliers"] = inliers
        known = bool(right[number].any())
        row["first"] = float(bool(numbers) and right[number, numbers[0]]) if known else None
        row["right"] = float(k >= 0 and right[number, k]) if known else None
        row["posed"] = None
        other = task.keyframes[k]
        if known and view.pose is not None:
            near = False
            if candidate is not None and candidate.pose is not None and other.pose is not None:
                metres, degrees = pose_error(candidate.pose, other.pose, view.pose)
                near = candidate.pose.metric and metres <= 0.05 and degrees <= 5.0
            row["posed"] = float(near)
        report((number + 1) / len(rows))
    scores = np.array([row["inliers"] for row in rows])
    good = np.array([row["right"] == 1.0 for row in rows])
    for key, precision in (("recall_100", 1.0), ("recall_99", 0.99)):
        least = max(least_score(scores, good, precision), 1.0)
        for row, score, hit in zip(rows, scores, good, strict=True):
            row[key] = None if row["right"] is None else float(hit and score >= least)


def _index(name: str, keyframes: Sequence[Keyframe]) -> Index:
    """The index that goes with a method."""
    if name.startswith("aliked"):
        return _Places(keyframes)
    descriptors = [keyframe.features.descriptors for keyframe in keyframes]
    return Words(descriptors) if name.startswith("orb") else Vlad(descriptors)


def _remarks(facts: Row, rows: list[Row]) -> list[str]:
    return [
        *(f"{row['method']} failed: {row['failed']}" for row in rows if row.get("failed")),
        f"{facts['keyframes']} keyframes, {facts['queries']} queries. {facts['known']} queries "
        f"have a right answer: a keyframe that shows {100 * _SAME:.0f} % of their view. Recall at "
        "a precision: answers with at least N inliers, where N is the lowest number at which this "
        "share of all answers is right. Index: the front-end's own for aliked, VLAD for sift, bag "
        "of words for orb; the last two are trained on the keyframes themselves, which favours "
        "them.",
    ]
