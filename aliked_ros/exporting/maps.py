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


"""Maps: places in a file, to be found again by another process.

A map is an MCAP file of Keyframe messages, each after its pose (Odometry), where it has one, and
after its camera (CameraInfo), where that is not the previous one's. So Foxglove and ``ros2 bag``
read it, and what ``recorder`` wrote of ``~/keyframes`` is a map, too. The appearance of the places
is attached; it is computed again where it is missing.

A new map is written beside the old one, flushed to the disk, and renamed: the file of that name is
always a whole one.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from mcap.reader import SeekingReader
from mcap.records import Chunk, Metadata, Schema
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError, OutputError, SourceError
from aliked_ros.frontend.appearance import ENCODER
from aliked_ros.frontend.places import GivenPose, KeyframeDatabase, Place
from aliked_ros.io.bags import Bag
from aliked_ros.io.messages import (
    features_from_message,
    nanoseconds,
    optional_rows,
    tracks_from_message,
)
from aliked_ros.system.cache import check_target
from aliked_ros.types import Float32Array, FrameResult, Matches

VERSION = 1
KEYFRAME = "aliked_msgs/msg/Keyframe"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
ODOMETRY = "nav_msgs/msg/Odometry"
TYPES = (KEYFRAME, CAMERA_INFO, ODOMETRY)
"""Types of a map's messages."""

Definitions = Mapping[str, str]
"""Text of the definition of each of TYPES, with those of all types in it (``ros2msg``)."""

