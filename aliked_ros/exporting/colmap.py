"""COLMAP databases: cameras, images, keypoints, descriptors, matches, verified geometries.

Needs pycolmap (requirements/evaluation.txt). The database is ready for ``pycolmap.
incremental_mapping`` with :func:`mapping_options`. Matches between images follow from the tracks
they share, so that images that were not processed one after the other are matched, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray
from scipy.sparse import csr_array, triu

from aliked_ros.camera import CameraModel
from aliked_ros.errors import OutputError
from aliked_ros.exporting.recording import RecordedFrame, RecordingReader
from aliked_ros.results import output_path
from aliked_ros.types import UInt32Array, UInt64Array

DATABASE, IMAGES = "database.db", "images"
MIN_SHARED = 15
"""Tracks that two images must share to be matched; COLMAP needs as many inliers of a pair."""
SPAN = 30
"""Largest distance of two matched images, in exported images: bounds the work for long runs."""

# COLMAP has no name for aliked-n16; its descriptors are of the same kind as those of N16ROT (128
# floats, matched by the same LightGlue). It has none of 64 dimensions: those of T16 are left out.
_DESCRIPTOR_TYPES = {
    "aliked-n16": pycolmap.FeatureExtractorType.ALIKED_N16ROT,
    "aliked-n16rot": pycolmap.FeatureExtractorType.ALIKED_N16ROT,
    "aliked-n32": pycolmap.FeatureExtractorType.ALIKED_N32,
}
_CENTRE = 0.5  # COLMAP's origin is the corner of the top-left pixel, ours its centre
_BLOCK = 500  # pairs verified at once, between two reports of progress

Report = Callable[[str, float], None]


def export_colmap(
    recording: RecordingReader, folder: Path, every: int = 1, report: Report = lambda *_: None
) -> dict[str, Any]:
    """Write ``database.db`` and, where images were recorded, ``images/``; returns the figures.

    folder: made, or empty. every: export one of so many images. report: called with a stage's
    name and what share of it is done.

    Images have the names ``SECONDS.NANOSECONDS.jpg`` or ``.png`` of their stamps; of several with
    the same stamp (a dataset played in a loop) the first counts. Raises SourceError for a recording
    without features, OutputError for a folder that is in use or cannot be written.
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
        writer = _Writer(database, recording)
        writer.add_frames(every, report)
        pairs = writer.add_matches(report)
    _verify(folder, pairs, report)
    images = writer.save_images(folder / IMAGES)
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

    A calibrated camera stays as it is, whatever its coefficients: by default COLMAP refuses images
    whose camera has one above 1, as the fr1 camera of the TUM data sets has.
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
    """COLMAP's form of a camera model, parameters unchanged but for the origin of the pixels."""
    matrix = camera.matrix
    focal_and_centre = [
        matrix[0, 0],
        matrix[1, 1],
        matrix[0, 2] + _CENTRE,
        matrix[1, 2] + _CENTRE,
    ]
    coefficients = np.zeros(8)
    coefficients[: len(camera.distortion)] = camera.distortion
    if camera.distortion_model == "equidistant":
        model, extra = "OPENCV_FISHEYE", coefficients[:4]
    elif not coefficients.any():
        model, extra = "PINHOLE", coefficients[:0]
    elif not coefficients[4:].any():
        model, extra = "OPENCV", coefficients[:4]
    else:
        model, extra = "FULL_OPENCV", coefficients
    return pycolmap.Camera(
        model=model,
        width=camera.width,
        height=camera.height,
        params=[*focal_and_centre, *extra],
        has_prior_focal_length=True,
    )


def _guessed_camera(width: int, height: int) -> pycolmap.Camera:
    """A camera of which only the image size is known: the mapper estimates the rest."""
    model = pycolmap.CameraModelId.SIMPLE_RADIAL
    focal_length = 1.2 * max(width, height)  # COLMAP's own guess
    return pycolmap.Camera.create_from_model_id(0, model, focal_length, width, height)


