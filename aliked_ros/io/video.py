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

"""Pictures of H.264 and H.265 packets: ``foxglove_msgs/CompressedVideo``, ``FFMPEGPacket``.

Needs no ROS, but PyAV, which is imported by the first decoder.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from aliked_ros.errors import ConfigurationError, ImageError
from aliked_ros.io.h264 import FrameNumbers
from aliked_ros.io.images import MAX_SIDE
from aliked_ros.types import UInt8Array

COMPRESSED_VIDEO = "foxglove_msgs/msg/CompressedVideo"
FFMPEG_PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"

_START_CODE = re.compile(rb"\x00\x00\x01(?=.)", re.DOTALL)
_SLICES = {"h264": range(1, 6), "hevc": range(32)}  # types of NAL units that hold pixels
_KEYS = {"h264": range(5, 6), "hevc": range(16, 22)}  # of these, those that need no other picture
_LEADING = {"h264": range(0), "hevc": range(6, 10)}  # shown before the key frame they follow
_PARAMETERS = {"h264": range(7, 8), "hevc": range(32, 34)}  # without which no decoding begins
_GREY = ("gray", "gray10le", "gray12le")
_LONGEST_HEAD = 1 << 16  # bytes of parameters
_DELAY = 64  # packets; decoders hold fewer pictures back


@dataclass(slots=True, eq=False)
class VideoPacket:
    """One packet of a stream, which holds one picture.

    header: of the picture (``std_msgs/Header``, or an object with its ``stamp``).
    format: the codec as the publisher names it. data: Annex B. number: of its picture among those
    of the stream, where the reader counts them.
    """

    header: Any
    format: str
    data: bytes
    number: int = -1

    @property
    def codec(self) -> str:
        """``h264`` or ``hevc``, as FFmpeg names them. Raises ImageError for any other."""
        name = self.format.lower()
        if "264" in name:
            return "h264"
        if "265" in name or "hevc" in name:
            return "hevc"
        raise ImageError(f"video has codec {self.format!r}; publish h264 or h265.")

    def kinds(self) -> set[int]:
        """The types of its NAL units. Raises ImageError for another codec or form."""
        codec = self.codec
        if not self.data.startswith((b"\0\0\1", b"\0\0\0\1")):
            raise ImageError(
                f"{self.format} packet of {len(self.data)} bytes starts with "
                f"{self.data[:4].hex(' ').upper() or 'nothing'}, not with a start code; publish "
                "the stream in Annex B format (FFmpeg: -bsf:v h264_mp4toannexb)."
            )
        return {
            (unit[0] & 31) if codec == "h264" else (unit[0] >> 1 & 63) for unit in _units(self.data)
        }

    def holds_picture(self) -> bool:
        """Whether it holds a picture, perhaps an unusable one, and not parameters alone."""
        try:
            return not self.kinds().isdisjoint(_SLICES[self.codec])
        except ImageError:
            return True

    def is_key(self) -> bool:
        """Whether it holds a key frame: no picture shown after it needs an earlier one."""
        return self._has(_KEYS)

    def is_leading(self) -> bool:
        """Whether its picture is shown before that of the key frame before it (H.265 only)."""
        return self._has(_LEADING)

    def is_entry(self) -> bool:
        """Whether decoding can begin with it: a key frame with its parameters."""
        return self._has(_KEYS) and self._has(_PARAMETERS)

    def _has(self, kinds: Mapping[str, range]) -> bool:
        try:
            return not self.kinds().isdisjoint(kinds[self.codec])
        except ImageError:
            return False


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture, with the packet that it came in."""

    packet: VideoPacket
    frame: Any  # av.VideoFrame

    @property
    def header(self) -> Any:
        """The packet's."""
        return self.packet.header

    def pixels(self) -> UInt8Array:
        """H×W (grey) or H×W×3 RGB."""
        form = "gray" if self.frame.format.name in _GREY else "rgb24"
        return np.ascontiguousarray(self.frame.to_ndarray(format=form), np.uint8)


class NoPictureYet(ImageError):
    """A packet gave no picture, which is no fault of its own: it comes later, or is lost."""


