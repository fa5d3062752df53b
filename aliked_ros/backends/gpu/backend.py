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

"""ALIKED and LightGlue as whole graphs on a device that has memory of its own.

What goes into which tensor and when LightGlue may stop is decided here, above the few operations
of :class:`Device`, which ``tensorrt`` and ``torch`` implement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aliked_ros.backends import admission
from aliked_ros.backends.cpu.compiled import widen_half
from aliked_ros.backends.cpu.dkd import spread
from aliked_ros.backends.gpu.device import (
    Array,
    BuildProgress,
    Device,
    DeviceArray,
    DeviceNetwork,
)
from aliked_ros.backends.gpu.engines import (
    Network,
    extractor_network,
    find_ranged,
    matcher_networks,
)
from aliked_ros.backends.gpu.feature_cache import FeatureBlock, FeatureCache, Layout
from aliked_ros.configuration import FrontendConfig, parse_image_size
from aliked_ros.errors import BackendError
from aliked_ros.models.device_export import LARGEST_TOP_K, SEGMENT_LAYERS, GraphPrecision
from aliked_ros.models.registry import weights_path
from aliked_ros.networks import fold
from aliked_ros.networks.constants import LIGHTGLUE_DIM
from aliked_ros.system.nvidia import GpuError
from aliked_ros.types import Features, Float32Array, Matches, UInt8Array

_CELL = 3  # pixels: no two keypoints lie in one of the image's cells of this size
_RECENT = 4  # images whose features stay on the device: two, of two cameras
_SHAPES = 2  # image shapes whose extractor stays loaded


class DeviceBackend:
    """The networks on one device.

    Memory on the device is taken at the first image, and given back by ``release`` and ``close``.
    """

    def __init__(
        self,
        config: FrontendConfig,
        device: Device,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Raises GpuError for settings that the device cannot follow."""
        _check_settings(config, device)
        self._config, self._device = config, device
        self._progress = BuildProgress(progress or (lambda _: None))
        self._precision: GraphPrecision = "float32" if config.precision == "float32" else "float16"
        self._features = FeatureCache(device)
        self._extractors: dict[str, DeviceExtractor] = {}
        self._matcher: DeviceLightGlue | None = None
        self.description = f"{device.kind}: {device.name}, {self._precision}"
        self.identity = {
            "backend": device.kind,
            "runtime": device.name,
            "precision": self._precision,
            "engine": "",
            "reason": "",
        }
        self._admitted: dict[str, str] = {}  # what serves, and how it compares with the CPU

    def load_extractor(self, model: str) -> DeviceExtractor:
        """See ``Backend``; its engine is built now only where ``image_size`` is set.

        One for each model; loading it again returns the same one.
        """
        extractor = self._extractors.setdefault(model, DeviceExtractor(self, model))
        if self._config.image_size:
            width, height, channels = parse_image_size(self._config.image_size)
            top_k = _candidates(self._config.max_keypoints, self._config.grid)
            extractor.prepare((1, height, width, channels), top_k)
        return extractor

    def load_matcher(self) -> DeviceLightGlue:
        """See ``Backend``."""
        if self._matcher is None:
            self._matcher = DeviceLightGlue(self, self._config.max_keypoints)
        self._matcher.prepare()
        return self._matcher

    def release(self) -> None:
        """See ``Backend``."""
        for part in (*self._extractors.values(), self._matcher):
            if part is not None:
                part.release()
        self._features.free()

    def close(self) -> None:
        """See ``Backend``."""
        self.release()
        self._device.close()

    @property
    def device(self) -> Device:
        """Where the networks run."""
        return self._device

    @property
    def precision(self) -> GraphPrecision:
        """Of the networks."""
        return self._precision

    @property
    def features(self) -> FeatureCache:
        """Features of the last images, on the device."""
        return self._features

    def load(
        self,
        network: Network,
        size: tuple[int, int] | None = None,
        given: Mapping[str, DeviceArray] | None = None,
    ) -> DeviceNetwork:
        """See ``Device``."""
        return self._device.load(network, self._progress, size, given)

    def begin_match(
        self, reference: Features, current: FeatureBlock, size: tuple[int, int]
    ) -> None:
        """See ``DeviceLightGlue.begin``; without LightGlue, nothing."""
        if self._matcher is not None:
            self._matcher.begin(reference, current, size)

    def admitted(self, network: DeviceNetwork, part: str, figures: str) -> None:
        """A network serves from now on: ``engine`` says which, and how it compares with the CPU."""
        extractor = part == "ALIKED"  # one for every shape; LightGlue's parts are named by no label
        self._admitted[part] = f"{(extractor and network.label) or part} ({figures})"
        if "ALIKED" in self._admitted:
            parts = (self._admitted.get(name) for name in ("ALIKED", "LightGlue"))
            self.identity["engine"] = "; ".join(filter(None, parts))

    @property
    def config(self) -> FrontendConfig:
        """The settings."""
        return self._config


