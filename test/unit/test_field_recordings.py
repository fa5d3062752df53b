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

"""Recordings, folders and videos as the field has them: what is not needed decides nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zstandard
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from aliked_ros.camera import CameraModel
from aliked_ros.errors import SourceError
from aliked_ros.io.results import VideoFile
from aliked_ros.sources import open_source
from helpers import bags
from helpers.bags import ROS1, ROS2, SECOND, Entry
from helpers.field_fuzz import run as fuzz

START = 1_700_000_000 * SECOND
PERIOD = SECOND // 20
K = np.array([[90.0, 0.0, 32.0], [0.0, 90.0, 24.0], [0.0, 0.0, 1.0]])


def pictures(count: int = 4, topic: str = "/camera/image_raw") -> list[Entry]:
    return [
        (topic, START + i * PERIOD, bags.image(grey(i), START + i * PERIOD, "mono8"))
        for i in range(count)
    ]


def grey(number: int) -> Any:
    return np.full((48, 64), 40 * (number % 6), np.uint8)


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    """All but that the camera is not calibrated."""
    found = [r.getMessage() for r in caplog.records if "not calibrated" not in r.getMessage()]
    return " ".join(found)


def values(source: Any) -> list[int]:
    return [int(image.pixels[0, 0]) for image in source]


# Definitions and encodings


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("unknown", ""), ("", ""), ("ros2msg", "= no definition"), ("ros2msg", ""), ("x", "int8 a")],
)
@pytest.mark.parametrize("topic", ["std_msgs/msg/Header", "sensor_msgs/msg/Image"])
def test_definitions_in_a_database_may_be_anything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, encoding: str, text: str, topic: str
) -> None:
    """Of another topic they are not looked at; for the images' own, ROS's definition holds."""
    entries = [*pictures(), ("/feedback", START, bags.header(1))]
    file = bags.write(tmp_path / "run", entries, StoragePlugin.SQLITE3) / "run.db3"
    database = sqlite3.connect(file)
    database.execute(
        "UPDATE message_definitions SET encoding = ?, encoded_message_definition = ?, "
        "type_description_hash = 'RIHS01_0' WHERE topic_type = ?",
        (encoding, text, topic),
    )
    database.execute("UPDATE topics SET serialization_format = 'other' WHERE name = '/feedback'")
    database.commit()
    database.close()
    for path in (file, file.parent):
        assert values(open_source(str(path))) == [0, 40, 80, 120]
    assert not warnings(caplog)


def write_mcap(path: Path, profile: str, encoding: str = "cdr") -> Path:
    """Images as ROS 1 or 2 serialises them, among topics of other programs."""
    store, kind, notation = ROS2, "sensor_msgs/msg/Image", "ros2msg"
    if encoding == "ros1":
        store, kind, notation = ROS1, "sensor_msgs/Image", "ros1msg"
    with path.open("wb") as file:
        writer = McapWriter(file)
        writer.start(profile)
        others = [("protobuf", "protobuf", b"\x0a\xff\x00"), ("jsonschema", "json", b"{}")]
        for notation_of_other, other, content in others:
            schema = writer.register_schema("foxglove.Thing", notation_of_other, content)
            channel = writer.register_channel(f"/{other}", other, schema)
            writer.add_message(channel, 1, b"\x00\x01", 1)
        writer.add_message(writer.register_channel("/nothing", "x", 0), 1, b"\x01", 1)
        version = 1 if encoding == "ros1" else 2
        text = store.generate_msgdef("sensor_msgs/msg/Image", ros_version=version)[0]
        schema = writer.register_schema(kind, notation, text.encode())
        channel = writer.register_channel("/camera/image_raw", encoding, schema)
        for _, time, message in pictures():
            if encoding == "ros1":
                message = bags._as_ros1(message)
                data = store.serialize_ros1(message, message.__msgtype__)
            else:
                data = store.serialize_cdr(message, message.__msgtype__)
            writer.add_message(channel, time, bytes(data), time)
        writer.finish()
    return path


@pytest.mark.parametrize("profile", ["", "ros2", "other"])
@pytest.mark.parametrize("encoding", ["cdr", "ros1"])
def test_a_whole_mcap_of_any_profile_is_read_quietly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, profile: str, encoding: str
) -> None:
    path = write_mcap(tmp_path / "run.mcap", profile, encoding)
    assert values(open_source(str(path))) == [0, 40, 80, 120]
    assert not warnings(caplog)


def test_messages_that_damage_hides_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A chunk without a checksum, in which a record's kind is changed to an unknown one."""
    file = bags.write(tmp_path / "run", pictures(), StoragePlugin.MCAP) / "run.mcap"
    data = bytearray(file.read_bytes())
    third = data.index(struct.pack("<Q", START + 2 * PERIOD), 300) - 15  # opcode, length, ids
    assert data[third] == 5
    data[third] = 0x77
    file.write_bytes(data)
    assert len(values(open_source(str(file)))) < 4
    assert "of 4 messages on /camera/image_raw could be read" in caplog.text


