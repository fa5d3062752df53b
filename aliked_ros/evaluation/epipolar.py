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

"""Matches and tracks against a sequence's epipolar geometry (``aliked_ros evaluate epipolar``).

Matches are checked against two geometries. One comes from true poses and the calibration; it is as
accurate as the motion capture and its clock, and needs ground truth. The other is the consensus of
all methods, estimated from their pooled matches, up to 300 for each kind of features. Tracks are
checked against the consensus, because over many images motion-capture errors of a few pixels would
end them, long ones first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from aliked_ros.camera import CameraModel
from aliked_ros.errors import SourceError
from aliked_ros.evaluation.ledger import Row, Unit
from aliked_ros.evaluation.methods import Method, Pairs, View
from aliked_ros.evaluation.poses import has_truth, true_poses
from aliked_ros.evaluation.result_table import Metric, ResultTable
from aliked_ros.evaluation.run import Run, described
from aliked_ros.odometry.geometry import Transform
from aliked_ros.sources import open_source
from aliked_ros.types import Float32Array, Float64Array, FrameResult, Image

_CORRECT = 3.0  # pixels from the epipolar line
_COLUMNS, _ROWS = 8, 6  # cells of the image, for coverage
_LEAST_BASELINE = 1e-3  # metres; cameras closer than this have no epipolar geometry
_POOLED = 300  # most matches of each kind of features in the consensus
_POOLED_THRESHOLD = 1.0  # pixels
_POOLED_LEAST = 0.2  # least share of inliers among pooled matches
_FLAT = 0.9  # share of epipolar inliers on one homography: flat scene or pure rotation
_ITERATIONS, _CONFIDENCE = 5000, 0.9999
_AGES = (2, 10, 30)  # images
_LONGEST_BREAK = 60  # images for which a track may be lost
_BLOCKS = 10  # block length of the bootstrap, images

PAIR_METRICS = (
    Metric("keypoints", "keypoints", better="", digits=0),
    Metric("matches", "matches", better="", digits=0),
    Metric("correct", "correct at 3 px", digits=0),
    Metric("precision_1", "precision at 1 px", percent=True),
    Metric("precision_3", "precision at 3 px", percent=True),
    Metric("coverage", "coverage", percent=True),
    Metric("true_precision_1", "at 1 px of true poses", percent=True),
    Metric("true_precision_3", "at 3 px of true poses", percent=True),
)
TRACK_METRICS = (
    Metric("right", "correct, of continued tracks", percent=True),
    *(Metric(f"tracked_{n}", f"points tracked over {n} images or more", digits=0) for n in _AGES),
    Metric("age", "mean age of tracked points, images"),
)
TRACK_REMARKS = (
    "Units are images. At equal precision: a track counts from its first observation, or from the "
    "last one more than 3 px off the consensus geometry with an earlier one. Mean age: over "
    "points in their second image or later.",
)


@dataclass(frozen=True, slots=True)
class Geometry:
    """The geometry of two images; points in undistorted pixels.

    matrix: 3×3, x2ᵀ·F·x1 = 0 (fundamental matrix), or with ``flat`` x2 ~ H·x1 (homography).
    """

    matrix: Float64Array
    flat: bool = False

    def errors(self, first: NDArray[Any], second: NDArray[Any]) -> Float64Array:
        """K errors in pixels of correspondences (K×2, K×2), the larger of both images."""
        forth = _homogeneous(first) @ self.matrix.T
        if self.flat:
            back = _homogeneous(second) @ np.linalg.inv(self.matrix).T
            return np.maximum(  # type: ignore[no-any-return]
                np.linalg.norm(forth[:, :2] / forth[:, 2:] - second, axis=1),
                np.linalg.norm(back[:, :2] / back[:, 2:] - first, axis=1),
            )
        back = _homogeneous(second) @ self.matrix
        residual = np.abs((_homogeneous(second) * forth).sum(1))
        lengths = np.minimum(
            np.linalg.norm(forth[:, :2], axis=1), np.linalg.norm(back[:, :2], axis=1)
        )
        return np.asarray(residual / np.maximum(lengths, 1e-12))


Geometries = Mapping[tuple[int, int], Geometry]
"""Geometries by pair of image numbers, the earlier first."""


class Lens:
    """Pixels of an ideal pinhole with the camera's focal length and centre (0, 0)."""

    def __init__(self, camera: CameraModel | None) -> None:
        """Without a camera, pixels stay unchanged."""
        self._camera = camera
        self.focal = (
            1.0 if camera is None else float(np.sqrt(camera.matrix[0, 0] * camera.matrix[1, 1]))
        )

    def __call__(self, keypoints: Float32Array) -> Float64Array:
        """N×2 pixels → N×2; NaN outside the lens model's range."""
        if self._camera is None:
            return keypoints.astype(np.float64)
        return self._camera.normalize(keypoints).astype(np.float64) * self.focal


