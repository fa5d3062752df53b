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

"""Image pairs with a ground-truth homography, in published layouts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aliked_ros.errors import SourceError
from aliked_ros.sources import IMAGE_SUFFIXES
from aliked_ros.types import Float64Array

LAYOUTS = (
    "a pairs.txt (lines 'IMAGE1 IMAGE2 HOMOGRAPHY', paths relative to it), the Oxford affine "
    "regions (SCENE/img1.ppm ... and SCENE/H1to2p ...), or HPatches sequences (v_NAME or i_NAME "
    "with 1.ppm ... and H_1_2 ...)"
)
# What changes between the images of each scene: Mikolajczyk et al., IJCV 2005, figure 9.
_OXFORD = {
    "bark": "zoom + rotation",
    "boat": "zoom + rotation",
    "graf": "viewpoint",
    "graffiti": "viewpoint",
    "wall": "viewpoint",
    "bikes": "blur",
    "trees": "blur",
    "leuven": "light",
    "ubc": "compression",
}
_HPATCHES = {"v_": "viewpoint", "i_": "light"}
_OTHER = "other"


@dataclass(frozen=True, slots=True)
class HomographyPair:
    """Two images of a plane, or from the same position.

    homography: 3×3, x2 ~ H·x1 in pixels (origin at the centre of the top-left one). kind: what
    changes: viewpoint, zoom + rotation, blur, light, compression; ``other`` if unknown.
    """

    name: str
    first: Path
    second: Path
    homography: Float64Array
    kind: str


def homography_pairs(folder: Path) -> list[HomographyPair]:
    """All pairs of a folder; SourceError for an unknown layout or a broken file."""
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder; give one with {LAYOUTS}.")
    if (folder / "pairs.txt").is_file():
        pairs = list(_listed(folder / "pairs.txt"))
        if not pairs:
            raise SourceError(f"{folder / 'pairs.txt'} lists no pairs.")
        return pairs
    scenes = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    pairs = [pair for scene in scenes for pair in _scene(scene)]
    if not pairs:
        raise SourceError(f"{folder} has no known layout; give {LAYOUTS}.")
    return pairs


def _listed(table: Path) -> Iterator[HomographyPair]:
    for number, line in enumerate(
        table.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1
    ):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3:
            raise SourceError(
                f"{table}:{number} is {line!r}; expected IMAGE1 IMAGE2 HOMOGRAPHY, e.g. "
                "graf/img1.png graf/img2.png graf/H_1_2.txt."
            )
        first, second, matrix = (table.parent / word for word in words)
        yield _pair(first, second, matrix)


def _scene(folder: Path) -> Iterator[HomographyPair]:
    """Pairs 1→k of one scene, Oxford or HPatches."""
    images = {
        int(found[1]): path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
        and (found := re.fullmatch(r"(?:img)?(\d+)", path.stem))
    }
    for number in sorted(images):
        for name in (f"H1to{number}p", f"H1to{number}p.txt", f"H_1_{number}", f"H_1_{number}.txt"):
            if number != 1 and 1 in images and (folder / name).is_file():
                yield _pair(images[1], images[number], folder / name)
                break


def _pair(first: Path, second: Path, matrix: Path) -> HomographyPair:
    scene = first.parent.resolve().name
    return HomographyPair(
        name=f"{first.parent.name}/{first.stem} {second.parent.name}/{second.stem}",
        first=first,
        second=second,
        homography=_homography(matrix),
        kind=_OXFORD.get(scene.lower(), _HPATCHES.get(scene[:2], _OTHER)),
    )


def _homography(path: Path) -> Float64Array:
    try:
        matrix = np.loadtxt(path)
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot read the homography {path}: {error}.") from error
    if (
        matrix.shape != (3, 3)
        or not np.isfinite(matrix).all()
        or abs(np.linalg.det(matrix)) < 1e-12
    ):
        raise SourceError(f"{path} is not a homography: expected three lines of three numbers.")
    return matrix
