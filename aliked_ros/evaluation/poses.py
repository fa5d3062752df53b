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

"""True poses of a sequence's images, in published layouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from evo.core.trajectory import PoseTrajectory3D
from scipy.spatial.transform import Rotation, Slerp

from aliked_ros.errors import SourceError
from aliked_ros.odometry.geometry import Transform
from aliked_ros.sources.datasets import euroc_root, euroc_sensor
from aliked_ros.sources.rectification import rectify
from aliked_ros.types import Float64Array

LAYOUTS = (
    "groundtruth_tum.txt or groundtruth.txt (TUM: lines 'stamp x y z qx qy qz qw', seconds and "
    "metres), poses.txt or ../../poses/NN.txt with times.txt (KITTI: 3×4 matrices, one line an "
    "image), or state_groundtruth_estimate0/data.csv beside cam0/ (EuRoC)"
)
_EUROC = "state_groundtruth_estimate0"
_LARGEST_HOLE = 0.1  # seconds; no interpolation across a larger gap between true poses
_LATEST = 2.0**31  # seconds, of ROS's stamps
_LARGEST_ERROR = 0.05  # of the length of a quaternion, or of a rotation's column
_EXACT = 1e-4  # seconds; a true pose this close is used directly


def true_poses(
    source: str, stamps: Sequence[float], rectified: bool = False
) -> list[Transform | None]:
    """The camera's pose in the world (world_from_camera, metres) at each stamp (seconds).

    rectified: of the left camera of rectified stereo pairs, not of raw images. Poses are
    interpolated. None without a true pose: in a gap of the motion capture, before its start, after
    its end.
    Raises SourceError if the sequence has none in one of LAYOUTS.
    """
    path = truth_file(source)
    pose_at = interpolated(read_truth(path))
    turn = Transform.identity()
    if rectified and path.parent.name == _EUROC:
        turn = _raw_from_rectified(path.parents[1])
    poses = (pose_at(stamp) for stamp in stamps)
    return [None if pose is None else pose @ turn for pose in poses]


def interpolated(truth: PoseTrajectory3D) -> Callable[[float], Transform | None]:
    """The pose at a stamp (seconds), as in ``true_poses``."""
    times = np.asarray(truth.timestamps)
    positions = np.asarray(truth.positions_xyz)
    turns = Rotation.from_quat(np.asarray(truth.orientations_quat_wxyz)[:, [1, 2, 3, 0]])
    return lambda stamp: _pose_at(stamp, times, positions, turns)


def has_truth(source: str) -> bool:
    """Whether a sequence has true poses."""
    try:
        truth_file(source)
    except SourceError:
        return False
    return True


def truth_file(source: str) -> Path:
    """The file with a sequence's true poses; SourceError if there is none."""
    folder = Path(source).expanduser()
    folder = folder.parent if folder.is_file() else folder
    whole = folder.resolve()  # KITTI's sequences/NN, possibly given as a relative path
    root = euroc_root(folder)
    for path in (
        *(folder / name for name in ("groundtruth_tum.txt", "groundtruth.txt", "poses.txt")),
        *([] if root is None else [root / _EUROC / "data.csv"]),
        whole.parent.parent / "poses" / f"{whole.name}.txt",
    ):
        if path.is_file():
            return path
    raise SourceError(f"{source} has no known ground truth; add {LAYOUTS}.")


def read_truth(path: Path) -> PoseTrajectory3D:
    """Poses of one of the LAYOUTS by ascending time, without gaps (nan); SourceError otherwise."""
    if path.parent.name == _EUROC:
        rows = _euroc(path)
    elif path.name == "poses.txt" or path.parent.name == "poses":
        rows = _kitti(path)
    else:
        rows = _table(path, 8)
    rows = rows[np.isfinite(rows).all(1)]
    rows = rows[np.unique(rows[:, 0], return_index=True)[1]]
    if not len(rows):
        raise SourceError(f"{path} holds no pose; expected {LAYOUTS}.")
    if rows[-1, 0] > _LATEST:
        raise SourceError(f"{path} has the stamp {rows[-1, 0]:.0f}; stamps must be in seconds.")
    _check_unit(path, rows[:, 4:])
    return PoseTrajectory3D(
        positions_xyz=rows[:, 1:4],
        orientations_quat_wxyz=rows[:, [7, 4, 5, 6]],
        timestamps=rows[:, 0],
    )