def evaluate_epipolar(
    run: Run,
    gaps: Sequence[int] = (1, 5, 10),
    first: int = 0,
) -> tuple[ResultTable, ResultTable]:
    """Evaluate pairs of images ``gaps`` apart, and the tracks through the whole sequence.

    Returns a table of the pairs and one of the tracks, whose rows are images.
    first: number of the first image; the limit counts from there.
    Raises SourceError for a source that cannot be read, is too short for the gaps, or has true
    poses but no calibration; ConfigurationError, OutputError.
    """
    gaps = sorted({1, *gaps})  # tracks are always checked from image to image
    limit = None if run.limit is None else first + run.limit
    opened = open_source(run.data, limit, mask=run.mask)
    images = list(opened)[first:]
    if len(images) <= max(gaps):
        began = f" from number {first} on" if first else ""
        raise SourceError(
            f"{opened.name} gave {len(images)} images{began}; the largest gap is {max(gaps)}: "
            "choose smaller ones with --gap."
        )
    truth = has_truth(run.data)
    if truth and opened.calibration is None:
        raise SourceError(
            f"{run.data} has true poses but no calibration; put a calib.json there "
            "(width, height, fx, fy, cx, cy, distortion_model, distortion)."
        )
    camera = (
        None if opened.calibration is None else CameraModel.from_calibration(opened.calibration)
    )
    lens = Lens(camera)
    question = run.question(
        "epipolar",
        methods=list(run.methods),
        gaps=gaps,
        first=first,
        images=len(images),
        true_poses=truth,
    )
    with run.open(question) as (ledger, methods):
        views = _Views(images, methods, max(gaps))
        poses = true_poses(run.data, [image.stamp for image in images]) if truth else None
        pairs = [(j - gap, j) for j in range(len(images)) for gap in gaps if j >= gap]
        units = [
            Unit(f"pair {i}-{j}", partial(_measure_pair, views, lens, poses, i, j))
            for i, j in pairs
        ]
        rows = ledger.measure(units, partial(run.report, "pairs"))
        known = {
            (row["pair"][0], row["pair"][1]): Geometry(
                np.reshape(row["matrix"], (3, 3)), row["flat"]
            )
            for row in rows
            if not row["method"]
        }
        track_rows = ledger.measure(
            [
                Unit(
                    f"tracks {method.name}", partial(_measure_tracks, images, method, camera, known)
                )
                for method in methods
            ],
            partial(run.report, "tracks"),
        )
        facts = described(question, methods)
    method_rows = [row for row in rows if row["method"]]
    metrics = [m for m in PAIR_METRICS if truth or not m.key.startswith("true")]
    pair_table = ResultTable(
        facts,
        method_rows,
        metrics,
        run.methods,
        ("gap",),
        _BLOCKS,
        _pair_remarks(truth),
        whole_blocks=_BLOCKS * len(gaps),
    )
    track_table = ResultTable(
        facts, track_rows, TRACK_METRICS, run.methods, (), _BLOCKS, TRACK_REMARKS
    )
    pair_table.write(run.output, "pairs")
    track_table.write(run.output, "tracks")
    return pair_table, track_table


class _Views:
    """Views of the images by all methods; keeps the last few."""

    def __init__(
        self, images: Sequence[Image], methods: Sequence[Method], largest_gap: int
    ) -> None:
        self.methods = methods
        self.images = images
        self._kept: dict[int, list[View]] = {}
        self._largest_gap = largest_gap

    def __getitem__(self, index: int) -> list[View]:
        if index not in self._kept:
            for old in [k for k in self._kept if abs(k - index) > self._largest_gap]:
                del self._kept[old]
            image = self.images[index]
            self._kept[index] = [method.view(image.pixels, image.mask) for method in self.methods]
        return self._kept[index]


