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

"""Trajectories of the reference back-end against ground truth, by evo."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from evo.core.trajectory import PoseTrajectory3D

from aliked_ros.errors import OutputError, SourceError
from aliked_ros.evaluation.baselines import Frontend
from aliked_ros.evaluation.failures import FAILURES, reason_of
from aliked_ros.evaluation.ledger import Row, Unit
from aliked_ros.evaluation.methods import Method
from aliked_ros.evaluation.poses import true_poses
from aliked_ros.evaluation.result_table import Metric, Report, ResultTable
from aliked_ros.evaluation.run import Run, described
from aliked_ros.evaluation.sequences import Mode, calibrate, offered_mode
from aliked_ros.evaluation.trajectories import (
    Aligned,
    align,
    compare_common,
    draw,
    file_of,
    key_of,
    read_tum,
    trajectory,
    write_tum,
)
from aliked_ros.odometry import Estimate, Observation, Odometry, pixel_size
from aliked_ros.sources import Source
from aliked_ros.types import FrameResult

TRUTH = "groundtruth.txt"
"""File of the compared images' true poses, in TUM format."""
_BLOCKS = 10  # block length of the bootstrap, images; neighbouring errors correlate
METRICS = (
    Metric("posed", "images with a pose", percent=True, digits=0),
    Metric("error_cm", "ATE (rmse) on common images, cm", "lower", 2, statistic="rms"),
    Metric("step_cm", "RPE (rmse) on common images, cm an image", "lower", 2, statistic="rms"),
)

Carry = Callable[[FrameResult], Observation]


def as_observation(result: FrameResult) -> Observation:
    """A result as a back-end's observation, without a message."""
    if result.normalized is None:
        raise SourceError("there is no model of the camera; odometry needs a calibrated one.")
    tracks, rays = result.tracks, result.normalized
    pixel = pixel_size(result.features.keypoints, rays)
    rest = tracks.at_rest
    depth = None if result.depth is None else result.depth[rest]
    return Observation(result.stamp, tracks.ids[rest], rays[rest], tracks.epoch, depth, pixel)


def observe(source: Source, frontend: Frontend, carry: Carry) -> Iterator[Observation]:
    """The back-end's observation for each image of a calibrated source.

    carry: converts results to observations, e.g. through a message.
    Raises SourceError if the source has no calibration.
    """
    calibrate(source, frontend)
    for image in source:
        yield carry(frontend.process(image))


def follow(observations: Iterable[Observation], use_depth: bool) -> list[Estimate]:
    """The back-end's estimates; use_depth: False hides the depth."""
    odometry = Odometry()
    estimates = []
    for observation in observations:
        seen = observation if use_depth else replace(observation, depth=None)
        if (estimate := odometry.process(seen)) is not None:
            estimates += [*odometry.earlier, estimate]
    return estimates


def evaluate_odometry(
    run: Run,
    mode: Mode | None = None,
    first: int = 0,
    carry: Carry = as_observation,
) -> ResultTable:
    """Run the reference back-end on each method's front-end, and compare with ground truth.

    mode: None = the best that the sequence supports. first: number of the first
    image whose pose is compared; the front-end also sees earlier ones. carry: see ``observe``.

    Besides the tables, writes the estimated poses (``odometry_METHOD.txt``) and the true ones to
    the output, both in TUM format, for evo's commands.
    Raises SourceError for a sequence without calibration, ground truth, or what the mode needs.
    A method that fails has a row that says why.
    """
    mode = mode or offered_mode(run.data)
    source = run.open_source(mode)
    stamps = [image.stamp for image in source]
    truths = true_poses(run.data, stamps, rectified=mode == "stereo")
    poses = dict(zip(stamps, truths, strict=True))
    known = {stamp: pose for stamp, pose in list(poses.items())[first:] if pose is not None}
    if len(known) < _BLOCKS:
        raise SourceError(
            f"{len(known)} of the {len(stamps)} images of {run.data} to compare have a "
            f"true pose; at least {_BLOCKS} are needed. Use more images."
        )
    question = run.question(
        "odometry",
        mode=mode,
        images=len(stamps),
        first=first,
        carried=carry.__name__,
        stamps="nanoseconds",
    )
    truth = trajectory(list(known), list(known.values()))
    with run.open(question) as (ledger, methods):
        write_tum(run.output / TRUTH, truth)
        units = [Unit(one.name, partial(_rows, one, run, mode, truth, carry)) for one in methods]
        rows = ledger.measure(units, lambda _share: None)
        facts = described(question, methods)
    common = _add_errors(rows, truth, run.output)
    remarks = [*_remarks(rows, common), _ALIGNMENT[mode == "mono"]]
    table = ResultTable(facts, rows, METRICS, run.methods, blocks=_BLOCKS, remarks=remarks)
    table.write(run.output)
    return table


