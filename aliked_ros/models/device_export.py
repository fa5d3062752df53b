"""Whole-device graphs: ALIKED from image to descriptors, LightGlue from descriptors to matches.

Made in two steps. PyTorch exports a network once with its sides free, into a folder of the cache
(``graphs/MODEL-PRECISION``, with a manifest as in ``aliked_ros.models.export``). From that file a
graph of given sizes follows in about a second, without PyTorch: only ``onnx`` and ``onnxscript``
are needed, so the folder can be made on one machine and copied to the robot.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aliked_ros.cache import cache_dir
from aliked_ros.errors import ConfigurationError, ModelError
from aliked_ros.models.export import LIGHTGLUE, export_graph, folder_name, make_folder

if TYPE_CHECKING:
    import onnx

Progress = Callable[[str], None]

GraphPrecision = Literal["float32", "float16"]

FORMAT = 3
"""Grows whenever the graphs change, so that folders made by older code are made anew."""

LARGEST_TOP_K = 3840
"""Most keypoints that TensorRT's TopK gives."""

SMALLEST_SIDE = 33
"""Pixels: the coarsest level, of stride 32, needs two rows and columns to be read between."""

SEGMENT_LAYERS = 3
"""LightGlue layers between two checks of the exit criterion."""

_EXTRACTOR = "extractor.onnx"
_LARGEST_SIDE = 8192


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


def graphs_dir() -> Path:
    """Folder that holds one folder for each exported network and precision."""
    return cache_dir() / "graphs"


