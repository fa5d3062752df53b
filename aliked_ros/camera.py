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

"""Camera models: from pixels to rays.

A model holds what sensor_msgs/CameraInfo says (REP-104) about the images as they are published:
binning and region of interest are already accounted for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from aliked_ros.errors import ConfigurationError
from aliked_ros.lenses import LENSES, Lens
from aliked_ros.types import Float32Array, Float64Array

DISTORTION_MODELS: dict[str, tuple[int, ...]] = {
    "plumb_bob": (0, 4, 5),
    "rational_polynomial": (4, 5, 8, 12, 14),  # 12: with a thin prism; 14: and a tilted sensor
    **{name: lens.counts for name, lens in LENSES.items()},
}
"""Names of distortion models and how many coefficients each may have; empty = any number.

The first two and equidistant are REP-104's. More coefficients are welcome where they are 0.
"""

_STEPS = 10  # of Newton's method, to reach the corners of wide lenses
_ACCURACY = 1e-7  # pixels
_FAILURE = 0.1  # pixels
LARGEST_SIDE = 32767
"""Pixels; OpenCV's tables for rectification hold no larger images."""
_LARGEST_ENTRY = 10_000_000
"""Pixels, of a camera matrix; a telescope of 10 m has a focal length of some 3e6."""

_SYNONYMS = {
    "radtan": "plumb_bob",
    "": "plumb_bob",
    "none": "plumb_bob",
    "brown_conrady": "plumb_bob",  # RealSense's SDK
    "fisheye": "equidistant",
    "kannala_brandt4": "equidistant",
    "ds": "double_sphere",
    "omni": "omnidirectional",
    "mei": "omnidirectional",
}
_UNDISTORTED = ("inverse_brown_conrady", "modified_brown_conrady", "pinhole", "perspective")
"""Other names that are plumb_bob without coefficients. RealSense's lead the inverse way."""

_LARGEST_SKEW = 2.0  # pixels; ignored, as ROS does: about half of it at the edge