def test_images_of_another_encoding_are_named(tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file)
        writer.start("")
        schema = writer.register_schema("foxglove.CompressedImage", "protobuf", b"\xff")
        writer.add_message(writer.register_channel("/eye", "protobuf", schema), 1, b"\x01", 1)
        writer.finish()
    with pytest.raises(SourceError, match=r"/eye \(foxglove\.CompressedImage in protobuf\)"):
        open_source(str(path))


def test_a_ros1_bag_with_an_odd_definition(tmp_path: Path) -> None:
    path = bags.write_ros1(tmp_path / "run.bag", [*pictures(), ("/tf", START, pictures()[0][2])])
    data = path.read_bytes()
    for text in (b"std_msgs/Header header", b"uint32 height"):
        data = data.replace(text, text.replace(b" ", b"!"))  # of both topics
    path.write_bytes(data)
    assert values(open_source(f"{path}#/camera/image_raw")) == [0, 40, 80, 120]


# Files as recorders leave them


@pytest.mark.parametrize("writable", [True, False])
def test_what_a_killed_recorder_left_in_the_wal_file_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, writable: bool
) -> None:
    whole = bags.write(tmp_path / "whole", pictures(), StoragePlugin.SQLITE3) / "whole.db3"
    folder = tmp_path / "run"
    folder.mkdir()
    script = f"""
import os, sqlite3
a = sqlite3.connect({str(whole)!r})
b = sqlite3.connect({str(folder / "run_0.db3")!r})
b.execute("pragma journal_mode=wal")
b.execute("create table x(y)"); b.commit(); b.execute("pragma wal_checkpoint(truncate)")
for line in a.iterdump():
    if "BEGIN" not in line and "COMMIT" not in line: b.execute(line)
b.commit()
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (folder / "run_0.db3-wal").stat().st_size > 10_000
    if not writable:
        (folder / "run_0.db3-shm").unlink()
        folder.chmod(0o555)
    try:
        assert values(open_source(str(folder))) == [0, 40, 80, 120]
    finally:
        folder.chmod(0o755)
    assert "run_0.db3-wal is read too" in caplog.text


def test_a_transaction_that_did_not_end_is_undone_in_a_copy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its journal lies beside the database; neither is changed."""
    file = bags.write(tmp_path / "run", pictures(), StoragePlugin.SQLITE3) / "run.db3"
    script = f"""
import os, sqlite3
database = sqlite3.connect({str(file)!r})
database.execute("pragma cache_size=5"); database.execute("begin")
for i in range(300):
    database.execute("insert into messages(topic_id, timestamp, data) values (1, ?, ?)",
                     (i, bytes(5000)))
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    sizes = [(f.name, f.stat().st_size) for f in sorted(file.parent.iterdir())]
    assert dict(sizes)["run.db3-journal"] > 0
    assert dict(sizes)["run.db3"] > 1_000_000
    assert values(open_source(str(file))) == [0, 40, 80, 120]
    assert "run.db3-journal is read too" in caplog.text
    assert sizes == [(f.name, f.stat().st_size) for f in sorted(file.parent.iterdir())]


def test_an_empty_database_is_refused_and_its_wal_stays(tmp_path: Path) -> None:
    """SQLite would delete the -wal file of an empty database."""
    (tmp_path / "run.db3").touch()
    (tmp_path / "run.db3-wal").write_bytes(bytes(100))
    with pytest.raises(SourceError, match=r"run\.db3: the file is empty"):
        open_source(str(tmp_path / "run.db3"))
    assert (tmp_path / "run.db3-wal").exists()


@pytest.mark.parametrize("storage", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
@pytest.mark.parametrize("mode", [CompressionMode.MESSAGE, CompressionMode.FILE])
@pytest.mark.parametrize("metadata", [True, False])
def test_zstd_by_file_or_message(
    tmp_path: Path, storage: StoragePlugin, mode: CompressionMode, metadata: bool
) -> None:
    writer = Writer(tmp_path / "run", version=8, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(
            "/camera/image_raw", "sensor_msgs/msg/Image", typestore=ROS2
        )
        for _, time, message in pictures():
            writer.write(connection, time, ROS2.serialize_cdr(message, message.__msgtype__))
    if not metadata:
        (tmp_path / "run" / "metadata.yaml").unlink()
    (file,) = (f for f in (tmp_path / "run").iterdir() if f.suffix != ".yaml")
    for path in (tmp_path / "run", file):
        assert values(open_source(str(path))) == [0, 40, 80, 120]


def test_a_compressed_file_that_is_cut_off_is_called_by_its_own_name(tmp_path: Path) -> None:
    file = bags.write(tmp_path / "run", pictures(), StoragePlugin.MCAP) / "run.mcap"
    packed = tmp_path / "run.mcap.zstd"
    data = zstandard.compress(file.read_bytes())
    for damaged in (data[: len(data) // 2], data[: len(data) // 2] + bytes(400)):
        packed.write_bytes(damaged)
        with pytest.raises(SourceError, match=re.escape(str(packed))) as told:
            open_source(str(packed))
        assert "aliked_ros_" not in str(told.value)


def test_all_frames_of_a_compressed_file_are_unpacked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As by a tool that compresses in parallel; and one of which the last is cut off."""
    file = bags.write(tmp_path / "run", pictures(), StoragePlugin.MCAP) / "run.mcap"
    data = file.read_bytes()
    frames = [zstandard.compress(data[i : i + 4000]) for i in range(0, len(data), 4000)]
    packed = tmp_path / "run.mcap.zst"
    packed.write_bytes(b"".join(frames))
    assert values(open_source(str(packed))) == [0, 40, 80, 120]
    assert not warnings(caplog)
    database = bags.write(tmp_path / "db", pictures(), StoragePlugin.SQLITE3) / "db.db3"
    packed = tmp_path / "db.db3.zst"
    packed.write_bytes(zstandard.compress(database.read_bytes()) + zstandard.compress(b"x")[:-1])
    assert values(open_source(str(packed))) == [0, 40, 80, 120]
    assert "db.db3.zst: its end is missing. What could be unpacked is read" in caplog.text


