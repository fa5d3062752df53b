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

from aliked_ros.ros.conversions import (
    depth_from_message,
    image_from_message,
    seconds,
    stamp_from_seconds,
)
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


@pytest.fixture(scope="module")
def pairs(sequence: Path) -> Path:
    """The same with right images and depth images of all but the last; a baseline of 0.2 m."""
    folder = sequence.with_name("pairs")
    for kind in ("image_0", "image_1", "depth"):
        (folder / kind).mkdir(parents=True)
    table, associations = [], []
    for index in range(4):
        pixels = cv2.imread(str(sequence / f"{index}.png"))
        cv2.imwrite(str(folder / "image_0" / f"{index}.png"), pixels)
        table.append(f"{index},{1000 + index / 20},image_0/{index}.png")
        if index < 3:
            cv2.imwrite(str(folder / "image_1" / f"{index}.png"), pixels + 7)
            depth = np.full((48, 64), 5000 + index, np.uint16)
            depth[0, :2] = (0, 65535)
            cv2.imwrite(str(folder / "depth" / f"{index}.png"), depth)
            associations.append(f"0 image_0/{index}.png 0 depth/{index}.png")
    (folder / "frames.csv").write_text("\n".join(table))
    (folder / "associations.txt").write_text("\n".join(associations))
    (folder / "calib.json").write_text(
        '{"width": 64, "height": 48, "fx": 50.0, "fy": 51.0, "cx": 32.0, "cy": 24.0,'
        ' "stereo_baseline_m": 0.2, "depth_scale": 500}'
    )
    return folder


def play(probe: Probe, folder: Path, log: Path, *arguments: str) -> None:
    """Play a sequence whole, with its own stamps, to the probe."""
    fixed = (f"source:={folder}", "reliability:=reliable", "stamp:=dataset")
    process = RosProcess(
        MODULE, log, *(part for argument in fixed + arguments for part in ("-p", argument))
    )
    probe.wait(lambda: not process.alive())
    assert process.wait(1) == 0, process.text()
    probe.spin(0.2)


def test_plays_stereo_pairs(probe, pairs, tmp_path):
    for name in ("image", "right/image"):
        probe.listen(ImageMessage, name)
    for name in ("camera_info", "right/camera_info"):
        probe.listen(CameraInfo, name)
    play(probe, pairs, tmp_path / "log", "publish:=stereo")
    images, rights = probe.received["image"], probe.received["right/image"]
    assert (len(images), len(rights)) == (4, 3)  # the last has no right image
    for left, right in zip(images, rights, strict=False):
        assert right.header == left.header
        difference = image_from_message(right).pixels.astype(int) - image_from_message(left).pixels
        assert (difference == 7).all()
    left_info, right_info = (
        probe.received[name][0] for name in ("camera_info", "right/camera_info")
    )
    assert len(probe.received["right/camera_info"]) == 3
    assert list(left_info.p)[:4] == [50.0, 0.0, 32.0, 0.0]
    assert list(right_info.p)[:4] == [50.0, 0.0, 32.0, -10.0]
    assert right_info.header == rights[0].header


def test_stereo_needs_the_baseline(pairs, tmp_path):
    (tmp_path / "image_0").symlink_to(pairs / "image_0")
    (tmp_path / "image_1").symlink_to(pairs / "image_1")
    calibration = (pairs / "calib.json").read_text().replace("0.2", "0.0")
    (tmp_path / "calib.json").write_text(calibration)
    (tmp_path / "frames.csv").write_text("0,0.0,image_0/0.png")
    process = RosProcess(
        MODULE, tmp_path / "log", "-p", f"source:={tmp_path}", "-p", "publish:=stereo"
    )
    assert process.wait(20) == 1
    assert "stereo_baseline_m 0.0" in process.text()
    assert "Traceback" not in process.text()


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_plays_depth(probe, pairs, tmp_path, encoding):
    probe.listen(ImageMessage, "image")
    probe.listen(ImageMessage, "depth/image")
    play(probe, pairs, tmp_path / "log", "publish:=rgbd", f"depth_encoding:={encoding}",
         "partner_offset:=0.25")  # fmt: skip
    images, depths = probe.received["image"], probe.received["depth/image"]
    assert (len(images), len(depths)) == (4, 3)
    for index, (image, message) in enumerate(zip(images, depths, strict=False)):
        assert message.encoding == encoding
        assert seconds(message.header.stamp) - seconds(image.header.stamp) == pytest.approx(0.25)
        depth = depth_from_message(message)
        assert depth[20, 20] == pytest.approx((5000 + index) / 500)
        assert np.isnan(depth[0, 0])
        # 131 m are more than 16 bits of millimetres hold
        assert np.isnan(depth[0, 1]) if encoding == "16UC1" else depth[0, 1] == 65535 / 500


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["source:=/nowhere"], "source '/nowhere' does not exist"),
        (["source:=virtual", "rate:=fast"], "parameter rate is 'fast'"),
        (["source:=virtual", "stamp:=then"], "choose one of now, dataset"),
        (["source:=virtual", "limit:=-1"], "parameter limit is -1"),
        (["source:=virtual", "publish:=stereo"], "source 'virtual' has no right images"),
        (["source:={sequence}", "publish:=rgbd"], "has no depth images (depth_scale"),
        (["source:=virtual", "wait_timeout:=0.2"], "0 of 1 subscribers of /image"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, sequence, arguments, words):
    arguments = [argument.format(sequence=sequence) for argument in arguments]
    process = RosProcess(
        MODULE, tmp_path / "log", *(part for argument in arguments for part in ("-p", argument))
    )
    assert process.wait(20) == 1
    assert words in process.text()
    assert "Traceback" not in process.text()
    assert len(process.text().strip().splitlines()) == 1
