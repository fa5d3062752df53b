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

"""The cache of TensorRT engines, each verified before it is used.

Each engine ``engines/NAME.engine`` has a ``NAME.json`` beside it: what network it is, who built it
for what, and the checksums of both files. An engine that does not match is rebuilt, and
one sentence says why; one whose checksum is wrong never reaches TensorRT, which runs whatever an
engine file holds. An engine that fits needs neither its ONNX graph nor PyTorch.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from aliked_ros.backends.gpu.engine_builder import Report, Sides, build_plan
from aliked_ros.backends.gpu.tensorrt_library import Target
from aliked_ros.errors import BackendError, ConfigurationError
from aliked_ros.models.device_export import (
    DeviceGraph,
    GraphPrecision,
    TensorSpec,
    check_size,
    extractor_graph,
    made_of,
    matcher_graphs,
    matcher_parts,
)
from aliked_ros.models.graphs import LIGHTGLUE
from aliked_ros.models.registry import folder_name
from aliked_ros.system.cache import atomic_path, cache_dir, remove_leftovers

FORMAT = 1
"""Incremented when engines of older versions must not be used."""

_POLL = 0.1  # seconds between two attempts to take the lock

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Network:
    """A network that an engine is wanted of.

    name: of the engine's file, without suffix.
    identity: what its graph will say of itself (``DeviceGraph.identity``).
    sides: the image sizes that one engine is to take; None = its shapes are fixed.
    graph: makes the graph, which takes a second. Raises as ``device_export.extractor_graph``.
    """

    name: str
    identity: dict[str, Any]
    sides: Sides | None
    graph: Callable[[], DeviceGraph]


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that is proven to be what its JSON says.

    plan: content of the file, for TensorRT.
    inputs, outputs: its tensors by name.
    built: why it was built now; empty when one from the cache fits.
    """

    path: Path
    plan: bytes
    sha256: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    built: str = ""

    @property
    def label(self) -> str:
        """Name and the first digits of its checksum."""
        return f"{self.path.name} {self.sha256[:12]}"


class EngineRefused(BackendError):
    """An engine file, or its JSON, that is not what was built; the text says what is wrong."""


def engines_dir() -> Path:
    """Folder of the engines."""
    return cache_dir() / "engines"


def extractor_network(
    model: str,
    images: tuple[int, int] | Sides,
    channels: int,
    top_k: int,
    precision: GraphPrecision,
) -> Network:
    """ALIKED for images of one size (width, height), or for all of a range of sizes."""
    sides = images if isinstance(images, Sides) else None
    size = None if isinstance(images, Sides) else images
    width, height = size or (None, None)
    shape = str(sides) if size is None else f"{width}x{height}"
    kind = {"kind": "extractor", "width": width, "height": height, "channels": channels}

    def graph() -> DeviceGraph:
        if sides is not None:
            check_size(sides.smallest, top_k)
        return extractor_graph(model, size, channels, top_k, precision)

    return Network(
        f"{folder_name(model)}_{shape}_{'grey' if channels == 1 else 'rgb'}_k{top_k}_{precision}",
        {**made_of(model), **kind, "top_k": top_k, "precision": precision},
        sides,
        graph,
    )


def matcher_networks(top_k: int, precision: GraphPrecision) -> list[Network]:
    """LightGlue's graphs, in their order: each segment, and the matches after it."""

    @lru_cache(maxsize=1)
    def graphs() -> list[DeviceGraph]:  # they can be made together only
        return matcher_graphs(top_k, precision)

    found = []
    for i, part in enumerate(matcher_parts(precision)):
        identity = {"kind": "matcher", "part": part, "top_k": top_k, "precision": precision}
        found.append(
            Network(
                f"{LIGHTGLUE}_{part}_k{top_k}_{precision}",
                {**made_of(LIGHTGLUE), **identity},
                None,
                lambda i=i: graphs()[i],  # type: ignore[misc]
            )
        )
    return found


def ensure_engine(
    network: Network,
    target: Target,
    tell: Tell | None = None,
    report: Report | None = None,
    again: bool = False,
) -> Engine:
    """The engine of a network from the cache, built first where none fits (or ``again``).

    tell: gets a line on each step, and why an existing engine is rebuilt. Raises
    BackendError when TensorRT cannot build it or the cache cannot be written, and what
    ``network.graph`` raises.
    """
    tell = tell or (lambda line: None)
    report = report or (lambda what, share: None)
    path = engines_dir() / f"{network.name}.engine"
    wanted = _wanted(network, target)

    def fitting() -> tuple[Engine | None, str]:
        try:
            return (None, "asked for again") if again else (_fitting(path, wanted), "")
        except EngineRefused as error:
            return None, str(error)

    engine, _ = fitting()
    if engine is not None:
        return engine
    try:
        with _alone(report):
            engine, reason = fitting()  # another process may have built it while we waited
            if engine is not None:
                return engine
            if path.exists():
                tell(f"{path.name} is rebuilt: {reason}")
            for file in (path, path.with_suffix(".json")):
                remove_leftovers(file)
            graph = network.graph()
            plan = build_plan(network.name, graph, target, network.sides, report, engines_dir())
            return _write(path, plan, wanted, graph, reason)
    except OSError as error:
        raise BackendError(
            f"The engine {path} cannot be written: {error.strerror or error}. Free some space, or "
            "set ALIKED_ROS_CACHE to a folder that can be written."
        ) from error


