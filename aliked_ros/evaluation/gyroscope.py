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


"""A gyroscope made of a sequence's true poses, and what it is worth to the tracks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from aliked_ros.backends.base import Backend
from aliked_ros.backends.create import create_backend
from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.evaluation.poses import read_truth, truth_file
from aliked_ros.frontend.alignment import Alignment
from aliked_ros.frontend.detector import Background, Detected, T
from aliked_ros.frontend.gyroscope import Gyroscope
from aliked_ros.frontend.keyframes import shared_rows
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.odometry.geometry import Transform
from aliked_ros.sources.imu import Rates
from aliked_ros.types import Float32Array, Float64Array, FrameResult, Image

Progress = Callable[[str], None] | None

PoseAt = Callable[[float], Transform | None]
"""world_from_camera at a stamp in seconds, None = not known."""

_RIGHT = 5.0  # pixels: true poses are off by some
_NEAREST = 0.2  # metres: least depth of what a camera sees
_RATE = 200.0  # Hz, of a synthetic gyroscope


@dataclass(frozen=True, slots=True)
class Faults:
    """What a synthetic gyroscope does wrong.

    noise: rad/s, standard deviation of a sample. bias: rad/s. offset: seconds; the stamp of an
    image plus this is the IMU's. gaps: from and to, seconds after the first pose.
    """

    noise: float = 0.01
    bias: tuple[float, float, float] = (0.005, -0.003, 0.004)
    offset: float = 0.02
    gaps: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """What a front-end kept of a sequence.

    images: processed. Means over the images but the last, in tracks: in_view, those that the next
    image shows as well by the true turn; followed, those that the next image has; right, those that
    it has where the true poses allow. in_view and right are of images with true poses; None = there
    are none.
    detections: images that ALIKED looked at. lightglue: times that LightGlue was asked. lost:
    images whose matches agreed with no motion.
    """

    images: int
    in_view: float | None
    followed: float
    right: float | None
    detections: int
    lightglue: int
    lost: int


def synthetic_rates(
    source: str, camera_from_imu: Float64Array, faults: Faults | None = None
) -> Rates:
    """What a gyroscope fixed to the camera would have measured, 200 times a second.

    Between two true poses the camera turns at a constant rate. Raises SourceError without poses.
    """
    faults = faults or Faults()
    truth = read_truth(truth_file(source))
    times = np.asarray(truth.timestamps)
    turns = Rotation.from_quat(np.asarray(truth.orientations_quat_wxyz)[:, [1, 2, 3, 0]])
    stamps = times[0] + np.arange(math.floor((times[-1] - times[0]) * _RATE) + 1) / _RATE
    at = Slerp(times, turns)(np.minimum(stamps, times[-1]))
    rates = (at[:-1].inv() * at[1:]).as_rotvec() * _RATE @ camera_from_imu
    rates += faults.bias + np.random.default_rng(0).normal(0.0, faults.noise, rates.shape)
    middle = (stamps[1:] + stamps[:-1]) / 2
    kept = np.ones(len(middle), bool)
    for first, last in faults.gaps:
        kept &= (middle - times[0] < first) | (middle - times[0] > last)
    return Rates(middle[kept] + faults.offset, rates[kept], camera_from_imu)


class _Counting:
    """A backend that counts how often its matcher works."""

    def __init__(self, backend: Any) -> None:
        self._backend, self.asked = backend, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def load_matcher(self) -> _Counting:
        """Itself, in place of the network."""
        self._network = self._backend.load_matcher()
        return self

    def match(self, *arguments: Any) -> Any:
        """What the network finds."""
        self.asked += 1
        return self._network.match(*arguments)


class LateBackground(Background):
    """Detections behind the images that end a number of images later, on any machine."""

    def __init__(self, late: int) -> None:
        """late: images from the one that is looked at to the one that gets the result."""
        super().__init__()
        self._late, self._left = late, 0
        self._call: Callable[[], Detected] | None = None

    def wait_for(self, call: Callable[[], T]) -> T:
        """See ``Background``; in the caller's thread."""
        return call()

    @property
    def idle(self) -> bool:
        """See ``Background``."""
        return self._call is None

    def submit(self, detect: Callable[[], Detected]) -> None:
        """See ``Background``."""
        self._wanted, self._left, self._call = True, self._late, detect

    def take(self) -> Detected | None:
        """See ``Background``; to be called once an image."""
        self._left -= 1
        if self._call is None or self._left > 0:
            return None
        call, self._call = self._call, None
        return call() if self._wanted else None


