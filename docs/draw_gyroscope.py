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

"""Draws what a gyroscope is worth to flow in a fast turn: python docs/draw_gyroscope.py.

The virtual camera's image is turned by 14 degrees to the side and 20 about the optical axis. Prints
the figures.
"""

from __future__ import annotations

import cv2
import numpy as np
from draw_images import CAMERA, IMAGES
from scipy.spatial.transform import Rotation

from aliked_ros.camera import CameraModel
from aliked_ros.frontend.flow import follow
from aliked_ros.frontend.prediction import Turn
from aliked_ros.io.images import grey
from aliked_ros.types import UInt8Array

RIGHT = 2.0  # pixels from the true place


def main() -> None:
    """Draw three pictures side by side: the first image, the second without, and with."""
    before = grey(next(iter(CAMERA)).pixels)
    rotation = Rotation.from_rotvec(np.radians([0.0, 14.0, 20.0])).as_matrix()
    turn = Turn(CameraModel.from_calibration(CAMERA.calibration), rotation)
    now = turn.turned(before)
    points = cv2.goodFeaturesToTrack(before, 300, 0.01, 10).reshape(-1, 2)
    points = points[turn.stays(points)]
    true = turn.carried(points)
    panels = [cv2.cvtColor(before, cv2.COLOR_GRAY2BGR)]
    for x, y in np.rint(points).astype(int).tolist():
        cv2.circle(panels[0], (x, y), 3, (0, 200, 255), -1, cv2.LINE_AA)
    _label(panels[0], f"before the turn: {len(points)} tracks")
    for name, flow in (
        ("without", follow(before, now, points)),
        ("with a gyroscope", follow(turn.turned(before), now, true, true)),
    ):
        kept = flow.found & (np.linalg.norm(flow.points - true, axis=1) < RIGHT)
        print(f"{name}: {np.count_nonzero(kept)} of {len(points)} tracks go on")
        panel = cv2.cvtColor(now, cv2.COLOR_GRAY2BGR)
        for start, end in zip(points[kept], flow.points[kept], strict=True):
            a, b = (tuple(int(v) for v in np.rint(p)) for p in (start, end))
            cv2.line(panel, a, b, (0, 200, 255), 1, cv2.LINE_AA)
            cv2.circle(panel, b, 3, (0, 255, 0), -1, cv2.LINE_AA)
        _label(panel, f"{name}: {np.count_nonzero(kept)} of {len(points)} tracks go on")
        panels.append(panel)
    picture = cv2.resize(np.hstack(panels), None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(IMAGES / "gyroscope.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])


def _label(panel: UInt8Array, text: str) -> None:
    cv2.putText(panel, text, (8, 470), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 5)
    cv2.putText(panel, text, (8, 470), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255,) * 3, 2)


if __name__ == "__main__":
    main()
