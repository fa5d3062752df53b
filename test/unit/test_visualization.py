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

"""What the pictures say: colour is length, tails lie where the track has been, dots are exact."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest

from aliked_ros.errors import ImageError
from aliked_ros.io.drawing import (
    LONG_TRACK,
    Trails,
    contact_sheet,
    draw_matches,
    draw_tracks,
)
from aliked_ros.types import Features, FrameResult, Matches, Tracks

BLACK = np.zeros((240, 320), np.uint8)


def features(keypoints: list[tuple[float, float]]) -> Features:
    points = np.array(keypoints, np.float32).reshape(-1, 2)
    count = len(points)
    descriptors = np.ones((count, 1), np.float32)
    return Features(points, np.ones(count, np.float32), descriptors, 320, 240, "aliked-n16")


def frame(
    index: int, tracks: dict[int, tuple[float, float]], length: int = 1, epoch: int = 1
) -> FrameResult:
    ids = np.array(list(tracks), np.uint64)
    lengths = np.full(len(tracks), length, np.uint32)
    found = features(list(tracks.values()))
    return FrameResult(index, index / 30, found, Matches.empty(), Tracks(ids, lengths, epoch))


def draw(*results: FrameResult, pixels: np.ndarray = BLACK) -> np.ndarray:
    trails = Trails()
    for result in results:
        trails.update(result)
    return draw_tracks(pixels, results[-1], trails, legend=False)


def hue(colour: np.ndarray) -> float:
    """Degrees: red 0, green 120, blue 240."""
    return float(
        cv2.cvtColor(colour.astype(np.float32)[None, None] / 255, cv2.COLOR_RGB2HSV)[0, 0, 0]
    )


def test_colour_runs_from_blue_to_red_with_the_length() -> None:
    lengths = [1, 8, 15, 22, LONG_TRACK]
    hues = [hue(draw(frame(0, {5: (100, 120)}, length))[120, 100]) for length in lengths]
    assert 190 < hues[0] < 250
    assert 0 <= hues[-1] < 30
    assert all(shorter > longer for shorter, longer in pairwise(hues))
    older = draw(frame(0, {5: (100, 120)}, 10 * LONG_TRACK))[120, 100]
    assert hue(older) == hues[-1]


@pytest.mark.parametrize("point", [(100.0, 120.0), (100.5, 120.25), (7.75, 231.4)])
def test_dots_are_drawn_to_a_fraction_of_a_pixel(point: tuple[float, float]) -> None:
    weight = draw(frame(0, {1: point})).sum(axis=2, dtype=float)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    centre = [(weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()]
    assert centre == pytest.approx(point, abs=0.15)


def test_tails_lie_where_the_track_has_been_and_fade() -> None:
    path = [frame(i, {3: (50.0 + 10 * i, 120.0)}, i + 1) for i in range(12)]
    picture = draw(*path).max(axis=2).astype(int)
    along = picture[120, 55:155:10]
    assert (along > 0).all()
    assert along[0] < along[len(along) // 2] < along[-1]
    picture[115:126] = 0
    assert not picture.any()  # nothing beside the path


def test_a_tail_belongs_to_its_own_track() -> None:
    picture = draw(frame(0, {1: (50, 50), 2: (50, 150)}), frame(1, {2: (90, 150), 7: (90, 50)}))
    assert picture[150, 60:80].any()
    assert not picture[50, 55:85].any()


def test_tails_fade_in_small_steps_without_gaps() -> None:
    path = [frame(i, {3: (20.0 + 18 * i, 120.0)}, LONG_TRACK) for i in range(15)]
    along = draw(*path)[120, 24:266].max(axis=1).astype(int)
    steps = np.diff(along)
    assert along[0] > 10
    assert along[-1] > 150
    assert steps.min() >= -25  # brighter towards the dot, but for joints of a pixel
    assert steps.max() < 40
    assert (steps > 3).sum() >= 7


def test_lines_that_meet_do_not_add_up() -> None:
    crossing = [frame(i, {1: (60.0 + 5 * i, 120.0), 2: (100.0, 80.0 + 5 * i)}) for i in range(15)]
    picture = draw(*crossing).max(axis=2).astype(int)
    assert picture[116:125, 96:105].max() <= picture[120, 60:140].max()


def test_tails_end_after_so_many_frames_even_if_some_were_not_drawn() -> None:
    trails = Trails(frames=5)
    for index in (0, 1, 4, 6):
        trails.update(frame(index, {4: (float(index), 1.0)}))
    assert trails.ages.tolist() == [0, 2]
    assert trails.positions(np.array([4], np.uint64))[0, :, 0].tolist() == [6, 4]
    trails.update(frame(100, {4: (9.0, 1.0)}))  # nobody looked meanwhile
    assert trails.ages.tolist() == [0]
    trails.update(frame(50, {4: (7.0, 1.0)}))  # numbered anew
    assert trails.ages.tolist() == [0]


def test_a_track_that_was_lost_joins_where_it_was() -> None:
    trails = Trails()
    for index, seen in enumerate([True, True, False, True]):
        trails.update(frame(index, {4: (10.0 * index, 1.0)} if seen else {}))
    assert trails.positions(np.array([4], np.uint64))[0, :, 0].tolist() == [30, 30, 10, 0]


def test_trails_of_other_points_than_keypoints() -> None:
    trails, result = Trails(), frame(0, {1: (5, 5), 2: (6, 6)})
    trails.update(result, np.array([[1, 2, 3], [np.nan] * 3], np.float32))
    positions = trails.positions(result.tracks.ids)
    assert positions[0].tolist() == [[1, 2, 3]]
    assert np.isnan(positions[1]).all()


def test_trails_remember_positions_and_are_bounded() -> None:
    trails = Trails(frames=3)
    for index in range(10):
        trails.update(frame(index, {4: (index, 1.0), 100 + index: (0.0, 0.0)}))
    positions = trails.positions(np.array([109, 4, 55], np.uint64))
    assert positions.shape == (3, 3, 2)
    assert positions[1, :, 0].tolist() == [9, 8, 7]
    assert (positions[0] == 0).all()  # a track of one frame stays where it is
    assert np.isnan(positions[2]).all()


def test_a_new_epoch_has_no_tails_of_the_old_one() -> None:
    picture = draw(frame(0, {1: (50, 50)}, epoch=1), frame(1, {1: (150, 50)}, epoch=2))
    assert not picture[50, 60:140].any()


def test_the_image_underneath_is_grey_and_untouched() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    before = colour.copy()
    picture = draw(frame(0, {1: (100, 120)}), pixels=colour)
    assert np.array_equal(colour, before)
    far = picture[:100]
    assert (far[..., 0] == far[..., 1]).all()
    assert (far[..., 1] == far[..., 2]).all()
    assert far.std() > 10


def test_frames_without_tracks_and_points_at_the_border() -> None:
    empty = draw(frame(0, {}))
    assert empty.shape == (240, 320, 3)
    assert not empty.any()
    assert draw(frame(0, {1: (0, 0), 2: (319, 239)}))[[0, 239], [0, 319]].any(axis=1).all()


def test_legend_and_caption() -> None:
    trails, result = Trails(), frame(0, {})
    plain = draw_tracks(np.full((240, 320), 200, np.uint8), result, trails, legend=False)
    full = draw_tracks(np.full((240, 320), 200, np.uint8), result, trails, caption="12 tracks")
    changed = (plain != full).any(axis=2)
    assert changed[:20].any()
    assert changed[-20:].any()
    assert not changed[25:-25].any()
    assert (full[-10].max(axis=1) - full[-10].min(axis=1)).max() > 100  # the scale is in colour
    tiny = draw_tracks(np.zeros((64, 64), np.uint8), result, trails)
    assert not tiny.any()  # no room: left out


@pytest.mark.parametrize("size", [(16, 16), (33, 500), (320, 240), (1241, 376), (3840, 2160)])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_any_size_and_number(size: tuple[int, int], count: int) -> None:
    width, height = size
    places = np.random.default_rng(1).uniform((0, 0), (width - 1, height - 1), (count, 2))
    result = frame(0, {i + 1: (float(x), float(y)) for i, (x, y) in enumerate(places)}, LONG_TRACK)
    trails = Trails()
    trails.update(result)
    picture = draw_tracks(np.full((height, width), 90, np.uint8), result, trails, caption="a  b")
    assert picture.shape == (height, width, 3)
    coloured = np.ptp(picture[height // 4 : height // 2].astype(int), axis=2) > 60
    assert coloured.any() == (count == 500)  # one point lies elsewhere


def test_dots_grow_with_the_picture() -> None:
    areas = []
    for width, height in ((320, 240), (640, 480), (1920, 1080), (3840, 2160)):
        result, trails = frame(0, {1: (width / 2, height / 2)}), Trails()
        trails.update(result)
        picture = draw_tracks(np.zeros((height, width), np.uint8), result, trails, legend=False)
        areas.append(int((picture.max(axis=2) > 60).sum()))
    assert all(larger > 1.5 * smaller for smaller, larger in pairwise(areas))
    assert areas[0] >= 4


def test_a_caption_without_room_loses_its_last_parts() -> None:
    result, trails = frame(0, {}), Trails()
    white = np.full((240, 320), 255, np.uint8)

    def text(caption: str, result: FrameResult = result) -> np.ndarray:
        picture = draw_tracks(white, result, trails, caption=caption, legend=False)
        return picture[:20].max(axis=2) > 150

    short = text("29.8 Hz  512 features")
    assert short.any()
    assert np.array_equal(text("29.8 Hz  512 features  " + 60 * "x"), short)
    keyframe = text("29.8 Hz  512 features", replace(result, keyframe_reason="time"))
    assert np.array_equal(keyframe[:, :200], short[:, :200])
    assert keyframe[:, 200:].any()
    assert not short[:, 200:].any()


def test_matches_join_the_two_images() -> None:
    left, right = features([(40, 60), (80, 100)]), features([(200, 30), (60, 60)])
    indices = np.array([0], np.uint32), np.array([1], np.uint32)
    narrow = np.zeros((200, 100), np.uint8)

    def draw_one(score: float) -> np.ndarray:
        matches = Matches(*indices, np.array([score], np.float32))
        return draw_matches(narrow, left, BLACK, right, matches)

    picture = draw_one(0.99)
    assert picture.shape == (240, 420, 3)
    assert picture[60, 40:161].any(axis=1).all()  # from (40, 60) to (100 + 60, 60)
    assert 90 < hue(picture[60, 100]) < 150  # green is good
    assert hue(draw_one(0.01)[60, 100]) < 30
    unmatched = picture[100, 80]
    assert unmatched.any()
    assert unmatched.min() == unmatched.max()  # grey
    nothing = draw_matches(narrow, left, BLACK, right, Matches.empty())
    assert not nothing[60, 50:150].any()


def test_hundreds_of_matches_leave_the_images_visible() -> None:
    random = np.random.default_rng(0)
    points = random.uniform(10, (310, 230), (700, 2))
    both = features([tuple(point) for point in points])
    rows = np.arange(700, dtype=np.uint32)
    nothing = draw_matches(BLACK, both, BLACK, both, Matches.empty())
    matches = Matches(rows, rows, np.ones(700, np.float32))
    picture = draw_matches(BLACK, both, BLACK, both, matches)
    between = (nothing == 0).all(axis=2)  # where no keypoint is
    green = picture[..., 1].astype(int) - picture[..., 0] > 20
    assert 0.02 < green[between].mean() < 0.5
    x, y = points.round().astype(int).T
    assert green[y, x].mean() > 0.99  # every matched keypoint has its colour


def test_contact_sheet_keeps_order_and_shape() -> None:
    pictures = [np.full((60, 80, 3), 50 * i, np.uint8) for i in range(1, 5)]
    pictures.append(np.full((60, 20, 3), 250, np.uint8))  # narrower: fitted into the cell
    sheet = contact_sheet(pictures, columns=3, width=320)
    rows, columns = sheet.shape[0] // 2, sheet.shape[1] // 3
    centres = [
        int(sheet[rows * row + rows // 2, columns * column + columns // 2, 0])
        for row, column in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))
    ]
    assert centres == [50, 100, 150, 200, 250]
    assert sheet.shape[1] == 320
    with pytest.raises(ImageError, match="at least one"):
        contact_sheet([])
