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

"""Pictures of tracks and matches.

Tracks are coloured by length in frames: from 1 (blue) over green and yellow to 30 and more (red),
evenly spaced on the "turbo" colour map; those on moving objects are magenta. Match scores run from
0 (red) over yellow to 1 (green). The image underneath is dimmed grey, so that every colour has a
meaning. See ``docs/tracks.md``.

:class:`Trails` stores past positions. :func:`track_bins`, :data:`TRACK_COLOURS` and :func:`fade`
define the look, also for rviz and Foxglove.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from aliked_ros.errors import ImageError
from aliked_ros.io.images import grey
from aliked_ros.types import (
    Features,
    Float32Array,
    FrameResult,
    IntArray,
    Matches,
    Tracks,
    UInt8Array,
    UInt32Array,
    UInt64Array,
)

LONG_TRACK = 30  # frames; longer tracks have the same colour
_COLOURS = 16
_SHIFT = 4  # fractional bits of coordinates given to OpenCV
_MARGIN = 24  # grey level around pictures
_UNMATCHED = (170, 170, 170)
_BRIGHTNESS = 0.7  # of the image underneath
_FADE_STEPS = 8  # segments of a tail with one opacity each; more would cost more and look the same
_TAIL_OPACITY = 0.9  # at its fresh end
_LINES = 60  # between two images: more would hide them
_SMALL = 480  # pixels along the longer side, below which dots are smaller
_FONT = cv2.FONT_HERSHEY_SIMPLEX

Colours = list[tuple[int, int, int]]  # RGB


def _turbo(first: float, last: float) -> Colours:
    """Part of the colour map, from 0 to 1; its dark ends are hard to see on a photograph."""
    steps = np.linspace(first, last, _COLOURS) * 255
    table = cv2.applyColorMap(steps.round().astype(np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0]
    return [(int(red), int(green), int(blue)) for blue, green, red in table]


LENGTH_COLOURS = _turbo(0.14, 0.86)  # blue to red
MOVING_COLOUR = (255, 64, 255)  # magenta, which the colour map does not have
TRACK_COLOURS = [*LENGTH_COLOURS, MOVING_COLOUR]
_SCORE_COLOURS = _turbo(0.86, 0.42)  # red to green


def length_bins(lengths: UInt32Array) -> IntArray:
    """N indices into ``LENGTH_COLOURS`` for tracks of these lengths."""
    return _bins((lengths.astype(np.float32) - 1.0) / (LONG_TRACK - 1.0))


def track_bins(tracks: Tracks) -> IntArray:
    """N indices into ``TRACK_COLOURS``: of their lengths, or of what moves."""
    return np.where(tracks.at_rest, length_bins(tracks.lengths), _COLOURS)


def fade(age: Float32Array, frames: int) -> Float32Array:
    """Opacity, 0 to 1, of a position ``age`` frames ago, out of ``frames`` stored."""
    return np.asarray(np.clip(1.0 - age / frames, 0.0, 1.0), np.float32)


@dataclass(frozen=True, slots=True)
class _Moment:
    """Positions of one frame's tracks, sorted by id."""

    index: int
    ids: UInt64Array
    points: Float32Array


class Trails:
    """Positions of the newest frame's tracks in the last few frames.

    frames: how many, including frames that were never given.

    Memory is bounded by ``frames``. A new epoch clears it.
    """

    def __init__(self, frames: int = 15) -> None:
        self.frames = frames
        self._history: deque[_Moment] = deque(maxlen=frames)
        self._epoch: int | None = None

    def update(self, result: FrameResult, points: Float32Array | None = None) -> None:
        """Add a frame.

        points: N×D positions to store, NaN = none; None = the keypoints, N×2.
        """
        tracks, history = result.tracks, self._history
        if tracks.epoch != self._epoch or (history and result.index <= history[0].index):
            history.clear()
            self._epoch = tracks.epoch
        while history and result.index - history[-1].index >= self.frames:
            history.pop()
        order = np.argsort(tracks.ids)
        points = result.features.keypoints if points is None else points
        history.appendleft(_Moment(result.index, tracks.ids[order], points[order]))

    @property
    def ages(self) -> Float32Array:
        """T: how many frames ago each of :meth:`positions` was, 0 first."""
        return np.array([self._history[0].index - m.index for m in self._history], np.float32)

    def positions(self, ids: UInt64Array) -> Float32Array:
        """N×T×D points of the N tracks, newest first; NaN for those that are not seen now.

        Before a track's start and while it was lost, its position stays the same.
        """
        width = self._history[0].points.shape[1] if self._history else 2
        trail = np.full((len(ids), len(self._history), width), np.nan, np.float32)
        for age, moment in enumerate(self._history):
            if age:
                trail[:, age] = trail[:, age - 1]
            if len(moment.ids):
                place = np.minimum(np.searchsorted(moment.ids, ids), len(moment.ids) - 1)
                points = moment.points[place]
                seen = (moment.ids[place] == ids) & np.isfinite(points).all(axis=1)
                trail[seen, age] = points[seen]
        return trail


