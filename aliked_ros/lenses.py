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

"""Lenses that OpenCV's pinhole model does not describe: fisheye and omnidirectional cameras.

A lens leads from the direction of a ray to the point where it meets the sensor, in units of the
focal length from the principal point, and back. Directions lead from the optical centre (x right,
y down, z forward) and have any length; they may lie behind the camera where the lens sees so far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_STEPS = 20  # of Newton's method; a few suffice but near the edge of the field of view
_ACCURACY = 1e-13  # focal lengths


@dataclass(frozen=True, slots=True)
class Lens:
    """One family of lenses; its functions take the coefficients last.

    distort: directions N×3 → points N×2, NaN where the lens does not see them.
    undistort: points N×2 → directions N×3, NaN where no ray leads.
    counts: how many coefficients it may have; empty = any number.
    check: why the coefficients are impossible, "" = they are not.
    """

    distort: Callable[[Array, Array], Array]
    undistort: Callable[[Array, Array], Array]
    counts: tuple[int, ...] = ()
    check: Callable[[Array], str] = lambda _coefficients: ""


def _equidistant(directions: Array, k: Array) -> Array:
    """θ (1 + k1 θ² + k2 θ⁴ + …) from the centre (Kannala and Brandt, TPAMI 2006)."""
    theta = np.arctan2(np.hypot(*directions[:, :2].T), directions[:, 2])
    radius = np.where(theta <= _largest_angle(k), theta * _radial(theta**2, k)[0], np.nan)
    return _of_length(directions[:, :2], radius)


def _equidistant_back(points: Array, k: Array) -> Array:
    largest = _largest_angle(k)
    radius = np.hypot(*points.T)
    theta = np.minimum(radius, largest)
    for _ in range(_STEPS):
        factor, slope = _radial(theta**2, k)
        missed = radius - theta * factor
        if np.abs(missed).max(initial=0.0) < _ACCURACY:
            break
        # the slope vanishes at the largest angle only
        theta = np.clip(theta + missed / np.maximum(factor + slope, 1e-9), 0.0, largest)
    theta = np.where(radius <= largest * _radial(np.square(largest), k)[0], theta, np.nan)
    return _at_angle(points, theta)


def _largest_angle(k: Array) -> float:
    """Where the lens's polynomial turns back; π at most."""
    orders = np.arange(len(k), -1, -1)
    derivative = np.append(k[::-1], 1.0) / np.abs(k).max(initial=1.0)
    derivative *= 2 * orders + 1  # by θ², and by a factor that has no overflow
    terms = np.abs(derivative) * np.pi ** (2.0 * orders)
    derivative[terms < 1e-15 * terms.max()] = 0.0  # they would only make the roots infinite
    roots = np.roots(derivative)
    turns = roots.real[(np.abs(roots.imag) < 1e-12) & (roots.real > 0.0)]
    return float(min([np.pi, *np.sqrt(turns)]))


def _extended_unified(directions: Array, coefficients: Array) -> Array:
    """α, β (Khomutenko, Garcia and Martinet, RA-L 2016)."""
    alpha, beta = coefficients
    x, y, z = directions.T
    distance = np.sqrt(beta * (x**2 + y**2) + z**2)
    seen = z > -_cone(alpha) * distance
    return _divide(directions, alpha * distance + (1 - alpha) * z, seen)


def _extended_unified_back(points: Array, coefficients: Array) -> Array:
    alpha, beta = coefficients
    square = (points**2).sum(axis=1)
    root = np.sqrt(1 - (2 * alpha - 1) * beta * square)  # NaN where no ray leads
    z = (1 - beta * alpha**2 * square) / (alpha * root + 1 - alpha)
    return np.column_stack([points, z])


