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

"""Memory, streams and contexts of the TensorRT backend, on a GPU that is played.

Where there is no GPU, pycuda and TensorRT are replaced by what their sources say that they do, in
the least forgiving way: a copy or network runs only once the stream is waited for, nothing works
without the context being current in this thread, and everything must be given back once.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aliked_ros.backends.gpu import cuda_graph
from aliked_ros.backends.gpu import tensorrt as tensorrt_device
from aliked_ros.backends.gpu.engines import Engine
from aliked_ros.backends.gpu.tensorrt import TensorRtDevice, TensorRtNetwork
from aliked_ros.backends.gpu.tensorrt_library import TensorRt
from aliked_ros.errors import BackendError
from aliked_ros.models.device_export import TensorSpec
from aliked_ros.system.nvidia import Gpu

LOST = "cuStreamSynchronize failed: an illegal memory access was encountered"


class PlayedGpu:
    """pycuda.driver, and TensorRT's runtime, whose only network adds one to ``x``.

    failure: what waiting and taking memory raise. refused: what context changes raise. room: bytes.
    log: what was given back of TensorRT's. said: what TensorRT logs where it returns nothing.
    compiled: how often TensorRT for RTX made kernels.
    recorded: by stream, what it is asked while that is recorded. graphs: by handle. launches: of
    graphs. unrecordable: recording fails. integrated: it shares the computer's memory.
    asked: copies, runs and events of streams in the order in which they were asked for.
    logger: weak reference to the first one that TensorRT was given, which it uses from then on.
    launch_error: what the driver answers to the launch of a graph; 0: it works.
    """

    def __init__(self) -> None:
        self.failure = self.refused = self.said = ""
        self.room = 1 << 20
        self.memory: dict[int, np.ndarray] = {}
        self.page_locked = self.contexts = 0
        self.streams: list[Any] = []
        self.log: list[str] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.stacks = threading.local()
        self.recorded: dict[int, list[Callable[[], None]]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.launches = self.compiled = 0
        self.unrecordable = self.integrated = False
        self.logger: Any = None
        self.launch_error = 0
        self.asked: list[str] = []

    @property
    def stack(self) -> list[Any]:
        if not hasattr(self.stacks, "value"):
            self.stacks.value = []
        return self.stacks.value

    def next_address(self) -> int:
        """Of an allocation: behind all others, and not at 0."""
        return max((at + len(held) for at, held in self.memory.items()), default=0) + 256

    def needs_context(self) -> None:
        if not self.stack:
            raise RuntimeError("explicit_context_dependent failed: invalid device context")

    def view(self, address: int, like: tuple[tuple[int, ...], Any]) -> np.ndarray:
        shape, dtype = like
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.bytes_at(address, nbytes).view(dtype).reshape(shape)

    def bytes_at(self, address: int, nbytes: int) -> np.ndarray:
        """Within the allocation that the address lies in."""
        begin = max(known for known in self.memory if known <= address)
        start = address - begin
        assert start + nbytes <= len(self.memory[begin])
        return self.memory[begin][start : start + nbytes]


def played_pycuda(gpu: PlayedGpu) -> SimpleNamespace:
    class Context:
        valid = True

        def push(self) -> None:
            if gpu.refused:
                raise RuntimeError(gpu.refused)
            gpu.stack.append(self)

        def pop(self) -> None:
            if gpu.refused:
                raise RuntimeError(gpu.refused)
            gpu.stack.pop()

        def detach(self) -> None:
            self.valid = False
            while self in gpu.stack:
                gpu.stack.remove(self)

    class Device:
        def __init__(self, number: int) -> None:
            assert number == 0

        def retain_primary_context(self) -> Context:
            gpu.contexts += 1
            return Context()

        def get_attribute(self, attribute: str) -> int:
            return int(attribute == "integrated" and gpu.integrated)

    class Stream:
        def __init__(self, flags: int) -> None:
            gpu.needs_context()
            assert flags == 1, "it would wait for what others do on the default stream"
            self.queue: list[Callable[[], None]] = []
            gpu.streams.append(self)
            self.handle = len(gpu.streams) - 1

        def synchronize(self) -> None:
            gpu.needs_context()
            if gpu.failure:
                raise RuntimeError(gpu.failure)
            while self.queue:
                self.queue.pop(0)()

    class Event:
        """Past once what was asked for before it is done; what comes after it is not waited for."""

        def __init__(self, flags: int) -> None:
            gpu.needs_context()
            assert flags == 2, "it would take the time"
            self.done = True

        def record(self, stream: Stream) -> None:
            gpu.needs_context()
            gpu.asked.append("event")
            self.done, self.stream = False, stream
            stream.queue.append(lambda: setattr(self, "done", True))

        def synchronize(self) -> None:
            gpu.needs_context()
            gpu.asked.append("wait")
            if gpu.failure:
                raise RuntimeError(gpu.failure)
            while not self.done:
                self.stream.queue.pop(0)()

    class Allocation:
        def __init__(self, size: int) -> None:
            gpu.needs_context()
            if size > gpu.room:
                raise MemoryError("cuMemAlloc failed: out of memory")
            gpu.room -= size
            self.size, self.address = size, gpu.next_address()
            gpu.memory[self.address] = np.full(size, 77, np.uint8)

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            gpu.needs_context()
            gpu.room += self.size
            del gpu.memory[self.address]

    class HostAllocation:
        def __init__(self, shape: tuple[int, ...], dtype: Any, mapped: bool) -> None:
            gpu.needs_context()
            gpu.page_locked += 1
            self.values = np.full(shape, 77, dtype)
            self.__array_interface__ = self.values.__array_interface__
            self.address = gpu.next_address() if mapped else 0
            if mapped:
                gpu.memory[self.address] = self.values.reshape(-1).view(np.uint8)

        def get_device_pointer(self) -> int:
            assert self.address, "it is not mapped"
            return self.address

        def free(self) -> None:
            gpu.needs_context()
            gpu.page_locked -= 1
            gpu.memory.pop(self.address, None)
            self.values[...] = 99  # who still reads it sees that

    def up(target: int, source: np.ndarray, stream: Stream) -> None:
        def copy() -> None:
            gpu.view(target, (source.shape, source.dtype))[...] = source

        gpu.asked.append("up")
        stream.queue.append(copy)

    def down(target: np.ndarray, source: int, stream: Stream) -> None:
        def copy() -> None:
            target[...] = gpu.view(source, (target.shape, target.dtype))

        gpu.asked.append("down")
        stream.queue.append(copy)

    def across(target: int, source: int, size: int, stream: Stream) -> None:
        def copy() -> None:
            gpu.bytes_at(target, size)[...] = gpu.bytes_at(source, size)

        gpu.asked.append("across")
        stream.queue.append(copy)

    def zero(target: int, value: int, size: int, stream: Stream) -> None:
        stream.queue.append(lambda: gpu.bytes_at(target, size).fill(value))

    return SimpleNamespace(
        init=lambda: None,
        Device=Device,
        Stream=Stream,
        Event=Event,
        device_attribute=SimpleNamespace(INTEGRATED="integrated"),
        mem_alloc=Allocation,
        pagelocked_empty=lambda shape, dtype, mem_flags=0: np.asarray(
            HostAllocation(shape, dtype, mem_flags == 2)
        ),
        memcpy_htod_async=up,
        memcpy_dtoh_async=down,
        memcpy_dtod_async=across,
        memset_d8_async=zero,
    )


def played_tensorrt(gpu: PlayedGpu) -> ModuleType:
    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=2)

        def __init__(self) -> None: ...

    class Part:
        def __del__(self) -> None:
            gpu.log.append(type(self).__name__ if gpu.stack else "without a context")

    class Runtime(Part):
        def __init__(self, logger: Any) -> None:
            gpu.logger = gpu.logger or weakref.ref(logger)
            assert gpu.logger() is not None, "TensorRT would use a logger that is no more"
            if gpu.said:
                gpu.logger().log(ILogger.Severity.ERROR, gpu.said)
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            return CudaEngine()

    class CudaEngine(Part):
        device_memory_size_v2 = 5 << 20

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (-1, -1)

        def create_execution_context(self, config: Any = None) -> Any:
            return ExecutionContext(config)

        def create_runtime_config(self) -> Any:
            return RuntimeConfig()

    class RuntimeConfig(Part):
        cache: Any = None

        def create_runtime_cache(self) -> Any:
            return RuntimeCache()

        def set_runtime_cache(self, cache: Any) -> bool:
            self.cache = cache
            return True

    class RuntimeCache:
        kernels = b""

        def deserialize(self, blob: bytes) -> bool:
            self.kernels = blob
            return True

        def serialize(self) -> memoryview:
            return memoryview(self.kernels)

    class ExecutionContext(Part):
        def __init__(self, config: Any) -> None:
            self.places: dict[str, int] = {}
            self.config = config

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.places[name] = address
            return True

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            gpu.shapes[name] = shape
            return True

        def execute_async_v3(self, stream: int) -> bool:
            gpu.needs_context()
            if self.config is not None and not self.config.cache.kernels:
                gpu.compiled += 1
                self.config.cache.kernels = b"kernels"
            x, y = (
                gpu.view(self.places[name], (gpu.shapes["x"], np.float32)) for name in ("x", "y")
            )
            queue = gpu.recorded.get(stream, gpu.streams[stream].queue)
            queue.append(lambda: np.copyto(y, x + 1))
            return True

    module = ModuleType("tensorrt")
    vars(module).update(ILogger=ILogger, Runtime=Runtime)
    return module


def played_driver(gpu: PlayedGpu) -> SimpleNamespace:
    """The driver's functions for graphs; handles and results come as ctypes' objects."""

    def begin(stream: Any, mode: int) -> int:
        gpu.needs_context()
        gpu.recorded[stream.value or 0] = []
        return 0

    def end(stream: Any, graph: Any) -> int:
        work = gpu.recorded.pop(stream.value or 0)
        if gpu.unrecordable:
            return 901  # CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        graph._obj.value = 1 + max(gpu.graphs, default=0)
        gpu.graphs[graph._obj.value] = work
        return 0

    def instantiate(executable: Any, graph: Any, flags: Any) -> int:
        executable._obj.value = 1 + max(gpu.graphs)
        gpu.graphs[executable._obj.value] = gpu.graphs[graph.value]
        return 0

    def launch(executable: Any, stream: Any) -> int:
        gpu.needs_context()
        gpu.streams[stream.value or 0].queue.extend(gpu.graphs[executable.value])
        gpu.launches += 1
        gpu.asked.append("run")
        return gpu.launch_error

    def explain(code: int, text: Any) -> int:
        text._obj.value = {700: b"an illegal memory access was encountered"}.get(code)
        return 0

    def destroy(part: Any) -> int:
        gpu.needs_context()
        del gpu.graphs[part.value]
        return 0

    return SimpleNamespace(
        cuStreamBeginCapture_v2=begin,
        cuStreamEndCapture=end,
        cuGraphInstantiateWithFlags=instantiate,
        cuGraphLaunch=launch,
        cuGraphExecDestroy=destroy,
        cuGraphDestroy=destroy,
        cuGetErrorString=explain,
    )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayedGpu]:
    gpu = PlayedGpu()
    driver = played_pycuda(gpu)
    library = TensorRt(False, "10.3.0", 12, played_tensorrt(gpu))
    played = Gpu("Played", (8, 9), (12, 6), 1 << 20)
    monkeypatch.setattr(tensorrt_device, "find_gpu", lambda: played)
    monkeypatch.setattr(tensorrt_device, "load_tensorrt", lambda: library)
    monkeypatch.setattr(tensorrt_device, "_load_pycuda", lambda: driver)
    monkeypatch.setattr(cuda_graph, "load_driver", lambda: played_driver(gpu))
    tensorrt_device._primary_context.cache_clear()
    yield gpu
    tensorrt_device._primary_context.cache_clear()
    assert gpu.stack == [], "pycuda would end the process when this thread ends"


def load(
    device: TensorRtDevice,
    size: tuple[int, int] = (3, 2),
    path: Path = Path("add.engine"),
    sha256: str = "0123456789abcdef",
    **given: Any,
) -> TensorRtNetwork:
    free = {"x": TensorSpec((None, None), "float32")}, {"y": TensorSpec((None, None), "float32")}
    engine = Engine(path, b"plan", sha256, *free)
    with device.current("loading add.engine"):
        return TensorRtNetwork(device, engine, size, given)


def run(device: TensorRtDevice, network: TensorRtNetwork, value: float) -> np.ndarray:
    x = network.inputs["x"]
    device.write(x, np.full(x.shape, value, np.float32))
    network.run()
    return device.read(network.outputs["y"])[0]


def test_values_go_up_are_computed_and_come_down(gpu: PlayedGpu) -> None:
    device = TensorRtDevice()
    assert gpu.contexts == 0, "nothing is taken before something is loaded"
    network = load(device)
    assert gpu.shapes["x"] == (2, 3)
    kept = run(device, network, 1.0)
    assert run(device, network, 5.0).tolist() == [[6.0] * 3] * 2
    assert kept.tolist() == [[2.0] * 3] * 2, "what was read is the reader's own"
    after = load(device, x=network.outputs["y"])  # on the outputs of the first
    network.run()
    after.run()
    assert device.read(after.outputs["y"])[0][0, 0] == 7.0
    other = device.zeros((2, 3), np.dtype(np.float32))
    device.copy(other, after.outputs["y"])
    # written again before the GPU has fetched the values of the first time
    for value in (8.0, 9.0):
        device.write(network.inputs["x"], np.full((2, 3), value, np.float32))
        network.run()
    assert [a[0, 0] for a in device.read(network.outputs["y"], other)] == [10.0, 7.0]
    for part in (other, after, network):
        part.free() if part is other else part.close()
    device.close()
    assert (gpu.memory, gpu.page_locked) == ({}, 0)
    assert gpu.log == ["ExecutionContext", "CudaEngine", "Runtime"] * 2
    assert gpu.contexts == 1


@pytest.mark.parametrize("unrecordable", [False, True])
def test_runs_are_launched_as_one_graph_where_that_can_be(
    gpu: PlayedGpu, unrecordable: bool
) -> None:
    device = TensorRtDevice()
    gpu.unrecordable = unrecordable
    network = load(device)
    for value in (1.0, 5.0, 6.0, 7.0):
        assert run(device, network, value).tolist() == [[value + 1] * 3] * 2
    assert gpu.launches == (0 if unrecordable else 4), "it was recorded when it was loaded"
    network.close()
    assert (gpu.graphs, gpu.recorded) == ({}, {})
    assert gpu.log == ["ExecutionContext", "CudaEngine", "Runtime"]


def test_nothing_is_recorded_while_an_engine_is_built(gpu: PlayedGpu) -> None:
    """The builder waits for the whole device, which would make the record invalid."""
    device = TensorRtDevice()
    with tensorrt_device._BUILDING:
        network = load(device)
        for value in (1.0, 2.0, 3.0):
            assert run(device, network, value)[0, 0] == value + 1
        assert gpu.launches == 0
    assert run(device, network, 4.0)[0, 0] == 5.0
    assert gpu.launches == 1
    network.close()


def test_kernels_are_compiled_once_for_an_engine(gpu: PlayedGpu, tmp_path: Path) -> None:
    """By TensorRT for RTX, which would do so at every start; a damaged file is not given to it."""
    device = TensorRtDevice()
    device.library = replace(device.library, rtx=True)
    path = tmp_path / "add.engine"
    for expected in (1, 1):
        network = load(device, path=path)
        assert gpu.compiled == expected
        assert run(device, network, 2.0)[0, 0] == 3.0
        network.close()
    load(device, path=path, sha256="another engine").close()
    assert gpu.compiled == 2
    kept = path.with_suffix(".kernels")
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    load(device, path=path, sha256="another engine").close()
    assert gpu.compiled == 3
    load(device, path=path, sha256="another engine").close()
    assert gpu.compiled == 3


def test_any_thread_may_use_it(gpu: PlayedGpu) -> None:
    device = TensorRtDevice()
    network = load(device)
    found: list[Any] = []

    def work(value: float) -> None:
        found.append(run(device, network, value)[0, 0] - value)
        found.append(gpu.stack)

    for value in range(3):
        thread = threading.Thread(target=work, args=(float(value),))
        thread.start()
        thread.join()
    assert found == [1.0, []] * 3
    closing = threading.Thread(target=network.close)
    closing.start()
    closing.join()
    assert (gpu.memory, gpu.page_locked) == ({}, 0)


def test_a_network_that_does_not_fit_leaves_nothing(gpu: PlayedGpu) -> None:
    device = TensorRtDevice()
    gpu.room = 40  # one of two arrays
    with pytest.raises(BackendError, match=r"taking .* failed: the GPU's memory is full"):
        load(device)
    assert (gpu.memory, gpu.room) == ({}, 40)
    gpu.room = 48
    load(device).close()


@pytest.mark.parametrize("refused", ["", "cuCtxPopCurrent failed: unknown error"])
def test_a_lost_gpu_is_left_without_ending_the_process(gpu: PlayedGpu, refused: str) -> None:
    """Given back is everything that can be, within the context; else no context stays behind."""
    device = TensorRtDevice()
    network = load(device)
    run(device, network, 1.0)
    gpu.failure = LOST
    with pytest.raises(BackendError, match="computing on the GPU failed: the GPU was lost"):
        run(device, network, 2.0)
    with device.current("testing"):
        gpu.refused = refused  # from within: the context is on the stack, and stays there
    if refused:
        assert not tensorrt_device._primary_context().valid, (
            "memory is not given back in it any more"
        )
        with pytest.raises(BackendError, match="the GPU was lost"):
            run(device, network, 3.0)
    network.close()
    device.close()
    gc.collect()
    if not refused:
        assert (gpu.memory, gpu.page_locked) == ({}, 0)
        assert gpu.log == ["ExecutionContext", "CudaEngine", "Runtime"]


def test_a_graph_that_cannot_be_launched_says_why(gpu: PlayedGpu) -> None:
    network = load(TensorRtDevice())
    gpu.launch_error = 700
    with pytest.raises(
        BackendError, match=r"cuGraphLaunch failed: the GPU was lost \(CUDA error 7"
    ):
        network.run()
    network.close()


def test_a_runtime_that_is_none_says_what_tensorrt_logged(gpu: PlayedGpu) -> None:
    gpu.said = "CUDA initialization failure with error: 35: CUDA driver version is insufficient"
    with pytest.raises(BackendError, match=r"loading add\.engine .*: the NVIDIA driver is too old"):
        load(TensorRtDevice())


def test_tensorrt_has_one_logger_as_long_as_the_process_lives(gpu: PlayedGpu) -> None:
    """It keeps the first one; what it says of a later engine would be lost, or crash."""
    device = TensorRtDevice()
    load(device).close()
    gc.collect()
    gpu.said = "Error Code 1: something else"
    with pytest.raises(BackendError, match=r"loading .*: Error Code 1: something else; set back"):
        load(device)
    gpu.said = ""
    load(device).close()


def test_the_first_run_computes_with_zeros(gpu: PlayedGpu) -> None:
    """Also where its arrays are given: what memory held before may be anything."""
    device = TensorRtDevice()
    block = device.zeros((256,), np.dtype(np.uint8))
    network = load(device, x=block.part(0, (2, 3), np.dtype(np.float32)))
    assert device.read(network.outputs["y"])[0].tolist() == [[1.0] * 3] * 2
    network.close()
    block.free()
    assert (gpu.memory, gpu.page_locked) == ({}, 0)


def test_an_unused_device_takes_no_context_to_be_closed(gpu: PlayedGpu) -> None:
    TensorRtDevice().close()
    assert gpu.contexts == 0


def test_what_is_asked_for_after_a_fetch_is_not_waited_for(gpu: PlayedGpu) -> None:
    """A second network runs while the results of the first are read."""
    device = TensorRtDevice()
    first = load(device)
    second = load(device, x=first.outputs["y"])
    x = first.inputs["x"]
    run(device, first, 0.0)  # page-locked memory is there
    gpu.asked.clear()
    device.write(x, np.full((2, 3), 1.0, np.float32))
    first.run()
    fetched = device.fetch(first.outputs["y"])
    second.run()
    assert fetched()[0][0, 0] == 2.0
    assert gpu.asked == ["up", "run", "down", "event", "run", "wait"]
    assert gpu.streams[0].queue, "the second has not run yet"
    gpu.asked.clear()
    device.write(x, np.full((2, 3), 5.0, np.float32))
    assert gpu.streams[0].queue[-1:], "the image before was fetched: nobody waits for the second"
    assert gpu.asked == ["up"]
    device.write(x, np.full((2, 3), 7.0, np.float32))  # now it waits, for the values before
    first.run()
    assert device.read(first.outputs["y"], second.outputs["y"])[0][0, 0] == 8.0
    assert device.read(second.outputs["y"])[0][0, 0] == 3.0
    for network in (second, first):
        network.close()
    device.close()
    assert (gpu.memory, gpu.page_locked) == ({}, 0)


def test_parts_of_an_array_move_with_it(gpu: PlayedGpu) -> None:
    """What a network computes into one piece of memory comes down in one copy."""
    device = TensorRtDevice()
    whole, other = (device.zeros((512 + 24,), np.dtype(np.uint8)) for _ in range(2))
    part = whole.part(512, (2, 3), np.dtype(np.float32))
    network = load(device, y=part)
    run(device, network, 3.0)
    device.copy(other, whole)
    assert device.read(other)[0][512:].view(np.float32).tolist() == [4.0] * 6
    network.close()
    part.free()
    for array in (whole, other):
        array.free()
    assert (gpu.memory, gpu.page_locked) == ({}, 0)


@pytest.mark.parametrize("integrated", [False, True])
def test_a_gpu_that_shares_the_memory_reads_images_where_they_lie(
    gpu: PlayedGpu, integrated: bool
) -> None:
    """A Jetson's; and an image is not written over while a network reads the one before."""
    gpu.integrated = integrated
    device = TensorRtDevice()
    image = device.shared((2, 3), np.dtype(np.float32))
    network = load(device, x=image)
    assert device.read(network.outputs["y"])[0].tolist() == [[1.0] * 3] * 2, "of zeros"
    gpu.asked.clear()
    for value in (1.0, 2.0):
        device.write(image, np.full((2, 3), value, np.float32))
        network.run()
        kept = device.zeros((2, 3), np.dtype(np.float32))
        device.copy(kept, network.outputs["y"])
        if value == 1.0:
            before = kept
    assert ("up" in gpu.asked) == (not integrated)
    assert [a[0, 0] for a in device.read(before, kept)] == [2.0, 3.0]
    for array in (before, kept):
        array.free()
    network.close()
    image.free()
    device.close()
    assert (gpu.memory, gpu.page_locked) == ({}, 0)