def _measure_pair(
    views: _Views, lens: Lens, poses: Sequence[Transform | None] | None, i: int, j: int
) -> list[Row]:
    """One row per method, and one with the consensus; none without consensus."""
    before, now = views[i], views[j]
    found = [method.match(a, b) for method, a, b in zip(views.methods, before, now, strict=True)]
    points = [(lens(pairs.first), lens(pairs.second)) for pairs in found]
    geometry = consensus(points, [view.features.model for view in now])
    if geometry is None:
        return []
    truth = None if poses is None else true_geometry(poses[i], poses[j], lens.focal)
    matrix = geometry.matrix.ravel().tolist()
    rows: list[Row] = [{"method": "", "pair": [i, j], "matrix": matrix, "flat": geometry.flat}]
    shape = views.images[j].pixels.shape
    for method, view, pairs, (first, second) in zip(views.methods, now, found, points, strict=True):
        errors = geometry.errors(first, second)
        right = errors <= _CORRECT
        true_errors = None if truth is None else truth.errors(first, second)
        rows.append(
            {
                "unit": f"{i}-{j}",
                "method": method.name,
                "gap": j - i,
                "keypoints": len(view.features),
                "matches": len(pairs),
                "correct": int(right.sum()),
                "precision_1": _share(errors <= 1.0),
                "precision_3": _share(right),
                "coverage": coverage(pairs, right, shape),
                "true_precision_1": None if true_errors is None else _share(true_errors <= 1.0),
                "true_precision_3": None
                if true_errors is None
                else _share(true_errors <= _CORRECT),
            }
        )
    return rows


def true_geometry(
    first: Transform | None, second: Transform | None, focal: float
) -> Geometry | None:
    """From two poses (world_from_camera); None if one is unknown, or they coincide."""
    if first is None or second is None:
        return None
    motion = second.inverse() @ first  # second camera from first camera
    if np.linalg.norm(motion.translation) < _LEAST_BASELINE:
        return None
    x, y, z = motion.translation
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    to_rays = np.diag([1.0 / focal, 1.0 / focal, 1.0])
    return Geometry(to_rays @ cross @ motion.rotation @ to_rays)


def consensus(
    points: Sequence[tuple[Float64Array, Float64Array]], kinds: Sequence[str]
) -> Geometry | None:
    """The geometry that all methods' matches agree on; None if there is none.

    points: for each method, K×2 in both images. kinds: each method's kind of features; up to 300
    matches of each kind count, however many methods use it.
    """
    rng = np.random.default_rng(0)
    pools = [
        np.concatenate([np.hstack(p) for p, kind in zip(points, kinds, strict=True) if kind == one])
        for one in dict.fromkeys(kinds)
    ]
    pooled = np.concatenate([pool[rng.permutation(len(pool))[:_POOLED]] for pool in pools])
    first, second = pooled[:, :2], pooled[:, 2:]
    known = np.isfinite(first).all(1) & np.isfinite(second).all(1)
    first, second = first[known], second[known]
    settings = (cv2.USAC_MAGSAC, _POOLED_THRESHOLD)
    try:
        general, inside = cv2.findFundamentalMat(first, second, *settings, _CONFIDENCE, _ITERATIONS)
        flat, on_plane = cv2.findHomography(
            first, second, *settings, None, _ITERATIONS, _CONFIDENCE
        )
    except cv2.error:
        return None
    inliers = 0 if inside is None or general is None else int(inside.sum())
    coplanar = 0 if on_plane is None or flat is None else int(on_plane.sum())
    if max(inliers, coplanar) < _POOLED_LEAST * len(first):
        return None
    if flat is not None and coplanar >= _FLAT * inliers:
        return Geometry(np.array(flat, np.float64), flat=True)
    return None if general is None else Geometry(np.array(general[:3], np.float64))


