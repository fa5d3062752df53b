"""Exporting networks to ONNX, once, so that nothing needs PyTorch at run time.

Each model gets a folder in the cache with its ONNX files and ``manifest.json``, which names the
checksum of the weights they were made from, and the size of each file; when the weights or
``FORMAT`` change, or a file is missing or cut off, the folder is made anew. Every ONNX file carries
the same identity in its own metadata.

    python -m aliked_ros.models.export --all
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aliked_ros.cache import atomic_path, cache_dir, remove_leftovers
from aliked_ros.configuration import is_checkpoint
from aliked_ros.errors import AlikedError, ModelError
from aliked_ros.models.registry import MODELS, entry_of, weights_path

if TYPE_CHECKING:
    import onnx
    from torch import nn

Progress = Callable[[str], None]
Maker = Callable[[Path, Path, dict[str, Any], Progress], None]

FORMAT = 4
"""Grows whenever the exported files change, so that folders made by older code are made anew."""

LIGHTGLUE = "aliked-lightglue"
MANIFEST = "manifest.json"
OPSET = 19  # the first with Resize and DeformConv as the networks need them
_LARGEST_SIDE = 8192


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """One folder of exported networks.

    identity: what the manifest says (format, model, weights_sha256, sizes of the network, files).
    fresh: made from the weights in use, by this version's code, and all there.
    """

    name: str
    folder: Path
    identity: dict[str, Any]
    fresh: bool


def models_dir() -> Path:
    """Folder that holds one folder for each exported model."""
    return cache_dir() / "models"


def exported() -> list[ExportedModel]:
    """The exported models in the cache."""
    found = []
    for name in MODELS:
        folder = models_dir() / name
        identity = _read_manifest(folder)
        if identity is not None:
            fresh = _is_fresh(name, folder, FORMAT)
            found.append(ExportedModel(name, folder, identity, fresh))
    return found


def ensure_exported(name: str, progress: Progress | None = None) -> Path:
    """Folder of the exported networks of a model, made first where missing, incomplete or stale.

    Raises WeightsError for missing or wrong weights, ModelError when PyTorch is needed and not
    installed, its exporter fails, or the cache cannot be written.
    """
    return _export(name, progress, again=False)


def export(name: str, progress: Progress | None = None) -> Path:
    """Export a model, replacing what is there; same errors as ``ensure_exported``."""
    return _export(name, progress, again=True)


def _export(name: str, progress: Progress | None, again: bool) -> Path:
    report = progress or (lambda _: None)
    make = _export_lightglue if name == LIGHTGLUE else _export_aliked
    return make_folder(name, models_dir() / folder_name(name), FORMAT, make, report, again)


def folder_name(model: str) -> str:
    """What a model's folders are called: a checkpoint of one's own by the begin of its checksum."""
    if not is_checkpoint(model):
        return model
    entry = entry_of(model)
    return f"{entry.name}-{entry.sha256[:12]}"


def make_folder(
    name: str, folder: Path, number: int, make: Maker, report: Progress, again: bool = False
) -> Path:
    """Let ``make`` fill ``folder`` with networks of a model, unless they are there already.

    number: of the format; folders of another one are made anew, as all are where ``again``.
    make: called with the checkpoint, an empty folder, the identity to write into the files (which
    it may add to), and ``report``. Same errors as ``ensure_exported``.
    """
    if not again and _is_fresh(name, folder, number):
        return folder
    weights = weights_path(name)
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a library that PyTorch links to is missing
        raise ModelError(
            f"The exported networks of {name} in {folder} are missing, incomplete or out of date, "
            f"and making them needs onnx, onnxscript and torch: {error}. Install "
            "requirements/export.txt here, or export on another machine and copy that folder here."
        ) from error
    identity: dict[str, Any] = {
        "format": number,
        "model": name,
        "weights_sha256": entry_of(name).sha256,
    }
    try:
        with _alone(report):
            if not again and _is_fresh(name, folder, number):  # made while we waited
                return folder
            remove_leftovers(folder)
            with atomic_path(folder) as written:
                written.mkdir()
                make(weights, written, identity, report)
                files = {file.name: file.stat().st_size for file in sorted(written.iterdir())}
                manifest = json.dumps({**identity, "files": files}, indent=1)
                (written / MANIFEST).write_text(manifest, encoding="utf-8")
    except AlikedError:
        raise
    except OSError as error:
        raise ModelError(
            f"The exported networks of {name} cannot be written to {folder}: {error}. Free some "
            "space, or set ALIKED_ROS_CACHE to a folder that can be written."
        ) from error
    except Exception as error:  # the exporter has many ways to fail
        said = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"PyTorch's exporter failed on {name}: {type(error).__name__}: {said}. "
            "Install the versions of requirements/export.txt."
        ) from error
    return folder


@contextmanager
def _alone(report: Progress) -> Iterator[None]:
    """Let one process export at a time: several nodes may start at once on a new machine."""
    models_dir().mkdir(parents=True, exist_ok=True)
    with (models_dir() / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process is exporting networks; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_manifest(folder: Path, *needed: str) -> dict[str, Any]:
    """The manifest of an exported model; ModelError if it is damaged or lacks a needed entry."""
    identity = _read_manifest(folder)
    if identity is None or not identity.keys() >= set(needed):
        raise _damaged(folder / MANIFEST)
    return identity


def load_arrays(path: Path, *needed: str) -> dict[str, NDArray[Any]]:
    """The arrays of an exported .npz by name, in the order they were saved in.

    Raises ModelError if the file is missing, damaged, or lacks a needed array.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise _damaged(path) from error
    if not arrays.keys() >= set(needed):
        raise _damaged(path)
    return arrays


