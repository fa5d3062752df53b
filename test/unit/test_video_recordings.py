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

"""Recordings of video and of compressedDepth as sources."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from aliked_ros.errors import SourceError
from aliked_ros.sources import Source, open_source
from aliked_ros.types import Image
from helpers import bags
from helpers.data import read_rgb
from helpers.video import Encoded, difference, encode

START, PERIOD = 1403636579763555584, 33_000_000
WAITS = "waiting for the next key frame"
NEAR = 4.0  # grey values, of a decoded image from its own


@pytest.fixture(scope="module")
def images(shared: Path) -> list[np.ndarray]:
    files = sorted((shared / "data/tum_fr1_xyz/rgb").glob("*.png"))[:36:3]
    return [cv2.resize(read_rgb(f), (320, 240), interpolation=cv2.INTER_AREA) for f in files]


def record(
    path: Path,
    packets: list[Encoded],
    codec: str = "h264",
    foxglove: bool = True,
    storage: StoragePlugin = StoragePlugin.MCAP,
    more: tuple = (),
) -> Path:
    """A rosbag2 folder of a camera; each packet arrives after the one before."""
    suffix = "foxglove" if foxglove else "ffmpeg"
    entries = [
        (
            f"/camera/image_raw/{suffix}",
            START + order * PERIOD + 5_000_000,
            bags.video(p.data, START + p.index * PERIOD, codec, -1 if foxglove else p.index),
        )
        for order, p in enumerate(packets)
    ]
    info = bags.camera_info(START, (320, 240), np.diag([250.0, 250.0, 1.0]))
    entries.append(("/camera/camera_info", START, info))
    return bags.write(path, sorted([*entries, *more], key=lambda entry: entry[1]), storage)


def numbered(source: Source) -> Iterator[tuple[int, Image]]:
    """The images by their numbers in the recording, where unreadable ones count."""
    for count, image in enumerate(source, source.first):
        yield count + source.skipped, image


def check(frames: list, images: list[np.ndarray], indices: list[int]) -> None:
    assert [(f.nanoseconds - START) / PERIOD for f in frames] == indices
    for frame, index in zip(frames, indices, strict=True):
        assert difference(frame.pixels, images[index]) < NEAR, index


@pytest.mark.parametrize("foxglove", [True, False])
@pytest.mark.parametrize("codec", ["h264", "h265"])
@pytest.mark.parametrize("between", [0, 2])
def test_video_has_the_images_and_their_stamps(tmp_path, images, foxglove, codec, between):
    name = codec if foxglove else f"lib{codec.replace('h', 'x')};yuv420p;bgr8;bgr8"
    path = record(tmp_path / "run", encode(images, codec, between), name, foxglove)
    source = open_source(str(path))
    assert source.length == 12
    assert source.rate == pytest.approx(1e9 / PERIOD, rel=0.01)
    assert source.calibration is not None
    for _ in range(2):
        check(list(source), images, list(range(12)))
    assert source.skipped == 0
    source.first = 7
    check(list(source), images, list(range(7, 12)))
    check(list(open_source(f"{path}#/camera/image_raw", limit=3)), images, [0, 1, 2])


def test_a_database_without_definitions_is_read(tmp_path, images):
    for foxglove in (True, False):
        path = record(tmp_path / str(foxglove), encode(images), "h264", foxglove,
                      StoragePlugin.SQLITE3) / f"{foxglove}.db3"  # fmt: skip
        database = sqlite3.connect(path)
        database.executescript("DROP TABLE message_definitions; DROP TABLE schema;")
        database.close()
        check(list(open_source(str(path))), images, list(range(12)))


def test_gaps_wait_for_the_next_key_frame_and_say_so_once(tmp_path, images, caplog):
    packets = [p for p in encode(images, group=5) if p.index not in (0, 1, 7)]
    source = open_source(str(record(tmp_path / "run", packets)))
    check(list(source), images, [5, 6, 10, 11])
    assert source.skipped == 5
    assert caplog.text.count("no key frame has come yet") == 1
    assert caplog.text.count("a packet was lost or damaged") == 1


@pytest.mark.parametrize(("codec", "between"), [("h264", 0), ("h264", 2), ("h265", 2)])
def test_a_part_is_decoded_from_the_key_frame_before_it(tmp_path, images, caplog, codec, between):
    """The same pixels under the same numbers, also after losses, of whole files only."""
    packets = encode(images, codec, between, group=4)
    second = next(k for k, p in enumerate(packets) if p.key and p.index)
    broken = packets[second - 1]
    packets[second - 1] = replace(broken, data=broken.data[:30])
    del packets[second - 2]
    path = record(tmp_path / "run", packets, codec)
    source = open_source(str(path))
    whole = list(numbered(source))
    assert [number for number, _ in whole[-7:]] == list(range(4, 11))
    assert WAITS in caplog.text
    for first in range(11):
        caplog.clear()
        source.first = first
        rest = list(numbered(source))
        assert [number for number, _ in rest] == [n for n, _ in whole if n >= first]
        for (_, image), (_, expected) in zip(rest, whole[-len(rest) :], strict=True):
            assert image.nanoseconds == expected.nanoseconds
            np.testing.assert_array_equal(image.pixels, expected.pixels)
        assert (WAITS in caplog.text) == (first < 3)


def test_a_video_without_any_key_frame_is_refused(tmp_path, images):
    path = record(tmp_path / "run", [p for p in encode(images, group=30) if p.index])
    with pytest.raises(SourceError, match=r"none of the 11 packets .* has no key frame"):
        list(open_source(str(path)))


def test_stereo_pairs_of_video(tmp_path, images):
    packets = encode(images)
    more = tuple(
        ("/camera/right/image_raw/foxglove", START + p.index * PERIOD + 6_000_000,
         bags.video(p.data, START + p.index * PERIOD, "h264"))
        for p in encode(images[::-1], "h264")
    )  # fmt: skip
    path = record(tmp_path / "run", packets, more=more)
    spec = f"{path}#/camera/image_raw,/camera/right/image_raw"
    frames = list(open_source(spec, partner="right"))
    check(frames, images, list(range(12)))
    for frame, other in zip(frames, images[::-1], strict=True):
        assert difference(frame.right, other) < NEAR


def test_depth_of_the_transport_comes_with_the_images(tmp_path, images):
    millimetres = np.arange(320 * 240, dtype=np.uint16).reshape(240, 320) % 5000
    data = struct.pack("<iff", 0, 0.0, 0.0) + cv2.imencode(".png", millimetres)[1].tobytes()
    more = tuple(
        ("/camera/depth/image_raw/compressedDepth", START + i * PERIOD + 6_000_000,
         bags.CompressedImage(header=bags.header(START + i * PERIOD),
                              format="16UC1; compressedDepth png",
                              data=np.frombuffer(data, np.uint8)))
        for i in range(12)
    )  # fmt: skip
    path = record(tmp_path / "run", encode(images), more=more)
    for spec in (str(path), f"{path}#/camera/image_raw,/camera/depth/image_raw"):
        frames = list(open_source(spec, partner="depth"))
        check(frames, images, list(range(12)))
        expected = np.where(millimetres == 0, np.nan, millimetres / np.float32(1000))
        np.testing.assert_allclose(frames[3].depth, expected, rtol=1e-6)
