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

"""Bags written by rosbags, which knows neither our code nor ROS."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from scipy.spatial.transform import Rotation

from helpers import ROOT

ROS2 = get_typestore(Stores.ROS2_JAZZY)
ROS1 = get_typestore(Stores.ROS1_NOETIC)
SECOND = 1_000_000_000
Entry = tuple[str, int, Any]  # topic, arrival in nanoseconds, message

for _name in ("CompressedVideo", "FFMPEGPacket"):
    (_file,) = (ROOT / "test" / "msgs" / "video").glob(f"*/msg/{_name}.msg")
    ROS2.register(get_types_from_msg(_file.read_text(), f"{_file.parents[1].name}/msg/{_name}"))
_TYPES = ROS2.types
CompressedVideo = _TYPES["foxglove_msgs/msg/CompressedVideo"]
FFMPEGPacket = _TYPES["ffmpeg_image_transport_msgs/msg/FFMPEGPacket"]
Time = _TYPES["builtin_interfaces/msg/Time"]
Header = _TYPES["std_msgs/msg/Header"]
Image = _TYPES["sensor_msgs/msg/Image"]
CompressedImage = _TYPES["sensor_msgs/msg/CompressedImage"]
CameraInfo = _TYPES["sensor_msgs/msg/CameraInfo"]
Roi = _TYPES["sensor_msgs/msg/RegionOfInterest"]


def header(stamp: int) -> Any:
    return Header(stamp=Time(sec=stamp // SECOND, nanosec=stamp % SECOND), frame_id="eye")


def image(pixels: NDArray[Any], stamp: int, encoding: str) -> Any:
    """A sensor_msgs/Image of pixels as that encoding stores them."""
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels).view(np.uint8).reshape(-1)
    return Image(
        header=header(stamp), height=height, width=width, encoding=encoding, is_bigendian=0,
        step=len(data) // height, data=data,
    )  # fmt: skip


def compressed(pixels: NDArray[np.uint8], stamp: int) -> Any:
    """A PNG of RGB or grey pixels."""
    stored = pixels if pixels.ndim == 2 else pixels[..., ::-1]
    data = cv2.imencode(".png", stored)[1].reshape(-1)
    return CompressedImage(header=header(stamp), format="rgb8; png compressed bgr8", data=data)


def video(data: bytes, stamp: int, codec: str, index: int = -1) -> Any:
    """A CompressedVideo, or with an ``index`` an FFMPEGPacket."""
    stored = np.frombuffer(data, np.uint8)
    if index < 0:
        own = header(stamp)
        return CompressedVideo(
            timestamp=own.stamp, frame_id=own.frame_id, data=stored, format=codec
        )
    return FFMPEGPacket(
        header=header(stamp), width=0, height=0, encoding=codec, pts=index, flags=0,
        is_bigendian=False, data=stored,
    )  # fmt: skip


def camera_info(
    stamp: int,
    size: tuple[int, int],
    k: NDArray[np.float64],
    d: Iterable[float] = (0.0,) * 5,
    r: NDArray[np.float64] | None = None,
    p: NDArray[np.float64] | None = None,
) -> Any:
    projection = np.hstack([k, np.zeros((3, 1))]) if p is None else p
    return CameraInfo(
        header=header(stamp), width=size[0], height=size[1], distortion_model="plumb_bob",
        d=np.array(list(d), np.float64), k=k.ravel().astype(np.float64),
        r=(np.eye(3) if r is None else r).ravel(), p=projection.ravel(),
        binning_x=0, binning_y=0,
        roi=Roi(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )  # fmt: skip


def odometry(stamp: int, position: NDArray[np.float64], orientation: Rotation) -> Any:
    """A nav_msgs/Odometry that says nothing of velocities."""
    x, y, z, w = orientation.as_quat()
    turn = _TYPES["geometry_msgs/msg/Quaternion"](x=x, y=y, z=z, w=w)
    zero = _TYPES["geometry_msgs/msg/Vector3"](x=0.0, y=0.0, z=0.0)
    pose = _TYPES["geometry_msgs/msg/Pose"](
        position=_TYPES["geometry_msgs/msg/Point"](*map(float, position)), orientation=turn
    )
    return _TYPES["nav_msgs/msg/Odometry"](
        header=header(stamp), child_frame_id="eye",
        pose=_TYPES["geometry_msgs/msg/PoseWithCovariance"](pose=pose, covariance=np.zeros(36)),
        twist=_TYPES["geometry_msgs/msg/TwistWithCovariance"](
            twist=_TYPES["geometry_msgs/msg/Twist"](linear=zero, angular=zero),
            covariance=np.zeros(36),
        ),
    )  # fmt: skip


def write(path: Path, entries: Iterable[Entry], storage: StoragePlugin) -> Path:
    """A rosbag2 folder."""
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections: dict[str, Any] = {}
        for topic, arrival, message in entries:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=ROS2)
            writer.write(connections[topic], arrival, ROS2.serialize_cdr(message, kind))
    return path


def write_ros1(path: Path, entries: Iterable[Entry]) -> Path:
    """A ROS 1 bag of images."""
    with Writer1(path) as writer:
        connections: dict[str, Any] = {}
        for topic, arrival, message in entries:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=ROS1)
            writer.write(connections[topic], arrival, ROS1.serialize_ros1(_as_ros1(message), kind))
    return path


def _as_ros1(message: Any) -> Any:
    kinds = ROS1.types
    fields = {name: value for name, value in vars(message).items() if name != "__msgtype__"}
    stamp = message.header.stamp
    fields["header"] = kinds["std_msgs/msg/Header"](
        seq=0, stamp=kinds["builtin_interfaces/msg/Time"](stamp.sec, stamp.nanosec), frame_id="eye"
    )
    if "roi" in fields:
        roi = message.roi
        fields["roi"] = kinds["sensor_msgs/msg/RegionOfInterest"](
            roi.x_offset, roi.y_offset, roi.height, roi.width, roi.do_rectify
        )
        fields |= {name.upper(): fields.pop(name) for name in "dkrp"}
    return kinds[message.__msgtype__](**fields)
