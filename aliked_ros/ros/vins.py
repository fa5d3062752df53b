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

"""Tracks as VINS-Fusion's estimator reads them: sensor_msgs/PointCloud with nine channels.

Points are (x_n, y_n, 1), undistorted; the channels are id, camera, u, v, vx, vy, gx, gy, gz:
pixels, velocities on the plane z = 1 per second, and a ground truth that nobody has (0), without
which its reader runs out of bounds.
"""

from __future__ import annotations

from array import array

import numpy as np
from geometry_msgs.msg import Point32
from numpy.typing import NDArray
from sensor_msgs.msg import ChannelFloat32, PointCloud
from std_msgs.msg import Header

from aliked_ros.camera import CameraModel
from aliked_ros.types import Float32Array, FrameResult, UInt64Array

CHANNELS = ("id", "camera", "u", "v", "vx", "vy", "gx", "gy", "gz")
EXACT_IDS = 1 << 24
"""A float32 holds whole numbers below this exactly; ids begin anew from here."""


class VinsOutput:
    """Makes the messages of successive images."""

    def __init__(self) -> None:
        self._epoch = 0
        self._first_id = 0  # of this epoch: ids of two epochs must not meet in the estimator
        self._next_id = 0
        self._stamp = 0.0
        self._before: dict[int, tuple[UInt64Array, Float32Array]] = {}

    @property
    def wrapped(self) -> bool:
        """Whether ids have begun anew."""
        return self._next_id > EXACT_IDS

    def message(
        self, result: FrameResult, camera: CameraModel, header: Header
    ) -> PointCloud | None:
        """The message of one image; None where ``normalized`` is not known.

        Every track is in it, new ones with velocity 0. Of a stereo pair the right observations
        (camera 1) follow the left ones; ``camera`` is the rectified camera of both.
        """
        if result.normalized is None:
            return None
        ids = self._own_ids(result)
        pixels = result.features.keypoints
        views = [(pixels, result.normalized)]
        if result.right_x is not None:
            right = np.stack([result.right_x, pixels[:, 1]], axis=1)
            views.append((right, camera.normalize(right)))
        else:
            self._before.pop(1, None)
        elapsed, self._stamp = result.stamp - self._stamp, result.stamp
        tables = [
            self._table(number, ids, view, rays, elapsed)
            for number, (view, rays) in enumerate(views)
        ]
        message = PointCloud(header=header)
        rows = np.concatenate([table for table, _ in tables])
        rays = np.concatenate([rays for _, rays in tables]).tolist()
        message.points = [Point32(x=x, y=y, z=1.0) for x, y in rays]
        message.channels = [
            ChannelFloat32(name=name, values=array("f", column.tobytes()))
            for name, column in zip(CHANNELS, rows.T, strict=True)
        ]
        return message

    def _own_ids(self, result: FrameResult) -> UInt64Array:
        """Ids that go on growing where the tracker's begin at 1 again."""
        if result.tracks.epoch != self._epoch:
            self._epoch, self._first_id = result.tracks.epoch, self._next_id
            self._before = {}
        ids = result.tracks.ids + np.uint64(self._first_id)
        self._next_id = max(self._next_id, int(ids.max(initial=0)) + 1)
        return ids

    def _table(
        self,
        number: int,
        ids: UInt64Array,
        pixels: Float32Array,
        rays: Float32Array,
        elapsed: float,
    ) -> tuple[NDArray[np.float32], Float32Array]:
        """The channels (N×9) and rays (N×2) of one camera, without what it does not see."""
        seen = np.isfinite(rays).all(axis=1)
        ids, pixels, rays = ids[seen], pixels[seen], rays[seen]
        velocity = np.zeros_like(rays)
        if number in self._before and elapsed > 0.0:
            ids_before, rays_before = self._before[number]
            _, now, before = np.intersect1d(ids, ids_before, True, return_indices=True)
            velocity[now] = (rays[now] - rays_before[before]) / np.float32(elapsed)
        self._before[number] = (ids, rays)
        table = np.zeros((len(ids), len(CHANNELS)), np.float32)
        table[:, 0] = ids % np.uint64(EXACT_IDS)
        table[:, 1] = number
        table[:, 2:4] = pixels
        table[:, 4:6] = velocity
        return table, rays