@dataclass(frozen=True, slots=True)
class CameraModel:
    """A pinhole camera with lens distortion, for images of one size.

    width, height: pixels.
    matrix: 3×3 float64, [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], pixels of the published image.
    distortion_model: one of DISTORTION_MODELS.
    distortion: its coefficients, float64. plumb_bob, rational_polynomial: k1 k2 p1 p2 [k3
        [k4 k5 k6 [s1..s4 [τx τy]]]]. equidistant: k1 k2 k3 k4, or fewer, or more. eucm: α β.
        double_sphere: ξ α. omnidirectional: ξ k1 k2 p1 p2. thin_prism_fisheye: k1 k2 p1 p2 k3 k4
        sx1 sy1.
    """

    width: int
    height: int
    matrix: Float64Array
    distortion_model: str
    distortion: Float64Array

    def fits(self, width: int, height: int) -> bool:
        """Whether it describes images of this size."""
        return (self.width, self.height) == (width, height)

    def normalize(self, points: Float32Array) -> Float32Array:
        """Pixels N×2 → undistorted coordinates N×2 on the plane z = 1 of the optical frame.

        NaN where the model cannot be inverted: outside the lens's field of view, or 90° off axis.
        """
        if len(points) == 0:
            return np.zeros((0, 2), np.float32)
        pixels = points.astype(np.float64).reshape(-1, 1, 2)
        lens = LENSES.get(self.distortion_model)
        rays = self._undistort(pixels) if lens is None else self._undistort_lens(lens, pixels)
        with np.errstate(all="ignore"):
            missed = np.linalg.norm(pixels - self._project(rays), axis=-1)
        rays[~(missed < _FAILURE)] = np.nan
        return rays.reshape(-1, 2).astype(np.float32)

    def _undistort_lens(self, lens: Lens, pixels: Float64Array) -> Float64Array:
        """N×1×2 → N×1×2."""
        points = (pixels.reshape(-1, 2) - self.matrix[:2, 2]) / np.diag(self.matrix)[:2]
        with np.errstate(all="ignore"):  # where no ray leads
            directions = lens.undistort(points, self.distortion)
            ahead = directions[:, 2:] > 0.0
            rays = np.where(ahead, directions[:, :2] / directions[:, 2:], np.nan)
        return rays.reshape(-1, 1, 2)

    def _undistort(self, pixels: Float64Array) -> Float64Array:
        """N×1×2 → N×1×2; OpenCV's five iterations leave pixels of error with wide lenses."""
        rays = (pixels - self.matrix[:2, 2]) / np.diag(self.matrix)[:2]
        with np.errstate(all="ignore"):  # where there is no solution
            for _ in range(_STEPS):
                projected, slopes = self._project_pinhole(rays)
                missed = pixels - projected
                (a, b), (c, d) = slopes.transpose(1, 2, 0)
                determinant = a * d - b * c
                if np.abs(missed).max() < _ACCURACY:
                    break
                x, y = missed[:, 0].T
                step = np.stack([d * x - b * y, a * y - c * x], axis=1) / determinant[:, None]
                rays = rays + step[:, None]
        rays[(determinant <= 0.0) | (a + d <= 0.0)] = np.nan  # the polynomial has turned there
        return rays

    def project(self, rays: Float32Array) -> Float32Array:
        """Coordinates N×2 on the plane z = 1 → pixels N×2, distortion applied."""
        if len(rays) == 0:
            return np.zeros((0, 2), np.float32)
        pixels = self._project(rays.astype(np.float64).reshape(-1, 1, 2))
        return pixels.reshape(-1, 2).astype(np.float32)

    def _project(self, rays: Float64Array) -> Float64Array:
        """N×1×2 → N×1×2."""
        lens = LENSES.get(self.distortion_model)
        if lens is None:
            return self._project_pinhole(rays)[0]
        directions = np.column_stack([rays.reshape(-1, 2), np.ones(len(rays))])
        return self._project_lens(lens, directions).reshape(-1, 1, 2)

    def _project_lens(self, lens: Lens, directions: Float64Array) -> Float64Array:
        """Directions N×3 → pixels N×2, NaN where the lens does not see them."""
        with np.errstate(all="ignore"):
            points = lens.distort(directions, self.distortion)
        return points * np.diag(self.matrix)[:2] + self.matrix[:2, 2]

    def _project_pinhole(self, rays: Float64Array) -> tuple[Float64Array, Float64Array]:
        """N×1×2 → N×1×2, and its derivatives N×2×2 by the rays."""
        solid = np.concatenate([rays, np.ones((len(rays), 1, 1))], axis=2)
        zero = np.zeros(3)
        pixels, jacobian = cv2.projectPoints(solid, zero, zero, self.matrix, self.distortion)
        slopes = np.asarray(jacobian, np.float64)[:, 3:5]  # by translation, at depth 1
        return np.asarray(pixels), slopes.reshape(-1, 2, 2)

    def rectification_maps(
        self, rotation: Float64Array, matrix: Float64Array, size: tuple[int, int],
        kind: int = cv2.CV_32FC1,
    ) -> tuple[Any, Any]:  # fmt: skip
        """For ``cv2.remap``: where in this camera's image each pixel of a rectified one lies.

        rotation: 3×3, from this optical frame to the rectified one. matrix, size: intrinsics 3×3
        and (width, height) of the rectified image. kind: of the maps.
        """
        lens = LENSES.get(self.distortion_model)
        if lens is None:
            x, y = cv2.initUndistortRectifyMap(
                self.matrix, self.distortion, rotation, matrix, size, kind
            )
            return x, y
        columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
        rectified = np.stack([columns.ravel(), rows.ravel(), np.ones(columns.size)])
        directions = np.asarray((np.linalg.inv(matrix @ rotation) @ rectified).T, np.float64)
        pixels = np.nan_to_num(self._project_lens(lens, directions), nan=-1e4)  # outside
        x, y = np.moveaxis(pixels.astype(np.float32).reshape(size[1], size[0], 2), 2, 0)
        return cv2.convertMaps(x, y, kind) if kind != cv2.CV_32FC1 else (x, y)

    @classmethod
    def from_info(cls, info: Any, rectified: bool) -> CameraModel:
        """The model of the images that a sensor_msgs/CameraInfo comes with (REP-104).

        info: the message, or anything with its fields. rectified: the images are rectified: the
        projection matrix P holds, without distortion.
        Raises ConfigurationError for a camera that is not calibrated, or nonsense.
        """
        region = info.roi
        binning = (max(info.binning_x, 1), max(info.binning_y, 1))
        if rectified:
            matrix, model, distortion = np.reshape(info.p, (3, 4))[:, :3], "plumb_bob", np.zeros(5)
        else:
            matrix, model, distortion = np.reshape(info.k, (3, 3)), info.distortion_model, info.d
        used, other = ("P", info.k) if rectified else ("K", info.p)
        if not np.any(matrix) and np.any(other):
            raise ConfigurationError(
                f"{used} of CameraInfo is all 0, {'K' if rectified else 'P'} is not: only "
                f"{'raw' if rectified else 'rectified'} images are calibrated. Let the driver "
                f"publish {used}, or give the other images and set rectified accordingly."
            )
        return create_camera(
            (region.width or info.width) // binning[0],
            (region.height or info.height) // binning[1],
            matrix,
            model,
            np.asarray(distortion, np.float64),
            binning,
            (region.x_offset, region.y_offset),
        )

    @classmethod
    def from_calibration(cls, calibration: Mapping[str, Any]) -> CameraModel:
        """The model of a ``calib.json`` (width, height, fx, fy, cx, cy, distortion_model, ...).

        Raises ConfigurationError if something is missing, not a number, or nonsense.
        """
        numbers = {}
        for name in ("width", "height", "fx", "fy", "cx", "cy"):
            value = calibration.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigurationError(f"The calibration's {name} is {value!r}; give a number.")
            numbers[name] = value
        if not all(np.isfinite(numbers[name]) for name in ("width", "height")):
            raise ConfigurationError(
                f"The calibration's size is {numbers['width']}×{numbers['height']}; give pixels."
            )
        distortion = calibration.get("distortion") or []
        try:
            coefficients = np.asarray(distortion, np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"The calibration's distortion is {distortion!r}; give a list of numbers."
            ) from error
        matrix = [
            [numbers["fx"], 0.0, numbers["cx"]],
            [0.0, numbers["fy"], numbers["cy"]],
            [0.0, 0.0, 1.0],
        ]
        return create_camera(
            int(numbers["width"]),
            int(numbers["height"]),
            np.array(matrix, np.float64),
            str(calibration.get("distortion_model") or ""),
            coefficients,
        )


