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

    TRITON_INTERPRET=1 python kernel_self_test.py aliked|lightglue [sizes]

Prints what the self-test says of the intact kernels in both precisions, then of each broken one;
``sizes``: of the intact ones at sizes that no block divides, down to no point at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from aliked_ros.backends.gpu import (
    triton_aliked,
    triton_attention,
    triton_kernels,
    triton_lightglue,
)
from aliked_ros.networks.fold import AlikedShape

# an operation takes 0.1 ms in the interpreter, on few or many numbers
triton_aliked._PIXELS, triton_aliked._SLOTS, triton_aliked._ROWS = 4096, 128, 2048
triton_aliked._CONVOLVED = triton_aliked._CELLS = 4096
triton_aliked._NUMBERS = 1 << 16
triton_lightglue._POINTS, triton_lightglue._ROWS = 128, 256
CPU = torch.device("cpu")
SHAPE = AlikedShape((8, 16, 32, 64), 64, 3, 16)
ALIKED = {
    "bias_elu": [0], "first_scores": [3], "deform_reads": [2], "join_scores": [3],
    "score_convolution": [2], "find_maxima": [1],
    "leave_out": [2], "add_maxima": [1], "best_in_cells": [4, 5], "refine": [3, 4],
    "read_patches": [9], "read_samples": [11], "unit_rows": [1],
}  # fmt: skip
LIGHTGLUE = {"encode": [4], "attend": [5], "norm_gelu": [5, 6], "count_undecided": [4]}


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


def verdict(check: Callable[[], None]) -> str:
    try:
        check()
    except RuntimeError as error:
        return str(error)
    return "right"


PARTS = {
    "aliked": (triton_kernels, ALIKED, lambda half: triton_aliked.check(CPU, SHAPE, half)),
    "lightglue": (triton_attention, LIGHTGLUE, lambda half: triton_lightglue.check(CPU, half)),
}

SIZES: dict[str, list[tuple[bool, Any, Any]]] = {  # half; image and keypoints, or rows and points
    "aliked": [(False, (65, 64), 1), (True, (97, 131), 17), (False, (64, 425), 77)],
    "lightglue": [
        (half, rows, points)
        for half in (False, True)
        for rows, points in (
            (1, (1, 1)), (1, (0, 0)), (17, (17, 0)), (33, (1, 33)), (65, (65, 64)), (100, (0, 30)),
        )
    ],
}  # fmt: skip


def check_at(network: str, half: bool, size: Any, count: Any) -> None:
    if network == "aliked":
        triton_aliked.check(CPU, SHAPE, half, size, count)
    else:
        triton_lightglue.check(CPU, half, size, count)


if __name__ == "__main__":
    if sys.argv[2:] == ["sizes"]:
        for case in SIZES[sys.argv[1]]:
            print(*case, verdict(lambda case=case: check_at(sys.argv[1], *case)), flush=True)
        sys.exit()
    module, outputs, check = PARTS[sys.argv[1]]
    print("float32:", verdict(lambda: check(False)))
    print("float16:", verdict(lambda: check(True)))
    for name, numbers in outputs.items():
        kernel = getattr(module, name)
        setattr(module, name, Broken(kernel, numbers))
        print(f"{name}:", verdict(lambda: check(False)), flush=True)
        setattr(module, name, kernel)
