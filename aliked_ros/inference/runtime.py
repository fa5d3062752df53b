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
