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

"""Every call of TensorRT's Python bindings, against what the bindings of each version take.

SIGNATURES was read off the sources of the bindings, github.com/NVIDIA/TensorRT, tags v10.3.0 and
v11.1: python/src/infer/pyCore.cpp, python/src/parsers/pyOnnx.cpp. What only TensorRT for RTX has
was read off the wheel tensorrt-rtx-cu13-bindings 1.7.1.116, which the second test asks itself.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from aliked_ros.backends.gpu import engine_builder, tensorrt, tensorrt_library
from aliked_ros.backends.gpu.tensorrt_library import load_tensorrt
from aliked_ros.errors import BackendError
from helpers import ROOT

# class: name: parameters ("=" marks those with a default); None: an attribute
BOTH: dict[str, dict[str, tuple[str, ...] | None]] = {
    "module": {
        "Builder": ("logger",),
        "OnnxParser": ("network", "logger"),
        "Runtime": ("logger",),
        "ILogger": None,
        "IProgressMonitor": None,
        "MemoryPoolType": None,
        "BuilderFlag": None,
        "NetworkDefinitionCreationFlag": None,
        "__version__": None,
    },
    "Builder": {
        "create_network": ("flags=",),
        "create_builder_config": (),
        "create_optimization_profile": (),
        "build_serialized_network": ("network", "config"),
    },
    "OnnxParser": {
        "parse": ("model", "path="),
        "num_errors": None,
        "get_error": ("index",),
    },
    "IBuilderConfig": {
        "progress_monitor": None,
        "set_memory_pool_limit": ("pool", "pool_size"),
        "clear_flag": ("flag",),
        "add_optimization_profile": ("profile",),
        "create_timing_cache": ("serialized_timing_cache",),
        "set_timing_cache": ("cache", "ignore_mismatch"),
        "get_timing_cache": (),
    },
    "IOptimizationProfile": {"set_shape": ("input", "min", "opt", "max")},
    "Runtime": {"deserialize_cuda_engine": ("serialized_engine",)},
    "ICudaEngine": {
        "device_memory_size_v2": None,
        "create_execution_context": ("strategy=",),
        "get_tensor_shape": ("name",),
    },
    "IExecutionContext": {
        "set_tensor_address": ("name", "memory"),
        "set_input_shape": ("name", "shape"),
        "execute_async_v3": ("stream_handle",),
    },
}
ONLY_RTX: dict[str, dict[str, tuple[str, ...] | None]] = {
    "module": {"ComputeCapability": None, "CudaGraphStrategy": None},
    "IBuilderConfig": {
        "num_compute_capabilities": None,
        "set_compute_capability": ("compute_capability", "index"),
    },
    "ICudaEngine": {"create_runtime_config": ()},
    "IRuntimeConfig": {
        "cuda_graph_strategy": None,
        "create_runtime_cache": (),
        "set_runtime_cache": ("cache=",),
    },
    "IRuntimeCache": {"serialize": (), "deserialize": ("blob",)},
}
# what our sources call an object of each class
RECEIVERS = {
    "engine_builder": {
        "trt": "module",
        "builder": "Builder",
        "parser": "OnnxParser",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
    },
    "tensorrt": {
        "trt": "module",
        "self._runtime": "Runtime",
        "self._engine": "ICudaEngine",
        "self._context": "IExecutionContext",
        "self._config": "IRuntimeConfig",
        "self._cache": "IRuntimeCache",
        "cache": "IRuntimeCache",
    },
    "tensorrt_library": {"trt": "module", "module": "module", "self.module": "module"},
}


def uses() -> list[tuple[str, str, str, int | None]]:
    """Place, class and name of each use of the bindings, and how many arguments a call passes."""
    found = []
    for module in (engine_builder, tensorrt, tensorrt_library):
        assert module.__file__ is not None
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        receivers = RECEIVERS[module.__name__.rpartition(".")[2]]
        calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            kind = receivers.get(ast.unparse(node.value))
            if kind is None:
                continue
            call = calls.get(id(node))
            if call is not None:
                assert not call.keywords, "their names differ between versions"
            starred = call is not None and any(isinstance(a, ast.Starred) for a in call.args)
            count = None if call is None or starred else len(call.args)
            place = f"{Path(module.__file__).name}:{node.lineno}"
            found.append((place, kind, node.attr, count))
    return found


def test_every_call_fits_the_bindings_of_10_3_and_11() -> None:
    found = uses()
    assert len(found) > 30
    for place, kind, name, count in found:
        table = BOTH[kind] if name in BOTH.get(kind, {}) else ONLY_RTX.get(kind, {})
        assert name in table, f"{place}: {kind}.{name} was not looked up"
        parameters = table[name]
        if count is not None and parameters is not None:
            needed = sum(not p.endswith("=") for p in parameters)
            assert needed <= count <= len(parameters), f"{place}: {kind}.{name} takes {parameters}"
    used = {(kind, name) for _, kind, name, _ in found}
    listed = {(kind, name) for table in (BOTH, ONLY_RTX) for kind in table for name in table[kind]}
    assert used == listed, "the tables list what is called, no more"


@pytest.mark.parametrize("kind", sorted({*BOTH, *ONLY_RTX}))
def test_tensorrt_for_rtx_takes_the_same(kind: str) -> None:
    try:
        library = load_tensorrt()
    except BackendError as error:
        pytest.skip(str(error))
    if not library.rtx:
        pytest.skip("TensorRT itself is here")
    owner: Any = library.module if kind == "module" else getattr(library.module, kind)
    for name, parameters in (BOTH.get(kind, {}) | ONLY_RTX.get(kind, {})).items():
        member = getattr(owner, name)
        if parameters is None:
            continue
        said = str(member.__init__.__doc__ if kind == "module" else member.__doc__)
        said = re.sub(r"<[^>]*>", "", said)  # values of defaults
        overloads = re.findall(r"\((?:self: [^,)]*,? ?)?(.*)\) -> ", said)
        taken = [re.findall(r"(\w+): [^=,]*(=)?", text) for text in overloads]
        expected = [(p.rstrip("="), "=" if p.endswith("=") else "") for p in parameters]
        assert expected in taken, f"{kind}.{name}: {said}"


def test_a_jetson_gets_what_a_robot_gets_but_for_openvino() -> None:
    """Locked versions; pycuda is compiled there, for the NumPy of Ubuntu's modules."""
    robot, jetson = (
        set((ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines())
        for name in ("robot.txt", "gpu_jetson.txt")
    )
    names = {re.split("[=; ]", line)[0] for line in jetson if not line.startswith("#")}
    assert {"pycuda", "onnx", "onnxscript", "onnxruntime"} <= names
    assert not {"openvino", "openvino-telemetry"} & names
    assert "numpy==1.26.4 ; python_full_version < '3.13'" in jetson
    lost = {re.split("[=; ]", line)[0] for line in robot - jetson}
    # (the two after it: needed on every Python now, so their lines have other markers)
    assert lost <= {"openvino", "openvino-telemetry", "mpmath", "sympy"}
