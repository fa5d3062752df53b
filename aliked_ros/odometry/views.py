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

"""What the back-end is told of an image, and what it keeps of it.

A rig's images of one moment are one view: rays of several cameras, whose places in the view's frame
are known. One camera is the rig of one, and the frame is its own.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aliked_ros.odometry.geometry import Transform, reprojection_errors
from aliked_ros.types import Float32Array, Float64Array, IntArray, UInt64Array

Sight = tuple[int, int]
"""A track, and the number of the camera that sees it."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviations of the observations.

    ray: of a coordinate on the plane z = 1 (one pixel is 1 / focal length).
    inverse_depth: of 1/depth, in 1/metre; stereo: disparity's in pixels / (fx · baseline).
    """

    ray: float = 0.002
    inverse_depth: float = 0.005


@dataclass(frozen=True, slots=True)
class Observation:
    """One image's tracks, as in a FeatureFrame.

    stamp: seconds. ids: N uint64, 0 = untracked. rays: N×2, undistorted, on the plane z = 1,
    NaN = unknown. epoch: ids of two epochs are unrelated. depth: N metres along the optical
    axis, NaN = none; None without. pixel: size of a pixel on that plane, 1 / focal length; 0 =
    unknown.

    Of a rig's camera, also its name, and mount: frame_from_camera, its pose in the rig's frame. Its
    ids are those of landmarks, which the cameras have in common.
    """

    stamp: float
    ids: UInt64Array
    rays: Float32Array
    epoch: int = 0
    depth: Float32Array | None = None
    pixel: float = 0.0
    camera: str = ""
    mount: Transform = field(default_factory=Transform.identity)


@dataclass(slots=True)
class View:
    """The observations of one image, or of a rig's images of one moment.

    camera: its pose, camera_from_world; with a rig, frame_from_world of the rig's frame.
    rays: N×2. noise: N, standard deviation of a ray's coordinates. depth: N metres, NaN = none.
    mounts: N transforms, camera_from_frame. rows: of each valid track, the row by the number of the
    camera that sees it; other rows are outliers. covariance: of the pose, see ``uncertainty``.
    """

    camera: Transform
    rays: Float64Array
    noise: Float64Array
    depth: Float64Array
    mounts: Transform
    rows: dict[int, dict[int, int]]
    covariance: Float64Array = field(default_factory=lambda: np.zeros((6, 6)))

    @classmethod
    def of(
        cls,
        observations: Sequence[Observation],
        camera: Transform,
        numbers: Mapping[str, int],
        noise: Mapping[str, float],
    ) -> View:
        """The tracks with a known ray; each id once a camera. numbers, noise: by camera."""
        rays: list[Float64Array] = []
        noises, depths = [], []
        mounts: list[Transform] = []
        rows: dict[int, dict[int, int]] = {}
        for one in observations:
            known = np.isfinite(one.rays).all(1) & (one.ids > 0)
            depth = np.full(np.count_nonzero(known), np.nan)
            if one.depth is not None:
                given = one.depth[known]
                usable = np.isfinite(given) & (given > 0.0)
                depth[usable] = given[usable]
            for row, track in enumerate(one.ids[known].tolist(), len(mounts)):
                rows.setdefault(track, {})[numbers[one.camera]] = row
            rays.append(one.rays[known].astype(np.float64))
            noises.append(np.full(len(depth), noise[one.camera]))
            depths.append(depth)
            mounts += [one.mount.inverse()] * len(depth)
        return cls(
            camera,
            np.concatenate(rays),
            np.concatenate(noises),
            np.concatenate(depths),
            Transform.stacked(mounts),
            rows,
        )

    def sights(self, tracks: Iterable[int]) -> list[Sight]:
        """All sights of those of the tracks that are observed."""
        return [(track, camera) for track in tracks for camera in self.rows.get(track, ())]

    def first_sights(self, tracks: Iterable[int]) -> list[Sight]:
        """One sight of each of these observed tracks."""
        return [(track, next(iter(self.rows[track]))) for track in tracks]

    def at(self, sights: Iterable[Sight]) -> IntArray:
        """Rows K of observed sights."""
        return np.array([self.rows[track][camera] for track, camera in sights], np.int64)

    def rays_of(self, sights: Iterable[Sight]) -> Float64Array:
        """Rays K×2 of observed sights."""
        return self.rays[self.at(sights)]

    def cameras(self, sights: Iterable[Sight]) -> Transform:
        """K transforms, camera_from_world of the cameras of observed sights."""
        return self.mounts[self.at(sights)] @ self.camera

    def remove(self, sight: Sight) -> None:
        """Make an outlier of a sight."""
        track, camera = sight
        del self.rows[track][camera]
        if not self.rows[track]:
            del self.rows[track]

    def errors(self, sights: Sequence[Sight], points: Float64Array) -> Float64Array:
        """K reprojection errors of points K×3, world, in standard deviations."""
        found = reprojection_errors(self.cameras(sights), points, self.rays_of(sights))
        return np.asarray(found / self.noise[self.at(sights)])


def counted(
    views: Iterable[View], points: Container[int], metric: bool
) -> Iterator[tuple[list[Sight], Float64Array]]:
    """Of each view the sights K of points that an adjustment counts, and their depths K, or NaN.

    How far away a point is counts once: in the first view that has its depth, or that sees it with
    several cameras. Then one ray a view counts. What is wrong with a depth or a match (an edge, the
    calibration, the patch that was correlated) is wrong in every view. On fr1_xyz the depths of a
    track vary by 0.007 1/m, those of different tracks are off by 0.05; taken for independent, they
    outweigh the rays.
    """
    known: set[int] = set()
    for view in views:
        sights: list[Sight] = []
        far: list[float] = []
        for track in [track for track in view.rows if track in points]:
            if not metric or track in known:
                sights += view.first_sights([track])
                far.append(np.nan)
                continue
            its = view.sights([track])
            depth = view.depth[view.at(its)]
            sights += its
            far += depth.tolist()
            if len(its) > 1 or np.isfinite(depth).any():
                known.add(track)
        yield sights, np.array(far)
