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

"""The benchmark suites."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aliked_ros.benchmark.gpu import HEIGHT, WIDTH, device_suite
from aliked_ros.benchmark.peers import dense_exports, peers_suite
from aliked_ros.benchmark.scaling import scaling_suite
from aliked_ros.benchmark.timing import Run, Timing, compare, keep_freed_memory, machine
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError, ConfigurationError
from aliked_ros.frontend.extractor import create_extractor
from aliked_ros.frontend.matcher import Matcher, create_matcher
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.models.registry import weights_path
from aliked_ros.sources import default_source, open_source
from aliked_ros.types import Features, Image, UInt8Array

Progress = Callable[[str, float], None]
Suite = Callable[[list[UInt8Array], int, Callable[[float], None]], dict[str, Any]]
_IMAGES = 60
_STREAM = 5  # consecutive images, as from a camera


def run(
    suites: list[str],
    rounds: int,
    source: str | None = None,
    progress: Progress | None = None,
    backend: str = "torch",
) -> dict[str, Any]:
    """Run named suites (see SUITES) and return a report for JSON; ``source`` as in sources.

    backend: whose GPU the suite "device" times.
    """
    named: dict[str, Suite] = {**SUITES, "device": partial(device_suite, backend=backend)}
    for name in suites:
        if name not in named:
            raise ConfigurationError(
                f"There is no benchmark {name!r}; choose from {', '.join(named)}."
            )
    keep_freed_memory()
    report = progress or (lambda _name, _share: None)
    spec = source or default_source()
    images = _load_images(spec)
    results: dict[str, Any] = {"machine": machine(), "source": Path(spec).name, "suites": {}}
    for name in suites:
        results["suites"][name] = named[name](images, rounds, partial(report, name))
    return results


def extractor_suite(
    images: list[UInt8Array], rounds: int, progress: Callable[[float], None]
) -> dict[str, Any]:
    """ALIKED-N16, 1000 keypoints: ours against the published dense form, eager and exported."""
    import torch

    from aliked_ros.backends.torch import TorchExtractor
    from aliked_ros.benchmark.dense import DenseExtractor
    from aliked_ros.networks.aliked import ALIKED

    network = ALIKED.from_checkpoint(weights_path("aliked-n16"))
    contenders: dict[str, Run] = {}

    def add(name: str, extract: Callable[[UInt8Array], object]) -> None:
        contenders[name] = lambda i: extract(images[i % len(images)])

    for name, eager in (
        ("torch eager, dense (published)", DenseExtractor(network, torch.device("cpu"))),
        ("torch eager, sparse", TorchExtractor("aliked-n16")),
    ):
        add(name, partial(eager.extract, mask=None, top_k=1000, threshold=0.0, grid=0))
    for name, extract in dense_exports(network, WIDTH, HEIGHT, 1000).items():
        add(name, extract)
    for precision in ("float32", "bfloat16"):
        try:
            extractor = create_extractor(FrontendConfig(precision=precision))
        except BackendError:
            continue
        add(f"aliked_ros, {precision}", extractor.extract)
    return _table(compare(contenders, rounds, burst=_STREAM, progress=progress))


def matcher_suite(
    images: list[UInt8Array], rounds: int, progress: Callable[[float], None]
) -> dict[str, Any]:
    """LightGlue, 512 points a side, images 1 and 10 frames apart."""
    from aliked_ros.benchmark.lightglue import create_published_matcher

    extractor = create_extractor(FrontendConfig(max_keypoints=512, precision="float32"))
    features = [extractor.extract(pixels) for pixels in images]
    pairs_of = {
        "unrelated": _pairs(features, 1)[
            ::2
        ],  # never the same image twice in a row: nothing to reuse
        "consecutive": _pairs(features, 1),
        "10 apart": _pairs(features, 10),
    }
    contenders: dict[str, Run] = {}

    def add(
        name: str,
        which: str,
        create: Callable[[FrontendConfig], Matcher] = create_matcher,
        **settings: Any,
    ) -> None:
        try:
            matcher = create(FrontendConfig(max_keypoints=512, **settings))
        except BackendError:
            return
        pairs = pairs_of[which]
        contenders[name] = lambda i: matcher.match(*pairs[i % len(pairs)])

    published = create_published_matcher
    add("torch eager, 9 layers", "unrelated", published, depth_confidence=-1.0)
    add("torch eager, early stop, consecutive", "consecutive", published)
    for precision in ("float32", "bfloat16"):
        add(f"{precision}, 9 layers", "unrelated", precision=precision, depth_confidence=-1.0)
        for which in ("consecutive", "10 apart"):
            add(f"{precision}, early stop, {which}", which, precision=precision)
        add(
            f"{precision}, early stop and pruning, consecutive",
            "consecutive",
            precision=precision,
            width_confidence=0.99,
        )
    add("nearest neighbour", "consecutive", matcher="nearest")
    return _table(compare(contenders, rounds, burst=_STREAM, progress=progress))


def frontend_suite(
    images: list[UInt8Array], rounds: int, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Image to tracks over consecutive images, by settings."""
    settings: dict[str, dict[str, Any]] = {
        "n16, 512 points, LightGlue": {"max_keypoints": 512},
        "n16, 512 points, adaptive": {"max_keypoints": 512, "matcher": "adaptive"},
        "n16, 512 points, flow, each 3rd detected": {
            "max_keypoints": 512,
            "matcher": "adaptive",
            "detection": "3",
        },
        "n16, 512 points, flow, detection behind": {
            "max_keypoints": 512,
            "matcher": "adaptive",
            "detection": "behind",
        },
        "n16, 512 points, LightGlue, float32": {"max_keypoints": 512, "precision": "float32"},
        "n16, 1000 points, LightGlue": {"max_keypoints": 1000},
        "n16, 300 points, LightGlue": {"max_keypoints": 300},
        "n16, 1000 points, nearest": {"max_keypoints": 1000, "matcher": "nearest"},
        "t16, 1000 points, nearest": {"model": "aliked-t16", "matcher": "nearest"},
    }
    pipelines = {name: Pipeline(FrontendConfig(**options)) for name, options in settings.items()}
    stream = images + images[-2:0:-1]  # forward and back, so that repeating it never jumps

    def contender(pipeline: Pipeline) -> Run:
        return lambda i: pipeline.process(Image(stream[i % len(stream)], float(i)))

    contenders = {name: contender(pipeline) for name, pipeline in pipelines.items()}
    try:
        return _table(compare(contenders, rounds, burst=_STREAM, progress=progress))
    finally:
        for pipeline in pipelines.values():
            pipeline.close()


