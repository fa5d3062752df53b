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

"""The packets of a video topic, from the executor's thread to the worker's."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from aliked_ros.errors import ImageError
from aliked_ros.io.video import NoPictureYet, Picture, VideoDecoder, VideoPacket
from aliked_ros.ros.warnings import Warnings

_CAPACITY = 1000  # packets; more than a worker that is alive leaves
DEPTH = 100  # QoS: every packet is needed, not only the newest


class VideoStream:
    """Decodes all packets in order, and gives the newest picture.

    Images that the worker skips cost their decoding, without the conversion to RGB; not even that
    if a key frame has come since.
    """

    def __init__(self, topic: str, warnings: Warnings) -> None:
        """Raises ConfigurationError where PyAV is not installed."""
        self._topic = topic
        self._warnings = warnings
        self._decoder = VideoDecoder()
        self._packets: deque[tuple[int, VideoPacket]] = deque(maxlen=_CAPACITY)
        self._place = self._number = 0  # of the last packet that came: ours, its publisher's
        self._next = 1  # place of the packet to decode next

    # The executor's thread

    def put(self, packet: VideoPacket, info: Mapping[str, Any]) -> None:
        """A packet has come; ``info`` tells whether some before it were lost."""
        number = info.get("publication_sequence_number") or 0
        known = self._number and number
        self._place += 2 if known and number != self._number + 1 else 1
        self._number = number
        self._packets.append((self._place, packet))

    # The worker's thread

    def picture(self, packet: VideoPacket) -> Picture | None:
        """The newest picture, once this packet and all before it are decoded.

        None = there is no new one; what is wrong is warned of.
        """
        subject = f"video on {self._topic}"
        picture: Picture | None = None
        problem: ImageError | None = None
        for place, one in self._until(packet):
            if place != self._next:
                self._decoder.lost()
            self._next = place + 1
            try:
                pictures = self._decoder.decode(one)
                picture, problem = pictures[-1] if pictures else picture, None
            except ImageError as error:
                picture, problem = None, error
        if problem is not None:
            remedy = (
                " If that takes long, let the encoder send key frames more often (a smaller GOP)."
                if isinstance(problem, NoPictureYet)
                else ""
            )
            self._warnings.warn(subject, f"No picture on {self._topic}: {problem}{remedy}")
        elif picture is not None:
            self._warnings.clear(subject)
        return picture

    def own_picture(self, packet: VideoPacket) -> Picture | None:
        """That of this packet, for what is paired; with B-frames none, and a warning."""
        picture, subject = self.picture(packet), f"B-frames on {self._topic}"
        if picture is None:
            return None
        if picture.packet is packet:
            self._warnings.clear(subject)
            return picture
        self._warnings.warn(
            subject,
            f"The video on {self._topic} has B-frames: its pictures come too late to be paired. "
            "Encode it without (bframes 0, tune zerolatency).",
        )
        return None

    def _until(self, packet: VideoPacket) -> list[tuple[int, VideoPacket]]:
        """The packets up to one, from the last on with which decoding can begin."""
        found: list[tuple[int, VideoPacket]] = []
        while self._packets:
            item = self._packets.popleft()
            if item[1].is_entry():
                found.clear()
            found.append(item)
            if item[1] is packet:
                break
        return found
