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

"""A recorded run for tests: real features of the virtual camera, in the recorder's file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2, PointField
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame, FeatureMatches, FrontendStatus
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.io.bags import MACHINE, SETTINGS
from aliked_ros.io.images import grey
from aliked_ros.ros.conversions import (
    feature_frame,
    feature_matches,
    image_message,
    jpeg_message,
    stamp_from_seconds,
)
from aliked_ros.ros.recording import Recording
from aliked_ros.sources import open_source
from aliked_ros.types import FrameResult, UInt8Array

TOPICS: dict[str, type] = {
    "/aliked_frontend/features": FeatureFrame,
    "/aliked_frontend/matches": FeatureMatches,
    "/aliked_frontend/status": FrontendStatus,
    "/image/compressed": CompressedImage,
    "/camera_info": CameraInfo,
    "/odometry/odometry": Odometry,
    "/odometry/map": PointCloud2,
}
BEGIN = 1_790_000_000.0  # seconds: 2026-09-21, another day than today's
PERIOD = 0.1
LATENCY = 0.05  # seconds from an image's stamp to its features in the recorder
ERROR = "an image <b>refused</b> & counted"


@dataclass
class Recorded:
    """What was recorded. pixels: grey, of each image; drops: of an image before each processed."""

    path: Path
    results: list[FrameResult] = field(default_factory=list)
    pixels: list[UInt8Array] = field(default_factory=list)
    drops: int = 2


def record_run(path: Path, frames: int = 14) -> Recorded:
    """A run of ``frames`` images."""
    recorded = Recorded(path)
    config = FrontendConfig(max_keypoints=300, matcher="nearest")
    with closing(Pipeline(config, lambda _: None)) as pipeline:
        for image in open_source("virtual", limit=frames):
            recorded.pixels.append(grey(image.pixels))
            recorded.results.append(pipeline.process(image))
    write(recorded)
    return recorded


def write(
    recorded: Recorded,
    without: Collection[str] = (),
    frontends: Sequence[str] = ("aliked_frontend",),
    image_last: bool = False,
    image_delay: float = 0.0,
) -> None:
    """Write (again) what was recorded; of several front-ends, the second one image later.

    image_last: images are written after what was made of them, as a busy recorder does.
    image_delay: seconds from the image's stamp to its arrival.
    """
    recording = Recording(recorded.path)
    recording.add_facts(MACHINE, {"cpu": "a processor & more"})
    recording.add_facts(SETTINGS, {"max_keypoints": "300", "grid": "0"})
    kept = [topic for topic in TOPICS if not any(word in topic for word in without)]
    names = {topic: _names(topic, frontends) for topic in kept}
    for topic, of_it in names.items():
        for name in of_it:
            recording.add_topic(name, TOPICS[topic])
    stamps = [stamp_from_seconds(BEGIN + index * PERIOD) for index in range(len(recorded.results))]
    for index, result in enumerate(recorded.results):
        header = Header(stamp=stamps[index], frame_id="camera")
        taken = int((BEGIN + index * PERIOD) * 1e9)
        processed = taken + int(LATENCY * 1e9)
        picture = jpeg_message(image_message(recorded.pixels[index], header))
        messages: dict[str, tuple[int, Any]] = {
            "/image/compressed": (taken + int(image_delay * 1e9), picture),
            "/camera_info": (taken, camera_info(header, result)),
            "/aliked_frontend/features": (processed, feature_frame(result, header)),
            "/aliked_frontend/matches": (
                processed, feature_matches(result, header, stamps[max(0, index - 1)]),
            ),
            "/aliked_frontend/status": (processed + 1, status(recorded, index, header)),
            "/odometry/odometry": (processed + 2, pose(index, header)),
            "/odometry/map": (processed + 3, cloud(header)),
        }  # fmt: skip
        for topic in sorted(kept, key=lambda topic: image_last and "image" in topic):
            time, message = messages[topic]
            for name in names[topic][: index + 1]:
                recording.add(name, serialize_message(message), time, time)
    recording.finish()


def _names(topic: str, frontends: Sequence[str]) -> list[str]:
    if "aliked_frontend" not in topic:
        return [topic]
    return [topic.replace("aliked_frontend", frontend) for frontend in frontends]


def status(recorded: Recorded, index: int, header: Header) -> FrontendStatus:
    message = FrontendStatus(
        header=header, state="active", model="aliked-n16", precision="bfloat16"
    )
    message.backend, message.backend_reason = "cpu: OpenVINO 2026", "no GPU & no <wish>"
    message.frames_processed = index + 1
    message.frames_dropped = recorded.drops * (index + 1)
    message.frames_refused = int(index > 3)
    message.frames_received = (recorded.drops + 1) * (index + 1) + int(index > 3)
    message.keyframes = 1
    message.input_rate, message.output_rate = 30.0, 10.0
    times = recorded.results[index].stage_times
    message.stage_names = list(times)
    message.stage_last = message.stage_mean = message.stage_max = list(times.values())
    message.last_error = ERROR if index > 3 else ""
    return message


def camera_info(header: Header, result: FrameResult) -> CameraInfo:
    info = CameraInfo(header=header, width=result.features.width, height=result.features.height)
    info.k = [500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]
    info.distortion_model, info.d = "plumb_bob", [0.0] * 5
    return info


def pose(index: int, header: Header) -> Odometry:
    """The camera goes to the left and looks forward: x forward, y left, z up."""
    message = Odometry(header=header)
    message.pose.pose.position.y = 0.1 * index
    turn = message.pose.pose.orientation
    turn.x, turn.y, turn.z, turn.w = -0.5, 0.5, -0.5, 0.5
    return message


def cloud(header: Header) -> PointCloud2:
    """A wall three metres before the camera, and a point that is not finite."""
    side, up = np.meshgrid(np.linspace(-1, 2, 30), np.linspace(-1, 1, 20))
    points = np.column_stack([np.full(side.size, 3.0), side.ravel(), up.ravel()])
    points = np.vstack([points, [np.nan] * 3]).astype("<f4")
    fields = [
        PointField(name=name, offset=4 * k, datatype=PointField.FLOAT32, count=1)
        for k, name in enumerate("xyz")
    ]
    message = PointCloud2(header=header, height=1, width=len(points), fields=fields)
    message.point_step, message.row_step = 12, 12 * len(points)
    message.data.frombytes(points.tobytes())
    return message
