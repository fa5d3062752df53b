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

"""Which NVIDIA GPU this machine has, asked of its driver's library, and what its errors mean."""

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
"""Held by who gives the GPU work or takes its memory, in this process, by whichever library.

While a CUDA graph is recorded in one thread, another one may not wait for the whole device, which
loading does: the record would be invalid.
"""


class GpuError(BackendError):
    """Why nothing can be computed on a GPU: it, or something that is needed, is not there.

    problem, remedy: the two halves of its text.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}.")
        self.problem, self.remedy = problem, remedy


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first NVIDIA GPU, the one that is used.

    compute_capability: of the device, e.g. (8, 9).
    cuda: the newest CUDA that the driver can run, e.g. (13, 0).
    memory: bytes in all.
    processors: multiprocessors.
    """

    name: str
    compute_capability: tuple[int, int]
    cuda: tuple[int, int]
    memory: int
    processors: int = 0

    @property
    def model(self) -> str:
        """What its engines are tuned for: the name alone is that of several ("Orin", or a part)."""
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
    """The driver's library; GpuError where there is none."""
    try:
        return ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise GpuError(
            f"there is no NVIDIA driver here ({error})",
            "install NVIDIA's driver, in a container its container toolkit too",
        ) from error


def find_gpu() -> Gpu:
    """Ask the driver; GpuError where there is none, it does not start, or it shows no GPU."""
    ask = _Asking(load_driver())
    ask("cuInit", 0)
    count = ask.number("cuDeviceGetCount")
    if count == 0:
        raise GpuError("the NVIDIA driver shows no GPU", "look at CUDA_VISIBLE_DEVICES")
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
    """Calls the driver and raises GpuError for what it answers in place of an answer."""

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
                "the NVIDIA driver shows no GPU (CUDA error 100)", "look at CUDA_VISIBLE_DEVICES"
            )
        if code != 0:
            raise GpuError(
                f"the NVIDIA driver does not work ({function}: CUDA error {code}, "
                f"{self._explained(code)})",
                "run nvidia-smi; after an update of the driver, restart the machine",
            )

    def number(self, function: str, *arguments: object) -> int:
        """What a function writes into the int that its first argument points to."""
        value = ctypes.c_int()
        self(function, ctypes.byref(value), *arguments)
        return value.value

    def _explained(self, code: int) -> str:
        text = ctypes.c_char_p()
        try:
            self.driver.cuGetErrorString(code, ctypes.byref(text))
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
        (
            "unspecified launch failure", "illegal memory access", "illegal address", "device lost",
            "busy or unavailable", "misaligned address", "uncorrectable ecc", "unknown error",
            "no cuda-capable device", "context is destroyed", "context_is_destroyed",
            "device-side assert", "launch timed out", "launch_failed", "launch_timeout",
            "hardware stack error",
        ),
        "the GPU was lost",
        "run nvidia-smi; the node needs to be started again, perhaps the machine",
    ),
    (
        ("buildcanceled", "cancelled by user", "canceled by user"),
        "the build was interrupted",
        "start it again",
    ),
)  # fmt: skip


def explained(doing: str, said: Sequence[str] | BaseException) -> BackendError:
    """What the GPU's libraries say, as an error that names the cause and the remedy."""
    if isinstance(said, BaseException):
        said = [f"{type(said).__name__}: {said}"]
    text = " ".join(said).lower()
    first = " ".join((said[0] if said else "it gave no reason").split()).rstrip(".")[:300]
    for signs, cause, remedy in _EXPLANATIONS:
        if any(sign in text for sign in signs):
            return BackendError(f"{doing} failed: {cause} ({first}); {remedy}.")
    return BackendError(f"{doing} failed: {first}; set backend to 'cpu' to go on without it.")
