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

"""Training images: decoded and scaled once, cached, memory-mapped.

So a long recording needs little memory, several processes share one copy, and the next training
starts at once.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ImageError, OutputError, SourceError
from aliked_ros.evaluation.poses import has_truth, interpolated, read_truth, truth_file
from aliked_ros.odometry.geometry import Transform
from aliked_ros.sources import Partner, Source, open_source, read_image
from aliked_ros.system.cache import atomic_path, cache_dir, remove_leftovers
from aliked_ros.training.settings import Data
from aliked_ros.types import Float32Array, Float64Array, Image, UInt8Array

logger = logging.getLogger("aliked_ros.training")

Reading = Callable[[str, int, int | None], None]
"""Called with a source's name, the number of images read, and their total if known."""

FORMAT = 1  # version of the cache's files
_SEARCHED = 20  # files of a scene's list, searched in each folder above it
_TABLE, _PIXELS, _DEPTHS = "frames.json", "pixels.bin", "depths.bin"
_MEGADEPTH_KEYS = ("image_paths", "depth_paths", "intrinsics", "poses")
_MEGADEPTH_PAIRS = ("pair_infos", "overlap_matrix")  # LoFTR's lists, D2-Net's


@dataclass(frozen=True, slots=True)
class Frame:
    """An image with its geometry.

    number: its index in the source. pixels: H×W×3 RGB. Of an image with depth, undistorted: depth,
    H×W metres (MegaDepth: of its own unit), NaN = none; matrix: 3×3 intrinsics, pixels; pose:
    world_from_camera.
    """

    name: str
    number: int
    pixels: UInt8Array
    depth: Float32Array | None = None
    matrix: Float64Array | None = None
    pose: Transform | None = None