def draw_tracks(
    pixels: UInt8Array,
    result: FrameResult,
    trails: Trails,
    *,
    caption: str | None = None,
    legend: bool = True,
) -> UInt8Array:
    """Draw the tracks of a frame over its image.

    pixels: H×W or H×W×3 (RGB) uint8, the image of ``result``.
    trails: updated with ``result``; gives the tails, which fade with age.
    caption: a line of text at the top, which also marks keyframes. In a narrow picture its last
        parts, separated by two spaces, are omitted.
    legend: show the colour scale, and the colour of moving objects if there are any.

    Returns H×W×3 RGB uint8.
    """
    bins = track_bins(result.tracks)
    order = np.argsort(bins, kind="stable")  # long tracks and what moves on top
    bins, keypoints = bins[order], result.features.keypoints[order]
    trail = trails.positions(result.tracks.ids[order])
    opacity = _TAIL_OPACITY * fade(trails.ages, trails.frames)
    canvas = _draw_tails(_backdrop(pixels), bins, trail, opacity)
    radius = 2.0 * _thickness(canvas) * min(1.0, max(canvas.shape) / _SMALL)
    _dots(canvas, TRACK_COLOURS, bins, keypoints, radius)
    if legend:
        scale = LENGTH_COLOURS, "track length", "1", f"{LONG_TRACK}+ frames"
        _draw_legend(canvas, *scale, "" if result.tracks.at_rest.all() else "moving")
    if caption:
        _draw_caption(canvas, caption, "keyframe" if result.is_keyframe else "")
    return canvas


def draw_matches(
    pixels0: UInt8Array,
    features0: Features,
    pixels1: UInt8Array,
    features1: Features,
    matches: Matches,
    *,
    caption: str | None = None,
) -> UInt8Array:
    """Two images side by side, matched keypoints coloured by score, other keypoints grey.

    Lines join the matches, up to 60 of them: of more, those of every n-th row of the left image.

    pixels0, features0: the reference of ``matches``; pixels1, features1: the current image.

    Returns a max(H0, H1)×(W0+W1)×3 RGB uint8 picture.
    """
    left, right = (
        cv2.cvtColor(_backdrop(pixels), cv2.COLOR_GRAY2RGB) for pixels in (pixels0, pixels1)
    )
    canvas = np.zeros((max(len(left), len(right)), left.shape[1] + right.shape[1], 3), np.uint8)
    canvas[: len(left), : left.shape[1]] = left
    canvas[: len(right), left.shape[1] :] = right
    offset = np.array([left.shape[1], 0], np.float32)
    thickness = _thickness(canvas)
    for keypoints in (features0.keypoints, features1.keypoints + offset):
        for dot in _octagons(keypoints, 1.2 * thickness):
            cv2.fillConvexPoly(canvas, dot, _UNMATCHED, cv2.LINE_AA, _SHIFT)
    if len(matches):
        order = np.argsort(matches.scores, kind="stable")  # good matches on top
        bins = _bins(matches.scores[order])
        starts = features0.keypoints[matches.reference_indices[order]]
        ends = features1.keypoints[matches.current_indices[order]] + offset
        layer = canvas.copy()
        lines = _fixed_point(np.stack([starts, ends], axis=1))
        drawn = _spread_rows(starts, _LINES)
        _polylines(layer, _SCORE_COLOURS, bins[drawn], lines[drawn], thickness)
        opacity = float(np.clip(3.0 / np.sqrt(len(drawn)), 0.35, 0.75))  # many hide the images
        canvas = np.asarray(cv2.addWeighted(layer, opacity, canvas, 1.0 - opacity, 0.0), np.uint8)
        _dots(canvas, _SCORE_COLOURS, bins, starts, 2.0 * thickness)
        _dots(canvas, _SCORE_COLOURS, bins, ends, 2.0 * thickness)
    _draw_legend(canvas, _SCORE_COLOURS, "score", "0", "1")
    if caption:
        _draw_caption(canvas, caption)
    return canvas


