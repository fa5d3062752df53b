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

"""The command ``aliked_ros``.

Results go to standard output (as JSON with ``--json``), progress and errors to standard error.
Exit status: 0 done, 1 the doctor found something broken, or a comparison something slower, 2 bad
input or set-up (one line says what and how to go on), 130 interrupted.

Whatever takes long to import is imported inside the command that needs it, so ``--help`` is quick.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from aliked_ros.benchmark.commands import app as bench_app
from aliked_ros.configuration import SETTINGS, FrontendConfig, parse_image_size
from aliked_ros.console.options import Command, shared_options
from aliked_ros.errors import AlikedError, BackendError, ImageError, SourceError
from aliked_ros.evaluation.commands import evaluate_app
from aliked_ros.system.packages import missing
from aliked_ros.training.commands import train

if TYPE_CHECKING:
    from aliked_ros.backends.base import Backend


class ExportFormat(str, Enum):
    """What a recording can be turned into."""

    colmap = "colmap"
    tum = "tum"


class EnginePrecision(str, Enum):
    """Numbers in TensorRT engines."""

    fp16 = "fp16"
    fp32 = "fp32"

    @property
    def type(self) -> Literal["float16", "float32"]:
        """By the name that the settings use."""
        return "float16" if self is EnginePrecision.fp16 else "float32"


class _Commands(TyperGroup):
    """Says what went wrong in one line instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        logging.basicConfig(format="%(levelname)s: %(message)s")
        try:
            return super().invoke(ctx)
        except AlikedError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        except ImportError as error:
            print(f"error: {missing(error)}", file=sys.stderr)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="ALIKED features, LightGlue matches and tracks, from the command line.",
)
models_app = typer.Typer(no_args_is_help=True, help="Weights and networks: list, fetch, export.")
app.add_typer(models_app, name="models")
app.add_typer(bench_app, name="bench")
app.add_typer(evaluate_app, name="evaluate")
app.command(epilog="Example: aliked_ros train config/train_images.yaml")(train)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Names = Annotated[list[str] | None, typer.Argument(help="Names as in 'models list'; default: all.")]
Force = Annotated[bool, typer.Option("--force", help="Even what is there already.")]


_EXTRACTION = {
    "model": "--model",
    "max_keypoints": "--top-k",
    "score_threshold": "--threshold",
    "backend": "--backend",
    "precision": "--precision",
    "threads": "--threads",
}
_MATCHING = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        "matcher", "match_threshold", "depth_confidence", "width_confidence", "min_similarity",
    )
}  # fmt: skip


def _help(name: str) -> str:
    return SETTINGS[name].full_help


def _frontend_options(offered: dict[str, str], **fixed: Any) -> Callable[[Command], Command]:
    """Give a command options of the front-end; it gets them checked, as its ``config``.

    offered: setting → option. fixed: settings that are not offered, where they differ from the
    defaults.
    """
    options = {}
    for name, flag in offered.items():
        default = SETTINGS[name].default
        options[name] = Annotated[type(default), typer.Option(flag, help=_help(name))], default
    return shared_options(options, "config", lambda **settings: FrontendConfig(**settings, **fixed))


