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

"""A real node on H.264 and H.265 topics; builds the packages of their messages first."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from helpers import video_messages
from helpers.data import read_rgb
from helpers.ros import RELIABLE, Probe, RosProcess
from helpers.video import Encoded, encode

pytestmark = [pytest.mark.ros, pytest.mark.long]

GROUP = 6
ARGUMENTS = [
    *("-p", "matcher:=nearest", "-p", "max_keypoints:=300", "-p", "status_period:=0.1"),
    *("-p", "image_transport:=h264", "-p", "input_reliability:=reliable"),
]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("messages") / "install"
    video_messages.build(prefix)
    video_messages.load(prefix)
    return prefix


@pytest.fixture(scope="module")
def images(shared: Path) -> list[np.ndarray]:
    files = sorted((shared / "data/tum_fr1_xyz/rgb").glob("*.png"))[:18]
    return [cv2.resize(read_rgb(file), (320, 240)) for file in files]


class Video:
    """A node, and the publisher of its topic."""

    def __init__(self, packages: Path, log: Path) -> None:
        self.probe = Probe()
        self.process = RosProcess(
            "aliked_ros.ros.frontend_node", log, *ARGUMENTS, **video_messages.environment(packages)
        )
        self.probe.wait_for_state("active")
        self.seconds = 1_700_000_000

    def connect(self, transport: str, messages: str, input: str = "mono") -> None:
        """Let the node subscribe, and wait until it has."""
        probe = self.probe
        assert probe.transition("deactivate")
        assert probe.transition("cleanup")
        assert probe.set_parameter("image_transport", transport) == ""
        assert probe.set_parameter("video_messages", messages) == ""
        assert probe.set_parameter("input", input) == ""
        assert probe.transition("configure"), self.process.text()
        assert probe.transition("activate"), self.process.text()
        package, name = {
            "ffmpeg": ("ffmpeg_image_transport_msgs", "FFMPEGPacket"),
            "foxglove": ("foxglove_msgs", "CompressedVideo"),
        }[messages]
        self.kind = getattr(import_module(f"{package}.msg"), name)
        self.publisher = probe.node.create_publisher(self.kind, f"image/{messages}", RELIABLE)
        probe.wait(self.publisher.get_subscription_count)
        probe.wait(lambda: probe.node.count_publishers("/aliked_frontend/features"))
        probe.wait_discovered("aliked_frontend")
        probe.received.clear()
        self.seconds += 1000

    def publish(self, packet: Encoded, codec: str, publisher: Any = None) -> None:
        stamp = Time(sec=self.seconds + packet.index)
        if self.kind.__name__ == "FFMPEGPacket":
            message = self.kind(
                header=Header(stamp=stamp, frame_id="eye"), width=320, height=240, encoding=codec,
                pts=packet.index, flags=int(packet.key), data=packet.data,
            )  # fmt: skip
        else:
            message = self.kind(timestamp=stamp, frame_id="eye", data=packet.data, format=codec)
        (publisher or self.publisher).publish(message)

    def came(self) -> list[int]:
        """The images whose features have come."""
        return [frame.header.stamp.sec - self.seconds for frame in self.probe.features]

    def send(self, packet: Encoded, codec: str) -> None:
        """Publish a packet and wait for its picture's features."""
        self.publish(packet, codec)
        self.probe.wait(lambda: packet.index in self.came())


@pytest.fixture(scope="module")
def video(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Video]:
    one = Video(packages, tmp_path_factory.mktemp("video") / "node.log")
    yield one
    one.process.stop()
    one.probe.close()


@pytest.mark.parametrize(
    ("codec", "messages", "name"),
    [("h264", "ffmpeg", "libx264;yuv420p;bgr8;bgr8"), ("h265", "foxglove", "h265")],
)
def test_features_have_the_stamps_of_their_packets(video, images, codec, messages, name):
    stream = encode(images, codec, group=GROUP)
    video.connect(codec, messages)
    for packet in stream[2:5]:  # joined in the middle
        video.publish(packet, name)
    video.probe.wait(lambda: "no key frame has come yet" in video.probe.status.last_error)
    for packet in stream[GROUP : GROUP + 4]:
        video.send(packet, name)
    assert video.came() == [6, 7, 8, 9]
    assert video.probe.features[0].header.frame_id == "eye"
    assert video.probe.features[-1].track_lengths.tolist().count(4) > 50  # true images: tracks
    for packet in stream[GROUP + 5 : 2 * GROUP]:  # one is lost
        video.publish(packet, name)
    lost = "a packet was lost" if codec == "h264" else "cannot be decoded"
    video.probe.wait(lambda: lost in video.probe.status.last_error)
    for packet in stream[2 * GROUP :]:
        video.send(packet, name)
    assert video.came() == [6, 7, 8, 9, *range(12, 18)]
    topic = f"/image/{messages}"
    assert video.process.text().count(f"No picture on {topic}: no key frame") == 1


def test_images_that_the_worker_skips_are_decoded(video, images):
    stream = encode(images, "h264", group=len(images))  # each needs all before it
    video.connect("h264", "ffmpeg")
    for packet in stream:
        video.publish(packet, "h264")
    video.probe.wait(lambda: 17 in video.came())

    def ended() -> bool:
        status = video.probe.status
        return status.frames_received == status.frames_processed + status.frames_dropped == 18

    video.probe.wait(ended)
    status = video.probe.status
    assert status.frames_refused == 0
    assert status.frames_dropped > 0  # they came faster than they can be processed


def test_b_frames_come_late_and_in_order(video, images):
    stream = encode(images, "h264", between=2, group=GROUP)
    assert [p.index for p in stream] != list(range(18))
    video.connect("h264", "ffmpeg")
    for packet in stream:
        video.publish(packet, "h264")
        video.probe.spin(0.3)
    came = video.came()
    assert came == sorted(came)
    assert len(came) >= 3  # a busy machine takes the newest only
    assert "before that of the image before" not in video.process.text()
    assert {frame.epoch for frame in video.probe.features} == {video.probe.features[0].epoch}


def test_two_videos_are_a_stereo_pair(video, images):
    lefts = encode(images[:4])
    rights = encode([np.roll(image, -8, axis=1) for image in images[:4]])
    video.connect("h264", "ffmpeg", input="stereo")
    right = video.probe.node.create_publisher(video.kind, "right/image/ffmpeg", RELIABLE)
    video.probe.wait(right.get_subscription_count)
    video.probe.wait_discovered("aliked_frontend")
    for left, other in zip(lefts, rights, strict=True):
        video.publish(other, "h264", right)
        video.send(left, "h264")
    assert video.came() == [0, 1, 2, 3]
    for frame in video.probe.features:
        disparities = np.array(frame.keypoints)[::2] - np.array(frame.right_x)
        assert abs(np.nanmedian(disparities) - 8.0) < 0.5
        assert np.isfinite(disparities).sum() > 50


@pytest.mark.parametrize("codec", ["vp9", ""])
def test_an_unknown_codec_is_named(video, images, codec):
    video.connect("h264", "foxglove")
    video.publish(encode(images[:1], "h264")[0], codec)
    words = f"codec '{codec}'; publish h264 or h265"
    video.probe.wait(lambda: words in video.probe.status.last_error)
    video.send(encode(images[:1], "h264")[0], "h264")