def test_files_that_metadata_names_or_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is missing is said; macOS's hidden files beside the others are no recording."""
    folder = bags.write(tmp_path / "run", pictures(), StoragePlugin.MCAP)
    shutil.copy(folder / "run.mcap", folder / "run_9.mcap")
    (folder / "._run.mcap").write_bytes(b"\0\5\x16\7")
    assert values(open_source(str(folder))) == [0, 40, 80, 120]
    assert not warnings(caplog)
    (folder / "run.mcap").unlink()
    assert values(open_source(str(folder))) == [0, 40, 80, 120]
    assert "lacks run.mcap of its metadata.yaml" in caplog.text


# Stamps


@pytest.mark.parametrize("clock", [START, 100 * SECOND])
def test_one_image_without_a_stamp_has_its_time_of_arrival(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, clock: int
) -> None:
    """In the headers' clock, which need not be that of the arrivals."""
    stamps = [clock + i * PERIOD for i in range(6)]
    for odd in (0, -5 * SECOND):
        entries: list[Entry] = [
            ("/eye", START + i * PERIOD, bags.image(grey(i), stamps[i] if i != 2 else odd, "mono8"))
            for i in range(6)
        ]
        path = bags.write(tmp_path / f"run{odd}", entries, StoragePlugin.MCAP)
        source = open_source(str(path))
        assert source.rate == pytest.approx(20.0)
        assert [image.nanoseconds for image in source] == stamps
        assert "1 messages have no stamp" in caplog.text


