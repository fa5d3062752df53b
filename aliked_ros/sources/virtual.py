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

"""A virtual hand-held camera in front of a real photograph, with exact ground truth.

The photograph is a plane in the world; the camera moves in front of it on a smooth path. Each frame
is rendered as a camera would record it: light is averaged along the path while the shutter is open,
scaled by a varying exposure, given photon and read-out noise, and encoded as sRGB.

The photographs are read from the installed scikit-image package; nothing is downloaded. The default
(a motorcycle in a garage, 741×500) is one of the Middlebury 2014 stereo data set, which its authors
permit to use and publish (Scharstein et al., GCPR 2014). scikit-image's data/README.txt and the
docstrings of skimage.data name the sources of the others.

Frames: world = photograph's centre, x right, y down, z into the wall; camera = OpenCV's.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aliked_ros.errors import ImageError, SourceError
from aliked_ros.sources import read_image
from aliked_ros.types import Float32Array, Float64Array, Image, UInt8Array

Matrix = Float64Array

DEFAULT_LENGTH = 300
DEFAULT_PHOTOGRAPH = "motorcycle_left"
PHOTOGRAPHS = {
    Path(file).stem: file
    for file in (
        "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png",
        "coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png",
        "microaneurysms.png", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg",
        "rocket.jpg", "text.png",
    )
}  # fmt: skip
"""Files of scikit-image's data by name: what a virtual camera can look at."""
_FLIGHT = (900, 60)  # images of a flight, and one of how many is used
PHOTO_WIDTH = 2.0  # metres
FOCAL = 525.0  # pixels at 640×480

# The path is a sum of sinusoids: name, amplitude (m or rad), frequency (Hz). Amplitudes are chosen
# so that the view never leaves the photograph, whatever the phases.
_MOTION = (
    ("target_x", 0.19, 0.11),
    ("target_y", 0.05, 0.17),
    ("offset_x", 0.20, 0.13),
    ("offset_y", 0.09, 0.19),
    ("distance", 0.09, 0.09),
    ("roll", 0.06, 0.15),
    ("target_x", 0.004, 5.3),  # hand shake
    ("target_y", 0.003, 6.7),
    ("roll", 0.004, 4.1),
)
_MEAN_DISTANCE = 0.91  # metres
_MAX_SUBEXPOSURES = 16
_SHOT_NOISE = 4e-4  # variance per unit of linear intensity
_READ_NOISE = 2e-3  # standard deviation, linear intensity


