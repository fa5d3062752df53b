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

"""A network on a GPU serves only after its results match the CPU's on a test picture drawn here.

Not every GPU, driver and library version can be tested, and a wrong result shows in no other way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from aliked_ros.backends.base import Backend
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import AlikedError, BackendError
from aliked_ros.models.device_export import GraphPrecision
from aliked_ros.models.registry import entry_of
from aliked_ros.networks.constants import LIGHTGLUE_DIM
from aliked_ros.types import Features, Float32Array, Matches, UInt8Array

_PAIR = (320, 240)  # size of the two pictures that LightGlue is checked with
_PAIR_POINTS = 512  # at most, in each of them
_FEW = 20  # keypoints or matches of which half must be in common: one may be lost to rounding
MATCHING = (0.1, -1.0, -1.0)
"""How the pair is matched: match_threshold, depth_confidence, width_confidence."""

Arrays = tuple[Float32Array, Float32Array, Float32Array]
"""Keypoints, scores, descriptors."""


class Refused(BackendError):
    """A network's results on a GPU differ from the CPU's, or cannot be compared."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a network must reach.

    distance: pixels within which a keypoint is the same one. found: least share of the CPU's
    keypoints that are. score: largest difference of one's score, of all but the worst 5 %.
    cosine: least one of its descriptors, of all but the worst 5 %. matches: least share of all
    matches, the CPU's and the GPU's, that both have.
    """

    distance: float
    found: float
    score: float
    cosine: float
    matches: float


LIMITS: dict[GraphPrecision, Limits] = {
    "float32": Limits(distance=0.05, found=0.99, score=2e-4, cosine=0.9999, matches=0.98),
    "float16": Limits(distance=0.5, found=0.97, score=0.01, cosine=0.998, matches=0.95),
}


@dataclass(frozen=True, slots=True)
class _Measure:
    """One figure; better: +1 where more of it is, -1 where less is."""

    name: str
    value: float
    limit: float
    better: int = 1

    @property
    def excess(self) -> float:
        """How far beyond the limit, as a share of it; not above 0: within. NaN is beyond."""
        over = self.better * (self.limit - self.value) / abs(self.limit)
        return float("inf") if np.isnan(over) else over

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g}"


def picture(height: int, width: int, channels: int) -> UInt8Array:
    """A picture H×W (1 channel) or H×W×3 full of corners at all scales; always the same one."""
    random = np.random.default_rng(0)
    image = np.full((height, width, 3), 128, np.uint8)
    for i in range(width * height // 400 + 40):
        size = max(6.0, min(width, height) * 0.3 * random.random() ** 3)
        centre = random.uniform((0, 0), (width, height))
        corners = centre + size * random.uniform(-1, 1, (3 + i % 3, 2))
        colour = random.integers(0, 256, 3).tolist()
        cv2.fillConvexPoly(image, cv2.convexHull(corners.astype(np.int32)), colour, cv2.LINE_AA)
    noise = random.integers(-6, 7, image.shape)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image[..., 1]) if channels == 1 else image


def check_features(what: str, found: Arrays, expected: Arrays, precision: GraphPrecision) -> str:
    """A GPU's features of a picture against the CPU's: the figures, for people. Raises Refused."""
    limits = LIMITS[precision]
    # which are the very last of the best is a matter of rounding
    sure = len(expected[0]) - len(expected[0]) // 10
    expected = (expected[0][:sure], expected[1][:sure], expected[2][:sure])
    distance, nearest = _nearest(expected[0], found[0])
    same = distance < limits.distance
    common = _share("keypoints in common", int(same.sum()), sure, limits.found)
    measures = [common]
    if same.any() and common.excess <= 0:  # else the pairs are chance's
        rows = nearest[same]
        score = np.abs(found[1][rows] - expected[1][same])
        cosine = (found[2][rows] * expected[2][same]).sum(1)
        measures += [
            _Measure("score difference", float(np.percentile(score, 95)), limits.score, -1),
            _Measure("descriptor cosine", float(np.percentile(cosine, 5)), limits.cosine),
        ]
    return _checked(what, measures)


def check_matches(what: str, found: Matches, expected: Matches, precision: GraphPrecision) -> str:
    """A GPU's matches against the CPU's: the figures, for people. Raises Refused."""
    ours, theirs = (
        set(zip(m.reference_indices.tolist(), m.current_indices.tolist(), strict=True))
        for m in (found, expected)
    )
    common, every = len(ours & theirs), len(ours | theirs)
    share = _share("matches in common", common, every, LIMITS[precision].matches)
    return _checked(what, [share])


def expected_features(model: str, shape: tuple[int, int, int], top_k: int, threads: int) -> Arrays:
    """The CPU's features of ``picture`` (shape: height, width, channels); Refused without any."""
    return _features(model, entry_of(model).sha256, shape, top_k, threads)


