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

"""Odometry: one pose for each image of tracks."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import compress

import numpy as np

from aliked_ros.odometry.adjustment import Noise, View
from aliked_ros.odometry.geometry import (
    Float64Array,
    Transform,
    locate,
    relative_pose,
    triangulate,
    unrotated_motion,
)
from aliked_ros.odometry.local_map import LEAST_PARALLAX, TOLERANCE, LocalMap, may_begin_point
from aliked_ros.types import Float32Array, UInt64Array

logger = logging.getLogger(__name__)

_LEAST_POINTS = 15  # that must agree with a pose
_LEAST_START = 40  # points of a new map
_START_PARALLAX = 0.02  # radians between the two views of a start, rotation taken out; median
_KEYFRAME_MOTION = 0.06  # median motion of the rays since the last keyframe
_KEYFRAME_TRACKED = 0.6  # or less than this share of its points is still seen
_LEAST_SHARE = 0.3  # of the tracks of two views that must give points, else no map starts there
_LOST_IMAGES = 5  # images without a pose, after which a new map begins


@dataclass(frozen=True, slots=True)
class Observation:
    """One image's tracks, as a FeatureFrame carries them.

    stamp: seconds. ids: N uint64, 0 = untracked. rays: N×2, undistorted, on the plane z = 1,
    NaN = not known. epoch: ids of two epochs are unrelated. depth: N metres along the optical
    axis, NaN = none; None without.
    """

    stamp: float
    ids: UInt64Array
    rays: Float32Array
    epoch: int = 0
    depth: Float32Array | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Where the camera was.

    stamp: of the observation. camera: world_from_camera; the world is the first camera's optical
        frame (x right, y down, z forward).
    metric: whether that is in metres; else the scale is arbitrary.
    is_keyframe: whether the observation was taken into the map.
    map_index: number of the map, from 0; two maps may differ in scale.
    points: how many points agree with the pose.
    """

    stamp: float
    camera: Transform
    metric: bool
    is_keyframe: bool
    map_index: int
    points: int