def test_an_image_that_is_late_by_one_is_put_in_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """But where a clock is set back, the order is that of arrival."""
    order = (0, 1, 3, 2, 4)
    entries: list[Entry] = [
        ("/eye", START + i, bags.image(grey(n), START + n * PERIOD, "mono8"))
        for i, n in enumerate(order)
    ]
    source = open_source(str(bags.write(tmp_path / "late", entries, StoragePlugin.MCAP)))
    assert values(source) == [0, 40, 80, 120, 160]
    assert values(open_source(str(tmp_path / "late"), 3)) == [0, 40, 80]
    assert "1 images arrived after their successor" in caplog.text
    entries = [
        ("/eye", START + i, bags.image(grey(i), START + (i % 3) * SECOND, "mono8"))
        for i in range(6)
    ]
    source = open_source(str(bags.write(tmp_path / "back", entries, StoragePlugin.MCAP)))
    assert values(source) == [0, 40, 80, 120, 160, 200]


def test_damage_comes_after_the_images_before_it(tmp_path: Path) -> None:
    file = bags.write(tmp_path / "run", pictures(), StoragePlugin.SQLITE3) / "run.db3"
    database = sqlite3.connect(file)
    database.execute("UPDATE messages SET data = x'00' WHERE id = 4")
    database.commit()
    database.close()
    images = iter(open_source(str(file)))
    assert [int(next(images).pixels[0, 0]) for _ in range(3)] == [0, 40, 80]
    with pytest.raises(SourceError, match=r"run\.db3 is damaged"):
        next(images)


def test_one_partner_of_an_odd_stamp_leaves_the_other_pairs_alone(tmp_path: Path) -> None:
    entries: list[Entry] = []
    for i in range(6):
        stamp = START + i * PERIOD
        odd = stamp + 10**7 * SECOND if i == 2 else stamp
        entries.append(("/left/image", stamp, bags.image(grey(i), stamp, "mono8")))
        entries.append(("/right/image", stamp + 1, bags.image(grey(i), odd, "mono8")))
    path = bags.write(tmp_path / "run", entries, StoragePlugin.MCAP)
    frames = list(open_source(str(path), partner="right"))
    assert [frame.right is None for frame in frames] == [i == 2 for i in range(6)]


def test_stamps_that_are_all_the_same_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries: list[Entry] = [
        ("/eye", START + i * PERIOD, bags.image(grey(i), SECOND, "mono8")) for i in range(4)
    ]
    source = open_source(str(bags.write(tmp_path / "run", entries, StoragePlugin.MCAP)))
    assert [image.nanoseconds for image in source] == [START + i * PERIOD for i in range(4)]
    assert "have no stamps (all are 1 s)" in caplog.text


# CameraInfo


def test_a_calibration_of_another_size_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [*pictures(1), ("/camera/camera_info", START, bags.camera_info(START, (48, 64), K))]
    list(open_source(str(bags.write(tmp_path / "run", entries, StoragePlugin.MCAP))))
    assert "its calibration is for 48×64 images, these are 64×48" in caplog.text


