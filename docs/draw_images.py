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

"""Draws the pictures of README and docs/ from the virtual camera: python docs/draw_images.py."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from aliked_ros.backends.create import create_backend
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.matcher import build_matcher
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.io.drawing import LONG_TRACK, Trails, draw_matches, draw_tracks
from aliked_ros.sources.virtual import VirtualCamera
from aliked_ros.types import Features, FrameResult, Keyframe, Matches, Tracks, UInt8Array

IMAGES = Path(__file__).parent / "images"
CONFIG = FrontendConfig(max_keypoints=600)
CAMERA = VirtualCamera(noise=0.3)  # little noise, for small files


def save(name: str, picture: UInt8Array) -> None:
    """Write an RGB picture with 6 bits a channel, which halves the file."""
    coarse = cv2.cvtColor(picture & np.uint8(0xFC), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(IMAGES / name), coarse, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def tracks() -> None:
    """The frame that README opens with."""
    pipeline, trails = Pipeline(CONFIG), Trails()
    for image in islice(CAMERA, 60):
        result = pipeline.process(image)
        trails.update(result)
    followed = int((result.tracks.lengths > 1).sum())
    caption = (
        f"{len(result.features)} features  {followed} tracked  {CONFIG.model} + {CONFIG.matcher}"
    )
    save("tracks.png", draw_tracks(image.pixels, result, trails, caption=caption))


def matches() -> None:
    """Two frames, four seconds apart."""
    config = replace(CONFIG, max_keypoints=300)
    backend = create_backend(config)
    extractor, matcher = Extractor(config, backend), build_matcher(config, backend)
    first, second = CAMERA.render(0).pixels, CAMERA.render(120).pixels
    features0, features1 = extractor.extract(first), extractor.extract(second)
    found = matcher.match(features0, features1)
    caption = f"{config.model} + {config.matcher}: {len(found)} matches, 4 s apart"
    picture = draw_matches(first, features0, second, features1, found, caption=caption)
    save("matches.png", cv2.resize(picture, (960, 360), interpolation=cv2.INTER_AREA))


def places() -> None:
    """A place seen again: on another path, in other light, with 30° of roll."""
    pipeline = Pipeline(replace(CONFIG, max_keypoints=300))
    again = VirtualCamera(noise=0.3, seed=3, stops=1.5, roll=float(np.radians(30.0)))
    first, second = CAMERA.render(0), again.render(40)
    earlier = pipeline.process(first)
    features = pipeline.extract(second.pixels)
    keyframe = Keyframe(0, 0.0, earlier.features, earlier.tracks)
    found = pipeline.find_candidate(features, keyframe)
    assert found is not None
    caption = f"{found.inliers} verified matches"
    picture = draw_matches(
        first.pixels, earlier.features, second.pixels, features, found.matches, caption=caption
    )
    save("places.png", cv2.resize(picture, (960, 360), interpolation=cv2.INTER_AREA))


def legend() -> None:
    """One dot for each of some lengths, with its tail, above the colour scale."""
    lengths = np.array([1, 5, 10, 15, 20, 25, LONG_TRACK], np.uint32)
    ids = np.arange(1, len(lengths) + 1, dtype=np.uint64)
    background = np.full((100, 420), 60, np.uint8)
    trails = Trails()
    for age in range(14, -1, -1):
        alive = lengths > age
        x = 40.0 + 55.0 * np.flatnonzero(alive) + 2.5 * (15 - age)
        y = 40.0 + 8.0 * np.sin(0.4 * age) * np.ones(len(x))
        points = np.column_stack([x, y]).astype(np.float32)
        features = Features(points, x.astype(np.float32), points, 420, 100, CONFIG.model)
        seen = Tracks(ids[alive], lengths[alive] - np.uint32(age), 1)
        result = FrameResult(14 - age, 0.0, features, Matches.empty(), seen)
        trails.update(result)
    save("legend.png", draw_tracks(background, result, trails))


if __name__ == "__main__":
    tracks()
    matches()
    places()
    legend()