def node_suite(
    images: list[UInt8Array], rounds: int, progress: Callable[[float], None]
) -> dict[str, Any]:
    """The running node and the cost of subscribers (``aliked_ros.benchmark.node``)."""
    return _through_ros("node", images, rounds, progress)


def detection_suite(
    images: list[UInt8Array], rounds: int, progress: Callable[[float], None]
) -> dict[str, Any]:
    """The running node with and without optical flow (``aliked_ros.benchmark.detection``)."""
    return _through_ros("detection", images, rounds, progress)


def _through_ros(
    name: str, images: list[UInt8Array], rounds: int, progress: Callable[[float], None]
) -> dict[str, Any]:
    try:
        module = import_module(f"aliked_ros.benchmark.{name}")
    except ImportError as error:
        raise BackendError(
            f"the benchmark '{name}' needs ROS 2 ({error}): source it, or run 'make setup'."
        ) from error
    results: dict[str, Any] = getattr(module, f"{name}_suite")(images, rounds, progress)
    return results


SUITES: dict[str, Suite] = {
    "extractor": extractor_suite,
    "matcher": matcher_suite,
    "frontend": frontend_suite,
    "peers": peers_suite,
    "scaling": scaling_suite,
    "node": node_suite,
    "detection": detection_suite,
}


def _table(timings: list[Timing]) -> dict[str, Any]:
    return {"baseline": timings[0].name, "timings": [t.as_dict() for t in timings]}


def _load_images(spec: str) -> list[UInt8Array]:
    images = [
        np.asarray(cv2.resize(image.pixels, (WIDTH, HEIGHT)), np.uint8)
        for image in islice(iter(open_source(spec)), _IMAGES)
    ]
    if len(images) < 11:
        raise ConfigurationError(f"{spec} has {len(images)} images; a benchmark needs 11 or more.")
    return images


def _pairs(features: list[Features], gap: int) -> list[tuple[Features, Features]]:
    return list(zip(features, features[gap:], strict=False))
