"""Node ``recorder``: writes what front-end and odometry publish (and images) to an MCAP file.

Messages are stored as they came over the wire (CDR) with their full definitions, so that Foxglove,
``ros2 bag`` and ``rosbags`` read the file on machines without ``aliked_msgs``.

The file grows beside its final name, as ``NAME.partial.mcap``, and is renamed when it is complete:
a file of the final name is always whole, and one that was there stays until then. Should the
recorder be killed or the disk be full, every finished chunk of the partial file is still readable
(``mcap recover`` rebuilds its index), since MCAP chunks are self-contained and are flushed every
second.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mcap.writer import CompressionType, Writer
from nav_msgs.msg import Odometry
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from aliked_msgs.msg import FeatureFrame, FeatureMatches, FrontendStatus, Keyframe
from aliked_ros.errors import ConfigurationError, ImageError, OutputError
from aliked_ros.ros import running
from aliked_ros.ros.conversions import jpeg_message
from aliked_ros.ros.parameters import Change, Declaration, declare

_DECLARATIONS = (
    Declaration("output", "recording.mcap", "File to write; ends in .mcap.", Change.AT_START),
    Declaration(
        "frontend", "aliked_frontend", "Name of the front-end node to record.", Change.AT_START
    ),
    Declaration("odometry", "odometry", "Name of the odometry node to record.", Change.AT_START),
    Declaration(
        "record_images",
        "none",
        "Record image and camera_info, too: 'raw' as they come, 'jpeg' on image/compressed.",
        Change.AT_START,
        choices=("none", "raw", "jpeg"),
    ),
    Declaration(
        "image_reliability",
        "best_effort",
        "QoS of the image subscriptions; 'reliable' loses none of a reliable publisher.",
        Change.AT_START,
        choices=("best_effort", "reliable"),
    ),
)
# What is recorded of the node that a parameter names; a topic that nobody publishes stays empty.
_OUTPUTS: dict[str, dict[str, type]] = {
    "frontend": {
        "features": FeatureFrame,
        "matches": FeatureMatches,
        "keyframes": Keyframe,
        "status": FrontendStatus,
    },
    "odometry": {"odometry": Odometry},
}
_CHUNK_BYTES = 1 << 20
_FLUSH_PERIOD = 1.0  # seconds
_SEPARATOR = "\n" + "=" * 80 + "\n"
# A field of another message type: optional package, type, optional array bounds, name.
_FIELD = re.compile(r"^\s*(?:(\w+)/)?(?:msg/)?([A-Z]\w*)(?:\[.*?\])?\s+\w+")


def message_definition(kind: type) -> str:
    """The text of a message type with those of all types in it, as MCAP's ``ros2msg`` wants it.

    Raises OutputError when a definition is not installed.
    """
    name = _type_name(kind)
    texts: dict[str, str] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop(0)
        if current in texts:
            continue
        texts[current] = _definition_file(current).read_text(encoding="utf-8")
        package = current.split("/")[0]
        for line in texts[current].splitlines():
            if field := _FIELD.match(line):
                waiting.append(f"{field[1] or package}/{field[2]}")
    others = [f"MSG: {key}\n{text}" for key, text in texts.items() if key != name]
    return _SEPARATOR.join([texts[name], *others])


def _type_name(kind: type) -> str:
    """``package/Type`` of a message class."""
    return f"{kind.__module__.split('.')[0]}/{kind.__name__}"


def _definition_file(name: str) -> Path:
    """The .msg file: in share/ of whatever prefix the Python package of the messages lies in."""
    package, message = name.split("/")
    module = Path(import_module(package).__file__ or "").resolve()
    for prefix in module.parents:
        path = prefix / "share" / package / "msg" / f"{message}.msg"
        if path.is_file():
            return path
    raise OutputError(
        f"the definition share/{package}/msg/{message}.msg is not in any folder above {module}; "
        f"install {package} again."
    )


class Recording:
    """An MCAP file in the making: messages in CDR, one channel per topic."""

    def __init__(self, output: Path) -> None:
        """Open the partial file. Raises OutputError when that is impossible."""
        if output.suffix != ".mcap":
            raise ConfigurationError(f"output is {str(output)!r}; it must end in .mcap.")
        self.output = output
        self.partial = output.with_suffix(".partial.mcap")
        self.count = 0
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.partial.open("wb")
        except OSError as error:
            raise self._failure(error) from error
        self._writer = Writer(self._file, chunk_size=_CHUNK_BYTES, compression=CompressionType.LZ4)
        self._writer.start(profile="ros2", library="aliked_ros")

    def add_topic(self, topic: str, kind: type) -> None:
        """Store the definition of a topic's messages; before its first message."""
        name = _type_name(kind)
        if name not in self._schemas:
            self._schemas[name] = self._writer.register_schema(
                name.replace("/", "/msg/"), "ros2msg", message_definition(kind).encode()
            )
        self._channels[topic] = self._writer.register_channel(
            topic, "cdr", self._schemas[name], {"offered_qos_profiles": ""}
        )

    def add(self, topic: str, data: bytes, received: int, published: int) -> None:
        """Store one message; times in nanoseconds since the epoch."""
        try:
            self._writer.add_message(
                self._channels[topic], log_time=received, data=data, publish_time=published
            )
        except OSError as error:
            raise self._failure(error) from error
        self.count += 1

    def flush(self) -> None:
        """Give what is written to the operating system."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._failure(error) from error

    def finish(self) -> None:
        """Complete the file and give it its name."""
        try:
            self._writer.finish()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self.partial, self.output)
        except OSError as error:
            raise self._failure(error) from error

    def discard(self) -> None:
        """Close and remove the partial file."""
        self._file.close()
        self.partial.unlink(missing_ok=True)

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot write {self.partial}: {error.strerror}. What was recorded until then is in "
            "that file ('mcap recover' rebuilds its index). Free space, or choose another output."
        )


class RecorderNode(Node):
    """Records the outputs of a front-end, the odometry made of them and, if asked, the images."""

    def __init__(self) -> None:
        super().__init__("recorder")
        settings = declare(self, _DECLARATIONS)
        self._recording = Recording(Path(settings["output"]).expanduser())
        self._failure: OutputError | None = None
        try:
            self._subscribe(settings)
        except Exception:
            self._recording.discard()
            raise
        self.create_timer(_FLUSH_PERIOD, self._recording.flush)

    def _subscribe(self, settings: dict[str, Any]) -> None:
        reliable = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        for parameter, topics in _OUTPUTS.items():
            try:
                for topic, kind in topics.items():
                    self._record(f"{settings[parameter]}/{topic}", kind, reliable)
            except InvalidTopicNameException as error:
                raise ConfigurationError(
                    f"parameter {parameter} is {settings[parameter]!r}; it must be the name of a "
                    f"node, such as aliked_frontend or /robot1/aliked_frontend. {error}"
                ) from error
        if settings["record_images"] != "none":
            best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
            qos = reliable if settings["image_reliability"] == "reliable" else best_effort
            self._record("camera_info", CameraInfo, qos)
            if settings["record_images"] == "raw":
                self._record("image", ImageMessage, qos)
            else:
                self._record_as_jpeg("image", qos)

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Record until shutdown. Raises OutputError when the disk is full."""
        self.get_logger().info(f"Recording to {self._recording.output}")
        try:
            executor.spin()
        except OutputError as error:
            self._failure = error
            raise

    def close(self) -> None:
        """Complete the file, unless writing it failed."""
        if self._failure is None:
            self._recording.finish()
            # Not the node's logger: its topic is gone once the context is shut down.
            get_logger("recording").info(
                f"Recorded {self._recording.count} messages in {self._recording.output}"
            )

    def _record(self, topic: str, kind: type, qos: QoSProfile) -> None:
        """Record a topic as it comes over the wire."""

        def store(data: bytes, info: dict[str, Any]) -> None:
            self._store(subscription.topic_name, data, info)

        subscription = self.create_subscription(kind, topic, store, qos, raw=True)
        self._recording.add_topic(subscription.topic_name, kind)

    def _record_as_jpeg(self, topic: str, qos: QoSProfile) -> None:
        """Record an image topic under ``TOPIC/compressed``, a tenth of its size."""

        def store(message: ImageMessage, info: dict[str, Any]) -> None:
            try:
                data = serialize_message(jpeg_message(message))
            except ImageError as error:
                self.get_logger().warning(f"Image not recorded: {error}", throttle_duration_sec=5.0)
                return
            self._store(f"{subscription.topic_name}/compressed", data, info)

        subscription = self.create_subscription(ImageMessage, topic, store, qos)
        self._recording.add_topic(f"{subscription.topic_name}/compressed", CompressedImage)

    def _store(self, topic: str, data: bytes, info: dict[str, Any]) -> None:
        received = info["received_timestamp"] or self.get_clock().now().nanoseconds
        self._recording.add(topic, data, received, info["source_timestamp"] or received)


def main(args: Sequence[str] | None = None) -> int:
    """Record until SIGINT or SIGTERM."""
    return running.run(RecorderNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
