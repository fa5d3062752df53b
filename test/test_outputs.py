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

"""VINS-Fusion's and rtabmap's messages, exact stamps, complaints: without processes."""

from __future__ import annotations

import struct
import sys
import time
import types
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError
from aliked_ros.ros.calibration import Calibration
from aliked_ros.ros.complaints import Complaints
from aliked_ros.ros.inputs import Arrival
from aliked_ros.ros.numbering import Numbering
from aliked_ros.ros.outputs import Frame, packed_for_rtabmap
from aliked_ros.ros.parameters import DECLARATIONS
from aliked_ros.ros.rtabmap import packed, rgbd_image
from aliked_ros.ros.vins import CHANNELS, EXACT_IDS, VinsOutput
from aliked_ros.types import Features, FrameResult, Keyframe, Matches, Tracks

MATRIX = np.array([[100.0, 0.0, 50.0], [0.0, 100.0, 40.0], [0.0, 0.0, 1.0]])
CAMERA = CameraModel(100, 80, MATRIX, "plumb_bob", np.zeros(5))
HEADER = Header(stamp=Time(sec=3, nanosec=4), frame_id="left")


def result_of(
    ids: list[int], pixels: list[tuple[float, float]], stamp: float = 0.0, epoch: int = 0, **more
) -> FrameResult:
    keypoints = np.array(pixels, np.float32).reshape(-1, 2)
    count = len(ids)
    descriptors = np.eye(count, 128, dtype=np.float32)
    scores = np.linspace(1.0, 0.5, count, dtype=np.float32)
    features = Features(keypoints, scores, descriptors, 100, 80, "aliked-n16")
    tracks = Tracks(np.array(ids, np.uint64), np.ones(count, np.uint32), epoch)
    normalized = CAMERA.normalize(keypoints)
    more.setdefault("normalized", normalized)
    return FrameResult(0, stamp, features, Matches.empty(), tracks, **more)


def table_of(message: PointCloud) -> tuple[np.ndarray, np.ndarray]:
    """Points N×3 and channels N×9 after the wire."""
    message = deserialize_message(serialize_message(message), PointCloud)
    assert [channel.name for channel in message.channels] == list(CHANNELS)
    points = np.array([(p.x, p.y, p.z) for p in message.points]).reshape(-1, 3)
    return points, np.array([channel.values for channel in message.channels]).T


def test_vins_gets_nine_channels_and_velocities_by_track():
    vins = VinsOutput()
    first = result_of([1, 2, 3], [(60, 40), (50, 50), (10, 10)], stamp=10.0)
    points, table = table_of(vins.message(first, CAMERA, HEADER))
    np.testing.assert_allclose(points, [(0.1, 0, 1), (0, 0.1, 1), (-0.4, -0.3, 1)], atol=1e-6)
    assert table[:, 0].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(table[:, 2:4], first.features.keypoints)
    assert not table[:, [1, 4, 5, 6, 7, 8]].any()
    second = result_of([4, 3, 1], [(70, 70), (20, 10), (60, 45)], stamp=10.5)
    message = vins.message(second, CAMERA, HEADER)
    assert message.header == HEADER
    _, table = table_of(message)
    assert table[:, 0].tolist() == [4, 3, 1]
    np.testing.assert_allclose(table[:, 4:6], [(0, 0), (0.2, 0), (0, 0.1)], atol=1e-6)


def test_vins_gets_the_right_camera_after_the_left():
    vins = VinsOutput()
    right_x = np.array([55.0, np.nan], np.float32)
    for stamp, shift in ((0.0, 0.0), (0.1, 1.0)):
        result = result_of([1, 2], [(60, 40), (50, 50)], stamp, right_x=right_x + shift)
        points, table = table_of(vins.message(result, CAMERA, HEADER))
        assert table[:, :2].tolist() == [[1, 0], [2, 0], [1, 1]]
        np.testing.assert_allclose(points[2], (0.05 + shift / 100, 0.0, 1.0), atol=1e-6)
        np.testing.assert_allclose(table[2, 2:4], (55 + shift, 40))
    np.testing.assert_allclose(table[:, 4:6], [(0, 0), (0, 0), (0.1, 0)], atol=1e-5)


