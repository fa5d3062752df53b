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

"""COLMAP databases: cameras, images, keypoints, descriptors, matches, verified geometries.

Needs pycolmap. The database is ready for ``pycolmap.
incremental_mapping`` with :func:`mapping_options`. Images are matched by
shared tracks, so that not only consecutive images are matched.

:func:`export_colmap` writes it from a recording; :class:`DatabaseWriter` and :func:`verify_pairs`
do the same from a front-end's results.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray
from scipy.sparse import csr_array, triu

from aliked_ros.camera import CameraModel
from aliked_ros.errors import OutputError
from aliked_ros.exporting.recording import RecordedFrame, RecordedMatches, RecordingReader
from aliked_ros.io.results import output_path
from aliked_ros.lenses import LENSES
from aliked_ros.types import BoolArray, UInt64Array

logger = logging.getLogger(__name__)

DATABASE, IMAGES = "database.db", "images"
MIN_SHARED = 15
"""Least shared tracks of a matched pair; COLMAP needs as many inliers."""
SPAN = 30
"""Largest distance of two matched images, in exported images; bounds the work for long runs."""

# COLMAP has no name for aliked-n16; its descriptors are of the same kind as those of N16ROT (128
# floats, matched by the same LightGlue). It has none with 64 dimensions: those of T16 are omitted.
_DESCRIPTOR_TYPES = {
    "aliked-n16": pycolmap.FeatureExtractorType.ALIKED_N16ROT,
    "aliked-n16rot": pycolmap.FeatureExtractorType.ALIKED_N16ROT,
    "aliked-n32": pycolmap.FeatureExtractorType.ALIKED_N32,
}
_CENTRE = 0.5  # COLMAP's origin is the corner of the top-left pixel, ours its centre
_LENSES = {
    "equidistant": ("OPENCV_FISHEYE", 4),
    "eucm": ("EUCM", 2),
    "thin_prism_fisheye": ("THIN_PRISM_FISHEYE", 8),
}  # COLMAP's name, and how many coefficients it has
_BLOCK = 500  # pairs verified between two progress reports

Report = Callable[[str, float], None]


def export_colmap(
    recording: RecordingReader, folder: Path, every: int = 1, report: Report = lambda *_: None
) -> dict[str, Any]:
    """Write ``database.db`` and, if images were recorded, ``images/``; returns the figures.

    folder: new or empty. every: export one in ``every`` images. report: called with a stage's name
    and its progress, 0 to 1.

    Images are named by stamp, ``SECONDS.NANOSECONDS.jpg`` or ``.png``. Of several with the same
    stamp (a data set played in a loop) only the first is exported. Raises SourceError for a
    recording without features, OutputError if the folder is not empty or cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputError(f"cannot write {folder}: it is not empty; choose another folder.")
    try:
        with output_path(folder) as made:
            return _export(recording, made, every, report)
    except RuntimeError as error:  # pycolmap's, for a database that cannot be written
        raise OutputError(f"cannot write {folder}: {error}") from error


def _export(recording: RecordingReader, folder: Path, every: int, report: Report) -> dict[str, Any]:
    (folder / IMAGES).mkdir(parents=True)
    with pycolmap.Database.open(folder / DATABASE) as database:
        image = next(recording.images(), None)
        suffix = ".png" if image is None else image.suffix
        writer = DatabaseWriter(database, recording.camera(), suffix)
        count = recording.frame_count()
        for index, frame in enumerate(recording.frames()):
            if index % every == 0:
                writer.add(frame)
            if frame.codes is not None and not index:
                logger.warning(
                    "%s has binary256 descriptors, which COLMAP does not know: the database has "
                    "none. Record with descriptor_encoding: float32.", recording.path,
                )  # fmt: skip
            report("features", (index + 1) / count)
        if writer.repeated:
            logger.warning(
                "%s: %d images repeat another one's stamp and are skipped: stamps pair images "
                "with features. Record with the front-end's parameter stamps: arrival.",
                recording.path, writer.repeated,
            )  # fmt: skip
        for one in recording.matches():
            writer.add_matches(one)
        pairs = writer.add_shared_tracks(report)
    verify_pairs(folder / DATABASE, pairs, report)
    images = _save_images(recording, writer, folder / IMAGES)
    with pycolmap.Database.open(folder / DATABASE) as database:
        return {
            "images": database.num_images(),
            "saved_images": images,
            "cameras": ", ".join(camera.model.name for camera in database.read_all_cameras()),
            "keypoints": database.num_keypoints(),
            "descriptors": database.num_descriptors(),
            "pairs": len(pairs),
            "verified_pairs": database.num_verified_image_pairs(),
            "matches": database.num_matches(),
            "inliers": database.num_inlier_matches(),
        }


