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

"""Run ``TritonALIKED`` on a CPU, its Triton kernels in the interpreter.

    TRITON_INTERPRET=1 python kernel_interpreter.py inputs.pt outputs.pt

inputs.pt: model, half, and the network's inputs by name. outputs.pt: what it gives. A program of
its own, since a process has either Triton's compiler or its interpreter.
"""

from __future__ import annotations

import sys

import torch

from aliked_ros.backends.gpu import triton_aliked
from helpers.torch_networks import device_extractor

# an operation takes 0.1 ms in the interpreter, on few or many numbers
triton_aliked._PIXELS, triton_aliked._SLOTS, triton_aliked._ROWS = 4096, 64, 256
triton_aliked._CONVOLVED = triton_aliked._CELLS = 4096
triton_aliked._NUMBERS = 1 << 16

if __name__ == "__main__":
    given = torch.load(sys.argv[1])
    extractor = device_extractor(triton_aliked.TritonALIKED, given["model"], given["half"])
    with torch.inference_mode():
        torch.save(extractor(*given["inputs"].values()), sys.argv[2])
