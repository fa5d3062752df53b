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

"""The device of NVIDIA GPUs without TensorRT: the same networks, run by PyTorch.

Half precision, channels innermost, Triton kernels for what lies between convolutions and matrix
products (``triton_aliked``), and every network one CUDA graph, captured when it is loaded: one
launch, and the same places in memory each time.
"""

from __future__ import annotations

import ctypes
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aliked_ros.backends.gpu.device import BuildProgress, DeviceArray, DeviceNetwork
from aliked_ros.backends.gpu.engines import Network
from aliked_ros.errors import BackendError
from aliked_ros.models.device_export import matcher_parts
from aliked_ros.models.registry import weights_path
from aliked_ros.networks import fold
from aliked_ros.networks.fold import AlikedShape, Weights
from aliked_ros.system.nvidia import IN_USE, GpuError, explained

try:
    import torch
    from torch import Tensor

    from aliked_ros.backends.gpu.torch_operations import GpuOperations
    from aliked_ros.networks import aliked, lightglue
except ImportError as error:
    raise GpuError(
        f"PyTorch cannot be imported ({error})",
        "install its build for your CUDA (pytorch.org), or set backend to 'auto'",
    ) from error

Array = NDArray[Any]

_WARM_UP = 3  # runs before a graph is captured: cuDNN tries its algorithms, Triton compiles


