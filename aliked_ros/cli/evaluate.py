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

"""``aliked_ros evaluate ...``: this front-end and alternatives on the same data."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from aliked_ros.cli.shared import AsJson, MaskFile, MaskStatic, console, help_of, say, show
from aliked_ros.configuration import MODELS, FrontendConfig
from aliked_ros.console.options import shared_options
from aliked_ros.errors import ConfigurationError
from aliked_ros.system.packages import require

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aliked_ros.evaluation.odometry import Carry
    from aliked_ros.evaluation.result_table import ResultTable
    from aliked_ros.evaluation.sequences import Mode
    from aliked_ros.types import Image

app = typer.Typer(
    no_args_is_help=True,
    help="Measure accuracy against ground truth, beside ORB, SIFT and optical flow.",
)

_DEFAULTS = FrontendConfig()


@dataclass(frozen=True, slots=True)
class Options:
    """Options of every evaluation."""

    output: Path | None
    methods: str
    top_k: int
    model: str
    limit: int | None
    restart: bool
    as_json: bool
    mask: Path | None = None
    mask_static: bool = _DEFAULTS.mask_static

    def run(
        self,
        data: str | Path,
        evaluate: Callable[..., Any],
        plot: Callable[..., None],
        titles: tuple[str, ...] = ("",),
        **own: Any,
    ) -> None:
        """Evaluate, plot, print. titles: of the tables, if there are several."""
        from aliked_ros.console.progress import share_progress
        from aliked_ros.evaluation.run import Run
        from aliked_ros.sources import read_mask

        kind = evaluate.__name__.removeprefix("evaluate_")
        target = self.output or Path("evaluation") / f"{kind}_{Path(data).resolve().name}"
        names = [name.strip() for name in self.methods.split(",") if name.strip()]
        # each method sets its own matcher
        config = FrontendConfig(
            model=self.model,
            max_keypoints=self.top_k,
            matcher="nearest",
            mask_static=self.mask_static,
        )
        mask = None if self.mask is None else read_mask(self.mask)
        with share_progress(console()) as report:
            run = Run(str(data), names, config, target, report, self.limit, self.restart, mask, say)
            found = evaluate(run, **own)
        tables = found if isinstance(found, tuple) else (found,)
        plot(*tables, target)
        _show(dict(zip(titles, tables, strict=True)), target, self.as_json)


_COMMON: dict[str, tuple[Any, Any]] = {
    "output": (
        Annotated[
            Path | None,
            typer.Option(
                file_okay=False,
                help="Folder for results.json, rows.csv, plots; default evaluation/KIND_NAME.",
            ),
        ],
        None,
    ),
    "methods": (
        Annotated[
            str,
            typer.Option(
                help="Comma-separated; all are compared with the first one. Also: "
                "aliked+adaptive, aliked+flow, disk+lightglue, xfeat+lighterglue, MODEL+nearest, "
                "CHECKPOINT+lightglue."
            ),
        ],
        "aliked+lightglue,aliked+nearest,sift,orb,gftt+lk",
    ),
    "top_k": (
        Annotated[int, typer.Option("--top-k", help="Keypoints an image, the same for all.")],
        _DEFAULTS.max_keypoints,
    ),
    "model": (
        Annotated[
            str,
            typer.Option(help=f"Of the aliked methods: {', '.join(MODELS)}."),
        ],
        _DEFAULTS.model,
    ),
    "limit": (
        Annotated[int | None, typer.Option(min=1, help="Maximum number of pairs or images.")],
        None,
    ),
    "restart": (
        Annotated[bool, typer.Option("--restart", help="Discard an interrupted run.")],
        False,
    ),
    "as_json": (AsJson, False),
}
_common = shared_options(_COMMON, "options", Options)
_of_sequences = shared_options(
    _COMMON | {"mask": (MaskFile, None), "mask_static": (MaskStatic, _DEFAULTS.mask_static)},
    "options",
    Options,
)


@app.command(epilog="Example: aliked_ros evaluate homography hpatches-sequences-release")
@_common
def homography(
    folder: Annotated[Path, typer.Argument(help="pairs.txt, Oxford affine or HPatches layout.")],
    options: Options,
) -> None:
    """Image pairs with a known homography: matching and homography accuracy, repeatability."""
    _require_libraries()
    from aliked_ros.evaluation.homography import evaluate_homography
    from aliked_ros.evaluation.plots import plot_homography

    options.run(folder, evaluate_homography, plot_homography)


@app.command(epilog="Example: aliked_ros evaluate epipolar rgbd_dataset_freiburg1_xyz")
@_of_sequences
def epipolar(
    sequence: Annotated[str, typer.Argument(help="As for 'track'.")],
    options: Options,
    gap: Annotated[
        str, typer.Option(help="How many images the two of a pair are apart.")
    ] = "1,5,10",
    first: Annotated[int, typer.Option(min=0, help="Number of the first image.")] = 0,
) -> None:
    """Sequences: precision and coverage of matches against true poses, how long tracks last."""
    _require_libraries()
    from aliked_ros.evaluation.epipolar import evaluate_epipolar
    from aliked_ros.evaluation.plots import plot_epipolar

    gaps = sorted(_whole_numbers("--gap", gap))
    options.run(
        sequence, evaluate_epipolar, plot_epipolar, ("pairs", "tracks"), gaps=gaps, first=first
    )


@app.command(epilog="Example: aliked_ros evaluate odometry rgbd_dataset_freiburg1_xyz")
@_of_sequences
def odometry(
    sequence: Annotated[str, typer.Argument(help="As for 'track', with calibration and truth.")],
    options: Options,
    mode: Annotated[
        str | None,
        typer.Option(help="mono, stereo or rgbd; default: the best that the sequence supports."),
    ] = None,
    first: Annotated[
        int, typer.Option(min=0, help="Number of the first image whose pose is compared.")
    ] = 0,
) -> None:
    """The reference back-end on each front-end's tracks: trajectory errors, by evo."""
    _require_libraries()
    from aliked_ros.evaluation.odometry import evaluate_odometry, plot_odometry

    options.run(
        sequence, evaluate_odometry, plot_odometry,
        mode=cast("Mode | None", mode), first=first, carry=_carry(),
    )  # fmt: skip