_FACTS = "aliked_ros map"  # name of the MCAP metadata
_TOPICS = {KEYFRAME: "/keyframes", CAMERA_INFO: "/camera_info", ODOMETRY: "/odometry"}
_FLOAT16 = 1  # FeatureFrame.descriptor_encoding
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a map held. places: keyframes in it. added: those that were new. note: a remark."""

    places: int
    added: int
    note: str


class _Locks:
    """The maps that this process may write: MapFiles of one path share the right."""

    def __init__(self) -> None:
        self.guard = threading.Lock()  # of a lock's files, and of each save
        self._files: dict[Path, IO[str]] = {}
        self._users: Counter[Path] = Counter()

    def take(self, path: Path) -> None:
        """Raises OutputError where another process has it, or the folder cannot be written."""
        if path not in self._files:
            try:
                file = path.with_name(f".{path.name}.lock").open("a")
            except OSError as error:
                raise _cannot_write(path, error) from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                raise OutputError(
                    f"{path} is saved by another process; save to another path, or end that "
                    "process."
                ) from error
            self._files[path] = file
        self._users[path] += 1

    def release(self, path: Path) -> None:
        """The last one gives it to other processes."""
        self._users[path] -= 1
        if not self._users[path]:
            self._files.pop(path).close()


_LOCKS = _Locks()


class MapFile:
    """A map to load and save. Close it, or the process keeps the right to write it.

    That right is held from the first save, on a hidden file beside the map; it ends with the
    process, however that ends. MapFiles of one process may save to one path: each adds what the
    others saved, so several cameras share a map.
    """

    def __init__(self, path: Path) -> None:
        """Raises ConfigurationError for a path that does not end in .mcap."""
        if path.suffix != ".mcap":
            raise ConfigurationError(f"the map is {str(path)!r}; its name must end in .mcap.")
        self.path = path
        self._locked = False
        self._known: tuple[int, int] | None = None  # what we read or wrote there last

    def __enter__(self) -> MapFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes write it."""
        with _LOCKS.guard:
            if self._locked:
                _LOCKS.release(self.path)
                self._locked = False

    def load(self, database: KeyframeDatabase, model: str = "") -> Loaded:
        """Add its places to those of ``database``.

        model: the network whose features are compared with them; empty = the map's own.
        Raises SourceError for a map that cannot be read, ConfigurationError for one of another
        model; nothing is added then.
        """
        version = self._identity()
        added = count = 0
        with MapReader(self.path) as reader:
            vectors = reader.appearance()
            note = ""
            if reader.cut_off:
                note = f"The end of {self.path} is missing; what is intact was read. Save it again."
            try:
                for place in reader.places():
                    theirs, ours = place.features.model, model or database.model
                    if ours and theirs != ours:
                        raise ConfigurationError(
                            f"{self.path} holds features of {theirs}, which cannot be compared "
                            f"with those of {ours}: set model to {theirs}, or map again."
                        )
                    added += database.add(place, None if vectors is None else vectors[count])
                    count += 1
            except SourceError as error:
                if not count:
                    raise
                note = f"{count} of {reader.count} keyframes could be read: {error}"
        self._known = version
        return Loaded(count, added, note)

    def save(self, database: KeyframeDatabase, definitions: Definitions) -> int:
        """Write all places; returns their number.

        What is in the file, but was neither loaded nor saved by this process, is added to
        ``database`` first, so that nothing is lost. Raises OutputError when the file cannot be
        written, ConfigurationError without places, and what ``load`` raises; the earlier map is
        unchanged then.
        """
        check_target(self.path)
        with _LOCKS.guard:
            if not self._locked:
                _LOCKS.take(self.path)
                self._locked = True
            return self._save(database, definitions)

    def _save(self, database: KeyframeDatabase, definitions: Definitions) -> int:
        if not len(database):
            raise ConfigurationError("there is no keyframe to save yet.")
        if self._identity() not in (None, self._known):
            self.load(database, database.model)
        places, vectors = database.snapshot()
        partial = self.path.with_name(f".{self.path.name}.partial")
        try:
            with partial.open("wb") as file:
                write_map(file, places, vectors, definitions)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise _cannot_write(self.path, error) from error
        self._known = self._identity()
        return len(places)

    def _identity(self) -> tuple[int, int] | None:
        """Of the file there now; None = there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns


def _cannot_write(path: Path, error: OSError) -> OutputError:
    kept = "The earlier map is unchanged. " if path.is_file() else ""
    return OutputError(
        f"cannot write {path}: {error.strerror}. {kept}Free space, or save to another path."
    )


def _sync_folder(folder: Path) -> None:
    """Bring the name of a file to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_map(
    file: IO[bytes], places: Sequence[Place], vectors: Float32Array, definitions: Definitions
) -> None:
    """Write a map of at least one place to a file. vectors: their appearance, N×DIMENSION."""
    # Descriptors are noise to a compressor.
    writer = Writer(file, chunk_size=_CHUNK_BYTES, compression=CompressionType.NONE)
    writer.start(profile="ros2", library="aliked_ros")
    model = places[0].features.model
    # first, so that a file that was cut short has it, too
    writer.add_metadata(_FACTS, {"version": str(VERSION), "model": model})
    messages = _Messages(definitions)
    channels = {}
    for kind, topic in _TOPICS.items():
        schema = writer.register_schema(kind, "ros2msg", definitions[kind].encode())
        channels[kind] = writer.register_channel(topic, "cdr", schema, {"offered_qos_profiles": ""})
    time, camera = 0, None
    for place in places:
        for kind, message in messages.of(place, with_camera=place.camera is not camera):
            # strictly rising, so that readers keep the order
            time = max(place.nanoseconds, time + 1)
            writer.add_message(channels[kind], time, messages.serialized(message, kind), time)
        camera = place.camera
    writer.add_attachment(
        0, 0, ENCODER, "application/octet-stream", vectors.astype("<f2").tobytes()
    )
    writer.finish()  # type: ignore[no-untyped-call]