def test_the_camera_info_of_realsenses_sdk_is_found(tmp_path: Path) -> None:
    entries: list[Entry] = []
    for sensor, stream in (("sensor_0", "Depth_0"), ("sensor_1", "Color_0")):
        base, focal = f"/device_0/{sensor}/{stream}", 90.0 + len(stream)
        k = np.array([[focal, 0, 32], [0, focal, 24], [0, 0, 1]])
        info = bags.camera_info(START, (64, 48), k)
        info.distortion_model = "Inverse Brown Conrady"
        pixels, encoding = (grey(1), "mono8")
        if stream == "Depth_0":
            pixels, encoding = np.full((48, 64), 1500, np.uint16), "16UC1"
        entries.append((f"{base}/info/camera_info", START, info))
        entries.append((f"{base}/image/data", START + 1, bags.image(pixels, START, encoding)))
    source = open_source(str(bags.write_ros1(tmp_path / "run.bag", entries)), partner="depth")
    assert source.calibration is not None
    assert source.calibration["fx"] == 97.0
    (image,) = source
    assert image.depth is not None


@pytest.mark.parametrize(
    ("shift", "word"), [(0.0, "left it out"), (9.0, "swapped"), (np.nan, "left it out")]
)
def test_a_pair_without_a_baseline_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shift: float, word: str
) -> None:
    entries: list[Entry] = []
    for side, value in (("left", 0.0), ("right", shift)):
        p = np.hstack([K, [[value], [0.0], [0.0]]])
        entries.append((f"/{side}/image_rect", START, bags.image(grey(1), START, "mono8")))
        entries.append((f"/{side}/camera_info", START, bags.camera_info(START, (64, 48), K, p=p)))
    source = open_source(
        str(bags.write(tmp_path / "run", entries, StoragePlugin.MCAP)), partner="right"
    )
    (image,) = source
    assert image.right is not None
    assert source.calibration is not None
    assert "stereo_baseline_m" not in source.calibration
    assert "there is no baseline" in caplog.text
    assert word in caplog.text


def test_a_camera_info_that_cannot_be_decoded_leaves_the_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [
        *pictures(),
        ("/camera/camera_info", START, bags.camera_info(START, (64, 48), K)),
    ]
    file = bags.write(tmp_path / "run", entries, StoragePlugin.SQLITE3) / "run.db3"
    database = sqlite3.connect(file)
    database.execute(
        "UPDATE messages SET data = x'00010000ff' WHERE topic_id = "
        "(SELECT id FROM topics WHERE name = '/camera/camera_info')"
    )
    database.commit()
    database.close()
    source = open_source(str(file))
    assert source.calibration is None
    assert "camera_info of" in caplog.text
    assert values(source) == [0, 40, 80, 120]


# Folders


def folder_of(path: Path, names: list[str]) -> Path:
    path.mkdir()
    for number, name in enumerate(names):
        cv2.imwrite(str(path / name), grey(number))
    return path


def test_hidden_files_are_no_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = folder_of(tmp_path / "run", ["0.png", "1.png"])
    for name in ("._0.png", "._1.png", ".hidden.jpg"):
        (path / name).write_bytes(b"\0\5\x16\7" + bytes(80))
    assert open_source(str(path)).length == 2
    assert values(open_source(str(path), 2)) == [0, 40]
    assert not warnings(caplog)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rgb.txt", "# colour\n0.5 0.png\n"),
        ("rgb.txt", "0.5 0.png\n"),
        ("frames.csv", "#index,seconds,image\n0,0.5,0.png\n"),
        ("frames.csv", "0,0.5,0.png\n"),
    ],
)
def test_tables_with_a_byte_order_mark(tmp_path: Path, name: str, text: str) -> None:
    path = folder_of(tmp_path / "run", ["0.png"])
    (path / name).write_text(text, encoding="utf-8-sig")
    calibration = {"width": 64, "height": 48, "fx": 90, "fy": 90, "cx": 32, "cy": 24}
    (path / "calib.json").write_text(json.dumps(calibration), encoding="utf-8-sig")
    source = open_source(str(path))
    assert [image.stamp for image in source] == [0.5]
    assert source.calibration == calibration