class VirtualCamera:
    """A ``Source`` whose geometry is known exactly; the same seed gives the same images.

    photograph: one of PHOTOGRAPHS.
    length: number of frames.
    seed: chooses path, exposure and noise.
    rate: frames per second.
    size: width and height of the images, pixels.
    shutter: mean exposure time in seconds (varies by a factor of two); 0 = no motion blur.
    stops: largest exposure change either way, in factors of two; 0 = constant.
    noise: 1 = as of a small sensor, 0 = none.
    roll: mean angle about the optical axis, radians; large ones see beyond the photograph.

    Raises SourceError if there is no such photograph, or it is not installed.
    """

    def __init__(
        self,
        *,
        photograph: str = DEFAULT_PHOTOGRAPH,
        length: int = DEFAULT_LENGTH,
        seed: int = 0,
        rate: float = 30.0,
        size: tuple[int, int] = (640, 480),
        shutter: float = 0.012,
        stops: float = 0.8,
        noise: float = 1.0,
        roll: float = 0.0,
    ) -> None:
        self.name = "virtual" if photograph == DEFAULT_PHOTOGRAPH else f"virtual-{photograph}"
        self.rate = rate
        self.length: int | None = length
        self.skipped = self.first = 0
        self._frames = length
        self._seed = seed
        self._size = size
        self._shutter = shutter
        self._stops = stops
        self._noise = noise
        self._roll = roll
        width, height = size
        random = np.random.default_rng(seed)
        self._phases = random.uniform(0.0, 2.0 * np.pi, len(_MOTION) + 3)
        # Frames take their noise from one long row; drawing new noise would dominate the run time.
        self._normal = random.standard_normal(2 * 3 * width * height, np.float32)
        focal = FOCAL * max(width / 640, height / 480)
        self.camera_matrix: Matrix = np.array(
            [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]
        )
        self.calibration: dict[str, Any] | None = {
            "width": width,
            "height": height,
            "fx": focal,
            "fy": focal,
            "cx": (width - 1) / 2,
            "cy": (height - 1) / 2,
            "distortion_model": "none",
            "distortion": [],
            "rate_hz": rate,
        }
        photo = _photograph(photograph)
        self.photo_size = (photo.shape[1], photo.shape[0])
        # Resampled once to about the images' resolution, so that sub-exposures can be bilinear.
        scale = 1.25 * focal * PHOTO_WIDTH / (_MEAN_DISTANCE * photo.shape[1])
        self._texture: Float32Array = np.asarray(
            cv2.resize(
                _decode_srgb(photo),
                None,
                fx=scale,
                fy=scale,
                interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC,
            ),
            np.float32,
        )
        sx = self._texture.shape[1] / photo.shape[1]
        sy = self._texture.shape[0] / photo.shape[0]
        self._photo_from_texture: Matrix = np.array(
            [[1 / sx, 0, 0.5 / sx - 0.5], [0, 1 / sy, 0.5 / sy - 0.5], [0, 0, 1]]
        )

    def __iter__(self) -> Iterator[Image]:
        """Render one frame after another."""
        return (self.render(index) for index in range(self.first, self._frames))

    def render(self, index: int) -> Image:
        """Render a frame; its stamp is the middle of the exposure."""
        time = index / self.rate
        light = self._expose(time) * np.float32(2.0 ** self._exposure_value(time))
        if self._noise > 0.0:
            deviation = np.sqrt(_SHOT_NOISE * np.clip(light, 0.0, 1.0) + _READ_NOISE**2)
            start = np.random.default_rng((self._seed, index)).integers(light.size)
            normal = self._normal[start : start + light.size].reshape(light.shape)
            light += np.float32(self._noise) * deviation * normal
        return Image(_encode_srgb(light), time)

    def homography(self, index: int) -> Matrix:
        """3×3 map from photograph pixels to frame pixels, at mid-exposure."""
        return self._homography(index / self.rate)

    def homography_between(self, first: int, second: int) -> Matrix:
        """3×3 map from pixels of frame ``first`` to pixels of frame ``second``."""
        return self.homography(second) @ np.linalg.inv(self.homography(first))

    def pose(self, index: int) -> Matrix:
        """4×4 T_world_camera at the frame, metres."""
        return self._pose(index / self.rate)

    def _exposure_time(self, time: float) -> float:
        return float(self._shutter * 2.0 ** np.sin(0.7 * time + self._phases[-1]))

    def _exposure_value(self, time: float) -> float:
        """Exposure in stops: a slow drift with occasional jumps, as of automatic exposure."""
        drift = np.sin(0.8 * time + self._phases[-2])
        jump = np.tanh(12.0 * np.sin(1.3 * time + self._phases[-3]))
        return float(self._stops * (0.6 * drift + 0.4 * jump))

    def _expose(self, time: float) -> Float32Array:
        """Average of the views while the shutter is open, in linear light."""
        half = 0.5 * self._exposure_time(time)
        count = min(max(int(np.ceil(self._smear(time, half))), 1), _MAX_SUBEXPOSURES)
        light = np.zeros((self._size[1], self._size[0], 3), np.float32)
        for part in range(count):
            offset = half * ((2 * part + 1) / count - 1.0)
            matrix = self._homography(time + offset) @ self._photo_from_texture
            light += np.asarray(
                cv2.warpPerspective(
                    self._texture, matrix, self._size, borderMode=cv2.BORDER_REFLECT_101
                )
            )
        light /= count
        return light

    def _smear(self, time: float, half: float) -> float:
        """Largest motion of an image corner while the shutter is open, pixels."""
        width, height = self._size
        corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], float).T
        start = self._homography(time - half) @ np.linalg.inv(self._homography(time + half))
        moved = start @ corners
        return float(np.hypot(*(moved[:2] / moved[2] - corners[:2])).max())

    def _homography(self, time: float) -> Matrix:
        pose = self._pose(time)
        width, height = self.photo_size
        pixel = PHOTO_WIDTH / width
        centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
        x, y, z = pose[:3, 3]
        from_photo = np.array(
            [[pixel, 0, -pixel * centre_x - x], [0, pixel, -pixel * centre_y - y], [0, 0, -z]]
        )
        return np.asarray(self.camera_matrix @ pose[:3, :3].T @ from_photo)

    def _pose(self, time: float) -> Matrix:
        """T_world_camera: the camera is offset from the point that it looks at, and rolls."""
        at = dict.fromkeys((name for name, _, _ in _MOTION), 0.0)
        for (name, amplitude, frequency), phase in zip(_MOTION, self._phases, strict=False):
            at[name] += amplitude * float(np.sin(2.0 * np.pi * frequency * time + phase))
        target = np.array([at["target_x"], at["target_y"], 0.0])
        offset = np.array([at["offset_x"], at["offset_y"], -_MEAN_DISTANCE - at["distance"]])
        forward = -offset / np.linalg.norm(offset)
        right = np.cross([0.0, 1.0, 0.0], forward)
        right /= np.linalg.norm(right)
        down = np.cross(forward, right)
        angle = self._roll + at["roll"]
        cosine, sine = np.cos(angle), np.sin(angle)
        pose = np.eye(4)
        pose[:3, 0] = cosine * right + sine * down
        pose[:3, 1] = cosine * down - sine * right
        pose[:3, 2] = forward
        pose[:3, 3] = target + offset
        return pose