def coverage(pairs: Pairs, right: NDArray[np.bool_], shape: tuple[int, ...]) -> float:
    """Share of 8×6 cells of the second image (of ``shape``) with a correct match."""
    height, width = shape[:2]
    cells = (pairs.second[right] + 0.5) / (width, height) * (_COLUMNS, _ROWS)
    columns, rows = np.clip(cells.astype(int), 0, (_COLUMNS - 1, _ROWS - 1)).T
    return len(np.unique(rows * _COLUMNS + columns)) / (_COLUMNS * _ROWS)


def _measure_tracks(
    images: Sequence[Image], method: Method, camera: CameraModel | None, known: Geometries
) -> list[Row]:
    """One row per image: the tracks of a method's front-end, as far as they are correct."""
    frontend = method.frontend()
    frontend.camera = camera
    results = (frontend.process(Image(image.pixels, image.stamp, image.mask)) for image in images)
    return [
        {"unit": f"image {index}", "method": method.name, **figures}
        for index, figures in enumerate(check_tracks(results, Lens(camera), known))
    ]


def check_tracks(results: Iterable[FrameResult], lens: Lens, known: Geometries) -> Iterator[Row]:
    """Figures of the tracks in each image; a wrong track restarts.

    A track is wrong if it lies more than 3 px off a ``known`` geometry with an earlier image in
    which it was seen since its start.
    """
    frames: list[_Observed] = []
    for now, result in enumerate(results):
        order = np.argsort(result.tracks.ids)
        ids, points = result.tracks.ids[order], lens(result.features.keypoints[order])
        begun, ages = np.full(len(ids), now), np.ones(len(ids), int)
        for before in reversed(frames):  # the last observation of each continued track
            unknown = np.flatnonzero(ages == 1)
            _, here, there = np.intersect1d(ids[unknown], before.ids, return_indices=True)
            begun[unknown[here]] = before.begun[there]
            ages[unknown[here]] = before.ages[there] + 1
            if before.index < now - _LONGEST_BREAK:
                break
        checked, wrong = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
        for before in frames:
            geometry = known.get((before.index, now))
            if geometry is None:
                continue
            _, here, there = np.intersect1d(ids, before.ids, return_indices=True)
            since = before.index >= begun[here]
            here, there = here[since], there[since]
            errors = geometry.errors(before.points[there], points[here])
            checked[here] = True
            wrong[here] |= ~(errors <= _CORRECT)
        begun[wrong], ages[wrong] = now, 1
        frames.append(_Observed(now, ids, points, begun, ages))
        followed = ages[ages > 1]
        yield {
            "right": 1.0 - float(wrong.sum() / checked.sum()) if checked.any() else None,
            "age": float(followed.mean()) if len(followed) else None,
            **{f"tracked_{least}": int((ages >= least).sum()) for least in _AGES},
            "ages": np.bincount(ages, minlength=1).tolist() if len(ages) else [],
        }


@dataclass(frozen=True, slots=True)
class _Observed:
    """An image's tracks by ascending id: undistorted points, first image, age in images."""

    index: int
    ids: NDArray[np.uint64]
    points: Float64Array
    begun: NDArray[np.int64]
    ages: NDArray[np.int64]


def _pair_remarks(truth: bool) -> list[str]:
    lines = [
        "Correct, precision, coverage: matches within these pixels of the consensus geometry of "
        "all methods, undistorted. Coverage: share of 8×6 cells with a correct match."
    ]
    if truth:
        lines.append("Of true poses: the ground truth's epipolar lines, including their own error.")
    else:
        lines.append("There is no ground truth.")
    return lines


def survival(table: ResultTable, method: str) -> Float64Array:
    """Mean number of points per image correctly tracked over at least n images, by n."""
    counts = [row["ages"] for row in table.rows if row["method"] == method]
    longest = max((len(one) for one in counts), default=0)
    total = np.zeros(longest)
    for one in counts:
        total[: len(one)] += one
    return np.asarray(total[::-1].cumsum()[::-1] / max(len(counts), 1))


def _homogeneous(points: NDArray[Any]) -> Float64Array:
    return np.hstack([np.asarray(points, np.float64), np.ones((len(points), 1))])


def _share(which: NDArray[np.bool_]) -> float:
    return float(which.mean()) if len(which) else 0.0
