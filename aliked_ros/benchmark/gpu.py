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

"""GPU benchmark: image to matches against the published code, stages against physical limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from aliked_ros.backends.create import open_device
from aliked_ros.backends.gpu.backend import DeviceBackend
from aliked_ros.backends.gpu.engines import extractor_network, matcher_networks
from aliked_ros.benchmark.timing import summarise
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.matcher import LightGlueMatcher
from aliked_ros.models.registry import weights_path
from aliked_ros.types import Features, UInt8Array

if TYPE_CHECKING:
    from aliked_ros.backends.gpu.torch import TorchDevice

POINTS = 1024
WIDTH, HEIGHT = 640, 480
_BURST = 25  # consecutive images of one contender
_MODEL = "aliked-n16"
_TRIALS = 200  # runs of a stage


def device_suite(
    images: list[UInt8Array],
    rounds: int,
    progress: Callable[[float], None],
    backend: str,
) -> dict[str, Any]:
    """ALIKED and LightGlue (nine layers, no early stop) from image to matches in host memory.

    Each round processes 25 consecutive images with ours and with the published code. Raises
    BackendError if ``backend`` ("tensorrt" or "torch") cannot run on a GPU here.
    """
    device = open_device(backend)
    config = FrontendConfig(max_keypoints=POINTS, depth_confidence=-1.0, match_threshold=0.1)
    memory = {"before": device.memory_in_use()}
    ours = DeviceBackend(config, device)
    contenders = {"aliked_ros": _Contender(Extractor(config, ours), LightGlueMatcher(config, ours))}
    # peers hold GPU memory too, so ours is measured without them
    contenders["aliked_ros"].process(images[0])
    contenders["aliked_ros"].process(images[1])
    memory["loaded"] = device.memory_in_use()
    ours.release()
    memory["released"] = device.memory_in_use()
    published, left_out = _published(config, str(getattr(device, "place", "cuda:0")))
    contenders = published | contenders
    parts = _time(contenders, images, rounds, progress)
    stages = _stages(cast("TorchDevice", device)) if device.kind == "torch" else {}
    description = ours.description
    ours.close()
    return {
        "setting": f"{POINTS} keypoints, 9 layers, {rounds * _BURST} images; {description}",
        "parts": parts,
        "memory_mib": {name: round(used / 2**20) for name, used in memory.items()},
        "left_out": left_out,
        **stages,
    }


class _Contender:
    """Image to matches with the previous image, timed in two parts."""

    def __init__(self, extractor: Any, matcher: Any) -> None:
        self._extractor, self._matcher = extractor, matcher
        self._before: Features | None = None

    def process(self, image: UInt8Array) -> tuple[float, float]:
        """Seconds of ALIKED and of LightGlue.

        What LightGlue computes while the features are read counts as ALIKED's.
        """
        begin = time.perf_counter()
        features = self._extractor.extract(image, reference=self._before)
        middle = time.perf_counter()
        if self._before is not None:
            self._matcher.match(self._before, features)
        self._before = features
        return middle - begin, time.perf_counter() - middle


def _published(config: FrontendConfig, name: str) -> tuple[dict[str, _Contender], dict[str, str]]:
    """The published form in eager PyTorch on the same device: our own modules of its architecture.

    In PyTorch's default precision (convolutions may use TF32), and with LightGlue under autocast in
    half precision with flash attention; the published ALIKED has no such mode.
    """
    try:
        import torch

        from aliked_ros.benchmark.dense import DenseExtractor
        from aliked_ros.benchmark.lightglue import LightGlue, PublishedLightGlue
        from aliked_ros.networks.aliked import ALIKED
    except ImportError as error:
        return {}, {"published PyTorch": str(error)}
    place = torch.device(name)
    if place.type == "cuda" and not torch.cuda.is_available():
        return {}, {"published PyTorch": "this build of PyTorch cannot use the GPU"}
    aliked = ALIKED.from_checkpoint(weights_path(_MODEL)).to(place)
    lightglue = LightGlue.from_checkpoint(weights_path("aliked-lightglue")).to(place)

    class Published:
        def __init__(self, half: bool) -> None:
            self.half = half

        def load_extractor(self, model: str) -> Any:
            return DenseExtractor(aliked, place)

        def load_matcher(self) -> Any:
            return PublishedLightGlue(lightglue, place, self.half)

    def contender(half: bool) -> _Contender:
        backend: Any = Published(half)
        return _Contender(Extractor(config, backend), LightGlueMatcher(config, backend))

    half = "published PyTorch, LightGlue in half precision"
    return {"published PyTorch": contender(False), half: contender(True)}, {}


def _time(
    contenders: dict[str, _Contender],
    images: list[UInt8Array],
    rounds: int,
    progress: Callable[[float], None],
) -> list[dict[str, Any]]:
    """ALIKED, LightGlue and both; intervals are over rounds, percentiles over images."""
    seconds = {name: np.zeros((rounds, _BURST, 3)) for name in contenders}
    order = np.random.default_rng(0)
    for i in range(-1, rounds):  # the first round warms up
        for name in order.permutation(list(contenders)):
            for j in range(_BURST):
                times = contenders[name].process(images[(i * _BURST + j) % len(images)])
                seconds[name][max(i, 0), j] = (*times, sum(times))
        progress((i + 1) / rounds)
    parts = []
    for k, title in enumerate(("ALIKED", "LightGlue", "image to matches")):
        timings = summarise({name: np.median(s[..., k], axis=1) for name, s in seconds.items()})
        rows = []
        for timing in timings:
            images_ms = 1e3 * seconds[timing.name][..., k]
            median, p90, p99 = np.percentile(images_ms, (50, 90, 99)).round(3).tolist()
            rows.append(timing.as_dict() | {"median_ms": median, "p90_ms": p90, "p99_ms": p99})
        parts.append({"title": title, "timings": rows})
    return parts


def _stages(device: TorchDevice) -> dict[str, Any]:
    """Time of each stage on the GPU, and its limit at the GPU's measured rates."""
    rows: list[dict[str, Any]] = []
    network = extractor_network(_MODEL, (WIDTH, HEIGHT), 3, POINTS, "float16")
    with device.making("timing the stages"):
        rates = _rates(device)

        def stage(name: str, weights: list[Any], function: Callable[..., Any], *inputs: Any) -> Any:
            row, results = _stage(device, rates, weights, function, inputs)
            rows.append({"name": name, **row})
            return results

        aliked, tensors, _ = device.module(network)
        image, mask, threshold, _ = tensors.values()
        image.random_(0, 256)
        head = [aliked.desc_head]
        tail = [aliked.score_tail]
        encoder = [part for part in aliked.children() if part not in head + tail]
        parts, levels, window = stage("ALIKED, encoder", encoder, aliked.encode, image)
        score_map = stage(
            "ALIKED, score map", tail, lambda parts: window.of(aliked.score_map(parts))[0, 0], parts
        )
        keypoints, _, _ = stage(
            "ALIKED, detection", [], aliked.detect, score_map, mask, threshold, POINTS
        )
        # (it reads only a part of the levels, which is not counted)
        stage(
            "ALIKED, descriptors",
            head,
            lambda points: aliked.describe(levels, points, window),
            keypoints,
        )
        known: dict[str, Any] = {}
        for segment in matcher_networks(POINTS, "float16"):
            layers, tensors, outputs = device.module(segment)
            for tensor in tensors.values():
                if tensor.ndim == 2:  # keypoints and descriptors
                    tensor.normal_()
            known = tensors | known
            given = [known[name] for name in tensors]
            what, *numbers = segment.identity["part"].split("_")
            after = "after " if what == "matches" else ""
            name = f"LightGlue, {what} {after}{' to '.join(numbers)}"
            results = stage(name, [layers], layers, *given)
            names = (output.removeprefix("new_") for output in outputs)
            known |= dict(zip(names, results, strict=True))
    return {"stages": rows, "rates": rates}


