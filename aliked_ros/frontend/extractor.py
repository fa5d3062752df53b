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

"""Images to features."""

from __future__ import annotations

import numpy as np

from aliked_ros.backends.base import Backend
from aliked_ros.backends.create import create_backend
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ImageError
from aliked_ros.frontend.masks import corners
from aliked_ros.frontend.quarter_turns import turn_pixels, turn_points
from aliked_ros.io.images import MAX_SIDE, grey
from aliked_ros.types import Features, UInt8Array

MIN_SIDE = 64  # below it the coarsest level (stride 32) has no extent


class Extractor:
    """Checks an image and runs ALIKED on it."""

    def __init__(self, config: FrontendConfig, backend: Backend) -> None:
        self._config = config
        self._network = backend.load_extractor(config.model)

    def extract(
        self,
        pixels: UInt8Array,
        mask: UInt8Array | None = None,
        turns: int = 0,
        reference: Features | None = None,
    ) -> Features:
        """Features of an image H×W (grey) or H×W×3 (RGB) uint8; none where ``mask`` (H×W) is 0.

        turns: quarter turns counterclockwise that the network sees the image after; keypoints are
        of the image as it is. reference: see ``FeatureNetwork``; of an image as it is.
        Raises ImageError for another type or shape, or a side outside 64..8192 pixels.
        """
        check_image(pixels, mask)
        config = self._config
        height, width = pixels.shape[:2]
        if config.edge_points == "thin":
            mask = corners(grey(pixels), mask, config.max_keypoints)
        if turns:
            pixels = turn_pixels(pixels, turns)
            mask = None if mask is None else turn_pixels(mask, turns)
        keypoints, scores, descriptors = self._network.extract(
            pixels,
            mask,
            config.max_keypoints,
            config.score_threshold,
            config.grid,
            reference=reference,
        )
        keypoints = turn_points(keypoints, -turns, pixels.shape[1], pixels.shape[0])
        return Features(keypoints, scores, descriptors, width, height, config.model, turns)

    def reconfigure(self, config: FrontendConfig) -> None:
        """Take over the thresholds of ``config``; its model and backend are not looked at."""
        self._config = config


def create_extractor(config: FrontendConfig) -> Extractor:
    """An extractor with a backend of its own; raises WeightsError, ModelError, BackendError."""
    return Extractor(config, create_backend(config))


def check_image(pixels: UInt8Array, mask: UInt8Array | None) -> None:
    """Raise ImageError where ``Extractor.extract`` would."""
    if pixels.dtype != np.uint8:
        raise ImageError(f"The image has type {pixels.dtype}; convert it to uint8.")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ImageError(
            f"The image has shape {pixels.shape}; it must be H×W (grey) or H×W×3 (RGB)."
        )
    height, width = pixels.shape[:2]
    if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
        raise ImageError(
            f"The image is {width}×{height} pixels; each side must lie in {MIN_SIDE}..{MAX_SIDE}. "
            "Resize it or bin the camera."
        )
    if mask is not None and (mask.shape != (height, width) or mask.dtype != np.uint8):
        raise ImageError(
            f"The mask is {mask.dtype} of shape {mask.shape}, the image {width}×{height} pixels; "
            "give a uint8 mask of the image's size."
        )
