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

"""Tracks in space: a visualization_msgs/MarkerArray in the camera's optical frame.

Axes as in REP-103: x to the right, y down, z forward.
"""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from aliked_ros.io.drawing import TRACK_COLOURS, Trails, track_bins
from aliked_ros.ros.frame import Frame, Maker, OutputContext
from aliked_ros.types import Float32Array, FrameResult

_MOTION = 5  # frames that a motion line goes back
_LIFETIME = Duration(sec=2)  # after which the markers of a node that has ended go away
_POINT, _LINE = 0.01, 0.003  # their sizes, in median depths


def _palette(opacity: float) -> list[ColorRGBA]:
    """The colours of tracks; shared by all points that have them."""
    return [
        ColorRGBA(r=red / 255, g=green / 255, b=blue / 255, a=opacity)
        for red, green, blue in TRACK_COLOURS
    ]


_FRESH, _PAST = _palette(1.0), _palette(0.0)


def points_in_camera(result: FrameResult) -> Float32Array | None:
    """N×3 keypoints in the camera's optical frame; None where there is no camera model.

    In metres where depth is known, NaN where it is not. A result without any depth: where the rays
    meet the plane z = 1.
    """
    if result.normalized is None:
        return None
    depth = np.ones(len(result.features)) if result.depth is None else result.depth
    ahead = np.where(depth > 0.0, depth, np.nan)
    rays = np.column_stack([result.normalized, np.ones(len(ahead))])
    return np.asarray(rays * ahead[:, np.newaxis], np.float32)


class TrackMarkers:
    """Makes the markers of a sequence of images."""

    def __init__(self) -> None:
        self._trails = Trails(_MOTION)
        self._metric = False

    def message(self, result: FrameResult, header: Header) -> MarkerArray | None:
        """Points coloured by length or as moving, and lines from where they were frames ago.

        header: the image's. None where the image gives no points: without a camera model, and
        when one comes without depth after others had it.
        """
        points = points_in_camera(result)
        if points is None or (self._metric and result.depth is None):
            return None
        if result.depth is not None and not self._metric:
            self._metric = True
            self._trails = Trails(_MOTION)  # what it remembers lies on the plane z = 1
        self._trails.update(result, points)
        known = np.isfinite(points).all(axis=1)
        points, bins = points[known], track_bins(result.tracks)[known]
        past = self._trails.positions(result.tracks.ids[known])[:, -1]
        moved = np.flatnonzero((past != points).any(axis=1))
        here, there = _points(points), _points(past[moved])
        shades = bins.tolist()
        ends: list[Point] = []
        blends: list[ColorRGBA] = []
        for place, start in zip(moved.tolist(), there, strict=True):
            ends += (start, here[place])
            blends += (_PAST[shades[place]], _FRESH[shades[place]])
        unit = float(np.median(points[:, 2])) if len(points) else 1.0
        size = Vector3(x=_POINT * unit, y=_POINT * unit)
        width = Vector3(x=_LINE * unit)
        colours = [_FRESH[shade] for shade in shades]
        return MarkerArray(
            markers=[
                _marker("points", Marker.POINTS, header, size, here, colours),
                _marker("motion", Marker.LINE_LIST, header, width, ends, blends),
            ]
        )


class Markers(Maker):
    """``~/tracks/markers``."""

    def __init__(self, context: OutputContext) -> None:
        super().__init__(context)
        self._markers = TrackMarkers()
        self._header: Header | None = None  # of the latest message

    def message(self, frame: Frame) -> MarkerArray | None:
        """The tracks of an image; warns of what rviz cannot place."""
        if frame.result.normalized is None:
            self.context.warnings.once(
                "Nothing on ~/tracks/markers for images without a CameraInfo that fits them."
            )
        elif not frame.header.frame_id:
            self.context.warnings.once(
                "The images have no frame_id: rviz cannot place ~/tracks/markers. Let the camera "
                "driver name its optical frame."
            )
        self._header = frame.header
        return self._markers.message(frame.result, frame.header)

    def last(self) -> MarkerArray | None:
        """Takes all markers away."""
        if self._header is None:
            return None
        return MarkerArray(markers=[Marker(header=self._header, action=Marker.DELETEALL)])


def _points(places: Float32Array) -> list[Point]:
    return [Point(x=x, y=y, z=z) for x, y, z in places.tolist()]


def _marker(
    namespace: str,
    kind: int,
    header: Header,
    scale: Vector3,
    points: list[Point],
    colours: list[ColorRGBA],
) -> Marker:
    marker = Marker(header=header, ns=namespace, type=kind, scale=scale, lifetime=_LIFETIME)
    marker.pose.orientation.w = 1.0
    marker.points, marker.colors = points, colours
    marker.action = Marker.ADD if len(points) else Marker.DELETE  # rviz warns of empty ones
    return marker