class Odometry:
    """Tracks in, poses out; not for concurrent calls.

    A map begins in metres as soon as an image brings enough depth; else with two views that lie
    far enough apart, at an arbitrary scale. A new one begins with a new epoch and when the tracks
    are lost: at the last pose known and, without depth, at about the last scale.
    """

    def __init__(self, noise: Noise | None = None) -> None:
        self._noise = noise or Noise()
        self._tolerance = TOLERANCE * self._noise.ray
        self._map: LocalMap | None = None
        self._map_index = -1
        self._first_view: View | None = None  # of a start without depth
        self._camera = Transform.identity()  # camera_from_world, the newest known
        self._scale = 1.0  # median depth of the points seen from there
        self._last: tuple[int, float] | None = None  # epoch, stamp
        self._failures = 0

    def points(self) -> Float64Array:
        """The map's points N×3, world."""
        return np.zeros((0, 3)) if self._map is None else self._map.points()

    def process(self, observation: Observation) -> Estimate | None:
        """The pose at the next observation; None where it cannot be told, or for an old stamp."""
        if self._last is not None:
            epoch, stamp = self._last
            if observation.epoch != epoch:
                self._end_map(f"epoch {observation.epoch} begins")
            elif observation.stamp <= stamp:
                return None
        self._last = (observation.epoch, observation.stamp)
        view = _view(observation, self._camera)
        has_depth = np.count_nonzero(may_begin_point(view, self._noise)) >= _LEAST_START
        if self._map is not None and has_depth and not self._map.metric:
            self._end_map("there is depth now")
        if self._map is not None:
            return self._track(observation.stamp, view)
        if has_depth:
            return self._start_with_depth(observation.stamp, view)
        return self._start_with_parallax(observation.stamp, view)

    def _track(self, stamp: float, view: View) -> Estimate | None:
        assert self._map is not None
        tracks, points = self._map.find(view)
        found = locate(points, view.rays_of(tracks), self._tolerance)
        if found is None or np.count_nonzero(found[1]) < _LEAST_POINTS:
            self._failures += 1
            if self._failures == _LOST_IMAGES:
                self._end_map(f"{self._failures} images in a row have no pose")
            return None
        self._failures = 0
        view.camera, agrees = found
        self._map.judge(tracks, agrees)
        for track in compress(tracks, ~agrees):
            del view.rows[track]
        is_keyframe = self._is_keyframe(view, list(compress(tracks, agrees)))
        if is_keyframe:
            self._map.add(view)
        self._camera = view.camera
        self._scale = float(np.median(view.camera(points[agrees])[:, 2]))
        return self._estimate(stamp, is_keyframe, int(np.count_nonzero(agrees)))

    def _is_keyframe(self, view: View, tracks: list[int]) -> bool:
        """Whether too little is left of the last keyframe's points, or they moved far."""
        assert self._map is not None
        last = self._map.views[-1]
        common = [track for track in tracks if track in last.rows]
        if len(common) < _KEYFRAME_TRACKED * len(self._map.find(last)[0]):
            return True
        return _motion(last, view, common) > _KEYFRAME_MOTION

    def _start_with_depth(self, stamp: float, view: View) -> Estimate:
        self._map = self._begin_map(metric=True)
        self._map.add(view)
        return self._estimate(stamp, True, len(self._map.points()))

    def _start_with_parallax(self, stamp: float, view: View) -> Estimate | None:
        first = self._first_view or view
        common = [track for track in view.rows if track in first.rows]
        self._first_view = first if len(common) >= _LEAST_START else view
        pair = first.rays_of(common), view.rays_of(common)
        if unrotated_motion(*pair) < _START_PARALLAX:
            return None
        pose = relative_pose(*pair, self._noise.ray)
        if pose is None:
            return None
        points, good = triangulate(
            Transform.identity(), pose, *pair, self._tolerance, LEAST_PARALLAX
        )
        if np.count_nonzero(good) < max(_LEAST_START, _LEAST_SHARE * len(common)):
            return None
        scale = self._scale / float(np.median(points[good, 2]))
        first.camera = self._camera
        view.camera = Transform(pose.rotation, scale * pose.translation) @ self._camera
        self._map = self._begin_map(metric=False)
        self._map.add(first)
        self._map.add(view)
        self._camera = view.camera
        return self._estimate(stamp, True, len(self._map.points()))

    def _begin_map(self, metric: bool) -> LocalMap:
        self._map_index += 1
        self._first_view = None
        self._failures = 0
        return LocalMap(self._noise, metric)

    def _end_map(self, reason: str) -> None:
        if self._map is not None:
            logger.warning("map %d ends: %s", self._map_index, reason)
        self._map = self._first_view = None

    def _estimate(self, stamp: float, is_keyframe: bool, points: int) -> Estimate:
        assert self._map is not None
        pose = self._camera.inverse()
        return Estimate(stamp, pose, self._map.metric, is_keyframe, self._map_index, points)


def _view(observation: Observation, camera: Transform) -> View:
    """What an observation shows of tracks with a known ray; of an id that is there twice, one."""
    known = np.isfinite(observation.rays).all(1) & (observation.ids > 0)
    rays = observation.rays[known].astype(np.float64)
    depth = np.full(len(rays), np.nan)
    if observation.depth is not None:
        given = observation.depth[known]
        usable = np.isfinite(given) & (given > 0.0)
        depth[usable] = given[usable]
    ids = observation.ids[known].tolist()
    return View(camera, rays, depth, {track: row for row, track in enumerate(ids)})


def _motion(before: View, after: View, tracks: list[int]) -> float:
    """Median distance that the rays of tracks moved, on the plane z = 1."""
    moved = after.rays_of(tracks) - before.rays_of(tracks)
    return float(np.median(np.linalg.norm(moved, axis=1))) if tracks else 0.0
