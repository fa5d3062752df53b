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

"""The compared methods: from two images to correspondences, and from a sequence to tracks.

All have the same number of keypoints and the same verification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from aliked_ros.backends.shared import SharedBackends
from aliked_ros.configuration import MODELS, SETTINGS, FrontendConfig, is_checkpoint
from aliked_ros.errors import ConfigurationError
from aliked_ros.evaluation.baselines import (
    CornerDetector,
    DescriptorFrontend,
    Detector,
    FlowFrontend,
    Frontend,
    HammingMatcher,
    OrbDetector,
    RatioMatcher,
    SiftDetector,
    flow,
)
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.flow import follow, structure_at
from aliked_ros.frontend.fusion import Filters, detection_noise
from aliked_ros.frontend.matcher import Matcher, build_matcher
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.io.images import grey
from aliked_ros.models.registry import entry_of
from aliked_ros.types import Features, Float32Array, UInt8Array

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class View:
    """One image as a method sees it.

    pixels: H×W (grey) or H×W×3 (RGB) uint8. features: by falling score; descriptors have no
    columns where the method has none.
    """

    pixels: UInt8Array
    features: Features


@dataclass(frozen=True, slots=True)
class Pairs:
    """Correspondences of two views. first, second: K×2 float32, pixels. scores: K float32."""

    first: Float32Array
    second: Float32Array
    scores: Float32Array

    def __len__(self) -> int:
        return len(self.scores)


class Method(Protocol):
    """A way to match images.

    name: short, for tables and ``--methods``. description: for people, with its settings.
    matcher: finds rows of two images' features; None where a method follows points by their
    surroundings, without descriptors.
    """

    name: str
    description: str
    matcher: Matcher | None

    def view(self, pixels: UInt8Array, mask: UInt8Array | None = None) -> View:
        """Detect and describe an image's keypoints."""
        ...

    def match(self, first: View, second: View) -> Pairs:
        """Correspondences, before any geometric verification."""
        ...

    def frontend(self) -> Frontend:
        """A fresh front-end for one sequence, with verification and tracks."""
        ...


class DescribedMethod:
    """Keypoints and descriptors, found by one function and matched by another."""

    def __init__(
        self,
        name: str,
        description: str,
        detect: Callable[[UInt8Array, UInt8Array | None], Features],
        matcher: Matcher,
        frontend: Callable[[], Frontend],
    ) -> None:
        self.name, self.description = name, description
        self.matcher: Matcher | None = matcher
        self._matcher = matcher
        self._detect, self._frontend = detect, frontend

    def view(self, pixels: UInt8Array, mask: UInt8Array | None = None) -> View:
        """See ``Method``."""
        return View(pixels, self._detect(pixels, mask))

    def match(self, first: View, second: View) -> Pairs:
        """See ``Method``."""
        matches = self._matcher.match(first.features, second.features)
        return Pairs(
            first.features.keypoints[matches.reference_indices],
            second.features.keypoints[matches.current_indices],
            matches.scores,
        )

    def frontend(self) -> Frontend:
        """See ``Method``."""
        return self._frontend()


class RefinedMethod(DescribedMethod):
    """ALIKED and LightGlue; flow from the first keypoint says where its match lies exactly."""

    def match(self, first: View, second: View) -> Pairs:
        """See ``Method``; where flow is unsure and the detection elsewhere, its place counts."""
        pairs = super().match(first, second)
        before, now = grey(first.pixels), grey(second.pixels)
        if before.shape != now.shape:
            return pairs
        noise = detection_noise(structure_at(before, pairs.first))
        flow = follow(before, now, pairs.first, pairs.second)
        filters = Filters.born(noise).step(flow.covariances)
        distance = (pairs.second - flow.points).astype(np.float64)
        noise = detection_noise(structure_at(now, pairs.second))
        moved, _ = filters.correct(distance, noise)
        agrees = filters.agrees(distance, noise)
        moved[~agrees] = 0.0  # nor do such correct a track
        there = np.where((flow.found | agrees)[:, None], flow.points + moved, pairs.second)
        return Pairs(pairs.first, there.astype(np.float32), pairs.scores)


class FlowMethod:
    """Corners of the first image, followed into the second by pyramidal Lucas-Kanade."""

    name = "gftt+lk"
    description = (
        "OpenCV goodFeaturesToTrack, pyramidal Lucas-Kanade (21×21, 4 levels), forward and back "
        "within 1 px"
    )
    matcher: Matcher | None = None

    def __init__(self, config: FrontendConfig) -> None:
        self._config = config
        self._detect = CornerDetector(config.max_keypoints)

    def view(self, pixels: UInt8Array, mask: UInt8Array | None = None) -> View:
        """See ``Method``."""
        return View(pixels, self._detect(pixels, mask))

    def match(self, first: View, second: View) -> Pairs:
        """See ``Method``; ``second`` is where the points arrive, not its own corners."""
        start = first.features.keypoints
        arrived, found = flow(first.pixels, second.pixels, start)
        return Pairs(start[found], arrived[found], np.ones(int(found.sum()), np.float32))

    def frontend(self) -> Frontend:
        """See ``Method``."""
        return FlowFrontend(self._config)


