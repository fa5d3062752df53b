"""Trajectories of the reference back-end against ground truth, by evo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from evo import EvoException
from evo.core.metrics import APE, RPE, PoseRelation
from evo.core.sync import associate_trajectories
from evo.core.trajectory import PoseTrajectory3D

from aliked_ros.camera import CameraModel
from aliked_ros.errors import SourceError
from aliked_ros.odometry import Observation, Odometry
from aliked_ros.odometry.geometry import Transform
from aliked_ros.sources import Source
from aliked_ros.types import FrameResult, Image

_LARGEST_GAP = 0.005  # seconds between a pose and its ground truth


class Frontend(Protocol):
    """What :class:`Pipeline` and the baselines have in common."""

    camera: CameraModel | None
    baseline: float | None

    def process(self, image: Image) -> FrameResult:
        """Everything about the next image."""
        ...


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Distances of a trajectory, aligned as a whole, from ground truth; metres.

    poses: number compared. ate: root mean square of the absolute trajectory error; ate_max: its
    largest value. rpe: root mean square of the translation error from pose to pose. scale: what
    the trajectory was multiplied by; 1 where it is in metres.
    """

    poses: int
    ate: float
    ate_max: float
    rpe: float
    scale: float


def observe(
    source: Source, frontend: Frontend, carry: Callable[[FrameResult], Observation]
) -> Iterator[Observation]:
    """What a back-end is told of each image of a calibrated source.

    carry: how results travel to it, e.g. as a message and back.
    Raises SourceError when the source has no calibration.
    """
    if source.calibration is None:
        raise SourceError(f"{source.name} has no calib.json; odometry needs a calibrated camera.")
    frontend.camera = CameraModel.from_calibration(source.calibration)
    frontend.baseline = source.calibration.get("stereo_baseline_m")
    for image in source:
        yield carry(frontend.process(image))


def evaluate_odometry(
    observations: Iterable[Observation], truth: Path, use_depth: bool
) -> Accuracy:
    """Run the back-end and compare; use_depth: False hides the depth. See :func:`compare`."""
    odometry = Odometry()
    estimates = []
    for observation in observations:
        seen = observation if use_depth else replace(observation, depth=None)
        if (estimate := odometry.process(seen)) is not None:
            estimates.append(estimate)
    return compare(
        [estimate.stamp for estimate in estimates],
        [estimate.camera for estimate in estimates],
        truth,
        metric=all(estimate.metric for estimate in estimates),
    )


def compare(
    stamps: Sequence[float], cameras: Sequence[Transform], truth: Path, metric: bool
) -> Accuracy:
    """Poses (world_from_camera) against a file of 'stamp x y z qx qy qz qw' lines.

    They are aligned by a rigid motion where they are ``metric``, else by a similarity. Raises
    SourceError where that is not possible: too few poses, or no motion.
    """
    matrices = np.tile(np.eye(4), (len(cameras), 1, 1))
    for matrix, camera in zip(matrices, cameras, strict=True):
        matrix[:3, :3], matrix[:3, 3] = camera.rotation, camera.translation
    try:
        reference, trajectory = associate_trajectories(
            _true_trajectory(truth),
            PoseTrajectory3D(poses_se3=list(matrices), timestamps=np.array(stamps)),
            max_diff=_LARGEST_GAP,
        )
        _, _, scale = trajectory.align(reference, correct_scale=not metric)
    except EvoException as error:
        raise SourceError(
            f"{len(cameras)} poses cannot be compared with {truth}: {error} The camera moved too "
            "little, too few tracks last, or the stamps are others."
        ) from error
    absolute, relative = APE(PoseRelation.translation_part), RPE(PoseRelation.translation_part)
    absolute.process_data((reference, trajectory))
    relative.process_data((reference, trajectory))
    errors = absolute.get_all_statistics()
    return Accuracy(
        poses=trajectory.num_poses,
        ate=float(errors["rmse"]),
        ate_max=float(errors["max"]),
        rpe=float(relative.get_all_statistics()["rmse"]),
        scale=float(scale),
    )


def _true_trajectory(path: Path) -> PoseTrajectory3D:
    try:
        rows = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot read the ground truth {path}: {error}.") from error
    if rows.shape[1] != 8:
        raise SourceError(f"{path}: expected lines 'stamp x y z qx qy qz qw'.")
    rows = rows[np.isfinite(rows).all(1)]  # holes of the motion capture are nan
    return PoseTrajectory3D(
        positions_xyz=rows[:, 1:4],
        orientations_quat_wxyz=rows[:, [7, 4, 5, 6]],
        timestamps=rows[:, 0],
    )
