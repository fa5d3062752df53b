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

"""VINS-Fusion's and rtabmap's messages, exact stamps, warnings: without processes."""

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

import rclpy
from builtin_interfaces.msg import Time
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, PointCloud
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError
from aliked_ros.io.drawing import Trails
from aliked_ros.ros.calibration import Calibration
from aliked_ros.ros.conversions import (
    depth_from_message,
    image_from_message,
    image_message,
    jpeg,
)
from aliked_ros.ros.frame import AnyImage, Frame, OutputContext
from aliked_ros.ros.numbering import Epochs, Numbering
from aliked_ros.ros.outputs import OUTPUTS, Outputs, advertise
from aliked_ros.ros.parameters import DECLARATIONS
from aliked_ros.ros.rtabmap import RtabmapOutput, packed
from aliked_ros.ros.vins import CHANNELS, EXACT_IDS, VinsOutput
from aliked_ros.ros.warnings import Warnings
from aliked_ros.types import Features, FrameResult, Image, Keyframe, Matches, Tracks
from helpers import ROOT

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


def test_vins_gets_nine_channels_and_velocities_of_what_was_seen_twice():
    vins = VinsOutput()
    first = result_of([1, 2, 3], [(60, 40), (50, 50), (10, 10)], stamp=10.0)
    _, table = table_of(vins.message(first, CAMERA, HEADER))
    assert len(table) == 0
    second = result_of([4, 3, 1], [(70, 70), (20, 10), (60, 45)], stamp=10.5)
    message = vins.message(second, CAMERA, HEADER)
    assert message.header == HEADER
    points, table = table_of(message)
    np.testing.assert_allclose(points, [(-0.3, -0.3, 1), (0.1, 0.05, 1)], atol=1e-6)
    np.testing.assert_array_equal(table[:, 2:4], second.features.keypoints[1:])
    np.testing.assert_allclose(table[:, 4:6], [(0.2, 0), (0, 0.1)], atol=1e-6)
    assert not table[:, [1, 6, 7, 8]].any()
    third = result_of([1, 4], [(60, 45), (70, 75)], stamp=11.0)
    _, then = table_of(vins.message(third, CAMERA, HEADER))
    assert then[0, 0] == table[1, 0]
    assert then[1, 0] not in table[:, 0]
    np.testing.assert_allclose(then[:, 4:6], [(0, 0), (0, 0.1)], atol=1e-6)


def test_vins_gets_no_velocity_where_time_stands_still():
    vins = VinsOutput()
    for x in (10, 20):
        message = vins.message(result_of([1], [(x, 10)], stamp=5.0), CAMERA, HEADER)
    _, table = table_of(message)
    assert len(table) == 1
    assert not table[:, 4:6].any()


def test_vins_gets_the_right_camera_after_the_left():
    vins = VinsOutput()
    right_x = np.array([55.0, np.nan], np.float32)
    for stamp, shift in ((0.0, 0.0), (0.1, 1.0)):
        result = result_of([1, 2], [(60, 40), (50, 50)], stamp, right_x=right_x + shift)
        points, table = table_of(vins.message(result, CAMERA, HEADER))
    ids = table[:2, 0].tolist()
    assert table[:, :2].tolist() == [[ids[0], 0], [ids[1], 0], [ids[0], 1]]
    np.testing.assert_allclose(points[2], (0.06, 0.0, 1.0), atol=1e-6)
    np.testing.assert_allclose(table[2, 2:4], (56, 40))
    np.testing.assert_allclose(table[:, 4:6], [(0, 0), (0, 0), (0.1, 0)], atol=1e-5)
    result = result_of([1, 2], [(60, 40), (50, 50)], 0.2, right_x=right_x[::-1] - 10)
    _, table = table_of(vins.message(result, CAMERA, HEADER))
    assert table[:, :2].tolist() == [[ids[0], 0], [ids[1], 0], [ids[1], 1]]
    assert not table[2, 4:6].any()  # the right camera had not seen it before


def test_vins_needs_normalized_and_leaves_out_what_the_lens_cannot_see():
    vins = VinsOutput()
    assert vins.message(result_of([1], [(60, 40)], normalized=None), CAMERA, HEADER) is None
    partly = np.array([(0.1, 0.0), (np.nan, np.nan)], np.float32)
    right_x = np.float32([50.0, 50.0])  # VINS stops where it sees a point on the right alone
    for _ in range(2):
        result = result_of([1, 2], [(60, 40), (0, 0)], normalized=partly, right_x=right_x)
        _, table = table_of(vins.message(result, CAMERA, HEADER))
    assert table[:, :2].tolist() == [[1, 0], [1, 1]]
    _, table = table_of(vins.message(result_of([], []), CAMERA, HEADER))
    assert len(table) == 0


