"""Lifecycle node ``aliked_frontend``: camera images in; features, matches and tracks out.

The executor's thread receives images and answers services; one worker thread takes the newest
image through the pipeline and publishes; another draws ``~/tracks/image`` while somebody looks.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import (
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
    qos_profile_sensor_data,
)
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from aliked_msgs.msg import FeatureFrame, FeatureMatches, FrontendStatus
from aliked_ros.errors import AlikedError, ConfigurationError
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.ros import running
from aliked_ros.ros.conversions import (
    camera_from_message,
    feature_frame,
    feature_matches,
    image_from_message,
    image_message,
    seconds,
    stamp_from_seconds,
)
from aliked_ros.ros.parameters import NodeParameters
from aliked_ros.ros.statistics import Statistics, diagnostic
from aliked_ros.ros.worker import LatestWorker
from aliked_ros.types import FrameResult, UInt8Array
from aliked_ros.visualization import Trails, draw_tracks

_SUCCESS, _FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_OUTPUT_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
_RELIABILITY = {
    "best_effort": ReliabilityPolicy.BEST_EFFORT,
    "reliable": ReliabilityPolicy.RELIABLE,
}
_LOG_PERIOD = 5.0  # seconds between two warnings of the same kind
_SILENCE = 5.0  # seconds without an image after which /diagnostics warns
_UNCALIBRATED_AFTER = 30  # images without a CameraInfo, after which the node says so
_SANE_AGE = 60.0  # seconds; an image older than this at arrival has a stamp of another clock


@dataclass(frozen=True, slots=True)
class _Arrival:
    """An image message, when it arrived (``time.perf_counter``) and its age then in seconds.

    The age is negative or beyond ``_SANE_AGE`` when the stamp comes from another clock.
    """

    message: ImageMessage | CompressedImage
    time: float
    age: float


@dataclass(frozen=True, slots=True)
class _Picture:
    """What the drawing thread needs of one processed image."""

    pixels: UInt8Array
    result: FrameResult
    header: Header


_Transition = Callable[["FrontendNode", LifecycleState], TransitionCallbackReturn]


def _logged(callback: _Transition) -> _Transition:
    """A transition whose exceptions are told before rclpy makes a silent ERROR of them."""

    @wraps(callback)
    def logging(self: FrontendNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return callback(self, state)
        except Exception as error:
            if self.context.ok():  # else interrupted: nobody is left to tell
                self._complain(f"{callback.__name__.removeprefix('on_')} failed: {_reason(error)}")
            raise

    return logging


class FrontendNode(LifecycleNode):
    """The visual front-end as a managed node.

    configure loads the networks; activate starts the threads; deactivate ends them; cleanup and
    shutdown free the networks. A configure that fails leaves the node ``unconfigured`` with the
    reason in its log, in ``~/status`` and in ``/diagnostics``.
    """

    def __init__(self) -> None:
        super().__init__("aliked_frontend")
        self._state = "unconfigured"
        self._paused = False
        self._pipeline: Pipeline | None = None
        self._pipeline_lock = threading.Lock()
        self._worker: LatestWorker[_Arrival] | None = None
        self._drawer: LatestWorker[_Picture] | None = None
        self._subscription = None
        self._camera_subscription = None
        self._camera_info: CameraInfo | None = None
        self._told: set[str] = set()
        self._statistics = Statistics()
        self._identity: dict[str, str] = {}
        self._first_index: int | None = None
        self._first_epoch = 0
        self._reported_refused = 0
        self._stamps: dict[int, Time] = {}
        self._trails: Trails | None = None

        self._features = self.create_lifecycle_publisher(FeatureFrame, "~/features", _OUTPUT_QOS)
        self._matches = self.create_lifecycle_publisher(FeatureMatches, "~/matches", _OUTPUT_QOS)
        self._tracks_image = self.create_lifecycle_publisher(
            ImageMessage, "~/tracks/image", _OUTPUT_QOS
        )
        # These two speak in every state: a node that could not be configured has to say why.
        self._status = self.create_publisher(FrontendStatus, "~/status", _OUTPUT_QOS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", _OUTPUT_QOS)
        self._settings = NodeParameters(self, self._is_configured, self._apply_parameters)
        self._status_timer = self.create_timer(
            self._settings["status_period"],
            self._publish_status,
            clock=Clock(clock_type=ClockType.STEADY_TIME),  # also while simulated time stands
        )
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/pause", self._on_pause)
        self.create_service(Trigger, "~/resume", self._on_resume)
        self._refuse_impossible_transitions()

    # Running

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Start as the parameter ``autostart`` says, then serve until shutdown."""
        if self._settings["autostart"]:
            started = self.trigger_configure() == _SUCCESS and self.trigger_activate() == _SUCCESS
            if not started and self.context.ok():  # the failed transition has said why
                self.get_logger().error(
                    f"Not started: the node stays {self._state}. Mend the cause, then configure "
                    "and activate it (ros2 lifecycle set)."
                )
        executor.spin()

    def close(self) -> None:
        """End the threads and free the networks, whatever state the node is in."""
        self._stop_threads()
        self._free_pipeline()

    # Lifecycle

    @_logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the networks (seconds; minutes when they have to be exported first)."""
        self._statistics.clear()
        self._enter("configuring")
        try:
            config = self._settings.frontend_config()
            self._pipeline = Pipeline(config, progress=self._tell)
        except Exception as error:
            if not self.context.ok():  # interrupted: nobody is left to tell
                raise
            self._complain(f"configure failed: {_reason(error)}")
            self._enter("unconfigured")
            return _FAILURE
        if not self.context.ok():
            raise ExternalShutdownException
        self._identity = self._pipeline.identity | {"backend": self._pipeline.backend}
        self.get_logger().info(f"Configured: {config.model} on {self._pipeline.backend}")
        self._enter("inactive")
        return super().on_configure(state)

    @_logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the threads."""
        self._statistics.clear()
        self._reported_refused = 0
        self._paused = False
        self._first_index = None
        self._stamps.clear()
        self._trails = None
        self._told.clear()
        self._subscription = self._subscribe()
        self._camera_subscription = self.create_subscription(
            CameraInfo, "camera_info", self._on_camera_info, qos_profile_sensor_data
        )
        self._worker = LatestWorker("frontend", self._process)
        self._drawer = LatestWorker("drawing", self._draw)
        result = super().on_activate(state)
        self.get_logger().info(f"Active: waiting for images on {self._subscription.topic_name}")
        self._enter("active")
        return result

    @_logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and end the threads; the networks stay loaded, the tracks end."""
        self._stop_threads()
        if self._pipeline is not None:
            self._pipeline.reset()
        self._enter("inactive")
        return super().on_deactivate(state)

    @_logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the networks."""
        self._free_pipeline()
        self._enter("unconfigured")
        return super().on_cleanup(state)

    @_logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the threads and free the networks, from any state."""
        self.close()
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
        self._publish_status()

    def _complain(self, reason: str) -> None:
        """An error of the node itself: into the log, ``~/status`` and ``/diagnostics``."""
        self._statistics.error(reason)
        self.get_logger().error(reason)

    def _tell(self, progress: str) -> None:
        """Log a step of a long load; and here is where Ctrl-C ends it."""
        if not self.context.ok():
            raise ExternalShutdownException
        self.get_logger().info(progress)

    def _is_configured(self) -> bool:
        return self._pipeline is not None

    def _subscribe(self):
        compressed = self._settings["image_transport"] == "compressed"
        topic = "image/compressed" if compressed else "image"
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=self._settings["input_depth"],
            reliability=_RELIABILITY[self._settings["input_reliability"]],
        )
        return self.create_subscription(
            CompressedImage if compressed else ImageMessage,
            topic,
            self._on_image,
            qos,
            event_callbacks=SubscriptionEventCallbacks(
                # Bound here: an event can come when the subscription is gone already.
                incompatible_qos=partial(self._on_incompatible_qos, self.resolve_topic_name(topic))
            ),
        )

    def _stop_threads(self) -> None:
        if self._camera_subscription is not None:
            self.destroy_subscription(self._camera_subscription)
            self._camera_subscription = None
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._worker is not None:
            self._statistics.dropped(self._worker.stop())
            self._worker = None
        if self._drawer is not None:
            self._drawer.stop()
            self._drawer = None

    def _free_pipeline(self) -> None:
        if self._pipeline is None:
            return
        # The next pipeline counts its epochs and ids from the start; ours never come back.
        self._first_epoch += self._pipeline.epoch + 1
        self._identity = {}
        self._camera_info = None
        pipeline, self._pipeline = self._pipeline, None
        pipeline.close()

    def _epoch(self) -> int:
        """The tracker's epoch, counted over the life of the node."""
        return self._first_epoch + (0 if self._pipeline is None else self._pipeline.epoch)

    def _refuse_impossible_transitions(self) -> None:
        """Answer ``success: false`` where rclpy would let the exception end the executor."""
        change_state = self._service_change_state.callback

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

        self._service_change_state.callback = answer

    # Images

    def _on_image(self, message: ImageMessage | CompressedImage) -> None:
        """Executor's thread: hand the image over, count the one it replaces."""
        if self._paused or self._worker is None:
            return
        now = self.get_clock().now().nanoseconds * 1e-9
        arrival = _Arrival(message, time.perf_counter(), now - seconds(message.header.stamp))
        self._statistics.received()
        self._statistics.dropped(self._worker.submit(arrival))

    def _on_camera_info(self, message: CameraInfo) -> None:
        """Executor's thread: the camera's model; a bad one is named once, and mono goes on."""
        message.header = Header()  # what a model is does not change with the stamp
        if self._pipeline is None or message == self._camera_info:
            return
        self._camera_info = message
        try:
            camera = camera_from_message(message, self._settings["rectified"])
        except ConfigurationError as error:
            self._pipeline.camera = None
            self._statistics.error(f"CameraInfo refused: {error}")
            self.get_logger().warning(f"CameraInfo refused: {error}")
            return
        self._pipeline.camera = camera
        self.get_logger().info(
            f"Camera: {camera.width}×{camera.height}, {camera.distortion_model}, "
            f"focal length {camera.matrix[0, 0]:.1f} pixels"
        )

    def _tell_about_camera(self, result: FrameResult) -> None:
        """Say once why ``normalized`` is empty."""
        if result.normalized is not None:
            return
        camera = self._pipeline.camera
        if camera is not None:
            reason = (
                f"CameraInfo is for {camera.width}×{camera.height} images, these are "
                f"{result.features.width}×{result.features.height}: normalized stays empty. "
                "Let the driver publish the CameraInfo of this resolution."
            )
        elif self._camera_info is None and result.index >= _UNCALIBRATED_AFTER:
            topic = self.resolve_topic_name("camera_info")
            reason = f"No CameraInfo on {topic}: normalized stays empty."
        else:
            return
        if reason not in self._told:
            self._told.add(reason)
            self.get_logger().warning(reason)

    def _process(self, arrival: _Arrival) -> None:
        """Worker's thread: one image to its messages; nothing that is wrong with it ends us."""
        try:
            self._process_or_raise(arrival)
        except Exception as error:
            if not self.context.ok():  # shutting down: nothing can be published any more
                return
            count = self._statistics.refused(_reason(error))
            self.get_logger().warning(
                f"Image refused ({count} so far): {_reason(error)}",
                throttle_duration_sec=_LOG_PERIOD,
            )

    def _process_or_raise(self, arrival: _Arrival) -> None:
        header = arrival.message.header
        clock = [time.perf_counter()]
        stages = {"receive": arrival.age} if 0.0 <= arrival.age <= _SANE_AGE else {}
        stages["wait"] = clock[0] - arrival.time

        def lap(stage: str) -> None:
            clock.append(time.perf_counter())
            stages[stage] = clock[-1] - clock[-2]

        image = image_from_message(arrival.message)
        lap("convert")
        with self._pipeline_lock:
            result = self._renumbered(self._pipeline.process(image))
        reference_stamp = self._reference_stamp(result, header.stamp)
        lap("pipeline")
        self._tell_about_camera(result)
        del stages["pipeline"]  # reported by its parts
        stages |= {name: t for name, t in result.stage_times.items() if name != "total"}
        encoding = self._settings["descriptor_encoding"]
        features = feature_frame(
            result, header, encoding if self._settings["publish_descriptors"] else None
        )
        matches = None
        if self._settings["publish_matches"]:
            matches = feature_matches(result, header, reference_stamp)
        lap("pack")
        self._features.publish(features)
        if matches is not None:
            self._matches.publish(matches)
        lap("publish")
        stages["total"] = clock[-1] - arrival.time
        self._statistics.processed(result, stages)
        if self._tracks_image.get_subscription_count():
            self._drawer.submit(_Picture(image.pixels, result, header))

    def _renumbered(self, result: FrameResult) -> FrameResult:
        """Images counted from activation, epochs over the life of the node."""
        if self._first_index is None:
            self._first_index = result.index
        reference = result.reference_index
        return replace(
            result,
            index=result.index - self._first_index,
            reference_index=None if reference is None else reference - self._first_index,
            tracks=replace(result.tracks, epoch=result.tracks.epoch + self._first_epoch),
        )

    def _reference_stamp(self, result: FrameResult, stamp: Time) -> Time:
        """The exact stamp of the reference image, which seconds in a float do not hold."""
        if result.reference_index is None:
            self._stamps.clear()
        oldest = result.index if result.reference_index is None else result.reference_index
        for index in [index for index in self._stamps if index < oldest]:
            del self._stamps[index]  # references never go back
        self._stamps[result.index] = stamp
        if oldest in self._stamps:
            return self._stamps[oldest]
        return stamp_from_seconds(result.reference_stamp or 0.0)

    def _draw(self, picture: _Picture) -> None:
        """Drawing thread: never in the way of the next image."""
        try:
            if self._trails is None:
                self._trails = Trails(self._settings["trail_length"])
            self._trails.update(picture.result)
            drawing = draw_tracks(picture.pixels, picture.result, self._trails)
            self._tracks_image.publish(image_message(drawing, picture.header))
        except Exception as error:
            if self.context.ok():
                self._statistics.error(_reason(error))
                self.get_logger().warning(
                    f"Drawing failed: {_reason(error)}", throttle_duration_sec=_LOG_PERIOD
                )

    # Reports

    def _publish_status(self) -> None:
        if not self.context.ok():
            return
        status = self._statistics.status(
            "paused" if self._paused and self._state == "active" else self._state
        )
        stamp = self.get_clock().now().to_msg()
        status.header.stamp = stamp
        status.epoch = self._epoch()
        status.backend = self._identity.get("backend", "")
        status.model = self._identity.get("model", self._settings["model"])
        status.model_checksum = self._identity.get("model_checksum", "")
        status.precision = self._identity.get("precision", "")
        self._status.publish(status)
        report = diagnostic(f"{self.get_name()}: front-end", status, self._complaint(status))
        self._diagnostics.publish(DiagnosticArray(header=Header(stamp=stamp), status=[report]))

    def _complaint(self, status: FrontendStatus) -> str:
        """What a person should look at now; empty = nothing."""
        if status.state == "unconfigured":
            return status.last_error
        if status.state != "active" or self._subscription is None:
            return ""
        refused = status.frames_refused - self._reported_refused
        self._reported_refused = status.frames_refused
        if refused:
            return f"{refused} images refused: {status.last_error}"
        silence = self._statistics.silence()
        if silence > _SILENCE:
            return (
                f"no image on {self._subscription.topic_name} for {silence:.0f} s: "
                f"{self._subscription.get_publisher_count()} matching publishers. "
                "Check the topic's name, and input_reliability against the camera's QoS."
            )
        return ""

    def _on_incompatible_qos(self, topic: str, event: QoSRequestedIncompatibleQoSInfo) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        reason = (
            f"a publisher of {topic} offers another QoS ({policy}): its images do not arrive. "
            "Set input_reliability to best_effort."
        )
        self._statistics.error(reason)
        self.get_logger().warning(reason)

    # Services and parameters

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response):
        if self._pipeline is None:
            return _answer(response, False, f"nothing to reset in state {self._state}")
        with self._pipeline_lock:
            self._pipeline.reset()
        self._publish_status()
        return _answer(response, True, f"tracks start anew: epoch {self._epoch()}")

    def _on_pause(self, request: Trigger.Request, response: Trigger.Response):
        if self._state != "active":
            return _answer(response, False, f"nothing to pause in state {self._state}")
        self._paused = True
        self._publish_status()
        return _answer(response, True, "paused: images are ignored until ~/resume")

    def _on_resume(self, request: Trigger.Request, response: Trigger.Response):
        if self._state != "active":
            return _answer(response, False, f"nothing to resume in state {self._state}")
        self._paused = False
        self._publish_status()
        return _answer(response, True, "active")

    def _apply_parameters(self) -> None:
        """After parameters were set: what can change while working does so now."""
        self._status_timer.timer_period_ns = int(self._settings["status_period"] * 1e9)
        if self._pipeline is not None:
            with self._pipeline_lock:
                self._pipeline.reconfigure(self._settings.frontend_config())


def _answer(response: Trigger.Response, success: bool, message: str) -> Trigger.Response:
    response.success = success
    response.message = message
    return response


def _reason(error: Exception) -> str:
    """What to tell: our own errors speak for themselves, others need their place in the code."""
    if isinstance(error, AlikedError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"unexpected {type(error).__name__}: {error} ({place.filename}:{place.lineno}); "
        "please report this."
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return running.run(FrontendNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
