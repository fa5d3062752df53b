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

"""Compile every Triton kernel, as the networks call it, for GPUs that are not here.

    python kernel_compiler.py aliked-n16 80 90

Prints one line for each kernel and compute capability: name, bytes of machine code, bytes of
shared memory. A program of its own, since a process has either Triton's compiler or its
interpreter.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.runtime.jit import JITFunction

from aliked_ros.backends.gpu import triton_attention, triton_kernels
from aliked_ros.backends.gpu.triton_aliked import TritonALIKED
from aliked_ros.backends.gpu.triton_lightglue import TritonOperations
from aliked_ros.networks.aliked import example_inputs
from aliked_ros.networks.fold import LightGlueShape
from aliked_ros.networks.lightglue import segment_inputs
from helpers.torch_networks import device_extractor, device_matcher

_TYPES = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.int8: "*i8", torch.uint8: "*u8",
    torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip


class Recorder:
    """Stands for a kernel: notes what types it is called with, and computes nothing."""

    calls: ClassVar[dict[str, tuple[ASTSource, dict[str, int]]]] = {}

    def __init__(self, kernel: JITFunction) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.record

    def record(self, *arguments: Any, num_warps: int = 4, **constants: Any) -> None:
        names = self.kernel.arg_names
        signature = {n: kind(a) for n, a in zip(names, arguments, strict=False)}
        signature |= dict.fromkeys(constants, "constexpr")
        values = {(names.index(name),): value for name, value in constants.items()}
        source = ASTSource(self.kernel, signature, values)
        call = f"{self.kernel.__name__} {signature} {values}"
        self.calls[call] = source, {"num_warps": num_warps}


def kind(argument: Any) -> Any:
    """Its type, as Triton writes it."""
    if isinstance(argument, tuple):
        return tuple(map(kind, argument))
    if isinstance(argument, torch.Tensor):
        return _TYPES[argument.dtype]
    return "fp32" if isinstance(argument, float) else "i32"


@torch.inference_mode()
def main(model: str, capabilities: list[int]) -> None:
    for module in (triton_kernels, triton_attention):
        for name, kernel in list(vars(module).items()):
            if isinstance(kernel, JITFunction) and not name.startswith("_"):
                setattr(module, name, Recorder(kernel))
    device_extractor(TritonALIKED, model, half=True)(*example_inputs(96, 96, 3, 64).values())
    layers = range(3)
    for half in (True, False):
        inputs = segment_inputs(LightGlueShape(128, 9), layers, 64, half)
        device_matcher(layers, half, TritonOperations())(*inputs.values())
    for capability in capabilities:
        for call, (source, options) in Recorder.calls.items():
            made = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            print(capability, call.split()[0], len(made.asm["cubin"]), made.metadata.shared)


if __name__ == "__main__":
    main(sys.argv[1], [int(text) for text in sys.argv[2:]])