def training_images() -> Iterator[tuple[float, Image]]:
    """Images to train places on, each with the share done: two flights over each photograph.

    The second has other light and 30° of roll. The default photograph is left out: evaluations
    fly over it.
    """
    names = [name for name in PHOTOGRAPHS if name != DEFAULT_PHOTOGRAPH]
    for number, name in enumerate(names):
        for seed, (stops, roll) in enumerate(((0.3, 0.0), (1.5, np.pi / 6))):
            length, every = _FLIGHT
            camera = VirtualCamera(
                photograph=name, length=length, seed=11 + seed, stops=stops, roll=roll
            )
            for index in range(0, length, every):
                share = (number + (seed + index / length) / 2) / len(names)
                yield share, camera.render(index)


def _photograph(name: str) -> UInt8Array:
    """H×W×3 photograph; scikit-image is located, not imported."""
    if name not in PHOTOGRAPHS:
        raise SourceError(
            f"the virtual camera has no photograph {name!r}; choose one of "
            f"{', '.join(PHOTOGRAPHS)}."
        )
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise SourceError(
            "the virtual camera's photographs come with scikit-image, which is not installed; "
            "run 'pip install scikit-image', or give another source."
        )
    try:
        pixels = read_image(Path(package.origin).parent / "data" / PHOTOGRAPHS[name])
    except ImageError as error:
        raise SourceError(f"the virtual camera has no photograph: {error}") from error
    return pixels if pixels.ndim == 3 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB))


def _decode_srgb(pixels: UInt8Array) -> Float32Array:
    value = np.arange(256) / 255.0
    table = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.asarray(table.astype(np.float32)[pixels])


_LEVELS = 1 << 14
_LINEAR = np.arange(_LEVELS) / (_LEVELS - 1)
_SRGB_TABLE = np.round(
    255.0 * np.where(_LINEAR <= 0.0031308, 12.92 * _LINEAR, 1.055 * _LINEAR ** (1 / 2.4) - 0.055)
).astype(np.uint8)


def _encode_srgb(light: Float32Array) -> UInt8Array:
    """Linear intensity to sRGB, clipped at 1 like a saturated sensor."""
    return np.asarray(_SRGB_TABLE[np.rint(light.clip(0.0, 1.0) * (_LEVELS - 1)).astype(np.uint16)])
