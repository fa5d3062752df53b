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

"""Exporting networks to ONNX: the published graphs, from their definitions in PyTorch.

    python -m aliked_ros.models.export  # writes models/graphs/ of this tree

Nothing that runs on a robot needs this. Whoever changes a network calls it and commits the result;
a test says when that was forgotten.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import opset19 as op
from torch import Tensor, nn

from aliked_ros.errors import ModelError
from aliked_ros.models.published import (
    LARGEST_TOP_K,
    LIGHTGLUE,
    SMALLEST_SIDE,
    VARIANTS,
    Expected,
    segments,
)
from aliked_ros.models.registry import weights_path
from aliked_ros.networks import aliked, fold, lightglue
from aliked_ros.networks.aliked import ALIKED
from aliked_ros.networks.checkpoint import State, state_of
from aliked_ros.networks.constants import DIM, HEAD_DIM
from aliked_ros.networks.fold import AlikedShape, Weights

OPSET = 19  # the first with Resize and DeformConv as the networks need them
_LARGEST_SIDE = 8192
_ROWS = 72  # of points, as an example, unlike any size within LightGlue
_PRECISIONS = ("float32", "float16")
_MOST_CONSTANTS = 8192  # bytes in a graph that are not weights

Dynamic = tuple[dict[int, Any], ...]
"""The free axes of each input."""


def publish(folder: Path) -> Iterator[str]:
    """Write every graph that a model of the registry needs below ``folder``; yields their names."""
    table: dict[str, dict[str, list[tuple[Any, ...]]]] = {}
    for variant, part, make in published():
        graph, lacking = make()
        path = folder / variant / f"{part}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(graph)
        rows = [(name, kind, dims) for name, (kind, dims) in lacking.items()]
        table.setdefault(variant, {})[part] = rows
        yield f"{variant}/{part}"
    (folder / "weights.json").write_text(json.dumps(table) + "\n", encoding="utf-8")


def published() -> Iterator[tuple[str, str, Callable[[], tuple[bytes, Expected]]]]:
    """Variant and part of each published graph, and what makes it."""
    kinds = ("rgb", "grey")
    for shape, variant in VARIANTS.items():
        for part in chain(
            (f"encoder_{kind}" for kind in kinds),
            ("offsets", "aggregation"),
            (f"extractor_{k}-{precision}" for k in kinds for precision in _PRECISIONS),
        ):
            yield variant, part, partial(make_aliked, shape, part)
    whole = (segments(precision) for precision in _PRECISIONS)
    heads = (f"matches-{precision}" for precision in _PRECISIONS)
    for part in chain(_LIGHTGLUE_PARTS, *whole, heads):
        yield LIGHTGLUE, part, partial(make_lightglue, part)


def make_aliked(shape: AlikedShape, part: str) -> tuple[bytes, Expected]:
    """One graph of an ALIKED of these sizes, and the weights that it lacks.

    Raises ModelError where PyTorch's exporter fails.
    """
    state = _any_weights(ALIKED(shape))
    channels = 1 if "grey" in part else 3
    if part.startswith("extractor"):
        weights = fold.extractor(state, channels)
        height, width = (
            torch.export.Dim(n, min=SMALLEST_SIDE, max=_LARGEST_SIDE) for n in ("h", "w")
        )
        count = torch.export.Dim("k", min=2, max=LARGEST_TOP_K)
        return _template(
            aliked.FoldedALIKED(weights, shape, half=part.endswith("float16")),
            weights,
            aliked.example_inputs(130, 170, channels, 100),
            list(aliked.OUTPUTS),
            ({1: height, 2: width}, {0: height, 1: width}, {}, {0: count}),
        )
    if part.startswith("encoder"):
        # sides are multiples of 32 pixels, and both are free
        rows, columns = (torch.export.Dim(n, min=2, max=_LARGEST_SIDE // 32) for n in ("h", "w"))
        weights = fold.encoder(state, channels)
        return _template(
            aliked.Encoder(weights, shape),
            weights,
            {"image": torch.zeros(1, 128, 160, channels, dtype=torch.uint8)},
            [f"{kind}{i}" for kind in ("score", "level") for i in (1, 2, 3, 4)],
            ({1: 32 * rows, 2: 32 * columns},),
        )
    points = ({0: torch.export.Dim("n", min=2, max=_LARGEST_SIDE)},)
    if part == "offsets":
        patches = torch.zeros(64, shape.kernel**2 * shape.dim)
        weights = fold.offsets(state)
        head: nn.Module = aliked.Offsets(weights)
        return _template(head, weights, {"patches": patches}, ["offsets"], points)
    samples = torch.zeros(64, shape.samples, shape.dim)
    weights = fold.aggregation(state)
    head = aliked.Aggregation(weights)
    return _template(head, weights, {"samples": samples}, ["descriptors"], points)


_LIGHTGLUE_PARTS = ("embedding", "first_layer", "layer", "assignment")


def make_lightglue(part: str) -> tuple[bytes, Expected]:
    """One graph of LightGlue, and the weights that it lacks; errors as ``make_aliked``."""
    state, shape = fold.read_lightglue(weights_path(LIGHTGLUE))
    if part not in _LIGHTGLUE_PARTS:
        half = part.endswith("float16")
        precision = part.partition("-")[2]
        if part.startswith("matches"):
            head = fold.match_head(state, 0)
            return _rows_template(
                lightglue.MatchHead(head, half),
                head,
                lightglue.head_inputs(_ROWS, half),
                [*lightglue.HEAD_OUTPUTS],
            )
        layers = segments(precision)[part]
        weights = fold.matcher(state, layers, shape.layers)
        return _rows_template(
            lightglue.segment(weights, layers, shape, half),
            weights,
            lightglue.segment_inputs(shape, layers, _ROWS, half),
            lightglue.segment_outputs(shape, layers),
        )
    count = torch.export.Dim("n", min=2, max=_LARGEST_SIDE)
    if part == "embedding":
        weights = fold.embedding(state)
        inputs = {
            "descriptors": torch.zeros(1, 64, shape.input_dim),
            "rotation": torch.zeros(1, 64, HEAD_DIM),
            "mask": torch.zeros(1, 1, 1, 64),
        }
        axes: Dynamic = ({1: count}, {1: count}, {3: count})
        return _template(lightglue.Embedding(weights), weights, inputs, ["state"], axes)
    if part == "assignment":
        other = torch.export.Dim("m", min=2, max=_LARGEST_SIDE)
        weights = fold.assignment(state, 0)
        inputs = {"state0": torch.zeros(64, DIM), "state1": torch.zeros(72, DIM)}
        axes = ({0: count}, {0: other})
        return _template(lightglue.Assignment(weights), weights, inputs, ["similarity"], axes)
    inputs = {"state": torch.zeros(2, 64, DIM), "mask": torch.zeros(2, 1, 1, 64)}
    axes, number = ({1: count}, {3: count}), 0
    if part == "layer":  # the first one's self-attention, with the rotation, is in the embedding
        inputs["rotation"] = torch.zeros(2, 64, HEAD_DIM)
        axes, number = (*axes, {1: count}), 1
    weights = fold.layer(state, number, shape.layers)
    outputs = ["new_state", "probabilities"]
    return _template(lightglue.Layer(weights), weights, inputs, outputs, axes)


def _rows_template(
    module: nn.Module, weights: Weights, inputs: dict[str, Tensor], outputs: list[str]
) -> tuple[bytes, Expected]:
    """As ``_template``; every side of ``_ROWS`` is free."""
    k = torch.export.Dim("k", min=2, max=LARGEST_TOP_K)
    axes = tuple(
        {side: k for side, length in enumerate(x.shape) if length == _ROWS} for x in inputs.values()
    )
    return _template(module, weights, inputs, outputs, axes)


def _any_weights(network: nn.Module) -> State:
    """Weights for a network, no two alike, so that the exporter merges none of them."""
    random = np.random.default_rng(0)
    return {
        name: random.uniform(0.1, 1.0, value.shape).astype(value.dtype)
        for name, value in state_of(network).items()
    }


def _template(
    module: nn.Module,
    folded: Weights,
    inputs: dict[str, Tensor],
    outputs: list[str],
    dynamic: Dynamic,
) -> tuple[bytes, Expected]:
    """A module's graph, which lacks the weights that ``folded`` names, and what those are."""
    model = trace(module, inputs, outputs, dynamic)
    weights = set(folded)
    found = [tensor for tensor in model.graph.initializer if tensor.name in weights]
    constants = sum(t.ByteSize() for t in model.graph.initializer if t.name not in weights)
    if len(found) != len(weights) or constants > _MOST_CONSTANTS:
        missing = sorted(weights - {tensor.name for tensor in found})
        raise ModelError(
            f"The exporter renamed or changed weights of {type(module).__name__} "
            f"({', '.join(missing) or f'{constants} bytes of constants'}); use the versions of "
            "requirements/train.txt (make setup GROUP=train)."
        )
    lacking = {
        tensor.name: (str(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)), (*tensor.dims,))
        for tensor in found
    }
    for tensor in found:
        model.graph.initializer.remove(tensor)
    return model.SerializeToString(deterministic=True), lacking


