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

"""Images for a vocabulary: their codes to train with, their scores to test it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import SourceError
from aliked_ros.exporting.recording import RecordingReader
from aliked_ros.exporting.vocabulary import Vocabulary, score
from aliked_ros.frontend.codes import encode
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.sources import open_source
from aliked_ros.sources.virtual import training_images
from aliked_ros.types import Float32Array, Image, UInt8Array, UInt64Array

PHOTOGRAPHS = "photographs"
"""Names a virtual camera's flights over the photographs of scikit-image."""

_FEATURES = 1000  # of an image
_SAME_PLACE = 0.2  # share of the tracks that two images of one place have in common, at least


@dataclass(frozen=True, slots=True)
class CodedImage:
    """One image of a recording, or of another source.

    codes: N×32 uint8. tracks: K uint64, its tracks, unique within the recording; none without one.
    recording: its number. stamp: nanoseconds.
    """

    codes: UInt8Array
    tracks: UInt64Array
    recording: int
    stamp: int


def read_images(
    recordings: Sequence[Path],
    every: int = 1,
    topics: Collection[str] = (),
    report: Callable[[str, float], None] = lambda *_: None,
    model: str = "",
) -> Iterator[CodedImage]:
    """One in ``every`` images of recordings, from codes or float descriptors.

    topics: as of RecordingReader. model: of other images; empty = there are none. Raises
    SourceError for a recording that cannot be read or has no descriptors, and for descriptors of
    two models.
    """
    models = {model: Path("--images")} if model else {}
    for number, path in enumerate(recordings):
        with RecordingReader(path, topics) as reader:
            count = reader.frame_count()
            for index, frame in enumerate(reader.frames()):
                report(f"reading {path.name}", (index + 1) / count)
                if index % every or not len(frame.features):
                    continue
                models.setdefault(frame.features.model, path)
                if len(models) > 1:
                    (one, first), (two, second) = models.items()
                    raise SourceError(
                        f"{first} has features of {one}, {second} of {two}; a vocabulary is for "
                        "one model."
                    )
                codes = frame.codes
                if codes is None:
                    if not frame.features.descriptors.size:
                        raise SourceError(
                            f"{path} has no descriptors; record with publish_descriptors: true."
                        )
                    codes = encode(frame.features.descriptors)
                ids = frame.tracks.static_ids
                ids = ids[ids > 0]
                tracks = (np.uint64(frame.tracks.epoch) << np.uint64(32)) + ids
                yield CodedImage(codes, tracks, number, frame.stamp)


def extract_images(
    sources: Sequence[str],
    model: str,
    every: int = 1,
    report: Callable[[str, float], None] = lambda *_: None,
) -> list[CodedImage]:
    """One in ``every`` images of sources, with the codes of ``model``'s best 1000 features.

    A source is as for ``open_source``, or PHOTOGRAPHS. Raises SourceError for one that cannot be
    read, WeightsError, ModelError and BackendError as Pipeline does.
    """
    images = []
    none = np.empty(0, np.uint64)
    config = FrontendConfig(model=model, max_keypoints=_FEATURES, matcher="nearest")
    with closing(Pipeline(config)) as pipeline:
        for number, source in enumerate(sources):
            pictures = training_images() if source == PHOTOGRAPHS else _images(source)
            for index, (share, image) in enumerate(pictures):
                report(f"features of {source}", share)
                if index % every == 0:
                    codes = encode(pipeline.extract(image.pixels, image.mask).descriptors)
                    images.append(CodedImage(codes, none, number, int(image.stamp * 1e9)))
    return images


def _images(spec: str) -> Iterator[tuple[float, Image]]:
    """The images of a source, each with the share done, as far as that is known."""
    source = open_source(spec)
    for index, image in enumerate(source):
        yield (index + 1) / source.length if source.length else 0.0, image


def pair_scores(
    vocabulary: Vocabulary, images: Sequence[CodedImage], apart: float
) -> tuple[Float32Array, Float32Array]:
    """Scores of pairs of images of one place, and of two places.

    One place: they share a fifth of their tracks. Two: they share none, and are of two recordings
    or at least ``apart`` seconds apart. Raises SourceError where there are no such pairs.
    """
    counts = np.array([len(image.tracks) for image in images])
    recordings = np.array([image.recording for image in images])
    rows = np.repeat(np.arange(len(images)), counts)
    tracks = np.concatenate([image.tracks for image in images])
    of_recordings = np.stack([recordings[rows].astype(np.uint64), tracks], axis=1)
    _, columns = np.unique(of_recordings, axis=0, return_inverse=True)
    seen = csr_array(
        (np.ones(len(rows)), (rows, columns.ravel())), shape=(len(images), len(rows) + 1)
    )
    stamps = np.array([image.stamp for image in images]) * 1e-9
    bags = vocabulary.bags([image.codes for image in images])
    same, other = [], []
    for i in range(len(images) - 1):
        later = np.arange(i + 1, len(images))
        shared = (seen[[i]] @ seen[later].T).toarray().ravel()
        far = (recordings[later] != recordings[i]) | (abs(stamps[later] - stamps[i]) >= apart)
        scores = score(bags[[i]], bags[later])
        same.append(
            scores[(shared > 0) & (shared >= _SAME_PLACE * np.minimum(counts[later], counts[i]))]
        )
        other.append(scores[(shared == 0) & far])
    one_place, two_places = (
        np.concatenate([*part, []]).astype(np.float32) for part in (same, other)
    )
    if not len(one_place) or not len(two_places):
        what = "share a fifth of their tracks" if not len(one_place) else "show two places"
        raise SourceError(
            f"no two of the {len(images)} images {what}; give more images, or a second recording."
        )
    return one_place, two_places
