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
from aliked_ros.frontend.gyroscope import Gyroscope
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.sources.imu import Rates
from aliked_ros.types import Float64Array, Image

Progress = Callable[[str], None] | None


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

    images: processed. followed: tracks of an image that the next has, too, mean. lightglue: times
    that LightGlue was asked. lost: images whose matches agreed with no motion.
    """

    images: int
    followed: float
    lightglue: int
    lost: int


def synthetic_rates(
    source: str,
    camera_from_imu: Float64Array,
    rate: float = 200.0,
    faults: Faults | None = None,
    seed: int = 0,
) -> Rates:
    """What a gyroscope fixed to the camera would have measured, ``rate`` times a second.

    Between two true poses the camera turns at a constant rate. Raises SourceError without poses.
    """
    faults = faults or Faults()
    truth = read_truth(truth_file(source))
    times = np.asarray(truth.timestamps)
    turns = Rotation.from_quat(np.asarray(truth.orientations_quat_wxyz)[:, [1, 2, 3, 0]])
    stamps = times[0] + np.arange(math.floor((times[-1] - times[0]) * rate) + 1) / rate
    at = Slerp(times, turns)(np.minimum(stamps, times[-1]))
    rates = (at[:-1].inv() * at[1:]).as_rotvec() * rate @ camera_from_imu
    rates += faults.bias + np.random.default_rng(seed).normal(0.0, faults.noise, rates.shape)
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


def tracks_kept(
    config: FrontendConfig,
    images: Iterable[Image],
    camera: CameraModel,
    rates: Rates | None,
    offset: float | None = None,
) -> Kept:
    """Process images with a gyroscope, or without.

    offset: see ``Faults``; None = it is estimated.
    """
    opened: list[_Counting] = []

    def open_backend(config: FrontendConfig, progress: Progress) -> Backend:
        opened.append(_Counting(create_backend(config, progress)))
        return cast("Backend", opened[0])

    with closing(Pipeline(config, None, open_backend)) as pipeline:
        pipeline.camera = camera
        if rates is not None:
            gyroscope = Gyroscope.recorded(rates.stamps, rates.rates)
            pipeline.prediction.use(gyroscope, Alignment(rates.camera_from_imu, offset))
        results = [pipeline.process(image) for image in images]
    ids = [result.tracks.ids for result in results]
    followed = [len(np.intersect1d(*both)) for both in pairwise(ids)]
    lost = sum(result.matches.geometry == "unverified" for result in results)
    mean = float(np.mean(followed)) if followed else 0.0
    return Kept(len(results), mean, opened[0].asked, lost)
