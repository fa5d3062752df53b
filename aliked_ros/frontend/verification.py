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

"""Geometric verification: which matches agree with one motion of the camera.

Robust estimation is OpenCV's USAC with MAGSAC++ scores. A general motion of a scene in depth is an
epipolar geometry. Three common cases are not, and would make its estimation arbitrary: a camera
that stands still, one that only turns, and a plane; the last two are a homography. All are
recognised and verified as what they are, so that none of them ends the tracks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.types import BoolArray, Features, Float32Array, Float64Array, Matches

MIN_MATCHES = 16  # fewer cannot be judged
_LEAST_INLIERS = 14  # so many of 40 random matches agree once in 400 times, of 24 in none of 1,000
_STILL_MEDIAN = 0.5  # pixels; below it the parallax drowns in the noise of the keypoints
MOST = 0.7  # of points have to agree with a geometry fitted to them, or it is not known
_LIKELY = 0.5  # LightGlue's probability of a match; with less it is wrong rather than right
_HOMOGRAPHY_SHARE = 0.9  # of the epipolar inliers: so many on one homography hold no more geometry
_LEAST_SHARE = 0.2  # of the matches: fewer mean that the estimation failed
_SIGMAS = 3.0  # standard deviations that a match may be off
_MODEL_NOISE = 0.35  # pixels: of the estimated motion itself
_CONFIDENCE = 0.99  # 0.9999 takes twice as long and finds the same inliers
_ITERATIONS = 1000
_ENOUGH = 200  # points for a plane by least squares
_ROUNDS = 5  # of reweighted least squares


class Verifier:
    """Marks the matches that agree with one camera motion."""

    def __init__(self, config: FrontendConfig) -> None:
        self._config = config

    def verify(
        self,
        reference: Features,
        current: Features,
        matches: Matches,
        camera: CameraModel | None = None,
        rays: tuple[Float32Array, Float32Array] | None = None,
        noise: Float64Array | None = None,
        refine: bool = True,
    ) -> Matches:
        """``matches`` with ``inliers`` and ``geometry`` set, as far as that can be known.

        With ``verification`` none it is the fundamental geometry, for who asks all the same.

        camera: its lens distortion is taken out first; used for images of its size only.
        rays: ``camera.normalize`` of the reference's and the current keypoints, where known.
        noise: K×2×2, covariances in pixels² of the matches' displacements, where known: a match
            has to agree with the geometry as well as they let expect, and within the threshold.
        refine: inliers also agree with the geometry fitted to the likely ones.

        The geometry is ``unverified`` where it cannot be told: with fewer than MIN_MATCHES matches,
        whose inliers stay None, and where no motion explains a fair share of more; those are all
        outliers then.
        """
        if len(matches) < MIN_MATCHES:
            return replace(matches, inliers=None, geometry="unverified")
        rows = (matches.reference_indices, matches.current_indices)
        points = [f.keypoints[i] for f, i in zip((reference, current), rows, strict=True)]
        focal = None
        if camera is not None and camera.fits(current.width, current.height):
            focal = float(np.sqrt(camera.matrix[0, 0] * camera.matrix[1, 1]))
            if rays is None:
                points = [camera.normalize(p) for p in points]
            else:
                points = [r[i] for r, i in zip(rays, rows, strict=True)]
        # pixels of an ideal pinhole with the camera's focal length: thresholds stay pixels
        before, after = (p.astype(np.float64) * (focal or 1.0) for p in points)
        known = np.isfinite(before).all(1) & np.isfinite(after).all(1)
        inliers, geometry = self._inliers(
            before[known], after[known], focal, None if noise is None else noise[known]
        )
        if inliers is None:
            return replace(matches, inliers=None, geometry="unverified")
        if refine and geometry in ("epipolar", "homography"):
            likely = matches.scores[known] >= _LIKELY
            if matches.matcher != "lightglue":  # other scores are no probabilities
                likely[:] = True
            inliers = self._refined(before[known], after[known], inliers, likely)
        verified = np.zeros(len(matches), bool)
        verified[known] = inliers
        return replace(matches, inliers=verified, geometry=geometry)

    @property
    def method(self) -> str:
        """The setting ``verification``."""
        return self._config.verification

    def reconfigure(self, config: FrontendConfig) -> None:
        """Take over the method and the threshold of ``config``."""
        self._config = config

    def _inliers(
        self,
        before: Float64Array,
        after: Float64Array,
        focal: float | None,
        noise: Float64Array | None,
    ) -> tuple[BoolArray | None, str]:
        threshold = self._config.inlier_threshold
        if len(before) < MIN_MATCHES:
            return None, ""
        moved = after - before
        none = np.zeros(len(before), bool)
        if np.median(np.linalg.norm(moved, axis=1)) < _STILL_MEDIAN:
            still = np.linalg.norm(moved, axis=1) < threshold
            return still & _expected(moved, noise), "still"
        flat = _robust(
            lambda: cv2.findHomography(
                before, after, cv2.USAC_MAGSAC, threshold, None, _ITERATIONS, _CONFIDENCE
            )
        )
        on_plane = none
        if flat is not None:
            on_plane = flat[1] & _expected(_off_plane(flat[0], before, after), noise)
        general = None
        if self._config.verification != "homography":
            general = self._epipolar(before, after, focal)
        if general is None:
            return (none, "unverified") if flat is None else (on_plane, "homography")
        agreeing = general[1] & _expected(_off_line(general[0], before, after), noise)
        if flat is not None and flat[1].sum() >= _HOMOGRAPHY_SHARE * general[1].sum():
            # a few points off the plane still agree with the epipolar geometry
            return on_plane | agreeing, "homography"
        return agreeing, "epipolar"

    def _refined(
        self, before: Float64Array, after: Float64Array, inliers: BoolArray, likely: BoolArray
    ) -> BoolArray:
        """The inliers that agree with the geometry fitted by least squares to the likely ones.

        Wrong matches come in groups, along an edge or on a pattern, and pull a robust estimate
        towards them. LightGlue is unsure of them: they are not fitted, and their gate is half as
        wide.
        """
        fitted = inliers & likely
        if np.count_nonzero(fitted) < MIN_MATCHES:
            return inliers
        threshold = self._config.inlier_threshold
        errors = TwoViews.of(before[fitted], after[fitted], threshold).errors(before, after)
        agreeing = inliers & (errors < np.where(likely, threshold, threshold / 2))
        enough = np.count_nonzero(agreeing) >= MOST * np.count_nonzero(inliers)
        return agreeing if enough else inliers

    def _epipolar(
        self, before: Float64Array, after: Float64Array, focal: float | None
    ) -> tuple[Float64Array, BoolArray] | None:
        """Fundamental matrix and inliers."""
        threshold = self._config.inlier_threshold
        if self._config.verification == "essential" and focal is not None:
            matrix = np.diag([focal, focal, 1.0])
            found = _robust(
                lambda: cv2.findEssentialMat(
                    before, after, matrix, cv2.USAC_MAGSAC, _CONFIDENCE, threshold, _ITERATIONS
                )
            )
            inverse = np.linalg.inv(matrix)
            return None if found is None else (inverse @ found[0] @ inverse, found[1])
        return _robust(
            lambda: cv2.findFundamentalMat(
                before, after, cv2.USAC_MAGSAC, threshold, _CONFIDENCE, _ITERATIONS
            )
        )


def _robust(estimate: Callable[[], tuple[Any, Any]]) -> tuple[Float64Array, BoolArray] | None:
    """Model (3×3) and inliers of an estimation, None where it fails or explains too little."""
    try:
        model, mask = estimate()
    except cv2.error:  # a degenerate set of points
        return None
    if model is None or mask is None:
        return None
    inliers: BoolArray = np.asarray(mask).ravel() != 0
    enough = inliers.mean() >= _LEAST_SHARE and inliers.sum() >= _LEAST_INLIERS
    return (np.asarray(model, np.float64)[:3], inliers) if enough else None


@dataclass(frozen=True, slots=True)
class TwoViews:
    """The geometry of two images, by least squares over points most of which agree already.

    It costs a tenth of a robust estimation, and does not find a minority.
    epipolar: 3×3, x2ᵀ·F·x1 = 0. plane: 3×3, x2 ~ H·x1. flat: whether the plane holds for most.
    doubt: 8×3×3, by what F may be wrong: one standard deviation each, independent of each other,
        for points with a noise of one pixel.
    """

    epipolar: Float64Array
    plane: Float64Array
    flat: bool
    doubt: Float64Array

    @classmethod
    def of(cls, before: Float64Array, after: Float64Array, threshold: float) -> TwoViews:
        """From corresponding points N×2, eight at least, finite.

        threshold: pixels of a point that agrees; those far beyond it hardly count.
        """
        some = slice(None, None, 1 + len(before) // _ENOUGH)
        found, _ = cv2.findHomography(before[some], after[some])
        plane = np.eye(3) if found is None else np.asarray(found, np.float64)
        carried = cv2.perspectiveTransform(before[:, None], plane)[:, 0]
        on_plane = np.linalg.norm(carried - after, axis=1) < threshold
        flat = bool(on_plane.mean() >= _HOMOGRAPHY_SHARE)
        epipolar, doubt = _fundamental(before, after, threshold / 2)
        return cls(epipolar, plane, flat, doubt)

    def errors(self, before: Float64Array, after: Float64Array) -> Float64Array:
        """Distances N in pixels, of the geometry that fits better. Points N×2 are finite."""
        errors, _ = _to_lines(self.epipolar, _homogeneous(before), _homogeneous(after))
        return (
            np.minimum(errors, np.linalg.norm(self.carried(before) - after, axis=1))
            if self.flat
            else errors
        )

    def widening(self, before: Float64Array, after: Float64Array) -> Float64Array:
        """How many times larger errors N of points that were not fitted may be, 1 at least.

        The lines are known less well far from the points that they were fitted to. Points N×2.
        """
        first, second = _homogeneous(before), _homogeneous(after)
        _, lengths = _to_lines(self.epipolar, first, second)
        doubt = _products(first, second) @ self.doubt.reshape(-1, 9).T / lengths[:, None]
        return np.asarray(np.sqrt(1.0 + (doubt**2).sum(1)))

    def carried(self, points: Float64Array) -> Float64Array:
        """Where the plane puts points N×2 of the first image."""
        if len(points) == 0:
            return points
        return np.asarray(cv2.perspectiveTransform(points[:, None], self.plane)[:, 0])


def _fundamental(
    before: Float64Array, after: Float64Array, scale: float
) -> tuple[Float64Array, Float64Array]:
    """The eight-point method, reweighted by the distances from the lines (Geman-McClure).

    Returns F and its ``doubt`` (see ``TwoViews``).
    """
    points = np.concatenate([before, after])
    centre, size = points.mean(0), max(float(points.std()), 1e-9)
    first, second = (_homogeneous((p - centre) / size) for p in (before, after))
    products = _products(first, second)
    weights = np.ones(len(products))
    for remaining in reversed(range(_ROUNDS)):
        values, vectors = np.linalg.eigh((products * weights[:, None]).T @ products)
        matrix = vectors[:, 0].reshape(3, 3)
        if remaining:
            errors, lengths = _to_lines(matrix, first, second)
            weights = 1.0 / ((1.0 + (errors * size / scale) ** 2) * lengths) ** 2
    left, singular, right = np.linalg.svd(matrix)
    matrix = left * (singular[0], singular[1], 0.0) @ right
    to_unit = np.array([[1.0, 0.0, -centre[0]], [0.0, 1.0, -centre[1]], [0.0, 0.0, size]]) / size
    doubt = vectors[:, 1:] / (size * np.sqrt(np.maximum(values[1:], 1e-12)))
    return to_unit.T @ matrix @ to_unit, to_unit.T @ doubt.T.reshape(-1, 3, 3) @ to_unit


def _products(first: Float64Array, second: Float64Array) -> Float64Array:
    """N×9, whose product with the nine numbers of F is x2ᵀ·F·x1. Points N×3 are homogeneous."""
    return (second[:, :, None] * first[:, None, :]).reshape(-1, 9)


def _to_lines(
    matrix: Float64Array, first: Float64Array, second: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Distances N from the epipolar lines, the larger of both images', and the normals' lengths.

    Points N×3 are homogeneous.
    """
    lines, other = first @ matrix.T, second @ matrix
    lengths = np.minimum(np.hypot(lines[:, 0], lines[:, 1]), np.hypot(other[:, 0], other[:, 1]))
    lengths = np.maximum(lengths, 1e-12)
    return np.abs(np.einsum("ij,ij->i", second, lines)) / lengths, lengths