class VideoDecoder:
    """Decodes one stream, packet by packet, in the order in which the encoder made them.

    Decoding begins with a key frame. When a packet is lost or damaged, all up to the next key frame
    are refused, since their pictures would be wrong. Not for several threads.
    """

    def __init__(self) -> None:
        """Raises ConfigurationError where PyAV is not installed."""
        self._av = import_pyav()
        self._codec = ""
        self._context: Any = None
        self._numbers = FrameNumbers()
        self._head = b""
        self._pending: dict[int, VideoPacket] = {}
        self._count = 0
        self._waiting = "no key frame has come yet"  # why; empty = pictures are good

    @property
    def reorders(self) -> bool:
        """Whether pictures come later than their packets: the stream has B-frames."""
        return self._context is not None and bool(self._context.has_b_frames)

    def lost(self) -> None:
        """Packets are missing before the next one."""
        self._waiting = "a packet was lost or damaged"

    def decode(self, packet: VideoPacket) -> list[Picture]:
        """The pictures that are complete with this packet, in order of display: one, without delay.

        With B-frames a picture comes some packets later. Raises NoPictureYet while waiting for a
        key frame, ImageError for a packet that cannot be used.
        """
        try:
            codec, kinds = packet.codec, packet.kinds()
        except ImageError:
            self.lost()
            raise
        if codec != self._codec:
            self._open(codec)
        data = self._head + packet.data
        if kinds.isdisjoint(_SLICES[codec]):  # parameters alone, for the picture that follows
            self._head = data if len(data) <= _LONGEST_HEAD else b""
            return []
        if self._head:
            self._head, kinds = b"", VideoPacket(None, codec, data).kinds()
        if self._waiting:
            if kinds.isdisjoint((*_KEYS[codec], *_PARAMETERS[codec])):
                raise self._no_picture()
            self._restart()
        if codec == "h264" and self._numbers.gap(_units(data)):
            self.lost()
            raise self._no_picture()
        pictures = self._decode(packet, data)
        if not pictures and not self.reorders:
            self.lost()  # H.265 leaves out pictures whose reference is missing
            raise self._no_picture()
        self._waiting = ""
        return pictures

    def flush(self) -> list[Picture]:
        """The pictures held back, at the end of the stream."""
        if self._context is None or self._waiting:
            return []
        self._waiting = "the stream has ended"
        try:
            return self._pictures(self._context.decode(None))
        except (self._av.FFmpegError, MemoryError, ValueError):
            return []

    def _no_picture(self) -> NoPictureYet:
        return NoPictureYet(f"{self._waiting}: waiting for the next key frame.")

    def _open(self, codec: str) -> None:
        self._codec = codec
        self._context = self._av.CodecContext.create(codec, "r")
        self._context.thread_count = 1  # more would hold pictures back
        self._context.options = {"err_detect": "explode", "max_pixels": str(MAX_SIDE * MAX_SIDE)}
        self._numbers = FrameNumbers()
        self._head = b""
        self._pending.clear()
        self._waiting = "no key frame has come yet"

    def _restart(self) -> None:
        if self._context.is_open:
            self._context.flush_buffers()
        self._numbers.restart()
        self._pending.clear()

    def _decode(self, packet: VideoPacket, data: bytes) -> list[Picture]:
        # A picture leaves the decoder with the time of its packet: here its number.
        number = self._count
        self._count += 1
        self._pending[number] = packet
        self._pending.pop(number - _DELAY, None)
        encoded = self._av.Packet(data)
        encoded.pts = encoded.dts = number
        try:
            frames = self._context.decode(encoded)
        except (self._av.FFmpegError, MemoryError, ValueError) as error:
            self.lost()
            raise ImageError(
                f"{packet.format} packet of {len(packet.data)} bytes cannot be decoded "
                f"({getattr(error, 'strerror', None) or error}): waiting for the next key frame. "
                "Check the encoder, and the network for losses."
            ) from error
        if any(frame.is_corrupt for frame in frames):
            self.lost()
            raise self._no_picture()
        return self._pictures(frames)

    def _pictures(self, frames: list[Any]) -> list[Picture]:
        pairs = ((self._pending.pop(frame.pts, None), frame) for frame in frames)
        return [Picture(packet, frame) for packet, frame in pairs if packet is not None]


def packet_from_message(message: Any, header: Callable[..., Any] = SimpleNamespace) -> VideoPacket:
    """The packet in an FFMPEGPacket or a CompressedVideo, from rclpy or rosbags.

    header: makes a header from ``stamp`` and ``frame_id``, which a CompressedVideo has without one.
    """
    if hasattr(message, "encoding"):
        form = message.encoding.partition(";")[0]
        return VideoPacket(message.header, form, bytes(message.data))
    own = header(stamp=message.timestamp, frame_id=message.frame_id)
    return VideoPacket(own, message.format, bytes(message.data))


def import_pyav() -> Any:
    """The module ``av``; ConfigurationError where it is not installed."""
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise ConfigurationError(
            f"H.264 and H.265 are decoded by PyAV, which cannot be imported ({error}): pip install "
            "av, or publish raw or compressed images."
        ) from error


def _units(data: bytes) -> Iterator[bytes]:
    """The NAL units of a packet."""
    starts = [match.end() for match in _START_CODE.finditer(data)]
    for begin, end in zip(starts, [*starts[1:], len(data)], strict=True):
        yield data[begin:end]
