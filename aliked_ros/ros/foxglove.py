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

"""Tracks for Foxglove's image panel: a foxglove_msgs/ImageAnnotations over the camera's own image.

foxglove_msgs comes with ROS, not with Python's registries; only this output needs it.
"""

from __future__ import annotations

import importlib
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from std_msgs.msg import Header

from aliked_ros.io.drawing import TRACK_COLOURS, Trails, fade, track_bins
from aliked_ros.ros.frame import Frame, Maker
from aliked_ros.types import Float32Array, FrameResult

_ORIGIN = 0.5  # Foxglove's pixel (0, 0) is the top-left corner of the top-left pixel
_PARTS = 4  # straight pieces of a tail: every point of one costs Python microseconds
_POINT, _LINE = 5.0, 1.5  # pixels


def message_type() -> type | None:
    """ImageAnnotations; None where foxglove_msgs is not installed, or an old one."""
    try:
        return importlib.import_module("foxglove_msgs.msg").ImageAnnotations  # type: ignore[no-any-return]
    except (ImportError, AttributeError):
        return None


@cache
def _colours(opacity: float) -> list[Any]:
    """The colours of tracks; shared by all points that have them."""
    colour = importlib.import_module("foxglove_msgs.msg").Color
    return [
        colour(r=red / 255, g=green / 255, b=blue / 255, a=opacity)
        for red, green, blue in TRACK_COLOURS
    ]


def tails(result: FrameResult, trails: Trails) -> tuple[Float32Array, Float32Array]:
    """Tails in few pieces: N×V×2 vertices in Foxglove's pixels, newest first; V-1 opacities."""
    last = max(len(trails.ages) - 1, 0)
    chosen = np.unique(np.linspace(0, last, _PARTS + 1).round().astype(int))
    vertices = trails.positions(result.tracks.ids)[:, chosen] + np.float32(_ORIGIN)
    age = trails.ages[chosen]
    return vertices, fade((age[1:] + age[:-1]) / 2, trails.frames)


def image_annotations(result: FrameResult, trails: Trails, header: Header) -> Any:
    """The message of one image.

    trails: updated with ``result``. header: the image's, whose stamp joins them in Foxglove.
    """
    types = importlib.import_module("foxglove_msgs.msg")
    kinds = types.PointsAnnotation
    bins = track_bins(result.tracks).tolist()
    vertices, opacities = tails(result, trails)
    points: list[Any] = []
    colours: list[Any] = []
    fades = [_colours(round(float(opacity), 3)) for opacity in opacities]
    moving = (vertices != vertices[:, :1]).any(axis=(1, 2))
    for number, path in zip(
        np.asarray(bins)[moving].tolist(), vertices[moving].tolist(), strict=True
    ):
        corners = [types.Point2(x=x, y=y) for x, y in path]
        for (end, start), shades in zip(pairwise(corners), fades, strict=True):
            points += (end, start)
            colours.append(shades[number])
    lines = kinds(timestamp=header.stamp, type=kinds.LINE_LIST, thickness=_LINE)
    lines.points, lines.outline_colors = points, colours
    dots = kinds(timestamp=header.stamp, type=kinds.POINTS, thickness=_POINT)
    dots.points = [
        types.Point2(x=x, y=y) for x, y in (result.features.keypoints + _ORIGIN).tolist()
    ]
    dots.outline_colors = [_colours(1.0)[number] for number in bins]
    return types.ImageAnnotations(points=[lines, dots])


class Annotations(Maker):
    """``~/annotations``."""

    def message(self, frame: Frame) -> Any:
        """The tracks over the camera's own image."""
        return image_annotations(frame.result, self.context.trails, frame.header)