def test_vins_needs_normalized_and_leaves_out_what_the_lens_cannot_see():
    vins = VinsOutput()
    assert vins.message(result_of([1], [(60, 40)], normalized=None), CAMERA, HEADER) is None
    partly = np.array([(0.1, 0.0), (np.nan, np.nan)], np.float32)
    result = result_of([1, 2], [(60, 40), (0, 0)], normalized=partly)
    _, table = table_of(vins.message(result, CAMERA, HEADER))
    assert table[:, 0].tolist() == [1]
    _, table = table_of(vins.message(result_of([], []), CAMERA, HEADER))
    assert len(table) == 0


def test_ids_for_vins_never_come_back_in_another_epoch_and_stay_exact():
    vins = VinsOutput()
    vins.message(result_of([5, 9], [(1, 1), (2, 2)], epoch=0), CAMERA, HEADER)
    _, table = table_of(vins.message(result_of([1, 2], [(1, 1), (2, 2)], 1.0, 1), CAMERA, HEADER))
    assert table[:, 0].tolist() == [11, 12]
    assert not table[:, 4:6].any()
    assert not vins.wrapped
    large = [EXACT_IDS - 11, EXACT_IDS - 9]
    _, table = table_of(vins.message(result_of(large, [(1, 1), (2, 2)], 2.0, 1), CAMERA, HEADER))
    assert table[:, 0].tolist() == [EXACT_IDS - 1, 1]
    assert vins.wrapped


def unpacked(data: bytes) -> np.ndarray:
    """As rtabmap::uncompressData reads it."""
    rows, columns, kind = struct.unpack("<3i", data[-12:])
    assert kind == cv2.CV_32FC1 == 5
    return np.frombuffer(zlib.decompress(data[:-12]), np.float32).reshape(rows, columns)


