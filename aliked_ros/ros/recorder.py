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

"""Node ``recorder``: writes what front-end and odometry publish (and images) to an MCAP file.

Every ``flush_period`` the messages received so far are written out to the disk itself, and
``/diagnostics`` says how many that are: they are in the partial file even if this process or the
machine then crashes. Readers that want an index refuse that file until ``mcap recover``
has rebuilt it; the player, ``aliked_ros export`` and the report stream it as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from importlib import import_module
from operator import itemgetter
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rclpy.task import Future
from rclpy.validate_topic_name import validate_topic_name
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame, FeatureMatches, FrontendStatus, Keyframe
from aliked_ros.errors import ConfigurationError, ImageError, OutputError
from aliked_ros.io import bags
from aliked_ros.ros import running
from aliked_ros.ros.compatibility import with_message_info
from aliked_ros.ros.conversions import jpeg_message
from aliked_ros.ros.declarations import Declaration
from aliked_ros.ros.latched import subscribe_to_latched
from aliked_ros.ros.parameters import declare
from aliked_ros.ros.recording import Recording
from aliked_ros.ros.subscriptions import warn_of_silence
from aliked_ros.system.provenance import machine

_DECLARATIONS = (
    Declaration("output", "recording.mcap", "File to write; ends in .mcap."),
    Declaration(
        "frontend", "aliked_frontend", "Name of the front-end node to record.", names="node"
    ),
    Declaration("odometry", "odometry", "Name of the odometry node to record.", names="node"),
    Declaration(
        "record_images",
        "none",
        "Record image, camera_info and right/camera_info, too: images 'raw' as they come, or "
        "'jpeg' on image/compressed.",
        choices=("none", "raw", "jpeg"),
    ),
    Declaration(
        "image_reliability",
        "best_effort",
        "QoS of the image subscriptions; 'reliable' loses none of a reliable publisher.",
        choices=("best_effort", "reliable"),
    ),
    Declaration(
        "topics",
        "",
        "More topics to record, of any type that is installed, separated by spaces: '/tf /imu'. "
        "Each is recorded from when it is published first.",
    ),
    Declaration(
        "flush_period",
        1.0,
        "Time between two flushes to disk: what a power cut can cost at most.",
        limits=(0.05, 3600.0),
    ),
)
# Topics recorded of the node that a parameter names; one without a publisher stays empty.
_OUTPUTS: dict[str, dict[str, type]] = {
    "frontend": {
        "features": FeatureFrame,
        "matches": FeatureMatches,
        "keyframes": Keyframe,
        "status": FrontendStatus,
    },
    "odometry": {"odometry": Odometry, "path": PathMessage, "map": PointCloud2},
}
_DISCOVERY_PERIOD = 0.5  # seconds between two looks for the topics that are awaited
_LONGEST_QUEUE = 1000  # messages of a reliable topic that wait while the disk is slow
# Nanoseconds that Kilted's times of receipt go back from one message to the next: readers, which
# sort by them, would see the messages in another order.
_TIME_JITTER = 1_000_000_000


class RecorderNode(Node):
    """Records the outputs of a front-end, the odometry made of them and, if asked, the images.

    ``/diagnostics`` says every ``flush_period`` how many messages are safe on the disk.
    """

    def __init__(self) -> None:
        super().__init__("recorder")
        settings = declare(self, _DECLARATIONS)
        self._recording = Recording(Path(settings["output"]).expanduser())
        self._failure: OutputError | None = None
        self._refused = 0
        self._latest = 0
        self._stamped = ""  # topic whose stamps are looked at
        self._last_stamp: tuple[int, int] | None = None
        self._awaited: set[str] = set()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        try:
            self._subscribe(settings)
        except Exception:
            self._recording.discard()
            raise
        facts = machine()
        facts |= facts.pop("packages")
        self._recording.add_facts(bags.MACHINE, {name: str(fact) for name, fact in facts.items()})
        frontend = settings["frontend"]
        self._lists = self.create_client(ListParameters, f"{frontend}/list_parameters")
        self._gets = self.create_client(GetParameters, f"{frontend}/get_parameters")
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # also while simulated time stands
        self.create_timer(settings["flush_period"], self._flush, clock=steady)
        self.create_timer(_DISCOVERY_PERIOD, self._discover, clock=steady)
        self._asking = self.create_timer(_DISCOVERY_PERIOD, self._ask_for_settings, clock=steady)

    def _subscribe(self, settings: dict[str, Any]) -> None:
        reliable = QoSProfile(depth=_LONGEST_QUEUE, reliability=ReliabilityPolicy.RELIABLE)
        for parameter, topics in _OUTPUTS.items():
            for topic, kind in topics.items():
                self._record(f"{settings[parameter]}/{topic}", kind, reliable)
        self._stamped = self._resolved(f"{settings['frontend']}/features")
        warn_of_silence(self, self._stamped, FeatureFrame, lambda: self._last_stamp is not None)
        try:
            self._awaited = {self._resolved(name) for name in settings["topics"].split()}
        except InvalidTopicNameException as error:
            raise ConfigurationError(
                f"parameter topics is {settings['topics']!r}; it must be names of topics, "
                f"separated by spaces. {error}"
            ) from error
        if settings["record_images"] != "none":
            best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
            qos = reliable if settings["image_reliability"] == "reliable" else best_effort
            self._record("camera_info", CameraInfo, qos)
            self._record("right/camera_info", CameraInfo, qos)  # stays empty unless stereo
            if settings["record_images"] == "raw":
                self._record("image", ImageMessage, qos)
            else:
                self._record_as_jpeg("image", qos)
        self._awaited -= self._recording.topics

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Record until shutdown. Raises OutputError when the disk is full."""
        recording = self._recording
        if recording.left_over is not None:
            self.get_logger().warning(
                f"{recording.left_over} is from a recording that was cut short; it is kept, "
                "and can be played and exported as it is."
            )
        self.get_logger().info(f"Recording to {recording.output} (until then {recording.partial})")
        try:
            executor.spin()
        except OutputError as error:
            self._failure = error
            raise

    def close(self) -> None:
        """Complete the file, unless writing it failed."""
        if self._failure is None:
            self._take_the_rest()
            self._recording.finish()
            # Not the node's logger: its topic is gone once the context is shut down.
            get_logger("recording").info(
                f"Recorded {self._recording.count} messages in {self._recording.output}"
            )

    def _take_the_rest(self) -> None:
        """Record what has arrived, but still waited when we were asked to end."""
        rest = []
        for subscription in self.subscriptions:
            handle, latest = subscription.handle, 0
            for _ in range(_LONGEST_QUEUE):  # at most: its publisher may go on
                with handle:
                    taken = handle.take_message(subscription.msg_type, subscription.raw)
                if taken is None:
                    break
                latest = max(latest, taken[1]["received_timestamp"])  # their own order is kept
                rest.append((latest, subscription.callback, taken))
        for _, store, taken in sorted(rest, key=itemgetter(0)):
            store(*taken)

    def _resolved(self, topic: str) -> str:
        """The topic's full name; raises InvalidTopicNameException for what is none."""
        validate_topic_name(topic)
        return self.resolve_topic_name(topic)

    def _record(self, topic: str, kind: type, qos: QoSProfile) -> None:
        """Record a topic as it comes over the wire."""
        name = self._resolved(topic)

        latest: tuple[int, bytes] | None = None

        def store(data: bytes, info: dict[str, Any]) -> None:
            nonlocal latest
            before, latest = latest, (info["source_timestamp"], data)
            if kind is not CameraInfo or latest != before:  # else heard by both subscriptions
                self._store(name, data, info)

        self._recording.add_topic(name, kind)
        self.create_subscription(kind, topic, with_message_info(store), qos, raw=True)
        if kind is CameraInfo:  # also what was latched before
            subscribe_to_latched(self, kind, topic, with_message_info(store), raw=True)

    def _record_as_jpeg(self, topic: str, qos: QoSProfile) -> None:
        """Record an image topic under ``TOPIC/compressed``, a tenth of its size."""
        name = f"{self._resolved(topic)}/compressed"

        def store(message: ImageMessage, info: dict[str, Any]) -> None:
            try:
                data = serialize_message(jpeg_message(message))
            except ImageError as error:
                self._refused += 1
                self.get_logger().warning(f"Image not recorded: {error}", throttle_duration_sec=5.0)
                return
            self._store(name, data, info)

        self._recording.add_topic(name, CompressedImage)
        self.create_subscription(ImageMessage, topic, with_message_info(store), qos)

    def _store(self, topic: str, data: bytes, info: dict[str, Any]) -> None:
        received = info["received_timestamp"] or self.get_clock().now().nanoseconds
        if 0 < self._latest - received < _TIME_JITTER:
            received = self._latest
        self._latest = received
        if topic == self._stamped:
            self._check_stamp(data)
        self._recording.add(topic, data, received, info["source_timestamp"] or received)

    def _check_stamp(self, features: bytes) -> None:
        """Say once that features have stamps by which nothing can be found again."""
        order = "<" if features[1] else ">"
        sec, nanosec = struct.unpack_from(f"{order}iI", features, 4)  # the header begins with them
        before, self._last_stamp = self._last_stamp, (sec, nanosec)
        if sec < 0 or self._last_stamp in (before, (0, 0)):
            self.get_logger().warning(
                f"Features have the stamp {sec}.{nanosec:09d}, "
                f"{'like those before' if self._last_stamp == before else 'no time of a camera'}: "
                "everything is recorded, but export and report find images, features and poses by "
                "stamp. Set the front-end's parameter stamps to arrival.",
                once=True,
            )

    def _discover(self) -> None:
        """Subscribe to the awaited topics that are published by now, as their publishers offer."""
        for topic in sorted(self._awaited):
            publishers = self.get_publishers_info_by_topic(topic)
            if not publishers:
                continue
            self._awaited.remove(topic)
            try:
                kind = _message_class(publishers[0].topic_type)
                offers = [publisher.qos_profile for publisher in publishers]
                lasting = all(o.durability == DurabilityPolicy.TRANSIENT_LOCAL for o in offers)
                reliable = all(o.reliability == ReliabilityPolicy.RELIABLE for o in offers)
                qos = QoSProfile(
                    depth=_LONGEST_QUEUE,
                    reliability=ReliabilityPolicy.RELIABLE
                    if reliable
                    else ReliabilityPolicy.BEST_EFFORT,
                    durability=DurabilityPolicy.TRANSIENT_LOCAL
                    if lasting
                    else DurabilityPolicy.VOLATILE,
                )
                self._record(topic, kind, qos)
            except OutputError as error:
                self.get_logger().error(f"{topic} is not recorded: {error}")

    def _ask_for_settings(self) -> None:
        """Store the parameters of the front-end, as they are when it is seen first."""
        if not (self._lists.service_is_ready() and self._gets.service_is_ready()):
            return
        self._asking.cancel()

        def ask(listed: Future) -> None:
            names = listed.result().result.names
            got = self._gets.call_async(GetParameters.Request(names=names))
            got.add_done_callback(lambda got: store(names, got))

        def store(names: list[str], got: Future) -> None:
            values = map(parameter_value_to_python, got.result().values)
            facts = {name: str(value) for name, value in zip(names, values, strict=True)}
            self._recording.add_facts(bags.SETTINGS, facts)

        self._lists.call_async(ListParameters.Request()).add_done_callback(ask)

    def _flush(self) -> None:
        self._recording.flush()
        recording = self._recording
        status = DiagnosticStatus(
            name=f"{self.get_fully_qualified_name()[1:]}: recording",
            hardware_id="aliked_ros",
            level=DiagnosticStatus.WARN if self._refused else DiagnosticStatus.OK,
            message=f"{recording.safe} messages are safe in {recording.partial}",
            values=[
                KeyValue(key="safe", value=str(recording.safe)),
                KeyValue(key="received", value=str(recording.count)),
                KeyValue(key="images that could not be encoded", value=str(self._refused)),
                KeyValue(key="topics awaited", value=" ".join(sorted(self._awaited))),
                KeyValue(key="file", value=str(recording.partial)),
            ],
        )
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(DiagnosticArray(header=Header(stamp=stamp), status=[status]))


def _message_class(name: str) -> type:
    """The class of ``package/msg/Type``; OutputError when its package is not installed."""
    package, _, kind = name.split("/")
    try:
        return getattr(import_module(f"{package}.msg"), kind)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise OutputError(
            f"its type {name} is not installed ({error}); install {package.replace('_', '-')} "
            "here, or record this topic with 'ros2 bag record'."
        ) from error


def main(args: Sequence[str] | None = None) -> int:
    """Record until SIGINT or SIGTERM."""
    return running.run(RecorderNode, args, _DECLARATIONS, "recorder", patience=None)


if __name__ == "__main__":
    raise SystemExit(main())