@app.command(epilog="Example: aliked_ros evaluate reconstruction images/ --every 2")
@_of_sequences
def reconstruction(
    sequence: Annotated[str, typer.Argument(help="As for 'track', with a calibration.")],
    options: Options,
    every: Annotated[int, typer.Option(min=1, help="Map one in N images.")] = 3,
) -> None:
    """COLMAP's incremental mapping on each front-end's tracks and matches."""
    _require_libraries()
    from aliked_ros.evaluation.reconstruction import evaluate_reconstruction, plot_reconstruction

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # otherwise pycolmap reports it as a crash
    options.run(sequence, evaluate_reconstruction, plot_reconstruction, every=every)


@app.command(epilog="Example: aliked_ros evaluate places rgbd_dataset_freiburg1_xyz")
@_of_sequences
def places(
    sequence: Annotated[
        str, typer.Argument(help="As for 'track', with calibration, truth, and depth or stereo.")
    ],
    options: Options,
    every: Annotated[int, typer.Option(min=1, help="One of so many images is a keyframe.")] = 5,
    strangers: Annotated[
        str, typer.Option(help="A sequence of another place, whose images must not be found.")
    ] = "",
) -> None:
    """Places seen again: recall where (nearly) all answers are right, and the poses there."""
    _require_libraries()
    from aliked_ros.evaluation.places import evaluate_places, plot_places

    options.run(sequence, evaluate_places, plot_places, every=every, strangers=strangers)


@app.command(
    epilog="Example: aliked_ros evaluate relocalization rgbd_dataset_freiburg1_xyz --keyframes 5,1"
)
@_of_sequences
def relocalization(
    sequence: Annotated[
        str, typer.Argument(help="As for 'track', with calibration, truth, and depth or stereo.")
    ],
    options: Options,
    keyframes: Annotated[
        str, typer.Option(help="Numbers of keyframes from the other half, one table each.")
    ] = "10,3,1",
    every: Annotated[int, typer.Option(min=1, help="Search for one in N images.")] = 1,
    mode: Annotated[
        str | None, typer.Option(help="stereo or rgbd; default: what the sequence supports.")
    ] = None,
) -> None:
    """Locate images of the harder half of a sequence in keyframes of the other half: recall."""
    _require_libraries()
    from aliked_ros.evaluation.relocalization import evaluate_relocalization, plot_relocalization

    options.run(
        sequence, evaluate_relocalization, plot_relocalization,
        mode=cast("Mode | None", mode), every=every,
        keyframes=tuple(_whole_numbers("--keyframes", keyframes)),
    )  # fmt: skip