def expected_pair(
    model: str, top_k: int, threads: int
) -> tuple[Features, Features, Matches] | None:
    """The CPU's features of a picture and of the same one turned, and its matches of them.

    None: LightGlue cannot match this model's descriptors.
    """
    return _pair(model, entry_of(model).sha256, min(top_k, _PAIR_POINTS), threads)


def _share(name: str, part: int, of: int, limit: float) -> _Measure:
    return _Measure(name, part / of if of else 1.0, limit if of >= _FEW else 0.5)


def _checked(what: str, measures: list[_Measure]) -> str:
    worst = max(measures, key=lambda m: m.excess)
    if worst.excess > 0:
        raise Refused(
            f"{what} gives other results than the CPU on the built-in test picture "
            f"({worst.name}: {worst.value:.4g}, the limit is {worst.limit:g}); "
            "set precision to 'float32', or backend to 'cpu'."
        )
    return ", ".join(map(str, measures))


def _nearest(points: Float32Array, others: Float32Array) -> tuple[Float32Array, NDArray[np.int64]]:
    """Distance of each point to the nearest of the others, and its row."""
    distance = np.full(len(points), np.inf, np.float32)
    row = np.zeros(len(points), np.int64)
    for i in range(0, len(points) if len(others) else 0, 256):  # of thousands: few at a time
        apart = np.linalg.norm(points[i : i + 256, None] - others[None], axis=2)
        apart[np.isnan(apart)] = np.inf
        distance[i : i + 256], row[i : i + 256] = apart.min(1), apart.argmin(1)
    return distance, row


@lru_cache(maxsize=4)
def _features(
    model: str, sha256: str, shape: tuple[int, int, int], top_k: int, threads: int
) -> Arrays:
    with _cpu(threads) as cpu:
        return cpu.load_extractor(model).extract(picture(*shape), None, top_k, 0.0, 0)


@lru_cache(maxsize=2)
def _pair(
    model: str, sha256: str, top_k: int, threads: int
) -> tuple[Features, Features, Matches] | None:
    width, height = _PAIR
    still = picture(height, width, 3)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 8.0, 1.1)
    turned = np.asarray(cv2.warpAffine(still, turn, _PAIR, borderMode=cv2.BORDER_REFLECT), np.uint8)
    with _cpu(threads) as cpu:
        extractor = cpu.load_extractor(model)
        first, second = (
            Features(*extractor.extract(pixels, None, top_k, 0.0, 0), width, height, model)
            for pixels in (still, turned)
        )
        if first.descriptors.shape[1] != LIGHTGLUE_DIM:
            return None
        return first, second, cpu.load_matcher().match(first, second, *MATCHING)


@contextmanager
def _cpu(threads: int) -> Iterator[Backend]:
    """The reference; Refused where it cannot be had."""
    from aliked_ros.backends.cpu.backend import CpuBackend

    try:
        with closing(CpuBackend(FrontendConfig(precision="float32", threads=threads))) as cpu:
            yield cpu
    except AlikedError as error:
        raise Refused(f"The GPU's results cannot be compared with the CPU's: {error}") from error