def _aliked(
    name: str, config: FrontendConfig, shared: SharedBackends, stack: ExitStack, say: Progress
) -> Method:
    model, matcher = _parts(name)
    flow = matcher == "flow"
    own = replace(
        config,
        model=config.model if model == "aliked" else model,
        matcher="lightglue" if flow else matcher,
        detection=_FLOW_DETECTION if flow else "every",
        edge_points="thin" if flow else "keep",  # as profile cpu
    )
    backend = shared.open(own, say)
    stack.callback(backend.close)
    extractor = Extractor(own, backend)

    def frontend() -> Frontend:
        pipeline = Pipeline(own, say, shared.open)
        stack.callback(pipeline.close)
        return pipeline

    about = f", flow between detections of each {own.detection}. image" if flow else ""
    return (RefinedMethod if flow else DescribedMethod)(
        name,
        f"{own.model}, {own.matcher}{about}, {backend.description}",
        extractor.extract,
        build_matcher(own, backend),
        frontend,
    )


def _of_descriptors(
    config: FrontendConfig, name: str, about: str, detector: Detector, matcher: Matcher
) -> Method:
    return DescribedMethod(
        name, about, detector, matcher, lambda: DescriptorFrontend(config, detector, matcher)
    )


def _orb(config: FrontendConfig) -> Method:
    about = "OpenCV ORB, brute force, mutually least Hamming distance"
    detector = OrbDetector(config.max_keypoints)
    return _of_descriptors(config, "orb", about, detector, HammingMatcher())


def _sift(config: FrontendConfig) -> Method:
    about = "OpenCV SIFT, brute force, ratio test 0.8, mutual"
    detector = SiftDetector(config.max_keypoints)
    return _of_descriptors(config, "sift", about, detector, RatioMatcher())


def _disk(config: FrontendConfig) -> Method:
    from aliked_ros.evaluation.disk import DiskDetector, DiskMatcher

    about = "DISK (kornia, PyTorch) with LightGlue's weights for it"
    detector = DiskDetector(config.max_keypoints)
    return _of_descriptors(config, "disk+lightglue", about, detector, DiskMatcher(config))


def _xfeat(config: FrontendConfig) -> Method:
    from aliked_ros.evaluation.xfeat import LighterGlueMatcher, XFeatDetector

    about = "XFeat and LighterGlue (kornia, PyTorch)"
    detector = XFeatDetector(config.max_keypoints)
    return _of_descriptors(config, "xfeat+lighterglue", about, detector, LighterGlueMatcher(config))


_FLOW_DETECTION = "3"  # images: ten detections a second of a camera at 30 Hz

METHODS = (
    "aliked+lightglue", "aliked+nearest", "aliked+adaptive", "aliked+flow", "sift", "orb",
    "gftt+lk", "disk+lightglue", "xfeat+lighterglue",
)  # fmt: skip
_MAKERS: dict[str, Callable[[FrontendConfig], Method]] = {
    "sift": _sift,
    "orb": _orb,
    "gftt+lk": FlowMethod,
    "disk+lightglue": _disk,
    "xfeat+lighterglue": _xfeat,
}


def checkpoints(names: Sequence[str]) -> dict[str, str]:
    """Checksums of the files that methods name as their model, by method."""
    models = {name: _parts(name)[0] for name in names}
    return {name: entry_of(model).sha256 for name, model in models.items() if is_checkpoint(model)}


def _parts(name: str) -> tuple[str, str]:
    model, _, matcher = name.rpartition("+")
    return model, matcher


def _is_aliked(name: str) -> bool:
    model, matcher = _parts(name)
    known = model in ("aliked", *MODELS) or is_checkpoint(model)
    return known and matcher in (*SETTINGS["matcher"].choices, "flow")


@contextmanager
def open_methods(
    names: Sequence[str], config: FrontendConfig, say: Progress = lambda _text: None
) -> Iterator[list[Method]]:
    """The methods of these names, in this order; the first is the one others are compared with.

    names: of METHODS; or a model's name, or a checkpoint's path, with ``+lightglue``,
    ``+nearest``, ``+adaptive`` (which is LightGlue for pairs that are no sequence) or ``+flow``.
    config: model, number of keypoints, verification and backend of all; its matcher is not looked
    at. say: called with a line on each long step.
    Raises ConfigurationError for a name that is none of METHODS or comes twice; WeightsError,
    ModelError, BackendError.
    """
    for name in names:
        if name not in METHODS and not _is_aliked(name):
            raise ConfigurationError(
                f"there is no method {name!r} to evaluate; choose of {', '.join(METHODS)}, or a "
                "model or checkpoint: aliked-n32+nearest, runs/mine/best.pth+lightglue."
            )
    if not names or len(set(names)) < len(names):
        raise ConfigurationError(
            f"the methods are {', '.join(names) or 'none'}; name at least one, and each once."
        )
    shared = SharedBackends()
    with ExitStack() as stack:
        methods: list[Method] = []
        for name in names:
            if _is_aliked(name):
                methods.append(_aliked(name, config, shared, stack, say))
            else:
                methods.append(_MAKERS[name](config))
        yield methods
