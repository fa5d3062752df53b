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

"""Make a sequence of fast rotation from a slow one: images are skipped, and turned.

    python tools/turn_sequence.py ../shared/data/tum_fr1_xyz /tmp/turned --every 3 --step 12
    python tools/turn_sequence.py ../shared/data/vamr_box_210 /tmp/panned --step 0 --pan-step 12

Image k of the result is turned in its plane by a roll that swings by --step degrees an image to
--sweep and back, and to the side by --pan-step to --pan-sweep and back. It is undistorted and cut
to the largest square that lies inside the original at every angle, so that it has no empty
corners; calibration, depth and true poses follow.
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
from aliked_ros.errors import SourceError
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
    step: Annotated[float, typer.Option(help="Roll from image to image, degrees.")] = 12.0,
    sweep: Annotated[float, typer.Option(min=1, help="Most roll to either side.")] = 90.0,
    pan_step: Annotated[float, typer.Option(help="Pan from image to image, degrees.")] = 0.0,
    pan_sweep: Annotated[float, typer.Option(min=1, help="Most pan to either side.")] = 15.0,
) -> None:
    """Write the turned sequence as a folder with frames.csv."""
    try:
        opened = open_source(source, partner="depth")
    except SourceError:  # it has none
        opened = open_source(source)
    if opened.calibration is None:
        raise typer.BadParameter(f"{source} has no calibration.", param_hint="SOURCE")
    camera = CameraModel.from_calibration(opened.calibration)
    focal = _SIDE / 2 / _half(camera, step != 0.0, pan_sweep if pan_step else 0.0)
    centre = (_SIDE - 1) / 2
    matrix = np.array([[focal, 0.0, centre], [0.0, focal, centre], [0.0, 0.0, 1.0]])
    for name in ("rgb", "depth"):
        (output / name).mkdir(parents=True, exist_ok=True)
    rows, pairs = ["# index,timestamp_s,image"], []
    truth = ["# timestamp tx ty tz qx qy qz qw"]
    for index, image in enumerate(islice(iter(opened), 0, None, every)):
        roll, pan = _swing(index, step, sweep), _swing(index, pan_step, pan_sweep)
        # from the camera to the turned one
        turn = Rotation.from_euler("ZY", [-roll, -pan], degrees=True).as_matrix()
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
    written = {"frames.csv": rows, "groundtruth_tum.txt": truth}
    if pairs:
        written["associations.txt"] = pairs
    for name, lines in written.items():
        (output / name).write_text("\n".join(lines) + "\n")
    calibration = calibration_of(_SIDE, _SIDE, matrix) | {
        "depth_scale": _DEPTH_UNITS,
        "rate_hz": opened.rate / every,
    }
    (output / "calib.json").write_text(json.dumps(calibration, indent=1))
    print(f"{output}: {len(rows) - 1} images of {_SIDE}×{_SIDE} pixels")


def _swing(index: int, step: float, sweep: float) -> float:
    """Degrees at an image: to ``sweep`` and back, ``step`` degrees an image."""
    return float(sweep * 2 / np.pi * np.arcsin(np.sin(np.radians(90 * index * step / sweep))))


def _half(camera: CameraModel, rolls: bool, pan: float) -> float:
    """Half the side of the largest square that always lies inside the image, on the z=1 plane.

    pan: degrees to either side.
    """
    around = np.radians(np.arange(360.0) if rolls else np.arange(45.0, 360.0, 90.0))
    corners = np.stack([np.cos(around), np.sin(around)], axis=1) * 2**0.5
    size = np.array([camera.width, camera.height])
    for half in np.arange(1.0, 0.05, -0.005):
        rays = np.column_stack([half * corners, np.ones(len(corners))])
        there = np.vstack(
            [Rotation.from_euler("y", a, degrees=True).apply(rays) for a in (-pan, 0.0, pan)]
        )
        if (there[:, 2] <= 0.0).any():
            continue
        seen = camera.project((there[:, :2] / there[:, 2:]).astype(np.float32))
        if ((seen > _BORDER) & (seen < size - _BORDER)).all():
            return float(half)
    raise typer.BadParameter(
        f"The image is too narrow for {pan:g}° to either side; give less.", param_hint="--pan-sweep"
    )


def _write(path: Path, pixels: NDArray[Any]) -> None:
    if not cv2.imwrite(str(path), pixels):
        raise typer.BadParameter(f"{path} cannot be written.", param_hint="OUTPUT")


if __name__ == "__main__":
    typer.run(main)
