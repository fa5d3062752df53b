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

"""What a front-end takes for fixed to the camera, image by image."""

from __future__ import annotations

from collections.abc import Iterator

from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.masks import StaticParts
from aliked_ros.frontend.matcher import NearestMatcher
from aliked_ros.types import UInt8Array

CONFIG = FrontendConfig(matcher="nearest")


def learn(extractor: Extractor, images: Iterator[UInt8Array]) -> Iterator[StaticParts]:
    """What is known after each image but the first, masked in the next as the pipeline does."""
    static, matcher = StaticParts(), NearestMatcher(CONFIG)
    previous = None
    for pixels in images:
        height, width = pixels.shape[:2]
        features = extractor.extract(pixels, static.mask(width, height))
        if previous is not None:
            rows = matcher.match(previous, features)
            before = previous.keypoints[rows.reference_indices]
            static.update(before, features.keypoints[rows.current_indices], width, height)
            yield static
        previous = features