def trace(
    module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], dynamic: Dynamic | None
) -> onnx.ModelProto:
    """A module as ONNX, its weights under their names.

    inputs: an example of each, by name. dynamic: their free axes, None = none.
    Raises ModelError where PyTorch's exporter fails.
    """

    def deform_conv(x: Any, offset: Any, weight: Any) -> Any:
        return op.DeformConv(x, weight, offset, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=dynamic,
                custom_translation_table={torch.ops.aliked_ros.deform_conv2d.default: deform_conv},
                verbose=False,
            )
    except Exception as error:  # the exporter has many ways to fail
        said = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"PyTorch's exporter failed on {type(module).__name__}: {type(error).__name__}: "
            f"{said}. Install the versions of requirements/train.txt."
        ) from error
    assert program is not None
    model = program.model_proto
    _forget_sources(model.graph)
    del model.graph.value_info[:]
    return model


def _forget_sources(graph: onnx.GraphProto) -> None:
    """Drop the exporter's notes (source paths, stack traces): the same network, the same bytes."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on optional packages from the user."""
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def main() -> None:
    """Write the published graphs of this tree."""
    folder = Path(__file__).resolve().parents[2] / "models" / "graphs"
    for name in publish(folder):
        print(name, flush=True)


if __name__ == "__main__":
    main()