class Frames:
    """The images of a source, in files. skipped: number of unusable images."""

    def __init__(self, folder: Path) -> None:
        """Open files written by ``read_frames``."""
        table = json.loads((folder / _TABLE).read_text(encoding="utf-8"))
        self.skipped: int = table["skipped"]
        self._rows: list[dict[str, Any]] = table["frames"]
        self._begins = np.cumsum([0, *(int(np.prod(row["shape"])) for row in self._rows)])
        self._pixels = _mapped(folder / _PIXELS, np.uint8)
        self._depths = _mapped(folder / _DEPTHS, np.float32)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """N indices in the source, ascending."""
        return np.array([row["number"] for row in self._rows], np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Frame:
        """The frame at an index among the usable ones."""
        row = self._rows[index]
        shape = row["shape"]
        pixels = self._pixels[self._begins[index] : self._begins[index + 1]].reshape(shape)
        if row["pose"] is None:
            return Frame(row["name"], row["number"], pixels)
        size = shape[0] * shape[1]  # all images with depth have one size
        depth = self._depths[index * size : (index + 1) * size].reshape(shape[:2])
        pose = np.array(row["pose"])
        return Frame(
            row["name"], row["number"], pixels, depth, np.array(row["matrix"]),
            Transform(pose[:, :3], pose[:, 3]),
        )  # fmt: skip


def read_frames(data: Data, size: tuple[int, int], report: Reading = lambda *_: None) -> Frames:
    """The images of a training source, cached.

    size: width and height in pixels. Images with depth are cropped and scaled to it; others are
    scaled down to cover it.
    Raises SourceError if there are no images, or if something that ``data.kind`` needs is missing;
    OutputError if the cache cannot be written.
    """
    if data.source.startswith("camera:"):
        raise SourceError(f"cannot train on {data.source} itself; record it first.")
    folder = cache_dir() / "training" / _key(data, size)
    if not (folder / _TABLE).is_file():
        try:
            remove_leftovers(folder)
            with atomic_path(folder) as made:
                _write(made, data, size, report)
        except OSError as error:
            raise OutputError(
                f"cannot write the training images to {folder}: {error.strerror or error}; "
                "set ALIKED_ROS_CACHE to another folder."
            ) from error
    frames = Frames(folder)
    if frames.skipped:
        logger.warning(
            "%d images of %s cannot be used and are skipped", frames.skipped, data.source
        )
    return frames


def scene_overlaps(source: str) -> Float64Array:
    """K×3 of a MegaDepth scene: indices of two images and their overlap (0 to 1)."""
    return _overlaps(_scene(Path(source).expanduser()))


def _overlaps(scene: dict[str, Any]) -> Float64Array:
    if "pair_infos" in scene:
        rows = [(*row[0], row[1]) for row in scene["pair_infos"]]
        return np.array(rows, np.float64).reshape(-1, 3)
    overlaps = np.triu(np.asarray(scene["overlap_matrix"], np.float64), k=1)
    i, j = np.nonzero(overlaps > 0)
    return np.stack([i, j, overlaps[i, j]], axis=1)


def _key(data: Data, size: tuple[int, int]) -> str:
    """A cache key that changes with the source's files and settings."""
    about: list[Any] = [FORMAT, data.kind, data.first, data.count, data.source, list(size)]
    if data.kind == "homography":
        about.append(data.distortions.scale)
    files = set(_files(data.source))
    if data.kind == "depth" and (data.poses or has_truth(data.source)):
        files.add(_truth(data))
    if data.kind == "megadepth":
        files.update(_listed(Path(data.source).expanduser()))
    for path in sorted(files):
        if path.exists():
            stat = path.stat()
            about.append([str(path.absolute()), stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]


def _files(source: str) -> Iterator[Path]:
    path = Path(source).expanduser()
    path = path if path.exists() else Path(source.rsplit("#", 1)[0]).expanduser()
    if not path.is_dir():
        yield path
    for folder, inside, names in os.walk(path):
        if "state.ckpt" in names:  # results of a training
            inside.clear()
        else:
            yield from (Path(folder) / name for name in names)


def _truth(data: Data) -> Path:
    return Path(data.poses).expanduser() if data.poses else truth_file(data.source)


def _listed(path: Path) -> Iterator[Path]:
    """The files of a MegaDepth scene."""
    scene = _scene(path)
    root = _root(path, scene)
    for key in ("image_paths", "depth_paths"):
        yield from (root / str(name) for name in scene[key] if name)


def _write(folder: Path, data: Data, size: tuple[int, int], report: Reading) -> None:
    folder.mkdir(parents=True)
    read = {"homography": _images, "depth": _sequence, "megadepth": _megadepth}[data.kind]
    rows, skipped = [], 0
    with (folder / _PIXELS).open("wb") as pixels, (folder / _DEPTHS).open("wb") as depths:
        for frame in read(data, size, report):
            if frame is None:
                skipped += 1
                continue
            rows.append(_row(frame))
            pixels.write(frame.pixels.tobytes())
            if frame.depth is not None:
                depths.write(frame.depth.astype(np.float32).tobytes())
    if not rows and data.kind == "homography":
        raise SourceError(f"{data.source} has no image from number {data.first} on.")
    if len(rows) < 2 and data.kind != "homography":
        raise SourceError(
            f"{len(rows)} images of {data.source} from number {data.first} on have a depth image "
            "and a pose; training by depth needs at least two."
        )
    table = {"source": data.source, "skipped": skipped, "frames": rows}
    (folder / _TABLE).write_text(json.dumps(table), encoding="utf-8")


def _row(frame: Frame) -> dict[str, Any]:
    pose, matrix = frame.pose, frame.matrix
    return {
        "name": frame.name,
        "number": frame.number,
        "shape": frame.pixels.shape,
        "matrix": None if matrix is None else matrix.tolist(),
        "pose": None if pose is None else np.c_[pose.rotation, pose.translation].tolist(),
    }


def _mapped(path: Path, kind: type[np.generic]) -> NDArray[Any]:
    return np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)


def _opened(data: Data, partner: Partner = "none") -> Source:
    return open_source(
        data.source, None if data.count is None else data.first + data.count, partner
    )


def _chosen(source: Source, first: int, report: Reading) -> Iterator[tuple[int, Image]]:
    """The images from index ``first`` on, with their indices."""
    for number, image in enumerate(source):
        if number >= first:
            yield number, image
        report(source.name, number + 1, source.length)


def _images(data: Data, size: tuple[int, int], report: Reading) -> Iterator[Frame | None]:
    """Single images. Unusable ones are None, here and below."""
    source = _opened(data)
    for number, image in _chosen(source, data.first, report):
        pixels = rgb(image.pixels)
        factor = data.distortions.scale * covering(pixels.shape, size)
        if factor < 1.0:
            pixels = np.asarray(
                cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            )
        yield Frame(f"{source.name} {image.stamp:.6f}", number, pixels)
    yield from [None] * source.skipped


def _sequence(data: Data, size: tuple[int, int], report: Reading) -> Iterator[Frame | None]:
    """A sequence's images with depth and a pose."""
    source = _opened(data, "depth")
    if source.calibration is None:
        raise SourceError(f"{data.source} has no calibration; put a calib.json there.")
    camera = CameraModel.from_calibration(source.calibration)
    maps = camera.rectification_maps(np.eye(3), camera.matrix, (camera.width, camera.height))
    pose_at = interpolated(read_truth(_truth(data)))
    for number, image in _chosen(source, data.first, report):
        pose = pose_at(image.stamp)
        if image.depth is not None and pose is not None:
            yield _cut(
                Frame(
                    f"{source.name} {image.stamp:.6f}",
                    number,
                    np.asarray(cv2.remap(rgb(image.pixels), *maps, cv2.INTER_LINEAR), np.uint8),
                    _undistorted_depth(image.depth, maps),
                    camera.matrix,
                    pose,
                ),
                size,
            )
    yield from [None] * source.skipped


def _megadepth(data: Data, size: tuple[int, int], report: Reading) -> Iterator[Frame | None]:
    """A MegaDepth scene, from D2-Net's published list with poses and intrinsics."""
    path = Path(data.source).expanduser()
    scene = _scene(path)
    root = _root(path, scene)
    wanted = np.unique(_overlaps(scene)[:, :2]).astype(int)
    last = None if data.count is None else data.first + data.count
    wanted = wanted[data.first : last]
    for done, number in enumerate(wanted, 1):
        names = [scene[key][number] for key in ("image_paths", "depth_paths")]
        if all(names):
            try:
                files = [root / str(name) for name in names]
                frame = _megadepth_frame(path, scene, int(number), *files)
                yield _cut(frame, size)
            except ImageError as error:
                logger.warning("%s", error)
                yield None
        report(path.stem, done, len(wanted))


def _megadepth_frame(
    path: Path, scene: dict[str, Any], number: int, image: Path, depth: Path
) -> Frame:
    """ImageError if a file cannot be read, or its depth is only ordinal."""
    pixels = rgb(read_image(image))
    try:
        with h5py.File(depth) as file:
            depths = np.asarray(file["depth"], np.float32)
    except (OSError, KeyError) as error:
        raise ImageError(f"cannot read {depth}: {error}.") from error
    if depths.min() < 0.0:
        raise ImageError(f"{depth} has only ordinal depth, no distances.")
    if depths.shape != pixels.shape[:2]:
        raise ImageError(f"{depth} is {depths.shape}, its image {pixels.shape[:2]} pixels.")
    pose = np.asarray(scene["poses"][number], np.float64)
    matrix = np.array(scene["intrinsics"][number], np.float64)
    matrix[:2, 2] -= 0.5  # COLMAP's origin is the corner of the top-left pixel
    return Frame(
        f"{path.stem} {image.name}",
        number,
        pixels,
        np.where(depths > 0.0, depths, np.float32(np.nan)),
        matrix,
        Transform(pose[:3, :3], pose[:3, 3]).inverse(),
    )


def _root(path: Path, scene: dict[str, Any]) -> Path:
    """The folder that a scene list's paths are relative to, above the list (or its ``train``)."""
    names = [str(name) for name in scene["depth_paths"] if name]
    for folder in path.absolute().parents:
        for root in (folder, folder / "train"):
            if any((root / name).is_file() for name in names[:_SEARCHED]):
                return root
    raise SourceError(
        f"{path} lists {names[0] if names else 'no file'}; its depths are in no folder above it."
    )


def _cut(frame: Frame, size: tuple[int, int]) -> Frame:
    """Scale a frame to cover ``size`` and crop it centrally."""
    assert frame.depth is not None
    assert frame.matrix is not None
    factor = covering(frame.pixels.shape, size)
    height, width = (
        max(side, round(factor * whole))
        for side, whole in zip(size[::-1], frame.pixels.shape[:2], strict=True)
    )
    way = cv2.INTER_AREA if factor < 1.0 else cv2.INTER_LINEAR
    pixels = cv2.resize(frame.pixels, (width, height), interpolation=way)
    depth = cv2.resize(frame.depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    window = slice(top, top + size[1]), slice(left, left + size[0])
    matrix = frame.matrix.copy()
    scale = np.array([width, height]) / frame.pixels.shape[1::-1]
    matrix[:2] *= scale[:, None]
    # pixel centres: (x + ½)·s − ½
    matrix[:2, 2] += 0.5 * scale - 0.5 - (left, top)
    return replace(
        frame, pixels=np.asarray(pixels[window]), depth=np.asarray(depth[window]), matrix=matrix
    )


def covering(shape: tuple[int, ...], size: tuple[int, int]) -> float:
    """The scale with which an image covers ``size``."""
    return max(size[0] / shape[1], size[1] / shape[0])


def _undistorted_depth(depth: Float32Array, maps: tuple[Any, Any]) -> Float32Array:
    return np.asarray(cv2.remap(depth, *maps, cv2.INTER_NEAREST, borderValue=np.nan), np.float32)


def _scene(path: Path) -> dict[str, Any]:
    """The arrays of a scene's list; SourceError for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            scene = {
                name.removesuffix(".npy"): _array(archive.read(name))
                for name in archive.namelist()
                if name.removesuffix(".npy") in (*_MEGADEPTH_KEYS, *_MEGADEPTH_PAIRS)
            }
    except (OSError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise SourceError(f"cannot read the MegaDepth scene {path}: {error}.") from error
    missing = [key for key in _MEGADEPTH_KEYS if key not in scene]
    if missing or not any(key in scene for key in _MEGADEPTH_PAIRS):
        raise SourceError(
            f"{path} has no {', '.join(missing) or ' or '.join(_MEGADEPTH_PAIRS)}; kind megadepth "
            "takes a scene's .npz as D2-Net or LoFTR publish them (scene_info)."
        )
    return scene


def _array(data: bytes) -> NDArray[Any]:
    """An array of an .npz file; also of objects, but never code."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, kind = read(file)
    if not kind.hasobject:
        return np.asarray(np.lib.format.read_array(io.BytesIO(data)))
    return np.asarray(_Arrays(file).load(), object).reshape(shape)


class _Arrays(pickle.Unpickler):
    """Reads pickled arrays; refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """See ``pickle.Unpickler``."""
        known = ("_reconstruct", "scalar", "ndarray", "dtype", "_frombuffer")
        if (module, name) == ("_codecs", "encode"):  # older files encode bytes so
            return super().find_class(module, name)
        if module.partition(".")[0] == "numpy" and name in known:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no array")


def rgb(pixels: UInt8Array) -> UInt8Array:
    """H×W×3 of an image H×W (grey) or H×W×3."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
