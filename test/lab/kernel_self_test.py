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

"""Break Triton's kernels one by one: the self-test must see each of them.

    TRITON_INTERPRET=1 python kernel_self_test.py

Prints what the self-test says of the intact kernels in both precisions, then of each broken one.
"""

from __future__ import annotations

from typing import Any

import torch

from aliked_ros.backends.gpu import triton_aliked, triton_kernels
from aliked_ros.networks.fold import AlikedShape

# an operation takes 0.1 ms in the interpreter, on few or many numbers
triton_aliked._PIXELS, triton_aliked._SLOTS, triton_aliked._ROWS = 4096, 128, 2048
triton_aliked._CONVOLVED = 4096
SHAPE = AlikedShape((8, 16, 32, 64), 64, 3, 16)
OUTPUTS = {
    "deform_reads": [2], "join_scores": [3], "score_convolution": [2], "find_maxima": [1],
    "leave_out": [2], "add_maxima": [1], "best_in_cells": [4, 5], "refine": [3, 4],
    "read_patches": [8], "read_samples": [10],
}  # fmt: skip


class Broken:
    """A kernel whose results are lost."""

    def __init__(self, kernel: Any, outputs: list[int]) -> None:
        self.kernel, self.outputs = kernel, outputs

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **constants: Any) -> None:
            self.kernel[grid](*arguments, **constants)
            for number in self.outputs:
                arguments[number].zero_()

        return launch


def verdict(half: bool) -> str:
    try:
        triton_aliked.check(torch.device("cpu"), SHAPE, half)
    except RuntimeError as error:
        return str(error)
    return "right"


if __name__ == "__main__":
    print("float32:", verdict(half=False))
    print("float16:", verdict(half=True))
    for name, outputs in OUTPUTS.items():
        kernel = getattr(triton_kernels, name)
        setattr(triton_kernels, name, Broken(kernel, outputs))
        print(f"{name}:", verdict(half=False), flush=True)
        setattr(triton_kernels, name, kernel)
