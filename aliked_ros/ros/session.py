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

"""Everything that exists only while the node is active."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack

from rclpy.lifecycle import LifecycleNode

from aliked_ros.io.drawing import Trails
from aliked_ros.ros.configured import Configured
from aliked_ros.ros.frame import Frame, OutputContext
from aliked_ros.ros.imu import ImuInput
from aliked_ros.ros.inputs import Inputs
from aliked_ros.ros.numbering import Epochs, Numbering
from aliked_ros.ros.outputs import Outputs
from aliked_ros.ros.parameters import NodeParameters
from aliked_ros.ros.reporter import Reporter
from aliked_ros.ros.warnings import Warnings, reason
from aliked_ros.ros.worker import LatestWorker, Worker
from aliked_ros.types import FrameResult

_LOG_PERIOD = 5.0  # seconds between two log entries about refused images
_SLOW = 3.0  # seconds: a detection that takes longer leaves the tracks to optical flow


class Session:
    """From activate to deactivate.

    An image's way: ``Inputs.on_image`` (executor's thread) → newest-wins worker → :meth:`process`
    (worker's thread): to image → pipeline → messages → publish.

    latest: the frame processed last; empty before the first.
    listeners: called with each processed frame after its messages are published, in the worker's
        thread; they return at once.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: NodeParameters,
        configured: Configured,
        epochs: Epochs,
        reporter: Reporter,
        open_worker: OpenWorker,
    ) -> None:
        """Subscribe and start the threads. ``open_worker``: gives what calls :meth:`work`."""
        self._node = node
        self.configured = configured
        self._reporter = reporter
        self._statistics = reporter.statistics
        self.warnings = Warnings(node.get_logger().warning, self._statistics.error)
        self.numbering = Numbering(epochs)
        self.latest: deque[Frame] = deque(maxlen=1)
        self.listeners: list[Callable[[Frame], None]] = []
        with ExitStack() as opened:
            self.inputs = Inputs(
                node, settings, configured.static_mask, self._statistics, self.warnings,
                self._submit,
            )  # fmt: skip
            opened.callback(lambda: self._statistics.dropped(self.inputs.close()))
            self._imu: ImuInput | None = None
            if settings["imu_topic"]:
                self._imu = ImuInput(node, settings, self.warnings, node.get_logger().info)
                opened.callback(self._imu.close)
            context = OutputContext(
                settings,
                self.warnings,
                self.inputs.calibration,
                configured.identity["backend"],
                Trails(settings["trail_length"]),
            )
            self._outputs = Outputs(node, configured.publishers, context)
            opened.callback(self._outputs.close)
            self._worker = open_worker(self)
            opened.callback(lambda: self._statistics.dropped(self._worker.stop()))
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Unsubscribe and end the threads; images that still wait are counted as dropped."""
        self._opened.close()

    def _submit(self, frame: Frame) -> None:
        self._statistics.dropped(self._worker.submit(frame))

    def work(self, frame: Frame) -> None:
        """Process an image; errors are logged and counted, never raised."""
        try:
            self.process(frame)
        except Exception as error:
            if not self._node.context.ok():  # shutting down: nothing can be published any more
                return
            count = self._statistics.refused(reason(error))
            self._node.get_logger().warning(
                f"Image refused ({count} so far): {reason(error)}",
                throttle_duration_sec=_LOG_PERIOD,
            )

    def _check_detections(self, result: FrameResult, running: float) -> None:
        """Warn where detections fail or take long; running: seconds of the one under way."""
        if result.detection_failure is not None:
            self.warnings.warn(
                "detection",
                f"A detection failed: {reason(result.detection_failure)} "
                "Optical flow alone carries the tracks until one succeeds.",
            )
        elif result.detection_index is not None:
            self.warnings.clear("detection")
        if running > _SLOW:
            self.warnings.warn(
                "slow detection",
                f"A detection takes more than {_SLOW:.0f} s; optical flow alone carries the "
                "tracks meanwhile. Give the node more of the processor, or fewer max_keypoints.",
            )
        elif result.detection_index is not None:
            self.warnings.clear("slow detection")

    def process(self, frame: Frame) -> None:
        """Take an image to its messages. Raises ImageError for one that cannot be used."""
        frame.lap("wait")
        image = self.inputs.image(frame)
        if image is None:
            self._statistics.dropped(1)
            return
        frame.image = image
        frame.lap("convert")
        with self.configured.pipeline() as pipeline:
            pipeline.camera = self.inputs.calibration.camera
            pipeline.baseline = self.inputs.calibration.baseline
            if self._imu is not None:
                self._imu.before(pipeline, frame.image.stamp, frame.header.frame_id)
                frame.lap("imu")
            result = pipeline.process(frame.image)
            self._check_detections(result, pipeline.detecting)
            if self._imu is not None:
                self._imu.after(pipeline, frame.image.stamp, frame.received)
            stamp = frame.header.stamp
            frame.result = self.numbering.renumbered(result, stamp, pipeline.keyframes)
            frame.reference_stamp = self.numbering.reference_stamp(frame.result)
            self.latest.append(frame)
        self._reporter.step = ""
        frame.add(result.stage_times)
        self.inputs.check(frame.result, frame.header.frame_id)
        messages = self._outputs.messages(frame)
        frame.messages = [message for _, message in messages]
        frame.lap("pack")
        for publisher, message in messages:
            publisher.publish(message)
        frame.lap("publish")
        frame.stages["total"] = frame.elapsed
        self._statistics.processed(frame.result, frame.stages | self._outputs.drawing())
        self._outputs.draw(frame)
        for listener in self.listeners:
            listener(frame)


OpenWorker = Callable[[Session], Worker[Frame]]


def latest_worker(session: Session) -> Worker[Frame]:
    """A thread for this session alone: the newest image wins."""
    return LatestWorker("frontend", session.work)
