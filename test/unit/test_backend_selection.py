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

"""Which backend runs, why, and what happens where the one asked for cannot.

There is no GPU here; drivers of all kinds are played by small libraries that answer as NVIDIA's
does, loaded in its place.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aliked_ros.backends.base import create_backend
from aliked_ros.backends.cpu.backend import CpuBackend
from aliked_ros.backends.fallback import FallbackBackend
from aliked_ros.backends.gpu.backend import DeviceBackend
from aliked_ros.backends.gpu.tensorrt import TensorRtDevice
from aliked_ros.backends.gpu.tensorrt_library import check_gpu, choose_target, load_tensorrt
from aliked_ros.cli.doctor import OK, WARN, examine
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError, ConfigurationError
from aliked_ros.system import nvidia as gpu
from aliked_ros.system.nvidia import Gpu, GpuError, find_gpu
from helpers.device import start_with_graphs

NO_DRIVER = r"there is no NVIDIA driver here \("
DRIVER = """
#include <string.h>
#include <stddef.h>
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *v) { *v = CUDA; return 0; }
int cuDeviceGetCount(int *n) { *n = COUNT; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return 0; }
int cuDeviceGetName(char *name, int length, int d) { strcpy(name, "NVIDIA Example"); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) {
    *v = a == 16 ? 46 : a == 75 ? MAJOR : MINOR;
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int d) { *bytes = 8ul << 30; return 0; }
int cuGetErrorString(int code, const char **text) { *text = "some reason"; return 0; }
"""
COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a driver in the place of NVIDIA's: what it answers, by name."""
    if COMPILER is None:
        pytest.skip("no C compiler")

    def install(**answers: int) -> None:
        answers = {"INIT": 0, "CUDA": 13010, "COUNT": 1, "MAJOR": 8, "MINOR": 9} | answers
        (tmp_path / "driver.c").write_text(DRIVER)
        library = tmp_path / "libcuda.so.1"
        defines = [f"-D{name}={value}" for name, value in answers.items()]
        command = [COMPILER, "-shared", "-fPIC", *defines, tmp_path / "driver.c", "-o", library]
        subprocess.run(command, check=True)
        monkeypatch.setattr(gpu, "_DRIVER", str(library))

    return install


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pycuda that can be imported; nothing of it is called before something is loaded."""
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    (tmp_path / "pycuda" / "driver.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, module, raising=False)


@pytest.fixture(autouse=True)
def no_gpu() -> None:
    try:
        find_gpu()
    except GpuError:
        return
    pytest.skip("there is a GPU here; these tests are for machines without")


def doctor_says(name: str) -> str:
    (check,) = (check for check in examine() if check.name == name)
    return f"{check.state}: {check.finding}"


# Asking the driver


def test_a_gpu_is_described(driver: Callable[..., None]) -> None:
    driver(CUDA=12040)
    found = find_gpu()
    assert found == Gpu("NVIDIA Example", (8, 9), (12, 4), 8 << 30, 46)
    assert found.model == "NVIDIA Example (46 multiprocessors, 8 GiB)"
    assert str(found) == "NVIDIA Example (compute capability 8.9, driver for CUDA 12.4)"


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"INIT": 100}, r"the NVIDIA driver shows no GPU.*CUDA_VISIBLE_DEVICES"),
        ({"COUNT": 0}, r"the NVIDIA driver shows no GPU.*CUDA_VISIBLE_DEVICES"),
        ({"INIT": 803}, r"does not work \(cuInit: CUDA error 803, some reason\); run nvidia-smi"),
    ],
)
def test_a_driver_that_is_amiss_is_told(
    driver: Callable[..., None], answers: dict[str, int], said: str
) -> None:
    driver(**answers)
    with pytest.raises(GpuError, match=said):
        find_gpu()


def test_without_a_driver_the_error_says_what_to_install() -> None:
    with pytest.raises(GpuError, match=NO_DRIVER + r".*libcuda\.so\.1.*; install NVIDIA's driver"):
        find_gpu()


def test_a_library_that_is_no_driver_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if COMPILER is None:
        pytest.skip("no C compiler")
    library = tmp_path / "libcuda.so.1"
    (tmp_path / "empty.c").write_text("int cuInit(unsigned flags) { return 0; }")
    command = [COMPILER, "-shared", "-fPIC", tmp_path / "empty.c", "-o", library]
    subprocess.run(command, check=True)
    monkeypatch.setattr(gpu, "_DRIVER", str(library))
    with pytest.raises(GpuError, match=r"too old \(.*has no cuDeviceGetCount\); update the driver"):
        find_gpu()


# GPU and TensorRT together


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"CUDA": 12080}, r"driver is too old: it runs CUDA 12\.8, TensorRT.* CUDA 13; update"),
        ({"MAJOR": 9, "MINOR": 0}, r"does not build for compute capability 9\.0; it does for 7\.5"),
        ({}, r"pycuda cannot be imported .*; pip install pycuda"),
    ],
)
def test_tensorrt_says_what_is_missing(
    driver: Callable[..., None], answers: dict[str, int], said: str
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    driver(**answers)
    with pytest.raises(GpuError, match=said):
        TensorRtDevice()
    backend = create_backend(FrontendConfig())  # auto
    assert isinstance(backend, CpuBackend)
    assert backend.identity["reason"].startswith("TensorRT cannot run here: ")
    backend.close()
    assert doctor_says("GPU").startswith(f"{WARN}: NVIDIA Example (compute capability")
    assert "not used: " in doctor_says("GPU")


def test_auto_takes_tensorrt_where_all_is_there(driver: Callable[..., None], pycuda: None) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    driver()
    library = load_tensorrt()
    check_gpu(library, find_gpu())
    backend = create_backend(FrontendConfig())
    assert isinstance(backend, FallbackBackend)
    assert isinstance(backend.backend, DeviceBackend)
    assert backend.description == f"tensorrt: {library.name} on NVIDIA Example, float16"
    assert backend.identity["reason"] == (
        f"NVIDIA Example (compute capability 8.9, driver for CUDA 13.1) and {library.name} are here"
    )
    asked = create_backend(FrontendConfig(backend="tensorrt", precision="float32"))
    assert isinstance(asked, DeviceBackend)
    assert asked.identity["reason"] == "asked for by backend: tensorrt"
    assert asked.identity["precision"] == "float32"
    target = choose_target()
    assert (target.capabilities, target.gpu, target.cuda) == (("8.9",), find_gpu().model, "13.1")
    assert doctor_says("GPU") == f"{OK}: {find_gpu()}, used by {library.name}"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_keypoints": 5000}, "max_keypoints is 5000, and backend 'tensorrt' finds 2 to 3840"),
        ({"max_keypoints": 1}, "max_keypoints is 1, and backend 'tensorrt' finds 2 to 3840"),
        ({"precision": "bfloat16"}, "precision is 'bfloat16', which is the CPU's"),
    ],
)
def test_settings_that_only_the_cpu_can_follow(
    driver: Callable[..., None], pycuda: None, settings: dict[str, object], reason: str
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    driver()
    with pytest.raises(BackendError, match=f"backend is 'tensorrt', .*{reason}; "):
        create_backend(FrontendConfig(backend="tensorrt", **settings))
    on_the_cpu = CpuBackend(FrontendConfig())
    on_the_cpu.close()
    if settings.get("precision") not in (None, on_the_cpu.identity["precision"]):
        pytest.skip("this CPU has no bfloat16 either")
    backend = create_backend(FrontendConfig(**settings))
    assert backend.identity["reason"] == f"TensorRT cannot run here: {reason}"
    backend.close()


def test_a_gpu_that_fails_at_the_first_image_is_left_for_the_cpu(
    driver: Callable[..., None],
    pycuda: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pycuda that can do nothing is like one whose GPU is lost."""
    pytest.importorskip("tensorrt_rtx_bindings")
    (tmp_path / "cache").mkdir()
    start_with_graphs(tmp_path / "cache", monkeypatch)
    driver()
    said: list[str] = []
    backend = create_backend(FrontendConfig(matcher="nearest", model="aliked-t16"), said.append)
    network = backend.load_extractor("aliked-t16")
    noise = np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8)
    assert len(network.extract(noise, None, 50, 0.0, 0)[0]) > 10
    assert backend.description.startswith("cpu: ")
    assert backend.identity["backend"] == "cpu"
    assert backend.identity["engine"] == ""
    assert backend.identity["reason"].startswith("TensorRT failed: ")
    assert any(line.startswith("TensorRT failed, going on on the CPU: ") for line in said)
    backend.close()


