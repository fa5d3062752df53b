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

"""NumPy views of aliked_msgs, from rclpy or rosbags.

Needs neither ROS nor ``aliked_msgs``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aliked_ros.errors import SourceError
from aliked_ros.types import Features, Float32Array, Matches, Tracks, UInt8Array

DESCRIPTOR_TYPES = (np.dtype("<f4"), np.dtype("<f2"))
"""By FeatureFrame.descriptor_encoding: FLOAT32, FLOAT16."""
BINARY256 = 2
"""FeatureFrame.descriptor_encoding of codes: 256 bits a row."""


def features_from_message(message: Any) -> Features:
    """The features of a FeatureFrame; arrays are views of the message where types allow.

    Messages without descriptors, or with codes instead (``codes_from_message``), give N×0.
    Raises SourceError for a field of another length than the keypoints.
    """
    has_codes = message.descriptor_encoding == BINARY256
    nothing = np.empty((len(message.scores), 0), np.float32)
    return Features(
        keypoints=_rows(message, "keypoints", np.float32, 2),
        scores=np.frombuffer(message.scores, np.float32),
        descriptors=nothing if has_codes else descriptors_from_message(message),
        width=message.width,
        height=message.height,
        model=message.model,
        detection_age=optional_rows(message, "detection_age", kind=np.uint32),
        covariances=optional_rows(message, "covariances", 3),
    )


def descriptors_from_message(message: Any) -> Float32Array:
    """The N×D float32 descriptors of a FeatureFrame, from FLOAT32 or FLOAT16.

    N×0 if not published. Raises SourceError for codes, and for an unknown encoding.
    """
    encoding = message.descriptor_encoding
    if encoding >= len(DESCRIPTOR_TYPES):
        raise SourceError(
            f"descriptor_encoding is {encoding}, not floats; "
            + (
                "read the codes with codes_from_message, or publish 'float32'."
                if encoding == BINARY256
                else "update aliked_ros to read it."
            )
        )
    dtype = DESCRIPTOR_TYPES[encoding]
    rows = np.frombuffer(message.descriptors, dtype)
    return rows.reshape(len(message.scores), message.descriptor_dim).astype(np.float32, copy=False)


def codes_from_message(message: Any) -> UInt8Array | None:
    """The N×32 codes of a FeatureFrame; None unless it has BINARY256 descriptors.

    Those of float descriptors: :func:`aliked_ros.frontend.codes.encode`.
    """
    if message.descriptor_encoding != BINARY256 or not message.descriptor_dim:
        return None
    return np.frombuffer(message.descriptors, np.uint8).reshape(len(message.scores), 32)


def tracks_from_message(message: Any) -> Tracks:
    """The track of each keypoint of a FeatureFrame.

    Raises SourceError for a field of another length than the keypoints.
    """
    recovered = optional_rows(message, "recovered", kind=np.bool_)
    return Tracks(
        ids=_rows(message, "track_ids", np.uint64),
        lengths=_rows(message, "track_lengths", np.uint32),
        epoch=message.epoch,
        recovered=recovered if recovered is not None and recovered.any() else None,
        objects=optional_rows(message, "object_ids", kind=np.uint32),
    )


def _rows(message: Any, field: str, kind: type[np.generic], columns: int = 1) -> NDArray[Any]:
    """A field of a FeatureFrame, N or N×columns; SourceError if it has another length."""
    values, count = np.asarray(getattr(message, field), kind), len(message.scores)
    if len(values) != columns * count:
        raise SourceError(
            f"{field} of a FeatureFrame has {len(values)} values, its {count} keypoints need "
            f"{columns * count}. Correct the node that published it."
        )
    return values if columns == 1 else values.reshape(-1, columns)


def optional_rows(
    message: Any, field: str, columns: int = 1, kind: type[np.generic] = np.float32
) -> NDArray[Any] | None:
    """A field of a FeatureFrame that may be empty, N or N×columns, such as ``depth``; else None.

    Older recordings may lack it. For an image without keypoints every field is empty. Raises
    SourceError for another length than the keypoints'.
    """
    if not len(getattr(message, field, ())):
        return None
    return _rows(message, field, kind, columns)


def matches_from_message(message: Any) -> Matches:
    """The matches of a FeatureMatches message."""
    return Matches(
        reference_indices=np.frombuffer(message.reference_indices, np.uint32),
        current_indices=np.frombuffer(message.current_indices, np.uint32),
        scores=np.frombuffer(message.scores, np.float32),
        inliers=np.array(message.inliers, bool) if len(message.inliers) else None,
    )


def nanoseconds(stamp: Any) -> int:
    """A builtin_interfaces/Time in whole nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def whole_nanoseconds(time: float) -> int:
    """Seconds in whole nanoseconds, without the error of ``time * 1e9`` for today's dates.

    So a stamp is the same integer before and after being sent in a message.
    """
    whole = math.floor(time)
    return whole * 1_000_000_000 + round((time - whole) * 1e9)


def seconds(stamp: Any) -> float:
    """A builtin_interfaces/Time in seconds (to 0.2 µs for today's dates)."""
    return float(stamp.sec) + float(stamp.nanosec) * 1e-9
