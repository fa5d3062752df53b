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


"""Places made of numbers, for what does not depend on images."""

from __future__ import annotations

import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.frontend.places import Place
from aliked_ros.types import Features, FrameResult, Matches, Tracks

CAMERA = CameraModel.from_calibration(
    {"width": 640, "height": 480, "fx": 500.0, "fy": 500.0, "cx": 320.0, "cy": 240.0}
)


def synthetic_place(
    index: int,
    first_track: int = 1,
    count: int = 200,
    model: str = "aliked-n16",
    camera: CameraModel | None = CAMERA,
    pixels: bool = False,
    frame: str = "camera",
) -> Place:
    """A place of random descriptors, with the track ids from ``first_track`` on."""
    rng = np.random.default_rng(index)
    descriptors = rng.normal(size=(count, 128)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    keypoints = rng.uniform((0, 0), (639, 479), (count, 2)).astype(np.float32)
    features = Features(
        keypoints, np.sort(rng.random(count, np.float32))[::-1], descriptors, 640, 480, model
    )
    ids = np.arange(first_track, first_track + count, dtype=np.uint64)
    result = FrameResult(
        index, index / 10, features, Matches.empty(), Tracks(ids, np.ones(count, np.uint32), 7),
        normalized=None if camera is None else camera.normalize(keypoints),
        depth=rng.uniform(1, 5, count).astype(np.float32),
    )  # fmt: skip
    image = rng.integers(0, 255, (480, 640, 3), np.uint8) if pixels else None
    nanoseconds = 1_790_000_000_123_456_789 + index * 100_000_000
    return Place.of(result, nanoseconds, frame, image, camera)
