"""ALIKED and LightGlue on any CPU, without PyTorch: graphs in a runtime, the rest in loops."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.inference import kernels
from aliked_ros.inference.detection import detect
from aliked_ros.inference.runtime import Array, Network, Runtime
from aliked_ros.models.export import LIGHTGLUE, ensure_exported, read_manifest
from aliked_ros.types import Features, Float32Array, Matches, UInt8Array

_PAD_MULTIPLE = 32
_MASKED = np.float32(-1e9)


class CpuBackend:
    """OpenVINO where it is installed and works, else ONNX Runtime."""

    def __init__(
        self, config: FrontendConfig, progress: Callable[[str], None] | None = None
    ) -> None:
        threads = config.threads or len(os.sched_getaffinity(0))
        self._progress = progress
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
        folder = ensure_exported(model, self._progress)
        return CpuExtractor(folder, self._runtime, self._bfloat16, self._workers)

    def load_matcher(self) -> CpuLightGlue:
        """See ``Backend``."""
        folder = ensure_exported(LIGHTGLUE, self._progress)
        return CpuLightGlue(folder, self._runtime, self._bfloat16)

    def close(self) -> None:
        """See ``Backend``."""
        self._workers.close()


def _create_runtime(threads: int) -> Runtime:
    if importlib.util.find_spec("openvino") is not None:
        from aliked_ros.inference.openvino_runtime import OpenVinoRuntime

        return OpenVinoRuntime(threads)
    if importlib.util.find_spec("onnxruntime") is not None:
        from aliked_ros.inference.onnxruntime_runtime import OnnxRuntime

        return OnnxRuntime(threads)
    raise BackendError("The CPU backend needs OpenVINO or ONNX Runtime: pip install onnxruntime")


class CpuExtractor:
    """ALIKED: encoder graph → score map → keypoints → sparse reads → two small graphs."""

    def __init__(
        self, folder: Path, runtime: Runtime, bfloat16: bool, workers: kernels.Workers
    ) -> None:
        manifest = read_manifest(folder)
        self._dim, self._kernel = int(manifest["dim"]), int(manifest["kernel"])
        self._samples = int(manifest["samples"])
        self._folder, self._runtime, self._workers = folder, runtime, workers
        self._bfloat16 = bfloat16
        self._encoders: dict[tuple[int, ...], Network] = {}
        # offsets are positions: they stay in float32
        self._offsets = runtime.load(folder / "offsets.onnx")
        self._aggregation = runtime.load(folder / "aggregation.onnx", bfloat16=bfloat16)
        with np.load(folder / "score_tail.npz") as tail:
            self._tail = [np.ascontiguousarray(tail[name]) for name in tail.files]
        # the loops are compiled at their first call ever: now, not while a camera waits
        noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
        self.extract(noise, None, 2, 0.0)

    def extract(
        self, pixels: UInt8Array, mask: UInt8Array | None, top_k: int, threshold: float
    ) -> tuple[Float32Array, Float32Array, Float32Array]:
        """See ``FeatureNetwork``."""
        score_map, tables, window = self.encode(pixels)
        keypoints, scores = detect(score_map, mask, top_k, threshold, self._workers)
        return keypoints, scores, self._describe(tables, keypoints, window)

    def encode(
        self, pixels: UInt8Array
    ) -> tuple[Float32Array, list[Array], tuple[int, int, int, int]]:
        """Score map H×W, four feature tables h×w×(dim/4), and the image's place in them.

        The place is (left, top, height, width) in the image padded to multiples of 32.
        """
        height, width = pixels.shape[:2]
        extra_y, extra_x = -height % _PAD_MULTIPLE, -width % _PAD_MULTIPLE
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
        """The encoder compiled for one image shape; the last two shapes are kept."""
        if shape not in self._encoders:
            while len(self._encoders) > 1:
                del self._encoders[next(iter(self._encoders))]
            kind = "grey" if shape[-1] == 1 else "rgb"
            self._encoders[shape] = self._runtime.load(
                self._folder / f"encoder_{kind}.onnx",
                bfloat16=self._bfloat16,
                bfloat16_outputs=True,
                shape=shape,
            )
        return self._encoders[shape]

    def _describe(
        self, tables: list[Array], keypoints: Float32Array, window: tuple[int, int, int, int]
    ) -> Float32Array:
        count = len(keypoints)
        if count == 0:
            return np.zeros((0, self._dim), np.float32)
        order = np.argsort(keypoints[:, 1])  # row by row: neighbours share cache lines and pages
        patches = np.empty((count, self._kernel**2, self._dim), np.float32)
        self._workers.run(kernels.gather_patches, count, *tables, keypoints, order, window, patches)
        (offsets,) = self._offsets(patches.reshape(count, -1))
        samples = np.empty((count, self._samples, self._dim), np.float32)
        self._workers.run(
            kernels.gather_samples, count, *tables, keypoints, order, offsets, window, samples
        )
        (descriptors,) = self._aggregation(samples)
        return np.array(descriptors)  # the runtime's own memory is overwritten by the next image


class CpuLightGlue:
    """LightGlue layer by layer, so that it can stop early and drop pruned points."""

    def __init__(self, folder: Path, runtime: Runtime, bfloat16: bool) -> None:
        manifest = read_manifest(folder)
        self._exit_thresholds = np.array(manifest["exit_thresholds"], np.float32)
        with np.load(folder / "encoding.npz") as encoding:
            self._angles = encoding["angles"]
        self._embedding = runtime.load(folder / "embedding.onnx", bfloat16=bfloat16)
        numbers = range(int(manifest["layers"]))
        self._layers = [
            runtime.load(folder / f"layer_{i}.onnx", bfloat16=bfloat16) for i in numbers
        ]
        self._assignments = [
            runtime.load(folder / f"assignment_{i}.onnx", bfloat16=bfloat16) for i in numbers
        ]
        self._embedded: list[tuple[Features, Array, Array]] = []  # of the last two images
        # compile the loops now, not while a camera waits
        points = np.zeros((2, 2), np.float32)
        blank = np.zeros((2, int(manifest["input_dim"])), np.float32)
        self.match(*2 * (Features(points, points[0], blank, 64, 64, ""),), 0.0, -1.0, -1.0)

    def match(
        self,
        reference: Features,
        current: Features,
        match_threshold: float,
        depth_confidence: float,
        width_confidence: float,
    ) -> Matches:
        """See ``MatchNetwork``."""
        if min(len(reference), len(current)) == 0:
            return Matches.empty()
        total = len(reference) + len(current)
        rows = [np.arange(len(features), dtype=np.uint32) for features in (reference, current)]
        state, rotation, mask = _batch(*self._embed(reference, current))
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
            state, rotation, mask = _batch(
                *([part[i, : len(k)][k] for i, k in enumerate(keep)] for part in (state, rotation))
            )
        (similarity,) = self._assignments[layer](state[0, : len(rows[0])], state[1, : len(rows[1])])
        i, j, probability = kernels.mutual_matches(
            similarity, matchability[0], matchability[1], np.float32(match_threshold)
        )
        return Matches(rows[0][i], rows[1][j], probability, layers=layer + 1)

    def _embed(self, *images: Features) -> tuple[list[Array], list[Array]]:
        """First state and rotation of each image's points; the last images' are remembered."""
        embedded = []
        for features in images:
            known = [entry for entry in self._embedded if entry[0] is features]
            if known:
                embedded += known
                continue
            size = np.array([features.width, features.height], np.float32)
            angles = (features.keypoints - size / 2) / (size.max() / 2) @ self._angles
            rotation = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
            (state,) = self._embedding(features.descriptors[None], rotation[None])
            embedded.append((features, np.array(state[0]), rotation))
        self._embedded = embedded
        return [state for _, state, _ in embedded], [rotation for _, _, rotation in embedded]


def _batch(state: list[Array], rotation: list[Array]) -> tuple[Array, Array, Array]:
    """Both images' points in one array of the larger count, and the mask of its padding."""
    count = max(len(part) for part in state)
    mask = np.zeros((len(state), 1, 1, count), np.float32)
    for i, part in enumerate(state):
        mask[i, :, :, len(part) :] = _MASKED

    def stack(parts: list[Array]) -> Array:
        stacked = np.zeros((len(parts), count, parts[0].shape[1]), np.float32)
        for target, part in zip(stacked, parts, strict=True):
            target[: len(part)] = part
        return stacked

    return stack(state), stack(rotation), mask
