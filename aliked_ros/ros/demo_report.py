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

"""What a recording says about a run of the front-end: figures, an annotated video, a contact sheet.

Everything is computed from the recorded messages alone, as a subscriber saw them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from aliked_msgs.msg import FeatureFrame, FeatureMatches, FrontendStatus
from aliked_ros.errors import SourceError
from aliked_ros.io.bags import stream_mcap
from aliked_ros.io.drawing import Trails, contact_sheet, draw_tracks
from aliked_ros.io.results import (
    TrackStatistics,
    VideoFile,
    caption_of,
    milliseconds,
    write_picture,
)
from aliked_ros.ros.conversions import (
    image_from_message,
    seconds,
)
from aliked_ros.types import UInt8Array
from aliked_ros.viewing import recorded
from aliked_ros.viewing.recorded import RecordedRun, result_of

_KINDS = (FeatureFrame, FeatureMatches, FrontendStatus, ImageMessage, CompressedImage)
_SHEET_PICTURES = 9


@dataclass(slots=True)
class Recorded:
    """One message: when the publisher sent it and when the recorder got it, seconds.

    message: with the fields that the recording defines, which an older version may lack.
    """

    kind: type
    message: Any
    published: float
    received: float


def read_recording(path: Path, kinds: Sequence[type] = _KINDS) -> Iterator[Recorded]:
    """The messages of these types in order of arrival; SourceError for an unreadable file.

    Of a file whose recorder was killed, those that are whole.
    """
    names = {f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}": kind for kind in kinds}
    store = get_typestore(Stores.EMPTY)
    for schema, _, message in stream_mcap(path):
        kind = names.get(schema.name)
        if kind is None:
            continue
        if schema.name not in store.fielddefs:
            try:
                store.register(get_types_from_msg(schema.data.decode(), schema.name))
            except Exception as error:  # UnicodeDecodeError, and what rosbags' parser raises
                raise SourceError(
                    f"{path} does not say what {schema.name} is made of ({error}); record it again."
                ) from error
        yield Recorded(
            kind,
            store.deserialize_cdr(message.data, schema.name),
            message.publish_time * 1e-9,
            message.log_time * 1e-9,
        )


def report_of(recording: Path) -> dict[str, Any]:
    """The content of summary.json: counts, features, matches, tracks, latencies in milliseconds.

    ``latency_ms`` holds the node's own stages (a sample an image, as often as it reported them),
    ``transport`` (publisher to recorder) and ``end to end`` (the image's stamp to the recorder).
    Raises SourceError when the recording holds no features.
    """
    statistics = TrackStatistics()
    status: Any = FrontendStatus()
    played: list[float] = []
    stages: dict[str, list[float]] = defaultdict(list)
    transport: list[float] = []
    end_to_end: list[float] = []
    arrivals: list[float] = []
    waiting: dict[int, Any] = {}
    for item in read_recording(recording):
        message = item.message
        if item.kind in (ImageMessage, CompressedImage):
            played.append(item.published)
        elif item.kind is FrontendStatus:
            if message.frames_processed > status.frames_processed:
                for stage, latest in zip(message.stage_names, message.stage_last, strict=True):
                    stages[stage].append(float(latest))
            status = message
        elif item.kind is FeatureFrame:
            arrivals.append(item.received)
            transport.append(item.received - item.published)
            end_to_end.append(item.received - seconds(message.header.stamp))
            waiting[message.frame_index] = message
        elif item.kind is FeatureMatches and message.frame_index in waiting:
            statistics.add(result_of(waiting.pop(message.frame_index), message))
    summary = statistics.summary()
    if not summary["frames"]:
        raise SourceError(f"{recording} holds no features: the front-end processed no image.")
    del summary["stage_ms"]
    measured = {"transport": transport, "end to end": end_to_end}
    return summary | {
        "backend": status.backend,
        "model": status.model,
        "model_checksum": status.model_checksum,
        "precision": status.precision,
        "rate": _rate(arrivals),
        "played_rate": _rate(played),
        "frames": {
            "published": len(played),
            "received": status.frames_received,
            "processed": status.frames_processed,
            "dropped": status.frames_dropped,
            "refused": status.frames_refused,
        },
        "latency_ms": {
            stage: milliseconds(samples) for stage, samples in (stages | measured).items()
        },
    }


def _rate(times: list[float]) -> float:
    """Of events in order of time, a second."""
    if len(times) < 2:
        return 0.0
    return round((len(times) - 1) / max(times[-1] - times[0], 1e-3), 2)


def pictures(recording: Path) -> Iterator[UInt8Array]:
    """The processed images with their tracks drawn, H×W×3 RGB, in order."""
    trails = Trails()
    image: Any = None
    with RecordedRun(recording) as run:
        for item in run.items():
            if item.kind == recorded.IMAGE:
                image = item.message
            elif item.kind == recorded.FEATURES:
                result = result_of(item.message)
                trails.update(result)
                if image is not None:
                    latency = item.time * 1e-9 - result.stamp
                    caption = f"{caption_of(result)}, {latency * 1e3:.0f} ms"
                    pixels = image_from_message(image).pixels
                    yield draw_tracks(pixels, result, trails, caption=caption)
                image = None


def write_pictures(recording: Path, video: Path, sheet: Path, count: int, rate: float) -> None:
    """Write the annotated video, ``rate`` images a second, and a sheet of some of its pictures.

    count: of processed images.

    Raises OutputError, and SourceError when the recording holds no images.
    """
    chosen = set(np.linspace(0, count - 1, min(count, _SHEET_PICTURES)).round().astype(int))
    kept: list[UInt8Array] = []
    with VideoFile(video, max(rate, 1.0)) as file:
        for number, picture in enumerate(pictures(recording)):
            file.add(picture)
            if number in chosen:
                kept.append(picture)
    if not kept:
        raise SourceError(f"{recording} holds no images: record them to draw a video.")
    write_picture(sheet, contact_sheet(kept))
