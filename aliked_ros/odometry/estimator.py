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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

import numpy as np

from aliked_ros.odometry.geometry import (
    Transform,
    locate,
    plane_poses,
    relative_pose,
    reprojection_errors,
    triangulate,
    unrotated_motion,
)
from aliked_ros.odometry.local_map import LEAST_PARALLAX, TOLERANCE, LocalMap, points_at_once
from aliked_ros.odometry.uncertainty import after_gap, image_covariance, moved
from aliked_ros.odometry.views import Noise, Observation, Sight, View
from aliked_ros.types import BoolArray, Float32Array, Float64Array

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
class Estimate:
    """A camera pose.

    stamp: of the observation. camera: world_from_camera; the world is the first camera's optical
        frame (x right, y down, z forward). With a rig, both are of the rig's frame.
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

    Cameras of a rig are followed together. Their maps are always in metres: a map begins when two
    cameras see enough landmarks at once.
    """

    def __init__(self, noise: Noise | None = None) -> None:
        """noise: of the observations; with ``ray`` 0 (the default) it is a pixel of theirs."""
        noise = noise or Noise(ray=0.0)
        self._noise = noise
        self._numbers: dict[str, int] = {}  # of the cameras, by name
        self._rays: dict[str, float] = {}  # standard deviation of a ray, by camera
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
    def earlier(self) -> list[Estimate]:
        """Poses of earlier images, known since the latest image started their map."""
        return self._earlier

    def process(
        self, *observations: Observation, merged: Iterable[tuple[int, int]] = ()
    ) -> Estimate | None:
        """The pose of the next image; None if it is unknown, or the stamp is old.

        Of a rig: all observations of a moment, with one stamp and epoch. merged: ids (from, into)
        that turned out to be one landmark's.
        """
        stamp, epoch = observations[0].stamp, observations[0].epoch
        if self._last is not None:
            if epoch != self._last[0]:
                self._end_map(f"epoch {epoch} begins")
            elif stamp <= self._last[1]:
                return None
        self._last = (epoch, stamp)
        self._earlier = []
        view = self._view(observations)
        if self._map is not None:
            self._map.merge(merged)
        is_rig = bool(observations[0].camera)
        at_once = sum(1 for _ in points_at_once(view, self._noise)) if self._wants_scale else 0
        has_depth = at_once >= _LEAST_START
        if self._map is not None and has_depth and not self._map.metric:
            self._end_map("there is depth now")
        if self._map is not None:
            return self._track(stamp, view)
        if has_depth:
            return self._start_with_depth(stamp, view)
        if not is_rig:
            return self._start_with_parallax(stamp, view)
        self._wait(
            f"cameras of the rig see {at_once} landmarks in common that are near enough, "
            f"{_LEAST_START} are needed for the scale. Turn cameras so that they overlap, or "
            "follow one camera alone (parameter frontend)."
        )
        return None

    @property
    def _wants_scale(self) -> bool:
        return self._map is None or not self._map.metric

    def _view(self, observations: Sequence[Observation]) -> View:
        for one in observations:
            self._numbers.setdefault(one.camera, len(self._numbers))
            ray = self._noise.ray or one.pixel
            if self._map is None or one.camera not in self._rays:  # one value a map
                self._rays[one.camera] = ray or self._rays.get(one.camera, Noise().ray)
        return View.of(observations, self._camera, self._numbers, self._rays)

    def _track(self, stamp: float, view: View) -> Estimate | None:
        assert self._map is not None
        sights, points = self._map.find(view)
        found = _locate(view, sights, points)
        if found is None:
            self._failures += 1
            if self._failures == _LOST_IMAGES:
                self._end_map(f"{self._failures} images in a row have no pose")
            return None
        self._failures = 0
        view.camera, agrees = found
        self._map.check(sights, agrees)
        for sight in compress(sights, ~agrees):
            view.remove(sight)
        good = list(compress(sights, agrees))
        self._scale = float(np.median(view.cameras(good)(points[agrees])[:, 2]))
        tracks = list(dict.fromkeys(track for track, _ in good))
        is_keyframe = self._is_keyframe(view, tracks)
        if is_keyframe:
            self._map.add(view)
        self._camera = view.camera
        return self._estimate(stamp, view, is_keyframe, len(tracks))

    def _is_keyframe(self, view: View, tracks: list[int]) -> bool:
        """Whether few of the last keyframe's points remain, or they moved far."""
        assert self._map is not None
        last = self._map.views[-1]
        common = [track for track in tracks if track in last.rows]
        if len(common) < _KEYFRAME_TRACKED * self._map.count(last):
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
        if isinstance(found, str):
            self._wait(found)
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

    def _wait(self, reason: str) -> None:
        """Count an image without a map; log the reason once in a while."""
        self._images += 1
        if self._images % _PATIENCE == 0:
            logger.warning("no map after %d images: %s", self._images, reason)

    def _first_points(self, view: View, number: int) -> tuple[Transform, float] | str:
        """The motion since a waiting image, and the points' median depth there.

        The translation has unit length. If the motion is unknown, a sentence that says why.
        """
        if not self._waiting:
            return "too few tracks last; look at something with texture, or move slower."
        first = self._waiting[number][1]
        common = [track for track in view.rows if track in first.rows]
        pair = _rays_of(first, common), _rays_of(view, common)
        noise = float(view.noise.max(initial=0.0))  # of the only camera
        moved = unrotated_motion(*pair)
        if moved < _START_PARALLAX:
            return (
                f"the camera stands or only turns ({np.degrees(moved):.1f}° of parallax, "
                f"{np.degrees(_START_PARALLAX):.1f}° are needed while tracks last); "
                "move it sideways."
            )
        poses = plane_poses(*pair, noise)
        if poses is None:
            pose = relative_pose(*pair, noise)
            poses = [] if pose is None else [pose]
        starts = []
        for pose in poses:
            points, good = triangulate(
                Transform.identity(), pose, *pair, TOLERANCE * noise, LEAST_PARALLAX
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
            Transform.identity(), pose, *pair, TOLERANCE * noise, LEAST_PARALLAX
        )
        return pose, float(np.median(points[good, 2]))

    def _misfit(self, points: dict[int, Float64Array]) -> float:
        """Reprojection error of the initial points in the waiting images; 1 if none shows them."""
        between = list(self._waiting)[1:]
        errors = []
        for _, view in between[:: 1 + len(between) // _CHECKED]:
            tracks = [track for track in view.rows if track in points]
            there = np.array([points[track] for track in tracks]).reshape(-1, 3)
            rays = _rays_of(view, tracks)
            found = locate(there, rays, 3.0 * TOLERANCE * view.noise.max(initial=0.0))
            if found is not None:
                errors.append(float(np.median(reprojection_errors(found[0], there, rays))))
        return float(np.mean(errors)) if errors else 1.0

    def _late(self, stamp: float, view: View) -> Estimate | None:
        """The pose of an image before the start, in the new map."""
        assert self._map is not None
        sights, points = self._map.find(view)
        found = _locate(view, sights, points)
        if found is None:
            return None
        rows = {track: view.rows[track] for track, _ in compress(sights, found[1])}
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
        own, excess = image_covariance(view, *self._map.find(view))
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


def _locate(
    view: View, sights: Sequence[Sight], points: Float64Array
) -> tuple[Transform, BoolArray] | None:
    """The pose of a view that sees points K×3, and the K inliers; None if these are too few."""
    rows = view.at(sights)
    numbers = np.array([number for _, number in sights], np.int64)
    tolerance = TOLERANCE * view.noise[rows]
    found = locate(points, view.rays[rows], tolerance, view.mounts[rows], numbers)
    if found is None or len({track for track, _ in compress(sights, found[1])}) < _LEAST_POINTS:
        return None
    return found


def _rays_of(view: View, tracks: Sequence[int]) -> Float64Array:
    """Rays K×2 of tracks, of the only camera."""
    return view.rays_of(view.first_sights(tracks))


def _motion(before: View, after: View, tracks: list[int]) -> float:
    """Median distance that the rays of tracks moved in one camera, on the plane z = 1."""
    seen = [sight for sight in after.sights(tracks) if sight[1] in before.rows[sight[0]]]
    moved = after.rays_of(seen) - before.rays_of(seen)
    return float(np.median(np.linalg.norm(moved, axis=1))) if seen else 0.0


def _shared(before: View, after: View) -> int:
    """Number of shared tracks."""
    return len(before.rows.keys() & after.rows.keys())


def _angle(one: Transform, other: Transform) -> float:
    """Angle between two rotations or two translations, whichever is larger; radians."""
    turn = np.clip((np.trace(one.rotation.T @ other.rotation) - 1.0) / 2.0, -1.0, 1.0)
    way = np.clip(one.translation @ other.translation, -1.0, 1.0)
    return max(float(np.arccos(turn)), float(np.arccos(way)))