def mapping_options(database: Path) -> pycolmap.IncrementalPipelineOptions:
    """Options of ``pycolmap.incremental_mapping`` for an exported database.

    Keeps calibrated cameras fixed, and accepts any distortion: by default COLMAP refuses cameras
    with a coefficient above 1, such as fr1 of the TUM data sets.
    """
    with pycolmap.Database.open(database) as opened:
        cameras = opened.read_all_cameras()
    options = pycolmap.IncrementalPipelineOptions()
    if all(camera.has_prior_focal_length for camera in cameras):
        options.ba_refine_focal_length = False
        options.ba_refine_extra_params = False
        options.max_extra_param = float("inf")
    return options


def colmap_camera(camera: CameraModel) -> pycolmap.Camera:
    """A camera model as COLMAP's, with the pixel origin moved."""
    matrix = camera.matrix
    focal_and_centre = [
        matrix[0, 0],
        matrix[1, 1],
        matrix[0, 2] + _CENTRE,
        matrix[1, 2] + _CENTRE,
    ]
    lens, coefficients = camera.distortion_model, camera.distortion
    wide, most = _LENSES.get(lens, ("", 0 if lens in LENSES else 8))
    if coefficients[most:].any():
        raise OutputError(
            f"COLMAP has no camera of model {lens} with the {len(coefficients)} coefficients "
            f"{coefficients.tolist()}; record rectified images, or calibrate with another model."
        )
    extra = np.zeros(most)
    extra[: len(coefficients[:most])] = coefficients[:most]
    if wide:
        model = wide
    elif not extra.any():
        model, extra = "PINHOLE", extra[:0]
    elif not extra[4:].any():
        model, extra = "OPENCV", extra[:4]
    else:
        model = "FULL_OPENCV"
    return pycolmap.Camera(
        model=model,
        width=camera.width,
        height=camera.height,
        params=[*focal_and_centre, *extra],
        has_prior_focal_length=True,
    )


def _guessed_camera(width: int, height: int) -> pycolmap.Camera:
    """A camera with only its image size known; the mapper estimates the rest."""
    model = pycolmap.CameraModelId.SIMPLE_RADIAL
    focal_length = 1.2 * max(width, height)  # COLMAP's own guess
    return pycolmap.Camera.create_from_model_id(0, model, focal_length, width, height)