def extractor_graph(
    model: str,
    size: tuple[int, int] | None,
    channels: int,
    top_k: int,
    precision: GraphPrecision,
    progress: Progress | None = None,
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

    Raises WeightsError, ModelError (PyTorch is needed to make it and not installed, exporter
    failed, the cache cannot be written), ConfigurationError (top_k above 3840 or more than the
    image has room for, which is one in 3×3 pixels; a side below ``SMALLEST_SIDE``).
    """
    check_top_k(top_k)
    if size is not None:
        check_size(size, top_k)
    folder = _ensure(model, precision, progress)
    graph = _load(folder / _EXTRACTOR)
    if channels == 1:
        _take_grey(graph.graph)
    sizes = {"k": top_k}
    if size is not None:
        sizes |= {"w": size[0], "h": size[1]}
    of = {"kind": "extractor", "width": sizes.get("w"), "height": sizes.get("h")}
    identity = {**of, "channels": channels, "top_k": top_k, "precision": precision}
    return _finish(model, graph, sizes, identity)


def matcher_graphs(
    top_k: int,
    precision: GraphPrecision,
    progress: Progress | None = None,
) -> list[DeviceGraph]:
    """LightGlue for two images of ``top_k`` rows each, as segments of three layers.

    first graph, inputs:  ``keypoints0``, ``keypoints1`` float32 K×2 pixels; ``descriptors0``,
        ``descriptors1`` K×128 (float32, or float16 by precision: what the extractor gives);
        ``count0``, ``count1`` int32 [1]; ``size`` float32 [2]: width, height of both images;
        ``match_threshold`` float32 [1].
    the others, inputs:   ``state``, ``rotation`` (outputs of the graph before, same names with
        the prefix ``new_`` removed; ``rotation`` comes from the first graph and stays),
        ``count0``, ``count1``, ``match_threshold``.
    outputs: ``new_state`` 2×K×256 (not from the last graph), ``rotation`` 2×K×64 (first graph of
        several only), ``undecided`` float32 [1]: share of both images' points that are not sure
        yet after this graph's last layer (exit when 1 - undecided > depth_confidence; not from the
        last graph), ``matches`` int32 K: row in image 1 for each row of image 0, -1 = none;
        ``match_scores`` float32 K: probability, 0 where none. Mutual best pairs above
        ``match_threshold`` only. With count 0 on either side: all -1.

    Raises as ``extractor_graph``.
    """
    check_top_k(top_k)
    folder = _ensure(LIGHTGLUE, precision, progress)
    graphs = []
    for path in sorted(folder.glob("*.onnx")):
        of = {"kind": "matcher", "part": path.stem, "top_k": top_k, "precision": precision}
        graphs.append(_finish(f"{LIGHTGLUE}-{path.stem}", _load(path), {"k": top_k}, of))
    return graphs


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


def _ensure(model: str, precision: GraphPrecision, progress: Progress | None) -> Path:
    """Folder of the exported graphs with free sides, made first where missing or stale."""

    def make(weights: Path, folder: Path, identity: dict[str, Any], report: Progress) -> None:
        identity["precision"] = precision
        report(f"{model}: {precision} graph for TensorRT")
        if model == LIGHTGLUE:
            _export_matcher(weights, folder, identity, precision == "float16", report)
        else:
            _export_extractor(weights, folder, identity, precision == "float16")

    folder = graphs_dir() / f"{folder_name(model)}-{precision}"
    return make_folder(model, folder, FORMAT, make, progress or (lambda _: None))


def _export_extractor(weights: Path, folder: Path, identity: dict[str, Any], half: bool) -> None:
    import torch

    from aliked_ros.networks import device
    from aliked_ros.networks.aliked import ALIKED

    height, width = (torch.export.Dim(n, min=SMALLEST_SIDE, max=_LARGEST_SIDE) for n in ("h", "w"))
    count = torch.export.Dim("k", min=2, max=LARGEST_TOP_K)
    export_graph(
        device.DeviceExtractor(ALIKED.from_checkpoint(weights), 3, half),
        device.extractor_inputs(130, 170, 3, 100),
        list(device.EXTRACTOR_OUTPUTS),
        ({1: height, 2: width}, {0: height, 1: width}, {}, {0: count}),
        folder / _EXTRACTOR,
        identity,
    )


def _export_matcher(
    weights: Path,
    folder: Path,
    identity: dict[str, Any],
    half: bool,
    report: Progress,
) -> None:
    import torch

    from aliked_ros.networks import device
    from aliked_ros.networks.lightglue import LightGlue

    network = LightGlue.from_checkpoint(weights)
    rows = 72  # an example, unlike any size within the network
    k = torch.export.Dim("k", min=2, max=LARGEST_TOP_K)
    for start in range(0, network.layers, SEGMENT_LAYERS):
        layers = range(start, min(start + SEGMENT_LAYERS, network.layers))
        report(f"{LIGHTGLUE}: layers {layers.start} to {layers.stop - 1}")
        inputs = device.matcher_inputs(network, layers, rows, half)
        export_graph(
            device.matcher(network, layers, half),
            inputs,
            device.matcher_outputs(network, layers),
            tuple(
                {side: k for side, length in enumerate(x.shape) if length == rows}
                for x in inputs.values()
            ),
            folder / f"layers_{layers.start}_{layers.stop - 1}.onnx",
            identity,
        )


def _load(path: Path) -> onnx.ModelProto:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"Making a graph of {path} needs onnx and onnxscript: {error}. Install "
            "requirements/tensorrt.txt."
        ) from error
    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf's own exceptions have no common base
        raise ModelError(
            f"{path} is damaged ({type(error).__name__}); remove its folder to have it made anew."
        ) from error


def _take_grey(graph: onnx.GraphProto) -> None:
    """Let the first convolution take one channel that stands for three equal ones."""
    from onnx import numpy_helper

    (image,) = (put for put in graph.input if put.name == "image")
    (tensor,) = (t for t in graph.initializer if t.name == "encoder.conv1.weight")
    image.type.tensor_type.shape.dim[3].dim_value = 1
    weight = numpy_helper.to_array(tensor)
    summed = weight.sum(1, keepdims=True, dtype=np.float32).astype(weight.dtype)
    tensor.CopyFrom(numpy_helper.from_array(summed, tensor.name))


def _finish(
    name: str, model: onnx.ModelProto, sizes: dict[str, int], identity: dict[str, Any]
) -> DeviceGraph:
    """Put ``sizes`` in the place of free sides, and work out all that depends on them alone."""
    from onnx import numpy_helper
    from onnxscript import optimizer

    graph = model.graph
    made_of = {p.key.removeprefix("aliked_ros."): json.loads(p.value) for p in model.metadata_props}
    identity = {**made_of, **identity}
    del model.metadata_props[:]
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
    del graph.value_info[:]
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