@app.command(epilog="Example: aliked_ros extract photo.jpg --top-k 2000 --output features.npz")
@_frontend_options(_EXTRACTION, matcher="nearest")
def extract(
    image: Annotated[Path, typer.Argument(help="Image file.")],
    config: FrontendConfig,
    output: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="Write keypoints (N×2), scores, descriptors to this .npz."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find ALIKED features in an image."""
    from aliked_ros.frontend.extractor import Extractor
    from aliked_ros.io.results import write_arrays
    from aliked_ros.sources import read_image

    pixels = read_image(image)
    with _backend(config) as backend:
        features = Extractor(config, backend).extract(pixels)
    if output is not None:
        write_arrays(
            output,
            keypoints=features.keypoints,
            scores=features.scores,
            descriptors=features.descriptors,
        )
    facts = {
        "image": str(image),
        "width": features.width,
        "height": features.height,
        "model": features.model,
        "features": len(features),
        "dimension": features.descriptors.shape[1],
        "backend": backend.description,
        "output": _text(output),
    }
    _show(facts, as_json)


@app.command(epilog="Example: aliked_ros match a.jpg b.jpg --output matches.png --npz matches.npz")
@_frontend_options(_EXTRACTION | _MATCHING)
def match(
    image0: Annotated[Path, typer.Argument(help="Reference image.")],
    image1: Annotated[Path, typer.Argument(help="Image that is matched against it.")],
    config: FrontendConfig,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw the matches to this picture.")
    ] = None,
    npz: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Write keypoints0 (N×2), keypoints1 (M×2), matches (K×2 indices), scores (K).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Match two images."""
    import numpy as np

    from aliked_ros.frontend.extractor import Extractor
    from aliked_ros.frontend.matcher import build_matcher
    from aliked_ros.io.drawing import draw_matches
    from aliked_ros.io.results import write_arrays, write_picture
    from aliked_ros.sources import read_image

    pixels0, pixels1 = read_image(image0), read_image(image1)
    with _backend(config) as backend:
        extractor, matcher = Extractor(config, backend), build_matcher(config, backend)
        features0, features1 = extractor.extract(pixels0), extractor.extract(pixels1)
        matches = matcher.match(features0, features1)
    if npz is not None:
        write_arrays(
            npz,
            keypoints0=features0.keypoints,
            keypoints1=features1.keypoints,
            matches=np.stack([matches.reference_indices, matches.current_indices], axis=1),
            scores=matches.scores,
        )
    if output is not None:
        caption = f"{config.model}, {config.matcher}: {len(matches)} matches"
        picture = draw_matches(pixels0, features0, pixels1, features1, matches, caption=caption)
        write_picture(output, picture)
    facts = {
        "image0": str(image0),
        "image1": str(image1),
        "model": config.model,
        "matcher": config.matcher,
        "features0": len(features0),
        "features1": len(features1),
        "matches": len(matches),
        "mean_score": round(float(matches.scores.mean()), 4) if len(matches) else None,
        "layers": matches.layers,
        "backend": backend.description,
        "output": _text(output),
        "npz": _text(npz),
    }
    _show(facts, as_json)


@app.command(epilog="Example: aliked_ros track video.mp4 --limit 300 --output tracks/")
@_frontend_options(_EXTRACTION | _MATCHING | {"detection": "--detection"})
def track(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of images, data set (TUM RGB-D, KITTI, EuRoC), recording "
            "(RECORDING#/image/topic), video file, 'camera:0', or 'virtual'."
        ),
    ],
    config: FrontendConfig,
    output: Annotated[
        Path,
        typer.Option(
            file_okay=False,
            help="Folder for tracks.mp4, tracks.npz (frame, id, x, y), summary.json.",
        ),
    ],
    limit: Annotated[int | None, typer.Option(help="Stop after so many images.")] = None,
    as_json: AsJson = False,
) -> None:
    """Track features through a sequence; Ctrl-C ends it and keeps what has been done."""
    from aliked_ros.console.progress import image_progress
    from aliked_ros.frontend.pipeline import Pipeline
    from aliked_ros.io.results import TrackResults
    from aliked_ros.sources import open_source

    images = open_source(source, limit)
    facts: dict[str, Any] = {"source": source, "skipped": 0, "refused": 0}
    results = TrackResults(output, images.rate, facts)
    with closing(Pipeline(config, _say)) as pipeline:
        facts |= pipeline.identity
        with results, image_progress(_console()) as progress:
            task = progress.add_task(images.name, total=images.length, note="")
            try:
                for image in images:
                    try:
                        result = pipeline.process(image)
                    except ImageError as error:
                        facts["refused"] += 1
                        logging.getLogger(__name__).warning("refused: %s", error)
                        continue
                    results.add(image, result)
                    tracked = int((result.tracks.lengths > 1).sum())
                    note = f"{tracked} of {len(result.features)} features tracked"
                    progress.update(task, advance=1, note=note)
            finally:
                facts["skipped"] = images.skipped
    if not results.summary["frames"]:
        raise SourceError(f"{source} gave no image that could be processed; nothing was written.")
    _show({**results.summary, "output": str(output)}, as_json)


@models_app.command("list", epilog="Example: aliked_ros models list --json")
def list_models(as_json: AsJson = False) -> None:
    """What there is, its licence, and whether it is fetched."""
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


@models_app.command(epilog="Example: aliked_ros models fetch aliked-n16 aliked-lightglue")
def fetch(names: Names = None, force: Force = False, as_json: AsJson = False) -> None:
    """Fetch the published weights and check them by SHA-256."""
    from aliked_ros.console.progress import share_progress
    from aliked_ros.models.registry import MODELS
    from aliked_ros.models.registry import fetch as fetch_weights

    with share_progress(_console()) as report:
        paths = fetch_weights(names or MODELS, report, force)
    _show({name: str(path) for name, path in paths.items()}, as_json)


