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

"""The local map: a window of keyframes and their points."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import numpy as np

from aliked_ros.odometry.adjustment import Noise, View, adjust
from aliked_ros.odometry.geometry import Transform, reprojection_errors, triangulate
from aliked_ros.odometry.uncertainty import moved, window_covariances
from aliked_ros.types import BoolArray, Float64Array

_WINDOW = 10  # keyframes
_ADJUSTED_POINTS = 1000  # those seen most often; the others move with their view
_MAX_POINTS = 20_000  # those not seen for longest are dropped first
_STRIKES = 3  # consecutive images as an outlier before a point is dropped
TOLERANCE = 3.0  # standard deviations of a ray
LEAST_PARALLAX = 0.02  # radians; below it a triangulated depth is mostly noise
_WORST_DEPTH = 0.2  # largest relative standard deviation of a depth that may create a point


class LocalMap:
    """Points by track id, and the keyframes that constrain them.

    metric: whether it is in metres, from depth; otherwise depth is ignored. excess: factor of the
        covariances beyond those of independent errors.
    """

    def __init__(self, noise: Noise, metric: bool) -> None:
        self.metric = metric
        self.excess = 1.0
        self._noise = noise
        self._points: dict[int, Float64Array] = {}  # most recently seen last
        self._placed_by: dict[int, View] = {}  # the view that placed the point
        self._strikes: dict[int, int] = {}
        self._views: list[View] = []
        self._has_slid = False

    @property
    def views(self) -> list[View]:
        """The keyframes of the window, oldest first."""
        return self._views

    def points(self) -> Float64Array:
        """All points N×3, world."""
        return np.array(list(self._points.values())).reshape(-1, 3)

    def find(self, view: View) -> tuple[list[int], Float64Array]:
        """The K tracks of a view that have a point, and the points K×3."""
        tracks = [track for track in view.rows if track in self._points]
        return tracks, np.array([self._points[track] for track in tracks]).reshape(-1, 3)

    def check(self, tracks: list[int], agrees: BoolArray) -> None:
        """Drop points that are outliers in several images in a row (a track that jumped)."""
        for track, good in zip(tracks, agrees.tolist(), strict=True):
            if good:
                self._strikes.pop(track, None)
                self._points[track] = self._points.pop(track)  # seen last
                continue
            self._strikes[track] = self._strikes.get(track, 0) + 1
            if self._strikes[track] >= _STRIKES:
                self._drop(track)

    def add(self, view: View) -> None:
        """Add a keyframe: create points, adjust the window, drop the oldest keyframe."""
        self._views.append(view)
        if self.metric:
            self._add_points_by_depth(view)
        self._add_points_by_parallax(view)
        self._adjust()
        if len(self._views) > _WINDOW:
            del self._views[0]
            self._has_slid = True
        for track in list(self._points)[:-_MAX_POINTS]:
            self._drop(track)

    def _add_points_by_depth(self, view: View) -> None:
        known = may_begin_point(view, self._noise)
        world = view.camera.inverse()
        for track, row in view.rows.items():
            if known[row] and track not in self._points:
                local = np.append(view.rays[row], 1.0) * view.depth[row]
                self._place(track, world(local[None])[0], view)

    def _add_points_by_parallax(self, view: View) -> None:
        for other in self._views[:-1]:
            tracks = [t for t in view.rows if t in other.rows and t not in self._points]
            points, good = triangulate(
                other.camera,
                view.camera,
                other.rays_of(tracks),
                view.rays_of(tracks),
                TOLERANCE * self._noise.ray,
                LEAST_PARALLAX,
            )
            for row in np.flatnonzero(good).tolist():
                self._place(tracks[row], points[row], view)

    def _place(self, track: int, point: Float64Array, view: View) -> None:
        self._points[track] = point
        self._placed_by[track] = view

    def _adjust(self) -> None:
        counts: dict[int, int] = {}
        for view in self._views:
            for track in view.rows:
                if track in self._points:
                    counts[track] = counts.get(track, 0) + 1
        often = sorted((t for t, n in counts.items() if n > 1), key=lambda t: -counts[t])
        chosen = {track: self._points[track] for track in often[:_ADJUSTED_POINTS]}
        if len(self._views) < 2 or not chosen:
            return
        fixed = 2 if self._has_slid else int(self.metric)
        cameras, points = adjust(self._views, chosen, self._noise, fixed, self.metric)
        self._carry_along(cameras, except_for=points)
        for view, camera in zip(self._views, cameras, strict=True):
            view.camera = camera
        self._points.update(points)
        self._drop_bad(points)
        self._find_covariances([track for track in points if track in self._points], fixed)

    def _find_covariances(self, tracks: Iterable[int], fixed: int) -> None:
        """Of the views that were adjusted: the oldest one's, and what the window adds to it."""
        first = self._views[0]
        points = {track: self._points[track] for track in tracks}
        added = window_covariances(self._views, points, self._noise, self.metric)
        for view, own in list(zip(self._views, added, strict=True))[max(fixed, 1) :]:
            way = view.camera.inverse().translation - first.camera.inverse().translation
            view.covariance = moved(first.covariance, way) + self.excess * own

    def _carry_along(self, cameras: Sequence[Transform], except_for: Container[int]) -> None:
        """Move unadjusted points with the view that placed them.

        Otherwise the next image would be located on points from before the adjustment.
        """
        moves = {
            id(view): camera.inverse() @ view.camera
            for view, camera in zip(self._views, cameras, strict=True)
        }
        for track, point in self._points.items():
            move = moves.get(id(self._placed_by[track]))
            if move is not None and track not in except_for:
                self._points[track] = move(point[None])[0]

    def _drop_bad(self, tracks: Iterable[int]) -> None:
        """Drop points that are outliers in most keyframes."""
        errors: dict[int, list[float]] = {track: [] for track in tracks}
        for view in self._views:
            seen = [track for track in view.rows if track in errors]
            points = np.array([self._points[track] for track in seen]).reshape(-1, 3)
            found = reprojection_errors(view.camera, points, view.rays_of(seen))
            for track, error in zip(seen, found.tolist(), strict=True):
                errors[track].append(error)
        for track, values in errors.items():
            if np.median(values) > TOLERANCE * self._noise.ray:
                self._drop(track)

    def _drop(self, track: int) -> None:
        """Remove a point and its observations; the track then counts as a new point."""
        self._points.pop(track, None)
        self._placed_by.pop(track, None)
        self._strikes.pop(track, None)
        for view in self._views:
            view.rows.pop(track, None)


def may_begin_point(view: View, noise: Noise) -> BoolArray:
    """N bool: rows of a view whose depth is accurate enough to place a point."""
    return np.asarray(view.depth * noise.inverse_depth < _WORST_DEPTH)  # false for NaN
