"""The player publishes a source as a camera would, and ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from ros_helpers import BEST_EFFORT, Probe, RosProcess
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage

from aliked_ros.ros.conversions import image_from_message, stamp_from_seconds
from aliked_ros.sources import open_source

pytestmark = pytest.mark.ros

MODULE = "aliked_ros.ros.player"


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frames.csv sequence with a calibration, 20 Hz, colours that name the frame."""
    folder = tmp_path_factory.mktemp("sequence")
    lines = []
    for index in range(8):
        cv2.imwrite(
            str(folder / f"{index}.png"), np.full((48, 64, 3), (0, 0, 20 * index), np.uint8)
        )
        lines.append(f"{index},{1000.25 + index / 20:.6f},{index}.png")
    (folder / "frames.csv").write_text("# index,timestamp_s,image\n" + "\n".join(lines) + "\n")
    (folder / "calib.json").write_text(
        '{"width": 64, "height": 48, "fx": 50.0, "fy": 51.0, "cx": 32.0, "cy": 24.0,'
        ' "distortion_model": "radtan", "distortion": [0.1, 0.2, 0.0, 0.0, 0.0]}'
    )
    return folder


@pytest.fixture
def probe() -> Iterator[Probe]:
    probe = Probe()
    yield probe
    probe.close()


def test_plays_all_images_in_time_with_their_calibration(probe, sequence, tmp_path):
    probe.listen(ImageMessage, "image")
    probe.listen(CameraInfo, "camera_info")
    arguments = ["reliability:=reliable", "stamp:=dataset", "frame_id:=eye", "preload:=3"]
    process = RosProcess(
        MODULE, tmp_path / "log", "-p", f"source:={sequence}",
        *(part for argument in arguments for part in ("-p", argument)),
    )  # fmt: skip
    probe.wait(lambda: len(probe.received["camera_info"]) == 8)
    assert process.wait(20) == 0, process.text()
    assert "Played 8 images" in process.text()
    images = probe.received["image"]
    for message, stored in zip(images, open_source(str(sequence)), strict=True):
        np.testing.assert_array_equal(image_from_message(message).pixels, stored.pixels)
        assert message.header.stamp == stamp_from_seconds(stored.stamp)
        assert (message.header.frame_id, message.encoding) == ("eye", "rgb8")
    took = probe.times["image"][-1] - probe.times["image"][0]
    assert 0.2 < took < 5.0  # 0.35 s of images, on a machine that may be busy
    for image, info in zip(images, probe.received["camera_info"], strict=True):
        assert info.header == image.header
        assert list(info.k) == [50.0, 0.0, 32.0, 0.0, 51.0, 24.0, 0.0, 0.0, 1.0]
        assert (info.distortion_model, list(info.d)[:2]) == ("plumb_bob", [0.1, 0.2])


def test_loops_in_grey_until_interrupted(probe, sequence, tmp_path):
    probe.listen(ImageMessage, "image", BEST_EFFORT)  # as the player offers by default
    process = RosProcess(
        MODULE, tmp_path / "log", "-p", f"source:={sequence}", "-p", "loop:=true",
        "-p", "limit:=2", "-p", "rate:=100.0", "-p", "encoding:=mono8",
    )  # fmt: skip
    probe.wait(lambda: len(probe.received["image"]) >= 10)
    assert process.stop(signal.SIGINT) == 0, process.text()
    assert "Traceback" not in process.text()
    first, last = probe.received["image"][0], probe.received["image"][-1]
    assert first.encoding == "mono8"
    age = probe.times["image"][-1] - (last.header.stamp.sec + last.header.stamp.nanosec * 1e-9)
    assert 0.0 <= age < 5.0  # stamped when published


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["source:=/nowhere"], "source '/nowhere' does not exist"),
        (["source:=virtual", "rate:=fast"], "parameter rate is 'fast'"),
        (["source:=virtual", "stamp:=then"], "choose one of now, dataset"),
        (["source:=virtual", "limit:=-1"], "parameter limit is -1"),
        (["source:=virtual", "wait_timeout:=0.2"], "0 of 1 subscribers of /image"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, arguments, words):
    process = RosProcess(
        MODULE, tmp_path / "log", *(part for argument in arguments for part in ("-p", argument))
    )
    assert process.wait(20) == 1
    assert words in process.text()
    assert "Traceback" not in process.text()
    assert len(process.text().strip().splitlines()) == 1