def _kitti(path: Path) -> Float64Array:
    """Poses as TUM rows, of the left grey camera, or the colour one if that is used."""
    rows = _table(path, 12)
    sequence = path.parent
    if path.name != "poses.txt":  # as published: poses/NN.txt, sequences/NN/times.txt
        sequence = path.parents[1] / "sequences" / path.stem
    times = _table(sequence / "times.txt", 1).ravel()
    if len(times) < len(rows):
        raise SourceError(f"{path} has {len(rows)} poses, but times.txt {len(times)} times.")
    known = np.isfinite(rows).all(1)
    rows, times = rows[known], times[: len(rows)][known]
    matrices = rows.reshape(-1, 3, 4)
    lengths = np.linalg.norm(matrices[:, :, :3], axis=1)
    improper = (np.abs(lengths - 1.0) > _LARGEST_ERROR).any(1)
    improper |= np.linalg.det(matrices[:, :, :3]) <= 0.0
    if improper.any():
        raise SourceError(
            f"{path} has {matrices[improper][0].tolist()}, not a rotation and a translation; "
            f"expected {LAYOUTS}."
        )
    turns, places = matrices[:, :, :3], matrices[:, :, 3]
    places = places + turns @ _kitti_camera(sequence)
    stamps = times[:, None]
    return np.hstack([stamps, places, Rotation.from_matrix(turns).as_quat()])


def _kitti_camera(sequence: Path) -> Float64Array:
    """Pose of the camera in use in the frame of the published poses, the left grey camera."""
    grey, table = sequence / "image_0", sequence / "calib.txt"
    if grey.is_dir() or not (sequence / "image_2").is_dir() or not table.is_file():
        return np.zeros(3)
    for row in table.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        if row.startswith("P2:") and len(row.split()) == 13:
            projection = np.array(row.split()[1:], np.float64).reshape(3, 4)
            return np.asarray(-np.linalg.solve(projection[:, :3], projection[:, 3]), np.float64)
    return np.zeros(3)


def _euroc(path: Path) -> Float64Array:
    """Poses as TUM rows, of cam0, from the body poses and its sensor.yaml."""
    table = _table(path, 8, ",")
    table = table[np.isfinite(table).all(1)]
    _check_unit(path, table[:, 4:])
    sensor = euroc_sensor(path.parents[1] / "cam0" / "sensor.yaml")
    if sensor is None:
        raise SourceError(
            f"{path} has body poses; cam0/sensor.yaml is needed for those of the camera."
        )
    body = Rotation.from_quat(table[:, [5, 6, 7, 4]])
    _, body_from_camera = sensor
    places = table[:, 1:4] + body.apply(body_from_camera[:3, 3])
    turns = body * Rotation.from_matrix(body_from_camera[:3, :3])
    return np.hstack([table[:, :1] * 1e-9, places, turns.as_quat()])


def _check_unit(path: Path, quaternions: Float64Array) -> None:
    """SourceError for quaternions that are none: often other columns, or the wrong layout."""
    lengths = np.linalg.norm(quaternions, axis=1)
    if (wrong := np.flatnonzero(np.abs(lengths - 1.0) > _LARGEST_ERROR)).size:
        raise SourceError(
            f"{path} has the quaternion {quaternions[wrong[0]].tolist()}, whose length is not 1; "
            f"expected {LAYOUTS}."
        )


def _raw_from_rectified(root: Path) -> Transform:
    """Inverse of the rotation that rectifies the left images of a EuRoC data set."""
    left, right = (euroc_sensor(root / camera / "sensor.yaml") for camera in ("cam0", "cam1"))
    if left is None or right is None:
        raise SourceError(f"{root} lacks a sensor.yaml of both cameras for rectification.")
    turn = rectify(left[0], right[0], np.linalg.inv(right[1]) @ left[1]).rotation
    return Transform(turn.T, np.zeros(3))


def _table(path: Path, columns: int, delimiter: str | None = None) -> Float64Array:
    """The first ``columns`` numbers of each line; more are allowed if ``delimiter`` is given.

    Skips empty lines and lines that start with #.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        wanted = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        rows = np.loadtxt(wanted, ndmin=2, delimiter=delimiter) if wanted else np.zeros((0, 0))
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot read the ground truth {path}: {error}.") from error
    if wanted and (rows.shape[1] != columns if delimiter is None else rows.shape[1] < columns):
        raise SourceError(f"{path} has {rows.shape[1]} numbers a line; expected {LAYOUTS}.")
    return rows[:, :columns].reshape(-1, columns)


def _pose_at(
    stamp: float, times: Float64Array, positions: Float64Array, turns: Rotation
) -> Transform | None:
    after = int(np.searchsorted(times, stamp))
    for index in (after - 1, after):
        if 0 <= index < len(times) and abs(times[index] - stamp) < _EXACT:
            return Transform(turns[index].as_matrix(), positions[index])
    if after in (0, len(times)) or times[after] - times[after - 1] > _LARGEST_HOLE:
        return None
    share = (stamp - times[after - 1]) / (times[after] - times[after - 1])
    between = Slerp([0.0, 1.0], turns[[after - 1, after]])(share)
    position = (1.0 - share) * positions[after - 1] + share * positions[after]
    return Transform(between.as_matrix(), position)
