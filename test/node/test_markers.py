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

"""~/tracks/markers and ~/annotations of a running node: made for subscribers only."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from aliked_ros.ros.conversions import image_message
from aliked_ros.sources import open_source
from helpers.ros import RELIABLE, Probe, RosProcess

INSTALLED = importlib.util.find_spec("foxglove_msgs") is not None


needs_foxglove = pytest.mark.skipif(
    not INSTALLED,
    reason="foxglove_msgs is not installed (apt install ros-$ROS_DISTRO-foxglove-msgs)",
)


class Rig:
    """A running front-end, and a camera that sends it images."""

    def __init__(self, log: Path) -> None:
        arguments = ["backend:=cpu", "matcher:=nearest", "max_keypoints:=300", "status_period:=0.1"]
        options = [word for argument in arguments for word in ("-p", argument)]
        self.probe = Probe()
        self.infos = self.probe.node.create_publisher(CameraInfo, "camera_info", RELIABLE)
        self.process = RosProcess("aliked_ros.ros.frontend_node", log, *options)
        images = open_source("virtual", 30)
        # bright: what is drawn dark stands out
        self.pixels = [cv2.resize(image.pixels // 2 + 100, (320, 240)) for image in images]
        self.sent = 0

    def send(self) -> ImageMessage:
        """Send the next image; returns it when its features are back."""
        self.sent += 1
        stamp = Time(sec=1_700_000_000 + self.sent)
        pixels = self.pixels[self.sent % len(self.pixels)]
        message = image_message(pixels, Header(stamp=stamp, frame_id="left_optical"))
        self.probe.send(message)
        return message

    def watch(self, kind: type, topic: str):
        """Subscribe, and wait until the node knows."""
        subscription = self.probe.listen(kind, f"aliked_frontend/{topic}")
        self.probe.wait(lambda: self.probe.node.count_publishers(f"/aliked_frontend/{topic}"))
        self.probe.wait_discovered("aliked_frontend")
        return subscription

    def unwatch(self, subscription) -> None:
        self.probe.node.destroy_subscription(subscription)
        self.probe.spin(0.5)

    def calibrate(self) -> None:
        """Publish a CameraInfo."""
        matrix = [260.0, 0.0, 160.0, 0.0, 260.0, 120.0, 0.0, 0.0, 1.0]
        self.infos.publish(
            CameraInfo(width=320, height=240, distortion_model="plumb_bob", d=[0.0] * 5, k=matrix)
        )

    def first(self, topic: str):
        """The first message on a topic, of images sent until it comes."""
        self.probe.received[topic].clear()
        for _ in range(60):
            self.send()
            self.probe.spin(0.1)
            if self.probe.received[topic]:
                return self.probe.received[topic][0]
        raise AssertionError(f"nothing on {topic}: {self.process.text()}")

    def stages(self) -> list[str]:
        """The stages in the status after all images sent until now."""
        processed = self.probe.status.frames_processed
        self.send()
        self.probe.wait(lambda: self.probe.status.frames_processed > processed)
        return list(self.probe.status.stage_names)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("markers") / "log")
    try:
        rig.probe.wait_for_state("active")
        rig.probe.wait_connected()
        yield rig
        status = rig.process.stop()
        assert status == 0, rig.process.text()
        assert "Traceback" not in rig.process.text()
    finally:
        rig.process.process.kill()
        rig.probe.close()


@pytest.mark.ros
@pytest.mark.long
class TestNode:
    """In this order: nobody looks, then somebody does."""

    def test_nothing_is_drawn_while_nobody_looks(self, rig: Rig):
        for _ in range(5):
            rig.send()
        assert "total" in rig.stages()
        assert "draw" not in rig.stages()

    def test_markers_need_a_camera_info_and_the_node_says_so_once(self, rig: Rig):
        subscription = rig.watch(MarkerArray, "tracks/markers")
        for _ in range(5):
            rig.send()
        rig.probe.wait(lambda: "draw" in rig.stages())
        assert not rig.probe.received["tracks/markers"]
        assert rig.process.text().count("Nothing on ~/tracks/markers") == 1
        rig.calibrate()
        points, _ = rig.first("tracks/markers").markers
        frame_ids = {image.header.frame_id for image in rig.probe.features}
        assert {points.header.frame_id} == frame_ids == {"left_optical"}
        features = next(f for f in rig.probe.features if f.header == points.header)
        rays = np.array(features.normalized).reshape(-1, 2)
        shown = [(point.x, point.y) for point in points.points]
        np.testing.assert_allclose(shown, rays, atol=1e-6)
        rig.unwatch(subscription)

    def test_no_more_pictures_than_asked_for(self, rig: Rig):
        subscription = rig.watch(ImageMessage, "tracks/image")
        pictures = rig.probe.received["tracks/image"]
        counts = []
        for rate in (1.0, 0.0):
            assert rig.probe.set_parameter("picture_rate", rate) == ""
            before, begin = len(pictures), time.monotonic()
            for _ in range(12):
                rig.send()
                rig.probe.spin(0.05)  # to draw it
            rig.probe.spin(0.5)
            counts.append(len(pictures) - before)
            if rate:
                assert 1 <= counts[0] <= 2 + rate * (time.monotonic() - begin)
        assert counts[0] < counts[1]
        assert rig.probe.set_parameter("picture_rate", 10.0) == ""
        rig.unwatch(subscription)

    def test_text_and_legend_can_be_switched_while_it_draws(self, rig: Rig):
        subscription = rig.watch(ImageMessage, "tracks/image")
        bars = {}
        for shown in (True, False):
            assert rig.probe.set_parameter("draw_text", shown) == ""
            assert rig.probe.set_parameter("draw_legend", shown) == ""
            message = rig.first("tracks/image")
            assert message.header in [f.header for f in rig.probe.features]
            picture = np.frombuffer(message.data, np.uint8).reshape(240, 320, 3)
            bars[shown] = [float(np.median(rows)) for rows in (picture[:15], picture[-15:, :200])]
        assert bars[True][0] < 0.6 * bars[False][0]  # the bars are dark
        assert bars[True][1] < 0.6 * bars[False][1]
        rig.unwatch(subscription)

    @needs_foxglove
    def test_annotations_go_with_the_image(self, rig: Rig):
        from foxglove_msgs.msg import ImageAnnotations, PointsAnnotation

        subscription = rig.watch(ImageAnnotations, "annotations")
        lines, dots = rig.first("annotations").points
        features = next(f for f in rig.probe.features if f.header.stamp == dots.timestamp)
        expected = np.array(features.keypoints).reshape(-1, 2) + 0.5
        np.testing.assert_allclose([(p.x, p.y) for p in dots.points], expected, atol=1e-4)
        assert dots.type == PointsAnnotation.POINTS
        assert len(dots.outline_colors) == len(dots.points)
        assert lines.type == PointsAnnotation.LINE_LIST
        assert len(lines.points) == 2 * len(lines.outline_colors)
        rig.unwatch(subscription)

    def test_deactivation_takes_the_markers_away(self, rig: Rig):
        rig.watch(MarkerArray, "tracks/markers")
        rig.calibrate()
        assert rig.first("tracks/markers").markers[0].action == Marker.ADD
        assert rig.probe.transition("deactivate")
        messages = rig.probe.received["tracks/markers"]
        rig.probe.wait(lambda: messages[-1].markers[0].action == Marker.DELETEALL)
        assert rig.probe.transition("activate")
        rig.probe.wait_connected()
        rig.calibrate()
        assert rig.first("tracks/markers").markers[0].action == Marker.ADD
