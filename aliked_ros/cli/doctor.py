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

"""What is installed here, what will run, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import AlikedError
from aliked_ros.models.registry import FETCH_COMMAND, MODELS, weights_dir, weights_path
from aliked_ros.system import transport
from aliked_ros.system.cache import cache_dir
from aliked_ros.system.cpu import cores, processor
from aliked_ros.system.middleware import MiddlewareError, require_middleware
from aliked_ros.system.nvidia import GpuError, find_gpu
from aliked_ros.system.packages import INSTALL, PACKAGES, install_name

OK, WARN, FAIL = "ok", "warn", "fail"

_LARGE_MESSAGE = 4 << 20  # bytes: a colour image of 1280×720, or 4096 float32 descriptors, fits
_RTX, _RTX_MODULES = "tensorrt-rtx-cu13", ("tensorrt_rtx", "tensorrt_rtx_bindings")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at.

    state: ``ok``; ``warn``: something is slower or absent, the rest works; ``fail``: the front-end
        cannot run.
    finding: what is there.
    remedy: what to do about it, empty when there is nothing to do.
    """

    name: str
    state: str
    finding: str
    remedy: str = ""


def examine(gpu: bool = False) -> list[Check]:
    """Look at everything; takes a few seconds, changes nothing, never raises for what is amiss.

    gpu: run the networks on the GPU too and compare; builds their engines where they are missing.
    """
    return [
        _python(),
        _cpu(),
        *_libraries(),
        *_ros(),
        _cache(),
        _weights(),
        _backend(),
        *_gpu(),
        *([_admission()] if gpu else []),
        _engines(),
        *_viewing(),
        _build_tools(),
        _large_messages(),
    ]


def _python() -> Check:
    return Check(
        "Python", OK, f"{platform.python_version()} ({sys.executable}), {platform.platform()}"
    )


def _cpu() -> Check:
    cpu = processor()
    extensions = " ".join(cpu.extensions) or "no known extension"
    finding = f"{cpu.name}, {cores()} cores, {extensions}"
    if platform.machine() == "x86_64" and "avx2" not in cpu.extensions:
        return Check("CPU", WARN, finding, "Without AVX2 the networks run many times slower.")
    return Check("CPU", OK, finding)


def _libraries() -> Iterator[Check]:
    for module, (distributions, purpose) in PACKAGES.items():
        name = module if module == "cv2" else install_name(module)
        version = _version(module, *distributions)
        if version is None and not purpose:
            yield Check(name, FAIL, "not installed", INSTALL)
        else:
            absent = f"not installed (only needed by {purpose}: pip install {name})"
            yield Check(name, OK, version or absent)
    openvino, onnxruntime = _version("openvino", "openvino"), _version("onnxruntime", "onnxruntime")
    if openvino:
        yield Check("openvino", OK, openvino)
    elif onnxruntime:
        yield Check("openvino", WARN, "not installed; ONNX Runtime is slower", INSTALL)
    else:
        yield Check("openvino", FAIL, "neither it nor ONNX Runtime is installed", INSTALL)
    yield Check("onnxruntime", OK, onnxruntime or "not installed (OpenVINO runs instead)")
    torch = _version("torch", "torch")
    absent = "not installed (only needed for training, and for backend: torch)"
    yield Check("torch", OK, torch or absent)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _version(module: str, *distributions: str) -> str | None:
    """Version of a module that can be found, without importing it; None when there is none."""
    if importlib.util.find_spec(module) is None:
        return None
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "installed, version unknown"


def _ros() -> Iterator[Check]:
    yield _rclpy()
    failure = _import_failure("aliked_msgs.msg")
    if failure:
        build = "For the node: build it with `colcon build` and source install/setup.bash, or run: "
        yield Check("aliked_msgs", WARN, f"cannot be imported ({failure})", build + "make setup")
    else:
        yield Check("aliked_msgs", OK, "can be imported")


def _rclpy() -> Check:
    try:
        require_middleware()
    except MiddlewareError as error:
        return Check("rclpy", WARN, error.problem, f"For the node: {error.remedy}")
    failure = _import_failure("rclpy")
    if failure:
        finding = f"cannot be imported ({failure}); the command line works without it"
        source = "source a ROS 2 (/opt/ros/DISTRO/setup.bash), or run: make setup"
        return Check("rclpy", WARN, finding, f"For the node: {source}")
    version = _version("rclpy", "ros-rclpy", "rclpy")
    middleware = os.environ.get("RMW_IMPLEMENTATION", "the default middleware")
    return Check("rclpy", OK, f"{version}, {middleware}")


