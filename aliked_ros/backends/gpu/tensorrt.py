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

"""The device of NVIDIA GPUs: engines run by TensorRT; memory, stream and context by pycuda."""

from __future__ import annotations

import hashlib
import importlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aliked_ros.backends.gpu.cuda_graph import CudaGraph
from aliked_ros.backends.gpu.device import BuildProgress, DeviceArray, DeviceNetwork
from aliked_ros.backends.gpu.engines import Engine, Network, ensure_engine
from aliked_ros.backends.gpu.tensorrt_library import (
    WORKSPACE,
    load_tensorrt,
    logger,
    target_here,
)
from aliked_ros.errors import BackendError
from aliked_ros.models.device_export import LARGEST_TOP_K, TensorSpec
from aliked_ros.system.cache import atomic_path
from aliked_ros.system.nvidia import IN_USE, GpuError, explained, find_gpu

Array = NDArray[Any]

_DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_DEVICE_MAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: independent of what uses the default stream
_BUILDING = threading.Lock()  # held while an engine is built, which takes the GPU for minutes


class TensorRtDevice:
    """The first GPU; see ``Device``. For any thread, one at a time.

    Nothing is taken of the GPU before something is loaded.
    """

    kind = "tensorrt"
    most_keypoints = LARGEST_TOP_K

    def __init__(self, workspace: int = WORKSPACE) -> None:
        """Raises GpuError for the first thing that is missing or too old.

        workspace: MiB of the GPU's memory that a layer of an engine may take while it works.
        """
        self.gpu = find_gpu()
        self.library = load_tensorrt()
        self._target = target_here(self.library, self.gpu, workspace)
        self._cuda = _load_pycuda()
        self.name = f"{self.library.name} on {self.gpu.name}"
        self._stream: Any = None
        self._fetched: Any = None  # event behind the last copy from the GPU
        self._written: dict[TensorRtArray, int] = {}  # not surely fetched yet: number of the write
        self._writes = 0

    def load(
        self,
        network: Network,
        progress: BuildProgress,
        size: tuple[int, int] | None = None,
        given: Mapping[str, DeviceArray] | None = None,
    ) -> DeviceNetwork:
        """See ``Device``."""
        with _BUILDING:
            engine = ensure_engine(network, self._target, progress.tell, progress.report)
        with self.current(f"loading {engine.path.name}"):
            loaded = TensorRtNetwork(self, engine, size, given or {})
        progress.tell(
            f"{engine.path.name} takes {loaded.scratch / 1e6:.0f} MB of GPU memory while it works "
            f"(workspace: {self._target.workspace} MiB)"
        )
        return loaded

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> TensorRtArray:
        """See ``Device``."""
        array = TensorRtArray(self, shape, dtype)
        with self.current(f"taking {array.nbytes / 1e6:.1f} MB of the GPU's memory"):
            array.memory = self._cuda.mem_alloc(array.nbytes)
            self._cuda.memset_d8_async(int(array), 0, array.nbytes, self.stream)
        return array

    def shared(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> TensorRtArray:
        """Memory for an input: on a GPU of its own as ``zeros``.

        A GPU that shares the computer's memory (Jetson) reads what was written where it lies.
        """
        with self.current("asking for the kind of GPU"):
            kind = self._cuda.device_attribute.INTEGRATED
            if not self._cuda.Device(0).get_attribute(kind):
                return self.zeros(shape, dtype)
            array = TensorRtArray(self, shape, dtype)
            array.page_locked = self._cuda.pagelocked_empty(shape, dtype, mem_flags=_DEVICE_MAP)
            array.page_locked.fill(0)
            array.memory = int(array.page_locked.base.get_device_pointer())
            array.is_mapped = True
        return array

    def write(self, target: DeviceArray, values: Array) -> None:
        """See ``Device``; goes through page-locked memory, so that the GPU fetches it itself."""
        array = _own(target)
        with self.current("copying to the GPU"):
            if array.is_mapped:
                self._wait()  # a network may still read it
                np.copyto(array.page_locked, values, casting="no")
                return
            if array in self._written:  # the GPU may still read the page-locked copy
                self._wait()
            np.copyto(self._page_locked(array), values, casting="no")
            self._writes += 1
            self._written[array] = self._writes
            self._cuda.memcpy_htod_async(int(array), array.page_locked, self.stream)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """See ``Device``."""
        to, origin = _own(target), _own(source)
        with self.current("copying on the GPU"):
            self._cuda.memcpy_dtod_async(int(to), int(origin), to.nbytes, self.stream)

    def read(self, *arrays: DeviceArray) -> list[Array]:
        """See ``Device``."""
        return self.fetch(*arrays)()

    def fetch(self, *arrays: DeviceArray) -> Callable[[], list[Array]]:
        """See ``Device``."""
        wanted = [_own(array) for array in arrays]
        doing, writes = "computing on the GPU", self._writes
        with self.current(doing):
            for array in wanted:
                page_locked = self._page_locked(array)
                self._cuda.memcpy_dtoh_async(page_locked, int(array), self.stream)
            if self._fetched is None:
                self._fetched = self._cuda.Event(_DISABLE_TIMING)
            self._fetched.record(self.stream)

        def wait() -> list[Array]:
            with self.current(doing):
                self._fetched.synchronize()
                self._written = {a: n for a, n in self._written.items() if n > writes}
                return [self._page_locked(array).copy() for array in wanted]

        return wait

    def memory_in_use(self) -> int:
        """See ``Device``."""
        with self.current("asking for the GPU's memory"):
            free, total = self._cuda.mem_get_info()
        return int(total - free)

    def close(self) -> None:
        """See ``Device``. The process's CUDA context stays: TensorRT itself holds on to it."""
        if self._stream is None:  # nothing was taken
            return
        with suppress(BackendError), self.current("giving the GPU back"):
            with suppress(Exception):  # a lost GPU computes nothing any more
                self._wait()
            self._fetched = self._stream = None

    @property
    def stream(self) -> Any:
        """The stream of everything, made at first use; only within ``current``."""
        if self._stream is None:
            self._stream = self._cuda.Stream(_NON_BLOCKING)
        return self._stream

    @contextmanager
    def current(self, doing: str) -> Iterator[None]:
        """The GPU's context belongs to this thread meanwhile; failures come as BackendError."""
        with IN_USE:
            context = None
            try:
                context = _primary_context()
                context.push()
            except Exception as error:  # pycuda's have no common base but this
                _abandon(context)
                raise explained(doing, error) from error
            try:
                yield
            except BackendError:
                raise
            except Exception as error:
                raise explained(doing, error) from error
            finally:
                try:
                    context.pop()
                except Exception:  # a lost GPU refuses this, too
                    _abandon(context)

    def free(self, array: TensorRtArray) -> None:
        """Give back an array's memory, also on a lost GPU."""
        memory, array.memory = array.memory, None
        page_locked, array.page_locked = array.page_locked, None
        if memory is None:
            return
        with suppress(BackendError), self.current("giving memory back"):
            with suppress(Exception):  # a lost GPU computes nothing any more
                self._wait()  # for what still uses it
            if not (array.is_part or array.is_mapped):
                memory.free()
            if page_locked is not None:
                page_locked.base.free()

    def _page_locked(self, array: TensorRtArray) -> Array:
        """The copy in the computer's memory that an array is written and read through."""
        if array.page_locked is None:
            array.page_locked = self._cuda.pagelocked_empty(array.shape, array.dtype)
        page_locked: Array = array.page_locked
        return page_locked

    def _wait(self) -> None:
        self.stream.synchronize()
        self._written.clear()


class TensorRtArray:
    """Memory on the GPU; see ``DeviceArray``."""

    def __init__(
        self, device: TensorRtDevice, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        """Describe it; the device gives the memory."""
        self.shape, self.dtype = shape, dtype
        self.nbytes = int(np.prod(shape)) * dtype.itemsize
        self.memory: Any = None
        self.page_locked: Any = None
        self.is_part = self.is_mapped = False
        self._device = device

    def __int__(self) -> int:
        return int(self.memory)

    def part(self, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> TensorRtArray:
        """See ``DeviceArray``."""
        array = TensorRtArray(self._device, shape, dtype)
        array.memory, array.is_part = int(self) + start, True
        return array

    def free(self) -> None:
        """See ``DeviceArray``."""
        self._device.free(self)


class TensorRtNetwork:
    """An engine with memory for all its inputs and outputs; see ``DeviceNetwork``.

    scratch: bytes of the GPU's memory that it takes beside those.
    """

    def __init__(
        self,
        device: TensorRtDevice,
        engine: Engine,
        size: tuple[int, int] | None,
        given: Mapping[str, DeviceArray],
    ) -> None:
        """Within ``device.current``; ``engine`` has been proven to be what we built.

        The image (input ``image``) lies in memory that is ``shared``.
        """
        trt = device.library.module
        self.label = engine.label
        self._device = device
        self._logger = logger(trt)
        self._logger.take_errors()  # of before
        self._owned: list[DeviceArray] = []
        self._graph: CudaGraph | None = None
        self._config: Any = None
        self._to_record = not device.library.rtx
        try:
            self._runtime = trt.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(engine.plan)
            if self._engine is None:
                raise self._failed("loading")
            self.scratch = int(self._engine.device_memory_size_v2)
            compiled = _CompiledKernels(engine) if device.library.rtx else None
            self._context = self._make_context(trt, compiled)
            if self._context is None:
                raise self._failed("preparing")
            self.inputs: Mapping[str, DeviceArray] = {
                name: given.get(name) or self._own(spec, size, name == "image")
                for name, spec in engine.inputs.items()
            }
            self.outputs: Mapping[str, DeviceArray] = {
                name: given.get(name) or self._own(spec, size)
                for name, spec in engine.outputs.items()
            }
            for name, array in {**self.inputs, **self.outputs}.items():
                self._bind(name, _own(array), name in engine.inputs)
            self._run_first()
            if compiled is not None:
                compiled.save()
        except BaseException as error:
            self.close()
            if isinstance(error, TypeError):  # all that the bindings say of a Runtime that is none
                raise self._failed("loading") from error
            raise

    def run(self) -> None:
        """See ``DeviceNetwork``."""
        with self._device.current(f"running {self.label}"):
            if self._to_record:
                self._record()
            if self._graph is not None:
                self._graph.launch()
            else:
                self._launch()

    def close(self) -> None:
        """See ``DeviceNetwork``."""
        with suppress(BackendError), self._device.current(f"unloading {self.label}"):
            with suppress(Exception):  # a lost GPU computes nothing any more
                self._device.stream.synchronize()
            if self._graph is not None:
                self._graph.close()
            self._graph = self._context = self._config = None  # in this order
            self._engine = self._runtime = None
        while self._owned:
            self._owned.pop().free()

    def _make_context(self, trt: Any, compiled: _CompiledKernels | None) -> Any:
        """Where TensorRT for RTX runs, it records graphs itself: it compiles kernels meanwhile."""
        if compiled is None:
            return self._engine.create_execution_context()
        self._config = self._engine.create_runtime_config()
        if hasattr(trt, "CudaGraphStrategy"):  # since 1.2
            self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._config.set_runtime_cache(compiled.load(self._config.create_runtime_cache()))
        return self._engine.create_execution_context(self._config)

    def _run_first(self) -> None:
        """Prepare all that the first run prepares, so that no camera's image waits for it."""
        self._launch()
        self._device.stream.synchronize()
        if self._to_record:
            self._record()

    def _launch(self) -> None:
        if not self._context.execute_async_v3(self._device.stream.handle):
            raise self._failed("running")

    def _record(self) -> None:
        """Make one graph of a run; where TensorRT's cannot be recorded, runs go on as before."""
        if not _BUILDING.acquire(blocking=False):
            return  # it comes to it later: a build would make the record invalid
        try:
            self._to_record = False
            self._graph = CudaGraph(self._device.stream.handle, self._launch)
        except BackendError:
            self._logger.take_errors()
        finally:
            _BUILDING.release()

    def _own(
        self, spec: TensorSpec, size: tuple[int, int] | None, shared: bool = False
    ) -> DeviceArray:
        """Memory for a tensor; free sides are H and W, in this order."""
        free = iter(reversed(size or ()))
        shape = tuple(next(free) if side is None else side for side in spec.shape)
        take = self._device.shared if shared else self._device.zeros
        array = take(shape, np.dtype(spec.dtype))
        self._owned.append(array)
        return array

    def _bind(self, name: str, array: TensorRtArray, is_input: bool) -> None:
        good = self._context.set_tensor_address(name, int(array))
        if good and is_input and -1 in tuple(self._engine.get_tensor_shape(name)):
            good = self._context.set_input_shape(name, array.shape)
        if not good:
            raise self._failed(f"binding {name} of")

    def _failed(self, doing: str) -> BackendError:
        return explained(f"{doing} {self.label}", self._logger.take_errors())


class _CompiledKernels:
    """Kernels that TensorRT for RTX compiled for an engine, in a file beside it.

    Compiling takes seconds at every start. The file holds a checksum of the engine and the kernels,
    then the kernels; TensorRT itself refuses those of another GPU, driver or version.
    """

    def __init__(self, engine: Engine) -> None:
        self._path, self._sha256 = engine.path.with_suffix(".kernels"), engine.sha256
        self._cache: Any = None
        self._loaded = b""

    def load(self, cache: Any) -> Any:
        """Fill TensorRT's cache from the file, if that fits; returns it."""
        self._cache = cache
        with suppress(OSError):
            content = self._path.read_bytes()
            kernels = content[hashlib.sha256().digest_size :]
            if content == self._checked(kernels) and cache.deserialize(kernels):
                self._loaded = kernels
        return cache

    def save(self) -> None:
        """Write what was compiled since; without room on the disk the next start compiles again."""
        kernels = bytes(self._cache.serialize())
        if kernels != self._loaded:
            with suppress(OSError), atomic_path(self._path) as written:
                written.write_bytes(self._checked(kernels))

    def _checked(self, kernels: bytes) -> bytes:
        return hashlib.sha256(self._sha256.encode() + kernels).digest() + kernels


def _own(array: DeviceArray) -> TensorRtArray:
    assert isinstance(array, TensorRtArray)
    return array


def _load_pycuda() -> Any:
    """The driver module of pycuda; it needs no compiler here."""
    try:
        return importlib.import_module("pycuda.driver")
    except (ImportError, OSError) as error:
        raise GpuError(
            f"pycuda cannot be imported ({error})",
            "pip install pycuda (it is compiled then, and needs the CUDA toolkit)",
        ) from error


@lru_cache(maxsize=1)
def _primary_context() -> Any:
    """The context that TensorRT uses too, held until the process ends.

    (Giving it back would free nothing, since TensorRT holds it as well.)
    """
    cuda = _load_pycuda()
    cuda.init()
    return cuda.Device(0).retain_primary_context()


def _abandon(context: Any) -> None:
    """Let go of the context of a lost GPU.

    pycuda ends the process when a thread ends that has one on its stack, and when memory is
    collected whose context cannot be pushed. A detached one is on no stack, and not pushed.
    """
    if context is not None:
        with suppress(Exception):
            context.detach()
