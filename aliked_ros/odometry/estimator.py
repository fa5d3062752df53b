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
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import compress

import numpy as np

from aliked_ros.odometry.adjustment import Noise, View
from aliked_ros.odometry.geometry import (
    Transform,
    locate,
    plane_poses,
    relative_pose,
    reprojection_errors,
    triangulate,
    unrotated_motion,
)
from aliked_ros.odometry.local_map import LEAST_PARALLAX, TOLERANCE, LocalMap, may_begin_point
from aliked_ros.odometry.uncertainty import after_gap, image_covariance, moved
from aliked_ros.types import Float32Array, Float64Array, UInt64Array

logger = logging.getLogger(__name__)

_LEAST_POINTS = 15  # least inliers of a pose
_LEAST_START = 40  # points of a new map
_START_PARALLAX = 0.02  # median parallax of the two initial views without rotation, radians
_KEYFRAME_MOTION = 0.06  # median motion of the rays since the last keyframe
_KEYFRAME_TRACKED = 0.6  # share of its points still seen, below which a new one is taken
_LEAST_SHARE = 0.3  # least share of two views' tracks that give points, to start a map
_LOST_IMAGES = 5  # images without a pose before a new map begins
_REMEMBERED = 300  # images kept until a map starts
_PATIENCE = 60  # images without a map before the reason is logged
_CHECKED = 6  # images between two views, to decide between several motions
_CLEARLY = 0.6  # the right motion's error is below this share of any other's
_EXCESS_GAIN = 0.1  # of an image's errors beyond independent ones, in their mean
_SAME_TURN = np.radians(1.0)  # motions that differ by less are the same


