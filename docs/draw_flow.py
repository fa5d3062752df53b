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

"""Draws how precise tracks are by optical flow, by detection and by both: python docs/draw_flow.py.

The images are the virtual camera's, whose motion is known exactly. An error is the distance of a
track from where its point of an earlier image truly is. Prints the figures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice, pairwise

import cv2
import numpy as np
from draw_images import CONFIG, IMAGES
from matplotlib.figure import Figure

from aliked_ros.frontend.flow import follow
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.io.images import grey
from aliked_ros.sources.virtual import VirtualCamera
from aliked_ros.types import Float32Array, UInt64Array

CAMERA = VirtualCamera()
COUNT = 60  # images
APART = (1, 2, 3, 5, 7, 10, 15, 20, 30)  # images between the two places that are compared


@dataclass(frozen=True, slots=True)
class Places:
    """Tracks in one image. ids: N. points: N×2, pixels."""

    ids: UInt64Array
    points: Float32Array


def by_pipeline(detection: str) -> list[Places]:
    """The front-end's tracks in each image."""
    pipeline = Pipeline(replace(CONFIG, detection=detection))
    results = [pipeline.process(image) for image in islice(CAMERA, COUNT)]
    pipeline.close()
    return [Places(r.tracks.ids, r.features.keypoints) for r in results]


def by_flow(start: Places) -> list[Places]:
    """The tracks of the first image followed through all others, never corrected."""
    images = [grey(image.pixels) for image in islice(CAMERA, COUNT)]
    places = [start]
    for before, now in pairwise(images):
        last = places[-1]
        flow = follow(before, now, last.points)
        places.append(Places(last.ids[flow.found], flow.points[flow.found]))
    return places


def errors(places: list[Places], apart: int) -> float:
    """Median error in pixels of tracks between images that are so far apart."""
    found = []
    for first, (before, now) in enumerate(zip(places, places[apart:], strict=False)):
        _, rows, columns = np.intersect1d(before.ids, now.ids, return_indices=True)
        if len(rows):
            points = before.points[rows].astype(np.float64)[:, None]
            homography = CAMERA.homography_between(first, first + apart)
            true = cv2.perspectiveTransform(points, homography)[:, 0]
            found.append(np.linalg.norm(now.points[columns] - true, axis=1))
    return float(np.median(np.concatenate(found)))


if __name__ == "__main__":
    detected = by_pipeline("every")
    curves = {
        "detection in every image": (detected, "#777777"),
        "optical flow alone": (by_flow(detected[0]), "#e0a030"),
        "flow, detection in every 3rd image": (by_pipeline("3"), "#3465a4"),
    }
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, (places, colour) in curves.items():
        heights = [errors(places, apart) for apart in APART]
        print(
            f"{name}: " + ", ".join(f"{h:.2f} ({a})" for a, h in zip(APART, heights, strict=True))
        )
        axis.plot(APART, heights, "o-", color=colour, ms=4, label=name)
    axis.set_xlabel("images apart")
    axis.set_ylabel("median error of tracks, pixels")
    axis.set_ylim(0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#dddddd", lw=0.6)
    axis.legend(frameon=False)
    figure.savefig(IMAGES / "how_flow.png", dpi=100)
