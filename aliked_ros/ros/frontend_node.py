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

"""Lifecycle node ``aliked_frontend``: camera images in; features, matches and tracks out.

The data's path: :class:`Inputs` receives and pairs images (executor's thread); the newest goes to
the worker's thread, which takes it through the pipeline and hands the result to :class:`Outputs`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from aliked_msgs.msg import FrontendStatus
from aliked_msgs.srv import Relocalize
from aliked_ros.backends.base import OpenBackend, create_backend
from aliked_ros.camera import CameraModel
from aliked_ros.errors import BackendError
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.ros import running
from aliked_ros.ros.conversions import (
    candidate_message,
    feature_frame,
    image_from_message,
)
from aliked_ros.ros.diagnostics import Diagnostics
from aliked_ros.ros.inputs import Arrival, Inputs
from aliked_ros.ros.numbering import Numbering
from aliked_ros.ros.outputs import Frame, Outputs
from aliked_ros.ros.parameters import DECLARATIONS, NodeParameters, refused_read_only
from aliked_ros.ros.status import Statistics
from aliked_ros.ros.warnings import Complaints, passed_through_us, reason
from aliked_ros.ros.worker import LatestWorker
from aliked_ros.sources import read_mask
from aliked_ros.system.cpu import give_back_memory, limit_heaps
from aliked_ros.types import Features, FrameResult, Matches, Tracks, UInt8Array

_SUCCESS, _FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_REPORT_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
_CALLS_QOS = QoSProfile(depth=100)  # calls that may wait; beyond it they are lost without a word
_LOG_PERIOD = 5.0  # seconds between two warnings of the same kind
_TURN = 0.001  # seconds
_SANE_AGE = 60.0  # seconds; an image older than this at arrival has a stamp of another clock


_Transition = Callable[["FrontendNode", LifecycleState], TransitionCallbackReturn]


def _logged(callback: _Transition) -> _Transition:
    """A transition whose exceptions are told before rclpy makes a silent ERROR of them."""

    @wraps(callback)
    def logging(self: FrontendNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return callback(self, state)
        except Exception as error:
            if self.context.ok():  # else interrupted: nobody is left to tell
                self._complain(f"{callback.__name__.removeprefix('on_')} failed: {reason(error)}")
            raise

    return logging


class FrontendNode(LifecycleNode):
    """The visual front-end as a managed node.

    configure loads the networks; activate starts the threads; deactivate ends them; cleanup and
    shutdown free the networks. A configure that fails leaves the node ``unconfigured`` with the
    reason in its log, in ``~/status`` and in ``/diagnostics``.
    """

    def __init__(self, open_backend: OpenBackend = create_backend, **options: Any) -> None:
        """open_backend: see ``Pipeline``. options: of rclpy's Node."""
        super().__init__("aliked_frontend", **options)
        self._open_backend = open_backend
        self._state = "unconfigured"
        self._pipeline: Pipeline | None = None
        self._pipeline_lock = threading.Lock()
        self._numbering = Numbering()
        self._identity: dict[str, str] = {}
        self._static_mask: UInt8Array | None = None
        self._inputs: Inputs | None = None
        self._worker: LatestWorker[Arrival] | None = None
        self._outputs: Outputs | None = None
        self._latest: Frame | None = None
        self._statistics = Statistics()
        self._complaints = Complaints(self.get_logger().warning, self._statistics.error)
        self._step = ""  # of a long load
        self._failure = ""  # why the last transition failed, until one succeeds
        self._process_itself = psutil.Process()

        # These two speak in every state: a node that could not be configured has to say why.
        self._status = self.create_publisher(FrontendStatus, "~/status", _REPORT_QOS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", _REPORT_QOS)
        self._settings = NodeParameters(self, self._is_configured)
        name = self.get_fully_qualified_name().lstrip("/")  # several cameras, several names
        self._diagnosis = Diagnostics(name, self._settings)
        self._status_timer = self.create_timer(
            self._settings["status_period"],
            self._publish_status,
            clock=Clock(clock_type=ClockType.STEADY_TIME),  # also while simulated time stands
        )
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/pause", self._on_pause)
        self.create_service(Trigger, "~/resume", self._on_resume)
        self.create_service(
            Relocalize,
            "~/relocalize",
            self._on_relocalize,
            qos_profile=_CALLS_QOS,
            callback_group=MutuallyExclusiveCallbackGroup(),  # of its own: all else goes on
        )
        self._refuse_impossible_transitions()

    # Running

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Start as the parameter ``autostart`` says, then serve until shutdown."""
        self.start()
        self.serve(executor)

    def start(self) -> None:
        """Configure and activate, if the parameter ``autostart`` says so."""
        if self._settings["autostart"]:
            started = self.trigger_configure() == _SUCCESS and self.trigger_activate() == _SUCCESS
            if not started and self.context.ok():  # the failed transition has said why
                self.get_logger().error(
                    f"Not started: the node stays {self._state}. Mend the cause, then configure "
                    "and activate it (ros2 lifecycle set)."
                )
        else:
            self.get_logger().info(
                "Unconfigured: autostart is false; a lifecycle manager, or ros2 lifecycle set "
                f"{self.get_fully_qualified_name()} configure (then activate), starts it"
            )

    def serve(self, executor: SingleThreadedExecutor) -> None:
        """Answer until shutdown."""
        while self.context.ok():
            try:
                executor.spin()
            except ExternalShutdownException:
                raise
            except Exception as error:
                if not self.context.ok():
                    raise
                self._survive(error)

    def _survive(self, error: Exception) -> None:
        """A callback failed: that must not take the node from the robot."""
        if passed_through_us(error):
            sentence = f"A callback failed, the node goes on: {reason(error)}"
        else:  # a request that rclpy cannot read, a parameter of no known type, say
            sentence = (
                f"ROS could not read something it received ({error}); it is ignored, and a caller "
                "gets no answer. Look for a program built for another version of the interfaces."
            )
        self._statistics.error(sentence)
        self.get_logger().warning(sentence, throttle_duration_sec=_LOG_PERIOD)

    def close(self) -> None:
        """End the threads and free the networks, whatever state the node is in."""
        self._stop()
        self._free()

    # Lifecycle

    @_logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the networks (seconds; minutes to build TensorRT engines), advertise."""
        self._statistics.clear()
        self._complaints.clear()
        self._enter("configuring")
        try:
            config = self._settings.frontend_config()
            mask_file = self._settings["mask_file"]
            self._static_mask = read_mask(Path(mask_file)) if mask_file else None
            self._pipeline = Pipeline(config, self._tell, self._open_backend)
        except Exception as error:
            if not self.context.ok():  # interrupted: nobody is left to tell
                raise
            self._complain(f"configure failed: {reason(error)}")
            self._enter("unconfigured")
            return _FAILURE
        if not self.context.ok():
            raise ExternalShutdownException
        self._identity = self._pipeline.identity | {"backend": self._pipeline.backend}
        backend = self._identity["backend"]
        self._outputs = Outputs(self, self._settings, self._complaints, backend)
        self._failure = ""
        why = self._identity["reason"]
        self.get_logger().info(f"Configured: {config.model} on {backend} ({why})")
        if config.backend in ("tensorrt", "torch") and backend.startswith("cpu"):
            self._warn_of_fallback()
        self._enter("inactive")
        return super().on_configure(state)

    @_logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the threads."""
        self._statistics.clear()
        self._complaints.clear()
        self._numbering.restart()
        self._outputs.start()
        self._worker = LatestWorker("frontend", self._process)
        self._inputs = Inputs(
            self, self._settings, self._static_mask, self._statistics, self._complaints,
            self._deliver,
        )  # fmt: skip
        self._inputs.open()
        result = super().on_activate(state)
        self._failure = ""
        self.get_logger().info(f"Active: waiting for images on {self._inputs.topic}")
        self._enter("active")
        return result

    @_logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, end the threads and tracks; give back what a GPU holds of the networks."""
        self._stop()
        with self._pipeline_lock:
            self._pipeline.release()
        self.get_logger().info("Inactive: images are ignored, the networks stay loaded")
        self._enter("inactive")
        return super().on_deactivate(state)

    @_logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the networks, take the topics away."""
        self._free()
        self.get_logger().info("Unconfigured: the networks are freed")
        self._enter("unconfigured")
        return super().on_cleanup(state)

    @_logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the threads and free the networks, from any state."""
        self.close()
        self.get_logger().info("Finalized: the networks are freed; start the node again to go on")
        self._enter("finalized")
        return super().on_shutdown(state)

    @_logged
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a failed transition: free everything, back to unconfigured."""
        self.close()
        self._enter("unconfigured")
        return _SUCCESS

    def _enter(self, state: str) -> None:
        self._state = state
        self._step = ""
        self._publish_status()

    def _complain(self, sentence: str) -> None:
        """An error of the node itself: into the log, ``~/status`` and ``/diagnostics``."""
        self._failure = sentence
        self._statistics.error(sentence)
        self.get_logger().error(sentence)

    def _tell(self, progress: str) -> None:
        """Tell a step of a long load, in /diagnostics too; and here is where Ctrl-C ends it."""
        if not self.context.ok():
            raise ExternalShutdownException
        self.get_logger().info(progress)
        self._step = progress
        self._publish_status()

    def _warn_of_fallback(self) -> None:
        backend, why = self._identity["backend"], self._identity["reason"]
        sentence = f"On the CPU instead of the GPU: {why}"
        if not backend.startswith("cpu"):
            sentence = f"The networks run elsewhere from now on, on {backend}: {why}"
        self._statistics.error(sentence)
        self.get_logger().warning(sentence)

    def _ask_backend(self, pipeline: Pipeline) -> None:
        """Take over what a backend learns while working: its engine, and that it had to give up."""
        before, self._identity = self._identity, pipeline.identity | {"backend": pipeline.backend}
        if before["reason"] != self._identity["reason"]:
            self._warn_of_fallback()

    def _is_configured(self) -> bool:
        return self._pipeline is not None

    def _stop(self) -> None:
        """End what an active node has; nothing where it is not there."""
        if self._inputs is not None:
            self._statistics.dropped(self._inputs.close())
        if self._worker is not None:
            self._statistics.dropped(self._worker.stop())
            self._outputs.stop()
        self._inputs = self._worker = self._latest = None

    def _free(self) -> None:
        """End what a configured node has."""
        outputs, self._outputs = self._outputs, None
        if outputs is not None:
            outputs.destroy()
        with self._pipeline_lock:
            pipeline, self._pipeline = self._pipeline, None
            if pipeline is not None:
                self._numbering.retire(pipeline.epoch)
                self._identity = {}
                pipeline.close()
        if pipeline is not None:
            del pipeline
            give_back_memory()

    def _epoch(self) -> int:
        """The tracker's epoch, counted over the life of the node."""
        return self._numbering.epoch(0 if self._pipeline is None else self._pipeline.epoch)

    def _refuse_impossible_transitions(self) -> None:
        """Answer ``success: false`` where rclpy would let the exception end the executor."""
        service = next(s for s in self.services if s.srv_type is ChangeState)
        change_state = service.callback

        def answer(request, response):
            try:
                return change_state(request, response)
            except RuntimeError as error:  # RCLError: no such transition from this state
                self.get_logger().warning(
                    f"Transition {request.transition.label or request.transition.id} is not "
                    f"possible in state {self._state}: {error}"
                )
                response.success = False
                return response

        service.callback = answer

    # Images

    def _deliver(self, arrival: Arrival) -> None:
        """Executor's thread: hand the image over, count the one it replaces."""
        self._statistics.dropped(self._worker.submit(arrival))

    def _process(self, arrival: Arrival) -> None:
        """Worker's thread: one image to its messages; nothing that is wrong with it ends us."""
        try:
            self._process_or_raise(arrival)
        except Exception as error:
            if not self.context.ok():  # shutting down: nothing can be published any more
                return
            count = self._statistics.refused(reason(error))
            self.get_logger().warning(
                f"Image refused ({count} so far): {reason(error)}",
                throttle_duration_sec=_LOG_PERIOD,
            )

    def _process_or_raise(self, arrival: Arrival) -> None:
        inputs, outputs, pipeline = self._inputs, self._outputs, self._pipeline
        clock = [time.perf_counter()]
        stages = {"receive": arrival.age} if 0.0 <= arrival.age <= _SANE_AGE else {}
        if arrival.released > arrival.time:
            stages["pair"] = arrival.released - arrival.time
        stages["wait"] = clock[0] - arrival.released

        def lap(stage: str) -> None:
            clock.append(time.perf_counter())
            stages[stage] = clock[-1] - clock[-2]

        image = inputs.image(arrival)
        lap("convert")
        with self._pipeline_lock:
            pipeline.camera = inputs.calibration.camera
            pipeline.baseline = inputs.calibration.baseline
            result = pipeline.process(image)
            self._step = ""
            stamp = arrival.message.header.stamp
            result = self._numbering.renumbered(result, stamp, pipeline.keyframes)
            frame = Frame(arrival, image.pixels, result, self._numbering.reference_stamp(result))
            self._latest = frame
        lap("pipeline")
        inputs.judge(result)
        del stages["pipeline"]  # reported by its parts
        stages |= {name: t for name, t in result.stage_times.items() if name != "total"}
        packed = outputs.pack(frame, inputs.calibration)
        lap("pack")
        for publisher, message in packed:
            publisher.publish(message)
        lap("publish")
        stages["total"] = clock[-1] - arrival.time
        stages |= outputs.drawing()
        self._statistics.processed(result, stages)
        outputs.draw(frame)

    # Reports

    def _publish_status(self) -> None:
        if not self.context.ok():
            return
        pipeline = self._pipeline
        if pipeline is not None and self._identity:
            self._ask_backend(pipeline)
        status = self._statistics.status(
            "paused" if self._inputs is not None and self._inputs.paused else self._state
        )
        stamp = self.get_clock().now().to_msg()
        status.header.stamp = stamp
        status.epoch = self._epoch()
        status.backend = self._identity.get("backend", "")
        status.model = self._identity.get("model", self._settings["model"])
        status.model_checksum = self._identity.get("model_checksum", "")
        status.backend_reason = self._identity.get("reason", "")
        status.engine = self._identity.get("engine", "")
        status.precision = self._identity.get("precision", "")
        status.memory = self._process_itself.memory_info().rss
        self._status.publish(status)
        inputs = self._inputs
        report = self._diagnosis.report(
            status,
            self._statistics.recent(),
            failure=self._failure,
            complaints="" if inputs is None else str(self._complaints),
            silence="" if inputs is None else inputs.silence(),
        )
        for entry in report:
            if self._step and entry.message == status.state:  # nothing worse is to be told
                entry.message = self._step
        self._diagnostics.publish(DiagnosticArray(header=Header(stamp=stamp), status=report))

    # Services and parameters

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response):
        if self._pipeline is None:
            return _answer(response, False, f"nothing to reset in state {self._state}")
        with self._pipeline_lock:
            self._pipeline.reset()
        self._publish_status()
        return _answer(response, True, f"tracks start anew: epoch {self._epoch()}")

    def _on_pause(self, request: Trigger.Request, response: Trigger.Response):
        if self._inputs is None:
            return _answer(response, False, f"nothing to pause in state {self._state}")
        self._inputs.paused = True
        self._publish_status()
        return _answer(response, True, "paused: images are ignored until ~/resume")

    def _on_resume(self, request: Trigger.Request, response: Trigger.Response):
        if self._inputs is None:
            return _answer(response, False, f"nothing to resume in state {self._state}")
        if self._inputs.paused:
            self._statistics.resume()
        self._inputs.paused = False
        self._publish_status()
        return _answer(response, True, "active")

    async def _on_relocalize(self, request: Relocalize.Request, response: Relocalize.Response):
        """Match in a thread of its own: images go on arriving, and so do other calls."""
        done = Future()

        def work() -> None:
            try:
                self._relocalize(request, response)
            except Exception as error:
                _answer(response, False, reason(error))
            done.set_result(response)
            self.executor.wake()

        threading.Thread(target=work, name="relocalizing", daemon=True).start()
        return await done

    def _relocalize(self, request: Relocalize.Request, response: Relocalize.Response) -> None:
        """Fill the response. The pipeline's lock is held for one keyframe at a time."""
        pipeline, inputs, latest = self._pipeline, self._inputs, self._latest
        if pipeline is None or inputs is None:
            _answer(response, False, f"no keyframes in state {self._state}")
            return
        own_index = None
        if request.image.width and request.image.height:
            image = image_from_message(request.image)
            height, width = image.pixels.shape[:2]
            with self._using(pipeline):
                features = pipeline.extract(image.pixels, inputs.mask(width, height))
            result = _untracked(features, image.stamp, inputs.calibration.camera)
            response.features = feature_frame(result, request.image.header)
        elif latest is not None:
            features, own_index = latest.result.features, latest.result.index
            response.features = feature_frame(latest.result, latest.arrival.message.header)
        else:
            _answer(response, False, "no image has been processed yet, and none was given")
            return
        with self._using(pipeline):
            keyframes = pipeline.keyframes
            numbers = [self._numbering.index(keyframe.index) for keyframe in keyframes]
            stamps = [
                self._numbering.stamp(number, keyframe.stamp)
                for number, keyframe in zip(numbers, keyframes, strict=True)
            ]
        found = []
        for keyframe, number, stamp in zip(keyframes, numbers, stamps, strict=True):
            if number == own_index:  # that it looks like itself is no news
                continue
            with self._using(pipeline):
                candidate = pipeline.find_candidate(features, keyframe)
            if candidate is not None:
                found.append(candidate_message(candidate, number, stamp))
        found.sort(key=lambda candidate: -candidate.inlier_count)
        response.candidates = found[: request.max_candidates or None]
        message = f"{len(found)} of {len(keyframes)} keyframes show the same place"
        _answer(response, len(found) > 0, message)

    @contextmanager
    def _using(self, pipeline: Pipeline) -> Iterator[None]:
        """The pipeline, between two images; BackendError when it has been freed meanwhile."""
        with self._pipeline_lock:
            if self._pipeline is not pipeline:
                raise BackendError(
                    "the node was cleaned up meanwhile; call again when it is active"
                )
            yield
        time.sleep(_TURN)  # the lock is not fair: let who waits for it have it

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """As rclpy's; values take effect at once, and a read-only one is refused with advice."""
        # Not add_post_set_parameters_callback, which Humble lacks.
        result = super().set_parameters_atomically(parameter_list)
        if result.successful:
            self._settings.accept(parameter_list)
            self._apply_parameters()
        elif "read-only" in result.reason:
            result.reason = refused_read_only([parameter.name for parameter in parameter_list])
        return result

    def set_parameters(self, parameter_list: list[Parameter]) -> list[SetParametersResult]:
        """Set each parameter by itself."""
        return [self.set_parameters_atomically([parameter]) for parameter in parameter_list]

    def _apply_parameters(self) -> None:
        """After parameters were set: what can change while working does so now."""
        self._status_timer.timer_period_ns = int(self._settings["status_period"] * 1e9)
        if self._pipeline is not None:
            with self._pipeline_lock:
                self._pipeline.reconfigure(self._settings.frontend_config())


def _untracked(features: Features, stamp: float, camera: CameraModel | None) -> FrameResult:
    """The result of an image outside the sequence: its keypoints have no ids."""
    none = np.zeros(len(features), np.uint32)
    normalized = None
    if camera is not None and camera.fits(features.width, features.height):
        normalized = camera.normalize(features.keypoints)
    tracks = Tracks(none.astype(np.uint64), none, epoch=0)
    return FrameResult(0, stamp, features, Matches.empty(), tracks, normalized=normalized)


def _answer(response: Any, success: bool, message: str) -> Any:
    response.success = success
    response.message = message
    return response


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    limit_heaps()
    return running.run(FrontendNode, args, DECLARATIONS, "aliked_frontend")


if __name__ == "__main__":
    raise SystemExit(main())
