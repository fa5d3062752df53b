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

"""The choice among backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from aliked_ros.backends.admission import Refused
from aliked_ros.backends.base import Backend, Tell
from aliked_ros.backends.fallback import FallbackBackend
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError, ModelError
from aliked_ros.system.nvidia import GpuError, find_gpu

if TYPE_CHECKING:
    from aliked_ros.backends.gpu.backend import DeviceBackend
    from aliked_ros.backends.gpu.device import Device


def create_backend(config: FrontendConfig, progress: Tell | None = None) -> Backend:
    """The backend that ``config.backend`` asks for; BackendError if it cannot run here."""
    return _BACKENDS[config.backend](config, progress, f"asked for by backend: {config.backend}")


def _on_a_gpu(
    config: FrontendConfig,
    progress: Tell | None,
    name: str,
    make: Callable[[FrontendConfig, Tell | None, str], DeviceBackend],
    reason: str,
) -> Backend:
    """A GPU's backend, which ``make`` opens, with what may take over from it.

    reason: why it runs; empty: since all is there.
    """
    may_fall_back = config.backend == "auto" or config.allow_fallback

    def on_the_cpu(reason: str) -> Backend:
        # what was asked of a GPU's precision is not what the CPU should refuse
        precision = "auto" if config.precision == "float16" else config.precision
        return _cpu(replace(config, precision=precision), progress, reason)

    try:
        backend = make(config, progress, reason)
    except GpuError as error:
        if may_fall_back:
            return on_the_cpu(f"{name} cannot run here: {error.problem}")
        raise BackendError(
            f"backend is {config.backend!r}, which cannot run here: {error}"
        ) from error
    if not may_fall_back:
        return backend
    others = []
    if backend.precision != "float32":
        single = replace(config, precision="float32")
        others.append((f"{name} in float32", lambda why: make(single, progress, why)))
    if make is _tensorrt and torch_on_a_gpu():
        others.append(("PyTorch", lambda why: _torch(config, progress, why)))
    return _with_fallback(backend, name, others, on_the_cpu, progress or (lambda _: None))


def _with_fallback(
    backend: Backend,
    name: str,
    others: Sequence[tuple[str, Callable[[str], Backend]]],
    on_the_cpu: Callable[[str], Backend],
    tell: Tell,
) -> Backend:
    """A GPU's backend with what takes over from it.

    others: further ways to use the GPU, by name, tried where this one gives wrong results; each
    gets the reason, as ``on_the_cpu`` does.
    """

    def take_over(error: BackendError | ModelError) -> Backend:
        why = f"{name} failed: {error}"
        for i, (other, make) in enumerate(others if isinstance(error, Refused) else ()):
            with suppress(GpuError):
                return _with_fallback(make(why), other, others[i + 1 :], on_the_cpu, tell)
        return on_the_cpu(why)

    return FallbackBackend(backend, name, take_over, tell)


def open_device(backend: str) -> Device:
    """The GPU as "tensorrt" or "torch" uses it; BackendError where that cannot be."""
    if backend == "tensorrt":
        from aliked_ros.backends.gpu.tensorrt import TensorRtDevice

        return TensorRtDevice()
    from aliked_ros.backends.gpu.torch import TorchDevice

    return TorchDevice()


def _tensorrt(config: FrontendConfig, progress: Tell | None, reason: str) -> DeviceBackend:
    """TensorRT on this machine's GPU; GpuError where that cannot be.

    reason: why it runs; empty: since all is there.
    """
    from aliked_ros.backends.gpu.backend import DeviceBackend
    from aliked_ros.backends.gpu.tensorrt import TensorRtDevice

    device = TensorRtDevice(config.workspace)
    backend = DeviceBackend(config, device, progress)
    backend.identity["reason"] = reason or f"{device.gpu} and {device.library.name} are here"
    return backend


def _torch(config: FrontendConfig, progress: Tell | None, reason: str) -> DeviceBackend:
    """PyTorch on this machine's GPU; GpuError where that cannot be."""
    from aliked_ros.backends.gpu.backend import DeviceBackend

    backend = DeviceBackend(config, open_device("torch"), progress)
    backend.identity["reason"] = reason
    return backend


def torch_on_a_gpu() -> bool:
    """Whether PyTorch is here and can use a GPU."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def _torch_anywhere(config: FrontendConfig, progress: Tell | None, reason: str) -> Backend:
    """PyTorch on the GPU where it can use one, else on the CPU, as a reference to compare with."""
    if torch_on_a_gpu():
        return _on_a_gpu(config, progress, "PyTorch", _torch, reason)
    _refuse_float16(config)
    from aliked_ros.backends.torch import TorchBackend

    try:
        gpu = find_gpu()
    except GpuError:
        pass
    else:
        reason += f"; on the CPU, since this build of PyTorch cannot use the {gpu}"
    backend = TorchBackend(config)
    backend.identity["reason"] = reason
    return backend


def _cpu(config: FrontendConfig, progress: Tell | None, reason: str) -> Backend:
    _refuse_float16(config)
    from aliked_ros.backends.cpu.backend import CpuBackend

    backend = CpuBackend(config)
    backend.identity["reason"] = reason
    return backend


def _refuse_float16(config: FrontendConfig) -> None:
    if config.precision == "float16":
        raise BackendError(
            f"precision is 'float16', which only GPUs offer, and backend is {config.backend!r} on "
            "the CPU; set precision to 'auto'."
        )


_BACKENDS: dict[str, Callable[[FrontendConfig, Tell | None, str], Backend]] = {
    "auto": lambda config, progress, _: _on_a_gpu(config, progress, "TensorRT", _tensorrt, ""),
    "cpu": _cpu,
    "tensorrt": lambda config, progress, reason: _on_a_gpu(
        config, progress, "TensorRT", _tensorrt, reason
    ),
    "torch": _torch_anywhere,
}
"""What opens each backend of ``FrontendConfig.backend``, for a reason that it will report."""