def test_pytorch_that_cannot_use_its_gpu_is_refused_or_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch's build for CPUs, made to say that it found a GPU: all that it does there fails."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    problem = r"PyTorch .* cannot use the GPU \(.*\)"
    with pytest.raises(BackendError, match=f"backend is 'torch', which .* {problem}; run nvidia"):
        create_backend(FrontendConfig(backend="torch"))
    config = FrontendConfig(backend="torch", allow_fallback=True, matcher="nearest")
    backend = create_backend(config)
    assert isinstance(backend, CpuBackend)
    assert backend.identity["reason"].startswith("PyTorch cannot run here: PyTorch ")
    backend.close()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "NVIDIA Example")
    backend = create_backend(config)
    assert backend.description.startswith("torch: PyTorch ")
    assert backend.description.endswith(" on NVIDIA Example, float16")
    network = backend.load_extractor("aliked-n16")
    noise = np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8)
    assert len(network.extract(noise, None, 50, 0.0, 0)[0]) > 10
    assert backend.identity["backend"] == "cpu"
    assert backend.identity["reason"].startswith("PyTorch failed: ")
    backend.close()


# Without a GPU


def test_auto_takes_the_cpu_and_says_why() -> None:
    backend = create_backend(FrontendConfig())
    assert isinstance(backend, CpuBackend)
    assert backend.identity["reason"].startswith("TensorRT cannot run here: there is no NVIDIA")
    backend.close()
    assert "TensorRT cannot run here: there is no NVIDIA driver" in doctor_says("backend")


