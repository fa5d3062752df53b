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


"""Places: every keyframe seen so far, and which of them an image may show."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import MAX_PLACES
from aliked_ros.frontend.appearance import DIMENSION, by_likeness, encode
from aliked_ros.frontend.similarity import mutual_best, similarities
from aliked_ros.types import (
    Features,
    Float32Array,
    FrameResult,
    Keyframe,
    Tracks,
    UInt8Array,
    UInt64Array,
)

MAX_FEATURES = 512
"""Features kept of a keyframe, the best-scored ones: 140 KB with their descriptors in float16."""

Key = tuple[str, int, int]
"""What names a place: frame, epoch and index."""

_THUMBNAIL = 160  # pixels, the longer side
_MOST = 0.5  # of the tracks
_THINNED = 0.02  # share of the places that goes at once: each thinning copies the index
_SHORTLIST = 30  # places whose descriptors are compared, for each query
_COMPARED = 300  # descriptors of each
_LEAST_COSINE = 0.7


@dataclass(frozen=True, slots=True)
class GivenPose:
    """Where the robot was at a keyframe, as an Odometry says, or its camera, as tf does.

    position: 3 float64, metres. orientation: unit quaternion x y z w. frame, body: names of the
    frame that the pose is in, and of the frame that it is of.
    """

    position: tuple[float, float, float]
    orientation: tuple[float, float, float, float]
    frame: str
    body: str


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A keyframe, as compact as matching allows. The arrays are not to be changed in place.

    epoch, index: of its FrameResult, as published.
    nanoseconds, frame: stamp and frame of its image's header. Cameras have frames of their own.
    features: the best MAX_FEATURES; their descriptors are empty, see ``descriptors``.
    descriptors: N×D float16.
    ids: N, of the tracks, 0 = on a moving object. normalized, depth: as in FrameResult.
    thumbnail: a JPEG; empty = none. camera: None where it was not calibrated.
    pose: None where nobody gave one.
    """

    epoch: int
    index: int
    nanoseconds: int
    frame: str
    features: Features
    descriptors: NDArray[np.float16]
    ids: UInt64Array
    normalized: Float32Array | None
    depth: Float32Array | None
    thumbnail: bytes = b""
    camera: CameraModel | None = None
    pose: GivenPose | None = None

    @classmethod
    def of(
        cls,
        result: FrameResult,
        nanoseconds: int,
        frame: str = "",
        pixels: UInt8Array | None = None,
        camera: CameraModel | None = None,
    ) -> Place:
        """The place of a processed image. pixels: the image, for its thumbnail."""
        features = result.features
        best = slice(MAX_FEATURES)

        def kept(values: Float32Array | None) -> Float32Array | None:
            return None if values is None else values[best].copy()

        if camera is not None and not camera.fits(features.width, features.height):
            camera = None
        descriptors = features.descriptors[best]
        return cls(
            epoch=result.tracks.epoch,
            index=result.index,
            nanoseconds=nanoseconds,
            frame=frame,
            features=replace(
                features,
                keypoints=features.keypoints[best].copy(),
                scores=features.scores[best].copy(),
                descriptors=np.zeros((0, descriptors.shape[1]), np.float32),
                detection_age=None,
                covariances=None,
            ),
            descriptors=descriptors.astype(np.float16),
            ids=result.tracks.static_ids[best].copy(),
            normalized=kept(result.normalized),
            depth=kept(result.depth),
            thumbnail=b"" if pixels is None else _thumbnail(pixels),
            camera=camera,
        )

    def shared_tracks(self, other: Place) -> int:
        """Number of tracks that are in both; 0 for places of different cameras or epochs."""
        if (self.frame, self.epoch) != (other.frame, other.epoch):
            return 0
        return len(np.intersect1d(self.ids[self.ids > 0], other.ids))

    @property
    def key(self) -> Key:
        """What names it."""
        return self.frame, self.epoch, self.index

    def keyframe(self) -> Keyframe:
        """The keyframe to match with."""
        lengths = np.ones(len(self.ids), np.uint32)
        return Keyframe(
            index=self.index,
            stamp=self.nanoseconds * 1e-9,
            features=replace(self.features, descriptors=self.descriptors.astype(np.float32)),
            tracks=Tracks(self.ids, lengths, self.epoch),
            normalized=self.normalized,
            depth=self.depth,
        )


