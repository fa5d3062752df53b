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

"""Structure from motion: each front-end's tracks and matches in COLMAP's incremental mapping."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pycolmap
from evo.core.trajectory import PoseTrajectory3D

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError, OutputError, SourceError
from aliked_ros.evaluation.failures import FAILURES, reason_of
from aliked_ros.evaluation.ledger import Row, Unit
from aliked_ros.evaluation.methods import Method
from aliked_ros.evaluation.poses import has_truth, true_poses
from aliked_ros.evaluation.result_table import Metric, ResultTable
from aliked_ros.evaluation.run import Run, described
from aliked_ros.evaluation.sequences import calibrate
from aliked_ros.evaluation.trajectories import (
    align,
    compare_common,
    draw,
    file_of,
    key_of,
    read_tum,
    trajectory,
    write_tum,
)
from aliked_ros.exporting.colmap import DATABASE, DatabaseWriter, verify_pairs
from aliked_ros.exporting.mapping import reconstruct
from aliked_ros.exporting.recording import RecordedFrame, RecordedMatches
from aliked_ros.io.messages import whole_nanoseconds
from aliked_ros.odometry.geometry import Transform
from aliked_ros.sources import Source
from aliked_ros.types import Matches

GAPS = (1, 2, 4, 8)
"""Distances of matched images, in mapped images, as in COLMAP's sequential matcher with quadratic
overlap."""
TRUTH, KIND = "groundtruth.txt", "reconstruction"
_LEAST = 3  # images
_BLOCKS = 5  # block length of the bootstrap, images; neighbouring errors correlate
METRICS = (
    Metric("registered", "images registered", percent=True, digits=0),
    Metric("points", "points", digits=0),
    Metric("track_length", "images a point", digits=2),
    Metric("reprojection_px", "reprojection error, px", "lower", 2),
    Metric("centre_cm", "centre error (rmse), cm", "lower", 2, statistic="rms"),
    Metric("centre_cm", "median, cm", "lower", 2, statistic="median"),
    Metric("mapping_s", "mapping, s", "lower", 1),
)


@dataclass(frozen=True, slots=True)
class _Task:
    """The task, the same for all methods. chosen: numbers of the mapped images."""

    run: Run
    chosen: list[int]
    stamps: list[float]
    gaps: tuple[int, ...]
    truth: PoseTrajectory3D | None

    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of image numbers to match."""
        return [
            (first, second)
            for gap in self.gaps
            for first, second in zip(self.chosen, self.chosen[gap:], strict=False)
        ]


def evaluate_reconstruction(
    run: Run,
    every: int = 3,
    gaps: tuple[int, ...] = GAPS,
) -> ResultTable:
    """Reconstruct with COLMAP from each method's features, tracks and matches.

    every: the front-ends see every image; one in ``every`` is mapped. gaps:
    distances of matched images, in mapped images; the same pairs for all methods, matched by the
    method's matcher, if any, and by shared tracks.

    COLMAP verifies the matches itself, with one seed for all. Besides the tables, writes
    ``colmap_METHOD/`` with database and model, and the camera poses as TUM files, to the output.
    Raises SourceError for a sequence without calibration. Without ground truth there is no centre
    error. A method that fails has a row that says why.
    """
    if every < 1 or not gaps or min(gaps) < 1:
        raise ConfigurationError(
            f"every is {every} and the gaps are {', '.join(map(str, gaps)) or 'none'}; all must be "
            "at least 1."
        )
    source = run.open_source("mono")
    stamps = [image.stamp for image in source]
    chosen = list(range(0, len(stamps), every))
    if len(chosen) < _LEAST:
        raise SourceError(
            f"{len(chosen)} images of {run.data} would be mapped, one in {every} of "
            f"{len(stamps)}; at least {_LEAST} are needed. Use more images."
        )
    question = run.question(
        KIND, images=len(stamps), every=every, gaps=list(gaps), stamps="nanoseconds"
    )
    task = _Task(run, chosen, stamps, gaps, _truth(run.data, [stamps[i] for i in chosen]))
    with run.open(question) as (ledger, methods):
        if task.truth is not None:
            write_tum(run.output / TRUTH, task.truth)
        units = [Unit(one.name, partial(_rows, one, task)) for one in methods]
        rows = ledger.measure(units, lambda _share: None)
        common = _add_errors(rows, task)
        facts = described(question, methods) | {
            "mapped": len(chosen),
            "pairs": len(task.pairs()),
        }
    table = ResultTable(
        facts,
        rows,
        METRICS,
        run.methods,
        blocks=_BLOCKS,
        remarks=_remarks(facts, rows, task, common),
    )
    table.write(run.output)
    return table


def plot_reconstruction(table: ResultTable, folder: Path) -> None:
    """reconstruction.png: camera centres with ground truth, and their errors over time."""
    if not (folder / TRUTH).is_file():
        return
    truth = read_tum(folder / TRUTH)
    failed = {row["method"] for row in table.rows if row.get("failed")}
    found = {
        name: align(truth, read_tum(folder / file_of(KIND, name)), metric=False)
        for name in table.methods
        if name not in failed
    }
    draw(folder / "reconstruction.png", truth, found, f"{table.facts['data']}, COLMAP")


def _truth(sequence: str, stamps: list[float]) -> PoseTrajectory3D | None:
    if not has_truth(sequence):
        return None
    poses = true_poses(sequence, stamps)
    known = [(stamp, pose) for stamp, pose in zip(stamps, poses, strict=True) if pose is not None]
    return trajectory(*map(list, zip(*known, strict=True))) if len(known) >= _LEAST else None


