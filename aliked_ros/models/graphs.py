"""The networks' graphs: published without weights, filled from a checkpoint when they are loaded.

``models/graphs/VARIANT/PART.onnx`` are exported from the PyTorch definitions by
``aliked_ros.models.export``; their weights are named and sized, but hold no values. A checkpoint
is read, folded (``networks.fold``) and put in their place in well under a second, by NumPy and
onnx alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aliked_ros.errors import ModelError, WeightsError
from aliked_ros.models.registry import weights_path
from aliked_ros.networks import fold
from aliked_ros.networks.checkpoint import State, read_state_dict
from aliked_ros.networks.fold import AlikedShape, Array, LightGlueShape, Weights
from aliked_ros.share import share_path

if TYPE_CHECKING:
    import onnx

LIGHTGLUE = "aliked-lightglue"
_FIRST = ("conv1.weight", "encoder.conv1.weight")

VARIANTS = {
    AlikedShape((8, 16, 32, 64), 64, 3, 16): "aliked-t16",
    AlikedShape((16, 32, 64, 128), 128, 3, 16): "aliked-n16",  # N16rot too
    AlikedShape((16, 32, 64, 128), 128, 3, 32): "aliked-n32",
}
"""Folders of ALIKED's published graphs by the sizes of the network."""


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
        state = read_state_dict(path)
        self.shape = AlikedShape.of_checkpoint(state, path)

        def work(read: Weights) -> tuple[list[Array], dict[str, Weights]]:
            parts: dict[str, Weights] = {
                "offsets": fold.offsets(read),
                "aggregation": fold.aggregation(read),
            }
            parts |= {f"encoder{channels}": fold.encoder(read, channels) for channels in (1, 3)}
            return fold.score_tail(read), parts

        self.score_tail, self._weights = _folded(state, path, work)
        self.offsets = self._fill("offsets", "offsets")
        self.aggregation = self._fill("aggregation", "aggregation")

    def encoder(self, channels: int) -> bytes:
        """``FoldedEncoder`` for images of 3 channels (RGB) or 1 (grey)."""
        return self._fill("encoder", f"encoder{channels}", grey=channels == 1)

    def _fill(self, part: str, weights: str, grey: bool = False) -> bytes:
        model = aliked_template(self.shape, part)
        if grey:
            take_grey(model)
        return filled(model, self._weights[weights])


class LightGlueGraphs:
    """LightGlue's graphs for the CPU backend, as content of ONNX files.

    shape: the network's sizes. angles: see ``fold.angles``.
    embedding: ``FoldedEmbedding``. layers, assignments: ``FoldedLayer``, ``FoldedAssignment``, one
    for each layer.
    """

    def __init__(self) -> None:
        """Raises WeightsError for missing or wrong weights."""
        path = weights_path(LIGHTGLUE)
        state = fold.read_lightglue(path)
        self.shape = LightGlueShape.of_checkpoint(state, path)
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
        return filled(template(LIGHTGLUE, part), weights)


def extractor_model(model: str, part: str, channels: int) -> onnx.ModelProto:
    """ALIKED as one graph (``part``: extractor-PRECISION), filled; errors as ``AlikedGraphs``."""
    path = weights_path(model)
    state = read_state_dict(path)
    whole = aliked_template(AlikedShape.of_checkpoint(state, path), part)
    if channels == 1:
        take_grey(whole)
    fill(whole, _folded(state, path, lambda read: fold.extractor(read, channels)))
    return whole


def matcher_models(segments: Mapping[str, range]) -> Iterator[onnx.ModelProto]:
    """LightGlue as one graph for each segment: its part's name and its layers; filled."""
    path = weights_path(LIGHTGLUE)
    state = fold.read_lightglue(path)
    layers = LightGlueShape.of_checkpoint(state, path).layers
    for part, numbers in segments.items():
        model = template(LIGHTGLUE, part)
        fill(model, fold.matcher(state, numbers, layers))
        yield model


def aliked_template(shape: AlikedShape, part: str) -> onnx.ModelProto:
    """A graph of ALIKED without weights; made by PyTorch for sizes that none is published for."""
    if shape in VARIANTS:
        return template(VARIANTS[shape], part)
    try:
        from aliked_ros.models import export
    except (ImportError, OSError) as error:  # OSError: a library that PyTorch links to is missing
        raise ModelError(
            f"No graph is published for a network of these sizes ({shape}), and making one needs "
            f"PyTorch, onnx and onnxscript: {error}. Run `make setup GROUP=train`, or train a "
            f"network of the sizes of {', '.join(VARIANTS.values())}."
        ) from error
    return export.make_aliked(shape, part)


def template(variant: str, part: str) -> onnx.ModelProto:
    """A published graph without weights; a copy of one's own."""
    library = _onnx()
    try:
        model: onnx.ModelProto = library.load_from_string(_content(variant, part))
        return model
    except Exception as error:  # protobuf's own exceptions have no common base
        raise ModelError(
            f"The published graph {variant}/{part}.onnx is missing or damaged: {error}. "
            "Install aliked_ros again."
        ) from error


@cache
def _content(variant: str, part: str) -> bytes:
    return share_path(f"models/graphs/{variant}/{part}.onnx").read_bytes()


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ModelError(f"Loading a network needs onnx: {error}. Run: pip install onnx") from error
    return onnx


def fill(model: onnx.ModelProto, weights: Weights) -> None:
    """Give a template its weights, in the precision it names; WeightsError for odd sizes."""
    library = _onnx()
    empty = {tensor.name: tensor for tensor in model.graph.initializer if is_empty(tensor)}
    if empty.keys() != weights.keys():
        odd = ", ".join(sorted(empty.keys() ^ weights.keys()))
        raise ModelError(
            f"A published graph is not of this version: {odd}. Install aliked_ros again."
        )
    for name, tensor in empty.items():
        values = weights[name]
        if tuple(tensor.dims) != values.shape:
            raise WeightsError(
                f"The checkpoint's {name} is {values.shape}, not {tuple(tensor.dims)}; "
                "it is damaged or of another network."
            )
        kind = library.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        tensor.raw_data = np.ascontiguousarray(values, kind).tobytes()


def filled(model: onnx.ModelProto, weights: Weights) -> bytes:
    """Content of an ONNX file: a template with its weights; see ``fill``."""
    fill(model, weights)
    content: bytes = model.SerializeToString()
    return content


def is_empty(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor of a template waits for its values."""
    return not any(
        (tensor.raw_data, tensor.float_data, tensor.int32_data, tensor.int64_data, 0 in tensor.dims)
    )


def take_grey(model: onnx.ModelProto) -> None:
    """Let a template's first convolution take one channel that stands for three equal ones."""
    (image,) = (put for put in model.graph.input if put.name == "image")
    image.type.tensor_type.shape.dim[3].dim_value = 1
    (first,) = (t for t in model.graph.initializer if t.name in _FIRST)
    first.dims[1] = 1
