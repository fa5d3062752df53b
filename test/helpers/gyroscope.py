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


"""A camera that turns and moves as it likes: what its gyroscope measures and its tracks show."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from aliked_ros.camera import CameraModel, create_camera
from aliked_ros.frontend.gyroscope import Gyroscope
from aliked_ros.types import Features, FrameResult, Matches, Tracks

Array = NDArray[np.float64]

CAMERA_FROM_IMU = Rotation.from_euler("xyz", [90.0, 20.0, -70.0], degrees=True).as_matrix()


def camera(model: str = "", distortion: tuple[float, ...] = ()) -> CameraModel:
    matrix = np.array([[420.0, 0.0, 319.0], [0.0, 421.0, 241.0], [0.0, 0.0, 1.0]])
    return create_camera(640, 480, matrix, model, np.array(distortion))


def orientation(stamp: float | Array) -> Rotation:
    """world_from_camera of a hand-held camera that turns by up to 100 degrees a second."""
    t = np.asarray(stamp, np.float64)
    angles = (
        0.5 * np.sin(2.3 * t + 0.3) + 0.1 * np.sin(9.0 * t),
        0.4 * np.sin(3.1 * t) + 0.1 * np.sin(7.0 * t + 1.0),
        0.3 * np.sin(1.7 * t + 2.0),
    )
    return Rotation.from_euler("yxz", np.stack(angles, axis=-1))


def rates(stamps: Array) -> Array:
    """N×3, rad/s about the IMU's axes."""
    step = 1e-5
    turned = orientation(stamps - step).inv() * orientation(stamps + step)
    return turned.as_rotvec() / (2 * step) @ CAMERA_FROM_IMU


def filled(stamps: Array, measured: Array, offset: float = 0.0) -> Gyroscope:
    """A gyroscope with samples, its clock ``offset`` seconds before the camera's."""
    return Gyroscope.recorded(stamps + offset, measured)


def results(stamps: Array, noise: float = 0.3, seed: int = 0) -> Iterator[FrameResult]:
    """Images of points in a room, each with the tracks of those that it sees; noise: pixels."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(3000, 3))
    points *= rng.uniform(2.0, 6.0, (len(points), 1)) / np.linalg.norm(points, axis=1)[:, None]
    model = camera()
    for index, stamp in enumerate(stamps):
        place = 0.3 * np.array([np.sin(stamp), np.cos(0.7 * stamp), np.sin(1.3 * stamp)])
        local = orientation(stamp).inv().apply(points - place)
        ahead = local[:, 2] > 0.5
        pixels = np.full((len(points), 2), np.nan)
        rays = local[ahead, :2] / local[ahead, 2:]
        pixels[ahead] = model.project(rays.astype(np.float32))
        pixels += rng.normal(0.0, noise, pixels.shape)
        rows = np.flatnonzero(((pixels >= 0) & (pixels < [640, 480])).all(1))[:300]
        keypoints = pixels[rows].astype(np.float32)
        count, none = len(rows), np.zeros((len(rows), 0), np.float32)
        yield FrameResult(
            index, float(stamp),
            Features(keypoints, np.ones(count, np.float32), none, 640, 480, ""),
            Matches.empty(),
            Tracks(rows.astype(np.uint64) + 1, np.ones(count, np.uint32), 0),
            normalized=model.normalize(keypoints),
        )  # fmt: skip