def _import_failure(module: str) -> str:
    """Why a module cannot be imported; empty when it can. Tried in a child: rclpy may end it."""
    child = subprocess.run(
        [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False
    )
    if child.returncode == 0:
        return ""
    said = child.stderr.strip().splitlines()
    return said[-1] if said else f"exit status {child.returncode}"


def _cache() -> Check:
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check(
            "cache",
            WARN,
            f"{folder} cannot be written: {error.strerror}",
            "Set ALIKED_ROS_CACHE to a folder that can; what is there already can still be used.",
        )
    return Check("cache", OK, f"{folder}, {shutil.disk_usage(folder).free / 1e9:.1f} GB free")


def _weights() -> Check:
    problems = []
    for name in MODELS:
        try:
            weights_path(name)
        except AlikedError as error:
            problems.append(str(error))
    if not problems:
        return Check("weights", OK, f"all {len(MODELS)} as published ({weights_dir()})")
    found = f"{len(MODELS) - len(problems)} of {len(MODELS)} as published. {problems[0]}"
    return Check("weights", FAIL, found, f"Run: {FETCH_COMMAND}")


def _backend() -> Check:
    from aliked_ros.backends.create import create_backend

    try:
        backend = create_backend(FrontendConfig())
    except (AlikedError, ImportError) as error:
        return Check("backend", FAIL, str(error), INSTALL)
    try:
        finding = f"{backend.description} (backend: auto, precision: auto)"
        return Check("backend", OK, f"{finding}. {_sentence(backend.identity['reason'])}")
    finally:
        backend.close()


def _gpu() -> Iterator[Check]:
    """The GPU and what is needed to compute on it; nothing of it is needed by the CPU backend."""
    tensorrt = _version("tensorrt", "tensorrt")
    rtx = next(filter(None, (_version(m, f"{_RTX}-bindings", m) for m in _RTX_MODULES)), None)
    installed = f"TensorRT for RTX {rtx}" if rtx else "TensorRT is not installed"
    yield Check("TensorRT", OK, f"TensorRT {tensorrt}" if tensorrt else installed)
    yield Check("pycuda", OK, _version("pycuda", "pycuda") or "not installed (for TensorRT only)")
    try:
        gpu = find_gpu()
    except GpuError as error:
        yield Check("GPU", OK, f"{error.problem}; the networks run on the CPU")
        return
    from aliked_ros.backends.create import torch_on_a_gpu

    try:
        from aliked_ros.backends.gpu.tensorrt import TensorRtDevice

        device = TensorRtDevice()
    except GpuError as error:
        finding = f"{gpu}, not used: {error.problem}"
        remedy = f"For backend: tensorrt: {error.remedy}."
        if torch_on_a_gpu():
            remedy += " Or set backend to 'torch': PyTorch can use this GPU."
        yield Check("GPU", WARN, finding, remedy)
    else:
        yield Check("GPU", OK, f"{gpu}, used by {device.library.name}")


def _admission() -> Check:
    """The networks' results on the GPU against the CPU's, at 640x480."""
    from aliked_ros.backends.create import create_backend, torch_on_a_gpu

    failures: list[str] = []
    for name in ("tensorrt", *(["torch"] if torch_on_a_gpu() else [])):
        try:
            config = FrontendConfig(backend=name, image_size="640x480")
            with closing(create_backend(config)) as backend:
                backend.load_matcher()
                backend.load_extractor(config.model)
                finding = f"{backend.description}: {backend.identity['engine']}"
                return Check(
                    "GPU results", WARN if failures else OK, "; ".join([*failures, finding])
                )
        except (AlikedError, ImportError) as error:
            failures.append(f"{name}: {error}")
    return Check("GPU results", WARN, "; ".join(failures), "backend: auto runs on the CPU.")


def _engines() -> Check:
    """TensorRT engines in the cache."""
    from aliked_ros.backends.gpu.engines import engines, engines_dir

    found = engines()
    refused = [f"{name} ({state})" for name, state in found.items() if state.startswith("refused")]
    if refused:
        remedy = f"They are rebuilt when needed; or remove them from {engines_dir()}."
        return Check("engines", WARN, "; ".join(refused), remedy)
    if not found:
        return Check("engines", OK, "none in the cache (they are built at first use of TensorRT)")
    listed = "; ".join(f"{name} ({state})" for name, state in found.items())
    return Check("engines", OK, listed)


def _viewing() -> Iterator[Check]:
    """What page and report need; nothing of it is needed by the front-end."""
    for name, module, distribution, command in (
        ("rerun", "rerun", "rerun-sdk", "view"),
        ("Plotly", "plotly", "plotly", "report"),
    ):
        absent = f"not installed (only needed by aliked_ros {command}: make setup GROUP=view)"
        yield Check(name, OK, _version(module, distribution) or absent)


def _build_tools() -> Check:
    tools = {"C++ compiler": ("c++", "g++", "clang++"), "CMake": ("cmake",)}
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    missing = [
        what
        for what, commands in tools.items()
        if not any(shutil.which(command, path=beside) for command in commands)
    ]
    if missing:
        return Check(
            "build tools",
            WARN,
            f"no {' and no '.join(missing)}; needed to build aliked_msgs only",
            "Debian, Ubuntu: apt install build-essential cmake",
        )
    return Check("build tools", OK, " and ".join(tools))


def _large_messages() -> Check:
    """Whether Fast DDS has a shared memory segment that large messages fit into."""
    name = "large messages"
    if "fastrtps" not in transport.middleware():
        return Check(name, OK, f"{transport.middleware()}: no Fast DDS profile needed")
    remedy = (
        "Best-effort messages above 512 KiB get lost; in the shell of every node: "
        f"{transport.profile_command()} (the launch file and the demo do so by themselves)."
    )
    file = transport.profile()
    if file is None:
        return Check(name, WARN, "no Fast DDS profile set, segment of 512 KiB", remedy)
    try:
        size = transport.segment_size(file)
    except (OSError, ValueError) as error:
        return Check(name, WARN, f"the Fast DDS profile {file} cannot be read: {error}", remedy)
    if size < _LARGE_MESSAGE:
        return Check(name, WARN, f"{file} sets no segment_size of {_LARGE_MESSAGE} or more", remedy)
    return Check(name, OK, f"segment of {size / (1 << 20):.0f} MiB ({file})")
