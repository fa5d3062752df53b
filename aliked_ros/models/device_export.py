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

"""Whole-device graphs: ALIKED from image to descriptors, LightGlue from descriptors to matches.

A published graph (``aliked_ros.models.graphs``) has free sides. Filled with a checkpoint's weights
and given sizes, it is simplified in about a second by ``onnx`` and ``onnxscript``, without PyTorch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aliked_ros.errors import ConfigurationError, ModelError
from aliked_ros.models import graphs
from aliked_ros.models.published import LARGEST_TOP_K as LARGEST_TOP_K
from aliked_ros.models.published import LIGHTGLUE, SMALLEST_SIDE
from aliked_ros.models.published import SEGMENT_LAYERS as SEGMENT_LAYERS
from aliked_ros.models.published import matcher_parts as matcher_parts
from aliked_ros.models.registry import entry_of

if TYPE_CHECKING:
    import onnx

GraphPrecision = Literal["float32", "float16"]

FORMAT = 7
"""Grows whenever the graphs change, so that engines built of older ones are not used."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: its shape and its NumPy type ("uint8", ...).

    A side of None is free (only H and W of an extractor graph made with ``size=None``).
    """

    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class DeviceGraph:
    """One network with fixed shapes, ready for a TensorRT parser (or ONNX Runtime).

    onnx: the model file's content. Precision is written into the graph (strongly typed): build
    it with the STRONGLY_TYPED network flag where the TensorRT version has one, no FP16 flag.
    inputs, outputs: by name, in the graph's order.
    identity: what it was made of: format, model, weights_sha256, precision, kind, and its sizes;
    all JSON values. Equal identities mean the same network.
    """

    name: str
    onnx: bytes
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    identity: dict[str, Any]


def extractor_graph(
    model: str,
    size: tuple[int, int] | None,
    channels: int,
    top_k: int,
    precision: GraphPrecision,
) -> DeviceGraph:
    """ALIKED as one graph, image to descriptors.

    size: (width, height) of the image as the camera gives it, not padded; None: free, for an
    optimisation profile over a range of sizes. channels: 1 (grey) or 3 (RGB).

    inputs:  ``image`` uint8 1×H×W×C; ``mask`` uint8 H×W (0 = no keypoint; all 1 = everywhere);
             ``threshold`` float32 [1].
    outputs: ``keypoints`` float32 K×2 (pixels of the image), ``scores`` float32 K,
             ``descriptors`` K×D of unit length (float32; float16 where precision is that),
             ``count`` int32 [1]: the first ``count`` rows are valid, by falling score-map maximum;
             the rows behind them hold finite numbers without meaning. K = ``top_k``.
    The keypoints are the best-scored ones wherever they are: ``grid`` spreading is not offered.

    Raises WeightsError, ModelError (a library is missing, or PyTorch for a network of sizes that no
    graph is published for), ConfigurationError (top_k above 3840 or more than the image has room
    for, which is one in 3×3 pixels; a side below ``SMALLEST_SIDE``).
    """
    check_top_k(top_k)
    if size is not None:
        check_size(size, top_k)
    graph = _load(graphs.extractor_graph(model, precision, channels))
    sizes = {"k": top_k}
    if size is not None:
        sizes |= {"w": size[0], "h": size[1]}
    of = {"kind": "extractor", "width": sizes.get("w"), "height": sizes.get("h")}
    identity = {**of, "channels": channels, "top_k": top_k, "precision": precision}
    return _finish(model, model, graph, sizes, identity)


def matcher_graphs(
    top_k: int,
    precision: GraphPrecision,
) -> list[DeviceGraph]:
    """LightGlue for two images of ``top_k`` rows each: three layers, the matches, and so on.

    The matches are wanted after the segment that the matching ends with, not after every one.

    first graph, inputs:  ``keypoints0``, ``keypoints1`` float32 K×2 pixels; ``descriptors0``,
        ``descriptors1`` K×128 (float32, or float16 by precision: what the extractor gives);
        ``count0``, ``count1`` int32 [1]; ``size`` float32 [2]: width, height of both images.
    later segments, inputs: ``state``, ``rotation`` (outputs of the segment before, same names
        with the prefix ``new_`` removed; ``rotation`` comes from the first graph and stays),
        ``count0``, ``count1``.
    their outputs: ``new_state`` 2×K×256, ``rotation`` 2×K×64 (first graph only), ``undecided``
        float32 [1]: share of both images' points that are not sure yet after this graph's last
        layer (exit when 1 - undecided > depth_confidence; not from the last segment).
    matches, inputs: ``state``, ``count0``, ``count1``, ``match_threshold`` float32 [1].
    their outputs: ``matches`` int32 K: row in image 1 for each row of image 0, -1 = none;
        ``match_scores`` float32 K: probability, 0 where none. Mutual best pairs above
        ``match_threshold`` only. With count 0 on either side: all -1.

    Raises as ``extractor_graph``.
    """
    check_top_k(top_k)
    parts = matcher_parts(precision)
    made = []
    for part, content in zip(parts, graphs.matcher_graphs(parts, precision), strict=True):
        of = {"kind": "matcher", "part": part, "top_k": top_k, "precision": precision}
        made.append(_finish(LIGHTGLUE, f"{LIGHTGLUE}-{part}", _load(content), {"k": top_k}, of))
    return made


def check_size(size: tuple[int, int], top_k: int) -> None:
    """ConfigurationError where an extractor's graph cannot have images of this width, height."""
    if min(size) < SMALLEST_SIDE:
        raise ConfigurationError(
            f"An image of {size[0]}x{size[1]} pixels is too small for TensorRT's graph, whose "
            f"sides have {SMALLEST_SIDE} or more; set backend to 'cpu'."
        )
    room = (size[0] // 3) * (size[1] // 3)
    if room < top_k:
        raise ConfigurationError(
            f"max_keypoints is {top_k}, but an image of {size[0]}x{size[1]} pixels has room "
            f"for {room} at most; set max_keypoints to {room} or less."
        )


def check_top_k(top_k: int) -> None:
    """ConfigurationError where a graph cannot give as many keypoints."""
    if not 2 <= top_k <= LARGEST_TOP_K:
        raise ConfigurationError(
            f"max_keypoints is {top_k}; TensorRT's TopK gives 2 to {LARGEST_TOP_K}. Set it within "
            "that, or backend to 'cpu'."
        )


def made_of(model: str) -> dict[str, Any]:
    """What every identity says of the weights and of this version's graphs."""
    return {"format": FORMAT, "model": model, "weights_sha256": entry_of(model).sha256}


def _load(graph: bytes) -> onnx.ModelProto:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"Making a graph for TensorRT needs onnx and onnxscript ({error}): pip install "
            "onnxscript."
        ) from error
    model: onnx.ModelProto = onnx.load_from_string(graph)
    return model


