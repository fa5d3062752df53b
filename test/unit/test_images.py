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

"""Decoding: colours, depths, and what is not a whole image."""

from __future__ import annotations

from array import array

import cv2
import numpy as np
import pytest

from aliked_ros.errors import ImageError
from aliked_ros.io.images import decode_image


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    good, data = cv2.imencode(suffix, pixels)
    assert good
    return data.tobytes()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: array("B", data)])
def test_colours_and_depths_from_any_buffer(kind, picture: np.ndarray) -> None:
    rgb = picture[..., ::-1]
    np.testing.assert_array_equal(decode_image(kind(encoded(".png", picture))), rgb)
    grey = picture[..., 0]
    np.testing.assert_array_equal(decode_image(kind(encoded(".png", grey))), grey)
    deep = grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_image(kind(encoded(".png", deep))), grey)
    alpha = np.dstack([picture, np.full_like(grey, 9)])
    np.testing.assert_array_equal(decode_image(kind(encoded(".png", alpha))), rgb)
    assert decode_image(kind(encoded(".jpg", grey))).ndim == 2


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_cut_off_images_are_refused(suffix: str, share: float, picture: np.ndarray) -> None:
    data = encoded(suffix, picture)
    with pytest.raises(ImageError, match=r"\d+ bytes cannot be decoded"):
        decode_image(data[: int(share * len(data))])


@pytest.mark.parametrize(
    "flags", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)]
)
def test_every_way_to_write_a_jpeg(flags: tuple[int, ...], picture: np.ndarray) -> None:
    data = cv2.imencode(".jpg", picture, flags)[1].tobytes()
    assert decode_image(data).shape == picture.shape
    with pytest.raises(ImageError, match="its end is missing"):
        decode_image(data[:-2])


def test_a_jpeg_that_lost_its_middle_is_refused_in_libjpegs_words(picture: np.ndarray, capfd):
    data = encoded(".jpg", picture)
    half = len(data) // 2
    with pytest.raises(ImageError, match="libjpeg reports premature end of data segment"):
        decode_image(data[:half] + data[half + 1500 :])
    capfd.readouterr()
    flat = picture.copy()
    flat[-20:] = 0
    assert decode_image(encoded(".jpg", flat)).shape == picture.shape  # black there, and whole
    assert capfd.readouterr().err == ""
    padded = encoded(".jpg", flat)[:-2] + bytes(100) + b"\xff\xd9"  # as some cameras pad them
    assert decode_image(padded).shape == picture.shape


def test_a_whole_thumbnail_does_not_make_a_jpeg_whole(picture: np.ndarray) -> None:
    data, thumbnail = encoded(".jpg", picture), encoded(".jpg", picture[::8, ::8])
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = data[:2] + segment + data[2:]
    assert decode_image(data).shape == picture.shape
    with pytest.raises(ImageError, match="its end is missing"):
        decode_image(data[:-100])


def test_what_a_camera_appends_to_a_jpeg_does_no_harm(picture: np.ndarray) -> None:
    data = encoded(".jpg", picture) + b"a film \xff\xda\x00\x10"
    assert decode_image(data).shape == picture.shape


def test_no_image() -> None:
    for data in (b"", b"this is no picture", b"\xff\xd8", b"\xff\xd8\xff"):
        with pytest.raises(ImageError, match="cannot be decoded"):
            decode_image(data)


@pytest.mark.parametrize("largest", [1, 15, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", [2, 3, 5, 6])
def test_white_is_what_a_pnm_says(kind: int, largest: int) -> None:
    """Whatever its maxval, as numbers or bytes, grey or colour, with comments."""
    values = [0, largest, largest // 2] * (2 if kind in (2, 5) else 1)
    size = (3, 2) if kind in (2, 5) else (1, 1)
    head = f"P{kind}\n# by a camera\n{size[0]} {size[1]}\n{largest}\n".encode()
    data = np.array(values, ">u2" if largest > 255 else "u1").tobytes()
    if kind in (2, 3):
        data = " ".join(map(str, values)).encode() + b"\n"
    pixels = decode_image(head + data)
    expected = np.array(values) * 255.0 / largest
    np.testing.assert_allclose(pixels.ravel(), expected, atol=1.0)


def test_damage_is_named() -> None:
    png = cv2.imencode(".png", np.arange(64, dtype=np.uint8).reshape(8, 8))[1].tobytes()
    damaged = png[:50] + bytes([png[50] ^ 1]) + png[51:]
    for data, words in (
        (damaged, "checksum of its chunk IDAT is wrong"),
        (png[:-12], "its end is missing"),
        (b"", "it is empty"),
        (b"hello", "it starts with 68 65 6C 6C"),
        (b"BM" + bytes(60), "starts like a BMP"),
        (b"P5 9 9 255\n", "starts like a PNM"),
        (b"\xff\xd8\xff\xe0", "the marker FF D9"),
    ):
        with pytest.raises(ImageError, match=words) as told:
            decode_image(data)
        assert ".png" not in str(told.value)
