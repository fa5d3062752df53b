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
from typing import cast

import cv2
import numpy as np

from aliked_ros.backends.cpu.compiled import Workers, compiling
from aliked_ros.backends.cpu.dkd import detect
from aliked_ros.backends.cpu.lightglue import LayeredLightGlue, rounded
from aliked_ros.backends.cpu.runtime import Array, Network, Runtime
from aliked_ros.backends.cpu.score import score_rows
from aliked_ros.backends.cpu.sddh import gather_patches, gather_samples
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError, ImageError
from aliked_ros.models.graphs import AlikedGraphs, LightGlueGraphs
from aliked_ros.networks.constants import PAD_MULTIPLE
from aliked_ros.system.cpu import cores, free_memory
from aliked_ros.types import Features, Float32Array, UInt8Array

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
        self._workers = Workers(threads)
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


class CpuExtractor:
    """ALIKED: encoder graph → score map → keypoints → sparse reads → two small graphs.

    users: how many cameras it serves, in turn; each may have two shapes of images.
    """

    users = 1

    def __init__(
        self, graphs: AlikedGraphs, runtime: Runtime, bfloat16: bool, workers: Workers
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
        with compiling():
            self.extract(noise, None, 2, 0.0, 0)
        self._encoders.clear()

    def extract(
        self,
        pixels: UInt8Array,
        mask: UInt8Array | None,
        top_k: int,
        threshold: float,
        grid: int,
        reference: Features | None = None,
    ) -> tuple[Float32Array, Float32Array, Float32Array]:
        """See ``FeatureNetwork``."""
        score_map, tables, window = self.encode(pixels)
        keypoints, scores = detect(score_map, mask, top_k, threshold, grid, self._workers)
        rows = rounded(len(keypoints), top_k)
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
        self._workers.run(score_rows, len(score_map), *outputs[:4], *self._tail, score_map)
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
        self._workers.run(gather_patches, count, *tables, keypoints, order, window, patches)
        (offsets,) = self._offsets(patches.reshape(rows, -1))
        samples = _spare_zeroed((rows, samples_each, dim), count)
        self._workers.run(
            gather_samples, count, *tables, keypoints, order, offsets, window, samples
        )
        (descriptors,) = self._aggregation(samples)
        return np.array(descriptors[:count])  # the next image overwrites the runtime's own memory


class CpuLightGlue(LayeredLightGlue):
    """LightGlue by graphs in a runtime."""

    def __init__(
        self, graphs: LightGlueGraphs, runtime: Runtime, bfloat16: bool, usual_points: int
    ) -> None:
        """``usual_points``: see ``LayeredLightGlue``."""
        super().__init__(
            graphs.shape,
            graphs.angles,
            runtime.load(graphs.embedding, bfloat16=bfloat16),
            [runtime.load(layer, bfloat16=bfloat16) for layer in graphs.layers],
            [runtime.load(one, bfloat16=bfloat16) for one in graphs.assignments],
            usual_points,
        )


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
