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

"""Make a sequence of fast rotation from a slow one: images are skipped, and turned in their plane.

    python tools/turn_sequence.py ../shared/data/tum_fr1_xyz /tmp/turned --every 3 --step 12

Image k of the result is turned by a roll that swings by --step degrees an image to --sweep and
back. It is undistorted and cut to the square that lies inside the original at every angle, so that
it has no empty corners; calibration, depth and true poses follow.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from aliked_ros.camera import CameraModel
from aliked_ros.evaluation.poses import true_poses
from aliked_ros.sources import open_source
from aliked_ros.sources.base import calibration_of

_SIDE = 400  # pixels of the square images
_BORDER = 20  # pixels of the original that the principal point and the lens may be off
_DEPTH_UNITS = 5000  # a metre


def main(
    source: str,
    output: Path,
    every: Annotated[int, typer.Option(min=1, help="Keep one image of so many.")] = 3,
    step: Annotated[float, typer.Option(help="Degrees from image to image.")] = 12.0,
    sweep: Annotated[float, typer.Option(help="Degrees to either side.")] = 90.0,
) -> None:
    """Write the turned sequence as a folder with frames.csv."""
    opened = open_source(source, partner="depth")
    if opened.calibration is None:
        raise typer.BadParameter(f"{source} has no calibration.", param_hint="SOURCE")
    camera = CameraModel.from_calibration(opened.calibration)
    # the circle of the original's shorter side has to hold the square
    zoom = _SIDE * 2**0.5 / (camera.height - 2 * _BORDER)
    focal = float(camera.matrix[0, 0]) * zoom
    centre = (_SIDE - 1) / 2
    matrix = np.array([[focal, 0.0, centre], [0.0, focal, centre], [0.0, 0.0, 1.0]])
    for name in ("rgb", "depth"):
        (output / name).mkdir(parents=True, exist_ok=True)
    rows, pairs = ["# index,timestamp_s,image"], []
    truth = ["# timestamp tx ty tz qx qy qz qw"]
    for index, image in enumerate(islice(iter(opened), 0, None, every)):
        roll = (
            np.radians(sweep) * 2 / np.pi * np.arcsin(np.sin(np.radians(90 * index * step / sweep)))
        )
        turn = Rotation.from_euler("z", -roll).as_matrix()  # from the camera to the turned one
        maps = camera.rectification_maps(turn, matrix, (_SIDE, _SIDE))
        rgb, depth = f"rgb/{index:04d}.png", f"depth/{index:04d}.png"
        _write(output / rgb, cv2.remap(image.pixels, *maps, cv2.INTER_AREA)[..., ::-1])
        if image.depth is not None:
            units = np.nan_to_num(image.depth * _DEPTH_UNITS).astype(np.uint16)
            _write(output / depth, cv2.remap(units, *maps, cv2.INTER_NEAREST))
            pairs.append(f"{image.stamp:.6f} {rgb} {image.stamp:.6f} {depth}")
        rows.append(f"{index},{image.stamp:.6f},{rgb}")
        (pose,) = true_poses(source, [image.stamp])
        if pose is not None:
            turned = Rotation.from_matrix(pose.rotation @ turn.T).as_quat()
            numbers = " ".join(f"{value:.9f}" for value in (*pose.translation, *turned))
            truth.append(f"{image.stamp:.6f} {numbers}")
    for name, lines in (
        ("frames.csv", rows), ("associations.txt", pairs), ("groundtruth_tum.txt", truth),
    ):  # fmt: skip
        (output / name).write_text("\n".join(lines) + "\n")
    calibration = calibration_of(_SIDE, _SIDE, matrix) | {
        "depth_scale": _DEPTH_UNITS,
        "rate_hz": opened.rate / every,
    }
    (output / "calib.json").write_text(json.dumps(calibration, indent=1))
    print(f"{output}: {len(rows) - 1} images of {_SIDE}×{_SIDE} pixels")


def _write(path: Path, pixels: NDArray[Any]) -> None:
    if not cv2.imwrite(str(path), pixels):
        raise typer.BadParameter(f"{path} cannot be written.", param_hint="OUTPUT")


if __name__ == "__main__":
    typer.run(main)