@models_app.command(
    epilog="Example: aliked_ros models build --size 640x480 --top-k 1024 --precision fp16"
)
def build(
    size: Annotated[str, typer.Option(help="Width and height of the images, e.g. 640x480.")],
    model: Annotated[str, typer.Option(help=_help("model"))] = FrontendConfig().model,
    top_k: Annotated[
        int, typer.Option(help=_help("max_keypoints"))
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
    with share_progress(_console()) as report:
        for network in networks:
            engine = ensure_engine(network, target, _say, report, force)
            facts[str(engine.path)] = f"built: {engine.built}" if engine.built else "fits"
    print(json.dumps(facts, indent=2) if as_json else "\n".join(map(": ".join, facts.items())))


@app.command("export", epilog="Example: aliked_ros export run.mcap --format colmap --output sfm/")
def export_recording(
    recording: Annotated[Path, typer.Argument(help=".mcap file, or folder of 'ros2 bag record'.")],
    output: Annotated[
        Path, typer.Option(help="colmap: folder, empty or not there yet; tum: file to write.")
    ],
    form: Annotated[
        ExportFormat,
        typer.Option("--format", help="COLMAP database with images, or odometry as TUM text."),
    ],
    every: Annotated[int, typer.Option(min=1, help="colmap: one of so many images.")] = 1,
    topics: Annotated[
        list[str] | None,
        typer.Option("--topic", help="Topic to read where several have the same type; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a recording for another program: COLMAP (structure from motion), evo (trajectories)."""
    from aliked_ros.console.progress import share_progress
    from aliked_ros.exporting.recording import RecordingReader
    from aliked_ros.exporting.tum import export_tum

    if form is ExportFormat.colmap and find_spec("pycolmap") is None:
        raise BackendError("a COLMAP database needs pycolmap: pip install pycolmap.")
    facts: dict[str, Any] = {"recording": str(recording), "output": str(output)}
    with RecordingReader(recording, topics or ()) as reader:
        if form is ExportFormat.tum:
            facts["poses"] = export_tum(reader, output)
        else:
            from aliked_ros.exporting.colmap import export_colmap

            with share_progress(_console()) as report:
                facts |= export_colmap(reader, output, every, report)
    _show(facts, as_json)


@app.command(epilog="Example: aliked_ros doctor")
def doctor(
    gpu: Annotated[
        bool,
        typer.Option("--gpu", help="Compare the GPU's results with the CPU's; may build engines."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is installed, what will run, and what is missing and how to get it."""
    from dataclasses import asdict

    from aliked_ros.cli.doctor import FAIL, OK, WARN, examine

    checks = examine(gpu)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        colours = {OK: typer.colors.GREEN, WARN: typer.colors.YELLOW, FAIL: typer.colors.RED}
        for check in checks:
            state = typer.style(f"{check.state:<4}", fg=colours[check.state])
            typer.echo(f"{state}  {check.name}: {check.finding}")
            if check.remedy:
                typer.echo(f"      → {check.remedy}")
    if any(check.state == FAIL for check in checks):
        raise typer.Exit(1)


@app.command(epilog="Example: aliked_ros demo --source virtual --limit 100")
def demo(
    source: Annotated[
        str | None,
        typer.Option(help="As for 'track'; default: $SOURCE, shared data, or 'virtual'."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Play at most so many images.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo_output"),
    view_page: Annotated[
        bool, typer.Option("--view", help="Show it live on a page in the browser, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Play a sequence through the ROS 2 node in real time: MCAP, video, contact sheet, figures."""
    _require_ros("the demo needs")
    command = [sys.executable, "-m", "aliked_ros.ros.demo", "--output", str(output)]
    command += ["--view"] if view_page else []
    command += ["--source", source] if source else []
    command += ["--limit", str(limit)] if limit else []
    command += ["--json"] if as_json else []
    os.execv(sys.executable, command)  # in our place, so that Ctrl-C reaches it alone


@app.command(epilog="Example: aliked_ros soak --minutes 1 --source virtual")
def soak(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long.")] = 10.0,
    source: Annotated[str | None, typer.Option(help="Images as for 'demo'.")] = None,
    seed: Annotated[int, typer.Option(help="Decides what is injected, in which order.")] = 0,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the JSON to this file too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the real node while everything around it goes wrong; status 1 when it does not hold."""
    _require_ros("the soak test needs")
    command = [sys.executable, "-m", "aliked_ros.ros.soak.runner"]
    command += ["--minutes", str(minutes), "--seed", str(seed)]
    command += ["--source", source] if source else []
    command += ["--output", str(output)] if output else []
    command += ["--json"] if as_json else []
    os.execv(sys.executable, command)  # in our place, so that Ctrl-C reaches it alone


@app.command(epilog="Example: aliked_ros view demo_output/demo.mcap")
def view(
    recording: Annotated[
        Path | None,
        typer.Argument(help="A .mcap file or rosbag2 folder; without: the running nodes (ROS 2)."),
    ] = None,
    frontend: Annotated[str, typer.Option(help="Name of the front-end.")] = "aliked_frontend",
    odometry: Annotated[str, typer.Option(help="Name of the odometry node, live.")] = "odometry",
    image: Annotated[str, typer.Option(help="Topic of the image, live.")] = "image",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: any.")] = 9090,
    memory_limit: Annotated[
        str, typer.Option(help="Of what is kept for the page; the oldest goes first.")
    ] = "500MB",
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page, where there is a display.")
    ] = True,
) -> None:
    """Show tracks, stage times, drops and map on a page in the browser: live, or a recording."""
    from aliked_ros.viewing.server import has_display, require_viewer

    require_viewer()
    open_browser = open_browser and has_display()
    if recording is not None:
        from aliked_ros.console.progress import share_progress
        from aliked_ros.viewing.playback import serve_recording

        with share_progress(_console()) as progress:
            page = serve_recording(recording, frontend, port, memory_limit, progress)
        page.stay(open_browser)
        return
    _require_ros("the live page needs", "Or give a recording: it needs no ROS.")
    parameters = {
        "frontend": frontend,
        "odometry": odometry,
        "image": image,
        "port": port,
        "memory_limit": memory_limit,
        "open_browser": open_browser,
    }
    command = [sys.executable, "-m", "aliked_ros.ros.view_node", "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={json.dumps(value)}"]  # JSON is a part of YAML
    os.execv(sys.executable, command)  # in our place, so that Ctrl-C reaches it alone


@app.command(epilog="Example: aliked_ros report demo_output/demo.mcap --output report.html")
def report(
    recording: Annotated[Path, typer.Argument(help="A .mcap file or rosbag2 folder.")],
    output: Annotated[
        Path, typer.Option(dir_okay=False, help="The page: one file, nothing outside of it.")
    ] = Path("report.html"),
    frontend: Annotated[str, typer.Option(help="Name of the front-end.")] = "aliked_frontend",
    as_json: AsJson = False,
) -> None:
    """Write figures, plots and pictures of a recording to one HTML file."""
    from aliked_ros.console.progress import share_progress
    from aliked_ros.viewing.report import write_report

    with share_progress(_console()) as progress:
        facts = write_report(recording, frontend, output, progress)
    _show(facts, as_json)


def main() -> None:
    """Run the command line."""
    app()


def build_engine() -> None:
    """Run ``models build`` alone, for ``ros2 run aliked_ros build_engine``."""
    app(["models", "build", *sys.argv[1:]], prog_name="aliked_ros")


def _require_ros(who: str, otherwise: str = "") -> None:
    """BackendError, unless ROS 2 and the messages can be imported."""
    missing = [name for name in ("rclpy", "aliked_msgs") if find_spec(name) is None]
    if missing:
        raise BackendError(
            f"{who} ROS 2 ({' and '.join(missing)} not found): run 'make setup', or build the "
            f"workspace with colcon and source it. {otherwise}".rstrip()
        )


@contextmanager
def _backend(config: FrontendConfig) -> Iterator[Backend]:
    """The inference backend, closed at the end."""
    from aliked_ros.backends.base import create_backend

    with closing(create_backend(config, _say)) as backend:
        yield backend


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _show(facts: dict[str, Any], as_json: bool) -> None:
    """Print facts as JSON, or one a line, those of a group indented."""
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
        if value is not None:
            print(f"{name.replace('_', ' '):<{width}}  {value}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {one}" for key, one in value.items()) + ")"
    return str(value).replace("_", " ")
