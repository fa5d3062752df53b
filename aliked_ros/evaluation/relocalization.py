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

"""Relocalisation of the harder half of a sequence against keyframes of the other half."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ConfigurationError, OutputError, SourceError
from aliked_ros.evaluation.failures import FAILURES, reason_of
from aliked_ros.evaluation.ledger import Row, Unit
from aliked_ros.evaluation.methods import Method
from aliked_ros.evaluation.poses import true_poses
from aliked_ros.evaluation.result_table import Metric, Report, ResultTable
from aliked_ros.evaluation.run import Run, described
from aliked_ros.evaluation.sequences import Mode, offered_mode
from aliked_ros.evaluation.trajectories import key_of
from aliked_ros.frontend.depth import keypoint_depth
from aliked_ros.frontend.relocalization import find_candidate
from aliked_ros.frontend.stereo import StereoMatcher
from aliked_ros.frontend.verification import Verifier
from aliked_ros.io.images import grey
from aliked_ros.odometry.geometry import Transform
from aliked_ros.types import Candidate, Image, Keyframe, Pose, Tracks

KEYFRAMES = (10, 3, 1)
LEVELS = ((0.05, 5.0), (0.25, 2.0), (0.5, 5.0))
"""Limits in metres and degrees within which a pose counts as found."""
_LEAST = 10  # images with a true pose in each half
_BLOCKS = 5  # block length of the bootstrap, queries; neighbouring errors correlate


def _level(metres: float, degrees: float) -> str:
    return f"{metres * 100:.0f}cm_{degrees:.0f}deg"


METRICS = (
    *(
        Metric(_level(*level), f"{level[0] * 100:.0f} cm, {level[1]:.0f}°", percent=True)
        for level in LEVELS
    ),
    Metric("posed", "any pose", percent=True),
    Metric("error_cm", "median error of a pose, cm", "lower", 2, statistic="median"),
    Metric("error_deg", "and °", "lower", 2, statistic="median"),
    Metric("inliers", "inliers", digits=0),
)


@dataclass(frozen=True, slots=True)
class Glance:
    """What decides the halves. stamp: seconds. sharpness: variance of the Laplacian."""

    stamp: float
    sharpness: float
    has_depth: bool

    @classmethod
    def of(cls, image: Image) -> Glance:
        """Measure an image; blur lowers its sharpness."""
        sharpness = float(cv2.Laplacian(grey(image.pixels), cv2.CV_64F).var())
        return cls(image.stamp, sharpness, image.depth is not None or image.right is not None)


@dataclass(frozen=True, slots=True)
class Halves:
    """Two halves of a sequence in time, of the images with a true pose and depth.

    queries, references: image numbers of the harder and the other half. sharpness: median variance
    of the Laplacian of both. speed: median speed of both, m/s. first: whether the harder half comes
    first.
    """

    queries: list[int]
    references: list[int]
    sharpness: tuple[float, float]
    speed: tuple[float, float]
    first: bool

    def keyframes(self, count: int) -> list[int]:
        """``count`` references, spread evenly: the middles of equal parts of their time."""
        places = (np.arange(count) + 0.5) * len(self.references) / count
        return [self.references[int(place)] for place in places]


def evaluate_relocalization(
    run: Run,
    mode: Mode | None = None,
    keyframes: tuple[int, ...] = KEYFRAMES,
    every: int = 1,
) -> ResultTable:
    """Match each image of the harder half with each keyframe; the pose with most inliers counts.

    The sequence needs calibration, ground truth, and depth images or a stereo baseline, since the
    keyframes' depth makes poses metric. mode: ``rgbd`` or ``stereo``; None = what the sequence
    supports. keyframes: numbers of keyframes, each a separate task; with fewer, the nearest one is
    farther away. every: query one in ``every`` images.

    The sequence is split into two halves in time; the harder is the less sharp one (median variance
    of the Laplacian). Keyframes are spread evenly over the other half, the same for all methods.
    Raises SourceError if the sequence lacks any of these. A method that fails has a row that
    says why; so has one without descriptors, which cannot relocalise.
    """
    mode = mode or offered_mode(run.data)
    if mode == "mono":
        raise SourceError(
            f"{run.data} has no depth images and no stereo pairs with a baseline; relocalization "
            "needs one of them, or its poses have no scale."
        )
    if every < 1 or not keyframes or min(keyframes) < 1:
        raise ConfigurationError(
            f"every is {every} and the numbers of keyframes are "
            f"{', '.join(map(str, keyframes)) or 'none'}; all must be at least 1."
        )
    source = run.open_source(mode)
    seen = [Glance.of(image) for image in source]
    poses = enumerate(true_poses(run.data, [one.stamp for one in seen], rectified=mode == "stereo"))
    known = {number: pose for number, pose in poses if pose is not None}
    halves = split(seen, known)
    too_many = [count for count in keyframes if count > len(halves.references)]
    if too_many:
        raise ConfigurationError(
            f"{too_many[0]} keyframes are requested, but their half has "
            f"{len(halves.references)} images. Request fewer."
        )
    question = run.question(
        "relocalization",
        mode=mode,
        images=len(seen),
        keyframes=list(keyframes),
        every=every,
        stamps="nanoseconds",
    )
    camera = CameraModel.from_calibration(source.calibration or {})
    baseline = (source.calibration or {}).get("stereo_baseline_m")
    task = _Task(
        lambda: iter(run.open_source(mode)),
        [one.stamp for one in seen], known, halves, keyframes, every, camera, baseline, run.config,
    )  # fmt: skip
    with run.open(question) as (ledger, methods):
        units = [Unit(one.name, partial(_rows, one, task, run.report)) for one in methods]
        rows = ledger.measure(units, lambda _share: None)
        facts = described(question, methods) | {
            "queries": len(task.queries),
            "harder_half": "first" if halves.first else "second",
            "sharpness": [round(value, 1) for value in halves.sharpness],
            "speed_m_s": [round(value, 3) for value in halves.speed],
        }
    table = ResultTable(
        facts, rows, METRICS, run.methods, ("keyframes",), _BLOCKS, _remarks(facts, rows)
    )
    table.write(run.output)
    return table


def plot_relocalization(table: ResultTable, folder: Path) -> None:
    """relocalization.png: recall by position error, for each number of keyframes."""
    from aliked_ros.evaluation.plots import colour_of, figure

    counts = table.facts["keyframes"]
    limits = np.geomspace(0.002, 1.0, 200)
    with figure(folder / "relocalization.png", len(counts), width=4.0) as axes:
        for axis, count in zip(axes, counts, strict=True):
            for method in table.methods:
                errors = [
                    np.inf if row.get("error_cm") is None else row["error_cm"] / 100.0
                    for row in table.rows
                    if row["method"] == method and row["keyframes"] == count
                ]
                if np.isfinite(errors).any():
                    shares = [100 * np.mean(np.asarray(errors) <= one) for one in limits]
                    axis.plot(100 * limits, shares, color=colour_of(method), label=method)
            axis.set(
                xscale="log", ylim=(0, 102), xlabel="error of the position, cm",
                title=f"{count} keyframe{'s' if count > 1 else ''}",
            )  # fmt: skip
        axes[0].set_ylabel("images within, %")
        axes[0].legend(fontsize=8)


def split(seen: Sequence[Glance], poses: dict[int, Transform]) -> Halves:
    """The two halves of a sequence; poses: world_from_camera, by number of the image.

    Raises SourceError if one of them has too few images.
    """
    usable = [number for number, one in enumerate(seen) if number in poses and one.has_depth]
    middle = len(usable) // 2
    parts = (usable[:middle], usable[middle:])
    if middle < _LEAST:
        raise SourceError(
            f"{len(usable)} images have a true pose and depth; relocalization needs at least "
            f"{2 * _LEAST}. Use more images."
        )
    sharpness = [float(np.median([seen[i].sharpness for i in part])) for part in parts]
    speed = [_speed(seen, poses, part) for part in parts]
    hard, other = (0, 1) if sharpness[0] < sharpness[1] else (1, 0)
    return Halves(
        queries=parts[hard],
        references=parts[other],
        sharpness=(sharpness[hard], sharpness[other]),
        speed=(speed[hard], speed[other]),
        first=hard == 0,
    )


def _speed(seen: Sequence[Glance], poses: dict[int, Transform], part: list[int]) -> float:
    steps = [
        np.linalg.norm(poses[b].translation - poses[a].translation)
        / max(seen[b].stamp - seen[a].stamp, 1e-9)
        for a, b in pairwise(part)
    ]
    return float(np.median(steps))


@dataclass(frozen=True, slots=True)
class _Task:
    """The task, the same for all methods. images: opens the sequence. stamps: of its images."""

    images: Callable[[], Iterator[Image]]
    stamps: list[float]
    poses: dict[int, Transform]
    halves: Halves
    counts: tuple[int, ...]
    every: int
    camera: CameraModel
    baseline: float | None
    config: FrontendConfig

    @property
    def queries(self) -> list[int]:
        """Numbers of the query images."""
        return self.halves.queries[:: self.every]


def _rows(method: Method, task: _Task, report: Report) -> list[Row]:
    """One row per query and number of keyframes."""
    rows: list[Row] = [
        {"method": method.name, "unit": f"{key_of(task.stamps[query])} of {count}",
         "keyframes": count}
        for count in task.counts for query in task.queries
    ]  # fmt: skip
    if method.matcher is None:
        rows[0]["failed"] = "it has no descriptors to recognise an old view"
        return rows
    try:
        found = _candidates(method, task, partial(report, method.name))
    except OutputError:
        raise
    except FAILURES as error:
        rows[0]["failed"] = reason_of(error)
        return rows
    place = iter(rows)
    for count in task.counts:
        numbers = task.halves.keyframes(count)
        for query in task.queries:
            row = next(place)
            row |= _checked([found[query, number] for number in numbers], query, task)
    return rows


def _candidates(
    method: Method, task: _Task, report: Callable[[float], None]
) -> dict[tuple[int, int], Candidate | None]:
    """Matches of each query with each keyframe, by their numbers."""
    assert method.matcher is not None
    verifier = Verifier(task.config)
    numbers = {n for count in task.counts for n in task.halves.keyframes(count)}
    keyframes = [
        keyframe_of(method, number, image, task.camera, task.baseline, task.config)
        for number, image in enumerate(task.images())
        if number in numbers
    ]
    queries = set(task.queries)
    found: dict[tuple[int, int], Candidate | None] = {}
    for number, image in enumerate(task.images()):
        if number not in queries:
            continue
        features = method.view(image.pixels, image.mask).features
        for keyframe in keyframes:
            found[number, keyframe.index] = find_candidate(
                features, keyframe, task.camera, method.matcher, verifier
            )
        report(len(found) / (len(queries) * len(keyframes)))
    return found


def keyframe_of(
    method: Method,
    number: int,
    image: Image,
    camera: CameraModel | None,
    baseline: float | None,
    config: FrontendConfig,
) -> Keyframe:
    """An image with its features and their depth."""
    features = method.view(image.pixels, image.mask).features
    right_x = None
    if image.depth is None and image.right is not None:
        right = method.view(image.right).features
        right_x = StereoMatcher(config).match(features, right, image.pixels, image.right)
    none = np.zeros(len(features), np.uint64)
    return Keyframe(
        index=number,
        stamp=image.stamp,
        features=features,
        tracks=Tracks(none, none.astype(np.uint32), 0),
        normalized=None if camera is None else camera.normalize(features.keypoints),
        depth=keypoint_depth(image, features, right_x, camera, baseline),
    )


def _checked(candidates: Sequence[Candidate | None], query: int, task: _Task) -> Row:
    """Error of the metric pose with most inliers."""
    posed = [
        (one.inliers, one.keyframe.index, one.pose)
        for one in candidates
        if one is not None and one.pose is not None and one.pose.metric
    ]
    row: Row = {"posed": float(bool(posed)), "inliers": 0, "error_cm": None, "error_deg": None}
    metres = degrees = float("inf")
    if posed:
        row["inliers"], number, pose = max(posed, key=lambda one: one[0])
        metres, degrees = pose_error(pose, task.poses[number], task.poses[query])
        row |= {"keyframe": number, "error_cm": 100.0 * metres, "error_deg": degrees}
    for level in LEVELS:
        row[_level(*level)] = float(metres <= level[0] and degrees <= level[1])
    return row


def pose_error(pose: Pose, keyframe: Transform, query: Transform) -> tuple[float, float]:
    """Error in metres and degrees of a pose in a keyframe's frame.

    keyframe, query: their true poses, world_from_camera.
    """
    truth = keyframe.inverse() @ query
    turn = truth.rotation.T @ pose.rotation
    angle, _ = cv2.Rodrigues(turn)
    metres = float(np.linalg.norm(pose.translation - truth.translation))
    return metres, float(np.degrees(np.linalg.norm(angle)))


def _remarks(facts: Row, rows: list[Row]) -> list[str]:
    blur, speed = facts["sharpness"], facts["speed_m_s"]
    return [
        *(f"{row['method']} failed: {row['failed']}" for row in rows if row.get("failed")),
        f"Queries: {facts['queries']} images of the {facts['harder_half']} half, the less sharp "
        f"one (median variance of the Laplacian {blur[0]:.0f}, the other {blur[1]:.0f}; median "
        f"speed {speed[0]:.2f} and {speed[1]:.2f} m/s); keyframes are spread evenly over the other "
        "half. A pose within these cm and degrees counts as found; medians are over queries "
        "with a pose.",
    ]
