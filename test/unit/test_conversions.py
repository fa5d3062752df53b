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

"""Image messages of every encoding become the right pixels; malformed ones become sentences."""

from __future__ import annotations

import os

os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"  # read when message classes are imported

import importlib.util
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_msgs.msg import (
    FeatureFrame,
    FeatureMatches,
    Keyframe,
    LoopCandidate,
    RelocalizationCandidate,
)
from aliked_ros.errors import ConfigurationError, ImageError, SourceError
from aliked_ros.frontend.codes import encode
from aliked_ros.frontend.loops import Loop
from aliked_ros.frontend.places import GivenPose
from aliked_ros.io import messages
from aliked_ros.io.images import decode_image
from aliked_ros.ros import conversions
from aliked_ros.types import Candidate, Features, FrameResult, Matches, Pose, Tracks
from aliked_ros.types import Keyframe as CoreKeyframe
from helpers.places import synthetic_place

RNG_SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))
PADDINGS = st.integers(0, 9)


def message_of(samples: np.ndarray, encoding: str, padding: int, bigendian: bool) -> ImageMessage:
    """An image message of H×W×C samples of any type, with rows padded by rubbish."""
    height, width = samples.shape[:2]
    ordered = samples.astype(samples.dtype.newbyteorder(">" if bigendian else "<"))
    rows = np.frombuffer(ordered.tobytes(), np.uint8).reshape(height, -1)
    padded = np.full((height, rows.shape[1] + padding), 0xAB, np.uint8)
    padded[:, : rows.shape[1]] = rows
    message = ImageMessage(height=height, width=width, encoding=encoding, step=padded.shape[1])
    message.is_bigendian = int(bigendian)
    message.data.frombytes(padded.tobytes())
    return message


def pixels_of(message: ImageMessage | CompressedImage) -> np.ndarray:
    pixels = conversions.image_from_message(message).pixels
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    return pixels


# Encoding: sample type, and the position of red, green, blue (None: grey) among the channels.
PLAIN = {
    "mono8": (np.uint8, 1, None),
    "8UC1": (np.uint8, 1, None),
    "mono16": (np.uint16, 1, None),
    "rgb8": (np.uint8, 3, (0, 1, 2)),
    "bgr8": (np.uint8, 3, (2, 1, 0)),
    "8UC3": (np.uint8, 3, (2, 1, 0)),
    "rgba8": (np.uint8, 4, (0, 1, 2)),
    "bgra8": (np.uint8, 4, (2, 1, 0)),
    "8UC4": (np.uint8, 4, (2, 1, 0)),
    "BGR8": (np.uint8, 3, (2, 1, 0)),
    "rgb8\0": (np.uint8, 3, (0, 1, 2)),  # of a C program that sends the end of the string, too
    "rgb16": (np.uint16, 3, (0, 1, 2)),
    "bgr16": (np.uint16, 3, (2, 1, 0)),
    "rgba16": (np.uint16, 4, (0, 1, 2)),
    "bgra16": (np.uint16, 4, (2, 1, 0)),
}


@pytest.mark.parametrize("encoding", PLAIN)
@given(size=SIZES, padding=PADDINGS, bigendian=st.booleans(), seed=RNG_SEEDS)
@settings(max_examples=40, deadline=None)
def test_plain_encodings_with_any_step_and_byte_order(encoding, size, padding, bigendian, seed):
    dtype, channels, order = PLAIN[encoding]
    limit = np.iinfo(dtype).max
    samples = np.random.default_rng(seed).integers(0, limit, (*size, channels), dtype, True)
    expected = samples if dtype == np.uint8 else (samples >> 8).astype(np.uint8)
    expected = expected[..., 0] if order is None else expected[..., list(order)]
    np.testing.assert_array_equal(
        pixels_of(message_of(samples, encoding, padding, bigendian)), expected
    )


@given(size=SIZES, padding=PADDINGS, bigendian=st.booleans(), seed=RNG_SEEDS)
@settings(max_examples=40, deadline=None)
def test_float_images_are_scaled_from_the_unit_interval(size, padding, bigendian, seed):
    expected = np.random.default_rng(seed).integers(0, 255, size, np.uint8, True)
    samples = expected[..., None].astype(np.float32) / np.float32(255)
    message = message_of(samples, "32FC1", padding, bigendian)
    np.testing.assert_array_equal(pixels_of(message), expected)