def _double_sphere(directions: Array, coefficients: Array) -> Array:
    """ξ, α (Usenko, Demmel and Cremers, 3DV 2018)."""
    xi, alpha = coefficients
    x, y, z = directions.T
    distance = np.sqrt(x**2 + y**2 + z**2)
    shifted = xi * distance + z
    second = np.sqrt(x**2 + y**2 + shifted**2)
    cone = _cone(alpha)
    limit = (cone + xi) / np.sqrt(2 * cone * xi + xi**2 + 1)
    return _divide(directions, alpha * second + (1 - alpha) * shifted, z > -limit * distance)


def _double_sphere_back(points: Array, coefficients: Array) -> Array:
    xi, alpha = coefficients
    square = (points**2).sum(axis=1)
    root = np.sqrt(1 - (2 * alpha - 1) * square)  # NaN where no ray leads
    z = (1 - alpha**2 * square) / (alpha * root + 1 - alpha)
    scale = (z * xi + np.sqrt(z**2 + (1 - xi**2) * square)) / (z**2 + square)
    return np.column_stack([scale[:, None] * points, scale * z - xi])


def _cone(alpha: float) -> float:
    """Minus the cosine, for a unified model, of the rays that are seen just so."""
    return alpha / (1 - alpha) if alpha <= 0.5 else (1 - alpha) / alpha


def _omnidirectional(directions: Array, coefficients: Array) -> Array:
    """ξ, then k1 k2 p1 p2 on the unit sphere's projection (Mei and Rives, ICRA 2007)."""
    xi, brown = coefficients[0], coefficients[1:]
    distance = np.linalg.norm(directions, axis=1)
    z = directions[:, 2]
    seen = z > -distance * (xi if xi <= 1.0 else 1 / xi)
    return _brown(_divide(directions, z + xi * distance, seen), brown[:2], brown[2:])[0]


def _omnidirectional_back(points: Array, coefficients: Array) -> Array:
    xi, brown = coefficients[0], coefficients[1:]
    points = _brown_back(points, brown[:2], brown[2:])
    square = (points**2).sum(axis=1)
    scale = (xi + np.sqrt(1 + (1 - xi**2) * square)) / (square + 1)  # NaN where no ray leads
    return np.column_stack([scale[:, None] * points, scale - xi])


def _thin_prism_fisheye(directions: Array, coefficients: Array) -> Array:
    """k1 k2 p1 p2 k3 k4 sx1 sy1 on the equidistant projection (COLMAP, ``camera models``)."""
    theta = np.arctan2(np.hypot(*directions[:, :2].T), directions[:, 2])
    return _brown(_of_length(directions[:, :2], theta), *_thin_prism(coefficients))[0]


def _thin_prism_fisheye_back(points: Array, coefficients: Array) -> Array:
    ideal = _brown_back(points, *_thin_prism(coefficients))
    theta = np.hypot(*ideal.T)
    return _at_angle(ideal, np.where(theta <= np.pi, theta, np.nan))


def _thin_prism(coefficients: Array) -> tuple[Array, Array, Array]:
    k1, k2, p1, p2, k3, k4, sx, sy = coefficients
    return np.array([k1, k2, k3, k4]), np.array([p1, p2]), np.array([sx, sy])


def _brown(
    points: Array, radial: Array, tangential: Array, prism: Array | None = None
) -> tuple[Array, Array]:
    """Brown's polynomial on points N×2: the points distorted, and the derivatives N×2×2."""
    (x, y), (p1, p2) = points.T, tangential
    sx, sy = (0.0, 0.0) if prism is None else prism
    square = x**2 + y**2
    factor, slope = _radial(square, radial)
    with np.errstate(invalid="ignore", divide="ignore"):
        by_square = np.where(square > 0.0, slope / (2 * square), 0.0)
    distorted = np.column_stack(
        [
            x * factor + 2 * p1 * x * y + p2 * (square + 2 * x**2) + sx * square,
            y * factor + 2 * p2 * x * y + p1 * (square + 2 * y**2) + sy * square,
        ]
    )
    cross = 2 * x * y * by_square
    slopes = np.empty((len(points), 2, 2))
    slopes[:, 0, 0] = factor + 2 * x**2 * by_square + 2 * p1 * y + 6 * p2 * x + 2 * sx * x
    slopes[:, 0, 1] = cross + 2 * p1 * x + 2 * p2 * y + 2 * sx * y
    slopes[:, 1, 0] = cross + 2 * p2 * y + 2 * p1 * x + 2 * sy * x
    slopes[:, 1, 1] = factor + 2 * y**2 * by_square + 2 * p2 * x + 6 * p1 * y + 2 * sy * y
    return distorted, slopes