def contact_sheet(
    pictures: Sequence[UInt8Array], *, columns: int = 3, width: int = 1440
) -> UInt8Array:
    """One RGB picture of many, row by row, each scaled to a cell with the first one's shape.

    pictures: at least one H×W×3 RGB uint8.
    width: of the sheet, pixels.
    """
    if not pictures:
        raise ImageError("a contact sheet needs at least one picture.")
    gap = 8
    columns = min(columns, len(pictures))
    cell_width = (width - gap * (columns + 1)) // columns
    cell_height = round(cell_width * pictures[0].shape[0] / pictures[0].shape[1])
    rows = -(-len(pictures) // columns)
    sheet = np.full((gap + rows * (cell_height + gap), width, 3), _MARGIN, np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        top, left = gap + row * (cell_height + gap), gap + column * (cell_width + gap)
        sheet[top : top + cell_height, left : left + cell_width] = fit(
            picture, cell_width, cell_height
        )
    return sheet


def fit(picture: UInt8Array, width: int, height: int) -> UInt8Array:
    """The picture, H×W×3, scaled into width×height pixels with dark margins, keeping its shape."""
    if picture.shape[:2] == (height, width):
        return picture
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = (
        max(1, min(width, round(picture.shape[1] * scale))),
        max(1, min(height, round(picture.shape[0] * scale))),
    )
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    fitted = np.full((height, width, 3), _MARGIN, np.uint8)
    fitted[top : top + size[1], left : left + size[0]] = cv2.resize(
        picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    return fitted


def _backdrop(pixels: UInt8Array) -> UInt8Array:
    return np.asarray(cv2.convertScaleAbs(grey(pixels), alpha=_BRIGHTNESS), np.uint8)


def _thickness(canvas: UInt8Array) -> int:
    """Line width in pixels: 1 up to 720 rows, growing with the picture."""
    return max(1, round(int(canvas.shape[0]) / 720))


def _bins(value: Float32Array) -> IntArray:
    """Colour index for values from 0 to 1, clipped."""
    return np.asarray(np.clip(value * _COLOURS, 0, _COLOURS - 1), np.int64)


def _fixed_point(points: NDArray[np.floating[Any]]) -> NDArray[np.int32]:
    return np.asarray(np.rint(points * (1 << _SHIFT)), np.int32)


def _polylines(
    canvas: UInt8Array,
    colours: Sequence[tuple[int, ...]],
    bins: IntArray,
    lines: NDArray[np.int32],
    thickness: int,
) -> None:
    """Draw N polylines of the same number of vertices, N×V×2 fixed point, one call per colour.

    bins: N colour numbers in ascending order.
    """
    limits = np.searchsorted(bins, np.arange(len(colours) + 1))
    for colour, first, last in zip(colours, limits[:-1], limits[1:], strict=True):
        if first < last:
            cv2.polylines(
                canvas, list(lines[first:last]), False, colour, thickness, cv2.LINE_AA, _SHIFT
            )


def _spread_rows(points: Float32Array, most: int) -> IntArray:
    """Up to ``most`` ascending indices of points N×2, evenly from the top to the bottom one."""
    chosen = np.linspace(0, len(points) - 1, min(len(points), most)).astype(np.int64)
    return np.sort(np.argsort(points[:, 1], kind="stable")[chosen])


def _octagons(centres: Float32Array, radius: float) -> NDArray[np.int32]:
    """N×8×2 fixed point; at a radius of 2 pixels rounder than OpenCV's circles, and as fast."""
    angle = np.arange(8, dtype=np.float32) * np.float32(np.pi / 4)
    return _fixed_point(
        centres[:, None] + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    )


def _dots(
    canvas: UInt8Array,
    colours: Colours,
    bins: IntArray,
    centres: Float32Array,
    radius: float,
) -> None:
    for colour, dot in zip(bins.tolist(), _octagons(centres, radius), strict=True):
        cv2.fillConvexPoly(canvas, dot, colours[colour], cv2.LINE_AA, _SHIFT)


def _draw_tails(
    backdrop: UInt8Array, bins: IntArray, trail: Float32Array, opacity: Float32Array
) -> UInt8Array:
    """The backdrop, H×W grey, with the tails of N tracks, in RGB.

    bins: N colour numbers, ascending. trail: N×T×2, newest first. opacity: T, of its points.

    All are drawn into one layer first, oldest parts first, so that newer lines cover older ones
    instead of adding to them.
    """
    limits = np.unique(
        np.linspace(0, max(trail.shape[1] - 1, 0), _FADE_STEPS + 1).round().astype(int)
    )
    lines = _fixed_point(trail)
    layer = np.zeros((*backdrop.shape, 4), np.uint8)  # colour times opacity; opacity
    for newest, oldest in reversed(list(pairwise(limits.tolist()))):
        part = lines[:, newest : oldest + 1]
        moves = (part != part[:, :1]).any(axis=(1, 2))
        weight = float(opacity[newest : oldest + 1].mean())
        colours = [
            (round(red * weight), round(green * weight), round(blue * weight), round(255 * weight))
            for red, green, blue in TRACK_COLOURS
        ]
        _polylines(layer, colours, bins[moves], part[moves], _thickness(backdrop))
    through = cv2.bitwise_not(cv2.extractChannel(layer, 3))
    under = cv2.cvtColor(cv2.multiply(backdrop, through, scale=1 / 255), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.add(under, cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB)), np.uint8)


def _draw_caption(canvas: UInt8Array, text: str, mark: str = "") -> None:
    """A line of text at the top, and ``mark`` at its right end.

    Parts of the text, separated by two spaces, are omitted from the end if there is no room.
    """
    unit = _thickness(canvas)
    scale, margin, width = 0.45 * unit, 8 * unit, canvas.shape[1]
    height = round(44 * scale)
    canvas[:height] //= 3

    def room(words: str) -> int:
        return int(cv2.getTextSize(words, _FONT, scale, unit)[0][0]) + margin

    right = width - room(mark) if mark else width
    parts = text.split("  ")
    while parts and margin + room("  ".join(parts)) > right:
        parts.pop()
    for line, x in (("  ".join(parts), margin), (mark, right)):
        place = (x, round(31 * scale))
        cv2.putText(canvas, line, place, _FONT, scale, (255,) * 3, unit, cv2.LINE_AA)


def _draw_legend(
    canvas: UInt8Array, colours: Colours, title: str, low: str, high: str, moving: str = ""
) -> None:
    """The colour scale in the lower left corner, omitted if the picture is too small.

    moving: the word beside the colour of what moves; empty = neither.
    """
    unit = _thickness(canvas)
    scale, cell, margin = 0.4 * unit, 7 * unit, 8 * unit
    texts = [f"{title}  {low}", high, moving]
    sizes = [cv2.getTextSize(text, _FONT, scale, unit)[0] for text in texts]
    width = sizes[0][0] + sizes[1][0] + _COLOURS * cell + 4 * margin
    swatch, more = width + margin, cell + sizes[2][0] + 3 * margin
    if moving and width + more <= canvas.shape[1]:
        width += more
    else:
        texts[2] = moving = ""
    height = 20 * unit
    if width > canvas.shape[1] or 3 * height > canvas.shape[0]:
        return
    top = canvas.shape[0] - height
    canvas[top:, :width] //= 3
    baseline = canvas.shape[0] - 6 * unit
    bar = 2 * margin + sizes[0][0]
    places = (margin, bar + _COLOURS * cell + margin, swatch + cell + margin)
    for text, x in zip(texts, places, strict=True):
        cv2.putText(canvas, text, (x, baseline), _FONT, scale, (255,) * 3, unit, cv2.LINE_AA)
    for number, colour in enumerate(colours):
        left = bar + number * cell
        canvas[top + 6 * unit : baseline, left : left + cell] = colour
    if moving:
        canvas[top + 6 * unit : baseline, swatch : swatch + cell] = MOVING_COLOUR