@pytest.mark.usefixtures("rtabmap_msgs")
def test_vins_and_rtabmap_get_nothing_that_moves():
    vins = VinsOutput()
    result = result_of([1, 2], [(60, 40), (50, 50)], depth=np.float32([2.0, 2.0]))
    result = replace(result, tracks=replace(result.tracks, objects=np.array([0, 1], np.uint32)))
    for _ in range(2):
        _, table = table_of(vins.message(result, CAMERA, HEADER))
    assert len(table) == 1
    partner = depth_message(np.full((80, 100), 2.0))
    message = rtabmap_message(result, GREY, partner)
    assert [(k.pt.x, k.pt.y) for k in message.key_points] == [(60, 40)]
    assert len(message.points) == 1


def test_vins_counts_right_over_gaps_black_images_and_epochs():
    """Its reader takes observation j of an id for the one in message (first + j) of that id."""
    rng = np.random.default_rng(7)
    vins = VinsOutput()
    first: dict[int, int] = {}
    count: dict[int, int] = {}
    points: dict[int, set] = {}  # of the scene, by id of VINS
    wanted = shown = 0
    before: set = set()
    for index in range(200):
        epoch = index // 80
        seen = sorted(np.flatnonzero(rng.random(60) < 0.8).tolist())
        if index % 50 in (20, 21):
            seen = []  # black images
        pixels = [(one, 40 + epoch) for one in seen]
        result = result_of([one + 1 for one in seen], pixels, index / 10, epoch)
        _, table = table_of(vins.message(result, CAMERA, HEADER))
        assert len(set(table[:, 0])) == len(table)
        for one in table:
            number = int(one[0])
            first.setdefault(number, index)
            count[number] = count.get(number, 0) + 1
            assert first[number] + count[number] - 1 == index
            points.setdefault(number, set()).add(tuple(one[2:4]))
        wanted += len(before & set(pixels))
        before = set(pixels)
        shown += len(table)
    assert shown == wanted > 5000
    assert all(len(places) == 1 for places in points.values())


def test_vins_is_given_what_its_window_holds():
    """Of 1000 tracks 400: those it has stay, the best of the others come, from all the image."""
    rng = np.random.default_rng(3)
    vins = VinsOutput()
    pixels = rng.uniform((0, 0), (100, 80), (1000, 2))
    pixels[:800] = rng.uniform((0, 0), (20, 20), (800, 2))  # the best are in a corner
    ids = np.arange(1, 1001)
    before: set[tuple[float, ...]] = set()
    window: list[set[float]] = []
    for index in range(30):
        lost = rng.random(1000) < 0.1
        ids[lost] = np.arange(ids.max() + 1, ids.max() + 1 + lost.sum())
        result = result_of(ids.tolist(), pixels.tolist(), index / 10)
        _, table = table_of(vins.message(result, CAMERA, HEADER))
        assert len(table) == (400 if index else 0)
        assert vins.cut == (index > 0)
        now = {tuple(place) for place in table[:, 2:4].tolist()}
        still = {tuple(np.float32(place).tolist()) for place in pixels[~lost]}
        assert not before & still - now
        before = now
        window = [*window[-10:], set(table[:, 0])]
        sights = [sum(one in message for message in window) for one in set().union(*window)]
        assert sum(sight >= 4 for sight in sights) < 1000
    assert (np.array(list(now)) > 20).any(axis=1).sum() > 100


