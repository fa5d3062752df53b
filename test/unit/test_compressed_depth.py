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

"""Depth images of the transport compressedDepth, encoded here as its publisher does."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from aliked_ros.errors import ImageError
from aliked_ros.io.image_messages import depth_from_message

NEAREST, FARTHEST = 1.0, 10.0  # of the publisher's quantisation, metres


def rvl(pixels: np.ndarray) -> bytes:
    """Runs of zeros and of differences, in groups of four bits."""
    groups: list[int] = []

    def put(number: int) -> None:
        while number > 7:
            groups.append(number & 7 | 8)
            number >>= 3
        groups.append(number)

    values, at, before = pixels.ravel().tolist(), 0, 0
    while at < len(values):
        start = at
        while at < len(values) and values[at] == 0:
            at += 1
        put(at - start)
        end = at
        while end < len(values) and values[end] != 0:
            end += 1
        put(end - at)
        for value in values[at:end]:
            step = value - before
            put(2 * step if step >= 0 else -2 * step - 1)
            before = value
        at = end
    groups += [0] * (-len(groups) % 8)
    words = [
        sum(group << 4 * (7 - index) for index, group in enumerate(groups[begin : begin + 8]))
        for begin in range(0, len(groups), 8)
    ]
    return struct.pack(f"<2I{len(words)}I", pixels.shape[1], pixels.shape[0], *words)


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def message(format: str, picture: bytes, scale: float = 0.0, offset: float = 0.0):
    return SimpleNamespace(format=format, data=struct.pack("<iff", 0, scale, offset) + picture)


@pytest.fixture(scope="module")
def millimetres(shared: Path) -> np.ndarray:
    """A real depth image, with its holes."""
    stored = cv2.imread(
        str(sorted((shared / "data/tum_fr1_xyz/depth").glob("*.png"))[0]), cv2.IMREAD_UNCHANGED
    )
    assert stored.dtype == np.uint16
    assert (stored == 0).any()
    return stored // 5


@pytest.mark.parametrize("encode", [png, rvl])
def test_sixteen_bits_come_back_exactly(encode, millimetres):
    for form in (f"16UC1; compressedDepth {encode.__name__}",) + (
        ("16UC1; compressedDepth", "16UC1") if encode is png else ()
    ):
        depth = depth_from_message(message(form, encode(millimetres)))
        expected = np.where(millimetres == 0, np.nan, millimetres / np.float32(1000))
        np.testing.assert_allclose(depth, expected, rtol=1e-6)


@pytest.mark.parametrize("encode", [png, rvl])
def test_metres_come_back_from_inverse_depth(encode, millimetres):
    metres = np.where(millimetres == 0, np.nan, millimetres / np.float32(1000))
    scale = 100.0 * (100.0 + NEAREST)
    offset = NEAREST - scale / FARTHEST
    with np.errstate(invalid="ignore"):
        quantised = np.where(metres < FARTHEST, scale / metres + offset, 0).astype(np.uint16)
    depth = depth_from_message(
        message(f"32FC1; compressedDepth {encode.__name__}", encode(quantised), scale, offset)
    )
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(depth), np.isnan(metres))
    worst = np.nanmax(np.abs(depth - metres) / metres**2)
    assert worst <= 1.05 / scale  # one step of inverse depth


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((480, 640), np.uint16), np.full((3, 5), 65535, np.uint16),
     np.array([[0, 1, 0, 65535, 0]], np.uint16), np.array([[7]], np.uint16)],
)  # fmt: skip
def test_extreme_rvl_images_come_back(pixels):
    depth = depth_from_message(message("16UC1; compressedDepth rvl", rvl(pixels)))
    known = np.where(pixels == 65535, 0, pixels)
    np.testing.assert_array_equal(np.nan_to_num(depth * 1000).round(), known)


@pytest.mark.parametrize(
    ("form", "data", "words"),
    [
        ("16UC1; compressedDepth zstd", b"", "set the publisher's format to png or rvl"),
        ("rgb8; jpeg compressed bgr8", b"", "publish 16UC1 or 32FC1"),
        ("16UC1; compressedDepth png", b"abc", "no PNG"),
        ("16UC1; compressedDepth png", png(np.zeros((4, 4, 3), np.uint8)), "one 16-bit channel"),
        ("16UC1; compressedDepth png", png(np.ones((40, 40), np.uint16))[:60], "Check the pub"),
        ("16UC1; compressedDepth rvl", b"", "cannot be decoded"),
        ("16UC1; compressedDepth rvl", struct.pack("<2I", 4, 4), "it is empty"),
        ("16UC1; compressedDepth rvl", struct.pack("<3I", 2**31, 4, 0), "claims to be"),
        ("16UC1; compressedDepth rvl", struct.pack("<3I", 0, 4, 0), "claims to be 0×4"),
        ("16UC1; compressedDepth rvl", struct.pack("<3I", 4, 4, 0), "runs do not fit 4×4"),
        ("16UC1; compressedDepth rvl", struct.pack("<4I", 4, 4, 2**32 - 1, 0), "24 bits"),
        ("16UC1; compressedDepth rvl", rvl(np.ones((9, 9), np.uint16))[:12], "it ends before"),
    ],
)
def test_damage_is_refused_in_a_sentence(form, data, words):
    with pytest.raises(ImageError, match=words):
        depth_from_message(message(form, data))


def test_any_cut_of_rvl_data_is_refused_or_harmless(millimetres):
    small = millimetres[100:140, 100:150]
    whole = rvl(small)
    for size in range(0, len(whole), 7):
        try:
            depth = depth_from_message(message("16UC1; compressedDepth rvl", whole[:size]))
        except ImageError:
            continue
        pytest.fail(f"{size} of {len(whole)} bytes gave an image of {depth.shape}")