def _finish(
    weights: str,
    name: str,
    model: onnx.ModelProto,
    sizes: dict[str, int],
    identity: dict[str, Any],
) -> DeviceGraph:
    """Put ``sizes`` in the place of free sides, and work out all that depends on them alone."""
    from onnx import numpy_helper
    from onnxscript import optimizer

    graph = model.graph
    identity = {**made_of(weights), **identity}
    for key, value in identity.items():
        model.metadata_props.add(key=f"aliked_ros.{key}", value=json.dumps(value))
    for put in (*graph.input, *graph.output):
        for side in put.type.tensor_type.shape.dim:
            if side.dim_param in sizes:
                side.dim_value = sizes[side.dim_param]
    for put in [p for p in graph.input if p.name == "slots"]:  # only its length counts
        graph.input.remove(put)
        slots = np.zeros(sizes["k"], np.float32)
        graph.initializer.append(numpy_helper.from_array(slots, put.name))
    model = optimizer.optimize(model, input_size_limit=1 << 24, output_size_limit=1 << 24)
    return DeviceGraph(
        name,
        model.SerializeToString(),
        {put.name: _spec(put) for put in model.graph.input},
        {put.name: _spec(put) for put in model.graph.output},
        identity,
    )


def _spec(put: onnx.ValueInfoProto) -> TensorSpec:
    import onnx

    tensor = put.type.tensor_type
    shape = tuple(
        side.dim_value if side.HasField("dim_value") else None for side in tensor.shape.dim
    )
    return TensorSpec(shape, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
