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

"""Lets a player go at a front-end's pace: each image waits until the one before is processed."""

from __future__ import annotations

import time
from collections.abc import Callable

from builtin_interfaces.msg import Time as Stamp
from rclpy.node import Node

from aliked_msgs.msg import FeatureFrame, FrontendStatus

_SETTLING_TIME = 1.0  # seconds in which an image can be on its way to the front-end
_TIMEOUT = 20.0  # seconds for one image


class Pacing:
    """Whether a front-end is still busy with the latest image.

    It is done when its features of that image arrive, or when its status says that it dropped or
    refused an image or has nothing to do: then the image was lost on the way. A front-end that
    says nothing for 20 s is waited for again once it has answered.
    """

    def __init__(self, node: Node, frontend: str, done: Callable[[], None]) -> None:
        """frontend: name of its node. done: called when the latest image has been waited for."""
        self._log = node.get_logger()
        self._frontend = frontend
        self._done = done
        self._stamp: Stamp | None = None  # of the image that is waited for
        self._since = 0.0
        self._answers = True
        self._failed = 0
        node.create_subscription(FeatureFrame, f"{frontend}/features", self._hear, 10)
        node.create_subscription(FrontendStatus, f"{frontend}/status", self._look, 10)

    def published(self, stamp: Stamp) -> None:
        """An image has left for the front-end."""
        self._since = time.monotonic()
        self._stamp = stamp if self._answers else None

    def busy(self) -> bool:
        """Whether to wait before the next image."""
        if self._stamp is not None and time.monotonic() - self._since > _TIMEOUT:
            self._answers = False
            self._log.warning(
                f"{self._frontend} has not answered for {_TIMEOUT:g} s: images are played in real "
                "time until it does; see its log, or leave wait_for_frontend empty."
            )
            self._finish()
        return self._stamp is not None

    def _finish(self) -> None:
        self._stamp = None
        self._done()

    def _hear(self, features: FeatureFrame) -> None:
        self._answers = True
        if features.header.stamp == self._stamp:
            self._finish()

    def _look(self, status: FrontendStatus) -> None:
        failed = status.frames_dropped + status.frames_refused
        idle = status.frames_received == status.frames_processed + failed
        settled = time.monotonic() - self._since > _SETTLING_TIME
        if self._stamp is not None and (failed > self._failed or (idle and settled)):
            self._finish()
        self._failed = failed
