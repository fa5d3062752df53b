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

"""Rectifying a stereo pair: afterwards a point lies in the same row of both images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError, SourceError
from aliked_ros.lenses import LENSES
from aliked_ros.sources.base import calibration_of
from aliked_ros.types import Float64Array, Image, UInt8Array

Matrix = Float64Array


@dataclass(frozen=True, slots=True)
class View:
    """One camera of a pair, and its rectification (REP-104).

    camera: of the raw images. rotation: 3×3, R. projection: 3×4, P.
    """

    camera: CameraModel
    rotation: Matrix
    projection: Matrix


class Rectification:
    """Rectifies both images of a pair.

    calibration: of the rectified left images, as in calib.json, with the baseline.
    rotation: 3×3, from the raw to the rectified left optical frame.
    """

    def __init__(self, left: View, right: View) -> None:
        """Raise ConfigurationError if the right camera is not to the right of the left one."""
        focal, shift = float(right.projection[0, 0]), float(right.projection[0, 3])
        if not (focal > 0.0 and shift < 0.0):
            raise ConfigurationError(
                f"P of the right camera has fx {focal:g} and fx · Tx {shift:g}: it does not lie to "
                "the right of the left one. Swap the cameras, or correct the calibration."
            )
        self.rotation = left.rotation
        matrix = left.projection
        self.calibration = calibration_of(left.camera.width, left.camera.height, matrix) | {
            "stereo_baseline_m": -shift / focal,
            "rectified": True,
        }
        self._left, self._right = _maps(left), _maps(right)

    def __call__(self, image: Image) -> Image:
        """Rectify an image and its right image; SourceError if the size differs."""
        size = (self.calibration["width"], self.calibration["height"])
        for pixels in (image.pixels, image.right):
            if pixels is not None and pixels.shape[1::-1] != size:
                raise SourceError(
                    f"an image has {pixels.shape[1]}×{pixels.shape[0]} pixels, the calibration "
                    f"that rectifies it is of {size[0]}×{size[1]}; give the calibration of this "
                    "resolution."
                )
        right = None if image.right is None else _remap(image.right, self._right)
        return replace(image, pixels=_remap(image.pixels, self._left), right=right)


def rectify(left: CameraModel, right: CameraModel, right_from_left: Matrix) -> Rectification:
    """The rectification of two separately calibrated cameras.

    right_from_left: 4×4, p_right = R·p_left + t, metres. Both images are scaled so that no border
    is empty; images of a wide lens (``aliked_ros.lenses``) keep the scale at the centre and lose
    their border.
    Raises ConfigurationError for cameras of different sizes.
    """
    if not right.fits(left.width, left.height):
        raise ConfigurationError(
            f"the left images have {left.width}×{left.height} pixels, the right ones "
            f"{right.width}×{right.height}; rectification needs one size."
        )
    rotation, translation = right_from_left[:3, :3].copy(), right_from_left[:3, 3:].copy()
    size = (left.width, left.height)
    wide = [camera.distortion_model in LENSES for camera in (left, right)]
    bent = [
        np.zeros(5) if is_wide else camera.distortion
        for camera, is_wide in zip((left, right), wide, strict=True)
    ]
    turned: Any = cv2.stereoRectify(
        left.matrix, bent[0], right.matrix, bent[1], size, rotation, translation, alpha=0.0
    )
    r1, r2, p1, p2 = (np.asarray(one, np.float64) for one in turned[:4])
    if any(wide):
        # OpenCV's own P would show all of a wide lens's image, drastically shrunk, or none of it.
        p1 = np.zeros((3, 4))
        p1[:, :3] = (left.matrix + right.matrix) / 2
        p1[0, 0] = p1[1, 1] = (p1[0, 0] + p1[1, 1]) / 2
        p2 = p1.copy()
        p2[0, 3] = p1[0, 0] * (r2 @ translation)[0, 0]
    return Rectification(View(left, r1, p1), View(right, r2, p2))


def _maps(view: View) -> tuple[Any, Any]:
    camera = view.camera
    size = (camera.width, camera.height)
    return camera.rectification_maps(view.rotation, view.projection[:, :3], size, cv2.CV_16SC2)


def _remap(pixels: UInt8Array, maps: tuple[Any, Any]) -> UInt8Array:
    return np.asarray(cv2.remap(pixels, *maps, cv2.INTER_LINEAR), np.uint8)