def _brown_back(
    points: Array, radial: Array, tangential: Array, prism: Array | None = None
) -> Array:
    """The points that Brown's polynomial distorts to these, NaN where there are none."""
    ideal = points.copy()
    with np.errstate(all="ignore"):  # where there is no solution
        for _ in range(_STEPS):
            distorted, slopes = _brown(ideal, radial, tangential, prism)
            missed = points - distorted
            if np.nanmax(np.abs(missed), initial=0.0) < _ACCURACY:
                break
            (a, b), (c, d) = slopes.transpose(1, 2, 0)
            x, y = missed.T
            determinant = a * d - b * c
            ideal += np.column_stack([d * x - b * y, a * y - c * x]) / determinant[:, None]
        distorted, slopes = _brown(ideal, radial, tangential, prism)
        turned = (np.linalg.det(slopes) <= 0.0) | (np.trace(slopes, axis1=1, axis2=2) <= 0.0)
        ideal[turned | ~(np.abs(points - distorted).max(axis=1) < 1e-9)] = np.nan
    return ideal


def _radial(square: Array | float, k: Array) -> tuple[Array, Array]:
    """1 + k1 s + k2 s² + … of s = r², and r times its derivative by r."""
    orders = np.arange(1, len(k) + 1)
    powers = np.asarray(square, np.float64)[..., None] ** orders
    return 1.0 + powers @ k, powers @ (2 * orders * k)


def _of_length(vectors: Array, length: Array) -> Array:
    """Vectors N×2 of their own direction and a given length; without a direction: 0."""
    own = np.hypot(*vectors.T)
    return vectors * np.where(own > 0.0, length / np.where(own > 0.0, own, 1.0), 0.0)[:, None]


def _at_angle(points: Array, theta: Array) -> Array:
    """Directions N×3 to where points lie seen from the centre, at angles off the optical axis."""
    return np.column_stack([_of_length(points, np.sin(theta)), np.cos(theta)])


def _divide(directions: Array, divisor: Array, seen: NDArray[np.bool_]) -> Array:
    with np.errstate(all="ignore"):
        return np.where(seen[:, None], directions[:, :2] / divisor[:, None], np.nan)


def _check_unified(alpha: float, beta: float) -> str:
    if 0.0 <= alpha < 1.0 and beta > 0.0:
        return ""
    return f"alpha is {alpha:g}, beta {beta:g}; alpha lies in [0, 1), beta is positive"


def _check_double_sphere(xi: float, alpha: float) -> str:
    if xi > -1.0 and 0.0 <= alpha < 1.0:
        return ""
    return f"xi is {xi:g}, alpha {alpha:g}; xi is above -1, alpha lies in [0, 1)"


def _check_omnidirectional(xi: float, *_brown: float) -> str:
    return "" if xi >= 0.0 else f"xi is {xi:g}; it is not negative"


LENSES: dict[str, Lens] = {
    "equidistant": Lens(_equidistant, _equidistant_back),
    "eucm": Lens(
        _extended_unified, _extended_unified_back, (2,), lambda some: _check_unified(*some)
    ),
    "double_sphere": Lens(
        _double_sphere, _double_sphere_back, (2,), lambda some: _check_double_sphere(*some)
    ),
    "omnidirectional": Lens(
        _omnidirectional,
        _omnidirectional_back,
        (5,),
        lambda some: _check_omnidirectional(*some),
    ),
    "thin_prism_fisheye": Lens(_thin_prism_fisheye, _thin_prism_fisheye_back, (8,)),
}
"""By the name in CameraInfo's ``distortion_model``."""
