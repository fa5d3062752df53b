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

"""A EuRoC data set made of KITTI's images, so that its rectification is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

BASELINE = 0.5371657188644179  # metres, of KITTI's calib.txt


class Rig:
    """Two raw cameras whose rectified images are KITTI's: distorted, and turned by degrees."""

    size = (1241, 376)
    rectified = np.array([[718.856, 0.0, 607.1928], [0.0, 718.856, 185.2157], [0.0, 0.0, 1.0]])
    raw = np.array([[700.0, 0.0, 610.0], [0.0, 702.0, 190.0], [0.0, 0.0, 1.0]])
    distortion = np.array([-0.05, 0.01, 0.0005, -0.0003])
    turns = (np.array([0.01, -0.015, 0.01]), np.array([-0.012, 0.02, -0.015]))

    def rotation(self, camera: int) -> NDArray[np.float64]:
        """p_rectified = R · p_raw."""
        return np.asarray(cv2.Rodrigues(self.turns[camera])[0])

    def image(self, camera: int, rectified: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The raw image that is rectified to this one."""
        maps = cv2.initInverseRectificationMap(
            self.raw, self.distortion, self.rotation(camera), self.rectified, self.size,
            cv2.CV_32FC1,
        )  # fmt: skip
        return np.asarray(cv2.remap(rectified, *maps, cv2.INTER_LINEAR), np.uint8)

    def right_from_left(self) -> NDArray[np.float64]:
        transform = np.eye(4)
        transform[:3, :3] = self.rotation(1).T @ self.rotation(0)
        transform[:3, 3] = self.rotation(1).T @ [-BASELINE, 0.0, 0.0]
        return transform


SENSOR = """
sensor_type: camera
comment: VI-Sensor cam{camera} (MT9M034)
T_BS:
  cols: 4
  rows: 4
  data: {pose}
rate_hz: 20
resolution: [1241, 376]
camera_model: pinhole
intrinsics: [700.0, 702.0, 610.0, 190.0] #fu, fv, cu, cv
distortion_model: radial-tangential
distortion_coefficients: [-0.05, 0.01, 0.0005, -0.0003]
"""
START = 1403636579763555584  # nanoseconds, which a float64 of seconds does not hold


def write_euroc(kitti: Path, root: Path) -> Path:
    """A data set of three pairs, of which the last lacks its right image."""
    rig = Rig()
    body_from_left = np.eye(4)
    body_from_left[:3, :3] = cv2.Rodrigues(np.array([0.1, -0.2, 1.5]))[0]
    body_from_left[:3, 3] = (-0.02, -0.06, 0.01)
    poses = (body_from_left, body_from_left @ np.linalg.inv(rig.right_from_left()))
    for camera in (0, 1):
        folder = root / "mav0" / f"cam{camera}"
        (folder / "data").mkdir(parents=True)
        rows = ["#timestamp [ns],filename"]
        for index in range(3 - camera):
            name = f"{START + index * 50_000_000}"
            pixels = cv2.imread(str(kitti / f"image_{camera}" / f"{index:06d}.png"), 0)
            assert pixels is not None
            cv2.imwrite(str(folder / "data" / f"{name}.png"), rig.image(camera, pixels))
            rows.append(f"{name},{name}.png")
        (folder / "data.csv").write_text("\r\n".join(rows) + "\r\n")
        pose = [float(value) for value in poses[camera].ravel()]
        (folder / "sensor.yaml").write_text(SENSOR.format(camera=camera, pose=pose))
    return root


def row_differences(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float64]:
    """y_left - y_right of points found in both."""
    sift = cv2.SIFT_create(1500)
    (points0, d0), (points1, d1) = (sift.detectAndCompute(one, None) for one in (left, right))
    pairs = cv2.BFMatcher().knnMatch(d0, d1, k=2)
    good = [first for first, second in pairs if first.distance < 0.7 * second.distance]
    assert len(good) > 200
    return np.array([points0[m.queryIdx].pt[1] - points1[m.trainIdx].pt[1] for m in good])