def _candidates(top_k: int, grid: int) -> int:
    """How many keypoints to ask the device for: spreading needs a choice."""
    return max(top_k, LARGEST_TOP_K) if grid else top_k


def _check_settings(config: FrontendConfig, device: Device) -> None:
    if not 2 <= config.max_keypoints <= device.most_keypoints:
        raise GpuError(
            f"max_keypoints is {config.max_keypoints}, and backend {device.kind!r} finds 2 to "
            f"{device.most_keypoints}",
            "set it within that, or backend to 'cpu'",
        )
    if config.precision == "bfloat16":
        raise GpuError(
            "precision is 'bfloat16', which is the CPU's",
            "set it to 'auto', 'float16' or 'float32'",
        )


@dataclass(eq=False)
class _Loaded:
    """An extractor's network, where its results lie, and what is on the device of its settings.

    unmasked: its mask is 1 everywhere.
    """

    network: DeviceNetwork
    found: FeatureBlock
    unmasked: bool = False
    threshold: float | None = None

    def close(self) -> None:
        self.network.close()
        self.found.free()


class DeviceExtractor:
    """ALIKED: the image goes up, features come down and stay up there too.

    users: how many cameras it serves, in turn; each may have two shapes of images.
    """

    users = 1

    def __init__(self, backend: DeviceBackend, model: str) -> None:
        self._backend, self._model = backend, model
        _, shape = fold.read_aliked(weights_path(model))
        self._dim = shape.dim  # of a descriptor
        self._loaded: dict[tuple[int, ...], _Loaded] = {}

    def extract(
        self,
        pixels: UInt8Array,
        mask: UInt8Array | None,
        top_k: int,
        threshold: float,
        grid: int,
        reference: Features | None = None,
    ) -> tuple[Float32Array, Float32Array, Float32Array]:
        """See ``FeatureNetwork``. With a ``grid``, of as many candidates as the device can find.

        All of the GPU's work is asked for before anything is waited for: LightGlue's first segment
        too, where there is a ``reference``. It computes while the features come down.
        """
        height, width = pixels.shape[:2]
        image = np.ascontiguousarray(pixels).reshape(1, height, width, -1)
        loaded = self._prepare(image.shape, _candidates(top_k, grid))
        self._run(loaded, image, mask, threshold)
        device, features = self._backend.device, self._backend.features
        kept = None if grid else features.keep(loaded.found, _RECENT * self.users)
        fetched = device.fetch(loaded.found.memory)
        if kept is not None and reference is not None and self.users == 1:
            self._backend.begin_match(reference, kept, (width, height))
        rows, arrays = self._valid(loaded, fetched())
        if grid:
            x, y = arrays[0][rows].round().astype(np.int64).T
            rows = spread(x, y, pixels.shape, top_k, grid)
        keypoints, scores, descriptors = (_as_float32(array[rows]) for array in arrays)
        if kept is not None:
            kept.owner = descriptors
        return keypoints, scores, descriptors

    def prepare(self, shape: tuple[int, ...], top_k: int) -> None:
        """Load the network for images 1×H×W×C; the last few stay loaded."""
        self._prepare(shape, top_k)

    def _prepare(self, shape: tuple[int, ...], top_k: int) -> _Loaded:
        _, height, width, channels = shape
        top_k = min(top_k, height // _CELL * (width // _CELL))
        key = (*shape, top_k)
        loaded = self._loaded.pop(key, None)
        if loaded is None:
            while len(self._loaded) >= _SHAPES * self.users:  # the one not used for longest
                self._loaded.pop(next(iter(self._loaded))).close()
            loaded = self._load((width, height), channels, top_k)
            try:
                self._admit(loaded, (height, width, channels), top_k)
            except BaseException:
                loaded.close()
                raise
        self._loaded[key] = loaded
        return loaded

    def release(self) -> None:
        """Free the device's memory; the next image takes it again."""
        while self._loaded:
            self._loaded.popitem()[1].close()

    def _load(self, size: tuple[int, int], channels: int, top_k: int) -> _Loaded:
        backend, precision = self._backend, self._backend.precision
        sides = find_ranged(self._model, size, channels, top_k, precision)
        wanted = extractor_network(self._model, sides or size, channels, top_k, precision)
        found = FeatureBlock(backend.device, Layout(top_k, self._dim, precision))
        try:
            return _Loaded(backend.load(wanted, size, found.arrays), found)
        except BaseException:
            found.free()
            raise

    def _admit(self, loaded: _Loaded, shape: tuple[int, int, int], top_k: int) -> None:
        """Refused where a network does not find on a drawn picture what the CPU finds."""
        threads, precision = self._backend.config.threads, self._backend.precision
        expected = admission.expected_features(self._model, shape, top_k, threads)
        image = admission.picture(*shape).reshape(1, *shape)
        self._run(loaded, image, None, 0.0)
        rows, arrays = self._valid(loaded, self._backend.device.read(loaded.found.memory))
        keypoints, scores, descriptors = (_as_float32(array[rows]) for array in arrays)
        found = (keypoints, scores, descriptors)
        what = loaded.network.label or "ALIKED"
        figures = admission.check_features(what, found, expected, precision)
        self._backend.admitted(loaded.network, "ALIKED", figures)

    def _run(
        self, loaded: _Loaded, image: UInt8Array, mask: UInt8Array | None, threshold: float
    ) -> None:
        """Start the network on an image."""
        device, inputs = self._backend.device, loaded.network.inputs
        device.write(inputs["image"], image)
        if mask is not None or not loaded.unmasked:  # most images have none: it goes up once
            loaded.unmasked = False
            where = np.ones(inputs["mask"].shape, np.uint8) if mask is None else mask
            device.write(inputs["mask"], where)
            loaded.unmasked = mask is None
        if loaded.threshold != threshold:
            device.write(inputs["threshold"], np.array([threshold], np.float32))
            loaded.threshold = threshold
        loaded.network.run()

    def _valid(self, loaded: _Loaded, fetched: list[Array]) -> tuple[Any, list[Array]]:
        """The valid rows; keypoints, scores and descriptors with the others behind."""
        views = loaded.found.layout.views(fetched[0])
        names = ("keypoints", "scores", "descriptors")
        return slice(int(views["count"][0])), [views[name] for name in names]


@dataclass
class _Begun:
    """LightGlue's first segment was started on these two images, of one size."""

    reference: Float32Array  # its descriptors
    current: FeatureBlock


class DeviceLightGlue:
    """LightGlue in segments of three layers, with a look between them whether to go on.

    The matches are computed once, after the last of them.

    users: how many cameras it serves, in turn.
    """

    users = 1

    def __init__(self, backend: DeviceBackend, rows: int) -> None:
        """``rows``: the most keypoints that an image may have."""
        self._backend, self._rows = backend, rows
        self._segments: list[DeviceNetwork] = []
        self._heads: list[DeviceNetwork] = []  # the matches after each segment
        self._given: list[FeatureBlock] = []  # the two images' features
        self._settings: tuple[float, ...] = ()  # size and threshold as they are on the device
        self._begun: _Begun | None = None

    def match(
        self,
        reference: Features,
        current: Features,
        match_threshold: float,
        depth_confidence: float,
        width_confidence: float,
    ) -> Matches:
        """See ``MatchNetwork``; points are not pruned, whatever ``width_confidence`` says."""
        self.prepare()
        device = self._backend.device
        begun = self._is_begun(reference, current)
        self._begun = None  # from here on the networks' memory is another pair's
        size = np.array([reference.width, reference.height], np.float32)
        self._write_settings(size, match_threshold)
        if not begun:
            self._write_points(0, reference, size)
            self._write_points(1, current, size)
            self._segments[0].run()
        ended = 0  # segments
        for network in self._segments:
            if ended:
                network.run()
            ended += 1
            if depth_confidence >= 0 and "undecided" in network.outputs:
                (undecided,) = device.read(network.outputs["undecided"])
                if 1.0 - float(undecided[0]) > depth_confidence:
                    break
        head = self._heads[ended - 1]
        head.run()
        columns, scores = device.read(head.outputs["matches"], head.outputs["match_scores"])
        rows = np.flatnonzero(columns[: len(reference)] >= 0)
        return Matches(
            rows.astype(np.uint32),
            columns[rows].astype(np.uint32),
            scores[rows],
            layers=ended * SEGMENT_LAYERS,
        )

    def begin(self, reference: Features, current: FeatureBlock, size: tuple[int, int]) -> None:
        """Start the first segment on an image, of this width and height, that was not read yet.

        Nothing happens where ``match`` would not find all of it on the device: before the first
        pair, with images of two sizes, or where the reference is not kept any more.
        """
        self._begun = None
        found = self._backend.features.find(reference.descriptors)
        sizes = {size, (reference.width, reference.height), self._settings[:2]}
        if found is None or len(sizes) > 1:
            return
        if any(block.layout != self._given[0].layout for block in (found, current)):
            return
        for target, source in zip(self._given, (found, current), strict=True):
            self._backend.device.copy(target.memory, source.memory)
        self._segments[0].run()
        self._begun = _Begun(reference.descriptors, current)

    def _is_begun(self, reference: Features, current: Features) -> bool:
        """Whether these two images are those that ``begin`` was called with."""
        begun = self._begun
        return (
            begun is not None
            and begun.reference is reference.descriptors
            and begun.current.owner is current.descriptors
        )

    def prepare(self) -> None:
        """Load the networks, each on the outputs of the one before, where they are not loaded."""
        if self._segments:
            return
        try:
            layout = Layout(self._rows, LIGHTGLUE_DIM, self._backend.precision)
            known: dict[str, DeviceArray] = {}
            for side in "01":
                block = FeatureBlock(self._backend.device, layout)
                self._given.append(block)
                known |= {name + side: array for name, array in block.arrays.items()}
            for wanted in matcher_networks(self._rows, self._backend.precision):
                network = self._backend.load(wanted, given=known)
                known |= network.inputs
                if "matches" in network.outputs:
                    self._heads.append(network)
                    continue
                self._segments.append(network)
                known["state"] = network.outputs["new_state"]
                if "rotation" in network.outputs:  # of the first one, for all
                    known["rotation"] = network.outputs["rotation"]
            self._admit()
        except BaseException:
            self.release()
            raise

    def _admit(self) -> None:
        """Refused where the matches of two drawn pictures are not the CPU's."""
        config, precision = self._backend.config, self._backend.precision
        pair = admission.expected_pair(config.model, self._rows, config.threads)
        if pair is None:  # the caller says what does not fit
            return
        first, second, expected = pair
        found = self.match(first, second, *admission.MATCHING)
        last = self._heads[-1]
        figures = admission.check_matches(last.label or "LightGlue", found, expected, precision)
        self._backend.admitted(last, "LightGlue", figures)

    def release(self) -> None:
        """Free the device's memory; the next pair of images takes it again."""
        self._settings, self._begun = (), None
        for networks in (self._heads, self._segments):  # heads read what segments own
            while networks:
                networks.pop().close()
        while self._given:
            self._given.pop().free()

    def _write_settings(self, size: Float32Array, match_threshold: float) -> None:
        """``size``: (width, height), by which the graph normalises both images' points."""
        device, settings = self._backend.device, (*size.tolist(), match_threshold)
        if settings == self._settings:
            return
        self._settings = ()
        device.write(self._segments[0].inputs["size"], size)
        threshold = self._heads[0].inputs["match_threshold"]  # of all of them
        device.write(threshold, np.array([match_threshold], np.float32))
        self._settings = settings

    def _write_points(self, side: int, features: Features, size: Float32Array) -> None:
        """One image's inputs: copied from the ring where they are on the device, else uploaded."""
        device, target = self._backend.device, self._given[side]
        own = np.array([features.width, features.height], np.float32)
        same_size = bool((own == size).all())
        found = self._backend.features.find(features.descriptors) if same_size else None
        if found is not None and found.layout == target.layout:
            device.copy(target.memory, found.memory)
            return
        if len(features) > self._rows:
            raise BackendError(
                f"An image has {len(features)} features and LightGlue is loaded for {self._rows}; "
                "raise max_keypoints."
            )
        keypoints = features.keypoints
        if not same_size:  # so that the graph's one size normalises these points by their own
            keypoints = (keypoints - own / 2) * (size.max() / own.max()) + size / 2
        content = np.zeros(target.layout.nbytes, np.uint8)
        views = target.layout.views(content)
        views["keypoints"][: len(features)] = keypoints
        views["descriptors"][: len(features)] = features.descriptors
        views["count"][0] = len(features)
        device.write(target.memory, content)


def _as_float32(array: Array) -> Float32Array:
    """A copy in one piece."""
    if array.dtype != np.float16:
        return np.ascontiguousarray(array, np.float32)
    wide = np.empty(array.shape, np.float32)
    widen_half(np.ascontiguousarray(array).view(np.uint16).reshape(-1), wide.reshape(-1))
    return wide
