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

"""A cache for engines, and a device of the TensorRT backend's that is the CPU.

The device runs the graphs in ONNX Runtime.

It has what a GPU has, as far as the backend can tell: memory that must be taken and given back,
networks whose inputs and outputs stay in their places. All of the backend above it runs for real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from scipy.spatial import cKDTree

from aliked_ros.backends.gpu.backend import BuildProgress
from aliked_ros.backends.gpu.engines import Network, extractor_network
from aliked_ros.errors import BackendError
from aliked_ros.models.device_export import DeviceGraph, TensorSpec
from aliked_ros.system.cache import cache_dir
from aliked_ros.system.cpu import cores
from aliked_ros.types import BoolArray, Features
from helpers.parity import assert_features_agree


def start_with_graphs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without engines that has the weights of the real one."""
    (folder / "weights").symlink_to(cache_dir() / "weights")
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(folder))


def small_network(top_k: int = 256) -> Network:
    """The one that is made and built in the least time."""
    return extractor_network("aliked-t16", (160, 128), 3, top_k, "float16")


def session_of(graph: DeviceGraph) -> onnxruntime.InferenceSession:
    """The graph, ready to run on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    # threads that wait would take the time of the other process's on a busy machine
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph.onnx, options, providers=["CPUExecutionProvider"])


def chosen(features: Features, rows: slice | BoolArray) -> Features:
    arrays = (features.keypoints, features.scores, features.descriptors)
    return Features(*(a[rows] for a in arrays), features.width, features.height, features.model)


def assert_same(found: Features, expected: Features) -> None:
    """DESIGN's parity; but where a last bit moves a keypoint over the edge between two pixels.

    SDDH's patch is the one around the pixel that the keypoint lies in, so it moves as well.
    """
    distance, row = cKDTree(found.keypoints).query(expected.keypoints)
    pixel = np.floor(found.keypoints[row]) == np.floor(expected.keypoints)
    over = (distance < 1e-3) & ~pixel.all(1)
    assert over.sum() <= 1
    assert_features_agree(found, chosen(expected, ~over))


_networks: dict[str, Network] = {}


@lru_cache(maxsize=12)
def _ready(name: str) -> tuple[DeviceGraph, onnxruntime.InferenceSession]:
    """The network of this name, which tests of a whole session share: it remembers nothing."""
    graph = _networks[name].graph()
    return graph, session_of(graph)


class OnnxArray:
    """Memory of the device."""

    def __init__(self, device: OnnxDevice, shape: tuple[int, ...], dtype: Any) -> None:
        self.values: np.ndarray | None = np.zeros(shape, dtype)
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._device = device
        device.memory += self.values.nbytes

    def part(self, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> OnnxPart:
        end = start + int(np.prod(shape)) * dtype.itemsize
        return OnnxPart(self, self.values[start:end].view(dtype).reshape(shape))

    def free(self) -> None:
        assert self.values is not None, "freed twice"
        self._device.memory -= self.values.nbytes
        if self._device.room is not None:
            self._device.room += self.values.nbytes
        self.values = None


class OnnxPart:
    """A part of it."""

    def __init__(self, whole: OnnxArray, values: np.ndarray) -> None:
        self._whole, self._values = whole, values
        self.shape, self.dtype = values.shape, values.dtype

    @property
    def values(self) -> np.ndarray:
        assert self._whole.values is not None, "the whole was given back"
        return self._values

    def free(self) -> None:
        assert self._whole.values is not None, "the whole was given back"


class OnnxNetwork:
    """A graph with its inputs and outputs."""

    def __init__(
        self,
        device: OnnxDevice,
        network: Network,
        size: tuple[int, int] | None,
        given: Mapping[str, Any],
    ) -> None:
        _networks[network.name] = network
        graph, self._session = _ready(network.name)
        self.label = f"{network.name}.engine 0123456789ab"
        self._device = device
        self._owned: list[OnnxArray] = []
        self.inputs = {
            name: given[name] if name in given else self._take(spec, size)
            for name, spec in graph.inputs.items()
        }
        self.outputs = {
            name: given[name] if name in given else self._take(spec, size)
            for name, spec in graph.outputs.items()
        }
        device.networks.append(self)

    def run(self) -> None:
        self._device.check()
        self._device.ask(f"run {'-'.join(self.label.split('_')[0].split('-')[:2])}")
        values = {name: array.values for name, array in self.inputs.items()}
        for name, result in zip(
            self.outputs, self._session.run(list(self.outputs), values), strict=True
        ):
            self.outputs[name].values[...] = result

    def close(self) -> None:
        self._device.networks.remove(self)
        for array in self._owned:
            array.free()

    def _take(self, spec: TensorSpec, size: tuple[int, int] | None) -> OnnxArray:
        free = iter(reversed(size or ()))
        shape = tuple(next(free) if side is None else side for side in spec.shape)
        array = self._device.zeros(shape, np.dtype(spec.dtype))
        self._owned.append(array)
        return array


class OnnxDevice:
    """See ``Device``.

    memory: bytes taken. room: bytes that are left, None = enough. uploaded: arrays written to it.
    failure: raised by the next computation. asked: what it was asked for since that was cleared.
    fails_at: what raises once, the next time it is asked for.
    """

    kind = "tensorrt"
    name = "ONNX Runtime"
    most_keypoints = 3840

    def __init__(self) -> None:
        self.memory = self.uploaded = 0
        self.networks: list[OnnxNetwork] = []
        self.room: int | None = None
        self.failure: BackendError | None = None
        self.closed = False
        self.asked: list[str] = []
        self.fails_at = ""

    def load(
        self,
        network: Network,
        progress: BuildProgress,
        size: tuple[int, int] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> OnnxNetwork:
        return OnnxNetwork(self, network, size, given or {})

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> OnnxArray:
        nbytes = int(np.prod(shape)) * dtype.itemsize
        if self.room is not None:
            if nbytes > self.room:
                raise BackendError("taking memory failed: the GPU's memory is full; close others.")
            self.room -= nbytes
        return OnnxArray(self, shape, dtype)

    def write(self, target: OnnxArray, values: np.ndarray) -> None:
        assert (target.shape, target.dtype) == (values.shape, values.dtype)
        self.uploaded += 1
        self.ask("write")
        target.values[...] = values

    def copy(self, target: OnnxArray, source: OnnxArray) -> None:
        assert (target.shape, target.dtype) == (source.shape, source.dtype)
        self.ask("copy")
        target.values[...] = source.values

    def read(self, *arrays: OnnxArray) -> list[np.ndarray]:
        return self.fetch(*arrays)()

    def fetch(self, *arrays: OnnxArray) -> Callable[[], list[np.ndarray]]:
        self.ask("fetch")
        copies = [array.values.copy() for array in arrays]

        def wait() -> list[np.ndarray]:
            self.check()
            self.ask("wait")
            return copies

        return wait

    def memory_in_use(self) -> int:
        return self.memory

    def close(self) -> None:
        self.closed = True

    def ask(self, for_what: str) -> None:
        self.asked.append(for_what)
        if for_what == self.fails_at:
            self.fails_at = ""
            raise BackendError("the GPU failed for once; try again.")

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure


class WrongDevice(OnnxDevice):
    """One that computes something else."""

    def __init__(self, spoil: Callable[[dict[str, np.ndarray]], None]) -> None:
        """``spoil``: changes the outputs of each run."""
        super().__init__()
        self.spoil = spoil

    def load(self, *arguments: Any, **named: Any) -> OnnxNetwork:
        network = super().load(*arguments, **named)
        run = network.run

        def run_wrong() -> None:
            run()
            self.spoil({name: array.values for name, array in network.outputs.items()})

        network.run = run_wrong  # type: ignore[method-assign]
        return network
