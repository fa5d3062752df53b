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

"""Maps points of one image to the other, with their visibility."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Warp(Protocol):
    """From pixels of one image to pixels of the other."""

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points N×2 → points N×2, differentiable, and N bool: visible there."""
        ...


@dataclass(frozen=True, slots=True)
class HomographyWarp:
    """Of a plane: x' ~ matrix · x. matrix: 3×3. width, height: of the target image."""

    matrix: Tensor
    width: int
    height: int

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Warp``."""
        matrix = self.matrix.to(points)
        mapped = torch.cat([points, torch.ones_like(points[:, :1])], dim=1) @ matrix.T
        front = mapped[:, 2] > 1e-6
        depth = torch.where(front, mapped[:, 2], torch.ones_like(mapped[:, 2]))
        there = mapped[:, :2] / depth[:, None]
        return there, front & inside(there, self.width, self.height)


@dataclass(frozen=True, slots=True)
class DepthWarp:
    """Of a scene with known depth, between two pinhole images.

    depth: H×W metres of the source image, NaN = none; other: of the target image, to find hidden
    points. matrix, other_matrix: 3×3 intrinsics. rotation, translation: p_other = R·p + t, metres.
    tolerance: largest relative difference to the target's depth; a point beyond it is hidden.
    """

    depth: Tensor
    other: Tensor
    matrix: Tensor
    other_matrix: Tensor
    rotation: Tensor
    translation: Tensor
    tolerance: float = 0.05

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Warp``; depth comes from the nearest pixel and has no gradient."""
        matrix, other_matrix, rotation, translation = (
            part.to(points)
            for part in (self.matrix, self.other_matrix, self.rotation, self.translation)
        )
        here = _nearest(self.depth, points.detach()).to(points)
        known = torch.isfinite(here) & (here > 0)
        scaled = torch.where(known, here, torch.ones_like(here))
        solid = torch.cat([points, torch.ones_like(points[:, :1])], dim=1)
        local = solid @ torch.linalg.inv(matrix).T * scaled[:, None]
        moved = local @ rotation.T + translation
        front = moved[:, 2] > 1e-3
        z = torch.where(front, moved[:, 2], torch.ones_like(moved[:, 2]))
        there = (moved / z[:, None] @ other_matrix.T)[:, :2]
        height, width = self.other.shape
        seen = known & front & inside(there, width, height)
        shown = _nearest(self.other, there.detach()).to(points)
        # both ways: a point far in front of the surface is another object too
        agrees = (z - shown).abs() <= self.tolerance * z
        return there, seen & torch.isfinite(shown) & agrees


def inside(points: Tensor, width: int, height: int) -> Tensor:
    """N bool: which points N×2 lie on pixels of an image."""
    x, y = points.unbind(-1)
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _nearest(table: Tensor, points: Tensor) -> Tensor:
    """Values N of an H×W table at the pixels nearest to points N×2; NaN outside."""
    height, width = table.shape
    x, y = points.round().long().unbind(-1)
    valid = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    table = table.to(points.device)
    found = table[y.clamp(0, height - 1), x.clamp(0, width - 1)]
    return torch.where(valid, found, torch.full_like(found, torch.nan))
