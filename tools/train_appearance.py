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

"""Train models/appearance.npz: the centres by which places are found (docs/places.md).

    python tools/train_appearance.py models/appearance.npz        # minutes

The centres are k-means of the descriptors of a virtual camera's flights over the photographs of
scikit-image. 128 numbers a descriptor: aliked-n16's; 64: aliked-t16's. A user's vectors in maps are
computed again when ENCODER in aliked_ros/frontend/appearance.py changes: change it with the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import typer

from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.appearance import CENTRES, PROJECTED
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.sources.virtual import training_images
from aliked_ros.types import Float32Array

_MODELS = ("aliked-n16", "aliked-t16")
_DESCRIPTORS = 100  # of an image, the best
_STEPS = 20


def main(output: Path) -> None:
    """Write centres and projections for both lengths of descriptors."""
    arrays = {}
    for model in _MODELS:
        config = FrontendConfig(model=model, matcher="nearest", max_keypoints=_DESCRIPTORS)
        pipeline = Pipeline(config)
        rows = []
        for share, image in training_images():
            print(f"\r{model}: {100 * share:3.0f} %", end="", flush=True)
            rows.append(pipeline.extract(image.pixels).descriptors)
        pipeline.close()
        print()
        centres, projection = codebook(np.concatenate(rows))
        dimension = centres.shape[1]
        arrays[f"centres_{dimension}"] = centres.astype(np.float16)
        arrays[f"projection_{dimension}"] = projection.astype(np.float16)
    np.savez_compressed(output, **arrays)  # type: ignore[arg-type]


def codebook(descriptors: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Centres 256×D of descriptors N×D, of unit length, and a random projection D×8."""
    frozen = np.random.RandomState(0)
    centres = descriptors[frozen.choice(len(descriptors), CENTRES, replace=False)]
    for _ in range(_STEPS):
        nearest = (descriptors @ centres.T).argmax(1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, descriptors)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-9), centres)
    projection = frozen.standard_normal((descriptors.shape[1], PROJECTED)).astype(np.float32)
    return centres, projection


if __name__ == "__main__":
    typer.run(main)
