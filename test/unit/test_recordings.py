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

"""Recordings as sources: every storage, the topics, the pairs, and what is broken."""

from __future__ import annotations

import shutil
import sqlite3
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import StoragePlugin

from aliked_ros.camera import CameraModel
from aliked_ros.errors import SourceError
from aliked_ros.io.bags import Bag
from aliked_ros.sources import open_source
from aliked_ros.types import UInt8Array
from helpers import bags
from helpers.bags import Entry
from helpers.euroc import BASELINE, Rig, row_differences

START = 1403636579763555584  # nanoseconds, which a float64 of seconds does not hold
PERIOD = 50_000_000
K = np.array([[517.3, 0.0, 318.6], [0.0, 516.5, 255.3], [0.0, 0.0, 1.0]])
D = (0.26, -0.95, -0.005, 0.003, 1.16)


@pytest.fixture(scope="module")
def pictures(shared: Path) -> list[UInt8Array]:
    """Eight images of fr1_xyz, RGB."""
    files = sorted((shared / "data" / "tum_fr1_xyz" / "rgb").glob("*.png"))[:8]
    return [np.ascontiguousarray(cv2.imread(str(file))[..., ::-1]) for file in files]


def entries(pictures: list[UInt8Array], topic: str = "/camera/image_raw") -> list[Entry]:
    """A calibrated camera at 20 Hz; messages arrive 5 ms after their stamps."""
    found: list[Entry] = []
    for index, pixels in enumerate(pictures):
        stamp = START + index * PERIOD
        info = bags.camera_info(stamp, (640, 480), K, D)
        found.append((topic, stamp + 5_000_000, bags.image(pixels, stamp, "rgb8")))
        found.append((str(Path(topic).with_name("camera_info")), stamp + 5_000_001, info))
    return found


