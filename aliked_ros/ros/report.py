"""What a recording says about a run of the front-end: figures, an annotated video, a contact sheet.

Everything is computed from the recorded messages alone, as a subscriber saw them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mcap.reader import make_reader
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from aliked_msgs.msg import FeatureFrame, FeatureMatches, FrontendStatus
from aliked_ros.cache import atomic_path
from aliked_ros.errors import SourceError
from aliked_ros.ros.conversions import (
    features_from_message,
    image_from_message,
    seconds,
    tracks_from_message,
)
from aliked_ros.types import FrameResult, Matches, UInt8Array
from aliked_ros.visualization import Trails, contact_sheet, draw_tracks

_KINDS = {
    f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}": kind
    for kind in (
        FeatureFrame,
        FeatureMatches,
        FrontendStatus,
        ImageMessage,
        CompressedImage,
        CameraInfo,
    )
}
_SHEET_PICTURES = 9


@dataclass(slots=True)
class Recorded:
    """One message: when the publisher sent it and when the recorder got it, seconds."""

    message: Any
    published: float
    received: float


def read_recording(path: Path, kinds: Sequence[type]) -> Iterator[Recorded]:
    """The messages of these types in order of arrival; SourceError for an unreadable file."""
    try:
        with path.open("rb") as file:
            reader = make_reader(file)
            for schema, _, message in reader.iter_messages():
                kind = _KINDS.get(schema.name if schema else "")
                if kind in kinds:
                    yield Recorded(
                        deserialize_message(message.data, kind),
                        message.publish_time * 1e-9,
                        message.log_time * 1e-9,
                    )
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}.") from error


@dataclass(slots=True)
class Report:
    """Figures of a run; times in seconds.

    images: that the camera published. status: the front-end's last word.
    features, matches: per processed image.
    lengths: frames in which each track was seen, one entry a track.
    stages: by name, a sample per status message; ``transport`` and ``end to end`` (from the
        image's stamp to the subscriber's callback) have one per processed image.
    """

    images: int = 0
    status: FrontendStatus | None = None
    features: list[int] = field(default_factory=list)
    matches: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def summary(self) -> dict[str, Any]:
        """The figures as plain numbers for summary.json; milliseconds."""
        status = self.status or FrontendStatus()
        lasting = [length for length in self.lengths if length > 1]
        return {
            "backend": status.backend,
            "model": status.model,
            "model_checksum": status.model_checksum,
            "precision": status.precision,
            "frames": {
                "published": self.images,
                "received": status.frames_received,
                "processed": status.frames_processed,
                "dropped": status.frames_dropped,
                "refused": status.frames_refused,
                "lost_in_transport": self.images - status.frames_received,
            },
            "features": _median(self.features),
            "matches": _median(self.matches[1:]),
            "tracks": {
                "count": len(self.lengths),
                "lasting": len(lasting),
                "median_length": _median(lasting),
                "max_length": max(self.lengths, default=0),
            },
            "latency_ms": {
                name: {
                    "median": round(float(np.median(samples)) * 1e3, 3),
                    "p90": round(float(np.percentile(samples, 90)) * 1e3, 3),
                }
                for name, samples in self.stages.items()
            },
        }


def report_of(recording: Path) -> Report:
    """Figures of a recording. Raises SourceError when it holds no features."""
    report = Report()
    lengths: dict[tuple[int, int], int] = {}
    counted = 0
    for item in read_recording(recording, tuple(_KINDS.values())):
        message = item.message
        if isinstance(message, ImageMessage | CompressedImage):
            report.images += 1
        elif isinstance(message, FrontendStatus):
            report.status = message
            if message.frames_processed > counted:  # one sample an image, however often reported
                counted = message.frames_processed
                for name, duration in zip(message.stage_names, message.stage_last, strict=True):
                    report.stages[name].append(duration)
        elif isinstance(message, FeatureMatches):
            report.matches.append(len(message.scores))
        elif isinstance(message, FeatureFrame):
            report.features.append(len(message.scores))
            report.stages["transport"].append(item.received - item.published)
            report.stages["end to end"].append(item.received - seconds(message.header.stamp))
            for track, length in zip(message.track_ids, message.track_lengths, strict=True):
                lengths[message.epoch, track] = length
    if not report.features:
        raise SourceError(f"{recording} holds no features: the front-end processed no image.")
    report.lengths = list(lengths.values())
    return report


def pictures(recording: Path) -> Iterator[UInt8Array]:
    """The processed images with their tracks drawn, H×W×3 RGB, in order."""
    images: dict[float, UInt8Array] = {}
    trails = Trails()
    for item in read_recording(recording, (FeatureFrame, ImageMessage, CompressedImage)):
        message = item.message
        stamp = seconds(message.header.stamp)
        if not isinstance(message, FeatureFrame):
            images[stamp] = image_from_message(message).pixels
            continue
        pixels = images.get(stamp)
        images = {later: image for later, image in images.items() if later > stamp}
        if pixels is None:
            continue
        result = FrameResult(
            message.frame_index,
            stamp,
            features_from_message(message),
            Matches.empty(),
            tracks_from_message(message),
        )
        trails.update(result)
        followed = int((result.tracks.lengths > 1).sum())
        caption = (
            f"{message.model}  {len(result.features)} features, {followed} tracked, "
            f"{(item.received - stamp) * 1e3:.0f} ms"
        )
        yield draw_tracks(pixels, result, trails, caption=caption)


def write_pictures(recording: Path, video: Path, sheet: Path, report: Report) -> None:
    """Write the annotated video (MP4, at the mean rate of processed images) and a contact sheet."""
    count = len(report.features)
    chosen = set(np.linspace(0, count - 1, min(count, _SHEET_PICTURES)).round().astype(int))
    kept: list[UInt8Array] = []
    rate = report.status.output_rate if report.status is not None else 0.0
    with atomic_path(video) as path:
        writer: cv2.VideoWriter | None = None
        for number, picture in enumerate(pictures(recording)):
            if writer is None:
                size = (picture.shape[1], picture.shape[0])
                writer = cv2.VideoWriter(
                    str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate or 10.0, size
                )
            writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            if number in chosen:
                kept.append(picture)
        if writer is None:
            raise SourceError(f"{recording} holds no images: record them to draw a video.")
        writer.release()
    with atomic_path(sheet) as path:
        cv2.imwrite(str(path), cv2.cvtColor(contact_sheet(kept), cv2.COLOR_RGB2BGR))


def _median(values: Sequence[int]) -> float:
    return float(np.median(values)) if len(values) else 0.0
