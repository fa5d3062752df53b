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

"""Malformed messages: 10,000 through the conversions, hundreds through a real node among good ones.

What may come of any message is what its consumer expects, or an ImageError (ConfigurationError for
a CameraInfo): no other exception, no hang, no allocation that the message's own size does not
explain.
"""

from __future__ import annotations

import resource
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import psutil
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, RegionOfInterest
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame
from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ConfigurationError, ImageError
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.ros.calibration import Calibration
from aliked_ros.ros.conversions import (
    ENCODINGS,
    border_from_message,
    depth_from_message,
    image_from_message,
    image_message,
    mask_from_message,
)
from aliked_ros.ros.warnings import Warnings
from aliked_ros.sources import open_source
from aliked_ros.system.cpu import free_memory
from aliked_ros.types import Image
from helpers.ros import RELIABLE, Probe, RosProcess

FUZZ = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)
MEGABYTE = 2**20
# Odd on purpose: near each other, so that sizes agree by chance, and absurd.
SIDES = st.one_of(st.integers(0, 40), st.sampled_from([64, 8193, 2**16, 2**31, 2**32 - 1]))
NAMES = st.one_of(
    st.sampled_from([*ENCODINGS, "16UC1", "64FC4", "", "JPEG", "bayer_rggb12"]),
    st.text(max_size=12),
)


@contextmanager
def bounded(megabytes: int, seconds: float) -> Iterator[None]:
    """At most so much more memory at its peak, and so much computing time."""
    begin = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < megabytes, f"{grown:.0f} MB"
    assert time.process_time() - begin < seconds


@st.composite
def raw_images(draw) -> ImageMessage:
    """An image message; half of them nearly right, the others anything."""
    near = draw(st.booleans())
    encoding = draw(st.sampled_from(list(ENCODINGS)) if near else NAMES)
    sides = st.integers(1, 40) if near else SIDES
    message = ImageMessage(encoding=encoding, width=draw(sides), height=draw(sides))
    message.is_bigendian = draw(st.sampled_from([0, 1, 255]))
    layout = ENCODINGS.get(encoding)
    pixel = layout.channels * layout.bytes_per_sample if layout else draw(st.integers(1, 16))
    row = message.width * pixel
    if near or draw(st.booleans()):
        few = st.sampled_from([0, 0, 0, 0, 2, -1])
        message.step = min(max(row + draw(few), 0), 2**32 - 1)
        size = message.step * message.height + draw(few)
    else:
        message.step = draw(SIDES)
        size = draw(st.integers(0, 5000))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    message.data.frombytes(rng.bytes(min(max(size, 0), 10_000)))
    return message