def _damaged(path: Path) -> ModelError:
    return ModelError(
        f"{path} is missing or damaged; run: aliked_ros models export {path.parent.name} --force"
    )


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        identity = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return identity if isinstance(identity, dict) else None


def _is_fresh(name: str, folder: Path, number: int) -> bool:
    """Whether this version's code made the folder's files of the weights in use, and all are there.

    number: the format that this version's code writes.

    Sizes show what a full disk or a broken copy leaves, without reading the files.
    """
    identity = _read_manifest(folder)
    if identity is None or identity.get("format") != number:
        return False
    if identity.get("weights_sha256") != entry_of(name).sha256:
        return False
    try:
        return all((folder / f).stat().st_size == size for f, size in identity["files"].items())
    except OSError:
        return False


def _export_aliked(weights: Path, folder: Path, identity: dict[str, Any], report: Progress) -> None:
    import torch

    from aliked_ros.networks import folded
    from aliked_ros.networks.aliked import ALIKED

    network = ALIKED.from_checkpoint(weights)
    shape = network.shape
    identity.update(dim=shape.dim, kernel=shape.kernel, samples=shape.samples)
    # sides are multiples of 32 pixels, and both are free
    rows, columns = (torch.export.Dim(n, min=2, max=_LARGEST_SIDE // 32) for n in ("h", "w"))
    for channels, kind in ((3, "rgb"), (1, "grey")):
        report(f"{identity['model']}: encoder ({kind})")
        export_graph(
            folded.FoldedEncoder(network, channels),
            {"image": torch.zeros(1, 128, 160, channels, dtype=torch.uint8)},
            [f"{kind}{i}" for kind in ("score", "level") for i in (1, 2, 3, 4)],
            ({1: 32 * rows, 2: 32 * columns},),
            folder / f"encoder_{kind}.onnx",
            identity,
        )
    report(f"{identity['model']}: descriptor head")
    count = torch.export.Dim("n", min=2, max=_LARGEST_SIDE)
    patch = shape.kernel**2 * shape.dim
    export_graph(
        folded.FoldedOffsets(network),
        {"patches": torch.zeros(64, patch)},
        ["offsets"],
        ({0: count},),
        folder / "offsets.onnx",
        identity,
    )
    export_graph(
        folded.FoldedAggregation(network),
        {"samples": torch.zeros(64, shape.samples, shape.dim)},
        ["descriptors"],
        ({0: count},),
        folder / "aggregation.onnx",
        identity,
    )
    tail = folded.score_tail_weights(network)
    np.savez(folder / "score_tail.npz", *(w.numpy() for w in tail))


def _export_lightglue(
    weights: Path, folder: Path, identity: dict[str, Any], report: Progress
) -> None:
    import torch

    from aliked_ros.networks import folded
    from aliked_ros.networks.lightglue import DIM, HEAD_DIM, LightGlue, exit_threshold

    network = LightGlue.from_checkpoint(weights)
    input_dim = network.input_proj.in_features
    identity.update(
        layers=network.layers,
        input_dim=input_dim,
        exit_thresholds=[exit_threshold(i, network.layers) for i in range(network.layers - 1)],
    )
    count = torch.export.Dim("n", min=2, max=_LARGEST_SIDE)
    other = torch.export.Dim("m", min=2, max=_LARGEST_SIDE)
    report(f"{identity['model']}: embedding")
    export_graph(
        folded.FoldedEmbedding(network),
        {
            "descriptors": torch.zeros(1, 64, input_dim),
            "rotation": torch.zeros(1, 64, HEAD_DIM),
            "mask": torch.zeros(1, 1, 1, 64),
        },
        ["state"],
        ({1: count}, {1: count}, {3: count}),
        folder / "embedding.onnx",
        identity,
    )
    angles = network.posenc.Wr.weight.detach().numpy()
    np.savez(folder / "encoding.npz", angles=angles.T)
    report(f"{identity['model']}: layers")
    inputs = {"state": torch.zeros(2, 64, DIM), "mask": torch.zeros(2, 1, 1, 64)}
    rotation = {"rotation": torch.zeros(2, 64, HEAD_DIM)}
    outputs = ["new_state", "probabilities"]
    axes: tuple[dict[int, Any], ...] = ({1: count}, {3: count}, {1: count})
    layers = [folded.FoldedLayer(network, i) for i in range(network.layers)]
    paths = [folder / f"layer_{i}.onnx" for i in range(network.layers)]
    # the first layer's self-attention, and with it the rotation, is in the embedding
    export_graph(layers[0], inputs, outputs, axes[:2], paths[0], identity)
    export_graphs(layers[1:], inputs | rotation, outputs, axes, paths[1:], identity)
    report(f"{identity['model']}: assignments")
    export_graphs(
        [folded.FoldedAssignment(network, i) for i in range(network.layers)],
        {"state0": torch.zeros(64, DIM), "state1": torch.zeros(72, DIM)},
        ["similarity"],
        ({0: count}, {0: other}),
        [folder / f"assignment_{i}.onnx" for i in range(network.layers)],
        identity,
    )


def export_graph(
    module: nn.Module,
    inputs: dict[str, Any],
    outputs: list[str],
    dynamic: tuple[dict[int, Any], ...] | None,
    path: Path,
    identity: dict[str, Any],
) -> None:
    """Export one module; see ``export_graphs``."""
    export_graphs([module], inputs, outputs, dynamic, [path], identity)


def export_graphs(
    modules: list[Any],
    inputs: dict[str, Any],
    outputs: list[str],
    dynamic: tuple[dict[int, Any], ...] | None,
    paths: list[Path],
    identity: dict[str, Any],
) -> None:
    """Trace the first module; the others differ in their weights only, which are put in place.

    inputs: an example of each, by name. dynamic: the free axes of each input, None = none.
    identity: goes into every file's metadata.
    """
    import onnx
    import torch
    from onnxscript import opset19 as op

    def deform_conv(x: Any, offset: Any, weight: Any) -> Any:
        return op.DeformConv(x, weight, offset, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            modules[0].eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=dynamic,
            custom_translation_table={torch.ops.aliked_ros.deform_conv2d.default: deform_conv},
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _forget_sources(model.graph)
    for key, value in identity.items():
        model.metadata_props.add(key=f"aliked_ros.{key}", value=json.dumps(value))
    onnx.save(model, str(paths[0]))
    for module, path in zip(modules[1:], paths[1:], strict=True):
        _replace_weights(model, module)
        onnx.save(model, str(path))


def _forget_sources(graph: onnx.GraphProto) -> None:
    """Drop the exporter's notes (source paths, stack traces): the same network, the same bytes."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")


def _replace_weights(model: onnx.ModelProto, module: nn.Module) -> None:
    from onnx import numpy_helper

    state = module.state_dict()
    replaced = 0
    for tensor in model.graph.initializer:
        if tensor.name in state:
            values = state[tensor.name].numpy()
            assert tuple(tensor.dims) == values.shape, tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            replaced += 1
    if replaced != len(state):
        missing = set(state) - {t.name for t in model.graph.initializer}
        raise ModelError(
            f"The exporter renamed the weights {', '.join(sorted(missing))}; "
            "use the versions of requirements/export.txt."
        )


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


def main() -> int:
    """Command line: export named models, or all of them, where missing or stale."""
    parser = argparse.ArgumentParser(description="Export networks to ONNX, into the cache.")
    parser.add_argument(
        "models", nargs="*", choices=[*MODELS, []], metavar="MODEL", help="models to export"
    )
    parser.add_argument("--all", action="store_true", help="all models")
    parser.add_argument("--force", action="store_true", help="even where they are up to date")
    arguments = parser.parse_args()
    names = list(MODELS) if arguments.all else arguments.models
    try:
        for name in names:
            make = export if arguments.force else ensure_exported
            print(f"{name}: {make(name, progress=lambda text: print(f'  {text}', flush=True))}")
    except AlikedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
