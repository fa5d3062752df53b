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

"""The topics and messages in which images come, by transport. Also for the launch files' Python."""

from __future__ import annotations

import importlib

from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from aliked_ros.errors import ConfigurationError

VIDEO = ("h264", "h265")
"""Values of image_transport with a packet for each image."""
VIDEO_MESSAGES = {
    "ffmpeg": ("ffmpeg_image_transport_msgs", "FFMPEGPacket"),
    "foxglove": ("foxglove_msgs", "CompressedVideo"),
}
"""Package and type by the suffix of the topic."""
IMAGE_SUFFIXES = ("compressed", *VIDEO_MESSAGES)
DEPTH_SUFFIXES = ("compressedDepth",)


def subscribed(transport: str, video_messages: str) -> tuple[str, type]:
    """Suffix of the topic, and type of its messages.

    Raises ConfigurationError where the package of the messages is not installed.
    """
    if transport == "raw":
        return "", ImageMessage
    if transport not in VIDEO:
        return f"/{transport}", CompressedImage
    package, name = VIDEO_MESSAGES[video_messages]
    try:
        return f"/{video_messages}", getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:  # not installed, or an old one
        raise ConfigurationError(
            f"image_transport {transport} with video_messages {video_messages} needs ROS's package "
            f"{package} ({error}); install it (apt install "
            f"ros-$ROS_DISTRO-{package.replace('_', '-')}), or publish raw or compressed images."
        ) from error


def remappings(topic: str, given: str) -> list[tuple[str, str]]:
    """Those of an image topic and of its transports' topics."""
    suffixes = DEPTH_SUFFIXES if topic == "depth/image" else IMAGE_SUFFIXES
    return [(topic, given), *((f"{topic}/{name}", f"{given}/{name}") for name in suffixes)]