def _encoded(width: int, height: int, extension: str, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.imencode(extension, pixels)[1].tobytes()


@st.composite
def compressed_images(draw) -> CompressedImage:
    """Encoded images, cut, bent, or nothing of the kind."""
    if draw(st.booleans()):
        data = bytearray(
            _encoded(
                draw(st.integers(1, 24)), draw(st.integers(1, 24)),
                draw(st.sampled_from([".jpg", ".png", ".bmp", ".webp", ".ppm", ".tiff"])),
                draw(st.integers(0, 3)),
            )
        )  # fmt: skip
        for position, value in draw(
            st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)
        ):
            data[position % len(data)] = value
        data = data[: len(data) - draw(st.integers(0, 30))]
    else:
        head = draw(
            st.sampled_from(
                [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", b"P5 60000 17000 255\n", b"RIFF"]
            )
        )
        data = head + draw(st.binary(max_size=200))
    form = draw(st.sampled_from(["jpeg", "png", "", "rgb8; jpeg compressed bgr8", "tiff"]))
    return CompressedImage(format=form, data=bytes(data))


@pytest.mark.long
@given(message=st.one_of(raw_images(), raw_images(), compressed_images()))
@settings(FUZZ, max_examples=10_000)
def _fuzz_images(counts: dict[str, int], message: ImageMessage | CompressedImage) -> None:
    begin = time.process_time()
    try:
        image = image_from_message(message)
    except ImageError:
        counts["refused"] += 1
    else:
        counts["converted"] += 1
        pixels = image.pixels
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 2 or pixels.shape[2] == 3
        assert pixels.size > 0
        if isinstance(message, ImageMessage):
            assert pixels.shape[:2] == (message.height, message.width)
    assert time.process_time() - begin < 10.0


@pytest.mark.long
def test_ten_thousand_images_are_converted_or_refused():
    counts = {"converted": 0, "refused": 0}
    with bounded(megabytes=300, seconds=600.0):
        _fuzz_images(counts)
    print(counts)
    assert sum(counts.values()) >= 10_000
    assert min(counts.values()) > 500  # the strategy reaches both


@given(message=raw_images(), encoding=st.sampled_from(["16UC1", "32FC1", "mono16", "mono8"]))
@settings(FUZZ, max_examples=1000)
def test_depth_images_and_masks(message, encoding):
    message.encoding = encoding
    for convert in (depth_from_message, mask_from_message):
        try:
            values = convert(message)
        except ImageError:
            continue
        assert values.shape == (message.height, message.width)


def _png(width: int, height: int) -> bytes:
    """A PNG of zeros that is a thousand times smaller than its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "kind", ["png", "chunk", "last chunk", "jpeg", "jpeg of 8000", "ppm", "bmp"]
)
def test_a_small_message_cannot_ask_for_a_huge_image(kind):
    if kind == "png":
        data = _png(20_000, 20_000)
    elif kind == "chunk":  # of two gigabytes, in a PNG of 80 bytes
        data = bytearray(_png(16, 16))
        data[data.index(b"IDAT") - 4] = 0x80
    elif kind == "last chunk":  # the same, where no pixels came before
        data = bytearray(_png(16, 16).replace(b"IDAT", b"IDaT"))
        data[data.index(b"IEND") - 4] = 0x80
    elif kind.startswith("jpeg"):
        data = cv2.imencode(".jpg", np.zeros((16, 16), np.uint8))[1].tobytes()
        frame = data.index(b"\xff\xc0")
        size = struct.pack(">HH", *2 * (8000 if "8000" in kind else 30_000,))
        data = data[: frame + 5] + size + data[frame + 9 :]
    elif kind == "ppm":
        data = b"P5 30000 30000 255\n" + bytes(100)
    else:
        data = bytearray(cv2.imencode(".bmp", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
        data[18:26] = struct.pack("<ii", 30_000, 30_000)
    assert len(data) < MEGABYTE
    with bounded(megabytes=100, seconds=60.0), pytest.raises(ImageError):
        image_from_message(CompressedImage(format=kind, data=bytes(data)))


def test_an_image_that_does_not_fit_into_memory_is_refused(monkeypatch):
    """Where the system would end the process: here as if only 0.5 GB were free."""
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=500_000_000))
    pipeline = Pipeline(FrontendConfig(backend="cpu", matcher="nearest", max_keypoints=100))
    try:
        noise = np.random.default_rng(0).integers(0, 255, (240, 320), np.uint8)
        assert len(pipeline.process(Image(noise)).features) > 0
        with pytest.raises(ImageError, match=r"8192×8192 pixels; .* 24\.8 GB, and 0\.5 GB"):
            pipeline.process(Image(np.zeros((8192, 8192), np.uint8)))
        assert len(pipeline.process(Image(noise)).features) > 0
    finally:
        pipeline.close()


def test_free_memory_ends_at_a_containers_limit(tmp_path):
    """Linux's files, of the process's own control group or one above it; files can be given up."""
    machine = free_memory(tmp_path / "none")
    assert machine > 10_000_000
    values = {"max": "9000000", "current": "7000000", "stat": "anon 9\ninactive_file 500000\n"}
    for name, value in values.items():
        (tmp_path / f"memory.{name}").write_text(value)
    assert free_memory(tmp_path) == 2_500_000
    (tmp_path / "memory.current").write_text("9900000")
    assert free_memory(tmp_path) == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) > 10_000_000


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_images_that_compress_as_well_as_can_be_are_whole(extension):
    for options in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1]):
        data = cv2.imencode(extension, np.zeros((2000, 2000), np.uint8), options)[1].tobytes()
        image = image_from_message(CompressedImage(format=extension[1:], data=data))
        assert image.pixels.shape == (2000, 2000)


NUMBERS = st.one_of(
    st.floats(-2000, 2000), st.sampled_from([0.0, 1.0, 300.0, np.nan, np.inf, 1e300, -1e-300])
)


@st.composite
def camera_infos(draw) -> CameraInfo:
    message = CameraInfo(
        width=draw(st.sampled_from([0, 1, 64, 100, 2**32 - 1])),
        height=draw(st.sampled_from([0, 1, 48, 100, 2**32 - 1])),
        distortion_model=draw(
            st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant", "fisheye", "", "x"])
        ),
        d=draw(st.lists(NUMBERS, max_size=9)),
        binning_x=draw(st.sampled_from([0, 1, 2, 2**32 - 1])),
        binning_y=draw(st.sampled_from([0, 1, 2, 2**32 - 1])),
    )
    near = draw(st.booleans())
    for name, size, good in (
        ("k", 9, [60.0, 0, 32, 0, 60, 24, 0, 0, 1]),
        ("r", 9, [1.0, 0, 0, 0, 1, 0, 0, 0, 1]),
        ("p", 12, [60.0, 0, 32, 0, 0, 60, 24, 0, 0, 0, 1, 0]),
    ):
        values = np.array(good, np.float64)
        if not near:
            values = np.array(draw(st.lists(NUMBERS, min_size=size, max_size=size)))
        setattr(message, name, values)
    message.roi = RegionOfInterest(
        width=draw(st.sampled_from([0, 32, 2**32 - 1])),
        height=draw(st.sampled_from([0, 32, 2**32 - 1])),
        x_offset=draw(st.integers(0, 50)),
    )
    return message


@given(message=camera_infos(), rectified=st.booleans())
@settings(FUZZ, max_examples=1500)
def test_camera_infos(message, rectified):
    """A model or a sentence; what the model makes of pixels are numbers or NaN, no exception."""
    points = np.array([[0, 0], [32, 24], [63, 47]], np.float32)
    calibration = Calibration("a", "b", rectified, Warnings(lambda _: None, lambda _: None))
    calibration.set_info(message)
    calibration.set_right_info(message)
    try:
        model = CameraModel.from_info(message, rectified)
    except ConfigurationError:
        return
    assert model.normalize(points).shape == (3, 2)
    FeatureFrame(  # takes only what fits into its float32
        focal_length=float(model.matrix[0, 0]), baseline=calibration.baseline or 0.0
    )
    if model.width * model.height > MEGABYTE:
        return  # its border is as large as the images are
    try:
        border = border_from_message(message)
    except ConfigurationError:
        return
    assert border.dtype == np.uint8


@pytest.mark.ros
@pytest.mark.long
def test_a_node_among_malformed_messages(tmp_path):
    """Hundreds of bad images, CameraInfos and masks, and bytes that are no message at all."""
    probe = Probe()
    process = RosProcess(
        "aliked_ros.ros.frontend_node", tmp_path / "log",
        *("-p", "matcher:=nearest", "-p", "max_keypoints:=200", "-p", "status_period:=0.1"),
        *("-p", "input_reliability:=reliable", "-p", "input_depth:=100"),
    )  # fmt: skip
    infos = probe.node.create_publisher(CameraInfo, "camera_info", RELIABLE)
    masks = probe.node.create_publisher(ImageMessage, "mask", RELIABLE)
    try:
        probe.wait_for_state("active")
        probe.wait_connected()
        probe.wait(masks.get_subscription_count)
        frames = [cv2.resize(image.pixels, (160, 120)) for image in open_source("virtual", 4)]
        stamp = 0
        good = bad = 0

        def header() -> Header:
            nonlocal stamp
            stamp += 1
            return Header(stamp=Time(sec=1000 + stamp // 100, nanosec=stamp % 100 * 10_000_000))

        def ended() -> int:
            """Bad ones that came to an end; a newer image may replace one not looked at yet."""
            status = probe.status
            return status.frames_refused + status.frames_dropped

        draws = _drawn(raw_images(), 400), _drawn(camera_infos(), 100)
        rng = np.random.default_rng(0)
        for number, message in enumerate(draws[0]):
            try:
                if min(image_from_message(message).pixels.shape[:2]) >= 64:
                    continue  # by chance a good one
            except ImageError:
                pass
            message.header = header()
            probe.images.publish(message)
            bad += 1
            probe.spin(0.005)
            if number < len(draws[1]):
                infos.publish(draws[1][number])
                masks.publish(message)
            if number % 20 == 0:
                serialized = bytearray(serialize_message(message))
                serialized[int(rng.integers(len(serialized)))] ^= 0xFF
                infos.publish(bytes(serialized[: rng.integers(4, 60)]))
                probe.wait(lambda sent=bad: ended() == sent)
                probe.send(image_message(frames[number % 4], header()))
                good += 1
        assert bad > 300
        probe.wait(lambda: ended() == bad)
        masks.publish(image_message(np.full((120, 160), 255, np.uint8), Header()))
        features = [probe.send(image_message(frame, header())) for frame in frames]
        good += len(frames)
        assert max(features[-1].track_lengths) == good  # tracks went on across all of it
        probe.wait(lambda: probe.status.frames_processed == good)
        assert probe.status.frames_received == good + bad
        assert probe.status.frames_refused > bad / 2
        assert process.alive()
        assert "unexpected" not in process.text()
        assert "Traceback" not in process.text()
    finally:
        assert process.stop() == 0, process.text()
        probe.close()


def _drawn(strategy: st.SearchStrategy, count: int) -> list:
    """Examples of a strategy, the same ones in every run."""
    found: list = []

    @given(strategy)
    @settings(FUZZ, max_examples=count, derandomize=True, phases=[Phase.generate])
    def collect(value) -> None:
        found.append(value)

    collect()
    return found