def _stage(
    device: TorchDevice,
    rates: dict[str, float],
    weights: list[Any],
    function: Callable[..., Any],
    inputs: tuple[Any, ...],
) -> tuple[dict[str, float], Any]:
    """Figures of one stage, and its results.

    Its floor: moving inputs, outputs and weights once, or computing the products, whichever takes
    longer.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with _plainly(weights), FlopCounterMode(display=False) as counter:
        results = function(*inputs)
    parameters = [p for module in weights for p in module.parameters()]
    moved = sum(tensor.nbytes for tensor in _tensors([inputs, results, parameters])) / 1e9
    work = counter.get_total_flops() / 1e12
    seconds = device.time(lambda: function(*inputs), _TRIALS)
    floor = max(moved / rates["gb_per_s"], work / rates["tflop_per_s"])
    figures = {"ms": 1e3 * seconds, "gflop": 1e3 * work, "mb": 1e3 * moved, "floor_ms": 1e3 * floor}
    return figures, results


@contextmanager
def _plainly(modules: list[Any]) -> Iterator[None]:
    """LightGlue by plain operations meanwhile: PyTorch counts no products of Triton's kernels."""
    from aliked_ros.networks.lightglue import PLAIN

    blocks = [b for m in modules for b in m.modules() if hasattr(b, "operations")]
    before = [block.operations for block in blocks]
    for block in blocks:
        block.operations = PLAIN
    try:
        yield
    finally:
        for block, operations in zip(blocks, before, strict=True):
            block.operations = operations


def _rates(device: TorchDevice) -> dict[str, float]:
    """The GPU's measured rates: a copy (read and write) and a half-precision matrix product."""
    import torch

    size = 8192 if device.on_gpu else 256
    source = torch.empty(4 * size * size, dtype=torch.uint8)
    matrix = torch.randn(size, size).half()
    target, product = torch.empty_like(source), torch.empty_like(matrix)
    copying = device.time(lambda: target.copy_(source), 10)
    multiplying = device.time(lambda: torch.mm(matrix, matrix, out=product), 10)
    return {
        "gb_per_s": 2 * source.nbytes / copying / 1e9,
        "tflop_per_s": 2 * size**3 / multiplying / 1e12,
    }


def _tensors(nested: Any) -> Iterator[Any]:
    """All tensors in lists and tuples."""
    if hasattr(nested, "nbytes"):
        yield nested
    elif isinstance(nested, (list, tuple)):
        for item in nested:
            yield from _tensors(item)
