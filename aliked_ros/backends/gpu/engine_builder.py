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

"""Building a TensorRT engine: progress on the way, an end when asked for, errors that say why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aliked_ros.backends.gpu.tensorrt_library import Target, TensorRt, logger
from aliked_ros.errors import BackendError, ConfigurationError
from aliked_ros.models.device_export import DeviceGraph
from aliked_ros.system.cache import atomic_path
from aliked_ros.system.nvidia import explained

Report = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0 to 1, several times a second.

What it raises (KeyboardInterrupt, say) ends the build and passes through.
"""

_POLL = 0.1  # seconds between two looks at what the builder has done


@dataclass(frozen=True, slots=True)
class Sides:
    """The image sizes (width, height) of an engine that takes a range of them."""

    smallest: tuple[int, int]
    largest: tuple[int, int]

    def __post_init__(self) -> None:
        """ConfigurationError for a largest size with a side less than the smallest one's."""
        if not self.holds(self.largest):
            raise ConfigurationError(
                f"The image sizes go from {self.smallest[0]}x{self.smallest[1]} to "
                f"{self.largest[0]}x{self.largest[1]}; no side may get smaller."
            )

    def __str__(self) -> str:
        return "{}x{}-{}x{}".format(*self.smallest, *self.largest)

    def holds(self, size: tuple[int, int]) -> bool:
        """Whether the engine takes images of this size."""
        return all(a <= x <= b for a, x, b in zip(self.smallest, size, self.largest, strict=True))

    def shapes(self, shape: Sequence[int | None]) -> list[tuple[int, ...]]:
        """Least, usual and largest shape of a tensor whose free sides are H, then W."""
        return [self._filled(shape, size) for size in (self.smallest, self.smallest, self.largest)]

    @staticmethod
    def _filled(shape: Sequence[int | None], size: tuple[int, int]) -> tuple[int, ...]:
        free = iter(reversed(size))
        return tuple(next(free) if side is None else side for side in shape)


class _Work:
    """How far a build is; the monitor's thread writes it, ours reads it and may cancel."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.share = 0.0
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps, steps done

    def begin(self, phase: str, parent: str | None, steps: int) -> None:
        self._phases[phase] = (parent, max(steps, 1), 0)

    def step(self, phase: str, step: int) -> None:
        if phase in self._phases:
            parent, steps, _ = self._phases[phase]
            self._phases[phase] = (parent, steps, step + 1)
            self._count()

    def end(self, phase: str) -> None:
        self._phases.pop(phase, None)

    def _count(self) -> None:
        """Of the outermost phase: its steps, and of the one in work the share that is done."""
        phases = dict(self._phases)

        def done(name: str, depth: int = 0) -> float:
            steps, finished = phases[name][1:]
            inner = [n for n, (parent, _, _) in phases.items() if parent == name and n != name]
            within = done(inner[-1], depth + 1) if inner and depth < len(phases) else 0.0
            return min(1.0, (finished + within) / steps)

        outermost = [name for name, (parent, _, _) in phases.items() if parent not in phases]
        if outermost:
            self.share = max(self.share, done(outermost[0]))


def _monitor(trt: Any, work: _Work) -> Any:
    """TensorRT's progress monitor; nothing may be raised into its builder."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            work.begin(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            work.end(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            work.step(phase_name, step)
            return not work.cancelled.is_set()

    return Monitor()


def build_plan(
    name: str,
    graph: DeviceGraph,
    target: Target,
    sides: Sides | None,
    report: Report,
    timing: Path,
) -> bytes:
    """Build the engine of a network, in a thread of its own so that the caller can end it.

    sides: the range of image sizes of a network with free H and W. timing: folder in which
    TensorRT's measurements are kept. Raises BackendError, and what ``report`` raises.
    """
    what = f"building {name} with {target.library.name}"
    work = _Work()
    outcome: list[bytes | BaseException] = []
    ended = threading.Event()

    def build() -> None:
        said = logger(target.library.module)
        said.take_errors()  # of before
        try:
            outcome.append(_build(what, graph, target, sides, work, timing))
        except (BackendError, OSError) as error:
            outcome.append(error)
        except BaseException as error:  # from the bindings, e.g. a TypeError for no Builder
            outcome.append(explained(what, said.take_errors() or error))
        finally:
            ended.set()

    thread = threading.Thread(target=build, name="building", daemon=True)
    thread.start()
    try:
        report(what, work.share)
        # not join(timeout): up to Python 3.12 a thread passes for ended when Ctrl-C comes then
        while not ended.wait(_POLL):
            report(what, work.share)
    except BaseException:
        work.cancelled.set()
        thread.join()  # a process that ends within the builder crashes
        raise
    thread.join()
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    report(what, 1.0)
    return result


def _build(
    doing: str,
    graph: DeviceGraph,
    target: Target,
    sides: Sides | None,
    work: _Work,
    timing: Path,
) -> bytes:
    library, trt = target.library, target.library.module
    builder = trt.Builder(logger(trt))
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger(trt))
    if not parser.parse(graph.onnx):
        said = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise explained(doing, said or logger(trt).take_errors())
    config = builder.create_builder_config()
    config.progress_monitor = monitor = _monitor(trt, work)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace << 20)
    if graph.identity["precision"] == "float32":
        config.clear_flag(trt.BuilderFlag.TF32)  # has the range of float32, not its precision
    if library.rtx:
        config.num_compute_capabilities = len(target.capabilities)
        for i, capability in enumerate(target.capabilities):
            config.set_compute_capability(library.capabilities[capability], i)
    if sides is not None:
        profile = builder.create_optimization_profile()
        for name, tensor in graph.inputs.items():
            if None in tensor.shape:
                profile.set_shape(name, *sides.shapes(tensor.shape))
        config.add_optimization_profile(profile)
    with _timing_cache(library, config, timing):
        plan = builder.build_serialized_network(network, config)
    del monitor
    if plan is None:
        raise explained(doing, logger(trt).take_errors())
    return bytes(plan)


def _network_flags(trt: Any) -> int:
    """Types as the network has them; TensorRT 11 does so without being asked.

    (The explicit batch dimension is the only kind since TensorRT 10.)
    """
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


@contextmanager
def _timing_cache(library: TensorRt, config: Any, folder: Path) -> Iterator[None]:
    """Keep what the builder measured, for the next engine; TensorRT for RTX measures nothing."""
    if library.rtx:
        yield
        return
    path = folder / f"timing_{library.version}.cache"
    kept = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(kept)
    if cache is None or not config.set_timing_cache(cache, False):  # damaged, or of another GPU
        config.set_timing_cache(config.create_timing_cache(b""), False)
    yield
    with atomic_path(path) as written:
        written.write_bytes(bytes(config.get_timing_cache().serialize()))