@pytest.mark.parametrize("shape", [(1, 64), (300, 128)])
def test_descriptors_are_packed_as_rtabmap_reads_them(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(unpacked(packed(matrix)), matrix)
    np.testing.assert_array_equal(unpacked(packed(matrix[:, ::2])), matrix[:, ::2])
    assert packed(matrix[:0]) == b""


class Fields:
    """Stands for a message of rtabmap_msgs, which the registries do not have."""

    def __init__(self, **fields) -> None:
        self.__dict__.update(fields)


@pytest.fixture
def rtabmap_msgs(monkeypatch):
    module = types.ModuleType("rtabmap_msgs.msg")
    for name in ("RGBDImage", "KeyPoint", "Point2f", "Point3f"):
        setattr(module, name, type(name, (Fields,), {}))
    monkeypatch.setitem(sys.modules, "rtabmap_msgs", types.ModuleType("rtabmap_msgs"))
    monkeypatch.setitem(sys.modules, "rtabmap_msgs.msg", module)


@pytest.mark.usefixtures("rtabmap_msgs")
def test_rtabmap_gets_keypoints_points_and_descriptors():
    depth = np.array([2.0, np.nan], np.float32)
    result = result_of([1, 2], [(60, 40), (50, 50)], depth=depth)
    image, partner = CompressedImage(header=HEADER, format="jpeg"), ImageMessage(encoding="16UC1")
    info = CameraInfo(width=100)
    message = rgbd_image(result, image, partner, (info, None))
    assert message.header == HEADER
    assert (message.rgb_compressed, message.depth) == (image, partner)
    assert message.rgb_camera_info == info
    assert not hasattr(message, "depth_camera_info")
    assert [(k.pt.x, k.pt.y) for k in message.key_points] == [(60, 40), (50, 50)]
    assert [k.response for k in message.key_points] == [1.0, 0.5]
    points = [(p.x, p.y, p.z) for p in message.points]
    np.testing.assert_allclose(points, [(0.2, 0.0, 2.0), (np.nan,) * 3], atol=1e-6)
    np.testing.assert_array_equal(unpacked(message.descriptors), result.features.descriptors)
    message = rgbd_image(replace(result, depth=None), image, None, (None, None))
    assert not hasattr(message, "points")


@pytest.mark.usefixtures("rtabmap_msgs")
@pytest.mark.parametrize("stereo", [False, True])
def test_rtabmap_gets_the_camera_infos_of_both_images(stereo):
    calibration = Calibration("camera_info", "right/camera_info", True, Complaints(print, print))
    matrix = [100.0, 0.0, 50.0, 0.0, 0.0, 100.0, 40.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    calibration.set_info(CameraInfo(width=100, height=80, p=matrix))
    if stereo:
        matrix[3] = -20.0
        calibration.set_right_info(CameraInfo(width=100, height=80, p=matrix))
        assert calibration.baseline == pytest.approx(0.2)
    arrival = Arrival(ImageMessage(header=HEADER), 0.0, 0.0, partner=ImageMessage(width=7))
    third = {"right_x" if stereo else "depth": np.float32([50.0])}
    result = result_of([1], [(60, 40)], **third)
    frame = Frame(arrival, np.zeros((80, 100), np.uint8), result, HEADER.stamp)
    message = packed_for_rtabmap(frame, calibration)
    assert message.rgb_camera_info.header == message.depth_camera_info.header == HEADER
    assert calibration.info.header == Header()  # the kept one stays comparable
    assert message.depth_camera_info.p[3] == (-20.0 if stereo else 0.0)
    assert message.depth.width == 7
    refused = replace(frame, result=replace(result, right_x=None, depth=None))
    assert not hasattr(packed_for_rtabmap(refused, calibration), "depth")


def test_rtabmap_is_refused_where_its_messages_are_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "rtabmap_msgs", None)
    (declaration,) = [d for d in DECLARATIONS if d.name == "publish_rtabmap"]
    assert declaration.checked(False) is False
    with pytest.raises(ConfigurationError, match=r"needs ROS's package rtabmap_msgs .*install"):
        declaration.checked(True)


def test_numbers_and_stamps_are_the_nodes_own():
    numbering = Numbering()
    result = result_of([1], [(1, 1)])
    features, tracks = result.features, result.tracks
    stamps = [Time(sec=1_700_000_000, nanosec=123_456_700 + i) for i in range(6)]
    keyframes = []
    for i, stamp in enumerate(stamps):
        seconds = 1_700_000_000.1234567
        raw = replace(
            result, index=10 + i, stamp=seconds,
            reference_index=9 + i if i else None, reference_stamp=seconds if i else None,
        )  # fmt: skip
        if i == 1:
            keyframes.append(Keyframe(raw.index, seconds, features, tracks))
        renumbered = numbering.renumbered(raw, stamp, keyframes)
        assert renumbered.index == i
        assert renumbered.reference_index == (i - 1 if i else None)
        assert numbering.reference_stamp(renumbered) == stamps[max(i - 1, 0)]
    assert numbering.stamp(1, 0.0) == stamps[1]  # the keyframe's
    assert numbering.stamp(3, 7.5) == Time(sec=7, nanosec=500_000_000)  # forgotten
    first = numbering.epoch(0)
    numbering.retire(epoch=2)
    numbering.restart()
    renumbered = numbering.renumbered(replace(result, index=99), stamps[0], [])
    assert (renumbered.index, renumbered.tracks.epoch) == (0, first + 3)
    assert numbering.epoch(1) == first + 4


def test_epochs_do_not_come_again_when_the_node_is_started_again(monkeypatch):
    """After a crash at 30 resets a second, too; and in 2106, when seconds leave 32 bits."""
    for start in (time.time(), 2.0**32):
        monkeypatch.setattr(time, "time", lambda start=start: start)
        crashed = Numbering()
        old = {crashed.epoch(resets) for resets in range(60 * 30)}
        monkeypatch.setattr(time, "time", lambda start=start: start + 60.0)
        assert Numbering().epoch(0) not in old
        assert all(0 <= epoch < 2**32 for epoch in old)


def test_complaints_stand_until_settled_and_are_logged_once():
    log, remembered = [], []
    complaints = Complaints(log.append, remembered.append)
    for number in range(3):
        complaints.file("right", f"wrong {number}.")
    complaints.file("mask", "bad.")
    assert str(complaints) == "wrong 2. bad."
    assert log == ["wrong 0.", "bad."]
    assert remembered[-2:] == ["wrong 2.", "bad."]
    complaints.settle("right")
    complaints.settle("right")
    complaints.file("right", "wrong 3.")  # comes and goes: no second line within seconds
    assert str(complaints) == "bad. wrong 3."
    complaints.mention("no camera.")
    complaints.mention("no camera.")
    assert log == ["wrong 0.", "bad.", "no camera."]
    complaints.clear()
    assert str(complaints) == ""
    complaints.mention("no camera.")
    assert len(log) == 4
