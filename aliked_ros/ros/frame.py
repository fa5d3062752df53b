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

"""The envelope in which an image goes through the node, and what makes messages of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_ros.io.drawing import Trails
from aliked_ros.io.video import VideoPacket
from aliked_ros.ros.calibration import Calibration
from aliked_ros.ros.declarations import Settings
from aliked_ros.ros.warnings import Warnings
from aliked_ros.types import FrameResult, Image

AnyImage: TypeAlias = ImageMessage | CompressedImage
Received: TypeAlias = AnyImage | VideoPacket


@dataclass(slots=True, repr=False)
class Frame:
    """One image on its way through the node.

    message: as received; a video's packet becomes its decoded image in ``Inputs.image``.
    received: when it was (``time.perf_counter``).
    partner: the right image (stereo) or the depth image (RGB-D); None = none came in time.
    mask: its own, with ``mask_sync: stamped``; None = none came in time.
    stages: seconds spent in each stage so far.
    messages: made of it, set by ``Session.process``; empty = it could not be processed.
    image, result, reference_stamp: set by ``Session.process``. The result is numbered as
        published; the stamp is that of the image it was matched with.
    """

    message: Received
    received: float
    partner: Received | None = None
    mask: ImageMessage | None = None
    stages: dict[str, float] = field(default_factory=dict)
    messages: list[Any] = field(default_factory=list)
    image: Image = field(init=False)
    result: FrameResult = field(init=False)
    reference_stamp: Time = field(init=False)
    _lap: float = field(init=False)

    def __post_init__(self) -> None:
        self._lap = self.received

    @property
    def header(self) -> Header:
        """The image's own header."""
        return self.message.header

    def lap(self, stage: str) -> None:
        """Book the time since the last call, or since the image was received, to a stage."""
        now = time.perf_counter()
        self.stages[stage] = now - self._lap
        self._lap = now

    def add(self, stages: Mapping[str, float]) -> None:
        """Book the time since the last call as the pipeline measured it."""
        self._lap = time.perf_counter()
        self.stages |= {name: duration for name, duration in stages.items() if name != "total"}

    @property
    def elapsed(self) -> float:
        """Seconds from received to the last lap."""
        return self._lap - self.received


@dataclass(slots=True)
class OutputContext:
    """What the outputs of a session share.

    backend: what the networks run on, for people. rate: images processed per second.
    trails: of what is drawn.
    """

    settings: Settings
    warnings: Warnings
    calibration: Calibration
    backend: str
    trails: Trails
    rate: float = 0.0


class Maker:
    """Makes the messages of one topic, from activation to deactivation."""

    def __init__(self, context: OutputContext) -> None:
        self.context = context

    def message(self, frame: Frame) -> Any | None:
        """The message of one image; None = nothing is published for it."""
        raise NotImplementedError

    def last(self) -> Any | None:
        """What to publish at deactivation; None = nothing."""
        return None