def tracks_kept(
    config: FrontendConfig,
    images: Iterable[Image],
    camera: CameraModel,
    rates: Rates | None,
    offset: float | None = None,
    pose_at: PoseAt | None = None,
    late: int = 1,
) -> Kept:
    """Process images with a gyroscope, or without.

    offset: see ``Faults``; None = it is estimated. pose_at: world_from_camera at a stamp, where
    true poses are known. late: images until a detection ends with ``detection: behind``.
    """
    opened: list[_Counting] = []

    def open_backend(config: FrontendConfig, progress: Progress) -> Backend:
        opened.append(_Counting(create_backend(config, progress)))
        return cast("Backend", opened[0])

    background = partial(LateBackground, late)
    with closing(Pipeline(config, None, open_backend, background)) as pipeline:
        pipeline.camera = camera
        if rates is not None:
            gyroscope = Gyroscope.recorded(rates.stamps, rates.rates)
            pipeline.prediction.use(gyroscope, Alignment(rates.camera_from_imu, offset))
        results = [pipeline.process(image) for image in images]
    counts = [kept_between(first, second, camera, pose_at) for first, second in pairwise(results)]
    in_view, followed, right = map(_mean, np.reshape(np.array(counts, float), (-1, 3)).T)
    lost = sum(result.matches.geometry == "unverified" for result in results)
    detections = len(results)
    if config.detection != "every":
        detections = sum(result.detection_index is not None for result in results)
    return Kept(len(results), in_view, followed or 0.0, right, detections, opened[0].asked, lost)


def kept_between(
    first: FrameResult, second: FrameResult, camera: CameraModel, pose_at: PoseAt | None
) -> tuple[float, int, float]:
    """Of the first image's tracks, how many are in view, followed and right in the second.

    Those in view and those right are NaN where a pose is not known.
    """
    now, before = shared_rows(second.tracks.ids, first.tracks.ids)
    poses = [None if pose_at is None else pose_at(result.stamp) for result in (first, second)]
    if poses[0] is None or poses[1] is None:
        return math.nan, len(now), math.nan
    motion = poses[1].inverse() @ poses[0]
    far = _directions(camera, first.features.keypoints) @ motion.rotation.T
    with np.errstate(all="ignore"):
        there = camera.project((far[:, :2] / far[:, 2:]).astype(np.float32))
    seen = (far[:, 2] > 0.0) & (there >= 0).all(1) & (there < [camera.width, camera.height]).all(1)
    rays = _directions(camera, second.features.keypoints[now])[:, :2]
    focal = float(np.sqrt(camera.matrix[0, 0] * camera.matrix[1, 1]))
    off = focal * _distances(far[before], motion.translation, rays)
    return int(seen.sum()), len(now), int(np.count_nonzero(off < _RIGHT))


def _mean(counts: Float64Array) -> float | None:
    """Of those that are no NaN, None = all are."""
    known = counts[np.isfinite(counts)]
    return float(known.mean()) if len(known) else None


def _directions(camera: CameraModel, points: Float32Array) -> Float64Array:
    rays = camera.normalize(points).astype(np.float64)
    return np.column_stack([rays, np.ones(len(rays))])


def _distances(far: Float64Array, shift: Float64Array, rays: Float64Array) -> Float64Array:
    """How far rays N×2 of an image are from where points may be, N, on the plane z=1.

    A point lies between where it would be if it were far away, the directions far N×3, and where
    it would be at the least depth; so a short motion allows little. shift: 3, metres.
    """
    nearest = np.full(len(far), 1.0 / _NEAREST)
    if shift[2] < 0.0:  # but ahead of the camera
        nearest = np.minimum(nearest, -0.8 * np.maximum(far[:, 2], 0.0) / shift[2])
    near = far + nearest[:, None] * shift
    with np.errstate(all="ignore"):
        start, end = (p[:, :2] / p[:, 2:] for p in (far, near))
        way = end - start
        share = ((rays - start) * way).sum(1) / np.maximum((way**2).sum(1), 1e-12)
        off = np.linalg.norm(start + np.clip(share, 0.0, 1.0)[:, None] * way - rays, axis=1)
    return np.where((far[:, 2] > 0.0) & np.isfinite(off), off, np.inf)
