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

"""The Parquet files of a batch; docs/fleet.md describes their columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aliked_ros.errors import OutputError
from aliked_ros.types import Features, FrameResult, Matches

_FLOATS = pa.list_(pa.float32())
FEATURES = pa.schema(
    [
        ("image", pa.uint32()), ("stamp", pa.int64()), ("width", pa.uint32()),
        ("height", pa.uint32()), ("keypoints", _FLOATS), ("scores", _FLOATS),
        ("descriptors", _FLOATS),
    ]
)  # fmt: skip
"""One row an image."""
KEYFRAMES = pa.schema(
    [
        *FEATURES, ("frame", pa.uint32()), ("reason", pa.string()), ("epoch", pa.uint32()),
        ("ids", pa.list_(pa.uint64())), ("lengths", pa.list_(pa.uint32())),
        ("objects", pa.list_(pa.uint32())),
    ]
)  # fmt: skip
"""One row a keyframe."""
TRACKS = pa.schema(
    [
        ("frame", pa.uint32()), ("image", pa.uint32()), ("stamp", pa.int64()),
        ("epoch", pa.uint32()), ("id", pa.uint64()), ("length", pa.uint32()), ("x", pa.float32()),
        ("y", pa.float32()), ("score", pa.float32()), ("object", pa.uint32()),
    ]
)  # fmt: skip
"""One row a keypoint."""
MATCHES = pa.schema(
    [
        ("image", pa.uint32()), ("reference", pa.uint32()),
        ("reference_indices", pa.list_(pa.uint32())), ("current_indices", pa.list_(pa.uint32())),
        ("scores", _FLOATS), ("layers", pa.uint8()),
    ]
)  # fmt: skip
"""One row an image that LightGlue matched with the one before; only while a batch works."""

_GROUP = 64  # images in a row group
_SOURCE = b"aliked_ros.source"


class TableFile:
    """A Parquet file that is written image by image. Use as a context manager.

    source: what its content depends on; ``written_from`` reads it.
    """

    def __init__(self, path: Path, schema: pa.Schema, source: str) -> None:
        """Create the file; OSError if it cannot be."""
        self._schema = schema.with_metadata({_SOURCE: source.encode()})
        path.parent.mkdir(parents=True, exist_ok=True)
        flat = not any(pa.types.is_list(one.type) for one in schema)
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd" if flat else "none",  # saves 7 % of descriptors, and takes longer
            use_dictionary=False,
            write_statistics=flat,
        )
        self._waiting: list[Mapping[str, Any]] = []
        self.rows = 0

    def add(self, **values: Any) -> None:
        """An image's values by column: of a row, or arrays of a flat table's rows."""
        self._waiting.append(values)
        if len(self._waiting) == _GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        columns = [_column([row[one.name] for row in self._waiting], one.type)
                   for one in self._schema]  # fmt: skip
        self._waiting = []
        table = pa.Table.from_arrays(columns, schema=self._schema)
        self.rows += table.num_rows
        self._writer.write_table(table)

    def __enter__(self) -> TableFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
            self._writer.close()
            return
        with suppress(OSError):  # the file is given up, and the disk may be full
            self._writer.close()


def written_from(path: Path, source: str) -> bool:
    """Whether a file is whole and was written from this source."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return False
    return bool(metadata.get(_SOURCE) == source.encode())


def counts_of(path: Path) -> tuple[int, int]:
    """Number of rows, and of the scores in them."""
    scores = pq.read_table(path, columns=["scores"]).column("scores")
    return len(scores), sum(len(chunk.flatten()) for chunk in scores.chunks)


def feature_row(image: int, stamp: int, features: Features) -> dict[str, Any]:
    """An image's row of FEATURES."""
    return {
        "image": image,
        "stamp": stamp,
        "width": features.width,
        "height": features.height,
        "keypoints": features.keypoints.reshape(-1),
        "scores": features.scores,
        "descriptors": features.descriptors.reshape(-1),
    }


def track_rows(image: int, stamp: int, result: FrameResult) -> dict[str, Any]:
    """An image's rows of TRACKS."""
    count = len(result.features)
    return {
        "frame": np.full(count, result.index, np.uint32),
        "image": np.full(count, image, np.uint32),
        "stamp": np.full(count, stamp, np.int64),
        "epoch": np.full(count, result.tracks.epoch, np.uint32),
        "id": result.tracks.ids,
        "length": result.tracks.lengths,
        "x": result.features.keypoints[:, 0],
        "y": result.features.keypoints[:, 1],
        "score": result.features.scores,
        "object": result.tracks.object_ids,
    }


def keyframe_row(image: int, stamp: int, result: FrameResult) -> dict[str, Any]:
    """A keyframe's row of KEYFRAMES."""
    return feature_row(image, stamp, result.features) | {
        "frame": result.index,
        "reason": result.keyframe_reason,
        "epoch": result.tracks.epoch,
        "ids": result.tracks.ids,
        "lengths": result.tracks.lengths,
        "objects": result.tracks.object_ids,
    }


def match_row(image: int, reference: int, matches: Matches) -> dict[str, Any]:
    """An image's row of MATCHES."""
    return {
        "image": image,
        "reference": reference,
        "reference_indices": matches.reference_indices,
        "current_indices": matches.current_indices,
        "scores": matches.scores,
        "layers": matches.layers,
    }


@dataclass(frozen=True, slots=True)
class Known:
    """What a part says about an image.

    stamp: nanoseconds. features: keypoints N×2, scores, descriptors N×D. matches: with the image
    numbered ``reference``; None where LightGlue was not asked.
    """

    image: int
    stamp: int
    features: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
    reference: int | None = None
    matches: Matches | None = None


def read_part(features: Path, matches: Path | None) -> Iterator[Known]:
    """The images of a part, in order; OutputError for a damaged file."""
    try:
        found = {} if matches is None else dict(_matches_of(matches))
        for row in _rows(features):
            if (count := len(row["scores"])) == 0:
                continue  # without the descriptors' dimension; dark images take no time
            descriptors = row["descriptors"].reshape(count, -1)
            arrays = row["keypoints"].reshape(-1, 2), row["scores"], descriptors
            matched = found.get(row["image"], (None, None))
            yield Known(row["image"], row["stamp"], arrays, *matched)
    except (OSError, pa.ArrowException) as error:
        raise OutputError(f"cannot read {features} again ({error}); repeat the batch.") from error


def _matches_of(path: Path) -> Iterator[tuple[int, tuple[int, Matches]]]:
    for row in _rows(path):
        matches = Matches(
            row["reference_indices"], row["current_indices"], row["scores"], layers=row["layers"]
        )
        yield row["image"], (row["reference"], matches)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table; lists as arrays."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group).combine_chunks()
            for number in range(table.num_rows):
                yield {
                    name: _value(table.column(name)[number]) for name in table.schema.names
                }  # fmt: skip


def _value(scalar: Any) -> Any:
    if isinstance(scalar, pa.ListScalar):
        return np.array(scalar.values)  # a copy of its own, which may be written
    return scalar.as_py()


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(kind):
        offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])])
        flat = _array(np.concatenate(values), kind.value_type)
        return pa.ListArray.from_arrays(_array(offsets, pa.int32()), flat)
    return _array(np.concatenate(values) if isinstance(values[0], np.ndarray) else values, kind)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return pa.array(values, kind)
    # pa.array would import pandas, which takes a second of each worker.
    numbers = np.ascontiguousarray(values, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])
