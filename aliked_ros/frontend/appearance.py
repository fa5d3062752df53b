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


"""The appearance of an image as one vector, by which images of one place find each other.

It is a VLAD: each descriptor is assigned to the nearest of 256 centres, the differences are added
up by centre, projected to 8 dimensions, and normalised. ``tools/train_appearance.py`` made the
centres in ``models/appearance.npz``.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aliked_ros.errors import ModelError
from aliked_ros.frontend.similarity import similarities
from aliked_ros.system.share import share_path
from aliked_ros.types import Float32Array

ENCODER = "vlad-256x8-2"
"""Changes with the vectors: those of another encoder are not compared."""

CENTRES, PROJECTED = 256, 8
DIMENSION = CENTRES * PROJECTED
"""Numbers in a vector: 82 MB in float32 for 10,000 of them."""

_PART = 1000  # vectors that are compared at once


def encode(descriptors: ArrayLike) -> Float32Array:
    """The vector of an image, DIMENSION long, of unit length; zeros without descriptors N×D."""
    rows = np.asarray(descriptors, np.float32)
    if not len(rows):
        return np.zeros(DIMENSION, np.float32)
    centres, projection = _codebook(rows.shape[1])
    nearest = similarities(rows, centres).argmax(1)
    differences = np.zeros((CENTRES, PROJECTED), np.float32)
    np.add.at(differences, nearest, (rows - centres[nearest]) @ projection)
    lengths = np.linalg.norm(differences, axis=1, keepdims=True)
    vector = (differences / np.maximum(lengths, 1e-9)).ravel()
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9), np.float32)


def by_likeness(vectors: Float32Array, vector: Float32Array) -> NDArray[np.intp]:
    """Rows of ``vectors`` N×DIMENSION, the one most like ``vector`` first."""
    # in parts, since the matching of images waits for each
    parts = [
        similarities(vectors[begin : begin + _PART], vector[None])[:, 0]
        for begin in range(0, len(vectors), _PART)
    ]
    return np.argsort(-np.concatenate(parts), kind="stable")


@cache
def _codebook(dimension: int) -> tuple[Float32Array, Float32Array]:
    """Centres 256×D, of unit length, and projection D×8; ModelError for another D."""
    with np.load(share_path("models/appearance.npz")) as file:
        names = f"centres_{dimension}", f"projection_{dimension}"
        if names[0] not in file:
            raise ModelError(
                f"descriptors have {dimension} elements; places are found with ALIKED's, which "
                "have 64 or 128."
            )
        centres, projection = (file[name].astype(np.float32) for name in names)
        return centres, projection
