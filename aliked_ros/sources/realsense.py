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

"""RealSense cameras, read through their SDK (the Python package ``pyrealsense2``), without ROS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from aliked_ros.errors import SourceError
from aliked_ros.io.images import depth_in_metres
from aliked_ros.sources.base import Partner, calibration_of
from aliked_ros.types import Image, UInt8Array

_WIDTH, _HEIGHT, _RATE = 640, 480, 30  # that all models have
# By the SDK's names. It projects with all three of Brown and Conrady alike, but for 0.01 pixels.
_MODELS = {
    "brown_conrady": "plumb_bob",
    "modified_brown_conrady": "plumb_bob",
    "inverse_brown_conrady": "plumb_bob",
    "kannala_brandt4": "equidistant",
}
_PATIENCE = 2000  # milliseconds without an image, after which the camera has stopped


class RealSense:
    """A RealSense camera: its colour images, alone or with depth; or its rectified infrared pair.

    Stamps are the SDK's where its clock is this machine's ("global time"), else the wall clock at
    arrival. Depth is registered to the colour image. For the pair, the infrared projector is off:
    its dots move with the camera.
    """

    def __init__(self, which: str, limit: int | None, partner: Partner) -> None:
        """which: serial number, or a recording of the SDK; empty = the only camera.

        Raises SourceError without the SDK, the camera or such streams.
        """
        self.name = f"realsense{which and '_'}{Path(which).stem}"
        self.length = limit
        self.rate = float(_RATE)
        self.skipped = self.first = 0
        self._which = which
        self._limit = limit
        self._partner = partner
        self._sdk = _import_sdk()
        pipeline = self._sdk.pipeline()
        try:
            profile = self._config().resolve(self._sdk.pipeline_wrapper(pipeline))
            self.calibration: dict[str, Any] | None = self._calibration(profile)
        except RuntimeError as error:
            raise self._unavailable(error) from error

    def __iter__(self) -> Iterator[Image]:
        """Images up to the limit; SourceError if the camera stops delivering."""
        rs = self._sdk
        pipeline = rs.pipeline()
        try:
            device = pipeline.start(self._config()).get_device()
        except RuntimeError as error:
            raise self._unavailable(error) from error
        try:
            if self._partner != "none" and not device.is_playback():  # there it is read only
                for sensor in device.query_sensors():
                    if sensor.supports(rs.option.emitter_enabled):
                        sensor.set_option(rs.option.emitter_enabled, self._partner == "depth")
            units = 1.0
            if self._partner == "depth":
                units = 1.0 / device.first_depth_sensor().get_depth_scale()
            align = rs.align(rs.stream.color)
            for _ in islice(count(), self._limit):
                arrived, frames = pipeline.try_wait_for_frames(_PATIENCE)
                if not arrived:
                    if device.is_playback():
                        return
                    raise SourceError(f"{self.name} stopped delivering images.")
                if self._partner == "depth":
                    frames = align.process(frames)
                yield self._image(frames, units)
        except RuntimeError as error:
            raise SourceError(f"{self.name} stopped delivering images: {error}.") from error
        finally:
            pipeline.stop()

    def _config(self) -> Any:
        rs = self._sdk
        config = rs.config()
        recorded = Path(self._which).is_file()
        if recorded:
            config.enable_device_from_file(self._which, repeat_playback=False)
        elif self._which:
            config.enable_device(self._which)
        for stream, number, pixels in self._streams():
            how = () if recorded else (_WIDTH, _HEIGHT, pixels, _RATE)
            config.enable_stream(stream, number, *how)
        return config

    def _streams(self) -> list[tuple[Any, int, Any]]:
        """Kind, number and format of the streams, that of ``calibration`` first."""
        rs = self._sdk
        if self._partner == "right":
            return [(rs.stream.infrared, number, rs.format.y8) for number in (1, 2)]
        colour = [(rs.stream.color, -1, rs.format.rgb8)]
        return colour + ([(rs.stream.depth, -1, rs.format.z16)] if self._partner == "depth" else [])

    def _calibration(self, profile: Any) -> dict[str, Any]:
        streams = self._streams()
        found = [profile.get_stream(kind, number) for kind, number, _ in streams]
        for stream, (_, _, pixels) in zip(found, streams, strict=True):
            if stream.format() != pixels:
                raise SourceError(
                    f"{self.name} was recorded as {stream.format().name}; it must be {pixels.name}."
                )
        stream = found[0]
        lens = stream.as_video_stream_profile().get_intrinsics()
        matrix = np.array([[lens.fx, 0.0, lens.ppx], [0.0, lens.fy, lens.ppy], [0.0, 0.0, 1.0]])
        model, coefficients = "none", lens.coeffs
        if any(coefficients):
            kind = lens.model.name
            model = _MODELS.get(kind, kind)
            coefficients = coefficients[:4] if model == "equidistant" else coefficients
        calibration = calibration_of(lens.width, lens.height, matrix, model, coefficients)
        if self._partner == "right":
            translation = stream.get_extrinsics_to(found[1]).translation
            calibration["stereo_baseline_m"] = -translation[0]
        return calibration

    def _image(self, frames: Any, units: float) -> Image:
        """units: those of the depth image in a metre."""
        if self._partner == "right":
            left, right = (frames.get_infrared_frame(number) for number in (1, 2))
            return Image(_pixels(left), self._stamp(left), right=_pixels(right))
        colour = frames.get_color_frame()
        image = Image(_pixels(colour), self._stamp(colour))
        if self._partner == "none":
            return image
        depth = np.asarray(frames.get_depth_frame().get_data())
        return replace(image, depth=depth_in_metres(depth, units))

    def _stamp(self, frame: Any) -> float:
        if frame.get_frame_timestamp_domain() == self._sdk.timestamp_domain.hardware_clock:
            return time.time()
        return float(frame.get_timestamp()) * 1e-3

    def _unavailable(self, error: RuntimeError) -> SourceError:
        streams = {"none": "colour", "depth": "colour and depth", "right": "two infrared"}
        return SourceError(
            f"{self.name} cannot be opened with {streams[self._partner]} images: {error}. Check "
            "cable and serial number ('rs-enumerate-devices'), and that no other program uses it."
        )


def _pixels(frame: Any) -> UInt8Array:
    return np.array(frame.get_data(), np.uint8)  # a copy: the SDK uses its buffer again


def _import_sdk() -> Any:
    try:
        return import_module("pyrealsense2")
    except ImportError as error:
        raise SourceError(
            f"realsense cameras need their SDK ({error}): pip install pyrealsense2, and the "
            "system's libusb-1.0."
        ) from error