def _rows(method: Method, task: _Task) -> list[Row]:
    """One row per mapped image; the first also has the figures of the whole model."""
    keys = [key_of(task.stamps[number]) for number in task.chosen]
    rows: list[Row] = [
        {"method": method.name, "unit": key, "registered": 0.0, "centre_cm": None} for key in keys
    ]
    whole: Row = {"failed": ""}
    try:
        folder = task.run.output / file_of("colmap", method.name, "")
        whole |= _write(method, task, folder, partial(task.run.report, method.name))
        begin = time.monotonic()
        model = reconstruct(folder / DATABASE, folder / "sparse")
        whole["mapping_s"] = time.monotonic() - begin
        found = _cameras(model)
        for row in rows:
            row["registered"] = float(row["unit"] in set(map(key_of, found.timestamps)))
        whole |= {
            "points": model.num_points3D(),
            "track_length": _images_a_point(model),
            "reprojection_px": model.compute_mean_reprojection_error(),
        }
        write_tum(task.run.output / file_of(KIND, method.name), found)
        if task.truth is not None:
            align(task.truth, found, metric=False)  # raises if it fails
    except OutputError:
        raise
    except FAILURES as error:
        whole["failed"] = reason_of(error)
    rows[0] |= whole
    return rows


def _write(method: Method, task: _Task, folder: Path, report: Callable[[float], None]) -> Row:
    """Fill a database with a method's results; returns the matching figures."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begin = time.monotonic()
    source = task.run.open_source("mono")
    frames, camera = _frames(method, source, set(task.chosen), lambda share: report(share / 2))
    with pycolmap.Database.open(folder / DATABASE) as database:
        writer = DatabaseWriter(database, camera)
        for number in task.chosen:
            writer.add(frames[number])
        pairs = task.pairs()
        for done, (first, second) in enumerate(pairs, 1):
            before, after = frames[first], frames[second]
            matches = Matches.empty()
            if method.matcher is not None:
                matches = method.matcher.match(before.features, after.features)
            one = RecordedMatches((after.stamp, after.index), (before.stamp, before.index), matches)
            writer.add_matches(one, tracks=True)
            report((1 + done / len(pairs)) / 2)
        matched = writer.pairs
    verify_pairs(folder / DATABASE, matched)
    seconds = time.monotonic() - begin
    with pycolmap.Database.open(folder / DATABASE) as database:
        return {
            "matched_pairs": len(matched),
            "verified_pairs": database.num_verified_image_pairs(),
            "matches": database.num_matches(),
            "inliers": database.num_inlier_matches(),
            "matching_s": seconds,
        }


def _frames(
    method: Method, source: Source, chosen: set[int], report: Callable[[float], None]
) -> tuple[dict[int, RecordedFrame], CameraModel]:
    """Features and tracks of the chosen images, by number, and the camera."""
    frontend = method.frontend()
    camera = calibrate(source, frontend)
    frames: dict[int, RecordedFrame] = {}
    for number, image in enumerate(source):
        result = frontend.process(image)
        if number in chosen:
            stamp = whole_nanoseconds(image.stamp)
            frames[number] = RecordedFrame(
                stamp, number, result.features, result.tracks, result.normalized
            )
        report((number + 1) / (source.length or number + 1))
    return frames, camera


def _images_a_point(model: pycolmap.Reconstruction) -> float:
    """Mean number of images per point.

    COLMAP's mean track length counts keypoints, of which ORB's pyramid gives several per image and
    point.
    """
    counts = [
        len({element.image_id for element in point.track.elements})
        for point in model.points3D.values()
    ]
    return float(np.mean(counts)) if counts else 0.0


def _cameras(model: pycolmap.Reconstruction) -> PoseTrajectory3D:
    """The registered images' poses by stamp, in the model's own frame and scale."""
    images = sorted(
        (model.images[number] for number in model.reg_image_ids()), key=lambda image: image.name
    )
    stamps = [float(image.name.rsplit(".", 1)[0]) for image in images]
    cameras = []
    for image in images:
        pose = image.cam_from_world().inverse()
        cameras.append(Transform(np.asarray(pose.rotation.matrix()), np.asarray(pose.translation)))
    return trajectory(stamps, cameras)


def _add_errors(rows: list[Row], task: _Task) -> int:
    """Add errors of camera centres of images registered by all methods; returns their number."""
    if task.truth is None:
        return 0
    names = [row["method"] for row in rows if row.get("failed") == ""]
    found = {name: read_tum(task.run.output / file_of(KIND, name)) for name in names}
    aligned, common = compare_common(task.truth, found, dict.fromkeys(names, False))
    for name, one in aligned.items():
        errors = dict(zip(map(key_of, one.stamps), (100.0 * one.errors).tolist(), strict=True))
        for row in rows:
            if row["method"] == name:
                row["centre_cm"] = errors.get(row["unit"])
    return common


def _remarks(facts: Row, rows: list[Row], task: _Task, common: int) -> list[str]:
    remarks = [f"{row['method']} failed: {row['failed']}" for row in rows if row.get("failed")]
    gaps = ", ".join(map(str, task.gaps))
    remarks.append(
        f"{facts['mapped']} of {facts['images']} images are mapped, {facts['pairs']} pairs of them "
        f"matched ({gaps} apart), the same for all methods; gftt+lk has its tracks only."
    )
    remarks.append(
        "There is no ground truth: no centre error."
        if task.truth is None
        else f"Camera centres are aligned with the true ones by similarity, over the {common} "
        "images that are common to all methods with at least half of them."
    )
    return remarks
