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

"""The networks' graphs: published without weights, filled from a checkpoint when they are loaded.

``models/graphs/VARIANT/PART.onnx`` are exported from the PyTorch definitions by
``aliked_ros.models.export``, which lists the weights that each one lacks in ``weights.json``. A
checkpoint is read, folded (``networks.fold``) and put in their place in well under a second, by
NumPy alone: an ONNX file is a protobuf message, and a parser merges a message with what follows
it, so a graph gets its weights when they are appended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from aliked_ros.errors import ModelError, WeightsError
from aliked_ros.models.published import LIGHTGLUE as LIGHTGLUE
from aliked_ros.models.published import VARIANTS, Expected
from aliked_ros.models.registry import weights_path
from aliked_ros.networks import fold
from aliked_ros.networks.checkpoint import State
from aliked_ros.networks.fold import AlikedShape, Array, Weights
from aliked_ros.system.share import share_path


class _Read(Mapping[str, Array]):
    """A checkpoint's tensors, and which of them were read."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.unread = {name for name in state if not name.endswith(".num_batches_tracked")}

    def __getitem__(self, name: str) -> Array:
        value = self._state[name]
        self.unread.discard(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def _folded(state: State, path: Path, work: Callable[[Weights], Any]) -> Any:
    """``work(state)``; WeightsError where a tensor is missing, left over, or has odd sizes."""
    read = _Read(state)
    try:
        result = work(read)
    except (KeyError, ValueError, IndexError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsError(f"{path} does not fit its network: {what}.") from error
    if read.unread:
        names = ", ".join(sorted(read.unread)[:3])
        raise WeightsError(
            f"{path} does not fit its network: {len(read.unread)} tensors have no place in it, "
            f"{names} for example."
        )
    return result


class AlikedGraphs:
    """ALIKED's graphs for the CPU backend, as content of ONNX files.

    shape: the network's sizes. score_tail: weights of the score head's last three convolutions.
    """

    def __init__(self, model: str) -> None:
        """``model``: a name, or a checkpoint's path.

        Raises WeightsError for missing or wrong weights, ModelError where there are no graphs for
        the network's sizes.
        """
        path = weights_path(model)
        state, self.shape = fold.read_aliked(path)

        def work(read: Weights) -> tuple[list[Array], dict[str, Weights]]:
            parts: dict[str, Weights] = {
                "offsets": fold.offsets(read),
                "aggregation": fold.aggregation(read),
            }
            parts |= {f"encoder_{_kind(n)}": fold.encoder(read, n) for n in (1, 3)}
            return fold.score_tail(read), parts

        self.score_tail, self._weights = _folded(state, path, work)
        self.offsets = self._fill("offsets")
        self.aggregation = self._fill("aggregation")

    def encoder(self, channels: int) -> bytes:
        """``aliked.Encoder`` for images of 3 channels (RGB) or 1 (grey)."""
        return self._fill(f"encoder_{_kind(channels)}")

    def _fill(self, part: str) -> bytes:
        return fill(*aliked_template(self.shape, part), self._weights[part])


class LightGlueGraphs:
    """LightGlue's graphs for the CPU backend, as content of ONNX files.

    shape: the network's sizes. angles: see ``fold.angles``.
    embedding: ``lightglue.Embedding``. layers, assignments: ``lightglue.Layer``,
    ``lightglue.Assignment``, one for each layer.
    """

    def __init__(self) -> None:
        """Raises WeightsError for missing or wrong weights."""
        path = weights_path(LIGHTGLUE)
        state, self.shape = fold.read_lightglue(path)
        numbers = range(self.shape.layers)

        def work(read: Weights) -> tuple[Array, Weights, list[Weights], list[Weights]]:
            return (
                fold.angles(read),
                fold.embedding(read),
                [fold.layer(read, i, len(numbers)) for i in numbers],
                [fold.assignment(read, i) for i in numbers],
            )

        self.angles, embedding, layers, assignments = _folded(state, path, work)
        self.embedding = self._fill("embedding", embedding)
        self.layers = [
            self._fill("layer" if i else "first_layer", weights) for i, weights in enumerate(layers)
        ]
        self.assignments = [self._fill("assignment", weights) for weights in assignments]

    def _fill(self, part: str, weights: Weights) -> bytes:
        return fill(*template(LIGHTGLUE, part), weights)


def extractor_graph(model: str, precision: str, channels: int) -> bytes:
    """ALIKED as one graph for a GPU, content of an ONNX file; errors as ``AlikedGraphs``."""
    path = weights_path(model)
    state, shape = fold.read_aliked(path)
    weights = _folded(state, path, lambda read: fold.extractor(read, channels))
    return fill(*aliked_template(shape, f"extractor_{_kind(channels)}-{precision}"), weights)


def _kind(channels: int) -> str:
    return "grey" if channels == 1 else "rgb"


def matcher_graphs(parts: Mapping[str, range], precision: str) -> Iterator[bytes]:
    """LightGlue's graphs for a GPU: ``device_export.matcher_parts``."""
    path = weights_path(LIGHTGLUE)
    state, shape = fold.read_lightglue(path)
    for part, numbers in parts.items():
        if part.startswith("matches"):  # one graph, with the weights of each layer
            head = fold.match_head(state, numbers[-1])
            yield fill(*template(LIGHTGLUE, f"matches-{precision}"), head)
        else:
            weights = fold.matcher(state, numbers, shape.layers)
            yield fill(*template(LIGHTGLUE, f"{part}-{precision}"), weights)


def aliked_template(shape: AlikedShape, part: str) -> tuple[bytes, Expected]:
    """A graph of ALIKED and what it lacks; made by PyTorch for sizes that none is published for."""
    if shape in VARIANTS:
        return template(VARIANTS[shape], part)
    try:
        from aliked_ros.models import export
    except (ImportError, OSError) as error:  # OSError: a library that PyTorch links to is missing
        raise ModelError(
            f"No graph is published for a network of these sizes ({shape}), and making one needs "
            f"PyTorch, onnx and onnxscript ({error}). Run `make setup GROUP=train`, or train a "
            f"network of the sizes of {', '.join(VARIANTS.values())}."
        ) from error
    return export.make_aliked(shape, part)


@cache
def template(variant: str, part: str) -> tuple[bytes, Expected]:
    """A published graph and the weights that it lacks; ModelError where it is not there."""
    try:
        listed = _lacking_weights()[variant][part]
        expected = {name: (kind, tuple(dims)) for name, kind, dims in listed}
        return share_path(f"models/graphs/{variant}/{part}.onnx").read_bytes(), expected
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"The published graph {variant}/{part}.onnx is missing or damaged ({error}): install "
            "aliked_ros again."
        ) from error


@cache
def _lacking_weights() -> Any:
    """The rows of ``weights.json``, by variant and part."""
    return json.loads(share_path("models/graphs/weights.json").read_text(encoding="utf-8"))


def fill(graph: bytes, expected: Expected, weights: Weights) -> bytes:
    """A graph with its weights, each in the type that it expects.

    Raises WeightsError for one of another shape.
    """
    tensors = []
    for name, (kind, dims) in expected.items():
        values = weights[name]
        if values.shape != dims:
            raise WeightsError(
                f"The checkpoint's {name} is {values.shape}, not {dims}; it is damaged or of "
                "another network."
            )
        tensor = _tensor(name, np.ascontiguousarray(values, kind))
        tensors.append(_field(_INITIALIZER, tensor))
    return graph + _field(_GRAPH, b"".join(tensors))


# Numbers of fields and types in onnx.proto (github.com/onnx/onnx).
_GRAPH, _INITIALIZER = 7, 5  # of ModelProto, of GraphProto
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9  # of TensorProto
_DATA_TYPES = {"float32": 1, "float16": 10}


def _tensor(name: str, values: Array) -> bytes:
    """A TensorProto."""
    numbers = [(_DIMS, side) for side in values.shape]
    numbers.append((_DATA_TYPE, _DATA_TYPES[values.dtype.name]))
    start = b"".join(_varint(field << 3) + _varint(number) for field, number in numbers)
    return start + _field(_NAME, name.encode()) + _field(_RAW_DATA, values.tobytes())


def _field(number: int, content: bytes) -> bytes:
    """A protobuf field that holds a message, a string or bytes."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """A protobuf number: seven bits a byte, the lowest first."""
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
