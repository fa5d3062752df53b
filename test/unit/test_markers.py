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

"""~/tracks/markers and ~/annotations: places, colours and frames; made for subscribers only."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from aliked_ros.io.drawing import (
    LENGTH_COLOURS,
    LONG_TRACK,
    MOVING_COLOUR,
    Trails,
    draw_tracks,
)
from aliked_ros.ros import foxglove
from aliked_ros.ros.markers import TrackMarkers
from aliked_ros.types import Features, FrameResult, Matches, Tracks

FOCAL, CENTRE = 100.0, (160.0, 120.0)
HEADER = Header(stamp=Time(sec=3, nanosec=4), frame_id="left_optical")


def frame(
    index: int,
    tracks: dict[int, tuple[float, float]],
    depth: list[float] | None = None,
    length: int = 1,
    calibrated: bool = True,
) -> FrameResult:
    points = np.array(list(tracks.values()), np.float32).reshape(-1, 2)
    ids = np.array(list(tracks), np.uint64)
    count = len(ids)
    features = Features(points, np.ones(count), np.ones((count, 1)), 320, 240, "aliked-n16")
    return FrameResult(
        index, index / 30, features, Matches.empty(), Tracks(ids, np.full(count, length, "u4"), 1),
        normalized=np.float32((points - CENTRE) / FOCAL) if calibrated else None,
        depth=None if depth is None else np.array(depth, np.float32),
    )  # fmt: skip


def received(markers: TrackMarkers, result: FrameResult) -> tuple[Marker, Marker]:
    """The points and the lines as a subscriber gets them."""
    message = markers.message(result, HEADER)
    assert message is not None
    first, second = deserialize_message(serialize_message(message), MarkerArray).markers
    assert (first.ns, second.ns) == ("points", "motion")
    assert first.header == second.header == HEADER
    assert first.lifetime.sec == second.lifetime.sec > 0
    return first, second


def places(marker: Marker) -> np.ndarray:
    return np.array([(p.x, p.y, p.z) for p in marker.points]).reshape(-1, 3)


def rgba(marker: Marker) -> np.ndarray:
    assert len(marker.colors) == len(marker.points)
    return np.array([(c.r, c.g, c.b, c.a) for c in marker.colors]).reshape(-1, 4)


def test_known_depth_gives_points_in_metres_in_the_optical_frame():
    result = frame(0, {1: (210, 120), 2: (160, 170), 3: (10, 10), 4: (20, 20)}, [2, 4, np.nan, 0])
    points, lines = received(TrackMarkers(), result)
    # x to the right of the image, y down, z forward
    np.testing.assert_allclose(places(points), [(1, 0, 2), (0, 2, 4)], atol=1e-6)
    assert (points.type, points.action) == (Marker.POINTS, Marker.ADD)
    assert (points.pose.orientation.w, points.pose.position.z) == (1.0, 0.0)
    assert 0 < points.scale.x == points.scale.y < 0.1
    assert lines.action == Marker.DELETE
    assert not lines.points


def test_without_depth_points_lie_on_the_plane_one():
    points, _ = received(TrackMarkers(), frame(0, {1: (210, 120), 2: (160, 20)}))
    np.testing.assert_allclose(places(points), [(0.5, 0, 1), (0, -1, 1)], atol=1e-6)


def test_colour_is_the_length_as_in_the_image():
    for length, number in ((1, 0), (LONG_TRACK, -1), (1000, -1)):
        points, _ = received(TrackMarkers(), frame(0, {1: (10, 10)}, length=length))
        expected = [*(np.array(LENGTH_COLOURS[number]) / 255), 1.0]
        np.testing.assert_allclose(rgba(points), [expected], atol=1e-6)


def test_what_moves_has_a_colour_of_its_own():
    result = frame(0, {1: (10, 10), 2: (20, 10)}, length=5)
    moving = replace(result, tracks=replace(result.tracks, objects=np.array([0, 3], np.uint32)))
    points, _ = received(TrackMarkers(), moving)
    colours = rgba(points)
    np.testing.assert_allclose(colours[1], [*(np.array(MOVING_COLOUR) / 255), 1.0], atol=1e-6)
    assert not np.allclose(colours[0], colours[1])
    trails = Trails()
    trails.update(moving)
    picture = draw_tracks(np.zeros((240, 640), np.uint8), moving, trails)
    assert tuple(picture[10, 20]) == MOVING_COLOUR
    assert (picture[180:] == MOVING_COLOUR).all(axis=2).any(), "and the legend shows it"
    plain = draw_tracks(np.zeros((240, 640), np.uint8), result, trails)
    assert not (plain == MOVING_COLOUR).all(axis=2).any()


def test_motion_lines_join_where_a_track_was_with_where_it_is():
    markers = TrackMarkers()
    for index in range(3):
        result = frame(index, {7: (160 + 10 * index, 120), 8: (50, 50)}, [2.0, 3.0])
        points, lines = received(markers, result)
    np.testing.assert_allclose(places(lines), [(0, 0, 2), (0.4, 0, 2)], atol=1e-6)
    assert (lines.type, lines.action) == (Marker.LINE_LIST, Marker.ADD)
    assert lines.scale.x > 0
    before, now = rgba(lines)
    assert (before[:3] == now[:3]).all()
    assert before[3] < now[3]  # fades towards where it was
    assert len(points.points) == 2
    for index in range(3, 30):  # a line is short however long the track is
        _, lines = received(markers, frame(index, {7: (160 + index, 120)}, [2.0]))
    assert np.ptp(places(lines)[:, 0]) < 0.2


def test_depth_that_comes_later_and_goes_away_does_not_mix_with_the_plane():
    markers = TrackMarkers()
    received(markers, frame(0, {1: (210, 120)}))
    points, lines = received(markers, frame(1, {1: (211, 120)}, [5.0]))
    assert places(points)[0, 2] == 5.0
    assert not lines.points  # no line from the plane to the point
    assert markers.message(frame(2, {1: (212, 120)}), HEADER) is None
    points, _ = received(markers, frame(3, {1: (213, 120)}, [np.nan]))
    assert points.action == Marker.DELETE


def test_nothing_to_show():
    markers = TrackMarkers()
    assert markers.message(frame(0, {1: (1, 1)}, calibrated=False), HEADER) is None
    points, lines = received(markers, frame(1, {}))
    assert points.action == lines.action == Marker.DELETE
    outside = replace(frame(2, {1: (1, 1)}), normalized=np.full((1, 2), np.nan, np.float32))
    points, _ = received(markers, outside)
    assert not points.points


class Fields:
    """Stands for a message of foxglove_msgs, which the registries do not have."""

    LINE_LIST, POINTS = 4, 1

    def __init__(self, **fields) -> None:
        self.__dict__.update(fields)


@pytest.fixture
def foxglove_msgs(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("foxglove_msgs.msg")
    for name in ("ImageAnnotations", "PointsAnnotation", "Point2", "Color"):
        setattr(module, name, type(name, (Fields,), {}))
    monkeypatch.setitem(sys.modules, "foxglove_msgs", types.ModuleType("foxglove_msgs"))
    monkeypatch.setitem(sys.modules, "foxglove_msgs.msg", module)
    foxglove._colours.cache_clear()
    yield
    foxglove._colours.cache_clear()


@pytest.mark.usefixtures("foxglove_msgs")
def test_annotations_are_half_a_pixel_further_in_foxglove():
    trails = Trails()
    for index in range(10):
        result = frame(index, {1: (20.0 + index, 30.25), 2: (5, 5)}, length=LONG_TRACK)
        trails.update(result)
    message = foxglove.image_annotations(result, trails, HEADER)
    lines, dots = message.points
    assert lines.timestamp == dots.timestamp == HEADER.stamp
    assert (dots.type, lines.type) == (Fields.POINTS, Fields.LINE_LIST)
    assert [(p.x, p.y) for p in dots.points] == [(29.5, 30.75), (5.5, 5.5)]
    assert len(dots.outline_colors) == 2
    np.testing.assert_allclose(dots.outline_colors[0].r, LENGTH_COLOURS[-1][0] / 255)
    corners = [(p.x, p.y) for p in lines.points]  # of track 1 alone: 2 has no tail
    assert corners[0] == (29.5, 30.75)
    assert corners[-1] == (20.5, 30.75)
    assert len(corners) == 2 * len(lines.outline_colors) >= 4
    assert corners[1:-1:2] == corners[2::2]  # pieces join
    opacities = [colour.a for colour in lines.outline_colors]
    assert opacities == sorted(opacities, reverse=True)
    assert 0 < opacities[-1] < opacities[0] <= 1


@pytest.mark.usefixtures("foxglove_msgs")
def test_annotations_of_nothing_and_of_a_first_image():
    trails, empty = Trails(), frame(0, {})
    trails.update(empty)
    lines, dots = foxglove.image_annotations(empty, trails, HEADER).points
    assert not lines.points
    assert not dots.points
    first = frame(1, {4: (7, 8)})
    trails.update(first)
    lines, dots = foxglove.image_annotations(first, trails, HEADER).points
    assert not lines.points
    assert len(dots.points) == 1


def test_there_are_no_annotations_where_the_package_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "foxglove_msgs", None)
    assert foxglove.message_type() is None