@pytest.fixture(scope="module")
def mcap(pictures: list[UInt8Array], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The .mcap file of a rosbag2 folder."""
    folder = tmp_path_factory.mktemp("bags") / "run"
    return bags.write(folder, entries(pictures), StoragePlugin.MCAP) / "run.mcap"


@pytest.mark.parametrize(
    "storage", ["mcap folder", "mcap file", "db3 folder", "db3 file", "humble", "ros1"]
)
def test_every_storage_gives_the_same(
    pictures: list[UInt8Array], mcap: Path, tmp_path: Path, storage: str
) -> None:
    path = tmp_path / "run"
    if storage.startswith("db3"):
        bags.write(path, entries(pictures), StoragePlugin.SQLITE3)
        path = path / "run.db3" if storage.endswith("file") else path
    elif storage == "humble":  # which stored no definitions
        path = bags.write(path, entries(pictures), StoragePlugin.SQLITE3) / "run.db3"
        database = sqlite3.connect(path)
        database.executescript("DROP TABLE message_definitions; DROP TABLE schema;")
        database.close()
    elif storage == "ros1":
        path = bags.write_ros1(path.with_suffix(".bag"), entries(pictures))
    else:
        path = mcap if storage.endswith("file") else mcap.parent
    source = open_source(str(path))
    assert (source.name, source.length) == ("run", 8)
    assert source.rate == pytest.approx(20.0)
    assert source.calibration is not None
    camera = CameraModel.from_calibration(source.calibration)
    np.testing.assert_allclose(camera.matrix, K)
    np.testing.assert_allclose(camera.distortion, D)
    for _ in range(2):  # as a player in a loop
        frames = list(source)
        assert [f.nanoseconds for f in frames] == [START + i * PERIOD for i in range(8)]
        for frame, pixels in zip(frames, pictures, strict=True):
            np.testing.assert_array_equal(frame.pixels, pixels)
    assert len(list(open_source(str(path), limit=3))) == 3


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_part_begins_by_the_index(tmp_path: Path, storage: StoragePlugin) -> None:
    """The same images under the same numbers, also around late, unreadable and equal ones."""
    stored: list[Entry] = []
    for index in range(90):
        stamp = START + index * PERIOD
        arrival = stamp + (100_000_000 if index in (49, 50) else 5_000_000) - index % 2 * PERIOD
        picture = bags.image(np.full((8, 8), index, np.uint8), stamp, "mono8")
        if index == 45:
            picture.data = picture.data[:5]
        stored.append(("/eye", arrival, picture))
    stored.sort(key=lambda entry: entry[1])
    source = open_source(str(bags.write(tmp_path / "run", stored, storage)))
    whole = list(source)
    assert len(whole) == 89
    for first in (1, 30, *range(44, 60), 89, 95):
        source.first = first
        expected = whole[first - (first > 45) :]
        found = list(source)
        assert [f.nanoseconds for f in found] == [e.nanoseconds for e in expected]
        assert [f.pixels[0, 0] for f in found] == [e.pixels[0, 0] for e in expected]


def test_encodings_and_images_that_are_broken(
    pictures: list[UInt8Array], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grey = np.asarray(cv2.cvtColor(pictures[0], cv2.COLOR_RGB2GRAY), np.uint8)
    truncated = bags.image(pictures[0], 4 * PERIOD, "rgb8")
    truncated.data = truncated.data[:1000]
    messages = [
        bags.image(pictures[0][..., ::-1], PERIOD, "bgr8"),
        bags.image(grey, 2 * PERIOD, "mono8"),
        bags.image(grey.astype("<u2") << 8, 3 * PERIOD, "mono16"),
        truncated,
        bags.image(pictures[0], 5 * PERIOD, "holographic"),
    ]
    stored: list[Entry] = [("/eye", i, message) for i, message in enumerate(messages, start=1)]
    stored += [("/packed/compressed", 9, bags.compressed(pictures[0], PERIOD))]
    path = bags.write(tmp_path / "run", stored, StoragePlugin.MCAP)
    source = open_source(f"{path}#/eye")
    colour, *greys = (frame.pixels for frame in source)
    np.testing.assert_array_equal(colour, pictures[0])
    for one in greys:
        np.testing.assert_array_equal(one, grey)
    assert (len(greys), source.skipped) == (2, 2)
    assert "truncated" in caplog.text
    assert "holographic" in caplog.text
    assert source.calibration is None
    for name in ("/packed", "packed/compressed"):
        (frame,) = open_source(f"{path}#{name}")
        np.testing.assert_array_equal(frame.pixels, pictures[0])
    with pytest.raises(SourceError, match=r"none of the 1 images on /eye .*holographic"):
        list(open_source(str(bags.write(tmp_path / "bad", stored[4:5], StoragePlugin.MCAP))))


@pytest.mark.parametrize("period", [PERIOD, 0])
def test_stamps_begin_at_zero_or_are_not_there_at_all(tmp_path: Path, period: int) -> None:
    """As KITTI's, and of a driver that leaves its headers empty: then arrivals tell the time."""
    pixels = np.zeros((8, 8), np.uint8)
    stored: list[Entry] = [
        ("/eye", START + i * PERIOD, bags.image(pixels, i * period, "mono8")) for i in range(4)
    ]
    source = open_source(str(bags.write(tmp_path / "run", stored, StoragePlugin.MCAP)))
    begin = 0 if period else START
    assert [frame.nanoseconds for frame in source] == [begin + i * PERIOD for i in range(4)]
    assert source.rate == pytest.approx(20.0)


def tiny(topics: list[str], path: Path) -> Path:
    """A bag with one small image on each topic, whose grey value is the topic's number."""
    found: list[Entry] = []
    for value, topic in enumerate(topics):
        if topic.endswith("/compressed"):
            message = bags.compressed(np.full((8, 8), value, np.uint8), PERIOD)
        elif "depth" in topic:
            message = bags.image(np.full((8, 8), 1500, np.uint16), PERIOD, "16UC1")
        else:
            message = bags.image(np.full((8, 8), value, np.uint8), PERIOD, "mono8")
        found.append((topic, value + 1, message))
    return bags.write(path, found, StoragePlugin.MCAP)


@pytest.mark.parametrize(
    ("topics", "image", "right"),
    [
        (["/camera/image_raw"], 0, None),
        (["/camera/image_raw/compressed", "/camera/image_raw"], 1, None),
        (["/cam1/image_raw", "/cam0/image_raw"], 1, 0),  # EuRoC
        (["/camera/infra1/image_rect_raw", "/camera/infra2/image_rect_raw"], 0, 1),  # RealSense
        (["/rig/right/image_rect", "/rig/left/image_rect"], 1, 0),
        (["/image/compressed", "/right/image"], 0, 1),  # our own recorder and player
        (["/kitti/camera_gray_left/image_raw", "/kitti/camera_gray_right/image_raw"], 0, 1),
        (["/color/image", "/aligned_depth/image", "/aliked_frontend/tracks/image"], 0, None),
    ],
)
def test_the_plausible_topics_are_chosen(
    tmp_path: Path, topics: list[str], image: int, right: int | None
) -> None:
    path = tiny(topics, tmp_path / "run")
    (frame,) = open_source(str(path))
    assert (frame.pixels == image).all()
    if right is not None:
        (frame,) = open_source(str(path), partner="right")
        assert frame.right is not None
        assert (frame.right == right).all()
    if any("depth" in topic for topic in topics):
        (frame,) = open_source(str(path), partner="depth")
        assert frame.depth is not None
        assert (frame.depth == 1.5).all()
    else:
        with pytest.raises(SourceError, match="no depth topics"):
            open_source(str(path), partner="depth")


def test_several_cameras_must_be_named(tmp_path: Path) -> None:
    path = tiny(["/front/image", "/rear/image", "/belly/depth", "/top/depth"], tmp_path / "run")
    with pytest.raises(SourceError, match=r"2 image topics \(/front/image, /rear/image\); name"):
        open_source(str(path))
    (frame,) = open_source(f"{path}#/rear/image")
    assert (frame.pixels == 1).all()
    with pytest.raises(SourceError, match=r"2 depth topics .*run#/image/topic,/depth/topic"):
        open_source(f"{path}#/rear/image", partner="depth")
    (frame,) = open_source(f"{path}#/rear/image,/top/depth", partner="depth")
    assert frame.depth is not None
    with pytest.raises(SourceError, match=r"no images on /side\. Its image topics: /belly/depth"):
        open_source(f"{path}#/side")
    with pytest.raises(SourceError, match=r"nowhere\.mcap does not exist"):
        open_source(f"{tmp_path}/nowhere.mcap#/front/image")
    info: list[Entry] = [("/i", 1, bags.camera_info(1, (640, 480), K))]
    with pytest.raises(SourceError, match=r"no images; it holds /i \(sensor_msgs/msg/CameraInfo"):
        open_source(str(bags.write(tmp_path / "infos", info, StoragePlugin.MCAP)))


def test_partners_belong_to_their_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Right images by equal stamps, depth by the nearest within 20 ms, whatever the order."""
    found: list[Entry] = []
    for index in range(60):
        stamp = (index + 1) * PERIOD
        pixels = np.full((8, 8), index, np.uint8)
        found.append(("/left/image", stamp + 1, bags.image(pixels, stamp, "mono8")))
        if index % 10 != 3:  # late by three images
            late = stamp + 3 * PERIOD
            found.append(("/right/image", late, bags.image(pixels, stamp, "mono8")))
        if index % 2:
            near = bags.image(np.full((8, 8), 1000 + index, np.uint16), stamp - 15_000_000, "16UC1")
            found.append(("/depth/image", stamp - 1, near))
    found.sort(key=lambda entry: entry[1])
    path = bags.write(tmp_path / "run", found, StoragePlugin.MCAP)
    frames = list(open_source(f"{path}#/left/image", partner="right"))
    assert [frame.right is None for frame in frames] == [i % 10 == 3 for i in range(60)]
    for frame in frames:
        assert frame.right is None or (frame.right == frame.pixels).all()
    assert "6 of 60 images of /left/image came alone" in caplog.text
    frames = list(open_source(f"{path}#/left/image", partner="depth"))
    assert [frame.depth is None for frame in frames] == [i % 2 == 0 for i in range(60)]
    for frame in frames:
        expected = (1000 + int(frame.pixels[0, 0])) / 1000
        assert frame.depth is None or frame.depth[0, 0] == pytest.approx(expected)


def test_raw_pairs_are_rectified_by_their_camera_info(shared: Path, tmp_path: Path) -> None:
    rig, kitti = Rig(), shared / "data" / "kitti_00_first40"
    rectified = [cv2.imread(str(kitti / f"image_{c}" / "000000.png"), 0) for c in (0, 1)]
    left, right = np.hstack([rig.rectified, np.zeros((3, 1))]), np.zeros((3, 4))
    right[:, :3], right[0, 3] = rig.rectified, -rig.rectified[0, 0] * BASELINE
    for name, pairs in (("image_raw", [rig.image(c, rectified[c]) for c in (0, 1)]),
                        ("image_rect", rectified)):  # fmt: skip
        found: list[Entry] = []
        for camera, side, p in ((0, "left", left), (1, "right", right)):
            info = bags.camera_info(
                PERIOD, rig.size, rig.raw, (*rig.distortion, 0.0), rig.rotation(camera), p
            )
            found.append((f"/{side}/{name}", 1, bags.image(pairs[camera], PERIOD, "mono8")))
            found.append((f"/{side}/camera_info", 2, info))
        path = bags.write(tmp_path / name, found, StoragePlugin.MCAP)
        source = open_source(str(path), partner="right")
        (frame,) = source
        assert frame.right is not None
        assert np.median(np.abs(row_differences(frame.pixels, frame.right))) < 0.5
        inside = np.abs(frame.pixels[20:-20, 20:-20].astype(int) - rectified[0][20:-20, 20:-20])
        assert np.median(inside) <= 2  # KITTI's image itself, resampled
        assert source.calibration is not None
        assert source.calibration["stereo_baseline_m"] == pytest.approx(BASELINE)
        camera_model = CameraModel.from_calibration(source.calibration)
        np.testing.assert_allclose(camera_model.matrix, rig.rectified)
        assert not camera_model.distortion.any()


def test_a_cut_off_file_is_read_to_its_last_whole_chunk(
    pictures: list[UInt8Array], mcap: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = mcap.read_bytes()
    path, counts = tmp_path / "run.partial.mcap", []
    for share in (0.999, 0.8, 0.5, 0.3):
        path.write_bytes(data[: int(len(data) * share)])
        source = open_source(str(path))
        frames = list(source)
        assert source.length == len(frames)
        for frame, pixels in zip(frames, pictures, strict=False):
            np.testing.assert_array_equal(frame.pixels, pixels)
        counts.append(len(frames))
    assert counts == sorted(counts, reverse=True)
    assert 8 >= counts[0] > counts[-1] > 0
    assert f"{path}: its end is missing" in caplog.text
    assert f"its last complete chunk, {counts[-1]} images" in caplog.text
    folder = tmp_path / "folder"  # of a 'ros2 bag record' that was killed
    folder.mkdir()
    shutil.copy(path, folder / "run_0.mcap")
    assert len(list(open_source(str(folder)))) == counts[-1]
    assert "has no metadata.yaml" in caplog.text
    (folder / "metadata.yaml").write_text("rosbag2_bagfile_information: {")
    assert len(list(open_source(str(folder)))) == counts[-1]
    shutil.copy(mcap, folder / "run_1.mcap")  # where the first file of two is cut off
    assert len(list(open_source(str(folder)))) == counts[-1] + 8
    shutil.copy(mcap, folder / "another.mcap")
    with pytest.raises(SourceError, match=r"several recordings \(another\.mcap, run_0\.mcap"):
        open_source(str(folder))
    with Bag(path) as bag:
        assert bag.cut_off == [path]
    path.write_bytes(data[: len(data) // 2] + bytes(10_000))  # as after a power cut
    assert 0 < len(list(open_source(str(path)))) < 8
    for broken in (data[:300], b"", bytes(5000), b"no bag at all"):
        path.write_bytes(broken)
        with pytest.raises(SourceError, match=r"run\.partial\.mcap"):
            open_source(str(path))


def with_checksums(mcap: Path, path: Path, odd: bytes = b"") -> bytearray:
    """The file as Foxglove's library and our recorder write it: compressed, with checksums."""
    with mcap.open("rb") as stream, path.open("wb") as output:
        writer = McapWriter(output, chunk_size=1 << 20, compression=CompressionType.LZ4)
        writer.start("ros2")
        channels: dict[int, int] = {}
        if odd:  # the definition of a type that some other program made
            number = writer.register_schema("odd_msgs/msg/Odd", "ros2msg", odd)
            writer.add_message(writer.register_channel("/odd", "cdr", number), 1, bytes(4), 1)
        for schema, channel, message in make_reader(stream).iter_messages():
            if channel.id not in channels:
                number = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[channel.id] = writer.register_channel(channel.topic, "cdr", number)
            time = message.log_time
            writer.add_message(channels[channel.id], time, message.data, time)
        writer.finish()
    return bytearray(path.read_bytes())


def test_damage_is_an_error_after_what_is_whole(mcap: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    data = with_checksums(mcap, path)
    assert len(list(open_source(str(path)))) == 8
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    read = iter(open_source(str(path)))
    for _ in range(3):
        next(read)
    with pytest.raises(SourceError, match=r"run\.mcap is damaged.*mcap recover"):
        list(read)
    database = tmp_path / "run.db3"
    database.write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(SourceError, match=r"cannot read .*run\.db3"):
        open_source(str(database))


def test_a_definition_that_cannot_be_read_does_not_matter(
    mcap: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.mcap"
    with_checksums(mcap, path, odd=b"= no definition ;")
    assert len(list(open_source(str(path)))) == 8
    assert not caplog.records


def test_memory_does_not_grow_with_the_recording(
    pictures: list[UInt8Array], tmp_path: Path
) -> None:
    many = [pictures[index % 8] for index in range(120)]  # 110 MB
    path = bags.write(tmp_path / "run", entries(many), StoragePlugin.MCAP)
    file = path / "run.mcap"
    for cut in (False, True):
        if cut:
            file.write_bytes(file.read_bytes()[:-1000])
        tracemalloc.start()
        count = sum(1 for _ in open_source(str(file)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count > 100
        assert peak < 30e6