class KeyframeDatabase:
    """The places of a process, across epochs and sessions, and those of maps. Thread-safe.

    Beyond ``max_places`` the redundant ones are removed: those whose neighbours in time still share
    most of their tracks, the oldest first; then those whose neighbours share or look alike most.
    """

    def __init__(self, max_places: int = MAX_PLACES) -> None:
        self.max_places = max_places
        self._lock = threading.Lock()
        self._places: list[Place] = []
        self._rows: dict[Key, int] = {}
        self._vectors = np.zeros((0, DIMENSION), np.float32)  # with room for more

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Place]:
        """The places as they are now, in the order in which they were added."""
        return iter(self.snapshot()[0])

    def snapshot(self) -> tuple[list[Place], Float32Array]:
        """The places as they are now, and their appearance N×DIMENSION."""
        with self._lock:
            return list(self._places), self._vectors[: len(self._places)]

    @property
    def model(self) -> str:
        """The network that the features come from; empty while there is no place."""
        with self._lock:
            return self._places[0].features.model if self._places else ""

    def add(self, place: Place, vector: Float32Array | None = None) -> bool:
        """Keep a place; False where it is known already. vector: its appearance, if known."""
        if vector is None:
            vector = encode(place.descriptors)
        with self._lock:
            if place.key in self._rows:
                return False
            if len(self._places) >= self.max_places:
                self._thin(self.max_places - max(1, int(_THINNED * self.max_places)))
            row = len(self._places)
            if row >= len(self._vectors):
                grown = np.empty((max(64, row + row // 2), DIMENSION), np.float32)
                grown[:row] = self._vectors[:row]
                self._vectors = grown
            self._vectors[row] = vector
            self._places.append(place)
            self._rows[place.key] = row
            return True

    def set_pose(self, place: Place, pose: GivenPose) -> None:
        """Give a place its pose; nothing happens where it was removed meanwhile."""
        with self._lock:
            row = self._rows.get(place.key)
            if row is not None:
                self._places[row] = replace(self._places[row], pose=pose)

    def thin(self, count: int) -> int:
        """Remove the most redundant places until ``count`` are left; returns how many went."""
        with self._lock:
            before = len(self._places)
            self._thin(count)
            return before - len(self._places)

    def candidates(
        self,
        features: Features,
        count: int,
        excluded: Callable[[Place], bool] = lambda _place: False,
        least: int = 0,
    ) -> list[Place]:
        """The places that look most like an image, best first; at most ``count``.

        A shortlist by appearance is ordered by the number of descriptors that are mutual nearest
        neighbours; those with fewer than ``least`` are left out.
        """
        places, vectors = self.snapshot()
        if not places or not len(features):
            return []
        shortlist: list[Place] = []
        for row in by_likeness(vectors, encode(features.descriptors[:MAX_FEATURES])):
            if not excluded(places[row]):
                shortlist.append(places[row])
                if len(shortlist) == _SHORTLIST:
                    break
        own = features.descriptors[:_COMPARED]
        shared = []
        for place in shortlist:
            theirs = place.descriptors[:_COMPARED].astype(np.float32)
            shared.append(len(mutual_best(similarities(own, theirs), _LEAST_COSINE)[0]))
        order = np.argsort(-np.asarray(shared), kind="stable")[:count]
        return [shortlist[k] for k in order if shared[k] >= least]

    def places_apart(self, one: Key, other: Key) -> int | None:
        """How many places after each other two were seen; None where one was removed."""
        with self._lock:
            rows = [self._rows.get(key) for key in (one, other)]
        return None if rows[0] is None or rows[1] is None else abs(rows[0] - rows[1])

    def _thin(self, count: int) -> None:
        kept = list(range(len(self._places)))
        values = [self._redundancy(kept, k) for k in range(len(kept))]
        while len(kept) > max(count, 0):
            most = next((k for k, value in enumerate(values) if value >= _MOST), None)
            k = int(np.argmax(values)) if most is None else most
            del kept[k], values[k]
            for neighbour in (k - 1, k):
                if 0 <= neighbour < len(kept):
                    values[neighbour] = self._redundancy(kept, neighbour)
        self._places = [self._places[row] for row in kept]
        self._vectors = self._vectors[kept]
        self._rows = {place.key: row for row, place in enumerate(self._places)}

    def _redundancy(self, kept: Sequence[int], k: int) -> float:
        """Share of tracks that the neighbours of a kept place have in common, from 0 to 1.

        Without any, -1 plus half the likeness of the place and its neighbours: from -1 to 0.
        """
        if not 0 < k < len(kept) - 1:
            return -1.0
        before, after = self._places[kept[k - 1]], self._places[kept[k + 1]]
        if shared := before.shared_tracks(after):
            return shared / min(len(before.ids), len(after.ids))
        vectors = self._vectors
        beside = vectors[[kept[k - 1], kept[k + 1]]]
        return float(np.clip((beside @ vectors[kept[k]]).max(), 0.0, 1.0)) / 2 - 1.0


def _thumbnail(pixels: UInt8Array) -> bytes:
    """A JPEG of at most _THUMBNAIL pixels a side."""
    height, width = pixels.shape[:2]
    scale = min(1.0, _THUMBNAIL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if small.ndim == 3:
        small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", small)[1])
