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

"""True poses of a sequence's images, in the layouts that publish them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from evo.core.trajectory import PoseTrajectory3D
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from aliked_ros.errors import SourceError
from aliked_ros.odometry.geometry import Transform

LAYOUTS = (
    "groundtruth_tum.txt or groundtruth.txt (TUM: lines 'stamp x y z qx qy qz qw', seconds and "
    "metres), or poses.txt with times.txt (KITTI: 3×4 matrices, one line an image)"
)
_LARGEST_HOLE = 0.1  # seconds between two true poses, across which is not interpolated
_EXACT = 1e-4  # seconds: a true pose that is so near is the image's own


def true_poses(source: str, stamps: Sequence[float]) -> list[Transform | None]:
    """The camera's pose in the world (world_from_camera, metres) at each stamp (seconds).

    Between two poses it is interpolated. None where there is no true pose: in a hole of the motion
    capture, before its beginning, after its end.
    Raises SourceError when the sequence publishes none in one of LAYOUTS.
    """
    pose_at = interpolated(read_truth(truth_file(source)))
    return [pose_at(stamp) for stamp in stamps]


def interpolated(truth: PoseTrajectory3D) -> Callable[[float], Transform | None]:
    """The pose at a stamp (seconds), as ``true_poses`` gives it."""
    times = np.asarray(truth.timestamps)
    positions = np.asarray(truth.positions_xyz)
    turns = Rotation.from_quat(np.asarray(truth.orientations_quat_wxyz)[:, [1, 2, 3, 0]])
    return lambda stamp: _pose_at(stamp, times, positions, turns)


def has_truth(source: str) -> bool:
    """Whether ``true_poses`` can tell anything of a sequence."""
    try:
        truth_file(source)
    except SourceError:
        return False
    return True


def truth_file(source: str) -> Path:
    """The file with a sequence's true poses; SourceError where there is none."""
    folder = Path(source).expanduser()
    folder = folder.parent if folder.is_file() else folder
    for name in ("groundtruth_tum.txt", "groundtruth.txt", "poses.txt"):
        if (folder / name).is_file():
            return folder / name
    raise SourceError(f"{source} has no ground truth that is known; put there {LAYOUTS}.")


def read_truth(path: Path) -> PoseTrajectory3D:
    """Poses of one of the LAYOUTS by rising time, holes (nan) left out; SourceError otherwise."""
    kitti = path.name == "poses.txt"
    rows = _numbers(path)
    columns = 12 if kitti else 8
    if rows.shape[1] != columns:
        raise SourceError(f"{path} has {rows.shape[1]} numbers a line; expected {LAYOUTS}.")
    if kitti:
        times = _numbers(path.parent / "times.txt").ravel()
        if len(times) < len(rows):
            raise SourceError(f"{path} has {len(rows)} poses, but times.txt {len(times)} times.")
        matrices = rows.reshape(-1, 3, 4)
        turns = Rotation.from_matrix(matrices[:, :, :3]).as_quat()
        rows = np.hstack([times[: len(rows), None], matrices[:, :, 3], turns])
    rows = rows[np.isfinite(rows).all(1)]
    rows = rows[np.unique(rows[:, 0], return_index=True)[1]]
    if not len(rows):
        raise SourceError(f"{path} holds no pose; expected {LAYOUTS}.")
    return PoseTrajectory3D(
        positions_xyz=rows[:, 1:4],
        orientations_quat_wxyz=rows[:, [7, 4, 5, 6]],
        timestamps=rows[:, 0],
    )


def _numbers(path: Path) -> NDArray[np.float64]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        wanted = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        return np.loadtxt(wanted, ndmin=2) if wanted else np.zeros((0, 0))
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot read the ground truth {path}: {error}.") from error


def _pose_at(
    stamp: float, times: NDArray[np.float64], positions: NDArray[np.float64], turns: Rotation
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
