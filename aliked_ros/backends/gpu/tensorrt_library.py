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

"""TensorRT, or TensorRT for RTX where only that is installed: one module, whichever it is."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import re
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from aliked_ros.system.nvidia import Gpu, GpuError, find_gpu

_LOGGING = threading.Lock()
OLDEST = (10, 3)  # JetPack 6.1's
WORKSPACE = 1024
"""MiB of the GPU's memory that a layer may take while it works; TensorRT's own limit is all."""
_RTX_LIBRARIES = ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1")
_INSTALL = (
    "install TensorRT 10.3 or newer (JetPack 6.1 and newer have it, elsewhere NVIDIA's packages), "
    "or pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings"
)


@dataclass(frozen=True, slots=True)
class TensorRt:
    """The installed library.

    rtx: TensorRT for RTX: builds without a GPU too, for the compute capabilities of its list,
        and finishes the engine on the GPU that runs it.
    cuda: the CUDA it was made for (major number), None where that cannot be told.
    module: its Python bindings.
    """

    rtx: bool
    version: str
    cuda: int | None
    module: Any

    @property
    def name(self) -> str:
        """With the version, for people."""
        return f"TensorRT {'for RTX ' if self.rtx else ''}{self.version}"

    @property
    def capabilities(self) -> dict[str, Any]:
        """TensorRT for RTX: the compute capabilities it builds for, and its names of them."""
        members = self.module.ComputeCapability.__members__
        found = {name: re.fullmatch(r"SM(\d+)(\d)", name) for name in members}
        return {f"{m[1]}.{m[2]}": members[name] for name, m in found.items() if m}


@dataclass(frozen=True, slots=True)
class Target:
    """What engines are built by and for.

    capabilities: compute capabilities of the GPUs, e.g. ("8.9",).
    gpu, cuda: model of the GPU in this machine and CUDA of its driver; empty when there is none.
    workspace: MiB of the GPU's memory that a layer may take while it works.
    """

    library: TensorRt
    capabilities: tuple[str, ...]
    gpu: str = ""
    cuda: str = ""
    workspace: int = WORKSPACE

    @property
    def facts(self) -> dict[str, Any]:
        """For an engine's JSON."""
        return {
            "tensorrt": self.library.name,
            "cuda": self.cuda,
            "gpu": self.gpu,
            "compute_capabilities": list(self.capabilities),
            "workspace": self.workspace,
        }


def load_tensorrt() -> TensorRt:
    """Import TensorRT, else TensorRT for RTX; GpuError where neither is there, or it is too old."""
    failures = []
    for name, rtx in (("tensorrt", False), ("tensorrt_rtx", True), ("tensorrt_rtx_bindings", True)):
        try:
            if rtx:
                _preload()
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:
            failures.append(str(error))
            continue
        version = str(module.__version__)
        numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
        if not rtx and numbers < OLDEST:
            raise GpuError(f"TensorRT {version} is too old", _INSTALL)
        return TensorRt(rtx, version, _cuda_of(name, version), module)
    raise GpuError(f"TensorRT is not installed ({'; '.join(failures)})", _INSTALL)


def check_gpu(library: TensorRt, gpu: Gpu) -> None:
    """GpuError when this GPU or its driver is too old for this library, or not in its list."""
    if library.cuda is not None and gpu.cuda[0] < library.cuda:
        raise GpuError(
            f"the NVIDIA driver is too old: it runs CUDA {gpu.cuda[0]}.{gpu.cuda[1]}, "
            f"{library.name} is made for CUDA {library.cuda}",
            "update the driver",
        )
    if library.rtx:
        check_capability(library, gpu.capability)


def check_capability(library: TensorRt, capability: str) -> None:
    """GpuError for a compute capability that TensorRT for RTX does not build for."""
    if capability not in library.capabilities:
        raise GpuError(
            f"{library.name} does not build for compute capability {capability}",
            f"it does for {', '.join(library.capabilities)}; for another one install TensorRT "
            "itself on the machine with that GPU",
        )


def _preload() -> None:
    """Load the wheel's libraries in the order of their dependence; the loader finds them then."""
    package = importlib.util.find_spec("tensorrt_rtx_libs")
    for folder in (package and package.submodule_search_locations) or ():
        for library in _RTX_LIBRARIES:
            with suppress(OSError):  # the import says what is wrong
                ctypes.CDLL(str(Path(folder) / library), ctypes.RTLD_GLOBAL)


def _cuda_of(module: str, version: str = "") -> int | None:
    """From the name of the wheel, e.g. tensorrt-rtx-cu13-bindings; other packages do not tell.

    Of several wheels, which overwrite each other's files: the one of the module's version, the
    newest CUDA where that is several's.
    """
    stem = "tensorrt-rtx-cu{}-bindings" if "rtx" in module else "tensorrt-cu{}"
    found = {}
    for major in range(11, 16):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[major] = importlib.metadata.version(stem.format(major))
    return max([m for m, v in found.items() if v == version] or found, default=None)


def target_here(library: TensorRt, gpu: Gpu, workspace: int = WORKSPACE) -> Target:
    """The GPU of this machine; GpuError where the library cannot build for it."""
    check_gpu(library, gpu)
    cuda = "{}.{}".format(*gpu.cuda)
    return Target(library, (gpu.capability,), gpu.model, cuda, workspace)


def choose_target(capabilities: Sequence[str] = (), workspace: int = WORKSPACE) -> Target:
    """GPUs of the named compute capabilities, which need not be here; none named: this machine's.

    Raises GpuError where the installed library cannot build for them.
    """
    library = load_tensorrt()
    if not capabilities:
        try:
            return target_here(library, find_gpu(), workspace)
        except GpuError as error:
            if not library.rtx:
                raise
            raise GpuError(
                f"no compute capability is named, and of this machine's none can be taken: "
                f"{error.problem}",
                "name the one of the GPU that is to run it, e.g. --compute-capability 8.9 "
                f"({library.name} knows {', '.join(library.capabilities)})",
            ) from error
    if library.rtx:
        for capability in capabilities:
            check_capability(library, capability)
        return Target(library, tuple(dict.fromkeys(capabilities)), workspace=workspace)
    target = target_here(library, find_gpu(), workspace)
    if list(capabilities) != list(target.capabilities):
        raise GpuError(
            f"{library.name} builds for the GPU in this machine only, of compute capability "
            f"{target.capabilities[0]}, not for {', '.join(capabilities)}",
            "build on the machine that is to run it",
        )
    return target


def logger(trt: Any) -> Any:
    """TensorRT's logger, the only one of the process.

    TensorRT keeps a pointer to the first logger that it was given, and uses it for objects that
    were made with others, also after it is gone.
    """
    with _LOGGING:  # lru_cache may let two threads make one each
        return _logger(trt)


@lru_cache
def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=16)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self._errors.appendleft(message)

        def take_errors(self) -> list[str]:
            """Those since the last call, the last first."""
            errors = list(self._errors)
            self._errors.clear()
            return errors

    return Logger()
