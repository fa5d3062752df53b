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

"""Features of two images to matches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
from scipy.spatial import cKDTree

from aliked_ros.backends.base import Backend
from aliked_ros.backends.create import create_backend
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ConfigurationError
from aliked_ros.frontend.prediction import Turn, expected, own_motion
from aliked_ros.frontend.quarter_turns import as_turned
from aliked_ros.frontend.similarity import mutual_best, mutual_best_of, similarities
from aliked_ros.frontend.verification import MIN_MATCHES
from aliked_ros.networks.constants import LIGHTGLUE_DIM
from aliked_ros.types import Features, Float32Array, IntArray, Matches, UInt32Array

_GATE = 0.1  # of the image's longer side: how far from its expected place a feature is looked for
_NEIGHBOURS = 5  # matches that tell by how much a turn misses a point near them
_FINE = 0.01  # of the image's longer side, around the place that they tell
# A roll of 24° between two images leaves right pairs a cosine of 0.65 (nine of ten: 0.4), pairs
# of unrelated points 0.02 (nine of ten below 0.2). Measured on fr1_xyz and vamr_box.
_TURNED_COSINE = 0.5
_TURNED_SHARE = 0.4  # as EASY_SHARE: fewer are detected again, and LightGlue finds hardly more
PLACED_COSINE = 0.3
"""Of the descriptors of a place that is known to a few pixels, seen before and after a turn."""

EASY_SHARE = 0.5  # of the features: fewer matches near their expected places make an image hard


class Matcher(Protocol):
    """Anything that finds correspondences between two images' features."""

    def match(self, reference: Features, current: Features) -> Matches:
        """Matches of ``current`` against ``reference``; each row of either at most once."""
        ...

    def reconfigure(self, config: FrontendConfig) -> None:
        """Take over the thresholds of ``config``."""
        ...


class TurnMatcher(Matcher, Protocol):
    """A matcher that may be told how the camera turned."""

    def match(self, reference: Features, current: Features, *, turn: Turn | None = None) -> Matches:
        """See ``Matcher``. turn: of the camera, from the reference to the current image."""
        ...


class LightGlueMatcher:
    """LightGlue with early stop and point pruning."""

    def __init__(self, config: FrontendConfig, backend: Backend) -> None:
        self._config = config
        self._network = backend.load_matcher()

    def match(self, reference: Features, current: Features, *, turn: Turn | None = None) -> Matches:
        """See ``Matcher``; ConfigurationError for features LightGlue was not trained for."""
        if min(len(reference), len(current)) == 0:
            return replace(Matches.empty(), matcher="lightglue")
        for features in (reference, current):
            if features.descriptors.shape[1] != LIGHTGLUE_DIM:
                raise ConfigurationError(
                    f"{features.model} has {features.descriptors.shape[1]}-dimensional "
                    f"descriptors; LightGlue's weights are for {LIGHTGLUE_DIM}. Use the matcher "
                    "'nearest'."
                )
        config = self._config
        matches = self._network.match(
            as_turned(reference),
            as_turned(current),
            config.match_threshold,
            config.depth_confidence,
            config.width_confidence,
        )
        return replace(matches, matcher="lightglue")

    def reconfigure(self, config: FrontendConfig) -> None:
        """See ``Matcher``."""
        self._config = config


class NearestMatcher:
    """Mutual nearest neighbours by cosine; the score is the cosine."""

    def __init__(self, config: FrontendConfig, backend: Backend | None = None) -> None:
        self._config = config

    def match(self, reference: Features, current: Features, *, turn: Turn | None = None) -> Matches:
        """See ``Matcher``."""
        cosines = similarities(reference.descriptors, current.descriptors)
        return _nearest(cosines, self._config.min_similarity)

    def reconfigure(self, config: FrontendConfig) -> None:
        """See ``Matcher``."""
        self._config = config


class PairMatcher:
    """Nearest neighbours near where a known turn of the camera leads; else LightGlue.

    For two images of any kind.
    """

    def __init__(self, config: FrontendConfig, lightglue: Matcher) -> None:
        self._config = config
        self._lightglue = lightglue

    def match(self, reference: Features, current: Features, *, turn: Turn | None = None) -> Matches:
        """See ``Matcher``."""
        if turn is not None:
            there = turn.placed(reference.keypoints)
            matches = _found(reference, current, there, turn, self._config.min_similarity)
            if matches is not None:
                return matches
        return self._lightglue.match(reference, current)

    def reconfigure(self, config: FrontendConfig) -> None:
        """See ``Matcher``."""
        self._config = config
        self._lightglue.reconfigure(config)


class AdaptiveMatcher:
    """Nearest neighbours near their expected places; LightGlue where too few are found there.

    A feature is expected where its last displacement leads, or the median one where it had none;
    with a gyroscope, where the camera's turn leads and the rest of that displacement. So it is for
    the images of one camera in their order; the first of them is LightGlue's.
    """

    def __init__(self, config: FrontendConfig, lightglue: Matcher) -> None:
        self._config = config
        self._lightglue = lightglue
        self._last: Features | None = None
        self._moved: Float32Array = np.zeros((0, 2), np.float32)
        self._own = self._moved  # the part that no turn explains

    def match(self, reference: Features, current: Features, *, turn: Turn | None = None) -> Matches:
        """See ``Matcher``."""
        matches = None
        if reference is self._last:
            there = expected(reference.keypoints, self._moved, self._own, turn)
            matches = _found(reference, current, there, turn, self._config.min_similarity)
        if matches is None:
            matches = self._lightglue.match(reference, current)
        self._remember(reference, current, matches, turn)
        return matches

    def reconfigure(self, config: FrontendConfig) -> None:
        """See ``Matcher``."""
        self._config = config
        self._lightglue.reconfigure(config)

    def _remember(
        self, reference: Features, current: Features, matches: Matches, turn: Turn | None
    ) -> None:
        rows = matches.current_indices
        before = reference.keypoints[matches.reference_indices]
        now = current.keypoints[rows]
        self._moved = _spread(now - before, rows, len(current))
        self._own = _spread(own_motion(before, now, turn), rows, len(current))
        self._last = current


