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

"""A made-up room for odometry, where every answer is known."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from aliked_ros.odometry import Estimate, Observation
from aliked_ros.odometry.geometry import Transform

PIXEL = 0.002
COUNT = 300


class Room:
    """Points in a box; a camera that sways before them. Noise: 0.3 px and 0.2 % of 1/depth."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.points = self.rng.uniform([-2, -1.5, 2.5], [2, 1.5, 6], (COUNT, 3))
        self.ids = np.arange(1, COUNT + 1, dtype=np.uint64)

    def camera(self, index: int) -> Transform:
        """camera_from_world; the identity for image 0."""
        phase = index / 12.0
        centre = 0.6 * np.array([np.sin(phase), 0.4 * (1 - np.cos(phase)), 0.3 * np.sin(phase)])
        angle = 0.1 * np.sin(phase)
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        return Transform(rotation, -rotation @ centre)

    def observation(self, index: int, seen: int = COUNT, epoch: int = 0) -> Observation:
        local = self.camera(index)(self.points)[:seen]
        rays = local[:, :2] / local[:, 2:] + self.rng.normal(0, 0.3 * PIXEL, (seen, 2))
        depth = 1.0 / (1.0 / local[:, 2] + self.rng.normal(0, 0.002, seen))
        return Observation(
            index / 30.0,
            self.ids[:seen],
            rays.astype(np.float32),
            epoch,
            depth.astype(np.float32),
        )

    def error(self, index: int, estimate: Estimate) -> float:
        """Distance of the estimated from the true position, metres."""
        truth = self.camera(index).inverse().translation
        return float(np.linalg.norm(estimate.camera.translation - truth))


class RigRoom(Room):
    """A room around a rig: two cameras look ahead and overlap, the third looks back.

    The rig's frame is between them, and no camera's. The cameras give no depth.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.points = self.rng.uniform(-1.0, 1.0, (1500, 3)) * [4.0, 2.0, 4.0]
        self.points = self.points[np.abs(self.points[:, [0, 2]]).max(axis=1) > 2.0]
        self.ids = np.arange(1, len(self.points) + 1, dtype=np.uint64)
        self.mounts = {  # frame_from_camera
            "left": mount(-0.15, 3.0),
            "right": mount(0.15, -3.0),
            "back": mount(0.05, 180.0, z=-0.2),
        }

    def rig(self, index: int, *names: str) -> list[Observation]:
        """The observations of the cameras, or of some of them."""
        return [self.seen(index, name, self.mounts[name]) for name in names or self.mounts]

    def seen(self, index: int, name: str, mount: Transform) -> Observation:
        """What a camera sees that is mounted so at that time."""
        local = (mount.inverse() @ self.camera(index))(self.points)
        rays = local[:, :2] / local[:, 2:]
        shown = (local[:, 2] > 0.5) & (np.abs(rays) < [0.6, 0.45]).all(1)
        rays = rays[shown] + self.rng.normal(0, 0.3 * PIXEL, (np.count_nonzero(shown), 2))
        return Observation(
            index / 30.0,
            self.ids[shown],
            rays.astype(np.float32),
            pixel=PIXEL,
            camera=name,
            mount=mount,
        )


def mount(x: float, yaw: float, z: float = 0.0, pitch: float = 0.0) -> Transform:
    """frame_from_camera; metres, degrees about y and then x."""
    turn = Rotation.from_euler("YX", [yaw, pitch], degrees=True).as_matrix()
    return Transform(turn, np.array([x, 0.0, z]))
