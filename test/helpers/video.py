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

"""Video streams, encoded with PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from aliked_ros.io.images import grey

av = pytest.importorskip("av", reason="PyAV is not installed")

_ENCODERS = {
    ("h264", 0): ("libx264", {"preset": "veryfast", "tune": "zerolatency"}),
    ("h264", 2): ("libx264", {"preset": "veryfast", "bf": "2"}),
    ("h265", 0): ("libx265", {"preset": "ultrafast", "x265-params": "bframes=0:log-level=0"}),
    ("h265", 2): ("libx265", {"preset": "ultrafast", "x265-params": "bframes=2:log-level=0"}),
}


@dataclass(frozen=True)
class Encoded:
    """A packet: the number of its picture, whether it is a key frame, and its data."""

    index: int
    key: bool
    data: bytes


def encode(
    images: Sequence[np.ndarray], codec: str = "h264", between: int = 0, group: int = 5
) -> list[Encoded]:
    """The packets of H×W×3 RGB images, in the encoder's order.

    between: B-frames in a row. group: pictures from one key frame to the next.
    """
    name, options = _ENCODERS[codec, between]
    context = av.CodecContext.create(name, "w")
    context.height, context.width = images[0].shape[:2]
    context.pix_fmt = "yuv420p"
    context.time_base = Fraction(1, 30)
    context.gop_size = group
    context.options = options | {"crf": "18"}
    packets = []
    for index, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = index
        packets += context.encode(frame)
    packets += context.encode(None)
    return [Encoded(packet.pts, packet.is_keyframe, bytes(packet)) for packet in packets]


def difference(image: np.ndarray, other: np.ndarray) -> float:
    """Mean over the pixels of two RGB images, grey values."""
    return float(np.abs(grey(image).astype(np.int16) - grey(other)).mean())
