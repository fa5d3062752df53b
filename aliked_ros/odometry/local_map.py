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

from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np

from aliked_ros.odometry.adjustment import adjust
from aliked_ros.odometry.geometry import Transform, triangulate
from aliked_ros.odometry.uncertainty import moved, window_covariances
from aliked_ros.odometry.views import Noise, Sight, View
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

    def count(self, view: View) -> int:
        """How many tracks of a view have a point."""
        return sum(track in self._points for track in view.rows)

    def find(self, view: View) -> tuple[list[Sight], Float64Array]:
        """The K sights of a view whose tracks have a point, and the points K×3."""
        sights = view.sights(track for track in view.rows if track in self._points)
        return sights, self._of(sights)

    def check(self, sights: list[Sight], agrees: BoolArray) -> None:
        """Drop points that are outliers in several images in a row (a track that jumped)."""
        good_tracks = {track for (track, _), good in zip(sights, agrees, strict=True) if good}
        for track in dict.fromkeys(track for track, _ in sights):
            if track in good_tracks:
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
            for track, point in points_at_once(view, self._noise, self._points):
                self._place(track, point, view)
        self._add_points_by_parallax(view)
        self._adjust()
        if len(self._views) > _WINDOW:
            del self._views[0]
            self._has_slid = True
        for track in list(self._points)[:-_MAX_POINTS]:
            self._drop(track)

    def merge(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Tracks (from, into) have turned out to be one."""
        for gone, kept in pairs:
            if gone in self._points and kept not in self._points:
                self._place(kept, self._points[gone], self._placed_by[gone])
            for view in self._views:
                if gone in view.rows:
                    view.rows[kept] = view.rows.pop(gone) | view.rows.get(kept, {})
            self._drop(gone)

    def _of(self, sights: Iterable[Sight]) -> Float64Array:
        """The points K×3 of sights."""
        return np.array([self._points[track] for track, _ in sights]).reshape(-1, 3)

    def _add_points_by_parallax(self, view: View) -> None:
        for other in self._views[:-1]:
            tracks = [t for t in view.rows if t in other.rows and t not in self._points]
            sights = other.first_sights(tracks), view.first_sights(tracks)
            for track, point in _triangulated(other, view, *sights):
                self._place(track, point, view)

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
            seen = view.sights(track for track in view.rows if track in errors)
            found = view.errors(seen, self._of(seen))
            for (track, _), error in zip(seen, found.tolist(), strict=True):
                errors[track].append(error)
        for track, values in errors.items():
            if np.median(values) > TOLERANCE:
                self._drop(track)

    def _drop(self, track: int) -> None:
        """Remove a point and its observations; the track then counts as a new point."""
        self._points.pop(track, None)
        self._placed_by.pop(track, None)
        self._strikes.pop(track, None)
        for view in self._views:
            view.rows.pop(track, None)


def points_at_once(
    view: View, noise: Noise, known: Container[int] = ()
) -> Iterator[tuple[int, Float64Array]]:
    """The tracks whose points (world) one view shows, by an accurate depth or by two cameras.

    known: tracks that need none.
    """
    world = view.mounts @ view.camera
    accurate = view.depth * noise.inverse_depth < _WORST_DEPTH  # false for NaN
    several: dict[tuple[int, int], list[int]] = {}  # tracks by pair of cameras
    for track, rows in view.rows.items():
        if track in known:
            continue
        row = next((row for row in rows.values() if accurate[row]), None)
        if row is not None:
            local = np.append(view.rays[row], 1.0) * view.depth[row]
            yield track, world[row].inverse()(local)
            continue
        for pair in combinations(rows, 2):
            several.setdefault(pair, []).append(track)
    placed: set[int] = set()
    for (one, other), tracks in several.items():
        tracks = [track for track in tracks if track not in placed]
        sights = [(track, one) for track in tracks], [(track, other) for track in tracks]
        for track, point in _triangulated(view, view, *sights):
            placed.add(track)
            yield track, point


def _triangulated(
    first: View, second: View, first_sights: list[Sight], second_sights: list[Sight]
) -> Iterator[tuple[int, Float64Array]]:
    """The tracks whose points (world) follow from one sight in each of two views."""
    points, good = triangulate(
        first.cameras(first_sights),
        second.cameras(second_sights),
        first.rays_of(first_sights),
        second.rays_of(second_sights),
        TOLERANCE
        * np.stack([first.noise[first.at(first_sights)], second.noise[second.at(second_sights)]]),
        LEAST_PARALLAX,
    )
    for row in np.flatnonzero(good).tolist():
        yield first_sights[row][0], points[row]