class MapReader:
    """A map, or a recording with keyframes. Use as a context manager, or close it.

    version: None for a recording. cut_off: the end of the file is missing.
    """

    def __init__(self, path: Path) -> None:
        """Open it. Raises SourceError if it cannot be read or has no keyframes.

        Of a file that was cut short, the intact part is read.
        """
        self.path = path
        try:
            path.stat()
        except FileNotFoundError:
            raise SourceError(
                f"{path} does not exist; give the path of a map, a .mcap file."
            ) from None
        except OSError as error:
            raise SourceError(
                f"cannot read {path}: {error.strerror}; give it and its folder read permission."
            ) from error
        self.version = _version(path)
        if self.version is not None and self.version > VERSION:
            raise SourceError(
                f"{path} is a map of version {self.version}; this release reads versions up to "
                f"{VERSION}. Update aliked_ros, or map again."
            )
        self._bag = Bag(path)
        self.cut_off = bool(self._bag.cut_off)
        self._kinds = {t.name: t.msgtype for t in self._bag.topics if t.msgtype in TYPES}
        self.count = sum(t.count for t in self._bag.topics if t.msgtype == KEYFRAME)
        if not self.count:
            contents = self._bag.contents
            self.close()
            raise SourceError(
                f"{path} has no keyframes; {contents} Save a map with ~/save_map, or record "
                "~/keyframes with the recorder."
            )

    def __enter__(self) -> MapReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._bag.close()

    def places(self) -> Iterator[Place]:
        """The places, in the order in which they were saved.

        In a recording, poses come from its Odometry messages of the same stamps.
        """
        camera: CameraModel | None = None
        info: Any = None
        pose: tuple[int, GivenPose] | None = None
        recorded = {} if self.version is not None else self._recorded_poses()
        for _, topic, message in self._bag.messages(list(self._kinds)):
            kind = self._kinds[topic]
            if kind == CAMERA_INFO:
                told = (
                    message.width, message.height, message.distortion_model,
                    bytes(message.k), bytes(message.d),
                )  # fmt: skip
                if told != info:
                    camera, info = _camera(message), told
            elif kind == ODOMETRY:
                pose = nanoseconds(message.header.stamp), _pose(message)
            else:
                place = self._place(message, camera)
                given = recorded.get(place.nanoseconds)
                if pose is not None and pose[0] == place.nanoseconds:
                    given = pose[1]
                yield replace(place, pose=given)

    def appearance(self) -> Float32Array | None:
        """That of all places, N×DIMENSION, as it was saved; None where it has to be computed."""
        if self.version is None or self.cut_off:
            return None
        try:
            with self.path.open("rb") as file:
                for attachment in SeekingReader(file).iter_attachments():
                    if attachment.name == ENCODER:
                        rows = np.frombuffer(attachment.data, "<f2").astype(np.float32)
                        return rows.reshape(self.count, -1)
        except Exception:  # depends on the damage; the places themselves are read all the same
            pass
        return None

    def _place(self, message: Any, camera: CameraModel | None) -> Place:
        frame = message.features
        features = features_from_message(frame)
        if features.descriptors.shape[1] == 0:
            raise SourceError(
                f"the keyframes of {self.path} have no float descriptors; record with "
                "publish_descriptors true and descriptor_encoding float16."
            )
        result = FrameResult(
            index=frame.frame_index,
            stamp=0.0,
            features=features,
            matches=Matches.empty(),
            tracks=tracks_from_message(frame),
            normalized=optional_rows(frame, "normalized", 2),
            depth=optional_rows(frame, "depth"),
        )
        header = message.header
        place = Place.of(result, nanoseconds(header.stamp), header.frame_id, None, camera)
        return replace(place, thumbnail=bytes(message.image.data))

    def _recorded_poses(self) -> dict[int, GivenPose]:
        topics = [topic for topic, kind in self._kinds.items() if kind == ODOMETRY]
        messages = self._bag.messages(topics)
        return {nanoseconds(m.header.stamp): _pose(m) for _, _, m in messages}


def definitions_of(path: Path) -> Definitions:
    """The definitions in a map, for writing another where ROS is not installed.

    Raises SourceError where it lacks one, as recordings may.
    """
    found: dict[str, str] = {}
    with path.open("rb") as file, suppress(Exception):
        for record in StreamReader(file).records:
            if isinstance(record, Schema) and record.name in TYPES:
                found[record.name] = record.data.decode()
                if len(found) == len(TYPES):
                    break
    if missing := [kind for kind in TYPES if kind not in found]:
        raise SourceError(
            f"{path} lacks the definition of {', '.join(missing)}; let the front-end load and save "
            "it first."
        )
    return found


def _version(path: Path) -> int | None:
    """The version of a map; None for a recording."""
    try:
        with path.open("rb") as file:
            for record in StreamReader(file, emit_chunks=True).records:
                if isinstance(record, Metadata) and record.name == _FACTS:
                    return int(record.metadata["version"])
                if isinstance(record, Chunk):
                    break
    except Exception:  # a folder, another format, or damage, which Bag reports
        pass
    return None


