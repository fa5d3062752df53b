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

"""What the compiled loops (numba) have in common.

A loop works on a range of rows or keypoints, so that ``Workers`` can share it out, and holds no
GIL. Feature tables are float32, or bfloat16 seen as uint16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from aliked_ros.errors import ModelError
from aliked_ros.networks.constants import SELU_ALPHA

_ALPHA = np.float32(SELU_ALPHA)


def jit(function: Any, inline: str = "never") -> Any:
    """Compile at the first call; the machine code is cached where a folder can be written."""
    compiler = partial(numba.njit, nogil=True, fastmath=True, error_model="numpy", inline=inline)
    try:
        return compiler(cache=True)(function)
    except RuntimeError:  # no such folder
        return compiler()(function)


def inline(function: Any) -> Any:
    """``jit``, inlined where it is called."""
    return jit(function, inline="always")


class Workers:
    """A few threads that share out a range; the loops above release the GIL."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "kernels") if threads > 1 else None

    def run(self, function: Callable[..., None], count: int, *arguments: Any) -> None:
        """Call ``function(*arguments, start, stop)`` on parts that cover range(count)."""
        if self._pool is None:
            function(*arguments, 0, count)
            return
        bounds = [count * i // self.threads for i in range(self.threads + 1)]
        futures = [
            self._pool.submit(function, *arguments, bounds[i], bounds[i + 1])
            for i in range(1, self.threads)
        ]
        function(*arguments, bounds[0], bounds[1])
        for future in futures:
            future.result()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


@contextmanager
def compiling() -> Iterator[None]:
    """The first call of a loop compiles it, and may fail to save the result."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"The compiled loops cannot be saved: {error}. Free some space, or set NUMBA_CACHE_DIR "
            "to a folder that can be written."
        ) from error


@intrinsic
def float_from_bits(typing_context: Any, bits: Any) -> Any:
    """The float32 with the given 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def widened(typing_context: Any, value: Any) -> Any:
    """A table's value as float32: as it is, or widened where uint16 holds a bfloat16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if value != types.uint16:
            return arguments[0]
        bits = builder.shl(builder.zext(arguments[0], ir.IntType(32)), ir.IntType(32)(16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(value), generate


@inline
def exp(x):
    """Exponential of a float32 ≤ 0, as 2^n times a polynomial, so that loops over it vectorise."""
    t = max(x, np.float32(-80.0)) * np.float32(1.4426950408889634)
    n = np.floor(t)
    f = t - n
    p = np.float32(1.8775767e-3)
    p = p * f + np.float32(8.9893397e-3)
    p = p * f + np.float32(5.5826318e-2)
    p = p * f + np.float32(2.4015361e-1)
    p = p * f + np.float32(6.9315308e-1)
    p = p * f + np.float32(9.9999994e-1)
    return p * float_from_bits((np.int32(n) + np.int32(127)) << np.int32(23))


@inline
def elu(x):
    """ELU with SELU's alpha."""
    negative = _ALPHA * (exp(min(x, np.float32(0.0))) - np.float32(1.0))
    return x if x > np.float32(0.0) else negative


@jit
def widen_half(half, out):
    """Finite float16 numbers, seen as uint16, as float32 (NumPy takes ten times as long)."""
    for i in range(len(half)):
        bits = np.uint32(half[i])
        magnitude = float_from_bits((bits & np.uint32(0x7FFF)) << np.uint32(13))
        magnitude *= np.float32(2.0**112)  # what the two types' exponents differ by
        out[i] = -magnitude if bits & np.uint32(0x8000) else magnitude