def _spread(values: Float32Array, rows: UInt32Array, count: int) -> Float32Array:
    """Pairs K×2 at their rows of ``count``, elsewhere their median."""
    usual = np.median(values, axis=0) if len(values) else np.zeros(2, np.float32)
    spread = np.tile(usual, (count, 1)).astype(np.float32)
    spread[rows] = values
    return spread


def _found(
    reference: Features, current: Features, there: Float32Array, turn: Turn | None, least: float
) -> Matches | None:
    """Nearest neighbours near N expected places; None where too few are: LightGlue has to help."""
    if turn is not None and turn.bends:
        matches, share = _near_turned(reference, current, there, least), _TURNED_SHARE
    else:
        matches, share = _near(reference, current, there, least), EASY_SHARE
    return None if _few(matches, reference, current, turn, share) else matches


def _near_turned(
    reference: Features, current: Features, there: Float32Array, least: float
) -> Matches:
    """``_near`` after a turn that changes the descriptors.

    Where those that are similar enough move as their neighbours do, these tell where the rest is,
    so well that hardly similar descriptors suffice. None are found where they do not.
    """
    rough = _near(reference, current, there, min(least, _TURNED_COSINE))
    if len(rough) < MIN_MATCHES:
        return Matches.empty()
    before = there[rough.reference_indices]
    off = current.keypoints[rough.current_indices] - before
    _, near = cKDTree(before).query(there, k=_NEIGHBOURS)
    place = there + np.median(off[near], axis=1).astype(np.float32)
    size = _FINE * max(current.width, current.height)
    apart = current.keypoints[rough.current_indices] - place[rough.reference_indices]
    if np.mean(np.linalg.norm(apart, axis=1) < size) < EASY_SHARE:
        return Matches.empty()
    pairs = cKDTree(place).sparse_distance_matrix(
        cKDTree(current.keypoints), size, output_type="ndarray"
    )
    rows, columns = mutual_best_of(
        reference.descriptors, current.descriptors, pairs["i"], pairs["j"], PLACED_COSINE
    )
    rest = (rough.scores > least) & ~np.isin(rough.reference_indices, rows)
    rest &= ~np.isin(rough.current_indices, columns)
    rows = np.concatenate([rows, rough.reference_indices[rest]])
    columns = np.concatenate([columns, rough.current_indices[rest]])
    cosines = np.einsum("kd,kd->k", reference.descriptors[rows], current.descriptors[columns])
    return _of_nearest(rows, columns, cosines)


def _near(reference: Features, current: Features, there: Float32Array, least: float) -> Matches:
    """Nearest neighbours within the gate around N places in the current image."""
    cosines = similarities(reference.descriptors, current.descriptors)
    gate = _GATE * max(current.width, current.height)
    for axis in (0, 1):
        distance = np.subtract.outer(there[:, axis], current.keypoints[:, axis])
        cosines[np.abs(distance, out=distance) > gate] = 0.0
    return _nearest(cosines, least)


def _few(
    matches: Matches, reference: Features, current: Features, turn: Turn | None, share: float
) -> bool:
    """Whether LightGlue has to help; features that a turn leads out of view do not count."""
    counts = [len(reference), len(current)]
    if turn is not None:
        stay = turn.stays(reference.keypoints), turn.back.stays(current.keypoints)
        counts = [int(np.count_nonzero(one)) for one in stay]
        if len(matches) < MIN_MATCHES:
            return True
    return len(matches) < share * min(counts)


def _nearest(cosines: Float32Array, least: float) -> Matches:
    rows, columns = mutual_best(cosines, least)
    return _of_nearest(rows, columns, cosines[rows, columns])


def _of_nearest(rows: IntArray, columns: IntArray, cosines: Float32Array) -> Matches:
    scores = np.minimum(cosines, np.float32(1.0))
    return Matches(rows.astype(np.uint32), columns.astype(np.uint32), scores, matcher="nearest")


_MATCHERS: dict[str, Callable[[FrontendConfig, Backend], TurnMatcher]] = {
    "lightglue": LightGlueMatcher,
    "nearest": NearestMatcher,
    # within one camera's sequence: AdaptiveMatcher
    "adaptive": lambda config, backend: PairMatcher(config, LightGlueMatcher(config, backend)),
}


def build_matcher(config: FrontendConfig, backend: Backend) -> TurnMatcher:
    """The matcher of ``config`` for two images of any kind."""
    return _MATCHERS[config.matcher](config, backend)


def create_matcher(config: FrontendConfig) -> TurnMatcher:
    """A matcher with a backend of its own; raises WeightsError, ModelError, BackendError."""
    return build_matcher(config, create_backend(config))
