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
"""Points followed from image to image by pyramidal Lucas-Kanade.

Images are grey. Their pyramids are built anew at each call (0.3 ms at 640×480), for OpenCV's Python
binding takes none that are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from aliked_ros.types import BoolArray, Float32Array, Float64Array, IntArray, UInt8Array

_WINDOW = (16, 16)  # a multiple of 8 pixels wide takes half of the time that 15 do: whole vectors
_ENDS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.1)  # steps, pixels
_LEVELS = 3  # above the image itself
# Where that ends a larger window places the point. It holds what slides in the small one, along an
# edge or where there is little texture, unless its content lies at several depths. The point's own
# patch, enlarged, does where the content grows.
_LARGE_WINDOW = (32, 32)
_LARGE_ENDS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.03)
_FARTHEST = 3.0  # pixels by which it may differ
_LEAST_GROWTH = 0.02  # of the surroundings, from which on the enlarged patch is better
_FITS = 2  # steps of Gauss and Newton
_BORDER = 1.0  # pixels from the image's edge at which a point has left it
_RETURN = 1.0  # pixels from its start that a point may come back to
_LEAST_CORRELATION = 0.8  # of a point's patches in two images
_PATCH = 7  # pixels to each side
# Noise of a step, measured by how the distance between flow and detection grows with the number of
# images followed (fr1_xyz, RealSense desk, KITTI 00). Neighbouring pixels of a residual are alike,
# so that a patch counts for fewer pixels than it has; a patch that grows may also turn or bend.
_CORRELATED = 12.0
_SLIDE = 1.5  # pixels for each 100 % by which the surroundings of a point grow
_NEIGHBOURS = 8
_LEAST_DISTANCE = 4.0  # pixels to a neighbour that tells of growth
_NEIGHBOUR_NOISE = 0.15  # pixels of a neighbour's step that its covariance does not tell
_HARDLY = 1e-3  # weight of a neighbour that was not found after all; of others up to 44
_STIFF = 0.02  # of the weights: neighbours on a line tell nothing across it
_LEAST_MISSED = 0.1  # pixels by which neighbours' suggestions are always uncertain
_UNLIKE = 13.8  # squared distance, in covariances: of right ones one in a thousand is farther
_FINEST = 0.03  # pixels: no step is better known, by the interpolation of pixels
_LEAST_GRADIENT = 2.0  # grey levels a pixel, along any direction; keeps an edge's variance finite


@dataclass(frozen=True, slots=True)
class Flow:
    """Where points of one image are in another.

    points: N×2 float32, pixels; of those that were not found, where their neighbours suggest, else
    where flow ended, or the start. found: N bool, which of them can be relied on.
    correlation: N float32 in [-1, 1], of the patches around a point in both images.
    covariances: N×2×2, pixels², of the step from one image to the other.
    """

    points: Float32Array
    found: BoolArray
    correlation: Float32Array
    covariances: Float64Array


def follow(
    before: UInt8Array, now: UInt8Array, points: Float32Array, expected: Float32Array | None = None
) -> Flow:
    """Follow points N×2 (pixels) of an image into another of its size.

    expected: N×2, where they may be; None = where they were. Found are those that arrive inside
    the image, come back to their start when followed back, and look there as they did.
    """
    if len(points) == 0:
        none = np.zeros(0, np.float32)
        return Flow(points, none.astype(bool), none, np.zeros((0, 2, 2)))
    guess = points if expected is None else expected
    small, seen = _lucas_kanade(before, now, points, guess)
    # it starts as far from the right place as the way there did
    back, returned = _lucas_kanade(now, before, small, small - (guess - points))
    seen &= _inside(now, small)
    found = seen & returned & (np.linalg.norm(back - points, axis=1) < _RETURN)
    there = np.where(seen[:, None], small, points)
    near = _nearest(points, found)
    growth = _growth(points, there, near)
    patches = _patches(before, points)
    spread = np.asarray(np.linalg.inv(structure(patches)), np.float64)
    grown = np.abs(growth) >= _LEAST_GROWTH
    there, placed = _held(before, now, points, there, ~grown)
    rows = np.flatnonzero(grown & found)
    there[rows] = _fitted(now, patches[rows], spread[rows], there[rows], 1.0 + growth[rows])
    placed[rows] = True
    residual, correlation = _compare(patches, _patches(now, there, 1.0 + growth))
    unlike = np.flatnonzero(found & placed & (correlation <= _LEAST_CORRELATION))
    there[unlike] = small[unlike]
    residual[unlike], correlation[unlike] = _compare(
        patches[unlike], _patches(now, there[unlike], 1.0 + growth[unlike])
    )
    covariances = _CORRELATED * residual[:, None, None] * spread
    found &= correlation > _LEAST_CORRELATION
    slide = _SLIDE * growth
    covariances += (_FINEST**2 + slide**2)[:, None, None] * np.eye(2)
    if near is not None:
        there, covariances = _steadied(points, there, covariances, found, near)
        found &= _inside(now, there)
    return Flow(there, found, correlation, covariances)


def structure(patches: Float32Array) -> Float64Array:
    """Sums N×2×2 of the products of the gradients (x, y) in patches N×P×P."""
    down, across = np.gradient(patches, axis=(1, 2))
    pairs = ((across, across), (across, down), (down, down))
    xx, xy, yy = (np.einsum("nij,nij->n", a, b).astype(np.float64) for a, b in pairs)
    least = _LEAST_GRADIENT**2 * patches.shape[1] * patches.shape[2]
    tensors = np.stack([xx + least, xy, xy, yy + least], axis=1)
    return tensors.reshape(-1, 2, 2)


def structure_at(image: UInt8Array, points: Float32Array) -> Float64Array:
    """Structure tensors N×2×2 of the patches around points N×2 (pixels)."""
    return structure(_patches(image, points))


def _lucas_kanade(
    before: UInt8Array,
    now: UInt8Array,
    points: Float32Array,
    guess: Float32Array,
    large: bool = False,
) -> tuple[Float32Array, BoolArray]:
    """Where points are, N×2, and which are seen; ``large``: near the guess, by the large window."""
    there, status, _ = cv2.calcOpticalFlowPyrLK(
        before, now, points.reshape(-1, 1, 2), guess.reshape(-1, 1, 2).copy(),
        winSize=_LARGE_WINDOW if large else _WINDOW, maxLevel=0 if large else _LEVELS,
        criteria=_LARGE_ENDS if large else _ENDS, flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )  # fmt: skip
    return np.asarray(there, np.float32).reshape(-1, 2), np.asarray(status).ravel() != 0


def _inside(image: UInt8Array, points: Float32Array) -> BoolArray:
    """Which points N×2 have not left the image."""
    last = np.array(image.shape[::-1]) - 1 - _BORDER
    return np.asarray(((points >= _BORDER) & (points <= last)).all(1))


def _held(
    before: UInt8Array, now: UInt8Array, points: Float32Array, there: Float32Array, held: BoolArray
) -> tuple[Float32Array, BoolArray]:
    """Points N×2 placed by the large window where ``held`` (N) says so, and which could be."""
    rows = np.flatnonzero(held)
    placed = np.zeros(len(points), bool)
    there = there.copy()
    if len(rows):
        large, seen = _lucas_kanade(before, now, points[rows], there[rows], large=True)
        seen &= _inside(now, large) & (np.linalg.norm(large - there[rows], axis=1) < _FARTHEST)
        placed[rows[seen]] = True
        there[placed] = large[seen]
    return there, placed


def _fitted(
    now: UInt8Array,
    patches: Float32Array,
    spread: Float64Array,
    there: Float32Array,
    scales: Float64Array,
) -> Float32Array:
    """Points N×2 near ``there`` where patches N×P×P, enlarged by ``scales`` (N), fit best.

    spread: N×2×2, the inverse of their structure. Inverse compositional, as in Baker and Matthews,
    Lucas-Kanade 20 Years On, 2004, but for the translation only.
    """
    down, across = np.gradient(patches, axis=(1, 2))
    points = there.copy()
    for _ in range(_FITS):
        change = _patches(now, points, scales) - patches
        change -= change.mean((1, 2), keepdims=True)  # of brightness
        pull = np.stack([(across * change).sum((1, 2)), (down * change).sum((1, 2))], axis=1)
        step = -scales[:, None] * np.einsum("nij,nj->ni", spread, pull)
        points += step.astype(np.float32)
    near = np.linalg.norm(points - there, axis=1) < _FARTHEST
    return np.where(near[:, None], points, there)


def _nearest(points: Float32Array, found: BoolArray) -> IntArray | None:
    """Rows N×K of the nearest found points of each, itself excepted; None with too few."""
    known = np.flatnonzero(found)
    if len(known) <= _NEIGHBOURS:
        return None
    _, near = cKDTree(points[known]).query(points, k=_NEIGHBOURS + 1)
    near = known[near]
    left_out = near == np.arange(len(points))[:, None]  # itself, not always the first at its place
    left_out[~left_out.any(1), -1] = True
    return np.asarray(near[~left_out].reshape(len(points), _NEIGHBOURS))


def _growth(before: Float32Array, now: Float32Array, near: IntArray | None) -> Float64Array:
    """By how much the distances to the nearest points have grown, N; 0 = not at all, or unknown."""
    if near is None:
        return np.zeros(len(before))
    then, here = (np.linalg.norm(p[near] - p[:, None], axis=2) for p in (before, now))
    ratio = np.where(then > _LEAST_DISTANCE, here / np.maximum(then, _LEAST_DISTANCE), 1.0)
    of_each = np.median(ratio, axis=1) - 1.0
    growth: Float64Array = np.median(of_each[near], axis=1)  # one that slides tells of a false one
    return growth


def _steadied(
    before: Float32Array,
    now: Float32Array,
    covariances: Float64Array,
    found: BoolArray,
    near: IntArray,
) -> tuple[Float32Array, Float64Array]:
    """Points N×2 and their covariances N×2×2, with what their neighbours' steps say of their own.

    It holds points that slide along an edge. A point that moves unlike its neighbours is left
    alone; one that was not found is where they suggest.
    """
    steps = (now - before).astype(np.float64)
    suggested, variance = _suggested(before, steps, covariances, found, near)
    noise = variance[:, None, None] * np.eye(2)
    apart = suggested - steps
    inverse = np.linalg.inv(covariances + noise)
    gain = covariances @ inverse
    squared = np.einsum("ni,nij,nj->n", apart, inverse, apart)
    gain[~found] = np.eye(2)
    gain[found & ~(squared < _UNLIKE)] = 0.0
    points = now + np.einsum("nij,nj->ni", gain, apart)
    corrected = np.where(found[:, None, None], covariances - gain @ covariances, noise)
    return points.astype(np.float32), corrected


def _suggested(
    points: Float32Array,
    steps: Float64Array,
    covariances: Float64Array,
    found: BoolArray,
    near: IntArray,
) -> tuple[Float64Array, Float64Array]:
    """Steps N×2 that are affine in the place, fitted to those of the nearest points.

    Their variance N, pixels², is by how much such steps miss the neighbours' own: it is large where
    the scene's depth changes, and where something else moves.
    """
    variance = np.linalg.eigvalsh(covariances)[:, 1]
    weights = np.where(found, 1.0 / (variance + _NEIGHBOUR_NOISE**2), _HARDLY)[near]
    offsets = points[near].astype(np.float64) - points[:, None]
    distance = np.linalg.norm(offsets, axis=2).mean(1)
    terms = np.concatenate(
        [np.ones_like(offsets[..., :1]), offsets / np.maximum(distance, 1.0)[:, None, None]], axis=2
    )
    weighted = (terms * weights[..., None]).transpose(0, 2, 1)
    total = weights.sum(1)
    stiffness = total[:, None, None] * np.diag([0.0, _STIFF, _STIFF])
    suggested = np.linalg.solve(weighted @ terms + stiffness, weighted @ steps[near])[:, 0]
    missed = ((suggested - steps) ** 2).mean(1)
    missed = (weights * missed[near]).sum(1) / total
    farther = np.maximum(distance / np.maximum(distance[near].mean(1), 1.0), 1.0)
    return suggested, missed * farther**2 + _LEAST_MISSED**2


def _patches(
    image: UInt8Array, points: Float32Array, scales: Float64Array | None = None
) -> Float32Array:
    """N×P×P around the points, edges replicated; scales: N, pixels of the image for each."""
    offsets = np.tile(np.arange(-_PATCH, _PATCH + 1, dtype=np.float32), (len(points), 1))
    if scales is not None:
        offsets *= scales.astype(np.float32)[:, None]
    size = offsets.shape[1]
    x = np.broadcast_to((points[:, :1] + offsets)[:, None], (len(points), size, size))
    y = np.broadcast_to((points[:, 1:] + offsets)[:, :, None], x.shape)
    if len(points) == 0:
        return np.zeros((0, size, size), np.float32)
    flat = (len(points), -1)
    samples = cv2.remap(
        image, x.reshape(flat), y.reshape(flat), cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    return np.asarray(samples, np.float32).reshape(x.shape)


def _compare(first: Float32Array, second: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Mean squared difference N of patches but for their brightness, and their correlation N.

    The correlation is 0 where a patch has no contrast.
    """
    a, b = (p - p.mean((1, 2), keepdims=True) for p in (first, second))
    aa, bb, ab = (np.einsum("nij,nij->n", p, q) for p, q in ((a, a), (b, b), (a, b)))
    residual = np.maximum(aa + bb - 2 * ab, 0.0) / (first.shape[1] * first.shape[2])
    return residual, ab / np.maximum(np.sqrt(aa * bb), 1.0)
