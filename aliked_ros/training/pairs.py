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

"""Image pairs with known correspondences, from single images or from depth with poses.

A dataset is a sequence. ``dataset[index]`` is always the same pair, in any process and order, since
it is drawn with (seed, index). So training can resume exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aliked_ros.errors import SourceError
from aliked_ros.training.distortions import Distortions, draw_homography, photometric
from aliked_ros.training.frames import (
    Frame,
    Frames,
    Reading,
    covering,
    read_frames,
    scene_overlaps,
)
from aliked_ros.training.settings import Data
from aliked_ros.training.warps import DepthWarp, HomographyWarp, Warp
from aliked_ros.types import Float64Array, UInt8Array


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images 3×H×W float32 in [0, 1], and warps of points between them.

    name: for error messages.
    """

    name: str
    first: Tensor
    second: Tensor
    first_to_second: Warp
    second_to_first: Warp


class Pairs(Protocol):
    """A dataset of pairs."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int) -> Pair:
        """The pair at this index, always the same."""
        ...


class HomographyPairs:
    """Pairs made from single images by a random homography and photometric changes."""

    def __init__(
        self,
        images: Sequence[UInt8Array],
        size: tuple[int, int],
        distortions: Distortions,
        seed: int,
        length: int | None = None,
        growing: int = 0,
    ) -> None:
        """Make ``length`` pairs (default: one per image) of ``size`` (width, height) pixels.

        images: H×W×3 (RGB) uint8. growing: number of pairs over which the distortions grow. Raises
        SourceError if there are no images.
        """
        if not images:
            raise SourceError("there are no images to make training pairs from.")
        self._images, self._size, self._seed = images, size, seed
        self._distortions = distortions
        self._length, self._growing = length or len(images), growing

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Pair:
        """See ``Pairs``."""
        rng = np.random.default_rng((self._seed, index))
        number = index % len(self._images)
        width, height = self._size
        source = self._images[number]
        fit = _fitting(source.shape, self._size)
        share = min(1.0, (index + 1) / self._growing) if self._growing else 1.0
        distortions = self._distortions.grown(share)
        homography = draw_homography(rng, width, height, distortions)
        # both are sampled from the image itself, so each may show what the other does not
        views = [
            cv2.warpPerspective(source, matrix, (width, height), flags=cv2.INTER_LINEAR,
                                borderMode=cv2.BORDER_REFLECT_101)
            for matrix in (fit, homography @ fit)
        ]  # fmt: skip
        first, second = (
            _tensor(photometric(rng, np.asarray(view, np.uint8), distortions)) for view in views
        )
        matrix = torch.from_numpy(homography)
        return Pair(
            f"image {number}, homography of seed ({self._seed}, {index})",
            first,
            second,
            HomographyWarp(matrix, width, height),
            HomographyWarp(torch.linalg.inv(matrix), width, height),
        )


class DepthPairs:
    """Pairs of images with depth and poses; a point counts if both depths agree."""

    def __init__(
        self,
        frames: Frames,
        pairs: NDArray[np.int64],
        distortions: Distortions,
        seed: int,
        length: int | None = None,
    ) -> None:
        """Draw ``length`` (default: one of each) of ``pairs``, K×2 indices into ``frames``.

        In either order, with changed light. Raises SourceError if there are none.
        """
        if not len(pairs):
            raise SourceError(
                f"no two of the {len(frames)} images with depth and a pose are near enough; raise "
                "largest_gap, or widen overlap."
            )
        self._frames, self._pairs, self._distortions = frames, pairs, distortions
        self._seed, self._length = seed, length or len(pairs)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Pair:
        """See ``Pairs``."""
        rng = np.random.default_rng((self._seed, index))
        places = rng.permutation(self._pairs[rng.integers(len(self._pairs))])
        first, second = (self._frames[int(place)] for place in places)
        views = [
            _tensor(photometric(rng, frame.pixels, self._distortions)) for frame in (first, second)
        ]
        return Pair(
            f"{first.name} and {second.name}",
            views[0],
            views[1],
            _depth_warp(first, second),
            _depth_warp(second, first),
        )


def open_pairs(
    data: Data,
    size: tuple[int, int],
    length: int | None,
    seed: int,
    report: Reading = lambda *_: None,
    growing: int = 0,
) -> Pairs:
    """``length`` pairs of a source, with images of ``size`` (width, height) pixels.

    length: default one per image or pair. growing: for homographies, the number of pairs over which
    the distortions grow. Raises SourceError if the source lacks something, and OutputError.
    """
    frames = read_frames(data, size, report)
    if data.kind == "homography":
        images = [frames[place].pixels for place in range(len(frames))]
        return HomographyPairs(images, size, data.distortions, seed, length, growing)
    if data.kind == "megadepth":
        overlaps = scene_overlaps(data.source)
        low, high = data.overlap
        chosen = overlaps[(overlaps[:, 2] >= low) & (overlaps[:, 2] <= high), :2]
        found = np.stack([np.searchsorted(frames.numbers, one) for one in chosen.T], axis=1)
        found = np.minimum(found, len(frames) - 1)
        pairs = found[(frames.numbers[found] == chosen).all(1)]
    else:
        apart = frames.numbers[None] - frames.numbers[:, None]
        pairs = np.argwhere((apart > 0) & (apart <= data.largest_gap))
    return DepthPairs(frames, pairs, data.distortions, seed, length)


def _depth_warp(here: Frame, there: Frame) -> DepthWarp:
    assert here.pose is not None
    assert there.pose is not None
    motion = there.pose.inverse() @ here.pose
    return DepthWarp(
        torch.tensor(here.depth),
        torch.tensor(there.depth),
        torch.tensor(here.matrix),
        torch.tensor(there.matrix),
        torch.from_numpy(motion.rotation),
        torch.from_numpy(motion.translation),
    )


def _fitting(shape: tuple[int, ...], size: tuple[int, int]) -> Float64Array:
    """The homography that scales an image about its centre to cover ``size``."""
    (height, width), (columns, rows) = shape[:2], size
    scale = covering(shape, size)
    return np.array(
        [
            [scale, 0.0, 0.5 * (columns - 1) - 0.5 * scale * (width - 1)],
            [0.0, scale, 0.5 * (rows - 1) - 0.5 * scale * (height - 1)],
            [0.0, 0.0, 1.0],
        ]
    )


def _tensor(pixels: UInt8Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 255
