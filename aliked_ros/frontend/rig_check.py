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

"""Whether the extrinsics of a rig fit its images.

Matches that are found without the extrinsics agree with them, but for chance, only if they are
right. Where few do, that may also be for want of a common view: so the extrinsics are called wrong
only if the matches agree with something else, the cameras in each other's place or any other pose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.rig_geometry import TwoCameras, View, overlap
from aliked_ros.frontend.similarity import mutual_best, similarities
from aliked_ros.frontend.verification import Verifier
from aliked_ros.types import Float32Array, Matches

_EVERY = 10  # sets
_TIMES = 3  # in a row that a check finds the same before it is reported
_ENOUGH = 40  # matches; with fewer nothing is concluded
_FITTING = 0.3  # of the matches: with fewer that agree, other explanations are tried
_CLEARLY = 0.5  # of the matches that another explanation needs,
_BETTER = 3.0  # and times as many as agree with the extrinsics

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Pair:
    """Two cameras of a set, by name and view; what is computed of them is kept."""

    names: tuple[str, str]
    first: View
    second: View

    @cached_property
    def geometry(self) -> TwoCameras:
        """Between the two, by their extrinsics."""
        return TwoCameras(self.first, self.second)

    @cached_property
    def overlaps(self) -> bool:
        """Whether they see a common part of some scene, by their extrinsics."""
        return overlap(self.first, self.second)

    @cached_property
    def cosines(self) -> Float32Array:
        """N×M, of their descriptors."""
        return similarities(self.first.features.descriptors, self.second.features.descriptors)


@dataclass(frozen=True, slots=True)
class Problem:
    """The extrinsics of two cameras contradict their images.

    swapped: with the cameras in each other's place they fit. share: of the matches found without
    the extrinsics, how many agree with them. better: how many with the other explanation.
    """

    names: tuple[str, str]
    swapped: bool
    share: float
    better: float


class ExtrinsicsCheck:
    """Looks at each of the first sets, then at every tenth; while something is wrong, at all.

    suspected: pairs of names whose extrinsics did not fit at the last look. problems: what has been
    found several times in a row.
    """

    def __init__(self, config: FrontendConfig) -> None:
        self._config = config
        self._verifier = Verifier(config)
        self._sets = 0
        self._found: dict[tuple[str, str], tuple[int, Problem]] = {}

    @property
    def suspected(self) -> frozenset[tuple[str, str]]:
        """See the class."""
        return frozenset(self._found)

    @property
    def problems(self) -> list[Problem]:
        """See the class."""
        return [problem for times, problem in self._found.values() if times >= _TIMES]

    def look(self, pairs: Sequence[Pair]) -> None:
        """Check a set, if it is its turn."""
        self._sets += 1
        if self._sets > _TIMES and self._sets % _EVERY and not self._found:
            return
        loose = [_Loose(pair, self._config) for pair in pairs]
        found = []
        if any(one.pair.overlaps and one.contradicts for one in loose):
            found = [problem for one in loose if (problem := one.explained(self._verifier))]
        times = {names: count for names, (count, _) in self._found.items()}
        self._found = {p.names: (times.get(p.names, 0) + 1, p) for p in found}


@dataclass
class _Loose:
    """The matches of a pair that are found without the extrinsics."""

    pair: Pair
    config: FrontendConfig
    rows: Indices = field(init=False)
    columns: Indices = field(init=False)

    def __post_init__(self) -> None:
        self.rows, self.columns = mutual_best(self.pair.cosines, self.config.min_similarity)

    @property
    def contradicts(self) -> bool:
        """Whether there are enough, and few of them agree with the extrinsics."""
        return len(self.rows) >= _ENOUGH and self.share(self.pair.geometry) < _FITTING

    def share(self, geometry: TwoCameras) -> float:
        """Of those that tell; distant points agree with wrong positions as well."""
        agree, depth, _ = geometry.agree(self.rows, self.columns, self.config.inlier_threshold)
        near = np.isfinite(depth)
        telling = int((near | ~agree).sum())
        return float(near.sum() / telling) if telling >= _ENOUGH / 2 else 1.0

    def explained(self, verifier: Verifier) -> Problem | None:
        """What the matches agree with instead; None if with nothing, or with the extrinsics."""
        if not self.contradicts:
            return None
        share = self.share(self.pair.geometry)
        least = max(_CLEARLY, _BETTER * share)
        swapped = self.share(TwoCameras(self.pair.first, self.pair.second, swapped=True))
        if swapped >= least:
            return Problem(self.pair.names, True, share, swapped)
        first, second = self.pair.first, self.pair.second
        scores = self.pair.cosines[self.rows, self.columns]
        matches = Matches(self.rows.astype(np.uint32), self.columns.astype(np.uint32), scores)
        free = verifier.verify(
            first.features, second.features, matches, second.camera, (first.rays, second.rays)
        )
        better = free.inlier_count / len(matches)
        return Problem(self.pair.names, False, share, better) if better >= least else None
