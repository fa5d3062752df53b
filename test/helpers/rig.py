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

"""A rig of virtual cameras: real pixels, and poses that are known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from aliked_ros.sources.virtual import VirtualCamera
from aliked_ros.types import Float32Array


def pose(x: float, y: float, z: float, yaw: float = 0.0, pitch: float = 0.0) -> np.ndarray:
    """4×4, metres and degrees."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("yx", (yaw, pitch), degrees=True).as_matrix()
    matrix[:3, 3] = x, y, z
    return matrix


class MountedCamera(VirtualCamera):
    """A virtual camera on a body that moves as the virtual camera does; both look at the wall."""

    def __init__(self, body_from_camera: np.ndarray, **options: Any) -> None:
        self.body_from_camera = body_from_camera
        super().__init__(**{"shutter": 0.0, "stops": 0.0, "size": (320, 240)} | options)

    def _pose(self, time: float) -> np.ndarray:
        return super()._pose(time) @ self.body_from_camera

    def depth(self, index: int, keypoints: Float32Array) -> np.ndarray:
        """Metres along the optical axis to the photograph, for pixels N×2."""
        world = self.pose(index)
        rays = np.column_stack([keypoints, np.ones(len(keypoints))])
        rays = rays @ np.linalg.inv(self.camera_matrix).T
        return -world[2, 3] / (rays @ world[:3, :3].T)[:, 2]


def camchain(cameras: list[MountedCamera], size: tuple[int, int] | None = None) -> str:
    """Kalibr's YAML of these cameras."""
    lines = []
    for number, camera in enumerate(cameras):
        matrix, (width, height) = camera.camera_matrix, size or camera._size
        lines += [
            f"cam{number}:",
            "  camera_model: pinhole",
            f"  intrinsics: {[float(matrix[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))]}",
            "  distortion_model: none",
            "  distortion_coeffs: []",
            f"  resolution: [{width}, {height}]",
        ]
        if number:
            before = cameras[number - 1].body_from_camera
            chain = np.linalg.inv(camera.body_from_camera) @ before
            lines += [f"  T_cn_cnm1: {chain.tolist()}"]
    return "\n".join(lines) + "\n"