@pytest.mark.parametrize("name", ["cpu", "torch"])
def test_what_was_asked_for_is_the_reason(name: str) -> None:
    backend = create_backend(FrontendConfig(backend=name))
    assert backend.identity["reason"] == f"asked for by backend: {name}"
    with pytest.raises(BackendError, match=r"precision is 'float16', .* set precision to 'auto'"):
        create_backend(FrontendConfig(backend=name, precision="float16"))
    backend.close()


def test_tensorrt_without_a_gpu_is_refused_or_replaced() -> None:
    with pytest.raises(BackendError, match="backend is 'tensorrt', which cannot.*" + NO_DRIVER):
        create_backend(FrontendConfig(backend="tensorrt"))
    config = FrontendConfig(backend="tensorrt", allow_fallback=True, precision="float16")
    backend = create_backend(config)
    assert isinstance(backend, CpuBackend)
    assert "there is no NVIDIA driver here" in backend.identity["reason"]
    backend.close()


@pytest.mark.parametrize("size", ["640", "640x", "640x480x3", "640x480 blue", "-1x4"])
def test_a_bad_image_size_is_refused(size: str) -> None:
    with pytest.raises(ConfigurationError, match="write it as 640x480"):
        FrontendConfig(image_size=size)
    for good in ("640x480", "640×480 grey"):
        FrontendConfig(image_size=good)


# A device that fails while working


def test_cameras_that_fail_at_once_fall_back_once() -> None:
    """One loads its network while the other's computes, and the GPU is lost to both."""
    both = threading.Barrier(2, timeout=60)

    class Lost:
        description, identity = "first", {"backend": "first"}

        def load_extractor(self, model: str) -> None:
            both.wait()
            raise BackendError("loading failed: the GPU was lost; restart.")

        def close(self) -> None: ...

    class Second:
        description, identity = "second", {"backend": "second"}

        def load_extractor(self, model: str) -> object:
            return SimpleNamespace()

    made: list[str] = []
    backend = FallbackBackend(Lost(), "A", lambda why: made.append(why) or Second(), print)
    loaded: list[object] = []

    def camera() -> None:
        with suppress(BackendError):
            loaded.append(backend.load_extractor("aliked-n16"))

    threads = [threading.Thread(target=camera) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(loaded)) == (1, 2)
    assert backend.identity["backend"] == "second"
