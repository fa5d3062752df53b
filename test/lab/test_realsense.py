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

"""RealSense cameras, by recordings that the SDK itself makes of a software device and plays."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from aliked_ros.camera import CameraModel
from aliked_ros.errors import SourceError
from aliked_ros.sources import open_source

try:
    import pyrealsense2 as rs
except ImportError as error:
    pytest.skip(f"the RealSense SDK cannot be loaded: {error}", allow_module_level=True)

WIDTH, HEIGHT, IMAGES = 64, 48, 12
BEGIN = 1.7e9  # seconds
BASELINE = 0.05  # metres


def stream(kind, index, uid, pixels, size, coefficients) -> rs.video_stream:
    lens = rs.intrinsics()
    lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy = WIDTH, HEIGHT, 50, 51, 32, 24
    lens.model, lens.coeffs = rs.distortion.inverse_brown_conrady, coefficients
    made = rs.video_stream()
    made.type, made.index, made.uid, made.fmt, made.bpp = kind, index, uid, pixels, size
    made.width, made.height, made.fps, made.intrinsics = WIDTH, HEIGHT, 30, lens
    return made


def record(path: Path, coefficients=(0.0,) * 5, colour_format=rs.format.rgb8) -> None:
    """Twelve images of all streams: image n is 10 n grey, and 1 + n / 10 metres away."""
    device = rs.software_device()
    sensor = device.add_sensor("Stereo Module")
    sensor.add_read_only_option(rs.option.depth_units, 0.001)
    streams = [
        stream(rs.stream.color, 0, 0, colour_format, 3, coefficients),
        stream(rs.stream.depth, 0, 1, rs.format.z16, 2, coefficients),
        stream(rs.stream.infrared, 1, 2, rs.format.y8, 1, coefficients),
        stream(rs.stream.infrared, 2, 3, rs.format.y8, 1, coefficients),
    ]
    profiles = [sensor.add_video_stream(one).as_video_stream_profile() for one in streams]
    same, right = rs.extrinsics(), rs.extrinsics()
    same.rotation = right.rotation = list(np.eye(3).ravel())
    same.translation, right.translation = [0.0] * 3, [-BASELINE, 0.0, 0.0]
    for profile, extrinsics in zip(profiles[1:], (same, same, right), strict=True):
        profiles[0].register_extrinsics_to(profile, extrinsics)
    profiles[2].register_extrinsics_to(profiles[3], right)
    recorder = rs.recorder(str(path), device)
    recorded = recorder.query_sensors()[0]
    recorded.open(recorded.get_stream_profiles())
    recorded.start(rs.frame_queue(100))
    kept = []
    for number in range(IMAGES):
        for profile, one in zip(profiles, streams, strict=True):
            value = 10 * number if one.type != rs.stream.depth else 1000 + 100 * number
            pixels = np.full((HEIGHT, WIDTH, one.bpp if one.bpp == 3 else 1), value)
            pixels = np.ascontiguousarray(pixels, np.uint16 if one.bpp == 2 else np.uint8)
            kept.append(pixels)  # the SDK only borrows it
            frame = rs.software_video_frame()
            frame.pixels, frame.stride, frame.bpp = pixels, WIDTH * one.bpp, one.bpp
            frame.timestamp, frame.frame_number = 1e3 * BEGIN + number * 100 / 3, number
            frame.domain, frame.profile = rs.timestamp_domain.system_time, profile
            sensor.on_video_frame(frame)
        time.sleep(1 / 30)
    recorded.stop()
    recorded.close()
    del recorder


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("realsense") / "desk.db3"
    record(path)
    return path


@pytest.mark.parametrize("partner", ["none", "depth", "right"])
def test_images_come_with_stamps_calibration_and_partner(recording, partner):
    source = open_source(f"realsense:{recording}", partner=partner)
    calibration = source.calibration
    assert [calibration[name] for name in ("width", "fx", "fy", "cx", "cy")] == [64, 50, 51, 32, 24]
    assert calibration["distortion_model"] == "none"
    images = list(source)
    assert len(images) >= IMAGES // 2  # it is played in real time
    for image in images:
        number = round((image.stamp - BEGIN) * 30)
        assert image.stamp == pytest.approx(BEGIN + number / 30, abs=1e-3)
        assert (image.pixels == 10 * number).all()
        assert image.pixels.shape == ((HEIGHT, WIDTH) if partner == "right" else (HEIGHT, WIDTH, 3))
        if partner == "depth":
            assert np.nanmedian(image.depth) == pytest.approx(1.0 + number / 10, abs=1e-3)
        if partner == "right":
            assert (image.right == 10 * number).all()
    assert calibration.get("stereo_baseline_m") == (
        pytest.approx(BASELINE) if partner == "right" else None
    )
    assert len(list(open_source(f"realsense:{recording}", 3, partner))) == 3


def test_a_lens_projects_as_the_sdk_says(tmp_path):
    path = tmp_path / "lens.db3"
    coefficients = [-0.056, 0.066, -0.0009, 0.0006, -0.021]  # as of a D455's colour camera
    record(path, coefficients)
    camera = CameraModel.from_calibration(open_source(f"realsense:{path}").calibration)
    lens = stream(rs.stream.color, 0, 0, rs.format.rgb8, 3, coefficients).intrinsics
    pixels = np.array([(x, y) for x in (0, 31, 63) for y in (0, 20, 47)], np.float32)
    rays = camera.normalize(pixels).tolist()
    projected = [rs.rs2_project_point_to_pixel(lens, [x, y, 1.0]) for x, y in rays]
    np.testing.assert_allclose(projected, pixels, atol=0.01)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"cannot be opened with colour images: .*cable"):
        open_source("realsense:0123456789")
    path = tmp_path / "raw.db3"
    record(path, colour_format=rs.format.bgr8)
    with pytest.raises(SourceError, match="recorded as bgr8; it must be rgb8"):
        open_source(f"realsense:{path}")