class DatabaseWriter:
    """Fills a new database, and keeps what it needs to match images.

    repeated: number of images skipped because another one has their stamp.
    """

    def __init__(
        self,
        database: pycolmap.Database,
        camera: CameraModel | None,
        suffix: str = ".png",
        prefix: str = "",
    ) -> None:
        """Write into an open database.

        camera: for images of its size; for others the mapper estimates one. suffix, prefix: of
        the image files; a prefix that ends in ``/`` is their folder.
        """
        self._database = database
        self._camera = camera
        self._suffix = suffix
        self._prefix = prefix
        self._camera_ids: dict[tuple[int, int], int] = {}
        self._numbers: dict[int, int] = {}  # by stamp; COLMAP's image ids are one higher
        self._frames: dict[tuple[int, int], int] = {}  # the same, by stamp and index
        self.repeated = 0
        self._names: list[str] = []
        self._tracks: list[UInt64Array] = []  # per image, unique over all epochs
        self._rows: list[NDArray[np.intp]] = []  # and their keypoints
        self._pairs: set[tuple[int, int]] = set()  # matched pairs

    def add(self, frame: RecordedFrame) -> None:
        """Add image, keypoints and descriptors; skips an image whose stamp is there already."""
        if frame.stamp in self._numbers:
            self.repeated += 1
            return
        features, tracks = frame.features, frame.tracks
        seconds, nanoseconds = divmod(frame.stamp, 10**9)
        name = f"{self._prefix}{seconds}.{nanoseconds:09d}{self._suffix}"
        image = self._database.write_image(
            pycolmap.Image(name=name, camera_id=self._camera_id(features.width, features.height))
        )
        self._database.write_keypoints(image, features.keypoints + np.float32(_CENTRE))
        kind = _DESCRIPTOR_TYPES.get(features.model)
        if kind is not None and features.descriptors.size:
            data = np.ascontiguousarray(features.descriptors).view(np.uint8)
            self._database.write_descriptors(image, pycolmap.FeatureDescriptors(kind, data))
        self._numbers[frame.stamp] = self._frames[frame.stamp, frame.index] = len(self._names)
        self._names.append(name)
        rows = np.flatnonzero(tracks.static_ids)  # 0 = untracked
        epoch = np.uint64(tracks.epoch) << np.uint64(32)  # ids count from 1 in each epoch
        self._tracks.append(epoch + tracks.ids[rows])
        self._rows.append(rows)

    def add_matches(self, found: RecordedMatches, tracks: bool = False) -> None:
        """Add at least MIN_SHARED matches of two added images; ignored if they have matches.

        tracks: shared tracks match first, and matches join what they leave, but not two tracks
        that one image has side by side: they would make one point of two. All images have to be
        added before.
        """
        first, second = map(self._frames.get, (found.reference, found.image))
        if first is None or second is None or (first, second) in self._pairs:
            return
        rows = [
            found.matches.reference_indices.astype(np.intp),
            found.matches.current_indices.astype(np.intp),
        ]
        if tracks:
            shared = self._shared(first, second)
            free = ~np.isin(rows[0], shared[0]) & ~np.isin(rows[1], shared[1])
            free &= ~self._side_by_side(first, second, *rows)
            rows = [
                np.concatenate([one, more[free]]) for one, more in zip(shared, rows, strict=True)
            ]
        if len(rows[0]) >= MIN_SHARED:
            self._write(first, second, *rows)

    def add_shared_tracks(self, report: Report = lambda *_: None) -> list[tuple[str, str]]:
        """Match the remaining pairs by their shared tracks.

        Returns the names of all matched pairs.
        """
        pairs = sorted(_sharing(self._tracks) - self._pairs)
        for done, (first, second) in enumerate(pairs, 1):
            self._write(first, second, *self._shared(first, second))
            report("matches", done / len(pairs))
        return self.pairs

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Names of the matched images, pair by pair."""
        return [(self._names[first], self._names[second]) for first, second in sorted(self._pairs)]

    def name(self, stamp: int) -> str | None:
        """Name of the image with a stamp (nanoseconds); None if not added."""
        number = self._numbers.get(stamp)
        return None if number is None else self._names[number]

    def _camera_id(self, width: int, height: int) -> int:
        size = (width, height)
        if size not in self._camera_ids:
            if self._camera is not None and self._camera.fits(*size):
                camera = colmap_camera(self._camera)
            else:
                camera = _guessed_camera(*size)
            self._camera_ids[size] = self._database.write_camera(camera)
        return self._camera_ids[size]

    def _shared(self, first: int, second: int) -> list[NDArray[np.intp]]:
        """The keypoints of shared tracks in two images."""
        _, *found = np.intersect1d(self._tracks[first], self._tracks[second], return_indices=True)
        return [self._rows[image][rows] for image, rows in zip((first, second), found, strict=True)]

    @cached_property
    def _seen_in(self) -> dict[int | None, set[int]]:
        """Images by track."""
        seen: dict[int | None, set[int]] = {}
        for image, tracks in enumerate(self._tracks):
            for track in tracks.tolist():
                seen.setdefault(track, set()).add(image)
        return seen

    def _side_by_side(
        self, first: int, second: int, rows: NDArray[np.intp], others: NDArray[np.intp]
    ) -> BoolArray:
        """Which keypoints of two images have tracks that some image has both of; K each."""
        tracks, others_tracks = (
            dict(zip(self._rows[image].tolist(), self._tracks[image].tolist(), strict=True))
            for image in (first, second)
        )
        nowhere: set[int] = set()
        return np.array(
            [
                not self._seen_in.get(tracks.get(row), nowhere).isdisjoint(
                    self._seen_in.get(others_tracks.get(other), nowhere)
                )
                for row, other in zip(rows.tolist(), others.tolist(), strict=True)
            ],
            bool,
        )

    def _write(self, first: int, second: int, *indices: NDArray[np.intp]) -> None:
        matches = np.stack(indices, axis=1).astype(np.uint32)
        self._database.write_matches(first + 1, second + 1, matches)
        self._pairs.add((first, second))


def _save_images(recording: RecordingReader, writer: DatabaseWriter, folder: Path) -> int:
    """Save the images of exported features; returns their number."""
    saved = set()
    for image in recording.images():
        name = writer.name(image.stamp)
        if name is not None and name not in saved:
            (folder / name).write_bytes(image.data)
            saved.add(name)
    return len(saved)


def _sharing(tracks: list[UInt64Array]) -> set[tuple[int, int]]:
    """Pairs (earlier, later) of images that share MIN_SHARED tracks and are at most SPAN apart."""
    keys, columns = np.unique(np.concatenate(tracks), return_inverse=True)
    rows = np.repeat(np.arange(len(tracks)), [len(one) for one in tracks])
    seen = csr_array((np.ones(len(rows), np.int32), (rows, columns)), (len(tracks), len(keys)))
    shared = triu(seen @ seen.T, k=1).tocoo()
    kept = (shared.data >= MIN_SHARED) & (shared.col - shared.row <= SPAN)
    return set(zip(shared.row[kept].tolist(), shared.col[kept].tolist(), strict=True))


def verify_pairs(
    database: Path, pairs: list[tuple[str, str]], report: Report = lambda *_: None
) -> None:
    """Two-view geometries of matched pairs (names of images) by COLMAP's own estimation."""
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = 0
    listing = database.with_name("pairs.txt")
    with quiet_colmap():
        for block in range(0, len(pairs), _BLOCK):
            lines = [f"{first} {second}\n" for first, second in pairs[block : block + _BLOCK]]
            listing.write_text("".join(lines), encoding="utf-8")
            pycolmap.verify_matches(database, listing, options)
            report("verification", min(block + _BLOCK, len(pairs)) / len(pairs))
    listing.unlink(missing_ok=True)


@contextmanager
def quiet_colmap() -> Iterator[None]:
    """Silence COLMAP's log on standard error."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.WARNING)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level
