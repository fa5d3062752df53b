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

"""What the CPU backend asks of a graph runtime; one file for each runtime that can answer."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]


class Network(Protocol):
    """A loaded graph."""

    def __call__(self, *inputs: Array) -> list[Array]:
        """Run on C-contiguous arrays; the results may be overwritten by the next call.

        bfloat16 results come as uint16 arrays of the same bits.
        """
        ...


class Runtime(Protocol):
    """A graph runtime on the CPU.

    name: with its version, for people.
    bfloat16: whether ``load(..., bfloat16=True)`` does anything on this machine.
    """

    name: str
    bfloat16: bool

    def load(
        self,
        graph: bytes,
        *,
        bfloat16: bool = False,
        bfloat16_outputs: bool = False,
        shape: tuple[int, ...] | None = None,
    ) -> Network:
        """Load ``graph``, the content of an ONNX file.

        shape: fixes its single input's shape where the runtime gains by it.
        Raises ModelError when the runtime refuses it.
        """
        ...