def _camera(info: Any) -> CameraModel | None:
    try:
        return CameraModel.from_info(info, rectified=False)
    except ConfigurationError:
        return None


def _pose(message: Any) -> GivenPose:
    at, turn = message.pose.pose.position, message.pose.pose.orientation
    return GivenPose(
        (at.x, at.y, at.z),
        (turn.x, turn.y, turn.z, turn.w),
        message.header.frame_id,
        message.child_frame_id,
    )


class _Messages:
    """Makes messages of places; needs no ROS."""

    def __init__(self, definitions: Definitions) -> None:
        self._store: Typestore = get_typestore(Stores.EMPTY)
        types: dict[str, Any] = {}
        for kind, text in definitions.items():
            types |= get_types_from_msg(text, kind)
        self._store.register(types)

    def serialized(self, message: Any, kind: str) -> bytes:
        """In CDR."""
        return bytes(self._store.serialize_cdr(message, kind))

    def of(self, place: Place, with_camera: bool) -> Iterator[tuple[str, Any]]:
        """Type and message of what is to be written of a place, in this order."""
        header = self._header(place)
        if with_camera:
            yield CAMERA_INFO, self._camera_info(place, header)
        if place.pose is not None:
            yield ODOMETRY, self._odometry(place.pose, header)
        keyframe = self._empty(KEYFRAME)
        features, frame = place.features, keyframe.features
        keyframe.header = frame.header = keyframe.image.header = header
        keyframe.image.format = "jpeg"
        keyframe.image.data = np.frombuffer(place.thumbnail, np.uint8)
        frame.frame_index, frame.epoch, frame.is_keyframe = place.index, place.epoch, True
        frame.width, frame.height, frame.model = features.width, features.height, features.model
        frame.keypoints = features.keypoints.reshape(-1)
        frame.scores = features.scores
        frame.track_ids = place.ids
        frame.track_lengths = np.ones(len(place.ids), np.uint32)
        if place.normalized is not None:
            frame.normalized = place.normalized.reshape(-1)
        if place.depth is not None:
            frame.depth = place.depth
        frame.descriptor_encoding, frame.descriptor_dim = _FLOAT16, place.descriptors.shape[1]
        frame.descriptors = np.ascontiguousarray(place.descriptors).reshape(-1).view(np.uint8)
        yield KEYFRAME, keyframe

    def _header(self, place: Place) -> Any:
        header = self._empty("std_msgs/msg/Header")
        header.stamp.sec, header.stamp.nanosec = divmod(place.nanoseconds, 1_000_000_000)
        header.frame_id = place.frame
        return header

    def _camera_info(self, place: Place, header: Any) -> Any:
        info = self._empty(CAMERA_INFO)
        info.header = header
        camera = place.camera
        if camera is not None:  # else it is left without, which says that it is not calibrated
            info.width, info.height = camera.width, camera.height
            info.distortion_model, info.d = camera.distortion_model, camera.distortion
            info.k = camera.matrix.reshape(-1)
            info.p = np.column_stack([camera.matrix, np.zeros(3)]).reshape(-1)
            info.r = np.eye(3).reshape(-1)
        return info

    def _odometry(self, pose: GivenPose, header: Any) -> Any:
        message = self._empty(ODOMETRY)
        message.header = replace(header, frame_id=pose.frame)
        message.child_frame_id = pose.body
        at, turn = message.pose.pose.position, message.pose.pose.orientation
        at.x, at.y, at.z = pose.position
        turn.x, turn.y, turn.z, turn.w = pose.orientation
        return message

    def _empty(self, kind: str) -> Any:
        """A message of zeros."""
        _, fields = self._store.fielddefs[kind]
        return self._store.types[kind](**{name: self._zero(field) for name, field in fields})

    def _zero(self, field: Any) -> Any:
        node, content = field
        if node.name == "BASE":
            return {"string": "", "bool": False}.get(content[0], 0)
        if node.name == "NAME":
            return self._empty(content)
        (inner, inner_content), length = content
        if inner.name == "BASE" and inner_content[0] != "string":
            return np.zeros(length or 0, inner_content[0])
        return [self._zero((inner, inner_content)) for _ in range(length or 0)]