BAYER = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", BAYER)
@given(
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    half=st.tuples(st.integers(2, 8), st.integers(2, 8)),
    padding=PADDINGS,
    bigendian=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_bayer_patterns_give_back_a_uniform_colour(pattern, bits, colour, half, padding, bigendian):
    sample = dict(zip("RGB", colour, strict=True))
    tile = np.array([sample[letter] for letter in BAYER[pattern]]).reshape(2, 2)
    samples = np.tile(tile, half)[..., None].astype(np.uint16 if bits == 16 else np.uint8)
    samples = samples << 8 if bits == 16 else samples
    pixels = pixels_of(message_of(samples, f"bayer_{pattern}{bits}", padding, bigendian))
    assert (pixels == colour).all()


@given(half_width=st.integers(1, 8), height=st.integers(1, 8), padding=PADDINGS, seed=RNG_SEEDS)
@settings(max_examples=40, deadline=None)
def test_both_orders_of_yuv422_give_the_same_picture(half_width, height, padding, seed):
    rng = np.random.default_rng(seed)
    luma = rng.integers(0, 255, (height, 2 * half_width), np.uint8, True)
    chroma = rng.integers(0, 255, (height, 2 * half_width), np.uint8, True)  # U V U V ...
    uyvy = pixels_of(message_of(np.stack([chroma, luma], -1), "yuv422", padding, False))
    yuyv = pixels_of(message_of(np.stack([luma, chroma], -1), "yuv422_yuy2", padding, False))
    np.testing.assert_array_equal(uyvy, yuyv)


def test_yuv422_channels_have_their_meaning():
    def colour(u: int, v: int) -> np.ndarray:
        samples = np.tile(np.array([u, 128, v, 128], np.uint8), (4, 4)).reshape(4, 8, 2)
        return pixels_of(message_of(samples, "yuv422", 0, False))[0, 0].astype(int)

    red, green, blue = colour(128, 128)
    assert red == green == blue
    assert colour(240, 128)[2] > colour(240, 128)[0] + 50  # much U is blue
    assert colour(128, 240)[0] > colour(128, 240)[2] + 50  # much V is red


YUV = {"red": (81, 90, 240), "green": (145, 54, 34), "blue": (41, 240, 110)}  # BT.601


@pytest.mark.parametrize("padding", [0, 8])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24", "yu12", "i420", "yv12"])
def test_planar_yuv_gives_back_its_colours(encoding, padding):
    """A picture of four colours; rows of the colour planes are as long as step says."""
    quarters = ["red", "green", "blue", "red"]
    planes = [
        np.block([[np.full((4, 6), YUV[quarters[2 * y + x]][c]) for x in (0, 1)] for y in (0, 1)])
        for c in range(3)
    ]
    luma, u, v = (plane.astype(np.uint8) for plane in planes)
    parts: list[tuple[np.ndarray, int]] = [(luma, padding)]
    if encoding == "nv24":
        parts.append((np.stack([u, v], -1).reshape(8, 24), 2 * padding))
    elif encoding in ("nv12", "nv21"):
        pair = (u, v) if encoding == "nv12" else (v, u)
        parts.append((np.stack([p[::2, ::2] for p in pair], -1).reshape(4, 12), padding))
    else:
        pair = (v, u) if encoding == "yv12" else (u, v)
        parts += [(p[::2, ::2], padding // 2) for p in pair]
    data = b"".join(np.pad(part, ((0, 0), (0, pad))).tobytes() for part, pad in parts)
    message = ImageMessage(width=12, height=8, step=12 + padding, encoding=encoding, data=data)
    pixels = pixels_of(message)
    assert pixels.shape == (8, 12, 3)
    corners = [pixels[1, 1], pixels[1, -2], pixels[-2, 1], pixels[-2, -2]]
    expected = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    np.testing.assert_allclose(
        np.array(corners, int), [expected[name] for name in quarters], atol=6
    )


def test_unpadded_grey_and_rgb_are_not_copied():
    for encoding, channels in (("mono8", 1), ("rgb8", 3)):
        message = message_of(np.zeros((4, 6, channels), np.uint8), encoding, 0, False)
        data = np.frombuffer(message.data, np.uint8)
        assert np.shares_memory(conversions.image_from_message(message).pixels, data)


def test_stamp_is_in_seconds():
    message = message_of(np.zeros((4, 4, 1), np.uint8), "mono8", 0, False)
    message.header.stamp = Time(sec=1_700_000_000, nanosec=500_000_000)
    assert conversions.image_from_message(message).stamp == 1_700_000_000.5


@given(size=SIZES, padding=PADDINGS, bigendian=st.booleans(), seed=RNG_SEEDS)
@settings(max_examples=60, deadline=None)
def test_depth_in_both_encodings_with_any_step_and_byte_order(size, padding, bigendian, seed):
    rng = np.random.default_rng(seed)
    millimetres = rng.integers(0, 60_000, (*size, 1), np.uint16)
    expected = np.where(millimetres > 0, millimetres / 1000, np.nan)[..., 0]
    metres = np.where(millimetres > 0, millimetres / 1000, rng.choice([0.0, np.nan, np.inf, -1.0]))
    for samples, encoding in (
        (millimetres, "16UC1"), (millimetres, "mono16"), (metres.astype(np.float32), "32FC1"),
    ):  # fmt: skip
        message = message_of(samples, encoding, padding, bigendian)
        depth = conversions.depth_from_message(message)
        assert (depth.dtype, depth.flags.c_contiguous) == (np.float32, True)
        np.testing.assert_allclose(depth, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("encoding", "kind", "ignored", "kept"),
    [
        ("mono8", np.uint8, (0,), [0, 255, 255, 255]),
        ("mono8", np.uint8, (3, 11), [255, 0, 0, 255]),
        ("mono16", np.uint16, (11,), [255, 255, 0, 255]),
        ("32SC1", np.int32, (11,), [255, 255, 0, 255]),
        ("16UC1", np.uint16, (0, 255), [0, 255, 255, 0]),
    ],
)
def test_masks_and_class_labels(encoding, kind, ignored, kept):
    labels = np.array([[0, 3, 11, 255]], kind)[..., None]
    message = message_of(labels, encoding, 9, False)
    assert conversions.mask_from_message(message, ignored).tolist() == [kept]


@pytest.mark.parametrize("convert", ["depth_from_message", "mask_from_message"])
@given(
    encoding=st.sampled_from(["16UC1", "32FC1", "mono8", "mono16", "rgb8", "nonsense", ""]),
    width=st.integers(0, 12),
    height=st.integers(0, 12),
    step=st.integers(0, 60),
    data=st.binary(max_size=800),
)
@settings(max_examples=200, deadline=None)
def test_bad_depth_and_masks_raise_image_errors_only(convert, encoding, width, height, step, data):
    message = ImageMessage(encoding=encoding, width=width, height=height, step=step, data=data)
    try:
        pixels = getattr(conversions, convert)(message)
    except ImageError:
        return
    assert pixels.shape == (height, width)


def rectified_info(shift: float = 0.0) -> CameraInfo:
    info = CameraInfo(width=64, height=48, distortion_model="plumb_bob", d=[0.0] * 5)
    info.k = np.array([50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0])
    info.p = np.array([50.0, 0.0, 32.0, shift, 0.0, 50.0, 24.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    info.r = np.eye(3).ravel()
    return info


@pytest.mark.parametrize(
    ("shift", "baseline"), [(-6.0, 0.12), (0.0, None), (6.0, None), (float("nan"), None)]
)
def test_the_baseline_is_in_the_right_cameras_p(shift, baseline):
    assert conversions.baseline_from_message(rectified_info(shift)) == pytest.approx(baseline)
    assert conversions.baseline_from_message(CameraInfo()) is None


def test_the_border_of_rectification():
    """P shows the raw image at half its size in the middle: all around it is nothing."""
    info = rectified_info()
    info.p[[0, 5]] = 25.0
    mask = conversions.border_from_message(info)
    assert mask.shape == (48, 64)
    assert mask[24, 32] == mask[18, 24] == 255
    assert mask[24, 10] == mask[5, 32] == 0
    info.r = np.zeros(9)
    with pytest.raises(ConfigurationError, match="not a rotation"):
        conversions.border_from_message(info)
    with pytest.raises(ConfigurationError, match="not calibrated"):
        conversions.border_from_message(CameraInfo(width=64, height=48, r=np.eye(3).ravel()))


def good() -> ImageMessage:
    return message_of(np.zeros((4, 6, 3), np.uint8), "rgb8", 2, False)


def floats(value: float) -> ImageMessage:
    samples = np.full((4, 4, 1), 0.5, np.float32)
    samples[1, 2] = value
    return message_of(samples, "32FC1", 0, False)


def changed(**fields) -> ImageMessage:
    message = good()
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (changed(data=good().data[:-1]), "image data has 79 bytes, but step × height = 20 × 4"),
        (changed(data=b""), "image data has 0 bytes"),
        (changed(data=good().data + good().data[:1]), "image data has 81 bytes.*rows are longer"),
        (changed(encoding="nv12"), "step × height × 1.5 = 20 × 4 × 1.5 = 120"),
        (changed(encoding="nv21", height=3), "height of a nv21 image is 3"),
        (changed(encoding="yu12", width=6, step=7), "its colours half of step"),
        (CompressedImage(format="16UC1; png compressed ", data=b"abc"), "depth image"),
        (CompressedImage(format="32FC1; png compressed ", data=b"abc"), "depth image"),
        (changed(step=17), "step is 17 bytes, but a row of 6 rgb8 pixels takes 18"),
        (changed(step=0), "step is 0 bytes"),
        (changed(width=0), "image is 0×4 pixels"),
        (changed(height=0), "image is 6×0 pixels"),
        (changed(width=2**32 - 1), "step is 20 bytes"),
        (changed(height=2**32 - 1), "image data has 80 bytes"),
        (changed(encoding="16UC1"), "depth image"),
        (changed(encoding="yuv422", width=5), "width of a yuv422 image is 5"),
        (changed(encoding="bayer_rggb8", height=3), "height of a bayer_rggb8 image is 3"),
        (floats(float("nan")), "NaN or infinite"),
        (floats(float("inf")), "NaN or infinite"),
        (floats(float("-inf")), "NaN or infinite"),
        (floats(2.5), "values from 0.5 to 2.5"),
        (floats(-0.1), "values from -0.1 to 0.5"),
        (CompressedImage(format="16UC1; compressedDepth png", data=b"abc"), "depth image"),
        (CompressedImage(format="jpeg", data=b"no image"), "cannot be decoded"),
        (CompressedImage(format="jpeg", data=b""), "image of 0 bytes cannot be decoded"),
    ],
)
def test_malformed_messages_are_refused_with_thing_value_and_remedy(message, words):
    with pytest.raises(ImageError, match=words.replace("+", r"\+")) as caught:
        conversions.image_from_message(message)
    assert str(caught.value).count(".") >= 1  # what is wrong, then a remedy
    assert len(str(caught.value)) > 60


@pytest.mark.skipif(importlib.util.find_spec("cv_bridge") is not None, reason="cv_bridge is here")
def test_unknown_encodings_name_cv_bridge_where_it_is_missing():
    with pytest.raises(ImageError, match=r"'nv61' is not one of mono8, .*cv_bridge"):
        conversions.image_from_message(changed(encoding="nv61"))


@given(
    encoding=st.sampled_from([*conversions.ENCODINGS, "16UC1", "nonsense", ""]),
    width=st.integers(0, 12),
    height=st.integers(0, 12),
    step=st.integers(0, 100),
    bigendian=st.integers(0, 255),
    data=st.binary(max_size=1300),
)
@settings(max_examples=300, deadline=None)
def test_no_message_raises_anything_but_image_errors(
    encoding, width, height, step, bigendian, data
):
    message = ImageMessage(
        encoding=encoding, width=width, height=height, step=step, is_bigendian=bigendian, data=data
    )
    try:
        pixels = conversions.image_from_message(message).pixels
    except ImageError:
        return
    assert pixels.shape[:2] == (height, width)


def compressed(pixels: np.ndarray, suffix: str) -> CompressedImage:
    good, data = cv2.imencode(suffix, pixels)
    assert good
    return CompressedImage(format=suffix.removeprefix("."), data=data.tobytes())


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    return np.ascontiguousarray(
        np.broadcast_to(np.stack([ramp, ramp[::-1], ramp // 2], -1), (48, 64, 3))
    )


def test_compressed_images_keep_colour_order_and_greyness(picture):
    bgr = picture[..., ::-1]
    np.testing.assert_array_equal(pixels_of(compressed(bgr, ".png")), picture)
    np.testing.assert_allclose(pixels_of(compressed(bgr, ".jpg")).astype(int), picture, atol=20)
    np.testing.assert_array_equal(pixels_of(compressed(picture[..., 0], ".png")), picture[..., 0])
    assert pixels_of(compressed(picture[..., 0], ".jpg")).ndim == 2
    deep = picture[..., 0].astype(np.uint16) * 257
    np.testing.assert_array_equal(pixels_of(compressed(deep, ".png")), picture[..., 0])


@pytest.mark.parametrize(("suffix", "bits"), [(".png", 8), (".png", 16), (".jpg", 8)])
@pytest.mark.parametrize("pattern", BAYER)
def test_a_compressed_mosaic_is_the_raw_one(pattern, bits, suffix):
    sample = {"R": 200, "G": 120, "B": 40}
    tile = np.array([sample[letter] for letter in BAYER[pattern]], np.uint8).reshape(2, 2)
    mosaic = np.tile(tile, (16, 16))
    message = compressed(mosaic.astype(np.uint16) << 8 if bits == 16 else mosaic, suffix)
    name = {".png": "png", ".jpg": "jpeg"}[suffix]
    message.format = f"bayer_{pattern}{bits}; {name} compressed "
    pixels = pixels_of(message)
    assert pixels.shape == (32, 32, 3)
    middle = pixels[8:-8, 8:-8].reshape(-1, 3).astype(int)
    np.testing.assert_allclose(middle.mean(axis=0), [200, 120, 40], atol=3)
    odd = compressed(mosaic[:-1], suffix)
    odd.format = message.format
    with pytest.raises(ImageError, match=f"height of a bayer_{pattern}{bits} image is 31"):
        pixels_of(odd)


def test_every_value_of_a_compressed_images_format_counts(picture):
    message = compressed(picture[..., ::-1], ".png")
    for form in ("rgb8; png compressed bgr8", "bayer_rggb8; jpeg compressed bgr8", "png", ""):
        message.format = form
        np.testing.assert_array_equal(pixels_of(message), picture)
    message.format = "rgb8; png compressed rgb8"  # packed as it was, channels exchanged
    np.testing.assert_array_equal(pixels_of(message), picture[..., ::-1])
    grey = compressed(picture[..., 0], ".png")
    grey.format = "yuv422; jpeg compressed "
    with pytest.raises(ImageError, match="has one channel, which cannot hold yuv422"):
        pixels_of(grey)
    grey.format = "yuv422_yuy2; png compressed mono8"  # its brightness
    np.testing.assert_array_equal(pixels_of(grey), picture[..., 0])
    message.format = "RGB8; PNG compressed RGB8"
    np.testing.assert_array_equal(pixels_of(message), picture[..., ::-1])


def test_compressed_images_stay_as_the_sensor_sees_them(picture):
    """An EXIF orientation must not turn the pixels away from CameraInfo."""
    data = compressed(picture, ".jpg").data.tobytes()
    turned = (0x0112).to_bytes(2, "little") + b"\3\0\1\0\0\0\6\0\0\0"  # orientation: 6, 90 degrees
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0" + turned + bytes(4)
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    message = CompressedImage(format="jpeg", data=data[:2] + segment + data[2:])
    assert decode_image(message.data).shape[:2] == (64, 48)  # a real orientation, that is
    assert pixels_of(message).shape[:2] == (48, 64)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.99])
def test_truncated_compressed_images_are_refused(picture, suffix, share):
    whole = compressed(picture, suffix)
    message = CompressedImage(format=whole.format, data=whole.data[: int(len(whole.data) * share)])
    with pytest.raises(ImageError, match="cannot be decoded"):
        conversions.image_from_message(message)


def result_of(count: int, dimension: int, seed: int, inliers: bool) -> FrameResult:
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(count, dimension)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    matched = count // 2
    return FrameResult(
        index=7,
        stamp=1.5,
        features=Features(
            keypoints=(rng.random((count, 2)) * 640).astype(np.float32),
            scores=rng.random(count).astype(np.float32),
            descriptors=descriptors,
            width=640,
            height=480,
            model="aliked-n16",
        ),
        matches=Matches(
            reference_indices=rng.permutation(count)[:matched].astype(np.uint32),
            current_indices=rng.permutation(count)[:matched].astype(np.uint32),
            scores=rng.random(matched).astype(np.float32),
            inliers=rng.random(matched) < 0.5 if inliers else None,
        ),
        tracks=Tracks(
            ids=rng.permutation(count).astype(np.uint64) + np.uint64(2**40),
            lengths=rng.integers(1, 9, count).astype(np.uint32),
            epoch=3,
        ),
        reference_index=6,
        reference_stamp=1.4,
        keyframe_reason="first",
    )


@given(
    count=st.integers(0, 40),
    dimension=st.sampled_from([64, 128]),
    seed=RNG_SEEDS,
    encoding=st.sampled_from(["float32", "float16"]),
)
@settings(max_examples=60, deadline=None)
def test_features_survive_the_wire(count, dimension, seed, encoding):
    result = result_of(count, dimension, seed, inliers=False)
    header = Header(stamp=Time(sec=12, nanosec=34), frame_id="left")
    sent = conversions.feature_frame(result, header, encoding)
    message = deserialize_message(serialize_message(sent), FeatureFrame)
    assert message == sent
    assert message.header == header
    assert (message.frame_index, message.epoch, message.is_keyframe) == (7, 3, True)
    features = messages.features_from_message(message)
    np.testing.assert_array_equal(features.keypoints, result.features.keypoints)
    np.testing.assert_array_equal(features.scores, result.features.scores)
    assert (features.width, features.height, features.model) == (640, 480, "aliked-n16")
    assert features.descriptors.dtype == np.float32
    tolerance = 0.0 if encoding == "float32" else 5e-4
    np.testing.assert_allclose(
        features.descriptors, result.features.descriptors, rtol=0, atol=tolerance
    )
    tracks = messages.tracks_from_message(message)
    np.testing.assert_array_equal(tracks.ids, result.tracks.ids)
    np.testing.assert_array_equal(tracks.lengths, result.tracks.lengths)
    assert tracks.epoch == 3
    assert message.recovered == [False] * count
    assert tracks.recovered is None


@given(count=st.integers(0, 40), dimension=st.sampled_from([64, 128]), seed=RNG_SEEDS)
@settings(max_examples=20, deadline=None)
def test_codes_survive_the_wire(count, dimension, seed):
    result = result_of(count, dimension, seed, inliers=False)
    sent = conversions.feature_frame(result, Header(), "binary256")
    message = deserialize_message(serialize_message(sent), FeatureFrame)
    assert (message.descriptor_encoding, message.descriptor_dim) == (FeatureFrame.BINARY256, 256)
    codes = messages.codes_from_message(message)
    np.testing.assert_array_equal(codes, encode(result.features.descriptors))
    assert messages.features_from_message(message).descriptors.shape == (count, 0)
    with pytest.raises(SourceError, match=r"not floats; read the codes with codes_from_message"):
        messages.descriptors_from_message(message)
    floats = conversions.feature_frame(result, Header())
    assert messages.codes_from_message(floats) is None


def test_an_encoding_of_the_future_is_refused():
    message = conversions.feature_frame(result_of(3, 128, 0, inliers=False), Header())
    message.descriptor_encoding = 9
    with pytest.raises(SourceError, match=r"descriptor_encoding is 9.*update aliked_ros"):
        messages.features_from_message(message)


def test_tracks_that_came_back_survive_the_wire():
    result = result_of(5, 128, 0, inliers=False)
    recovered = np.array([False, True, False, False, True])
    result = replace(result, tracks=replace(result.tracks, recovered=recovered))
    sent = conversions.feature_frame(result, Header())
    message = deserialize_message(serialize_message(sent), FeatureFrame)
    np.testing.assert_array_equal(messages.tracks_from_message(message).recovered, recovered)


def test_objects_survive_the_wire():
    result = result_of(5, 128, 0, inliers=False)
    objects = np.array([0, 2, 0, 0, 7], np.uint32)
    result = replace(result, tracks=replace(result.tracks, objects=objects))
    sent = conversions.feature_frame(result, Header())
    message = deserialize_message(serialize_message(sent), FeatureFrame)
    tracks = messages.tracks_from_message(message)
    np.testing.assert_array_equal(tracks.objects, objects)
    np.testing.assert_array_equal(tracks.static_ids != 0, objects == 0)


@pytest.mark.parametrize(
    ("field", "read"),
    [
        ("track_ids", messages.tracks_from_message),
        ("track_lengths", messages.tracks_from_message),
        ("object_ids", messages.tracks_from_message),
        ("recovered", messages.tracks_from_message),
        ("detection_age", messages.features_from_message),
    ],
)
def test_a_field_of_another_length_is_refused(field, read):
    message = conversions.feature_frame(result_of(5, 128, 0, inliers=False), Header())
    setattr(message, field, [True] if field == "recovered" else [1])
    with pytest.raises(SourceError, match=f"{field} of a FeatureFrame has 1 values, its 5 key"):
        read(message)


def test_ages_and_covariances_survive_the_wire():
    result = result_of(5, 128, 0, inliers=False)
    ages = np.arange(5, dtype=np.uint32)
    covariances = np.random.default_rng(0).random((5, 3)).astype(np.float32)
    flowed = replace(result.features, detection_age=ages, covariances=covariances)
    sent = conversions.feature_frame(replace(result, features=flowed), Header())
    message = deserialize_message(serialize_message(sent), FeatureFrame)
    features = messages.features_from_message(message)
    np.testing.assert_array_equal(features.detection_age, ages)
    np.testing.assert_array_equal(features.covariances, covariances)
    plain = messages.features_from_message(conversions.feature_frame(result, Header()))
    assert plain.detection_age is None
    assert plain.covariances is None


def test_descriptors_can_be_left_out():
    message = conversions.feature_frame(result_of(5, 128, 0, False), Header(), None)
    assert len(message.descriptors) == 0
    assert message.descriptor_dim == 0
    assert messages.features_from_message(message).descriptors.shape == (5, 0)


@given(count=st.integers(0, 40), seed=RNG_SEEDS, inliers=st.booleans())
@settings(max_examples=40, deadline=None)
def test_matches_survive_the_wire(count, seed, inliers):
    result = result_of(count, 64, seed, inliers)
    sent = conversions.feature_matches(result, Header(), Time(sec=1, nanosec=400_000_001))
    message = deserialize_message(serialize_message(sent), FeatureMatches)
    assert (message.frame_index, message.reference_index) == (7, 6)
    assert message.reference_stamp == Time(sec=1, nanosec=400_000_001)
    matches = messages.matches_from_message(message)
    np.testing.assert_array_equal(matches.reference_indices, result.matches.reference_indices)
    np.testing.assert_array_equal(matches.current_indices, result.matches.current_indices)
    np.testing.assert_array_equal(matches.scores, result.matches.scores)
    if inliers and len(matches):
        np.testing.assert_array_equal(matches.inliers, result.matches.inliers)
    else:
        assert matches.inliers is None


def test_fields_that_may_be_empty():
    message = FeatureFrame(scores=[0.5, 0.5])
    assert messages.optional_rows(message, "depth") is None
    assert messages.optional_rows(message, "normalized", 2) is None
    message.depth = [1.5, float("nan")]
    message.normalized = [0.1, 0.2, 0.3, 0.4]
    np.testing.assert_array_equal(messages.optional_rows(message, "depth"), [1.5, np.nan])
    np.testing.assert_array_equal(
        messages.optional_rows(message, "normalized", 2),
        np.array([[0.1, 0.2], [0.3, 0.4]], np.float32),
    )
    message.depth = [1.5]
    with pytest.raises(SourceError, match="depth of a FeatureFrame has 1 values, its 2 keypoints"):
        messages.optional_rows(message, "depth")


def test_stereo_and_depth_survive_the_wire():
    result = result_of(3, 128, 0, inliers=False)
    depth = np.array([1.0, np.nan, 2.0], np.float32)
    result = replace(result, right_x=depth + 1, depth=depth, normalized=result.features.keypoints)
    sent = conversions.feature_frame(result, Header())
    message = deserialize_message(serialize_message(sent), FeatureFrame)
    np.testing.assert_array_equal(messages.optional_rows(message, "right_x"), depth + 1)
    np.testing.assert_array_equal(messages.optional_rows(message, "depth"), depth)
    np.testing.assert_array_equal(
        messages.optional_rows(message, "normalized", 2), result.features.keypoints
    )


def test_keyframes_survive_the_wire(picture):
    header = Header(stamp=Time(sec=12, nanosec=34), frame_id="left")
    features = conversions.feature_frame(result_of(4, 128, 0, inliers=False), header)
    sent = conversions.keyframe_message(features, "parallax", picture)
    message = deserialize_message(serialize_message(sent), Keyframe)
    assert message.header == message.features.header == message.image.header == header
    assert message.reason == "parallax"
    assert message.features == features
    np.testing.assert_allclose(pixels_of(message.image).astype(int), picture, atol=20)


@pytest.mark.parametrize("metric", [True, False, None])
def test_candidates_survive_the_wire(metric):
    result = result_of(20, 128, 0, inliers=True)
    angle = 0.3
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    pose = None if metric is None else Pose(turn, np.array([1.0, 2.0, 3.0]), metric)
    keyframe = CoreKeyframe(7, 1.5, result.features, result.tracks)
    sent = conversions.candidate_message(
        Candidate(keyframe, result.matches, pose), 5, 8, Time(sec=1, nanosec=2), "camera"
    )
    message = deserialize_message(serialize_message(sent), RelocalizationCandidate)
    assert (message.keyframe_index, message.keyframe_epoch) == (5, 8)
    assert message.keyframe_stamp == Time(sec=1, nanosec=2)
    assert message.keyframe_frame_id == "camera"
    np.testing.assert_array_equal(message.keyframe_indices, result.matches.reference_indices)
    np.testing.assert_array_equal(message.current_indices, result.matches.current_indices)
    np.testing.assert_array_equal(message.scores, result.matches.scores)
    assert sum(message.inliers) == message.inlier_count == result.matches.inliers.sum() > 0
    assert message.has_pose == (metric is not None)
    assert message.metric == bool(metric)
    if metric is not None:
        position, turned = message.pose.position, message.pose.orientation
        assert (position.x, position.y, position.z) == (1.0, 2.0, 3.0)
        assert (turned.x, turned.y) == (0.0, 0.0)
        assert (turned.z, turned.w) == pytest.approx((np.sin(angle / 2), np.cos(angle / 2)))


@pytest.mark.parametrize("encoding", ["float32", "float16", "binary256"])
def test_packing_takes_less_than_a_millisecond(encoding):
    """From buffers; element by element it would take ten."""
    result = result_of(1000, 128, 0, inliers=True)
    durations = []
    for _ in range(50):
        start = time.perf_counter()
        conversions.feature_frame(result, Header(), encoding)
        conversions.feature_matches(result, Header(), Time())
        durations.append(time.perf_counter() - start)
    assert min(durations) < 1e-3  # the least: other processes may have the cores


def test_image_message_round_trip(picture):
    for pixels in (picture, picture[..., 0]):
        message = conversions.image_message(pixels, Header(frame_id="camera"))
        np.testing.assert_array_equal(pixels_of(message), pixels)


@given(st.integers(0, 2**31 - 2), st.integers(0, 999_999_999))
@settings(max_examples=100, deadline=None)
def test_stamps_survive_seconds(sec, nanosec):
    back = conversions.stamp_from_seconds(conversions.seconds(Time(sec=sec, nanosec=nanosec)))
    assert abs((back.sec - sec) * 10**9 + back.nanosec - nanosec) < 300


@pytest.mark.parametrize("known", [True, False])
def test_loops_and_the_poses_of_places_survive_the_wire(known):
    place, earlier = synthetic_place(9), synthetic_place(4)
    rows = np.arange(40, dtype=np.uint32)
    matches = Matches(rows, rows[::-1].copy(), np.ones(40, np.float32), rows % 2 == 0)
    pose = Pose(np.eye(3), np.array([1.0, 2.0, 3.0]), metric=True) if known else None
    covariance = np.arange(36.0).reshape(6, 6) if known else None
    candidate = Candidate(earlier.keyframe(), matches, pose)
    sent = conversions.loop_message(Loop(place, earlier, candidate, covariance))
    message = deserialize_message(serialize_message(sent), LoopCandidate)
    assert (message.header.frame_id, message.epoch, message.frame_index) == place.key
    keyframe = message.keyframe_frame_id, message.keyframe_epoch, message.keyframe_index
    assert keyframe == earlier.key
    assert messages.nanoseconds(message.header.stamp) == place.nanoseconds
    assert messages.nanoseconds(message.keyframe_stamp) == earlier.nanoseconds
    assert list(message.keyframe_indices) == rows[::2].tolist()
    assert list(message.current_indices) == rows[::-1][::2].tolist()
    assert message.inlier_count == 20
    assert message.has_pose == message.metric == known
    assert message.pose.covariance.tolist() == (list(range(36)) if known else [0.0] * 36)
    posed = GivenPose((1.0, 2.0, 3.0), (0.0, 0.0, 0.6, 0.8), "map", "base_link")
    there = replace(earlier, pose=posed if known else None)
    answer = conversions.place_candidate_message(candidate, there)
    answer = deserialize_message(serialize_message(answer), RelocalizationCandidate)
    assert answer.map_frame == ("map" if known else "")
    assert answer.keyframe_pose.position.y == (2.0 if known else 0.0)
