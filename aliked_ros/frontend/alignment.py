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


"""Gyroscope and camera: their rotation and time offset, and whether they agree at all.

The rotations between images some tenths of a second apart, by their essential matrices, are
compared with what the gyroscope measured meanwhile. Both are vectors about an axis; the rotation
between camera and IMU turns the ones into the others.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from aliked_ros.camera import CameraModel
from aliked_ros.frontend.gyroscope import LONGEST_GAP, Gyroscope
from aliked_ros.frontend.keyframes import shared_rows
from aliked_ros.types import Float64Array, FrameResult

_SHORTEST, _LONGEST = 0.08, 1.0  # seconds between two images that are compared
_LEAST_SHARED = 30  # tracks in both
_MOST = 200  # of them that are used
_THRESHOLD = 1.5  # pixels from the epipolar line
_WINDOW = 150  # comparisons that are remembered
_ENOUGH = 20  # comparisons that say something
_EVERY = 5  # comparisons from one conclusion to the next
_EVERY_SETTLED = 50  # the same once they agree: a search takes 30 ms
_LEAST_TURN = np.radians(1.0)  # root mean square of the rotations that say something
_WORST = 0.2  # of the comparisons, left out: essential matrices are sometimes wrong
_AGREE, _DISAGREE = 0.9, 0.7  # correlation of the rotations
_MIRRORED = 0.25  # of what right-handed axes leave unexplained: left-handed ones leave less
_FURTHEST = 0.25  # seconds of offset that are tried, to either side
_STEP = 0.005  # seconds
_SURE_ROTATION = np.radians(3.0)  # standard deviations at which an estimate is used
_SURE_OFFSET = 0.004  # seconds
_ANOTHER_ROTATION = np.radians(15.0)  # from the one that was given: it is wrong
_SCALE = 1.25  # or its inverse: rates in another unit
_DEGREES = (40.0, 80.0)  # scales taken for degrees per second
_OTHER_CLOCK = 1.0  # seconds between the stamps of images and samples that come together


@dataclass(frozen=True, slots=True)
class GyroscopeMounting:
    """How a gyroscope is mounted to a camera.

    rotation: 3×3, camera_from_imu: of directions, from the IMU's axes to the optical frame.
    offset: seconds; the stamp of an image plus this is the IMU's stamp of the same moment.
    """

    rotation: Float64Array
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Fit:
    """The mounting that explains the rotations best.

    correlation: of the rotations, 1 = all is explained; with the given mounting: ``given``.
    mirrored: the same if the IMU's axes may be left-handed. scale: the gyroscope's rotations are
    so many times too large. rotation_deviation, offset_deviation: standard deviations, rad about
    the axis known least and seconds.
    """

    mounting: GyroscopeMounting
    correlation: float
    given: float
    mirrored: float
    scale: float
    rotation_deviation: float
    offset_deviation: float


class Alignment:
    """The mounting of a gyroscope: as given, else estimated; and what is wrong with it.

    given_rotation, given_offset: None = to be estimated. problem: why the gyroscope is not used
    though it measures, a sentence, "" = it is used or nothing is known yet. news: what was
    estimated since it was taken away, a sentence, "" = nothing. fit: the latest, None = none yet.
    """

    def __init__(
        self, given_rotation: Float64Array | None = None, given_offset: float | None = None
    ) -> None:
        self.given_rotation, self.given_offset = given_rotation, given_offset
        self.problem = self.news = self._agreement = ""
        self.fit: Fit | None = None
        self._estimated: GyroscopeMounting | None = None
        self._reported: GyroscopeMounting | None = None
        self._anchor: FrameResult | None = None
        self._begins: deque[float] = deque(maxlen=_WINDOW)
        self._ends: deque[float] = deque(maxlen=_WINDOW)
        self._turns: deque[Float64Array] = deque(maxlen=_WINDOW)
        self._new = 0

    @property
    def offset(self) -> float:
        """Seconds, as in ``GyroscopeMounting``: given, estimated, or 0."""
        if self.given_offset is not None:
            return self.given_offset
        return 0.0 if self._estimated is None else self._estimated.offset

    @property
    def mounting(self) -> GyroscopeMounting | None:
        """What predictions use; None = not known yet, or not to be used."""
        if self.problem:
            return None
        if self.given_rotation is not None:
            return GyroscopeMounting(self.given_rotation, self.offset)
        return self._estimated

    @property
    def verdict(self) -> str:
        """What is known so far, a sentence."""
        unknown = "The camera has not turned enough to compare the gyroscope with the images."
        return self.problem or self._agreement or unknown

    def compare(self, result: FrameResult, camera: CameraModel, gyroscope: Gyroscope) -> None:
        """Take an image's tracks, and conclude from time to time."""
        anchor = self._anchor
        passed = np.inf if anchor is None else result.stamp - anchor.stamp
        if 0.0 <= passed < _SHORTEST:
            return
        self._anchor = result
        if anchor is None or not 0.0 < passed <= _LONGEST:
            return
        if anchor.tracks.epoch != result.tracks.epoch:  # ids have restarted
            return
        turned = _image_rotation(anchor, result, camera)
        if turned is None:
            return
        self._begins.append(anchor.stamp)
        self._ends.append(result.stamp)
        self._turns.append(turned)
        self._new += 1
        settled = self._estimated is not None and not self.problem
        if self._new >= (_EVERY_SETTLED if settled else _EVERY) and len(self._turns) >= _ENOUGH:
            self._new = 0
            self._conclude(gyroscope)

    def _conclude(self, gyroscope: Gyroscope) -> None:
        begins, ends = np.array(self._begins), np.array(self._ends)
        fit = fitted(begins, ends, np.array(self._turns), gyroscope, self)
        if fit is None:
            return
        self.fit = fit
        self.problem = _problem(fit, self.given_rotation, self.given_offset)
        sure = fit.rotation_deviation < _SURE_ROTATION or self.given_rotation is not None
        sure = sure and (fit.offset_deviation < _SURE_OFFSET or self.given_offset is not None)
        if sure and not self.problem and fit.correlation > _AGREE:
            self._estimated = fit.mounting
            self._report(fit)

    def _report(self, fit: Fit) -> None:
        """Say what was estimated, at first and when it has changed much."""
        last, now = self._reported, fit.mounting
        if last is not None:
            angle = Rotation.from_matrix(last.rotation.T @ now.rotation).magnitude()
            if angle < _ANOTHER_ROTATION and abs(last.offset - now.offset) < 3 * _SURE_OFFSET:
                return
        self._reported = now
        x, y, z, w = Rotation.from_matrix(now.rotation).as_quat()
        self.news = self._agreement = (
            f"Gyroscope and images agree (correlation {fit.correlation:.2f}). Rotation camera from "
            f"IMU: {x:.4f},{y:.4f},{z:.4f},{w:.4f} (x,y,z,w; ±"
            f"{np.degrees(fit.rotation_deviation):.1f}°). Image stamp {1e3 * now.offset:+.1f} ms "
            f"(±{1e3 * fit.offset_deviation:.1f}) = IMU stamp."
        )