def plot_odometry(table: ResultTable, folder: Path) -> None:
    """trajectories.png: the trajectories and their errors over time."""
    truth = read_tum(folder / TRUTH)
    title = f"{table.facts['data']}, {table.facts['mode']}"
    draw(folder / "trajectories.png", truth, _aligned(table, truth, folder), title)


_ALIGNMENT = {
    False: "Trajectories are in metres and aligned rigidly.",
    True: "One camera gives no scale: trajectories are aligned by similarity.",
}


def _rows(method: Method, run: Run, mode: Mode, truth: PoseTrajectory3D, carry: Carry) -> list[Row]:
    """One row per image with a true pose; the first also has the figures of the whole run."""
    begin = time.monotonic()
    failed = ""
    estimates: list[Estimate] = []
    found: Aligned | None = None
    try:
        source = run.open_source(mode)
        observations = _reported(
            observe(source, method.frontend(), carry), source, method, run.report
        )
        estimates = follow(observations, use_depth=mode != "mono")
        write_tum(run.output / file_of("odometry", method.name), _poses(estimates))
        found = align(truth, _poses(estimates), _metric(estimates))
    except OutputError:
        raise
    except FAILURES as error:
        failed = reason_of(error)
    posed = {key_of(estimate.stamp) for estimate in estimates}
    rows: list[Row] = [
        {"method": method.name, "unit": key_of(stamp), "posed": float(key_of(stamp) in posed)}
        for stamp in truth.timestamps
    ]
    rows[0] |= {
        "own_ate_cm": None if found is None else 100.0 * found.ate,
        "scale": None if found is None else found.scale,
        "metric": _metric(estimates),
        "maps": len({estimate.map_index for estimate in estimates}),
        "seconds": round(time.monotonic() - begin, 1),
        "failed": failed,
    }
    return rows


def _add_errors(rows: list[Row], truth: PoseTrajectory3D, folder: Path) -> int:
    """Add errors of images for which all methods have a pose, and of steps between them.

    Reads the methods' files, from this run or an earlier one. Returns the number of images.
    """
    runs = {row["method"]: row for row in rows if "failed" in row}
    found = {
        name: read_tum(folder / file_of("odometry", name))
        for name, run in runs.items()
        if not run["failed"]
    }
    aligned, common = compare_common(truth, found, {n: runs[n]["metric"] for n in found})
    for name, one in aligned.items():
        keys = list(map(key_of, one.stamps))
        errors = dict(zip(keys, (100.0 * one.errors).tolist(), strict=True))
        steps = dict(zip(keys[1:], (100.0 * one.steps).tolist(), strict=True))
        before = ""
        for row in (row for row in rows if row["method"] == name):
            key = row["unit"]
            row["error_cm"] = errors.get(key)
            row["step_cm"] = steps.get(key) if before in errors else None
            before = key
    return common


def _reported(
    observations: Iterable[Observation], source: Source, method: Method, report: Report
) -> Iterator[Observation]:
    for number, observation in enumerate(observations, 1):
        yield observation
        report(method.name, number / (source.length or number))


def _aligned(table: ResultTable, truth: PoseTrajectory3D, folder: Path) -> dict[str, Aligned]:
    """The aligned trajectories of methods that did not fail, from this run or an earlier one."""
    runs = {row["method"]: row for row in table.rows if "failed" in row}
    return {
        name: align(truth, read_tum(folder / file_of("odometry", name)), runs[name]["metric"])
        for name in table.methods
        if not runs[name]["failed"]
    }


def _remarks(rows: list[Row], common: int) -> list[str]:
    runs = [row for row in rows if "failed" in row]
    compared = {row["method"] for row in rows if row.get("error_cm") is not None}
    remarks = [f"{run['method']} failed: {run['failed']}" for run in runs if run["failed"]]
    remarks += [
        f"{run['method']} lost tracking: {run['maps']} maps." for run in runs if run["maps"] > 1
    ]
    remarks += [
        f"{run['method']} has a pose for less than half of the images and is not compared: ATE "
        f"{run['own_ate_cm']:.2f} cm on its own images."
        for run in runs
        if not run["failed"] and run["method"] not in compared
    ]
    if compared:
        remarks.append(
            f"ATE and RPE are over the {common} images for which all compared methods have a pose."
        )
    return remarks


def _poses(estimates: Sequence[Estimate]) -> PoseTrajectory3D:
    if not estimates:
        raise SourceError("the back-end found no pose: too few tracks last, or nothing moves.")
    return trajectory([one.stamp for one in estimates], [one.camera for one in estimates])


def _metric(estimates: Sequence[Estimate]) -> bool:
    return bool(estimates) and all(estimate.metric for estimate in estimates)
