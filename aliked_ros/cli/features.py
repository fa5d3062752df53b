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

"""``extract``, ``match`` and ``track``: the front-end on files."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aliked_ros.cli.shared import (
    EXTRACTION,
    MATCHING,
    AsJson,
    MaskFile,
    MaskStatic,
    console,
    frontend_options,
    open_backend,
    say,
    show,
    text_of,
)
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ImageError, SourceError

if TYPE_CHECKING:
    from aliked_ros.types import Features, Matches

_MASK_STATIC = FrontendConfig().mask_static
_DOUBTFUL = 35  # inliers: 280 tries with images of different scenes had up to 32


@frontend_options(EXTRACTION, matcher="nearest")
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
    with open_backend(config) as backend:
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
        "output": text_of(output),
    }
    show(facts, as_json)


@frontend_options(EXTRACTION | MATCHING)
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
    all_matches: Annotated[
        bool, typer.Option("--all", help="Also draw and write matches that are not inliers.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Match two images; the inliers agree with one motion of the camera.

    With few inliers, the second image is also tried turned by 90, 180 and 270 degrees.
    """
    import numpy as np

    from aliked_ros.frontend.extractor import Extractor
    from aliked_ros.frontend.matcher import build_matcher
    from aliked_ros.frontend.quarter_turns import best_turn
    from aliked_ros.frontend.verification import Verifier
    from aliked_ros.io.drawing import draw_matches
    from aliked_ros.io.results import write_arrays, write_picture
    from aliked_ros.sources import read_image

    pixels0, pixels1 = read_image(image0), read_image(image1)
    with open_backend(config) as backend:
        extractor, matcher = Extractor(config, backend), build_matcher(config, backend)
        features0, verifier = extractor.extract(pixels0), Verifier(config)

        def attempt(turns: int) -> tuple[Features, Matches]:
            features1 = extractor.extract(pixels1, turns=turns)
            matches = matcher.match(features0, features1)
            return features1, verifier.verify(features0, features1, matches)

        features1, found = best_turn(attempt, lambda matches: matches.inlier_count)
    matches = found if all_matches else found.verified()
    if found.inlier_count < _DOUBTFUL:
        say(
            f"{found.inlier_count} of {len(found)} matches agree with one camera motion; images of "
            "different scenes may have as many."
        )
    if npz is not None:
        write_arrays(
            npz,
            keypoints0=features0.keypoints,
            keypoints1=features1.keypoints,
            matches=np.stack([matches.reference_indices, matches.current_indices], axis=1),
            scores=matches.scores,
        )
    if output is not None:
        caption = (
            f"{config.model}, {config.matcher}: {len(found)} matches, {found.inlier_count} inliers"
        )
        picture = draw_matches(pixels0, features0, pixels1, features1, matches, caption=caption)
        write_picture(output, picture)
    facts = {
        "image0": str(image0),
        "image1": str(image1),
        "model": config.model,
        "matcher": config.matcher,
        "features0": len(features0),
        "features1": len(features1),
        "matches": len(found),
        "inliers": found.inlier_count,
        "geometry": found.geometry,
        "turned_degrees": 90 * features1.turns,
        "mean_score": round(float(matches.scores.mean()), 4) if len(matches) else None,
        "layers": found.layers,
        "backend": backend.description,
        "output": text_of(output),
        "npz": text_of(npz),
    }
    show(facts, as_json)


@frontend_options(
    EXTRACTION | MATCHING | {"detection": "--detection", "moving_objects": "--moving-objects"}
)
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
            help="Folder for tracks.mp4, tracks.npz (frame, id, x, y, object), summary.json.",
        ),
    ],
    limit: Annotated[int | None, typer.Option(help="Maximum number of images.")] = None,
    imu: Annotated[
        str | None,
        typer.Option(
            help="Predict features by a gyroscope: 'auto' (EuRoC's imu0, or a recording's only "
            "Imu topic), a topic of the recording, or a .csv file as EuRoC's imu0/data.csv."
        ),
    ] = None,
    mask: MaskFile = None,
    mask_static: MaskStatic = _MASK_STATIC,
    as_json: AsJson = False,
) -> None:
    """Track features through a sequence; Ctrl-C ends it and keeps what has been done."""
    from aliked_ros.camera import CameraModel
    from aliked_ros.console.progress import image_progress
    from aliked_ros.frontend.alignment import Alignment
    from aliked_ros.frontend.gyroscope import Gyroscope
    from aliked_ros.frontend.pipeline import Pipeline
    from aliked_ros.io.results import TrackResults
    from aliked_ros.sources import open_source, read_mask
    from aliked_ros.sources.imu import rates_of

    config = replace(config, mask_static=mask_static)
    images = open_source(source, limit, mask=None if mask is None else read_mask(mask))
    rates = None if imu is None else rates_of(source, imu)
    facts: dict[str, Any] = {"source": source, "skipped": 0, "refused": 0}
    results = TrackResults(output, images.rate, facts)
    with closing(Pipeline(config, say)) as pipeline:
        facts |= pipeline.identity
        if rates is not None:
            if images.calibration is None:
                raise SourceError(f"--imu needs a calibrated camera, which {source} has not.")
            pipeline.camera = CameraModel.from_calibration(images.calibration)
            gyroscope = Gyroscope.recorded(rates.stamps, rates.rates)
            pipeline.prediction.use(gyroscope, Alignment(rates.camera_from_imu))
        with results, image_progress(console()) as progress:
            task = progress.add_task(images.name, total=images.length, note="")
            try:
                for image in images:
                    try:
                        result = pipeline.process(image)
                    except ImageError as error:
                        facts["refused"] += 1
                        logging.getLogger(__name__).warning("refused: %s", error)
                        continue
                    if result.detection_failure is not None:
                        raise result.detection_failure
                    results.add(image, result)
                    tracked = int((result.tracks.lengths > 1).sum())
                    note = f"{tracked} of {len(result.features)} features tracked"
                    progress.update(task, advance=1, note=note)
            finally:
                facts["skipped"] = images.skipped
                if rates is not None:
                    facts["gyroscope"] = pipeline.prediction.alignment.verdict
    if not results.summary["frames"]:
        raise SourceError(f"{source} gave no image that could be processed; nothing was written.")
    show({**results.summary, "output": str(output)}, as_json)