def exif(orientation: int, order: str = ">") -> bytes:
    """An APP1 segment that says how to turn a JPEG."""
    mark = b"MM\0*" if order == ">" else b"II*\0"
    tags = struct.pack(f"{order}HHHIHH", 1, 0x0112, 3, 1, orientation, 0) + bytes(4)
    content = b"Exif\0\0" + mark + struct.pack(f"{order}I", 8) + tags
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_exif_does_not_turn_what_is_calibrated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, orientation: int, order: str
) -> None:
    pixels = np.zeros((48, 64), np.uint8)
    pixels[4:12, 8:16] = 255
    path = tmp_path / "run"
    path.mkdir()
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    (path / "0.jpg").write_bytes(data[:2] + exif(orientation, order) + data[2:])
    (image,) = open_source(str(path))
    turned = {1: pixels, 3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1)}[orientation]
    assert np.abs(image.pixels.astype(int) - turned).max() < 30
    calibration = {"width": 64, "height": 48, "fx": 90, "fy": 90, "cx": 32, "cy": 24}
    (path / "calib.json").write_text(json.dumps(calibration))
    (image,) = open_source(str(path))
    assert np.abs(image.pixels.astype(int) - pixels).max() < 30
    assert ("EXIF data says to turn it" in caplog.text) == (orientation != 1)


def euroc(path: Path, sensor: str) -> Path:
    camera = path / "mav0" / "cam0"
    (camera / "data").mkdir(parents=True)
    cv2.imwrite(str(camera / "data" / "1.png"), grey(1))
    (camera / "data.csv").write_text("#t,file\n1000,1.png\n")
    (camera / "sensor.yaml").write_text(sensor)
    return path


@pytest.mark.parametrize(
    ("sensor", "words"),
    [
        ("resolution: [64, 48\nintrinsics: 3\n", r"line \d is not valid YAML: expected"),
        ("resolution: [64, 48]\n", "'intrinsics' is missing"),
    ],
)
def test_a_malformed_sensor_yaml_is_told_by_its_line_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sensor: str, words: str
) -> None:
    path = euroc(tmp_path / "run", sensor)
    source = open_source(str(path))
    assert values(source) == [40]
    assert source.calibration is None
    (told,) = (r.getMessage() for r in caplog.records)
    assert re.search(words, told)
    assert " at 0x" not in told


