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


"""Draws a moving object's tracks: python docs/draw_moving.py.

A part of the photograph moves over the virtual camera's first image, while the camera stands.
"""

from __future__ import annotations

from contextlib import closing

import cv2
import numpy as np
from draw_images import CAMERA, IMAGES

from aliked_ros.configuration import FrontendConfig
from aliked_ros.evaluation.moving import Overlay, standing
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.io.drawing import Trails, draw_tracks
from aliked_ros.io.images import grey


def main() -> None:
    """Draw the tracks of the last image."""
    first = next(iter(CAMERA))
    texture = np.ascontiguousarray(cv2.flip(grey(first.pixels)[230:370, 390:560], 1))
    trails = Trails()
    with closing(Pipeline(FrontendConfig(max_keypoints=600, moving_objects="flag"))) as pipeline:
        for image, _ in Overlay(texture, (4.0, 2.0), 3).over(standing(first, 22, 30.0)):
            result = pipeline.process(image)
            trails.update(result)
    print(f"{np.count_nonzero(~result.tracks.at_rest)} of {len(result.features)} features move")
    picture = draw_tracks(image.pixels, result, trails)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(IMAGES / "moving_objects.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
