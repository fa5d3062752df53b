"""Image pairs whose correspondences are known: from single images, and from depth with poses.

A dataset is a sequence: ``dataset[index]`` is the same pair each time, in whatever process and
order, for it is drawn with (seed, index). So training can go on exactly where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aliked_ros.camera import CameraModel
from aliked_ros.errors import SourceError
from aliked_ros.evaluation.poses import true_poses
from aliked_ros.odometry.geometry import Transform
from aliked_ros.sources import Partner, open_source
from aliked_ros.training.warps import DepthWarp, HomographyWarp, Warp
from aliked_ros.types import Float32Array, Image, UInt8Array

logger = logging.getLogger("aliked_ros.training")

_TRIES = 50  # homographies drawn until one keeps enough of the image
_LEAST_SHARED = 0.4  # of the first image that the second one still shows


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images 3×H×W float32 in [0, 1], and where each one's points lie in the other.

    name: for people, where something goes wrong with it.
    """

    name: str
    first: Tensor
    second: Tensor
    first_to_second: Warp
    second_to_first: Warp


class Pairs(Protocol):
    """A dataset of pairs."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int) -> Pair:
        """The pair of this number, always the same."""
        ...


@dataclass(frozen=True, slots=True)
class Distortions:
    """How far apart the two images of a pair made from one are drawn, uniformly.

    rotation: degrees either way. scale: largest factor, either way. shear, tilt: largest change of
    direction (fraction) and of perspective (fraction of the image's size at its border).
    translation: fraction of the size. brightness: shift in 0..1; contrast, gamma: largest factor;
    noise: largest standard deviation in 0..1; blur: largest sigma in pixels.
    """

    rotation: float = 30.0
    scale: float = 1.5
    shear: float = 0.15
    tilt: float = 0.3
    translation: float = 0.15
    brightness: float = 0.15
    contrast: float = 1.4
    gamma: float = 1.4
    noise: float = 0.03
    blur: float = 1.5


FULL_ROTATION = Distortions(rotation=180.0)
"""Any turn of the camera about its axis, as N16rot was trained for."""


class HomographyPairs:
    """Pairs made of single images by a random homography and photometric changes."""

    def __init__(
        self,
        images: Sequence[UInt8Array],
        size: tuple[int, int],
        distortions: Distortions,
        seed: int,
        length: int | None = None,
    ) -> None:
        """Make ``length`` pairs (default: one an image) of ``size`` (width, height) pixels.

        images: H×W or H×W×3 (RGB) uint8. Raises SourceError when there are none.
        """
        if not images:
            raise SourceError("there are no images to make training pairs of.")
        self._images, self._size, self._seed = images, size, seed
        self._distortions = distortions
        self._length = length or len(images)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Pair:
        """See ``Pairs``."""
        rng = np.random.default_rng((self._seed, index))
        number = index % len(self._images)
        width, height = self._size
        source = rgb(self._images[number])
        fit = _fitting(source.shape, self._size)
        homography = draw_homography(rng, width, height, self._distortions)
        # both are taken from the image itself: what one does not show, the other may
        views = [
            cv2.warpPerspective(source, matrix, (width, height), flags=cv2.INTER_LINEAR,
                                borderMode=cv2.BORDER_REFLECT_101)
            for matrix in (fit, homography @ fit)
        ]  # fmt: skip
        first, second = (
            _tensor(photometric(rng, np.asarray(view, np.uint8), self._distortions))
            for view in views
        )
        matrix = torch.from_numpy(homography)
        return Pair(
            f"image {number}, homography of seed ({self._seed}, {index})",
            first,
            second,
            HomographyWarp(matrix, width, height),
            HomographyWarp(torch.linalg.inv(matrix), width, height),
        )


@dataclass(frozen=True, slots=True)
class _Frame:
    """An undistorted image with its depth and pose."""

    name: str
    pixels: UInt8Array
    depth: Float32Array
    pose: Transform


@dataclass(frozen=True, slots=True)
class DepthPairs:
    """Pairs of a sequence with depth and true poses, up to ``largest_gap`` images apart.

    Images are undistorted; a point whose depth does not agree in both images is hidden.
    """

    frames: list[_Frame]
    matrix: NDArray[np.float64]
    distortions: Distortions
    seed: int
    length: int
    largest_gap: int = 10

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Pair:
        """See ``Pairs``."""
        rng = np.random.default_rng((self.seed, index))
        here = int(rng.integers(len(self.frames)))
        gap = int(rng.integers(1, self.largest_gap + 1))
        there = here + gap if here + gap < len(self.frames) else max(here - gap, 0)
        if there == here:
            there = here + 1 if here == 0 else here - 1
        first, second = self.frames[here], self.frames[there]
        motion = second.pose.inverse() @ first.pose
        views = [
            _tensor(photometric(rng, rgb(frame.pixels), self.distortions))
            for frame in (first, second)
        ]
        return Pair(
            f"{first.name} and {second.name}",
            views[0],
            views[1],
            self._warp(first, second, motion),
            self._warp(second, first, motion.inverse()),
        )

    def _warp(self, here: _Frame, there: _Frame, motion: Transform) -> DepthWarp:
        return DepthWarp(
            torch.from_numpy(here.depth),
            torch.from_numpy(there.depth),
            torch.from_numpy(self.matrix),
            torch.from_numpy(motion.rotation),
            torch.from_numpy(motion.translation),
        )


def read_images(source: str, first: int = 0, count: int | None = None) -> list[UInt8Array]:
    """Pixels of ``count`` images of a source (as ``open_source`` knows them), from ``first`` on.

    What cannot be read is skipped and said. Raises SourceError when none is left.
    """
    return [image.pixels for image in _chosen(source, first, count, "none")]


def read_depth_pairs(
    source: str,
    size: tuple[int, int],
    distortions: Distortions,
    seed: int,
    length: int | None = None,
    largest_gap: int = 10,
    first: int = 0,
    count: int | None = None,
) -> DepthPairs:
    """Pairs of a sequence with depth images, a calibration and true poses.

    size: width and height that the images are scaled to. length: default one pair an image.
    Raises SourceError when any of that is missing, or fewer than two images have all of it.
    """
    opened = open_source(source, partner="depth")
    if opened.calibration is None:
        raise SourceError(f"{source} has no calibration; put a calib.json there.")
    camera = CameraModel.from_calibration(opened.calibration)
    images = _chosen(source, first, count, "depth")
    poses = true_poses(source, [image.stamp for image in images])
    undistort, matrix = _undistortion(camera, size)
    frames = [
        _Frame(
            f"{opened.name} {image.stamp:.6f}",
            undistort(image.pixels, cv2.INTER_LINEAR),
            undistort(image.depth, cv2.INTER_NEAREST),
            pose,
        )
        for image, pose in zip(images, poses, strict=True)
        if image.depth is not None and pose is not None
    ]
    if len(frames) < 2:
        raise SourceError(
            f"of {len(images)} images of {source} {len(frames)} have a depth image and a true "
            "pose; training by depth needs at least two."
        )
    return DepthPairs(frames, matrix, distortions, seed, length or len(frames), largest_gap)


def draw_homography(
    rng: np.random.Generator, width: int, height: int, distortions: Distortions
) -> NDArray[np.float64]:
    """A random homography 3×3 of an image onto one of its size, about its centre.

    Drawn anew until the second image shows at least 40 % of the first; the identity where that
    does not come.
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
    """Another exposure, gamma, blur and noise of an H×W×3 image."""
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


def _chosen(source: str, first: int, count: int | None, partner: Partner) -> list[Image]:
    limit = None if count is None else first + count
    opened = open_source(source, limit, partner)
    images = list(opened)[first:]
    if opened.skipped:
        logger.warning("%d images of %s cannot be read and are left out", opened.skipped, source)
    if not images:
        raise SourceError(f"{source} has no image from number {first} on.")
    return images


def _undistortion(
    camera: CameraModel, size: tuple[int, int]
) -> tuple[Callable[[Any, int], Any], NDArray[np.float64]]:
    """What takes an image's distortion out and scales it, and the intrinsics it has then."""
    width, height = size
    # pixel centres: (x + ½)·s − ½
    scale = np.array([width / camera.width, height / camera.height])
    matrix = camera.matrix.copy()
    matrix[:2] *= scale[:, None]
    matrix[:2, 2] += 0.5 * scale - 0.5
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    rays = (pixels - matrix[:2, 2]) / np.diag(matrix)[:2]
    there = camera.project(rays.astype(np.float32)).reshape(height, width, 2)

    def undistort(image: Any, interpolation: int) -> Any:
        empty = np.nan if image.dtype == np.float32 else 0
        x, y = np.ascontiguousarray(there.transpose(2, 0, 1))
        return cv2.remap(image, x, y, interpolation, borderValue=empty)

    return undistort, matrix


def _fitting(shape: tuple[int, ...], size: tuple[int, int]) -> NDArray[np.float64]:
    """The homography that scales an image to cover ``size``, about the centre."""
    (height, width), (columns, rows) = shape[:2], size
    scale = max(columns / width, rows / height)
    return np.array(
        [
            [scale, 0.0, 0.5 * (columns - 1) - 0.5 * scale * (width - 1)],
            [0.0, scale, 0.5 * (rows - 1) - 0.5 * scale * (height - 1)],
            [0.0, 0.0, 1.0],
        ]
    )


def _shared(homography: NDArray[np.float64], width: int, height: int) -> float:
    """Share of a 16×16 raster of points that stays inside the image, and in front of it."""
    x, y = np.meshgrid(np.linspace(0, width - 1, 16), np.linspace(0, height - 1, 16))
    points = np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    mapped = homography @ points
    front = mapped[2] > 0.1
    u, v = mapped[:2] / np.where(front, mapped[2], 1.0)
    return float((front & (u >= 0) & (u < width) & (v >= 0) & (v < height)).mean())


def rgb(pixels: UInt8Array) -> UInt8Array:
    """H×W×3 of an image H×W (grey) or H×W×3."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _tensor(pixels: UInt8Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 255
