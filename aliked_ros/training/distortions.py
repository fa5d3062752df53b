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

"""Random homographies and lighting changes, to make pairs from single images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from aliked_ros.types import Float64Array, UInt8Array

Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=1)]
_TRIES = 50  # attempts to draw a homography that keeps enough of the image
_LEAST_SHARED = 0.4  # least share of the first image visible in the second


@dataclass(frozen=True, slots=True)
class Distortions:
    """Ranges of the uniform random changes between the two images of a pair.

    rotation: degrees either way. scale: largest factor, either way. shear, tilt: largest change of
    direction (fraction) and of the scale from one border to the other (fraction).
    translation: fraction of the size. brightness: shift in 0..1; contrast, gamma: largest factor;
    noise: largest standard deviation in 0..1; blur: largest sigma in pixels.
    """

    rotation: Annotated[float, Field(ge=0, le=180)] = 30.0
    scale: Factor = 1.5
    shear: Share = 0.15
    tilt: Share = 0.3
    translation: Share = 0.15
    brightness: Share = 0.15
    contrast: Factor = 1.4
    gamma: Factor = 1.4
    noise: Share = 0.03
    blur: Annotated[float, Field(ge=0)] = 1.5

    def grown(self, share: float) -> Distortions:
        """These distortions scaled by ``share``, 0 to 1 (factors: in their logarithm)."""
        factors = ("scale", "contrast", "gamma")
        return Distortions(
            **{
                name: value**share if name in factors else value * share
                for name, value in asdict(self).items()
            }
        )


def draw_homography(
    rng: np.random.Generator, width: int, height: int, distortions: Distortions
) -> Float64Array:
    """A random homography 3×3 of an image onto one of its size, about its centre.

    Redrawn until the second image shows at least 40 % of the first; the identity if that fails.
    """
    d = distortions
    for _ in range(_TRIES):
        angle = np.deg2rad(rng.uniform(-d.rotation, d.rotation))
        scale = np.exp(rng.uniform(-1.0, 1.0) * np.log(d.scale))
        shear = rng.uniform(-d.shear, d.shear, 2)
        tilt = rng.uniform(-d.tilt, d.tilt, 2) / (width / 2, height / 2)
        shift = rng.uniform(-d.translation, d.translation, 2) * (width, height)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0],
                         [0.0, 0.0, 1.0]])  # fmt: skip
        affine = np.array([[scale, shear[0], shift[0]], [shear[1], scale, shift[1]],
                           [0.0, 0.0, 1.0]])  # fmt: skip
        perspective = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [*(0.5 * tilt), 1.0]])
        centre = np.array([[1.0, 0.0, (width - 1) / 2], [0.0, 1.0, (height - 1) / 2],
                           [0.0, 0.0, 1.0]])  # fmt: skip
        homography = centre @ affine @ turn @ perspective @ np.linalg.inv(centre)
        if _shared(homography, width, height) >= _LEAST_SHARED:
            return np.asarray(homography)
    return np.eye(3)


def photometric(
    rng: np.random.Generator, pixels: UInt8Array, distortions: Distortions
) -> UInt8Array:
    """An H×W×3 image with changed exposure, gamma, blur and noise."""
    d = distortions
    values = pixels.astype(np.float32) / 255
    contrast, gamma = np.exp(rng.uniform(-1.0, 1.0, 2) * np.log((d.contrast, d.gamma)))
    values = np.clip((values - 0.5) * contrast + 0.5 + rng.uniform(-d.brightness, d.brightness),
                     0.0, 1.0) ** gamma  # fmt: skip
    sigma = rng.uniform(0.0, d.blur)
    if sigma > 0.3:
        values = cv2.GaussianBlur(values, (0, 0), sigma)
    noise = rng.normal(0.0, rng.uniform(0.0, d.noise) + 1e-9, values.shape)
    return np.asarray(np.clip((values + noise) * 255 + 0.5, 0, 255), np.uint8)


def _shared(homography: Float64Array, width: int, height: int) -> float:
    """Share of a 16×16 grid of points that stays inside the image and in front of the camera."""
    x, y = np.meshgrid(np.linspace(0, width - 1, 16), np.linspace(0, height - 1, 16))
    points = np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    mapped = homography @ points
    front = mapped[2] > 0.1
    u, v = mapped[:2] / np.where(front, mapped[2], 1.0)
    return float((front & (u >= 0) & (u < width) & (v >= 0) & (v < height)).mean())