def test_images_that_cannot_be_read_are_not_called_a_missing_calibration(tmp_path: Path) -> None:
    path = tmp_path / "00"
    (path / "image_0").mkdir(parents=True)
    (path / "image_0" / "000000.png").write_bytes(b"no image")
    (path / "calib.txt").write_text("P0: 1 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(SourceError, match=r"none of the 1 images of .* can be read; the first one"):
        open_source(str(path))


def test_errors_say_what_is_wrong_with_this_file(tmp_path: Path) -> None:
    for name, content, words in (
        ("a.mp4", b"", "the file is empty"),
        ("b.mp4", b"nothing" * 99, "damaged, truncated, or uses a codec"),
        ("c.txt", b"hello", "it is not a known kind of source"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=words) as told:
            open_source(str(tmp_path / name))
        assert (".png" in str(told.value)) is False


# Videos


def element(identity: int, content: bytes) -> bytes:
    """One of Matroska's, its size in 8 bytes."""
    name = identity.to_bytes((identity.bit_length() + 7) // 8, "big")
    return name + (1 << 56 | len(content)).to_bytes(8, "big") + content


def number(identity: int, value: int) -> bytes:
    return element(identity, value.to_bytes(4, "big"))


def matroska(path: Path, times: list[int], duration: float, rate: float = 20.0) -> Path:
    """A video of JPEGs with these times in ms; no library here writes a variable rate."""
    head = element(0x1A45DFA3, element(0x4282, b"matroska") + number(0x4287, 2) + number(0x4285, 2))
    info = number(0x2AD7B1, 1_000_000) + element(0x4489, struct.pack(">d", duration))
    size = number(0xB0, 64) + number(0xBA, 48)
    track = number(0xD7, 1) + number(0x73C5, 1) + number(0x83, 1) + element(0x86, b"V_MJPEG")
    track += number(0x23E383, round(1e9 / rate)) + element(0xE0, size)
    blocks = b"".join(
        element(0xA3, b"\x81" + struct.pack(">hB", time, 0x80) + jpeg)
        for time, jpeg in ((t, cv2.imencode(".jpg", grey(i % 6))[1].tobytes())
                           for i, t in enumerate(times))
    )  # fmt: skip
    cluster = element(0x1F43B675, number(0xE7, 0) + blocks)
    segment = element(0x1549A966, info) + element(0x1654AE6B, element(0xAE, track)) + cluster
    path.write_bytes(head + element(0x18538067, segment))
    return path


def test_a_whole_video_of_a_variable_rate_is_not_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = [0, 50, 100, 400, 900, 950, 1700, 1750, 2400, 2500]  # where 20 Hz gives 50 frames
    source = open_source(str(matroska(tmp_path / "run.mkv", times, 2550.0)))
    assert source.length is not None
    assert source.length > 20
    frames = list(source)
    assert [round(image.stamp * 1000) for image in frames] == times
    assert source.skipped == 0
    assert not warnings(caplog)
    source = open_source(str(matroska(tmp_path / "cut.mkv", times, 9000.0)))
    assert len(list(source)) == 10
    assert source.skipped > 0
    assert "stopped after 10 of" in caplog.text


def test_a_video_is_written_whatever_the_stamps_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with VideoFile(tmp_path / "tracks.mp4", 36_000.0) as video:
        video.add(np.zeros((64, 64, 3), np.uint8))
    assert cv2.VideoCapture(str(tmp_path / "tracks.mp4")).get(cv2.CAP_PROP_FPS) == 30.0
    assert "36000 images a second" in caplog.text


# All of it


def test_no_library_writes_to_the_terminal(tmp_path: Path) -> None:
    """OpenCV, libpng and FFmpeg about damage and harmless oddities."""
    script = """
import sys, zlib, struct, logging
from pathlib import Path
import cv2, numpy as np
from aliked_ros.errors import AlikedError
from aliked_ros.io.images import decode_image
from aliked_ros.sources import open_source
logging.disable()
folder = Path(sys.argv[1])
noise = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
png = cv2.imencode(".png", noise)[1].tobytes()
def chunk(name, data):
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum
odd = png[:33] + chunk(b"iCCP", b"x\\0\\0damaged") + chunk(b"gAMA", b"\\0") + png[33:]
assert decode_image(odd).shape == (40, 40)
(folder / "a.mp4").write_bytes(b"\\0\\0\\0\\x18ftypmp42" + bytes(500))
(folder / "a.avi").write_bytes(b"RIFF" + bytes(500))
bent = png[:400] + b"abc" + png[403:]
for data in (bent, b"P5 9 9 255\\n", b"BM" + bytes(80), b"II*\\0" + bytes(90)):
    try: decode_image(data); print("decoded")
    except AlikedError: pass
for name in ("a.mp4", "a.avi"):
    try: open_source(str(folder / name)); print("opened")
    except AlikedError: pass
"""
    environment = {k: v for k, v in os.environ.items() if k != "OPENCV_FFMPEG_LOGLEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")


def test_a_sample_of_what_the_fuzzer_makes() -> None:
    faults: list[str] = []
    outcomes = fuzz(range(60), faults.append)
    assert not faults
    assert sum(outcomes.values()) == 60
    assert len(outcomes) > 6


def test_extra_coefficients_reach_the_camera_of_a_recording(tmp_path: Path) -> None:
    info = bags.camera_info(START, (64, 48), K, (-0.03, 0.035, -1e-4, -1e-4, -0.012, 0, 0, 0))
    entries = [*pictures(1), ("/camera/camera_info", START, info)]
    source = open_source(str(bags.write(tmp_path / "run", entries, StoragePlugin.MCAP)))
    assert source.calibration is not None
    camera = CameraModel.from_calibration(source.calibration)
    assert camera.distortion.tolist() == [-0.03, 0.035, -1e-4, -1e-4, -0.012]
