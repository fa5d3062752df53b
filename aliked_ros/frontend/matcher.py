"""Features of two images to matches."""

from __future__ import annotations

import threading
from typing import Protocol

import numpy as np
from threadpoolctl import ThreadpoolController

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ConfigurationError
from aliked_ros.inference.backend import Backend, create_backend
from aliked_ros.types import Features, Matches

_blas_limit = threading.Lock()  # the limit holds for the whole process


class Matcher(Protocol):
    """Anything that finds correspondences between two images' features."""

    def match(self, reference: Features, current: Features) -> Matches:
        """Matches of ``current`` against ``reference``; each row of either at most once."""
        ...

    def reconfigure(self, config: FrontendConfig) -> None:
        """Take over the thresholds of ``config``."""
        ...


class LightGlueMatcher:
    """LightGlue with early stop and point pruning."""

    def __init__(self, config: FrontendConfig, backend: Backend) -> None:
        self._config = config
        self._network = backend.load_matcher()

    def match(self, reference: Features, current: Features) -> Matches:
        """See ``Matcher``; ConfigurationError for features LightGlue was not trained for."""
        if min(len(reference), len(current)) == 0:
            return Matches.empty()
        for features in (reference, current):
            if features.descriptors.shape[1] != 128:
                raise ConfigurationError(
                    f"{features.model} has {features.descriptors.shape[1]}-dimensional "
                    "descriptors; LightGlue's weights are for 128. Use the matcher 'nearest'."
                )
        config = self._config
        return self._network.match(
            reference,
            current,
            config.match_threshold,
            config.depth_confidence,
            config.width_confidence,
        )

    def reconfigure(self, config: FrontendConfig) -> None:
        """See ``Matcher``."""
        self._config = config


class NearestMatcher:
    """Mutual nearest neighbours by cosine; the score is the cosine."""

    def __init__(self, config: FrontendConfig) -> None:
        self._config = config
        self._libraries = ThreadpoolController()

    def match(self, reference: Features, current: Features) -> Matches:
        """See ``Matcher``."""
        if min(len(reference), len(current)) == 0:
            return Matches.empty()
        # BLAS's other threads would spin for 20 ms after the product, on the cores that the
        # next image needs
        with _blas_limit, self._libraries.limit(limits=1, user_api="blas"):
            similarity = reference.descriptors @ current.descriptors.T
        forward, backward = similarity.argmax(1), similarity.argmax(0)
        rows = np.arange(len(forward))
        scores = similarity[rows, forward]
        kept = np.flatnonzero((backward[forward] == rows) & (scores > self._config.min_similarity))
        return Matches(
            kept.astype(np.uint32),
            forward[kept].astype(np.uint32),
            np.minimum(scores[kept], np.float32(1.0)),
        )

    def reconfigure(self, config: FrontendConfig) -> None:
        """See ``Matcher``."""
        self._config = config


def build_matcher(config: FrontendConfig, backend: Backend) -> Matcher:
    """The matcher that ``config.matcher`` names, on ``backend``."""
    if config.matcher == "nearest":
        return NearestMatcher(config)
    return LightGlueMatcher(config, backend)


def create_matcher(config: FrontendConfig) -> Matcher:
    """A matcher with a backend of its own; raises WeightsError, ModelError, BackendError."""
    return build_matcher(config, create_backend(config))
