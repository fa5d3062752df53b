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

"""Sources of images: folders, data sets, recordings, videos, cameras, the virtual camera.

``open_source`` opens one by a string. A source has a name, a rate, a length and perhaps a
calibration, and iterates over ``Image``. Grey files give grey images, colour files RGB.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from aliked_ros.errors import SourceError
from aliked_ros.sources import datasets, files
from aliked_ros.sources.base import (
    IMAGE_SUFFIXES,
    KINDS,
    NOMINAL_RATE,
    Partner,
    Source,
    read_depth,
    read_image,
    read_mask,
)
from aliked_ros.sources.files import ImageFiles, local_path
from aliked_ros.sources.masked import MaskedSource
from aliked_ros.types import UInt8Array

__all__ = [
    "IMAGE_SUFFIXES",
    "KINDS",
    "NOMINAL_RATE",
    "ImageFiles",
    "Partner",
    "Source",
    "default_source",
    "open_source",
    "read_depth",
    "read_image",
    "read_mask",
]

_STORAGES = (".mcap", ".db3")  # of rosbag2
_BAG_SUFFIXES = (*_STORAGES, ".bag", ".active")
_COMPRESSIONS = (".zstd", ".zst")  # of whole files
_SUGGESTIONS = 5  # sequences that an error names
_SEARCHED = 1000  # folders in which they are looked for


def open_source(
    spec: str,
    limit: int | None = None,
    partner: Partner = "none",
    mask: UInt8Array | None = None,
) -> Source:
    """Open a source of images.

    spec: a folder of images; a folder with a ``frames.csv`` (or that file); a sequence of TUM
        RGB-D, KITTI odometry or EuRoC as published; a recording (``.mcap``, ``.db3``, ``.bag``,
        rosbag2 folder), with ``#/image/topic`` or ``#/image/topic,/partner/topic`` to choose among
        several; a video file; ``camera:N``; ``realsense``, ``realsense:SERIAL`` or a recording of
        its SDK, ``realsense:FILE``; ``virtual``.
    limit: maximum number of images.
    partner: what the images come with. ``right``: pairs are rectified here if the source's are
        not (EuRoC, raw recordings with CameraInfo). ``depth``: registered to the images. An image
        without its partner comes alone.
    mask: H×W uint8, 0 = ignore; see ``MaskedSource``.

    Raises SourceError if the source does not exist, or has no images or no such partner.
    """
    if mask is not None:
        return MaskedSource(open_source(spec, limit, partner), mask)
    if limit is not None and limit < 1:
        raise SourceError(f"the limit of images is {limit}; it must be at least 1.")
    if partner != "none" and (spec == "virtual" or spec.startswith("camera:")):
        raise files.no_partner(spec, partner, "it gives single images")
    if spec == "virtual":
        from aliked_ros.sources.virtual import DEFAULT_LENGTH, VirtualCamera

        return VirtualCamera(length=limit or DEFAULT_LENGTH)
    if spec.startswith("camera:"):
        from aliked_ros.sources.video import Camera

        number = spec.removeprefix("camera:")
        if not number.isdecimal():
            raise SourceError(f"source {spec!r}: give the camera's number, e.g. 'camera:0'.")
        return Camera(int(number), limit)
    if spec.split(":")[0] == "realsense":
        from aliked_ros.sources.realsense import RealSense

        return RealSense(spec.partition(":")[2], limit, partner)
    path = local_path(spec)
    if (not path.exists() and "#" in spec) or _names_a_bag(path):
        return _recording(spec, limit, partner)
    if path.is_dir():
        return _folder(path, limit, partner)
    if not path.is_file():
        raise SourceError(f"source {spec!r} does not exist; give {KINDS}.")
    if path.suffix.lower() == ".csv":
        return files.sequence(path, limit, partner)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise SourceError(f"{spec} is a single image; give its folder, or {KINDS}.")
    if partner != "none":
        raise files.no_partner(spec, partner, "it gives single images")
    from aliked_ros.sources.video import Video

    return Video(path, limit)


def default_source() -> str:
    """The default: ``$SOURCE``, a sequence of the shared data, else ``virtual``."""
    chosen = os.environ.get("SOURCE")
    if chosen:
        return chosen
    data = Path(os.environ.get("ALIKED_ROS_DATA") or "../shared") / "data"
    tables = sorted(data.glob("*/frames.csv"), key=lambda t: (t.parent.name != "tum_fr1_xyz", t))
    return str(tables[0].parent) if tables else "virtual"


def _folder(path: Path, limit: int | None, partner: Partner) -> Source:
    if (path / "frames.csv").is_file():
        return files.sequence(path / "frames.csv", limit, partner)
    if datasets.is_tum(path):
        return datasets.tum(path, limit, partner)
    if datasets.is_kitti(path):
        return datasets.kitti(path, limit, partner)
    if root := datasets.euroc_root(path):
        return datasets.euroc(root, limit, partner)
    if _is_bag(path):
        return _recording(str(path), limit, partner)
    found = _data_sets(path) or _image_folders(path)
    if inside := sorted(found)[:_SUGGESTIONS]:
        raise SourceError(
            f"{path} is not a source of images, but contains some: "
            f"{', '.join(map(str, inside))}. Name one of them."
        )
    return files.folder(path, limit, partner)


def _data_sets(path: Path) -> list[Path]:
    """Sequences up to two folders below one that holds no images itself."""
    return [
        inside
        for inside in _folders(path)
        if (inside / "frames.csv").is_file() or datasets.is_known(inside)
    ]


def _image_folders(path: Path) -> list[Path]:
    """The same for folders of images."""
    return [inside for inside in _folders(path) if files.image_files(inside)]


def _folders(path: Path) -> Iterator[Path]:
    if not files.image_files(path):
        for pattern in ("*/", "*/*/"):
            for inside in islice(path.glob(pattern), _SEARCHED):
                # Python 3.10 gives files too; a disk's lost+found cannot be listed
                if os.access(inside, os.R_OK | os.X_OK) and inside.is_dir():
                    yield inside


def _is_bag(path: Path) -> bool:
    if not path.is_dir():
        return path.is_file() and _names_a_bag(path)
    try:
        files = list(path.iterdir())
    except OSError:
        return False
    return any(file.name == "metadata.yaml" or _names_a_bag(file, _STORAGES) for file in files)


def _names_a_bag(path: Path, kinds: tuple[str, ...] = _BAG_SUFFIXES) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in kinds and not path.name.startswith(".")


def _recording(spec: str, limit: int | None, partner: Partner) -> Source:
    from aliked_ros.sources.recordings import Recording, split_topics

    name, topics = split_topics(spec) if not local_path(spec).exists() else (spec, ())
    path = local_path(name)
    if not path.exists() or not _is_bag(path):
        kind = "is no recording" if path.exists() else "does not exist"
        raise SourceError(f"source {spec!r}: {name} {kind}; give {KINDS}.")
    return Recording(path, topics, limit, partner)
