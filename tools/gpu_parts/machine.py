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

"""What is on the machine."""

from __future__ import annotations

import importlib
import os
import platform

from gpu_parts import Run

PACKAGES = (
    "torch", "triton", "numpy", "cv2", "scipy", "numba", "onnxruntime", "onnx", "yaml", "cupy",
    "pycuda.driver", "tensorrt", "tensorrt_rtx",
)  # fmt: skip


def versions(run: Run) -> None:
    """The GPU, its driver and the packages; ``gpu`` is null where there is none."""
    from aliked_ros.system.nvidia import GpuError, find_gpu

    try:
        gpu: str | None = str(find_gpu())
    except GpuError as error:
        gpu = None
        print(error)
    found = {}
    for name in PACKAGES:
        try:
            found[name] = str(getattr(importlib.import_module(name), "__version__", "here"))
        except Exception as error:  # a package that is broken raises anything
            found[name] = f"{type(error).__name__}: {error}"[:200]
    run.report(
        gpu=gpu, python=platform.python_version(), packages=found, cores=os.cpu_count(),
        bundle={name: run.bundle.facts[name] for name in ("commit", "date")},
    )  # fmt: skip