def fitted(
    begins: Float64Array,
    ends: Float64Array,
    turns: Float64Array,
    gyroscope: Gyroscope,
    given: Alignment,
) -> Fit | None:
    """The mounting for N rotations of the camera; None where too little is known.

    begins, ends: N image stamps. turns: N×3, rad, of the camera about its own axes meanwhile.
    """
    around = 1.0 + max(_FURTHEST, abs(given.offset))
    stamps, rates = gyroscope.samples(float(begins.min()) - around, float(ends.max()) + around)
    if len(stamps) < 2:
        return None
    gaps = np.diff(stamps)
    steps = (rates[1:] + rates[:-1]) / 2 * gaps[:, None]
    steps[gaps > LONGEST_GAP] = np.nan  # whatever reaches across
    swept = np.vstack([np.zeros(3), np.nancumsum(steps, axis=0)])
    holes = np.concatenate([[0], np.cumsum(gaps > LONGEST_GAP)]).astype(np.float64)

    def measured(offset: float) -> Float64Array:
        """N×3, what the gyroscope measured; NaN = nothing."""
        first, last = begins + offset, ends + offset
        found = np.stack(
            [np.interp(last, stamps, c) - np.interp(first, stamps, c) for c in swept.T], axis=1
        )
        open_ = np.interp(last, stamps, holes) != np.interp(first, stamps, holes)
        found[open_ | (first < stamps[0]) | (last > stamps[-1] + LONGEST_GAP)] = np.nan
        return found

    offsets = np.arange(-_FURTHEST, _FURTHEST + _STEP / 2, _STEP)
    if given.given_offset is not None:
        offsets = np.array([given.given_offset])
    tried = [_Rotations.of(measured(offset), turns) for offset in offsets]
    scores = np.array([-1.0 if one is None else one.correlation for one in tried])
    best = int(scores.argmax())
    found = tried[best]
    if found is None:
        return None
    offset, offset_deviation = float(offsets[best]), np.inf
    if len(offsets) == 1:
        offset_deviation = 0.0
    elif 0 < best < len(offsets) - 1:
        below, here, above = (1.0 - s**2 for s in scores[best - 1 : best + 2])
        bend = below - 2 * here + above
        if bend > 0.0:
            offset += _STEP * (below - above) / (2 * bend)
            noise = here / (3 * found.count)
            offset_deviation = _STEP * float(np.sqrt(2 * noise / bend))
    agreement = found.correlation
    if given.given_rotation is not None:
        agreement = found.correlation_of(given.given_rotation)
    return Fit(
        GyroscopeMounting(found.rotation, offset), found.correlation, agreement, found.mirrored,
        found.scale, found.deviation, offset_deviation,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Rotations:
    """The rotation 3×3 that turns vectors N×3 into others, found by least squares (Kabsch)."""

    gyroscope: Float64Array
    camera: Float64Array
    rotation: Float64Array
    correlation: float
    mirrored: float
    scale: float
    deviation: float

    @classmethod
    def of(cls, gyroscope: Float64Array, camera: Float64Array) -> _Rotations | None:
        """None where too few are known, or they hardly turn. The worst are left out."""
        known = np.isfinite(gyroscope).all(1)
        gyroscope, camera = gyroscope[known], camera[known]
        if len(camera) < _ENOUGH or np.sqrt((camera**2).sum(1).mean()) < _LEAST_TURN:
            return None
        found = cls._fit(gyroscope, camera)
        if found is None:
            return None
        off = np.linalg.norm(camera * found.scale - gyroscope @ found.rotation.T, axis=1)
        kept = np.argsort(off)[: round((1 - _WORST) * len(off))]
        return cls._fit(gyroscope[kept], camera[kept])

    @classmethod
    def _fit(cls, gyroscope: Float64Array, camera: Float64Array) -> _Rotations | None:
        left, singular, right = np.linalg.svd(camera.T @ gyroscope)
        size = (gyroscope**2).sum(), (camera**2).sum()
        norm = float(np.sqrt(size[0] * size[1]))
        if norm < 1e-12:
            return None
        sign = float(np.sign(np.linalg.det(left @ right)))
        common = singular[0] + singular[1] + sign * singular[2]
        rotation = left * (1.0, 1.0, sign) @ right
        correlation = float(common / norm)
        noise = (1.0 - correlation**2) / (3 * len(camera))  # of the sum of the squares
        spread = np.linalg.eigvalsh(camera.T @ camera) / size[1]
        deviation = float(np.sqrt(noise / max(spread[0] + spread[1], 1e-9)))
        mirrored = float(singular.sum() / norm) if sign < 0 else -1.0
        scale = float(size[0] / max(common, 1e-12))
        return cls(gyroscope, camera, rotation, correlation, mirrored, scale, deviation)

    @property
    def count(self) -> int:
        return len(self.camera)

    def correlation_of(self, rotation: Float64Array) -> float:
        """What ``correlation`` is with another rotation."""
        turned = self.gyroscope @ rotation.T
        norm = np.sqrt((turned**2).sum() * (self.camera**2).sum())
        return float((turned * self.camera).sum() / norm)


def _problem(fit: Fit, rotation: Float64Array | None, offset: float | None) -> str:
    """What is wrong, a sentence; "" = nothing, as far as can be told."""
    unused = "Features are predicted without it."
    agrees = fit.correlation > _AGREE
    left_over = 1.0 - fit.mirrored**2 < _MIRRORED * (1.0 - fit.correlation**2)
    if fit.mirrored > _AGREE and left_over:
        return (
            "The gyroscope's axes are left-handed: with one of them reversed, or two swapped, its "
            f"rotations are those of the images. Correct the IMU's driver. {unused}"
        )
    if not agrees:
        if fit.correlation > _DISAGREE:
            return ""  # undecided
        when = f" at an offset of {offset:g} s" if offset is not None else ""
        return (
            f"The gyroscope's rotations do not agree with those of the images{when} (correlation "
            f"{fit.correlation:.2f}). Check that it is fixed to this camera, the unit of its rates "
            f"(rad/s), and that its stamps are within {_FURTHEST:g} s of the images'. {unused}"
        )
    if _DEGREES[0] < fit.scale < _DEGREES[1]:
        return (
            f"The gyroscope's rotations are {fit.scale:.0f} times those of the images: its rates "
            f"are in degrees per second. Publish rad/s (REP-103). {unused}"
        )
    if not 1 / _SCALE < fit.scale < _SCALE:
        return (
            f"The gyroscope's rotations are {fit.scale:.2g} times those of the images. Check the "
            f"unit of its rates (rad/s), and the camera's calibration. {unused}"
        )
    if rotation is not None:
        angle = Rotation.from_matrix(rotation.T @ fit.mounting.rotation).magnitude()
        another = angle > _ANOTHER_ROTATION and fit.rotation_deviation < _SURE_ROTATION
        if another or fit.given < _DISAGREE:
            x, y, z, w = Rotation.from_matrix(fit.mounting.rotation).as_quat()
            return (
                f"The rotation between camera and IMU is wrong by {np.degrees(angle):.0f}°. By the "
                f"images it is {x:.3f},{y:.3f},{z:.3f},{w:.3f} (camera from IMU; x,y,z,w): correct "
                f"tf or imu_rotation, or set neither to have it estimated. {unused}"
            )
    return ""


def _image_rotation(
    before: FrameResult, now: FrameResult, camera: CameraModel
) -> Float64Array | None:
    """The camera's rotation about its own axes between two images: 3, rad; None = not known."""
    rows, then = shared_rows(now.tracks.static_ids, before.tracks.static_ids)
    if now.normalized is None or before.normalized is None or len(rows) < _LEAST_SHARED:
        return None
    focal = float(np.sqrt(camera.matrix[0, 0] * camera.matrix[1, 1]))
    rays = [r.astype(np.float64) for r in (before.normalized[then], now.normalized[rows])]
    known = np.isfinite(rays[0]).all(1) & np.isfinite(rays[1]).all(1)
    some = np.flatnonzero(known)[:: 1 + np.count_nonzero(known) // _MOST]
    if len(some) < _LEAST_SHARED:
        return None
    first, second = (r[some] * focal for r in rays)
    matrix = np.diag([focal, focal, 1.0])
    try:
        essential, inliers = cv2.findEssentialMat(
            first, second, matrix, cv2.USAC_MAGSAC, 0.999, _THRESHOLD
        )
    except cv2.error:  # a degenerate set of points
        return None
    if essential is None or inliers is None or np.count_nonzero(inliers) < len(some) / 2:
        return None
    candidates = cv2.decomposeEssentialMat(np.asarray(essential)[:3])[:2]
    turns = [Rotation.from_matrix(one) for one in candidates]
    turn = min(turns, key=lambda one: float(one.magnitude()))  # the other is about half a turn off
    return -np.asarray(turn.as_rotvec())  # the scene turns the other way