class _Writer:
    """Fills a new database; keeps of each image what matches are made of."""

    def __init__(self, database: pycolmap.Database, recording: RecordingReader) -> None:
        self._database = database
        self._recording = recording
        self._camera = recording.camera()
        self._camera_ids: dict[tuple[int, int], int] = {}
        self._numbers: dict[int, int] = {}  # by stamp; COLMAP's image ids are greater by 1
        self._frames: dict[tuple[int, int], int] = {}  # the same, by stamp and index
        self._names: list[str] = []
        self._tracks: list[UInt64Array] = []  # of each image, unique over all epochs
        self._rows: list[NDArray[np.intp]] = []  # and their keypoints
        image = next(recording.images(), None)
        self._suffix = ".png" if image is None else image.suffix

    def add_frames(self, every: int, report: Report) -> None:
        """Images, keypoints, descriptors."""
        count = self._recording.frame_count()
        for index, frame in enumerate(self._recording.frames()):
            if index % every == 0 and frame.stamp not in self._numbers:
                self._add_frame(frame)
            report("features", (index + 1) / count)

    def _add_frame(self, frame: RecordedFrame) -> None:
        features, tracks = frame.features, frame.tracks
        name = f"{frame.stamp // 10**9}.{frame.stamp % 10**9:09d}{self._suffix}"
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
        rows = np.flatnonzero(tracks.ids)  # 0 = untracked
        epoch = np.uint64(tracks.epoch) << np.uint64(48)  # ids count from 1 in each epoch
        self._tracks.append(epoch + tracks.ids[rows])
        self._rows.append(rows)

    def _camera_id(self, width: int, height: int) -> int:
        size = (width, height)
        if size not in self._camera_ids:
            if self._camera is not None and self._camera.fits(*size):
                camera = colmap_camera(self._camera)
            else:
                camera = _guessed_camera(*size)
            self._camera_ids[size] = self._database.write_camera(camera)
        return self._camera_ids[size]

    def add_matches(self, report: Report) -> list[tuple[str, str]]:
        """Matches; returns the names of the matched images, pair by pair."""
        pairs = set()
        for one in self._recording.matches():
            first, second = map(self._frames.get, (one.reference, one.image))
            if first is None or second is None or (first, second) in pairs:
                continue
            if len(one.matches) >= MIN_SHARED:
                found = one.matches
                self._write(first, second, found.reference_indices, found.current_indices)
                pairs.add((first, second))
        shared = _sharing(self._tracks) - pairs
        for done, (first, second) in enumerate(sorted(shared), 1):
            _, *indices = np.intersect1d(
                self._tracks[first], self._tracks[second], return_indices=True
            )
            self._write(
                first, second, self._rows[first][indices[0]], self._rows[second][indices[1]]
            )
            report("matches", done / len(shared))
        return [(self._names[first], self._names[second]) for first, second in pairs | shared]

    def _write(self, first: int, second: int, *indices: UInt32Array | NDArray[np.intp]) -> None:
        matches = np.stack(indices, axis=1).astype(np.uint32)
        self._database.write_matches(first + 1, second + 1, matches)

    def save_images(self, folder: Path) -> int:
        """The images that belong to exported features; returns their number."""
        saved = set()
        for image in self._recording.images():
            number = self._numbers.get(image.stamp)
            if number is not None and number not in saved:
                (folder / self._names[number]).write_bytes(image.data)
                saved.add(number)
        return len(saved)


def _sharing(tracks: list[UInt64Array]) -> set[tuple[int, int]]:
    """Pairs (earlier, later) of images that share MIN_SHARED tracks and are at most SPAN apart."""
    keys, columns = np.unique(np.concatenate(tracks), return_inverse=True)
    rows = np.repeat(np.arange(len(tracks)), [len(one) for one in tracks])
    seen = csr_array((np.ones(len(rows), np.int32), (rows, columns)), (len(tracks), len(keys)))
    shared = triu(seen @ seen.T, k=1).tocoo()
    kept = (shared.data >= MIN_SHARED) & (shared.col - shared.row <= SPAN)
    return set(zip(shared.row[kept].tolist(), shared.col[kept].tolist(), strict=True))


def _verify(folder: Path, pairs: list[tuple[str, str]], report: Report) -> None:
    """Two-view geometries of the matched pairs by COLMAP's own estimation."""
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = 0
    listing = folder / "pairs.txt"
    with _quiet():
        for block in range(0, len(pairs), _BLOCK):
            lines = [f"{first} {second}\n" for first, second in pairs[block : block + _BLOCK]]
            listing.write_text("".join(lines), encoding="utf-8")
            pycolmap.verify_matches(folder / DATABASE, listing, options)
            report("verification", min(block + _BLOCK, len(pairs)) / len(pairs))
    listing.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without COLMAP's account of every step on standard error."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.WARNING)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level
