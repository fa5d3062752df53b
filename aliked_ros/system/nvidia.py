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

"""The machine's NVIDIA GPU, from its driver's library, and the meaning of GPU errors."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aliked_ros.errors import BackendError

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_PROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_DRIVER = "libcuda.so.1"


IN_USE = threading.RLock()
"""Hold it while using the GPU or allocating its memory in this process, with any library.

While one thread records a CUDA graph, another must not wait for the whole device, as loading does:
the recording would become invalid.
"""


class GpuError(BackendError):
    """The GPU cannot be used: it, or something that it needs, is missing.

    problem, remedy: the two halves of its text.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}.")
        self.problem, self.remedy = problem, remedy


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first NVIDIA GPU, which is the one used.

    compute_capability: e.g. (8, 9).
    cuda: the newest CUDA version that the driver supports, e.g. (13, 0).
    memory: total bytes.
    processors: multiprocessors.
    """

    name: str
    compute_capability: tuple[int, int]
    cuda: tuple[int, int]
    memory: int
    processors: int = 0

    @property
    def model(self) -> str:
        """What engines are tuned for; the name alone is ambiguous ("Orin", or a MIG part)."""
        size = f"{self.memory / (1 << 30):.0f} GiB"
        return f"{self.name} ({self.processors} multiprocessors, {size})"

    @property
    def capability(self) -> str:
        """The compute capability as text, e.g. 8.9."""
        return "{}.{}".format(*self.compute_capability)

    def __str__(self) -> str:
        cuda = "{}.{}".format(*self.cuda)
        return f"{self.name} (compute capability {self.capability}, driver for CUDA {cuda})"


def load_driver() -> ctypes.CDLL:
    """The driver's library; GpuError if there is none."""
    try:
        return ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise GpuError(
            f"there is no NVIDIA driver here ({error})",
            "install NVIDIA's driver, in a container its container toolkit too",
        ) from error


def find_gpu() -> Gpu:
    """Query the driver; GpuError if it is missing, does not start, or shows no GPU."""
    ask = _Asking(load_driver())
    ask("cuInit", 0)
    count = ask.number("cuDeviceGetCount")
    if count == 0:
        raise GpuError("the NVIDIA driver shows no GPU", "check CUDA_VISIBLE_DEVICES")
    version = ask.number("cuDriverGetVersion")
    device = ask.number("cuDeviceGet", 0)
    name = ctypes.create_string_buffer(256)
    ask("cuDeviceGetName", name, len(name), device)
    memory = ctypes.c_size_t()
    ask("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    return Gpu(
        name.value.decode(errors="replace"),
        (
            ask.number("cuDeviceGetAttribute", _MAJOR, device),
            ask.number("cuDeviceGetAttribute", _MINOR, device),
        ),
        (version // 1000, version % 1000 // 10),
        memory.value,
        ask.number("cuDeviceGetAttribute", _PROCESSORS, device),
    )


@dataclass(frozen=True, slots=True)
class _Asking:
    """Calls the driver; raises GpuError for its error codes."""

    driver: ctypes.CDLL

    def __call__(self, function: str, *arguments: object) -> None:
        try:
            call: Callable[..., int] = getattr(self.driver, function)
        except AttributeError as error:
            raise GpuError(
                f"the NVIDIA driver is too old ({_DRIVER} has no {function})", "update the driver"
            ) from error
        code = call(*arguments)
        if code == _NO_DEVICE:
            raise GpuError(
                "the NVIDIA driver shows no GPU (CUDA error 100)", "check CUDA_VISIBLE_DEVICES"
            )
        if code != 0:
            raise GpuError(
                f"the NVIDIA driver does not work ({function}: CUDA error {code}, "
                f"{error_text(self.driver, code)})",
                "run nvidia-smi; after an update of the driver, restart the machine",
            )

    def number(self, function: str, *arguments: object) -> int:
        """The int that a function writes to its first argument."""
        value = ctypes.c_int()
        self(function, ctypes.byref(value), *arguments)
        return value.value


def error_text(driver: ctypes.CDLL, code: int) -> str:
    """What the driver says of one of its error codes."""
    text = ctypes.c_char_p()
    try:
        driver.cuGetErrorString(code, ctypes.byref(text))
    except AttributeError:
        return "no explanation"
    return (text.value or b"no explanation").decode(errors="replace")


_EXPLANATIONS = (
    (
        (
            "out of memory", "outofmemory", "insufficient gpu memory", "memoryerror", "bad_alloc",
            "status_alloc_failed",
        ),
        "the GPU's memory is full",
        "close other programs that use it (nvidia-smi lists them), or lower max_keypoints",
    ),
    (
        ("driver version is insufficient", "old_cuda_driver", "unsupported toolchain"),
        "the NVIDIA driver is too old",
        "update the driver",
    ),
    (
        ("busy or unavailable", "device_unavailable"),
        "the GPU serves another process alone, or is lost",
        "run nvidia-smi; compute mode must be Default (nvidia-smi -c 0)",
    ),
    (
        (
            "unspecified launch failure", "illegal memory access", "illegal address", "device lost",
            "misaligned address", "uncorrectable ecc", "unknown error",
            "no cuda-capable device", "context is destroyed", "context_is_destroyed",
            "device-side assert", "launch timed out", "launch_failed", "launch_timeout",
            "hardware stack error",
        ),
        "the GPU was lost",
        "run nvidia-smi; restart the node, perhaps the machine",
    ),
    (
        ("buildcanceled", "cancelled by user", "canceled by user"),
        "the build was interrupted",
        "start it again",
    ),
)  # fmt: skip


def explained(doing: str, said: Sequence[str] | BaseException) -> BackendError:
    """An error with cause and remedy, from the messages of the GPU's libraries."""
    if isinstance(said, BaseException):
        said = [f"{type(said).__name__}: {said}"]
    text = " ".join(said).lower()
    first = " ".join((said[0] if said else "it gave no reason").split()).rstrip(".")[:300]
    for signs, cause, remedy in _EXPLANATIONS:
        if any(sign in text for sign in signs):
            return BackendError(f"{doing} failed: {cause} ({first}); {remedy}.")
    return BackendError(f"{doing} failed: {first}; set backend to 'cpu' to continue without it.")
