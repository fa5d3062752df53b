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

"""ALIKED and LightGlue on any CPU, without PyTorch: graphs in a runtime, the rest in loops."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import cv2
import numpy as np

from aliked_ros.backends.cpu import kernels
from aliked_ros.backends.cpu.dkd import detect
from aliked_ros.backends.cpu.runtime import Array, Network, Runtime
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError, ImageError, ModelError
from aliked_ros.models.graphs import AlikedGraphs, LightGlueGraphs
from aliked_ros.networks.constants import PAD_MULTIPLE, exit_threshold
from aliked_ros.system.cpu import cores, free_memory
from aliked_ros.types import Features, Float32Array, Matches, UInt8Array

_MASKED = np.float32(-1e9)
_ROW_COUNTS = 4  # that graphs are run with up to the usual number of points
_BYTES_PER_PIXEL = 370  # measured with bfloat16 at 2048×2048 and 3072×3072; at least that else


class CpuBackend:
    """OpenVINO where it is installed and works, else ONNX Runtime."""

    def __init__(self, config: FrontendConfig) -> None:
        threads = config.threads or cores()
        self._points = config.max_keypoints
        self._runtime = _create_runtime(threads)
        self._bfloat16 = self._runtime.bfloat16 and config.precision != "float32"
        if config.precision == "bfloat16" and not self._bfloat16:
            raise BackendError(
                f"precision is 'bfloat16', which {self._runtime.name} does not offer on this CPU; "
                "set it to 'auto' or 'float32'."
            )
        self._workers = kernels.Workers(threads)
        precision = "bfloat16" if self._bfloat16 else "float32"
        self.description = f"cpu: {self._runtime.name}, {precision}, {threads} threads"
        self.identity = {
            "backend": "cpu",
            "runtime": self._runtime.name,
            "precision": precision,
            "threads": str(threads),
        }

    def load_extractor(self, model: str) -> CpuExtractor:
        """See ``Backend``."""
        return CpuExtractor(AlikedGraphs(model), self._runtime, self._bfloat16, self._workers)

    def load_matcher(self) -> CpuLightGlue:
        """See ``Backend``."""
        return CpuLightGlue(LightGlueGraphs(), self._runtime, self._bfloat16, self._points)

    def release(self) -> None:
        """See ``Backend``; there is no GPU."""

    def close(self) -> None:
        """See ``Backend``."""
        self._workers.close()


def _create_runtime(threads: int) -> Runtime:
    failures = []
    for module, name in (
        ("openvino", "OpenVinoRuntime"),
        ("onnxruntime", "OnnxRuntime"),
    ):
        try:
            found = importlib.import_module(f"aliked_ros.backends.cpu.{module}")
            return cast(Runtime, getattr(found, name)(threads))
        except (ImportError, OSError, RuntimeError) as error:
            failures.append(str(error))
    raise BackendError(
        "The CPU backend needs OpenVINO or ONNX Runtime, and neither works here "
        f"({'; '.join(failures)}): pip install onnxruntime"
    )


def _rounded(count: int, usual: int) -> int:
    """Rows to give a graph for ``count`` points.

    The runtimes prepare code and memory for every new number of rows, and keep it (6 MB for all
    graphs at 512 points); so there are few: quarters of the usual number.
    """
    step = -(-usual // _ROW_COUNTS)
    rounded = -(-count // step) * step
    return min(rounded, usual) if count <= usual else rounded


class CpuExtractor:
    """ALIKED: encoder graph → score map → keypoints → sparse reads → two small graphs.

    users: how many cameras it serves, in turn; each may have two shapes of images.
    """

    users = 1

    def __init__(
        self, graphs: AlikedGraphs, runtime: Runtime, bfloat16: bool, workers: kernels.Workers
    ) -> None:
        self._shape = graphs.shape
        self._graphs, self._runtime, self._workers = graphs, runtime, workers
        self._bfloat16 = bfloat16
        self._encoders: dict[tuple[int, ...], Network] = {}
        # offsets are positions: they stay in float32
        self._offsets = runtime.load(graphs.offsets)
        self._aggregation = runtime.load(graphs.aggregation, bfloat16=bfloat16)
        self._tail = [np.ascontiguousarray(weight) for weight in graphs.score_tail]
        # the loops are compiled at their first call ever: now, not while a camera waits
        noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
        with _caching_compiled_loops():
            self.extract(noise, None, 2, 0.0, 0)
        self._encoders.clear()

    def extract(
        self, pixels: UInt8Array, mask: UInt8Array | None, top_k: int, threshold: float, grid: int
    ) -> tuple[Float32Array, Float32Array, Float32Array]:
        """See ``FeatureNetwork``."""
        score_map, tables, window = self.encode(pixels)
        keypoints, scores = detect(score_map, mask, top_k, threshold, grid, self._workers)
        rows = _rounded(len(keypoints), top_k)
        return keypoints, scores, self._describe(tables, keypoints, window, rows)

    def encode(
        self, pixels: UInt8Array
    ) -> tuple[Float32Array, list[Array], tuple[int, int, int, int]]:
        """Score map H×W, four feature tables h×w×(dim/4), and the image's place in them.

        The place is (left, top, height, width) in the image padded to multiples of 32. The tables
        are the runtime's own memory: the next call overwrites them.
        """
        height, width = pixels.shape[:2]
        extra_y, extra_x = -height % PAD_MULTIPLE, -width % PAD_MULTIPLE
        top, left = extra_y // 2, extra_x // 2
        padded: Array = pixels
        if extra_x or extra_y:
            padded = cv2.copyMakeBorder(
                pixels, top, extra_y - top, left, extra_x - left, cv2.BORDER_REPLICATE
            )
        image = np.ascontiguousarray(padded).reshape(1, *padded.shape[:2], -1)
        outputs = [output[0] for output in self._encoder(image.shape)(image)]
        score_map = np.empty(image.shape[1:3], np.float32)
        self._workers.run(kernels.score_rows, len(score_map), *outputs[:4], *self._tail, score_map)
        inner = score_map[top : top + height, left : left + width]
        return np.ascontiguousarray(inner), outputs[4:], (left, top, height, width)

    def _encoder(self, shape: tuple[int, ...]) -> Network:
        """The encoder compiled for one image shape; for each user the last two are kept."""
        encoder = self._encoders.pop(shape, None)
        if encoder is None:
            while len(self._encoders) >= 2 * self.users:
                del self._encoders[next(iter(self._encoders))]  # not used for the longest time
            _require_memory(shape)
            encoder = self._runtime.load(
                self._graphs.encoder(channels=shape[-1]),
                bfloat16=self._bfloat16,
                bfloat16_outputs=True,
                shape=shape,
            )
        self._encoders[shape] = encoder
        return encoder

    def _describe(
        self,
        tables: list[Array],
        keypoints: Float32Array,
        window: tuple[int, int, int, int],
        rows: int,
    ) -> Float32Array:
        """Descriptors of the keypoints, by graphs for ``rows`` of them."""
        count = len(keypoints)
        dim, kernel, samples_each = self._shape.dim, self._shape.kernel, self._shape.samples
        if count == 0:
            return np.zeros((0, dim), np.float32)
        order = np.argsort(keypoints[:, 1])  # row by row: neighbours share cache lines and pages
        patches = _spare_zeroed((rows, kernel**2, dim), count)
        self._workers.run(kernels.gather_patches, count, *tables, keypoints, order, window, patches)
        (offsets,) = self._offsets(patches.reshape(rows, -1))
        samples = _spare_zeroed((rows, samples_each, dim), count)
        self._workers.run(
            kernels.gather_samples, count, *tables, keypoints, order, offsets, window, samples
        )
        (descriptors,) = self._aggregation(samples)
        return np.array(descriptors[:count])  # the next image overwrites the runtime's own memory


class CpuLightGlue:
    """LightGlue layer by layer, so that it can stop early and drop pruned points.

    users: how many cameras it serves, in turn.
    """

    users = 1

    def __init__(
        self, graphs: LightGlueGraphs, runtime: Runtime, bfloat16: bool, usual_points: int
    ) -> None:
        """``usual_points``: how many most images have; any other number works too."""
        self._usual_points = usual_points
        layers = graphs.shape.layers
        thresholds = [exit_threshold(i, layers) for i in range(layers - 1)]
        self._exit_thresholds = np.array(thresholds, np.float32)
        self._angles = graphs.angles
        self._embedding = runtime.load(graphs.embedding, bfloat16=bfloat16)
        self._layers = [runtime.load(layer, bfloat16=bfloat16) for layer in graphs.layers]
        self._assignments = [runtime.load(one, bfloat16=bfloat16) for one in graphs.assignments]
        self._embedded: list[tuple[Features, Array, Array]] = []  # the latest, newest first
        # compile the loops now, not while a camera waits
        points = np.zeros((2, 2), np.float32)
        blank = np.zeros((2, graphs.shape.input_dim), np.float32)
        with _caching_compiled_loops():
            self.match(*2 * (Features(points, points[0], blank, 64, 64, ""),), 0.0, -1.0, -1.0)
        self._embedded.clear()

    def match(
        self,
        reference: Features,
        current: Features,
        match_threshold: float,
        depth_confidence: float,
        width_confidence: float,
    ) -> Matches:
        """See ``MatchNetwork``."""
        total = len(reference) + len(current)
        rows = [np.arange(len(features), dtype=np.uint32) for features in (reference, current)]
        state, rotation, mask = self._batch(*self._embed(reference, current))
        for layer, network in enumerate(self._layers):
            # the first layer's self-attention, which needs the rotation, is in the embedding
            state, exits = network(state, mask, *([rotation] if layer > 0 else []))
            matchability, confidence = (
                [exits[i, : len(r), head] for i, r in enumerate(rows)] for head in (0, 1)
            )
            if layer == len(self._exit_thresholds):
                break
            certain = self._exit_thresholds[layer]
            undecided = sum(np.count_nonzero(c < certain) for c in confidence)
            if 0 <= depth_confidence < 1 - undecided / total:
                break
            if width_confidence < 0:
                continue
            keep = [
                (m > 1 - width_confidence) | (c <= certain)
                for m, c in zip(matchability, confidence, strict=True)
            ]
            if all(k.all() for k in keep):
                continue
            rows = [r[k] for r, k in zip(rows, keep, strict=True)]
            if min(len(r) for r in rows) == 0:
                return Matches.empty()
            state, rotation, mask = self._batch(
                *([part[i, : len(k)][k] for i, k in enumerate(keep)] for part in (state, rotation))
            )
        (similarity,) = self._assignments[layer](state[0], state[1])
        i, j, probability = kernels.mutual_matches(
            np.ascontiguousarray(similarity[: len(rows[0]), : len(rows[1])]),
            *(np.ascontiguousarray(m) for m in matchability),
            np.float32(match_threshold),
        )
        return Matches(rows[0][i], rows[1][j], probability, layers=layer + 1)

    def _embed(self, *images: Features) -> tuple[list[Array], list[Array]]:
        """First state and rotation of each image's points; for each user two are remembered."""
        embedded: list[tuple[Features, Array, Array]] = []
        for features in images:
            known = [entry for entry in self._embedded if entry[0] is features]
            if known:
                embedded += known[:1]  # the same image may have been both
                continue
            size = np.array([features.width, features.height], np.float32)
            angles = (features.keypoints - size / 2) / (size.max() / 2) @ self._angles
            rotation = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
            inputs = self._batch([features.descriptors], [rotation])
            (state,) = self._embedding(*inputs)
            embedded.append((features, np.array(state[0, : len(features)]), rotation))
        others = [entry for entry in self._embedded if not any(entry is e for e in embedded)]
        self._embedded = (embedded + others)[: 2 * self.users]
        return [state for _, state, _ in embedded], [rotation for _, _, rotation in embedded]

    def _batch(self, first: list[Array], second: list[Array]) -> tuple[Array, Array, Array]:
        """Two properties of the points of one or more images, padded, and the padding's mask."""
        rows = _rounded(max(len(part) for part in first), self._usual_points)
        mask = np.zeros((len(first), 1, 1, rows), np.float32)
        for i, part in enumerate(first):
            mask[i, :, :, len(part) :] = _MASKED

        def stack(parts: list[Array]) -> Array:
            stacked = np.zeros((len(parts), rows, parts[0].shape[1]), np.float32)
            for target, part in zip(stacked, parts, strict=True):
                target[: len(part)] = part
            return stacked

        return stack(first), stack(second), mask


def _require_memory(shape: tuple[int, ...]) -> None:
    """ImageError for an image whose encoder would make the system end this process.

    shape: of the encoder's input, 1×H×W×C.
    """
    height, width = shape[1:3]
    needed, free = _BYTES_PER_PIXEL * height * width, free_memory()
    if needed > free:
        raise ImageError(
            f"The image is {width}×{height} pixels; to find its features takes "
            f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free. Resize it or bin "
            "the camera."
        )


def _spare_zeroed(shape: tuple[int, int, int], used: int) -> Float32Array:
    """An array whose first ``used`` rows are yet to be filled."""
    array = np.empty(shape, np.float32)
    array[used:] = 0.0
    return array


@contextmanager
def _caching_compiled_loops() -> Iterator[None]:
    """The first call of a loop compiles it, and may fail to save the result."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"The compiled loops cannot be saved: {error}. Free some space, or set NUMBA_CACHE_DIR "
            "to a folder that can be written."
        ) from error