class TorchDevice:
    """The first GPU; see ``Device``. For any thread, one at a time.

    Or the CPU, without graphs and kernels: so that all the rest can be tested anywhere.
    """

    kind = "torch"
    most_keypoints = 1 << 16

    def __init__(self, name: str = "cuda:0") -> None:
        """Raises GpuError where PyTorch cannot use the GPU."""
        self.place = torch.device(name)
        self.on_gpu = self.place.type == "cuda"
        self.name = f"PyTorch {torch.__version__} on the CPU"
        self._kernels_work: dict[tuple[str, AlikedShape | None, bool], bool] = {}
        self._written: dict[TorchArray, int] = {}  # not surely fetched yet: number of the write
        self._writes = 0
        if not self.on_gpu:
            return
        remedy = "run nvidia-smi, and install PyTorch's build for your CUDA (pytorch.org)"
        if not torch.cuda.is_available():
            raise GpuError(f"PyTorch {torch.__version__} finds no GPU that it can use", remedy)
        try:
            gpu = torch.cuda.get_device_name(self.place)
        except Exception as error:  # the driver's have no common base but this
            problem = f"PyTorch {torch.__version__} cannot use the GPU ({error})"
            raise GpuError(problem, remedy) from error
        self.name = f"PyTorch {torch.__version__} on {gpu}"

    def load(
        self,
        network: Network,
        progress: BuildProgress,
        size: tuple[int, int] | None = None,
        given: Mapping[str, DeviceArray] | None = None,
    ) -> DeviceNetwork:
        """See ``Device``. The first one takes long where its kernels are not in Triton's cache."""
        progress.tell(f"{network.name} for {self.name}")
        try:
            with self.making(f"loading {network.name}"):
                module, inputs, outputs = self.module(network, size, progress.tell)
                return TorchNetwork(self, module, inputs, outputs, given or {}, progress.tell)
        except BackendError:
            self.close()
            raise

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> TorchArray:
        """See ``Device``."""
        nbytes = int(np.prod(shape)) * dtype.itemsize
        with self.current(f"taking {nbytes / 1e6:.1f} MB of the GPU's memory"):
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            return TorchArray(self, torch.zeros(shape, dtype=kind, device=self.place))

    def write(self, target: DeviceArray, values: Array) -> None:
        """See ``Device``; goes through page-locked memory, so that the GPU fetches it itself."""
        array = _own(target)
        with self.current("copying to the GPU"):
            if array in self._written:  # the GPU may still read the page-locked copy
                self._wait()
            np.copyto(array.page_locked.numpy(), values, casting="no")
            self._writes += 1
            self._written[array] = self._writes
            array.tensor.copy_(array.page_locked, non_blocking=True)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """See ``Device``."""
        with self.current("copying on the GPU"):
            _own(target).tensor.copy_(_own(source).tensor)

    def read(self, *arrays: DeviceArray) -> list[Array]:
        """See ``Device``."""
        return self.fetch(*arrays)()

    def fetch(self, *arrays: DeviceArray) -> Callable[[], list[Array]]:
        """See ``Device``."""
        wanted = [_own(array) for array in arrays]
        doing, writes = "computing on the GPU", self._writes
        with self.current(doing):
            for array in wanted:
                array.page_locked.copy_(array.tensor, non_blocking=True)
            fetched = self.stream.record_event() if self.on_gpu else None

        def wait() -> list[Array]:
            with self.current(doing):
                if fetched is not None:
                    fetched.synchronize()
                self._written = {a: n for a, n in self._written.items() if n > writes}
                return [array.page_locked.numpy().copy() for array in wanted]

        return wait

    def close(self) -> None:
        """See ``Device``. The process's CUDA context and stream stay: PyTorch holds them."""
        if self.on_gpu:
            _give_back()

    @property
    def stream(self) -> Any:
        """The stream of everything; only on a GPU."""
        return _stream(self.place)

    @contextmanager
    def current(self, doing: str) -> Iterator[None]:
        """What this thread computes goes to the stream; failures come as BackendError."""
        with IN_USE:
            try:
                with torch.inference_mode():
                    if not self.on_gpu:
                        yield
                        return
                    with torch.cuda.stream(self.stream):
                        yield
            except BackendError:
                raise
            except Exception as error:  # PyTorch's and Triton's have no common base but this
                traceback.clear_frames(error.__traceback__)  # they hold on to memory
                raise explained(doing, error) from error

    @contextmanager
    def making(self, doing: str) -> Iterator[None]:
        """``current``, and tensors are made on the device, by the fastest of cuDNN's algorithms."""
        with self.current(doing), self.place:
            if not self.on_gpu:
                yield
                return
            with single_precision(), _set(torch.backends.cudnn, "benchmark", True):
                yield

    def module(
        self,
        network: Network,
        size: tuple[int, int] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> tuple[Any, dict[str, Tensor], list[str]]:
        """A network as module, its inputs, and the names of its outputs, all on the device.

        Within ``making``. size: see ``load``.
        """
        of = network.identity
        half = of["precision"] == "float16"
        weights = weights_path(of["model"])
        with torch.device("cpu"):
            if of["kind"] == "extractor":
                width, height = size or (of["width"], of["height"])
                state, shape = fold.read_aliked(weights)
                folded = fold.extractor(state, of["channels"])
                module: Any = self._extractor(folded, shape, half, tell)
                inputs = aliked.example_inputs(height, width, of["channels"], of["top_k"])
                outputs = list(aliked.OUTPUTS)
            else:
                state, sizes = fold.read_lightglue(weights)
                layers = matcher_parts(of["precision"])[of["part"]]
                operations = self._operations(half, tell)
                if of["part"].startswith("matches"):
                    folded = fold.match_head(state, layers[-1])
                    module = lightglue.MatchHead(folded, half, operations)
                    inputs = lightglue.head_inputs(of["top_k"], half)
                    outputs = [*lightglue.HEAD_OUTPUTS]
                else:
                    folded = fold.matcher(state, layers, sizes.layers)
                    module = lightglue.segment(folded, layers, sizes, half, operations)
                    inputs = lightglue.segment_inputs(sizes, layers, of["top_k"], half)
                    outputs = lightglue.segment_outputs(sizes, layers)
        placed = {name: tensor.to(self.place) for name, tensor in inputs.items()}
        return module.eval().to(self.place), placed, outputs

    def _extractor(
        self, weights: Weights, shape: AlikedShape, half: bool, tell: Callable[[str], None]
    ) -> aliked.FoldedALIKED:
        """With Triton's kernels where they work, and can compute this network."""
        widths = (*shape.channels, shape.dim)
        powers = not any(width & (width - 1) for width in widths)
        if powers and self._try_kernels("triton_aliked", shape, half, tell):  # for their vectors
            from aliked_ros.backends.gpu.triton_aliked import TritonALIKED

            return TritonALIKED(weights, shape, half)
        return aliked.FoldedALIKED(weights, shape, half)

    def _operations(self, half: bool, tell: Callable[[str], None]) -> lightglue.Operations:
        """LightGlue's, with Triton's kernels where they work."""
        if self._try_kernels("triton_lightglue", None, half, tell):
            from aliked_ros.backends.gpu.triton_lightglue import TritonOperations

            return TritonOperations()
        return GpuOperations() if self.on_gpu else lightglue.PLAIN

    def _try_kernels(
        self, module: str, shape: AlikedShape | None, half: bool, tell: Callable[[str], None]
    ) -> bool:
        """Whether a module of kernels passes its self-test here, which runs once."""
        if not self.on_gpu:
            return False
        key = (module, shape, half)
        if key not in self._kernels_work:
            try:
                check = import_module(f"aliked_ros.backends.gpu.{module}").check
                check(self.place, **({} if shape is None else {"shape": shape}), half=half)
                self._kernels_work[key] = True
            except Exception as error:  # no Triton, no compiler for it, a GPU it does not know
                self._kernels_work[key] = False
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                tell(f"Triton cannot be used ({reason}): slower operations take its place")
        return self._kernels_work[key]

    def capture(self, function: Callable[[], Any]) -> tuple[Any, Any]:
        """A CUDA graph of everything that a function launches, and where its results will be.

        Within ``making``. What it reads must stay where it is.
        """
        for _ in range(_WARM_UP):
            function()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # (threads of others may go on with what cannot be captured)
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            results = function()
        return graph, results

    def time(self, function: Callable[[], Any], trials: int) -> float:
        """Seconds that a run of a function takes on the device, as a graph. Within ``making``."""
        if not self.on_gpu:
            begin = time.perf_counter()
            for _ in range(trials):
                function()
            return (time.perf_counter() - begin) / trials
        graph, _results = self.capture(function)
        begins, ends = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        graph.replay()
        begins.record()
        for _ in range(trials):
            graph.replay()
        ends.record()
        ends.synchronize()
        return float(begins.elapsed_time(ends)) / 1e3 / trials

    def memory_in_use(self) -> int:
        """See ``Device``."""
        if not self.on_gpu:
            return 0
        with self.current("asking for the GPU's memory"):
            free, total = torch.cuda.mem_get_info(self.place)
        return int(total - free)

    def wait(self) -> bool:
        """Until all is done; False: the GPU is lost."""
        try:
            with self.current("waiting for the GPU"):
                self._wait()
        except BackendError:
            return False
        return True

    def _wait(self) -> None:
        if self.on_gpu:
            self.stream.synchronize()
        self._written.clear()


class TorchArray:
    """Memory on the device; see ``DeviceArray``."""

    def __init__(self, device: TorchDevice, tensor: Tensor) -> None:
        """``tensor``: the memory, which this holds until it is freed."""
        self._device = device
        self._tensor: Tensor | None = tensor
        self._page_locked: Tensor | None = None
        self.shape = tuple(tensor.shape)
        self.dtype = torch.empty(0, dtype=tensor.dtype, device="cpu").numpy().dtype

    @property
    def tensor(self) -> Tensor:
        """The memory."""
        assert self._tensor is not None, "it was given back"
        return self._tensor

    @property
    def page_locked(self) -> Tensor:
        """The copy in the computer's memory that it is written and read through."""
        if self._page_locked is None:
            tensor = self.tensor
            self._page_locked = torch.empty(
                tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda
            )
        return self._page_locked

    def part(self, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> TorchArray:
        """See ``DeviceArray``."""
        end = start + int(np.prod(shape)) * dtype.itemsize
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        return TorchArray(self._device, self.tensor[start:end].view(kind).view(shape))

    def free(self) -> None:
        """See ``DeviceArray``."""
        held = [t for t in (self._tensor, self._page_locked) if t is not None]
        self._tensor = self._page_locked = None
        if not held or not self._device.on_gpu:
            return
        with IN_USE:
            if not self._device.wait():
                # PyTorch would end the process: freeing asks the lost GPU for an event
                for tensor in held:
                    ctypes.pythonapi.Py_IncRef(ctypes.py_object(tensor))
            held.clear()
            _give_back()


class TorchNetwork:
    """A module with memory for its inputs and outputs; see ``DeviceNetwork``."""

    label = ""

    def __init__(
        self,
        device: TorchDevice,
        module: Any,
        inputs: Mapping[str, Tensor],
        outputs: list[str],
        given: Mapping[str, DeviceArray],
        tell: Callable[[str], None],
    ) -> None:
        """Within ``device.making``. ``inputs``: in the module's order."""
        self._device = device
        self._owned: list[TorchArray] = []
        arrays = {
            name: _own(given[name]) if name in given else self._take(tensor)
            for name, tensor in inputs.items()
        }
        self._module: Any = module
        self._arguments = [array.tensor for array in arrays.values()]
        self._graph: Any = None
        self._given = {i: _own(given[name]) for i, name in enumerate(outputs) if name in given}
        results = self._compute()
        if device.on_gpu:
            try:
                self._graph, results = device.capture(self._compute)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # what PyTorch or the driver cannot record
                reason = " ".join(str(error).split())[:200]
                tell(f"No CUDA graph ({reason}): every operation is launched by itself")
                results = self._compute()  # a lost GPU fails here, too
        self._results = results
        self.inputs: Mapping[str, DeviceArray] = arrays
        self.outputs: Mapping[str, DeviceArray] = {
            name: self._given.get(i) or self._take(tensor)
            for i, (name, tensor) in enumerate(zip(outputs, results, strict=True))
        }

    def run(self) -> None:
        """See ``DeviceNetwork``."""
        if self._graph is not None:
            with self._device.current("running a network"):
                self._graph.replay()
            return
        with self._device.making("running a network"):
            for place, result in zip(self._results, self._compute(), strict=True):
                if place is not result:
                    place.copy_(result)

    def _compute(self) -> list[Tensor]:
        """The outputs, of which those that were given a place lie there."""
        results = list(self._module(*self._arguments))
        for i, array in self._given.items():
            results[i] = array.tensor.copy_(results[i])
        return results

    def close(self) -> None:
        """See ``DeviceNetwork``."""
        self._device.wait()  # for a run that still goes on
        self._graph = self._module = None
        self._arguments, self._results, self._given = [], [], {}
        while self._owned:
            self._owned.pop().free()

    def _take(self, tensor: Tensor) -> TorchArray:
        array = TorchArray(self._device, tensor)
        self._owned.append(array)
        return array


@contextmanager
def single_precision() -> Iterator[None]:
    """Convolutions and matrix products of float32 without TF32; then all is as it was.

    The switches are the process's: what other threads begin meanwhile is computed so, too.
    """
    convolution: Any = torch.backends.cudnn
    product = torch.backends.cuda.matmul
    if not hasattr(product, "fp32_precision"):  # PyTorch 2.8 and older
        with _set(convolution, "allow_tf32", False), _set(product, "allow_tf32", False):
            yield
        return
    # (since 2.9 the old switches raise wherever somebody has used the new ones)
    exact = ("fp32_precision", "ieee")
    with _set(convolution.conv, *exact), _set(product, *exact):
        yield


@contextmanager
def _set(switches: Any, name: str, value: Any) -> Iterator[None]:
    """One of PyTorch's switches meanwhile."""
    before = getattr(switches, name)
    if before == value:
        yield
        return
    setattr(switches, name, value)
    try:
        yield
    finally:
        if isinstance(before, str):  # it may have been that of the switch above it
            setattr(switches, name, "none")
        if getattr(switches, name) != before:
            setattr(switches, name, before)


def _own(array: DeviceArray) -> TorchArray:
    assert isinstance(array, TorchArray)
    return array


@lru_cache(maxsize=1)
def _stream(place: torch.device) -> Any:
    """One for all networks of the process: libraries keep memory for each that there was."""
    return torch.cuda.Stream(place)  # type: ignore[no-untyped-call]


def _give_back() -> None:
    """What PyTorch keeps for later, to the GPU."""
    with suppress(Exception):  # a lost GPU gives nothing back
        torch.cuda.empty_cache()
