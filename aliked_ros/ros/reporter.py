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

"""The node's reports, in every state: ``~/status`` and ``/diagnostics``."""

from __future__ import annotations

from collections.abc import Mapping

import psutil
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from aliked_msgs.msg import FrontendStatus
from aliked_ros.ros.diagnostics import Diagnostics
from aliked_ros.ros.parameters import NodeParameters
from aliked_ros.ros.status import Statistics

_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


class Reporter:
    """Publishes both; logs what becomes the last error.

    statistics: what happened since the last activation. step: of a long load, empty when it has
    ended. failure: why the last transition failed, until one succeeds.
    """

    def __init__(self, node: Node, settings: NodeParameters) -> None:
        self.statistics = Statistics()
        self.step = self.failure = ""
        self._node = node
        self._settings = settings
        self._status = node.create_publisher(FrontendStatus, "~/status", _QOS)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", _QOS)
        name = node.get_fully_qualified_name().lstrip("/")  # several cameras, several names
        self._diagnosis = Diagnostics(name, settings)
        self._process = psutil.Process()
        self._identity: Mapping[str, str] = {}

    def fail(self, sentence: str) -> None:
        """Log why a transition failed, and report it."""
        self.failure = sentence
        self.statistics.error(sentence)
        self._node.get_logger().error(sentence)

    def warn(self, sentence: str) -> None:
        """Log a warning and make it the last error."""
        self.statistics.error(sentence)
        self._node.get_logger().warning(sentence)

    def publish(
        self, state: str, epoch: int, identity: Mapping[str, str], warnings: str, silence: str
    ) -> None:
        """Publish both. identity: as of ``Configured``, empty when there is none.

        warnings, silence: see ``Diagnostics.report``.
        """
        self._check_backend(identity)
        status = self.statistics.status(state)
        status.header.stamp = self._node.get_clock().now().to_msg()
        status.epoch = epoch
        status.backend = identity.get("backend", "")
        status.model = identity.get("model", self._settings["model"])
        status.model_checksum = identity.get("model_checksum", "")
        status.backend_reason = identity.get("reason", "")
        status.engine = identity.get("engine", "")
        status.precision = identity.get("precision", "")
        status.memory = self._process.memory_info().rss
        self._status.publish(status)
        report = self._diagnosis.report(
            status, self.statistics.recent(), self.failure, warnings, silence
        )
        for entry in report:
            if self.step and entry.message == status.state:  # unless there is something worse
                entry.message = self.step
        self._diagnostics.publish(DiagnosticArray(header=status.header, status=report))

    def _check_backend(self, identity: Mapping[str, str]) -> None:
        """Warn when a backend had to give up while working."""
        before, self._identity = self._identity, identity
        if before and identity and before["reason"] != identity["reason"]:
            self.warn_of_fallback(identity)

    def warn_of_fallback(self, identity: Mapping[str, str]) -> None:
        """Warn that the networks do not run where they were meant to."""
        backend, why = identity["backend"], identity["reason"]
        if backend.startswith("cpu"):
            self.warn(f"On the CPU instead of the GPU: {why}")
        else:
            self.warn(f"The networks now run on {backend}: {why}")
