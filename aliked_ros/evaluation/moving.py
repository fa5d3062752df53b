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


"""How well moving objects are found: with a texture moved over a sequence, and without one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ImageError
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.io.images import grey
from aliked_ros.sources.base import read_image
from aliked_ros.types import BoolArray, Float32Array, FrameResult, Image, UInt8Array

_EDGE = 5  # pixels on both sides of the object's edge, where a feature may be of either
_WIDTH = 150  # pixels of a texture
_TURN = 0.5  # degrees an image
_BORDER = 10  # pixels from the image's edge at which the object turns back
_NOISE = 2.0  # grey levels
_SETTLED = 10  # images after which an object should be found


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a sequence.

    images: processed. with_object: share of the images in which rows are on a moving object.
    rows: share of all rows that are. recall: share of the rows on the texture that are, precision:
    share of those that are on it, once it has been seen in ``settled`` images; None = there are
    none. first: images that the object had been seen in when it was first found, -1 = never.
    objects: numbers given to what was found.
    """

    images: int
    with_object: float
    rows: float
    recall: float | None
    precision: float | None
    first: int
    objects: int


@dataclass(frozen=True, slots=True)
class Overlay:
    """A texture that moves over images, turning slowly, and turns back at their edges.

    texture: H×W uint8. velocity: pixels an image, x and y. start: number of the first image that
    shows it.
    """

    texture: UInt8Array
    velocity: tuple[float, float] = (4.0, 2.0)
    start: int = 0

    def over(self, images: Iterable[Image]) -> Iterator[tuple[Image, BoolArray]]:
        """The images with the texture, in grey, and where it is, H×W.

        Raises ImageError where the texture has no room to move.
        """
        place, velocity = np.zeros(2), np.array(self.velocity)
        half = np.array(self.texture.shape[::-1]) / 2
        for number, image in enumerate(images):
            pixels = grey(image.pixels)
            size = np.array(pixels.shape[::-1])
            if number == 0:
                place = 0.35 * size
            if number < self.start:
                yield replace(image, pixels=pixels), np.zeros(pixels.shape, bool)
                continue
            room = half + _BORDER
            if (size < 2 * room).any():
                height, width = self.texture.shape
                raise ImageError(
                    f"The texture is {width}×{height} pixels, the image {size[0]}×{size[1]}: it "
                    f"cannot move there. Use a texture with {_BORDER} pixels of room on each side."
                )
            velocity = np.where(place < room, np.abs(velocity), velocity)
            velocity = np.where(place > size - room, -np.abs(velocity), velocity)
            turn = cv2.getRotationMatrix2D((half[0], half[1]), _TURN * number, 1.0)
            turn = turn + np.column_stack([np.zeros((2, 2)), place - half])
            shape = (int(size[0]), int(size[1]))
            shown = cv2.warpAffine(self.texture, turn, shape)
            whole = cv2.warpAffine(np.full_like(self.texture, 255), turn, shape)
            opacity = whole.astype(np.float32) / 255
            mixed = pixels + opacity * (shown.astype(np.float32) - pixels)
            yield replace(image, pixels=np.rint(mixed).astype(np.uint8)), whole > 127
            place = place + velocity


def texture_of(file: Path) -> UInt8Array:
    """An image file in grey, ``_WIDTH`` pixels wide. Raises ImageError if it cannot be read."""
    pixels = grey(read_image(file))
    height = max(1, round(_WIDTH * pixels.shape[0] / pixels.shape[1]))
    return np.asarray(cv2.resize(pixels, (_WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)


def standing(image: Image, count: int, rate: float) -> Iterator[Image]:
    """What a camera that stands still sees: one image, with noise."""
    random = np.random.default_rng(0)
    pixels = grey(image.pixels).astype(np.float32)
    for number in range(count):
        noisy = pixels + random.normal(0.0, _NOISE, pixels.shape)
        yield Image(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), number / rate)


def moving_found(
    config: FrontendConfig,
    images: Iterable[Image],
    camera: CameraModel | None,
    overlay: Overlay | None = None,
) -> Found:
    """Process images, with an object moving over them or as they are."""
    recalls: list[tuple[int, int]] = []
    precisions: list[tuple[int, int]] = []
    shares: list[float] = []
    numbers: set[int] = set()
    first = -1
    shown: Iterable[tuple[Image, BoolArray]]
    shown = ((image, np.zeros((1, 1), bool)) for image in images)
    if overlay is not None:
        shown = overlay.over(images)
    with closing(Pipeline(config)) as pipeline:
        pipeline.camera = camera
        for number, (image, where) in enumerate(shown):
            result = pipeline.process(image)
            flagged = ~result.tracks.at_rest
            shares.append(float(flagged.mean()) if len(flagged) else 0.0)
            if result.tracks.objects is not None:
                numbers |= set(np.unique(result.tracks.objects[flagged]).tolist())
            if overlay is None or number < overlay.start:
                continue
            inside, outside = (_at(side, result) for side in _sides(where))
            if first < 0 and (flagged & inside).any():
                first = number - overlay.start + 1
            if number >= overlay.start + _SETTLED:
                recalls.append((int((flagged & inside).sum()), int(inside.sum())))
                precisions.append((int((flagged & ~outside).sum()), int(flagged.sum())))
    return Found(
        len(shares),
        float(np.mean([share > 0.0 for share in shares])),
        float(np.mean(shares)),
        _ratio(recalls),
        _ratio(precisions),
        first,
        len(numbers),
    )


def _sides(where: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Well inside the object, and well outside."""
    kernel = np.ones((2 * _EDGE + 1,) * 2, np.uint8)
    mask = where.astype(np.uint8)
    return cv2.erode(mask, kernel) != 0, cv2.dilate(mask, kernel) == 0


def _at(where: BoolArray, result: FrameResult) -> BoolArray:
    points: Float32Array = result.features.keypoints
    columns, rows = np.rint(points).astype(np.intp).T
    return np.asarray(where[rows.clip(0, where.shape[0] - 1), columns.clip(0, where.shape[1] - 1)])


def _ratio(pairs: list[tuple[int, int]]) -> float | None:
    some, everything = np.sum(pairs, axis=0) if pairs else (0, 0)
    return float(some / everything) if everything else None
