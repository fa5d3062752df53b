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
pixels, velocities on the plane z = 1 per second, and ground truth (0), without
which its reader runs out of bounds.

The estimator counts: it takes the j-th observation of an id for one in the j-th message since the
first. So an id that was missing from one message never comes back.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import Point32
from sensor_msgs.msg import ChannelFloat32, PointCloud
from std_msgs.msg import Header

from aliked_ros.camera import CameraModel
from aliked_ros.ros.frame import Frame, Maker, OutputContext
from aliked_ros.types import Float32Array, FrameResult, IntArray, UInt64Array

CHANNELS = ("id", "camera", "u", "v", "vx", "vy", "gx", "gy", "gz")
EXACT_IDS = 1 << 24
"""A float32 holds whole numbers below this exactly; ids restart from here."""
MOST_POINTS = 400
"""In a message. The estimator has room for 1000 that were seen four times or more in its window of
11 messages, and checks no bounds: each of these places sees at most two there."""
_GRID = 10  # cells along the longer side over which they are spread


@dataclass(frozen=True, slots=True)
class _Seen:
    """The tracks of the message before: N ids of the tracker and of VINS (0 = was left out).

    rays: N×2 for each camera, NaN = not seen by it.
    """

    tracks: UInt64Array
    ids: UInt64Array
    rays: tuple[Float32Array, Float32Array]


_NONE = np.zeros(0, np.uint64)
_NO_RAYS = np.zeros((0, 2), np.float32)
_NOTHING = _Seen(_NONE, _NONE, (_NO_RAYS, _NO_RAYS))


class VinsOutput:
    """Makes the messages of successive images.

    cut: whether points of the latest image were left out, because there were too many.
    """

    def __init__(self) -> None:
        self.cut = False
        self._epoch = 0
        self._next_id = 1
        self._stamp = 0.0
        self._before = _NOTHING

    @property
    def wrapped(self) -> bool:
        """Whether ids have restarted."""
        return self._next_id > EXACT_IDS

    def message(
        self, result: FrameResult, camera: CameraModel, header: Header
    ) -> PointCloud | None:
        """The message of one image; None where ``normalized`` is not known.

        In it are the tracks that the image before saw, too: the first message of an epoch is
        empty. Of a stereo pair the right observations (camera 1) follow the left ones; ``camera``
        is the rectified camera of both.
        """
        if result.normalized is None:
            return None
        if result.tracks.epoch != self._epoch:
            self._epoch, self._before = result.tracks.epoch, _NOTHING
        before, elapsed = self._before, result.stamp - self._stamp
        seen = np.flatnonzero(
            np.isfinite(result.normalized).all(axis=1) & (result.tracks.static_ids > 0)
        )
        tracks, pixels = result.tracks.ids[seen], result.features.keypoints[seen]
        right = right_rays = np.full_like(pixels, np.nan)
        if result.right_x is not None:
            right = np.stack([result.right_x[seen], pixels[:, 1]], axis=1)
            right_rays = camera.normalize(right)
        views, rays = (pixels, right), (result.normalized[seen], right_rays)

        _, now, then = np.intersect1d(tracks, before.tracks, True, return_indices=True)
        ids = np.zeros(len(seen), np.uint64)
        ids[now] = before.ids[then]
        size = (result.features.width, result.features.height)
        kept = self._chosen(now, ids, pixels, size)
        ids = self._numbered(ids, kept)
        self._before = _Seen(tracks, ids, rays)
        self._stamp = result.stamp

        tables = []
        for number in range(2):
            moved = np.zeros_like(pixels)
            if elapsed > 0.0:
                moved[now] = (rays[number][now] - before.rays[number][then]) / np.float32(elapsed)
            rows = kept[np.isfinite(rays[number][kept]).all(axis=1)]
            table = np.zeros((len(rows), 2 + len(CHANNELS)), np.float32)
            table[:, 0:2] = rays[number][rows]
            table[:, 2] = ids[rows] % np.uint64(EXACT_IDS)
            table[:, 3] = number
            table[:, 4:6] = views[number][rows]
            table[:, 6:8] = np.nan_to_num(moved[rows])  # the right camera saw it only now
            tables.append(table)
        table = np.concatenate(tables)
        message = PointCloud(header=header)
        message.points = [Point32(x=x, y=y, z=1.0) for x, y in table[:, :2].tolist()]
        message.channels = [
            ChannelFloat32(name=name, values=array("f", column.tobytes()))
            for name, column in zip(CHANNELS, table.T[2:], strict=True)
        ]
        return message

    def _chosen(
        self, rows: IntArray, ids: UInt64Array, pixels: Float32Array, size: tuple[int, int]
    ) -> IntArray:
        """At most MOST_POINTS of the rows: those VINS has, then the best of cells with few, others.

        size: width and height of the image.
        """
        self.cut = len(rows) > MOST_POINTS
        rows = np.sort(rows)  # by score
        if not self.cut:
            return rows
        new = ids[rows] == 0
        rows = rows[np.argsort(new, kind="stable")]
        side = max(size) / _GRID
        across, down = (int(np.ceil(length / side)) for length in size)
        x, y = (pixels[rows] // side).astype(np.int64).T
        cells = y * across + x
        by_cell = np.argsort(cells, kind="stable")
        rank = np.empty(len(rows), np.int64)  # within its cell
        rank[by_cell] = np.arange(len(rows)) - np.searchsorted(cells[by_cell], cells[by_cell])
        # what VINS has stays: taken away, it would cost a landmark
        behind = np.sort(new) & (rank >= MOST_POINTS // (across * down))
        return np.sort(rows[np.argsort(behind, kind="stable")[:MOST_POINTS]])

    def _numbered(self, ids: UInt64Array, kept: IntArray) -> UInt64Array:
        """Ids of VINS: new ones where there were none, and 0 for what is not kept."""
        numbered = np.zeros_like(ids)
        numbered[kept] = ids[kept]
        new = kept[ids[kept] == 0]
        numbered[new] = np.arange(self._next_id, self._next_id + len(new))
        self._next_id += len(new)
        return numbered


class VinsFeature(Maker):
    """``~/vins_feature``."""

    def __init__(self, context: OutputContext) -> None:
        super().__init__(context)
        self._vins = VinsOutput()

    def message(self, frame: Frame) -> PointCloud | None:
        """The tracks of an image; warns, once, where they are not all there."""
        camera, warnings = self.context.calibration.camera, self.context.warnings
        message = None
        if camera is not None:
            message = self._vins.message(frame.result, camera, frame.header)
        if message is None:
            warnings.once(
                "Nothing on ~/vins_feature for images without a CameraInfo that fits them."
            )
            return None
        if self._vins.cut:
            warnings.once(
                f"More than {MOST_POINTS} tracks: ~/vins_feature has the best and most evenly "
                "spread of them, as VINS-Fusion's estimator crashes with too many."
            )
        if self._vins.wrapped:
            warnings.once(
                "Track ids on ~/vins_feature have restarted: its float32 cannot hold larger ones. "
                "Restart the estimator."
            )
        return message
