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

"""Trajectories with evo: building, aligning, writing and plotting."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from evo import EvoException
from evo.core.metrics import APE, RPE, PoseRelation
from evo.core.sync import associate_trajectories
from evo.core.trajectory import PoseTrajectory3D
from evo.tools import file_interface

from aliked_ros.errors import SourceError
from aliked_ros.io.messages import whole_nanoseconds
from aliked_ros.io.results import output_path
from aliked_ros.odometry.geometry import Transform
from aliked_ros.types import Float64Array

_LARGEST_GAP = 0.005  # seconds between a pose and its ground truth
_LEAST_POSES = 3  # needed for an alignment
_LEAST_SHARE = 0.5  # least share of images with a pose to be compared


@dataclass(frozen=True, slots=True)
class Aligned:
    """A trajectory aligned with ground truth.

    stamps: N seconds, of common poses. positions, truth: N×3, metres. errors: N metres, distance of
    each position from the true one. steps: N−1 metres, translation error from each pose to the
    next. scale: factor applied to the trajectory; 1 if it is in metres.
    """

    stamps: Float64Array
    positions: Float64Array
    truth: Float64Array
    errors: Float64Array
    steps: Float64Array
    scale: float

    @property
    def ate(self) -> float:
        """Root mean square of the absolute trajectory error, metres."""
        return _rms(self.errors)

    @property
    def rpe(self) -> float:
        """Root mean square of the translation error from pose to pose, metres."""
        return _rms(self.steps)


def trajectory(stamps: Sequence[float], cameras: Sequence[Transform]) -> PoseTrajectory3D:
    """Poses (world_from_camera) at stamps (seconds)."""
    matrices = np.tile(np.eye(4), (len(cameras), 1, 1))
    for matrix, camera in zip(matrices, cameras, strict=True):
        matrix[:3, :3], matrix[:3, 3] = camera.rotation, camera.translation
    return PoseTrajectory3D(poses_se3=list(matrices), timestamps=np.array(stamps, np.float64))


def align(truth: PoseTrajectory3D, estimate: PoseTrajectory3D, metric: bool) -> Aligned:
    """Align a trajectory with the true one, all positions together, by least squares.

    Rigidly if ``metric``, otherwise by similarity. Raises SourceError if that is impossible: too
    few common poses, or no motion.
    """
    try:
        reference, found = associate_trajectories(truth, estimate, max_diff=_LARGEST_GAP)
        if found.num_poses < _LEAST_POSES:
            raise EvoException(f"only {found.num_poses} have a true pose.")
        _, _, scale = found.align(reference, correct_scale=not metric)
    except EvoException as error:
        raise SourceError(
            f"{estimate.num_poses} poses cannot be compared with the ground truth: {error} The "
            "camera moved too little, too few tracks last, or the stamps are others."
        ) from error
    absolute, relative = APE(PoseRelation.translation_part), RPE(PoseRelation.translation_part)
    absolute.process_data((reference, found))
    relative.process_data((reference, found))
    return Aligned(
        stamps=np.asarray(found.timestamps),
        positions=np.asarray(found.positions_xyz),
        truth=np.asarray(reference.positions_xyz),
        errors=np.asarray(absolute.error),
        steps=np.asarray(relative.error),
        scale=float(scale),
    )


def compare_common(
    truth: PoseTrajectory3D, found: Mapping[str, PoseTrajectory3D], metric: Mapping[str, bool]
) -> tuple[dict[str, Aligned], int]:
    """Align methods on common images; otherwise skipping hard images would be an advantage.

    found: trajectories, by method. metric: see ``align``. Returns the comparable ones, and the
    number of their common images. A method with a pose for less than half of the images of
    ``truth`` is excluded, since it would leave too few for the others.
    """
    wanted = set(map(key_of, truth.timestamps))
    posed = {name: wanted & set(map(key_of, poses.timestamps)) for name, poses in found.items()}
    posed = {name: keys for name, keys in posed.items() if len(keys) >= _LEAST_SHARE * len(wanted)}
    common = set.intersection(*posed.values()) if posed else set()
    if len(common) < _LEAST_POSES:
        return {}, len(common)
    aligned = {}
    for name in posed:
        poses = copy.deepcopy(found[name])
        poses.reduce_to_ids([i for i, t in enumerate(poses.timestamps) if key_of(t) in common])
        try:
            aligned[name] = align(truth, poses, metric[name])
        except SourceError:  # no motion in them
            continue
    return aligned, len(common)


def write_tum(target: Path, poses: PoseTrajectory3D) -> None:
    """Write 'stamp x y z qx qy qz qw' lines, as evo's commands read them."""
    with output_path(target) as path:
        file_interface.write_tum_trajectory_file(path, poses)


def read_tum(path: Path) -> PoseTrajectory3D:
    """Read what ``write_tum`` wrote."""
    return file_interface.read_tum_trajectory_file(path)


def draw(target: Path, truth: PoseTrajectory3D, found: Mapping[str, Aligned], title: str) -> None:
    """Plot the trajectories from above, and their errors over time.

    found: by method. From above: in the two axes in which the true one extends most.
    """
    from aliked_ros.evaluation.plots import colour_of, figure

    positions = np.asarray(truth.positions_xyz)
    across, up = sorted(np.argsort(-np.ptp(positions, axis=0))[:2].tolist())
    begin = float(truth.timestamps[0])
    with figure(target, 2, width=5.5, height=4.2) as (above, over_time):
        above.plot(positions[:, across], positions[:, up], "k--", label="ground truth")
        for name, one in found.items():
            style = {"color": colour_of(name), "linewidth": 1.3, "label": name}
            above.plot(one.positions[:, across], one.positions[:, up], **style)
            over_time.plot(*_with_gaps(one.stamps - begin, 100.0 * one.errors), **style)
        above.set(xlabel=f"{'xyz'[across]}, m", ylabel=f"{'xyz'[up]}, m", title=title)
        above.set_aspect("equal", adjustable="datalim")
        over_time.set(xlabel="time, s", ylabel="distance from ground truth, cm")
        over_time.set_ylim(bottom=0)
        if found:
            over_time.legend(fontsize=8)


def key_of(stamp: float) -> str:
    """A stamp (seconds) as the name of its image in rows.

    In whole nanoseconds, which survive messages and files exactly; microseconds would be rounded.
    """
    seconds, rest = divmod(whole_nanoseconds(stamp), 1_000_000_000)
    return f"{seconds}.{rest:09d}"


def file_of(kind: str, method: str, suffix: str = ".txt") -> str:
    """Name of a method's file."""
    return f"{kind}_{method.replace('+', '_')}{suffix}"


def _with_gaps(stamps: Float64Array, values: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Insert NaN at missing poses, so that no line is drawn across."""
    if len(stamps) < 2:
        return stamps, values
    intervals = np.diff(stamps)
    holes = np.flatnonzero(intervals > 2.5 * np.median(intervals)) + 1
    return np.insert(stamps, holes, np.nan), np.insert(values, holes, np.nan)


def _rms(values: Float64Array) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else float("nan")
