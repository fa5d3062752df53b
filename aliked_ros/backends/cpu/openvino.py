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

"""OpenVINO: the fastest runtime here on x86-64, with bfloat16 where the CPU has it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset8
from openvino.frontend.onnx import ConversionExtension

from aliked_ros.backends.cpu.runtime import Array
from aliked_ros.errors import ModelError


def _deform_conv(node: Any) -> Any:
    """OpenVINO has the operator, but its ONNX reader no rule for it."""
    image, weight, offset = (node.get_input(i) for i in range(3))
    return opset8.deformable_convolution(
        image, offset, weight, [1, 1], [1, 1], [1, 1], [1, 1], bilinear_interpolation_pad=True
    ).outputs()


@cache
def _core() -> ov.Core:
    """The process's only Core.

    Destroying a second one leaves a dangling signal stack; Ctrl-C then crashes.
    """
    core = ov.Core()
    core.add_extension(ConversionExtension("DeformConv", _deform_conv))
    return core


class _Network:
    def __init__(self, compiled: ov.CompiledModel) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = len(compiled.outputs)
        self._bfloat16 = [o.element_type == ov.Type.bf16 for o in compiled.outputs]

    def __call__(self, *inputs: Array) -> list[Array]:
        self._request.infer(list(inputs), share_inputs=True, share_outputs=True)
        results = [self._request.get_output_tensor(i).data for i in range(self._outputs)]
        return [r.view(np.uint16) if b else r for r, b in zip(results, self._bfloat16, strict=True)]


class OpenVinoRuntime:
    """Loads graphs as OpenVINO models compiled for this CPU."""

    def __init__(self, threads: int) -> None:
        self._core = _core()
        self._threads = threads
        self.name = f"OpenVINO {ov.__version__.split('-')[0]}"
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.bfloat16 = "BF16" in capabilities

    def load(
        self,
        graph: bytes,
        *,
        bfloat16: bool = False,
        bfloat16_outputs: bool = False,
        shape: tuple[int, ...] | None = None,
    ) -> _Network:
        """See ``Runtime.load``."""
        try:
            model = self._core.read_model(graph)
            if shape is not None:
                model.reshape(list(shape))
            if bfloat16 and bfloat16_outputs:
                steps = ov.preprocess.PrePostProcessor(model)
                for i in range(len(model.outputs)):
                    steps.output(i).tensor().set_element_type(ov.Type.bf16)
                model = steps.build()
            options = {
                "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": self._threads,
            }
            return _Network(self._core.compile_model(model, "CPU", options))
        except RuntimeError as error:
            raise ModelError(
                f"{self.name} cannot load a network: {str(error).strip().splitlines()[-1]}. "
                "Remove openvino: ONNX Runtime then takes its place."
            ) from error