@pytest.fixture
def node():
    context = Context()
    rclpy.init(context=context)
    node = LifecycleNode("outputs", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def outputs_of(
    node: LifecycleNode, log: list[str], **settings: bool
) -> tuple[Outputs, OutputContext]:
    """The outputs of an active node with these settings; what it warns of goes into the log."""
    values = {item.name: item.default for item in DECLARATIONS} | settings
    calibration = Calibration("camera_info", "right/camera_info", True, Warnings(print, print))
    context = OutputContext(values, Warnings(log.append, print), calibration, "cpu", Trails(15))
    return Outputs(node, advertise(node, values), context), context


def frame_of(message: AnyImage, result: FrameResult, partner: AnyImage | None = None) -> Frame:
    frame = Frame(message, 0.0, partner)
    frame.image = Image(np.zeros((80, 100), np.uint8), 0.0)
    frame.result, frame.reference_stamp = result, HEADER.stamp
    return frame


@pytest.mark.ros
def test_the_node_says_once_that_vins_is_given_a_selection(node):
    log: list[str] = []
    outputs, context = outputs_of(node, log, publish_vins=True)
    context.calibration.camera = CAMERA
    for count in (400, 400, 401, 401, 401):
        places = [(0.1 * one, 10.0) for one in range(count)]
        result = result_of([*range(1, count + 1)], places)
        outputs.messages(frame_of(ImageMessage(header=HEADER), result))
    outputs.close()
    assert [line.startswith("More than 400 tracks: ~/vins_feature has") for line in log] == [True]


def test_ids_for_vins_never_come_back_in_another_epoch_and_stay_exact():
    vins = VinsOutput()

    def shown(epoch: int) -> list[float]:
        for _ in range(2):
            result = result_of([1, 2], [(1, 1), (2, 2)], epoch=epoch)
            _, table = table_of(vins.message(result, CAMERA, HEADER))
        return table[:, 0].tolist()

    assert len({*shown(0), *shown(1)}) == 4
    assert not vins.wrapped
    vins._next_id = EXACT_IDS - 1
    assert shown(2) == [EXACT_IDS - 1, 0]
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


class AnyMessage(Header):
    """A message type that a topic can have, and that takes the fields of an RGBDImage."""

    def __init__(self, header: Header) -> None:
        super().__init__()
        self.header = header


@pytest.fixture
def rtabmap_msgs(monkeypatch):
    module = types.ModuleType("rtabmap_msgs.msg")
    for name in ("RGBDImage", "KeyPoint", "Point2f", "Point3f"):
        setattr(module, name, type(name, (Fields,), {}))
    monkeypatch.setitem(sys.modules, "rtabmap_msgs", types.ModuleType("rtabmap_msgs"))
    monkeypatch.setitem(sys.modules, "rtabmap_msgs.msg", module)


def rtabmap_message(
    result: FrameResult,
    image: AnyImage,
    partner: AnyImage | None = None,
    camera: CameraModel = CAMERA,
    right: tuple[CameraInfo | None, float | None] = (None, None),
):
    pixels = image_from_message(image).pixels
    return RtabmapOutput().message(result, camera, image, pixels, partner, right)


GREY = image_message(np.random.default_rng(2).integers(0, 255, (80, 100), np.uint8), HEADER)


def depth_message(metres: np.ndarray) -> ImageMessage:
    height, width = metres.shape
    data = np.nan_to_num(1000 * metres).astype("<u2").tobytes()
    return ImageMessage(
        header=HEADER, height=height, width=width, step=2 * width, encoding="16UC1", data=data
    )


@pytest.mark.usefixtures("rtabmap_msgs")
def test_rtabmap_gets_keypoints_points_and_descriptors():
    depth = np.array([2.0, np.nan], np.float32)
    result = result_of([1, 2], [(60, 40), (50, 50)], depth=depth)
    partner = depth_message(np.full((80, 100), 2.0))
    message = rtabmap_message(result, GREY, partner)
    assert message.header == HEADER
    assert (message.rgb, message.depth) == (GREY, partner)
    for info in (message.rgb_camera_info, message.depth_camera_info):
        assert (info.header, info.width, info.height) == (HEADER, 100, 80)
        assert info.p.tolist() == [100, 0, 50, 0, 0, 100, 40, 0, 0, 0, 1, 0]
    assert [(k.pt.x, k.pt.y) for k in message.key_points] == [(60, 40), (50, 50)]
    assert [k.response for k in message.key_points] == [1.0, 0.5]
    points = [(p.x, p.y, p.z) for p in message.points]
    np.testing.assert_allclose(points, [(0.2, 0.0, 2.0), (np.nan,) * 3], atol=1e-6)
    np.testing.assert_array_equal(unpacked(message.descriptors), result.features.descriptors)
    message = rtabmap_message(replace(result, depth=None), GREY)
    assert not hasattr(message, "points")
    assert not hasattr(message, "depth")


TUM = CameraModel(
    640, 480, np.array([[517.3, 0, 318.6], [0, 516.5, 255.3], [0, 0, 1]]), "plumb_bob",
    np.array([0.2624, -0.9531, -0.0054, 0.0026, 1.1633]),
)  # fmt: skip
FISHEYE = replace(TUM, distortion_model="equidistant", distortion=np.array([0.1, 0.02, 0.01, 0.0]))


@pytest.mark.usefixtures("rtabmap_msgs")
@pytest.mark.parametrize("camera", [TUM, FISHEYE], ids=["plumb_bob", "equidistant"])
def test_rtabmap_gets_one_rectified_camera(camera):
    """PnP by the message's own intrinsics, as in rtabmap, finds where the camera was."""
    rng = np.random.default_rng(0)
    scene = np.column_stack([rng.uniform((-1, -0.8), (1, 0.8), (300, 2)), rng.uniform(1, 4, 300)])
    scene = scene.astype(np.float32)
    turn, shift = np.array([0.02, -0.05, 0.01]), np.array([0.1, -0.03, 0.06])
    seen = scene @ cv2.Rodrigues(turn)[0].T + shift
    rays = (seen[:, :2] / seen[:, 2:]).astype(np.float32)
    pixels = camera.project(rays)
    y, x = np.mgrid[:480, :640]
    board = np.where((x // 16 + y // 16) % 2, 40, 200).astype(np.uint8)
    image = image_message(np.dstack([board] * 3), HEADER)
    z = np.where(x < 320, 1.0, 2.0)
    result = result_of(
        [*range(1, 301)], pixels.tolist(), normalized=rays, depth=seen[:, 2].astype(np.float32)
    )
    message = rtabmap_message(result, image, depth_message(z), camera)
    info = message.rgb_camera_info
    assert message.depth_camera_info == info
    assert not np.any(info.d)
    matrix = info.p.reshape(3, 4)[:, :3]
    np.testing.assert_array_equal(matrix, info.k.reshape(3, 3))
    rows = {score: row for row, score in enumerate(result.features.scores.tolist())}
    kept = [rows[keypoint.response] for keypoint in message.key_points]
    np.testing.assert_array_equal(unpacked(message.descriptors), result.features.descriptors[kept])
    assert 200 < len(kept) == len(message.key_points) == len(message.points)
    found = np.array([(k.pt.x, k.pt.y) for k in message.key_points])
    assert ((found >= 0) & (found <= (639, 479))).all()
    _, _, t = cv2.solvePnP(scene[kept], found, matrix, np.zeros(5))
    assert np.abs(t.ravel() - shift).max() < 1e-4
    _, _, t = cv2.solvePnP(scene[kept], pixels[kept], matrix, np.zeros(5))
    assert np.abs(t.ravel() - shift).max() > 2e-3  # what the test can tell apart
    points = np.array([(p.x, p.y, p.z) for p in message.points])
    projected = points @ matrix.T
    np.testing.assert_allclose(projected[:, :2] / projected[:, 2:], found, atol=1e-2)

    picture = image_from_message(message.rgb).pixels
    depth = depth_from_message(message.depth)
    assert (message.rgb.header, message.depth.header) == (HEADER, HEADER)
    assert picture.shape == (480, 640, 3)
    places = np.column_stack([rng.uniform(40, 600, 50), rng.uniform(40, 440, 50)]).astype(int)
    rays = ((places - matrix[:2, 2]) / np.diag(matrix)[:2]).astype(np.float32)
    for (u, v), (raw_u, raw_v) in zip(places, camera.project(rays), strict=True):
        inside = min(raw_u % 16, 16 - raw_u % 16, raw_v % 16, 16 - raw_v % 16) > 2
        if 0 <= raw_u < 639 and 0 <= raw_v < 479 and inside:
            assert picture[v, u, 0] == board[int(raw_v), int(raw_u)]
            assert depth[v, u] == z[int(raw_v), int(raw_u)]


@pytest.mark.usefixtures("rtabmap_msgs")
def test_rtabmap_gets_images_in_what_it_reads():
    right_x = np.float32([30.0])
    result = result_of([1], [(60, 40)], right_x=right_x)
    grey = image_from_message(GREY).pixels
    for format_ in ("jpeg", "mono8; jpeg compressed mono8"):
        image = jpeg(grey, HEADER)
        image.format = format_
        message = rtabmap_message(result, image, image)
        for sent in (message.rgb_compressed, message.depth_compressed):
            assert (sent.format, sent.data) == ("jpg", image.data)
        assert image.format == format_
    bayer = ImageMessage(
        header=HEADER, height=80, width=100, step=100, encoding="bayer_bggr8", data=GREY.data
    )
    message = rtabmap_message(result, bayer, bayer)
    for sent in (message.rgb, message.depth):
        assert (sent.encoding, sent.header) == ("rgb8", HEADER)
        assert sent.data == image_message(image_from_message(bayer).pixels, HEADER).data


@pytest.mark.usefixtures("rtabmap_msgs")
def test_rtabmap_gets_nothing_where_it_would_abort_or_err():
    assert rtabmap_message(result_of([], []), GREY) is None
    unseen = np.full((2, 2), np.nan, np.float32)
    result = result_of([1, 2], [(60, 40), (50, 50)], normalized=unseen)
    distorted = replace(TUM, width=100, height=80, matrix=MATRIX)
    assert rtabmap_message(result, GREY, camera=distorted) is None
    assert rtabmap_message(replace(result, normalized=None), GREY) is None


@pytest.mark.usefixtures("rtabmap_msgs")
@pytest.mark.parametrize("stereo", [False, True])
def test_rtabmap_gets_the_camera_infos_of_both_images(stereo, node, monkeypatch):
    monkeypatch.setattr(sys.modules["rtabmap_msgs.msg"], "RGBDImage", AnyMessage)
    log: list[str] = []
    outputs, context = outputs_of(node, log, publish_rtabmap=True)
    calibration = context.calibration
    matrix = [100.0, 0.0, 50.0, 0.0, 0.0, 100.0, 40.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    calibration.set_info(CameraInfo(width=100, height=80, p=matrix))
    if stereo:
        matrix[2:4] = 54.0, -20.0
        calibration.set_right_info(CameraInfo(width=100, height=80, p=matrix))
        assert calibration.baseline == pytest.approx(0.2)
    partner = GREY if stereo else depth_message(np.full((80, 100), 2.0))
    third = {"right_x" if stereo else "depth": np.float32([50.0])}
    result = result_of([1], [(60, 40)], **third)

    def sent(result: FrameResult):
        messages = outputs.messages(frame_of(GREY, result, partner))
        return [message for _, message in messages if isinstance(message, AnyMessage)]

    (message,) = sent(result)
    assert message.rgb_camera_info.header == message.depth_camera_info.header == HEADER
    assert message.depth_camera_info.p[2:4].tolist() == ([54, -20] if stereo else [50, 0])
    assert message.depth == partner
    (alone,) = sent(replace(result, right_x=None, depth=None))
    assert not hasattr(alone, "depth")
    assert not log
    for _ in range(2):
        assert sent(result_of([], [])) == []
        assert sent(replace(result, normalized=None)) == []
    assert [line[:30] for line in log] == ["Nothing on ~/rtabmap_features "] * 2
    outputs.close()


def test_rtabmap_is_refused_where_its_messages_are_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "rtabmap_msgs", None)
    (declaration,) = [d for d in DECLARATIONS if d.name == "publish_rtabmap"]
    assert declaration.checked(False) is False
    with pytest.raises(ConfigurationError, match=r"needs ROS's package rtabmap_msgs .*install"):
        declaration.checked(True)


def test_numbers_and_stamps_are_the_nodes_own():
    epochs = Epochs()
    numbering = Numbering(epochs)
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
    first = epochs.number(0)
    epochs.retire(epoch=2)
    numbering = Numbering(epochs)
    renumbered = numbering.renumbered(replace(result, index=99), stamps[0], [])
    assert (renumbered.index, renumbered.tracks.epoch) == (0, first + 3)
    assert epochs.number(1) == first + 4


def test_epochs_do_not_come_again_when_the_node_is_started_again(monkeypatch):
    """After a crash at 30 resets a second, too; and in 2106, when seconds leave 32 bits."""
    for start in (time.time(), 2.0**32):
        monkeypatch.setattr(time, "time", lambda start=start: start)
        crashed = Epochs()
        old = {crashed.number(resets) for resets in range(60 * 30)}
        monkeypatch.setattr(time, "time", lambda start=start: start + 60.0)
        assert Epochs().number(0) not in old
        assert all(0 <= epoch < 2**32 for epoch in old)


def test_warnings_stand_until_cleared_and_are_logged_once():
    log, remembered = [], []
    warnings = Warnings(log.append, remembered.append)
    for number in range(3):
        warnings.warn("right", f"wrong {number}.")
    warnings.warn("mask", "bad.")
    assert str(warnings) == "wrong 2. bad."
    assert log == ["wrong 0.", "bad."]
    assert remembered[-2:] == ["wrong 2.", "bad."]
    warnings.clear("right")
    warnings.clear("right")
    warnings.warn("right", "wrong 3.")  # comes and goes: no second line within seconds
    assert str(warnings) == "bad. wrong 3."
    warnings.once("no camera.")
    warnings.once("no camera.")
    assert log == ["wrong 0.", "bad.", "no camera."]


def test_every_output_is_described():
    page = (ROOT / "docs" / "topics.md").read_text(encoding="utf-8")
    assert [output.topic for output in OUTPUTS if f"`{output.topic}`" not in page] == []