def read_engine(path: Path) -> tuple[Engine, dict[str, Any]]:
    """An engine and its JSON, both proven by their checksums; EngineRefused says what is wrong."""
    described = path.with_suffix(".json")
    try:
        facts = json.loads(described.read_text(encoding="utf-8"))
        claimed = facts.pop("checksum")
    except FileNotFoundError as error:
        there = f"it has no {described.name}" if path.exists() else "there is none yet"
        raise EngineRefused(there) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineRefused(f"{described.name} is damaged") from error
    if claimed != _checksum(facts):
        raise EngineRefused(f"{described.name} was changed after it was built")
    size, sha256 = facts["file"]["size"], facts["file"]["sha256"]
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise EngineRefused(f"it cannot be read ({error.strerror})") from error
    if len(plan) != size:
        raise EngineRefused(f"it has {len(plan)} bytes, {size} were built")
    if hashlib.sha256(plan).hexdigest() != sha256:
        raise EngineRefused("its content was changed after it was built")
    return Engine(path, plan, sha256, _specs(facts["inputs"]), _specs(facts["outputs"])), facts


def engines() -> dict[str, str]:
    """Names of the engines in the cache, and what each one is or what is wrong with it."""
    found = {}
    for path in sorted(engines_dir().glob("*.engine")):
        try:
            facts = read_engine(path)[1]
        except EngineRefused as error:
            found[path.stem] = f"refused: {error}"
        else:
            capabilities = ", ".join(facts["compute_capabilities"])
            found[path.stem] = (
                f"{facts['tensorrt']}, compute capability {capabilities}, "
                f"workspace {facts.get('workspace', '?')} MiB"
            )
    return found


def find_ranged(
    model: str, size: tuple[int, int], channels: int, top_k: int, precision: str
) -> Sides | None:
    """The range of sizes of an extractor's engine in the cache that takes images of ``size``."""
    wanted = {"model": model, "channels": channels, "top_k": top_k, "precision": precision}
    for described in sorted(engines_dir().glob("*.json")):
        try:
            facts = json.loads(described.read_text(encoding="utf-8"))
            if not facts["sizes"]:
                continue
            sides = Sides(*(tuple(side) for side in facts["sizes"]))
            fits = sides.holds(size) and facts["network"].items() >= wanted.items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigurationError):
            continue  # damaged
        if fits:
            return sides
    return None


def _fitting(path: Path, wanted: Mapping[str, Any]) -> Engine:
    """The engine in the cache; EngineRefused says how it differs from what is wanted."""
    engine, facts = read_engine(path)
    if difference := _difference(facts, wanted):
        raise EngineRefused(difference)
    return engine


def _wanted(network: Network, target: Target) -> dict[str, Any]:
    sides = network.sides
    return {
        "format": FORMAT,
        "network": network.identity,
        "sizes": [list(sides.smallest), list(sides.largest)] if sides else None,
        **target.facts,
    }


def _difference(facts: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """How an engine differs from what is wanted, the most telling thing; empty = it fits."""
    if facts.get("format") != wanted["format"]:
        return f"it has format {facts.get('format')}, this version needs {wanted['format']}"
    if facts["tensorrt"] != wanted["tensorrt"]:
        return f"it was built by {facts['tensorrt']}, this is {wanted['tensorrt']}"
    missing = [
        capability
        for capability in wanted["compute_capabilities"]
        if capability not in facts["compute_capabilities"]
    ]
    if missing:
        return (
            f"it was built for compute capability {', '.join(facts['compute_capabilities'])}, "
            f"not {', '.join(missing)}"
        )
    if "for RTX" not in wanted["tensorrt"]:  # which finishes its engines on the GPU that runs them
        if facts["gpu"] != wanted["gpu"]:
            return f"it was built on a {facts['gpu']}, this is a {wanted['gpu']}"
        if facts["cuda"].split(".")[0] != wanted["cuda"].split(".")[0]:
            return f"it was built with CUDA {facts['cuda']}, this is CUDA {wanted['cuda']}"
    if facts["sizes"] != wanted["sizes"]:
        return f"it takes image sizes {facts['sizes']}, wanted {wanted['sizes']}"
    for key, value in wanted["network"].items():
        if facts["network"].get(key) != value:
            return f"its {key.replace('_', ' ')} is {facts['network'].get(key)}, wanted {value}"
    if (workspace := facts.get("workspace")) != wanted["workspace"]:
        return f"its workspace is {workspace} MiB, wanted {wanted['workspace']}"
    return ""


def _checksum(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _write(
    path: Path, plan: bytes, wanted: Mapping[str, Any], graph: DeviceGraph, reason: str
) -> Engine:
    """Both files, each whole or not at all; one without the other is refused by its checksum."""
    facts = {
        **wanted,
        "network": graph.identity,
        "onnx_sha256": hashlib.sha256(graph.onnx).hexdigest(),
        "inputs": _described(graph.inputs),
        "outputs": _described(graph.outputs),
        "file": {"size": len(plan), "sha256": hashlib.sha256(plan).hexdigest()},
    }
    with atomic_path(path) as written:
        written.write_bytes(plan)
    with atomic_path(path.with_suffix(".json")) as written:
        text = json.dumps({**facts, "checksum": _checksum(facts)}, indent=1)
        written.write_text(text, encoding="utf-8")
    return Engine(path, plan, facts["file"]["sha256"], graph.inputs, graph.outputs, built=reason)


def _described(tensors: Mapping[str, TensorSpec]) -> dict[str, list[Any]]:
    return {name: [list(tensor.shape), tensor.dtype] for name, tensor in tensors.items()}


def _specs(described: Mapping[str, list[Any]]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(tuple(shape), dtype) for name, (shape, dtype) in described.items()}


@contextmanager
def _alone(report: Report) -> Iterator[None]:
    """Let one process build at a time."""
    engines_dir().mkdir(parents=True, exist_ok=True)
    with (engines_dir() / ".lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                report("another process is building engines; waiting for it", 0.0)
                time.sleep(_POLL)
        yield