def _homogeneous(points: Float64Array) -> Float64Array:
    return np.column_stack([points, np.ones(len(points))])


def _expected(residuals: Float64Array, noise: Float64Array | None) -> BoolArray:
    """Which residuals, K×2 pixels in the current image, the noise of the matches explains."""
    if noise is None:
        return np.ones(len(residuals), bool)
    squared = (residuals**2).sum(1)
    along = np.einsum("ni,nij,nj->n", residuals, noise, residuals) / np.maximum(squared, 1e-12)
    return np.asarray(squared <= _SIGMAS**2 * (along + _MODEL_NOISE**2))


def _off_plane(model: Float64Array, before: Float64Array, after: Float64Array) -> Float64Array:
    """From where a homography carries the points to where they are."""
    there = np.column_stack([before, np.ones(len(before))]) @ model.T
    return np.asarray(after - there[:, :2] / there[:, 2:])


def _off_line(model: Float64Array, before: Float64Array, after: Float64Array) -> Float64Array:
    """From the epipolar lines to the points, the shortest way."""
    lines = np.column_stack([before, np.ones(len(before))]) @ model.T
    normals = lines[:, :2]
    distance = (after * normals).sum(1) + lines[:, 2]
    squared = np.maximum((normals**2).sum(1), 1e-24)
    return np.asarray(normals * (distance / squared)[:, None])
