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

"""Decoding H.264 and H.265 packet by packet, with losses and damage."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.errors import ConfigurationError, ImageError
from aliked_ros.io.video import NoPictureYet, VideoDecoder, VideoPacket
from aliked_ros.ros.video_stream import VideoStream
from aliked_ros.ros.warnings import Warnings
from helpers.data import read_rgb, shared_folder
from helpers.video import Encoded, difference, encode

CODECS = ["h264", "h265"]
GROUP = 5
NEAR = 3.2  # grey values, of a decoded image from its own; the next image differs by 18 and more


@cache
def images() -> list[np.ndarray]:
    """Twelve images of fr1_xyz at half size, three apart: the camera moves between them."""
    folder = shared_folder()
    if folder is None:
        pytest.skip("there is no field data")
    files: list[Path] = sorted((folder / "data/tum_fr1_xyz/rgb").glob("*.png"))[:36:3]
    return [cv2.resize(read_rgb(file), (320, 240), interpolation=cv2.INTER_AREA) for file in files]


@cache
def packets(codec: str, between: int = 0) -> list[Encoded]:
    return encode(images(), codec, between, GROUP)


def decode(
    stream: Iterable[Encoded], codec: str, decoder: VideoDecoder | None = None
) -> tuple[list[int], list[str]]:
    """The numbers of the images that come out, each compared with its own, and what is said."""
    decoder = decoder or VideoDecoder()
    came, said = [], []

    def take(pictures) -> None:
        for picture in pictures:
            number = picture.packet.header
            assert difference(picture.pixels(), images()[number]) < NEAR, number
            came.append(number)

    for packet in stream:
        try:
            take(decoder.decode(VideoPacket(packet.index, codec, packet.data)))
        except ImageError as error:
            said.append(str(error))
    take(decoder.flush())
    return came, said


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("between", [0, 2])
def test_pictures_come_in_order_with_their_packets_header(codec, between):
    stream = packets(codec, between)
    if between:
        assert [p.index for p in stream] != sorted(p.index for p in stream)
    assert decode(stream, codec) == (list(range(12)), [])


@pytest.mark.parametrize("codec", CODECS)
def test_without_b_frames_no_picture_is_held_back(codec):
    decoder = VideoDecoder()
    for packet in packets(codec):
        (picture,) = decoder.decode(VideoPacket(packet.index, codec, packet.data))
        assert picture.packet.header == packet.index
        assert not decoder.reorders


@pytest.mark.parametrize("codec", CODECS)
def test_a_stream_joined_in_the_middle_begins_with_its_key_frame(codec):
    came, said = decode(packets(codec)[2:], codec)
    assert came == list(range(5, 12))
    assert said == ["no key frame has come yet: waiting for the next key frame."] * 3


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("missing", [2, 5])  # of the first group; the second one's key frame
def test_after_a_lost_packet_nothing_wrong_comes_out(codec, missing):
    came, said = decode((p for p in packets(codec) if p.index != missing), codec)
    resumed = (missing // GROUP + 1) * GROUP
    assert came == [*range(missing), *range(resumed, 12)]
    assert len(said) == resumed - missing - 1
    assert all("waiting for the next key frame" in sentence for sentence in said)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("between", [0, 2])
@pytest.mark.parametrize("missing", range(1, 7))
def test_every_picture_that_comes_is_right_whatever_was_lost(codec, between, missing):
    """``decode`` compares them."""
    came, _ = decode(
        packets(codec, between)[:missing] + packets(codec, between)[missing + 1 :], codec
    )
    assert came[-2:] == [10, 11]


@pytest.mark.parametrize(
    ("codec", "damage"),
    [("h264", "cut")]  # FFmpeg does not notice every cut of H.265, which no transport makes
    + [(codec, damage) for codec in CODECS for damage in ("empty", "no start code", "noise")],
)
def test_a_damaged_packet_is_refused_and_decoding_goes_on(codec, damage):
    stream = list(packets(codec))
    noise = np.random.default_rng(0).integers(1, 256, 500, np.uint8).tobytes()
    data = {
        "cut": stream[2].data[: len(stream[2].data) // 2], "empty": b"", "no start code": b"hello",
        "noise": b"\0\0\0\1" + noise,
    }[damage]  # fmt: skip
    stream[2] = Encoded(2, False, data)
    came, said = decode(stream, codec)
    assert came == [0, 1, *range(5, 12)]
    assert 2 <= len(said) <= 3  # noise may look like a unit without a picture


def test_a_stream_may_change_codec_and_size():
    decoder = VideoDecoder()
    assert decode(packets("h264"), "h264", decoder)[0] == list(range(12))
    assert decode(packets("h265"), "hevc_nvenc", decoder)[0] == list(range(12))
    smaller = [np.ascontiguousarray(image[:160, :224]) for image in images()[:3]]
    for packet in encode(smaller, "h265"):
        (picture,) = decoder.decode(VideoPacket(None, "h265", packet.data))
        assert difference(picture.pixels(), smaller[packet.index]) < NEAR


@pytest.mark.parametrize("codec", CODECS)
def test_parameters_may_come_in_packets_of_their_own(codec):
    decoder = VideoDecoder()
    whole = packets(codec)[0].data.replace(b"\0\0\0\1", b"\0\0\1")
    first, second, *rest = (b"\0\0\1" + unit for unit in whole.split(b"\0\0\1")[1:])
    units = [first, second, b"".join(rest)]
    pictures = [p for unit in units for p in decoder.decode(VideoPacket(0, codec, unit))]
    pictures += decoder.decode(VideoPacket(1, codec, packets(codec)[1].data))
    assert [difference(p.pixels(), images()[i]) < NEAR for i, p in enumerate(pictures)] == [
        True
    ] * 2


@pytest.mark.parametrize("codec", ["vp9", "av1", "", "mjpeg;yuv420p"])
def test_another_codec_is_refused_by_name(codec):
    with pytest.raises(ImageError, match=f"codec '{codec}'; publish h264 or h265"):
        VideoDecoder().decode(VideoPacket(None, codec, packets("h264")[0].data))


@pytest.mark.parametrize(("between", "refused"), [(0, False), (2, True)])
def test_what_is_paired_gets_the_packets_own_picture_or_none(between, refused):
    said: list[str] = []
    stream = VideoStream("/image", Warnings(said.append, lambda _: None))
    found = []
    for number, one in enumerate(packets("h264", between), 1):
        packet = VideoPacket(None, "h264", one.data)
        stream.put(packet, {"publication_sequence_number": number})
        picture = stream.own_picture(packet)
        found.append(picture is not None and picture.packet is packet)
    assert set(found) == {not refused}
    assert ["has B-frames" in one for one in said] == [True] * refused


def test_waiting_is_told_from_damage():
    with pytest.raises(NoPictureYet):
        VideoDecoder().decode(VideoPacket(None, "h264", packets("h264")[1].data))


def test_one_sentence_where_pyav_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigurationError, match="pip install av, or publish raw or compressed"):
        VideoDecoder()