@dataclass(frozen=True, slots=True)
class Observation:
    """One image's tracks, as in a FeatureFrame.

    stamp: seconds. ids: N uint64, 0 = untracked. rays: N×2, undistorted, on the plane z = 1,
    NaN = unknown. epoch: ids of two epochs are unrelated. depth: N metres along the optical
    axis, NaN = none; None without. pixel: size of a pixel on that plane, 1 / focal length; 0 =
    unknown.
    """

    stamp: float
    ids: UInt64Array
    rays: Float32Array
    epoch: int = 0
    depth: Float32Array | None = None
    pixel: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A camera pose.

    stamp: of the observation. camera: world_from_camera; the world is the first camera's optical
        frame (x right, y down, z forward).
    metric: whether it is in metres; otherwise the scale is arbitrary.
    is_keyframe: whether the observation was added to the map.
    map_index: number of the map, from 0; two maps may differ in scale.
    points: number of inlier points.
    covariance: 6×6, of the pose, as in ``uncertainty``; without ``metric`` at the map's scale.
    noise: 6×6, the part of it that is the image's own, not the map's.
    """

    stamp: float
    camera: Transform
    metric: bool
    is_keyframe: bool
    map_index: int
    points: int
    covariance: Float64Array = field(default_factory=lambda: np.zeros((6, 6)))
    noise: Float64Array = field(default_factory=lambda: np.zeros((6, 6)))


class Odometry:
    """Tracks in, poses out; not for concurrent calls.

    A map begins in metres at the first image with enough depth; otherwise with two views that have
    enough parallax, at an arbitrary scale. A new map begins with a new epoch and after tracking was
    lost, at the last known pose and, without depth, at about the last scale.
    """

    def __init__(self, noise: Noise | None = None) -> None:
        """noise: of the observations; with ``ray`` 0 (the default) it is a pixel of theirs."""
        noise = noise or Noise(ray=0.0)
        self._noise_is_a_pixel = noise.ray == 0.0
        self._noise = replace(noise, ray=noise.ray or Noise().ray)
        self._map: LocalMap | None = None
        self._map_index = -1
        self._waiting: deque[tuple[float, View]] = deque(
            maxlen=_REMEMBERED
        )  # stamps and views without a pose
        self._images = 0  # since the last map, for the log
        self._earlier: list[Estimate] = []
        self._camera = Transform.identity()  # camera_from_world, latest
        self._scale = 1.0  # median depth of the points seen from there
        self._last: tuple[int, float] | None = None  # epoch, stamp
        self._excess = 1.0  # of errors beyond independent ones, see ``uncertainty``
        self._known: tuple[float, Float64Array] | None = None  # stamp and covariance, of a pose
        self._failures = 0

    def points(self) -> Float64Array:
        """The map's points N×3, world."""
        return np.zeros((0, 3)) if self._map is None else self._map.points()

    @property
    def _tolerance(self) -> float:
        return TOLERANCE * self._noise.ray

    @property
    def earlier(self) -> list[Estimate]:
        """Poses of earlier images, known since the latest image started their map."""
        return self._earlier

    def process(self, observation: Observation) -> Estimate | None:
        """The pose of the next observation; None if it is unknown, or the stamp is old."""
        if self._last is not None:
            epoch, stamp = self._last
            if observation.epoch != epoch:
                self._end_map(f"epoch {observation.epoch} begins")
            elif observation.stamp <= stamp:
                return None
        self._last = (observation.epoch, observation.stamp)
        self._earlier = []
        if self._map is None and self._noise_is_a_pixel and observation.pixel:
            self._noise = replace(self._noise, ray=observation.pixel)
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
        self._map.check(tracks, agrees)
        for track in compress(tracks, ~agrees):
            del view.rows[track]
        self._scale = float(np.median(view.camera(points[agrees])[:, 2]))
        is_keyframe = self._is_keyframe(view, list(compress(tracks, agrees)))
        if is_keyframe:
            self._map.add(view)
        self._camera = view.camera
        return self._estimate(stamp, view, is_keyframe, int(np.count_nonzero(agrees)))

    def _is_keyframe(self, view: View, tracks: list[int]) -> bool:
        """Whether few of the last keyframe's points remain, or they moved far."""
        assert self._map is not None
        last = self._map.views[-1]
        common = [track for track in tracks if track in last.rows]
        if len(common) < _KEYFRAME_TRACKED * len(self._map.find(last)[0]):
            return True
        return _motion(last, view, common) > _KEYFRAME_MOTION

    def _start_with_depth(self, stamp: float, view: View) -> Estimate:
        self._map = self._begin_map(metric=True)
        view.covariance = self._covariance_at(stamp)
        self._map.add(view)
        return self._estimate(stamp, view, True, len(self._map.points()))

    def _start_with_parallax(self, stamp: float, view: View) -> Estimate | None:
        waiting = self._waiting
        while waiting and _shared(waiting[0][1], view) < _LEAST_START:
            waiting.popleft()
        first = 0
        found = self._first_points(view, first)
        if isinstance(found, str) and waiting:
            # a rotating camera shares only a strip with the oldest image, with little motion in it
            least = _LEAST_SHARE * _shared(waiting[-1][1], view)
            first = next(i for i, (_, v) in enumerate(waiting) if _shared(v, view) >= least)
            if first:
                found = self._first_points(view, first)
        waiting.append((stamp, view))
        self._images += 1
        if isinstance(found, str):
            if self._images % _PATIENCE == 0:
                logger.warning("no map after %d images: %s", self._images, found)
            return None
        pose, depth = found
        views = list(waiting)
        begin = views[first][1]
        begin.camera, begin.covariance = self._camera, self._covariance_at(views[first][0])
        scale = self._scale / depth
        view.camera = Transform(pose.rotation, scale * pose.translation) @ self._camera
        self._map = self._begin_map(metric=False)
        self._map.add(begin)
        self._map.add(view)
        self._camera = view.camera
        self._earlier = [e for s, v in views[:-1] if (e := self._late(s, v)) is not None]
        return self._estimate(stamp, view, True, len(self._map.points()))

    def _first_points(self, view: View, number: int) -> tuple[Transform, float] | str:
        """The motion since a waiting image, and the points' median depth there.

        The translation has unit length. If the motion is unknown, a sentence that says why.
        """
        if not self._waiting:
            return "too few tracks last; look at something with texture, or move slower."
        first = self._waiting[number][1]
        common = [track for track in view.rows if track in first.rows]
        pair = first.rays_of(common), view.rays_of(common)
        moved = unrotated_motion(*pair)
        if moved < _START_PARALLAX:
            return (
                f"the camera stands or only turns ({np.degrees(moved):.1f}° of parallax, "
                f"{np.degrees(_START_PARALLAX):.1f}° are needed while tracks last); "
                "move it sideways."
            )
        poses = plane_poses(*pair, self._noise.ray)
        if poses is None:
            pose = relative_pose(*pair, self._noise.ray)
            poses = [] if pose is None else [pose]
        starts = []
        for pose in poses:
            points, good = triangulate(
                Transform.identity(), pose, *pair, self._tolerance, LEAST_PARALLAX
            )
            if np.count_nonzero(good) >= max(_LEAST_START, _LEAST_SHARE * len(common)):
                tracks = list(compress(common, good))
                starts.append((self._misfit(dict(zip(tracks, points[good], strict=True))), pose))
        if not starts:
            return "too few of the tracks agree with one motion; move slower, or wait."
        starts.sort(key=lambda start: start[0])
        misfit, pose = starts[0]
        rivals = [other for other in starts[1:] if _angle(pose, other[1]) > _SAME_TURN]
        if any(misfit > _CLEARLY * other for other, _ in rivals):
            return "all that is seen lies on a plane, which two motions explain; move on."
        points, good = triangulate(
            Transform.identity(), pose, *pair, self._tolerance, LEAST_PARALLAX
        )
        return pose, float(np.median(points[good, 2]))

    def _misfit(self, points: dict[int, Float64Array]) -> float:
        """Reprojection error of the initial points in the waiting images; 1 if none shows them."""
        between = list(self._waiting)[1:]
        errors = []
        for _, view in between[:: 1 + len(between) // _CHECKED]:
            tracks = [track for track in view.rows if track in points]
            there = np.array([points[track] for track in tracks]).reshape(-1, 3)
            rays = view.rays_of(tracks)
            found = locate(there, rays, 3.0 * self._tolerance)
            if found is not None:
                errors.append(float(np.median(reprojection_errors(found[0], there, rays))))
        return float(np.mean(errors)) if errors else 1.0

    def _late(self, stamp: float, view: View) -> Estimate | None:
        """The pose of an image before the start, in the new map."""
        assert self._map is not None
        tracks, points = self._map.find(view)
        found = locate(points, view.rays_of(tracks), self._tolerance)
        if found is None or np.count_nonzero(found[1]) < _LEAST_POINTS:
            return None
        rows = {track: view.rows[track] for track in compress(tracks, found[1])}
        return self._estimate(stamp, replace(view, camera=found[0], rows=rows), False, len(rows))

    def _begin_map(self, metric: bool) -> LocalMap:
        self._map_index += 1
        self._waiting.clear()
        self._images = self._failures = 0
        return LocalMap(self._noise, metric)

    def _end_map(self, reason: str) -> None:
        if self._map is not None:
            logger.warning("map %d ends: %s", self._map_index, reason)
        self._map = None
        self._waiting.clear()
        self._images = 0

    def _covariance_at(self, stamp: float) -> Float64Array:
        """Of the last pose, at a later stamp without one."""
        last, covariance = self._known or (stamp, np.zeros((6, 6)))
        return after_gap(covariance, stamp - last)

    def _estimate(self, stamp: float, view: View, is_keyframe: bool, points: int) -> Estimate:
        assert self._map is not None
        pose = view.camera.inverse()
        tracks, seen = self._map.find(view)
        own, excess = image_covariance(view.camera, seen, view.rays_of(tracks), self._noise)
        self._excess += _EXCESS_GAIN * (excess - self._excess)
        self._map.excess = max(self._excess, 1.0)
        noise = self._map.excess * own
        last = self._map.views[-1]
        way = pose.translation - last.camera.inverse().translation
        covariance = moved(last.covariance, way) + noise
        self._known = stamp, covariance
        return Estimate(
            stamp, pose, self._map.metric, is_keyframe, self._map_index, points, covariance, noise
        )


def pixel_size(keypoints: Float32Array, rays: Float32Array) -> float:
    """Size of a pixel on the plane z = 1, from N×2 pixels and their N×2 rays; 0 = unknown."""
    known = np.isfinite(rays).all(1)
    if np.count_nonzero(known) < _LEAST_POINTS:
        return 0.0
    here, there = (
        np.linalg.norm(points[known] - np.median(points[known], axis=0), axis=1)
        for points in (keypoints, rays)
    )
    spread = float(np.median(here))
    return float(np.median(there)) / spread if spread > 0.0 else 0.0


def _view(observation: Observation, camera: Transform) -> View:
    """The tracks of an observation with a known ray; each id once."""
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


def _shared(before: View, after: View) -> int:
    """Number of shared tracks."""
    return len(before.rows.keys() & after.rows.keys())


def _angle(one: Transform, other: Transform) -> float:
    """Angle between two rotations or two translations, whichever is larger; radians."""
    turn = np.clip((np.trace(one.rotation.T @ other.rotation) - 1.0) / 2.0, -1.0, 1.0)
    way = np.clip(one.translation @ other.translation, -1.0, 1.0)
    return max(float(np.arccos(turn)), float(np.arccos(way)))