def create_camera(
    width: int,
    height: int,
    matrix: Float64Array,
    distortion_model: str,
    distortion: Float64Array,
    binning: tuple[int, int] = (1, 1),
    offset: tuple[int, int] = (0, 0),
) -> CameraModel:
    """The model of the published image, from the calibration of the full sensor (REP-104).

    width, height: of the published image. matrix, distortion: of the full, unbinned image.
    binning: sensor pixels a published pixel, x and y. offset: first sensor column and row read.
    Raises ConfigurationError for a matrix of zeros (an uncalibrated camera) or another nonsense.
    """
    spelt = re.sub("[ -]", "_", distortion_model.strip().lower())
    name = _SYNONYMS.get(spelt, spelt)
    if name in _UNDISTORTED and not distortion.any():
        name = "plumb_bob"
    if name not in DISTORTION_MODELS:
        raise ConfigurationError(
            f"distortion_model is {distortion_model!r}; choose {', '.join(DISTORTION_MODELS)}."
        )
    allowed = DISTORTION_MODELS[name] or range(len(distortion) + 1)
    counts = [n for n in allowed if n <= len(distortion)]
    fitting = [n for n in counts if not distortion[n:].any()]
    if not fitting:
        raise ConfigurationError(
            f"{name} has {len(distortion)} distortion coefficients; it takes "
            f"{' or '.join(map(str, allowed))}, and more only if they are 0."
        )
    distortion = distortion[: fitting[-1]]
    if name in LENSES and (problem := LENSES[name].check(distortion)):
        raise ConfigurationError(f"{name} is impossible: {problem}. Correct the calibration.")
    if not np.isfinite(distortion).all():
        raise ConfigurationError(
            f"The distortion coefficients are {distortion.tolist()}; they must be finite. "
            "Calibrate the camera again."
        )
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise ConfigurationError(f"The camera matrix is {matrix.tolist()}; it must be 3×3, finite.")
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise ConfigurationError(
            f"The focal lengths are {matrix[0, 0]} and {matrix[1, 1]} pixels: the camera is not "
            "calibrated. Calibrate it, or leave CameraInfo away."
        )
    if min(matrix[0, 0], matrix[1, 1]) < 1.0 or np.abs(matrix).max() > _LARGEST_ENTRY:
        raise ConfigurationError(
            f"The camera matrix is {matrix.tolist()}; focal lengths must lie in "
            f"1..{_LARGEST_ENTRY:,} pixels, the principal point within ±{_LARGEST_ENTRY:,}. "
            "Correct the calibration."
        )
    skew = max(abs(matrix[0, 1]), abs(matrix[1, 0]))
    if skew > _LARGEST_SKEW or not np.allclose(matrix[2], (0, 0, 1), atol=1e-6):
        raise ConfigurationError(
            f"The camera matrix is {matrix.tolist()}; it must be [[fx, 0, cx], [0, fy, cy], "
            "[0, 0, 1]], row by row. Correct the calibration."
        )
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise ConfigurationError(
            f"The camera's images are {width}×{height} pixels; each side must lie in "
            f"1..{LARGEST_SIDE}. Correct width, height or ROI of CameraInfo."
        )
    bin_x, bin_y = (max(int(b), 1) for b in binning)  # 0 means 1 in CameraInfo
    published = np.diag([matrix[0, 0] / bin_x, matrix[1, 1] / bin_y, 1.0])
    # pixel centres: sensor pixel s lies at published pixel (s − offset + ½) / binning − ½
    published[0, 2] = (matrix[0, 2] - offset[0] + 0.5) / bin_x - 0.5
    published[1, 2] = (matrix[1, 2] - offset[1] + 0.5) / bin_y - 0.5
    return CameraModel(width, height, published, name, np.array(distortion, np.float64))
