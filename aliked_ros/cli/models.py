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

"""``models``: weights and networks."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated, Literal

import typer

from aliked_ros.cli.shared import AsJson, console, help_of, say, show
from aliked_ros.configuration import FrontendConfig, parse_image_size

app = typer.Typer(
    no_args_is_help=True, help="Weights and networks: list, fetch, build TensorRT engines."
)

Names = Annotated[list[str] | None, typer.Argument(help="Names as in 'models list'; default: all.")]
Force = Annotated[bool, typer.Option("--force", help="Also what is already there.")]


class EnginePrecision(str, Enum):
    """Numbers in TensorRT engines."""

    fp16 = "fp16"
    fp32 = "fp32"

    @property
    def type(self) -> Literal["float16", "float32"]:
        """By the name that the settings use."""
        return "float16" if self is EnginePrecision.fp16 else "float32"


@app.command("list", epilog="Example: aliked_ros models list --json")
def list_models(as_json: AsJson = False) -> None:
    """List the models, their licences, and which are fetched."""
    from aliked_ros.errors import WeightsError
    from aliked_ros.models.registry import MODELS, weights_path

    rows = []
    for entry in MODELS.values():
        try:
            weights: str | None = str(weights_path(entry.name))
        except WeightsError:
            weights = None
        rows.append(
            {
                "name": entry.name,
                "used_for": entry.used_for,
                "licence": entry.licence,
                "source": entry.source,
                "sha256": entry.sha256,
                "weights": weights,
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(f"{row['name']}: {row['used_for']}")
        print(f"    weights   {row['weights'] or 'missing; run: aliked_ros models fetch'}")
        print(f"    licence   {row['licence']}, {row['source']}")


@app.command(epilog="Example: aliked_ros models fetch aliked-n16 aliked-lightglue")
def fetch(names: Names = None, force: Force = False, as_json: AsJson = False) -> None:
    """Fetch the published weights and check them by SHA-256."""
    from aliked_ros.console.progress import share_progress
    from aliked_ros.models.registry import MODELS
    from aliked_ros.models.registry import fetch as fetch_weights

    with share_progress(console()) as report:
        paths = fetch_weights(names or MODELS, report, force)
    show({name: str(path) for name, path in paths.items()}, as_json)


@app.command(epilog="Example: aliked_ros models build --size 640x480 --top-k 1024 --precision fp16")
def build(
    size: Annotated[str, typer.Option(help="Width and height of the images, e.g. 640x480.")],
    model: Annotated[str, typer.Option(help=help_of("model"))] = FrontendConfig().model,
    top_k: Annotated[
        int, typer.Option(help=help_of("max_keypoints"))
    ] = FrontendConfig().max_keypoints,
    precision: Annotated[EnginePrecision, typer.Option()] = EnginePrecision.fp16,
    grey: Annotated[bool, typer.Option("--grey", help="For grey images, not RGB.")] = False,
    max_size: Annotated[
        str | None, typer.Option(help="One engine for all sizes from --size to this one.")
    ] = None,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            help="TensorRT for RTX: build for GPUs that are not here, e.g. 8.9; repeatable."
        ),
    ] = None,
    workspace: Annotated[
        int, typer.Option(min=16, help="MiB of GPU memory a layer may take; as the node's.")
    ] = FrontendConfig().workspace,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Build TensorRT engines of ALIKED and LightGlue; those in the cache that fit are kept."""
    from aliked_ros.backends.gpu.engine_builder import Sides
    from aliked_ros.backends.gpu.engines import ensure_engine, extractor_network, matcher_networks
    from aliked_ros.backends.gpu.tensorrt_library import choose_target
    from aliked_ros.console.progress import share_progress

    FrontendConfig(model=model, max_keypoints=top_k, matcher="nearest")  # says what is impossible
    smallest = parse_image_size(size)[:2]
    images = Sides(smallest, parse_image_size(max_size)[:2]) if max_size else smallest
    networks = [extractor_network(model, images, 1 if grey else 3, top_k, precision.type)]
    if model != "aliked-t16":  # for whose descriptors there is no LightGlue
        networks += matcher_networks(top_k, precision.type)
    target = choose_target(compute_capability or (), workspace)
    facts: dict[str, str] = {}
    with share_progress(console()) as report:
        for network in networks:
            engine = ensure_engine(network, target, say, report, force)
            facts[str(engine.path)] = f"built: {engine.built}" if engine.built else "fits"
    print(json.dumps(facts, indent=2) if as_json else "\n".join(map(": ".join, facts.items())))