@app.command(epilog="Example: aliked_ros evaluate gyroscope rgbd_dataset_freiburg1_xyz --every 3")
def gyroscope(
    sequence: Annotated[
        str, typer.Argument(help="As for 'track', with calibration and, without --imu, truth.")
    ],
    every: Annotated[int, typer.Option(min=1, help="Process one in N images.")] = 3,
    detection: Annotated[str, typer.Option(help=help_of("detection"))] = "3",
    matcher: Annotated[str, typer.Option(help=help_of("matcher"))] = "adaptive",
    top_k: Annotated[int, typer.Option("--top-k", help="Keypoints an image.")] = 600,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of images.")] = None,
    imu: Annotated[
        str | None,
        typer.Option(help="As for 'track'; default: made of the true poses, with noise and bias."),
    ] = None,
    late: Annotated[
        int,
        typer.Option(min=1, help="Images until a detection ends, with --detection behind."),
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Tracks kept from image to image, and how often LightGlue works: without and with an IMU.

    Means over the images, in tracks: in_view, those that the next image shows as well by the true
    turn; followed, those that it has; right, those that it has where the true poses allow.
    """
    _require_libraries()
    import numpy as np

    from aliked_ros.camera import CameraModel
    from aliked_ros.evaluation.gyroscope import Faults, synthetic_rates, tracks_kept
    from aliked_ros.evaluation.poses import has_truth, interpolated, read_truth, truth_file
    from aliked_ros.sources import open_source
    from aliked_ros.sources.imu import rates_of

    images = open_source(sequence)
    if images.calibration is None:
        raise ConfigurationError(f"{sequence} has no calibration; a gyroscope needs one.")
    camera = CameraModel.from_calibration(images.calibration)
    config = FrontendConfig(detection=detection, matcher=matcher, max_keypoints=top_k)
    offset: float | None = None
    if imu is None:
        rates, offset = synthetic_rates(sequence, np.eye(3)), Faults().offset
    else:
        rates = rates_of(sequence, imu)
    stop = None if limit is None else limit * every
    pose_at = interpolated(read_truth(truth_file(sequence))) if has_truth(sequence) else None
    facts = {
        name: asdict(
            tracks_kept(config, islice(images, 0, stop, every), camera, used, offset, pose_at, late)
        )
        for name, used in (("without", None), ("with", rates))
    }
    show(facts, as_json)


@app.command(epilog="Example: aliked_ros evaluate moving rgbd_dataset_freiburg1_xyz -t poster.png")
def moving(
    sequence: Annotated[str, typer.Argument(help="As for 'track', of a scene at rest.")],
    texture: Annotated[
        Path | None,
        typer.Option(
            "--texture", "-t", dir_okay=False,
            help="Image that moves over the sequence, 150 pixels wide; without it, nothing moves "
            "and all that is found is false.",
        ),
    ] = None,
    velocity: Annotated[str, typer.Option(help="Of the texture, x,y in pixels an image.")] = "4,2",
    still: Annotated[
        bool, typer.Option("--still", help="Repeat the first image, with noise: a standing camera.")
    ] = False,
    detection: Annotated[str, typer.Option(help=help_of("detection"))] = "3",
    matcher: Annotated[str, typer.Option(help=help_of("matcher"))] = "adaptive",
    top_k: Annotated[int, typer.Option("--top-k", help="Keypoints an image.")] = 600,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of images.")] = 60,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Moving objects: recall and precision with a texture that moves, false alarms without."""
    from aliked_ros.camera import CameraModel
    from aliked_ros.evaluation.moving import Overlay, moving_found, standing, texture_of
    from aliked_ros.sources import open_source

    images = open_source(sequence)
    camera = None
    if images.calibration is not None:
        camera = CameraModel.from_calibration(images.calibration)
    overlay = None
    if texture is not None:
        overlay = Overlay(texture_of(texture), _pair("--velocity", velocity), start=5)
    shown: Iterable[Image] = islice(images, limit)
    if still:
        shown = standing(next(iter(images)), limit, images.rate)
    config = FrontendConfig(
        detection=detection, matcher=matcher, max_keypoints=top_k, moving_objects="flag"
    )
    show(asdict(moving_found(config, shown, camera, overlay)), as_json)


def _pair(option: str, text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(","))
    except ValueError as error:
        raise ConfigurationError(f"{option} is {text!r}; give two numbers: 4,2.") from error
    return x, y


def _whole_numbers(option: str, text: str) -> list[int]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise ConfigurationError(
            f"{option} is {text!r}; give whole numbers from 1, separated by commas: 1,5,10."
        )
    return list(dict.fromkeys(int(word) for word in words))


def _carry() -> Carry:
    """How results reach the back-end: as messages if ROS 2 is installed."""
    if any(find_spec(name) is None for name in ("rclpy", "aliked_msgs")):
        from aliked_ros.evaluation.odometry import as_observation

        return as_observation
    node = import_module("aliked_ros.ros.odometry_node")
    return cast("Carry", node.by_message)


def _require_libraries() -> None:
    require("evaluation", "evaluate", "evo", "pycolmap")


def _show(tables: dict[str, ResultTable], target: Path, as_json: bool) -> None:
    """Print tables by title; a single one has no title."""
    if as_json:
        found = {title: table.as_dict() for title, table in tables.items()}
        print(json.dumps(found.get("", found), indent=2))
    else:
        texts = [
            f"{title.capitalize()}\n\n{table.as_text()}" if title else table.as_text()
            for title, table in tables.items()
        ]
        print("\n\n".join(texts))
    say(f"tables, rows and plots: {target}")
