"""Node ``dataset_player``: plays a sequence, folder, video or camera as an image topic."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import cv2
import numpy as np
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_ros.errors import ConfigurationError, SourceError
from aliked_ros.ros import running
from aliked_ros.ros.conversions import image_message, stamp_from_seconds
from aliked_ros.ros.parameters import Change, Declaration, declare
from aliked_ros.sources import Source, default_source, open_source
from aliked_ros.types import Image, UInt8Array

_DECLARATIONS = (
    Declaration(
        "source",
        "",
        "A folder of images, a folder with a frames.csv, a video, 'camera:N' or 'virtual'; "
        "empty = $SOURCE, else a sequence of the shared data, else 'virtual'.",
        Change.AT_START,
    ),
    Declaration(
        "limit", 0, "Play at most so many images; 0 = all.", Change.AT_START, (0, 1_000_000)
    ),
    Declaration("loop", False, "Start again after the last image.", Change.AT_START),
    Declaration(
        "rate",
        0.0,
        "Images per second; 0 = in the time of the source's own stamps.",
        Change.AT_START,
        (0.0, 1000.0),
    ),
    Declaration(
        "preload",
        0,
        "Read so many images before playing: a camera takes no processor time for decoding.",
        Change.AT_START,
        (0, 10**6),
    ),
    Declaration(
        "stamp",
        "now",
        "Stamps: 'now' = when published (latencies can be measured), 'dataset' = the source's own.",
        Change.AT_START,
        choices=("now", "dataset"),
    ),
    Declaration("frame_id", "camera", "frame_id of the headers.", Change.AT_START),
    Declaration(
        "encoding",
        "stored",
        "Encoding of the images; 'stored' = mono8 for grey, rgb8 for colour files.",
        Change.AT_START,
        choices=("stored", "mono8", "rgb8"),
    ),
    Declaration(
        "reliability",
        "best_effort",
        "QoS of the images; 'best_effort' is what most cameras offer, 'reliable' suits "
        "best-effort and reliable subscribers.",
        Change.AT_START,
        choices=("best_effort", "reliable"),
    ),
    Declaration(
        "wait_for_subscribers",
        1,
        "Start when so many subscribers of the images are there.",
        Change.AT_START,
        (0, 100),
    ),
    Declaration(
        "wait_timeout",
        60.0,
        "Give up with an error after so many seconds without them.",
        Change.AT_START,
        (0.0, 86400.0),
    ),
)
_MODELS = {"radtan": "plumb_bob", "none": "plumb_bob", "equidistant": "equidistant"}
_ACKNOWLEDGEMENT_TIMEOUT = 5.0  # seconds
_SETTLING_TIME = 0.5  # seconds from our knowing of a subscriber to its knowing of us


class PlayerNode(Node):
    """Publishes ``image``, and ``camera_info`` where the source has a calibration."""

    def __init__(self) -> None:
        super().__init__("dataset_player")
        self._settings = declare(self, _DECLARATIONS)
        limit = self._settings["limit"] or None
        self._source: Source = open_source(self._settings["source"] or default_source(), limit)
        reliable = self._settings["reliability"] == "reliable"
        qos = QoSProfile(
            depth=10,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        self._images = self.create_publisher(ImageMessage, "image", qos)
        self._info = _camera_info(self._source.calibration)
        self._infos = None
        if self._info is not None:
            self._infos = self.create_publisher(CameraInfo, "camera_info", qos)

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Play to the end. Raises SourceError when nobody listens or the source fails."""
        images = self._read_ahead()
        self._wait_for_subscribers(executor)
        began, played = time.monotonic(), self._play(images, executor)
        while self._settings["loop"]:
            played += self._play(self._read_ahead(), executor)
        if self._settings["reliability"] == "reliable":
            self._images.wait_for_all_acked(Duration(seconds=_ACKNOWLEDGEMENT_TIMEOUT))
        took = time.monotonic() - began
        skipped = f", {self._source.skipped} unreadable" if self._source.skipped else ""
        self.get_logger().info(
            f"Played {played} images of {self._source.name}{skipped} in {took:.1f} s "
            f"({played / max(took, 1e-9):.1f} Hz)"
        )

    def close(self) -> None:
        """Nothing but ROS's own objects to free."""

    def _wait_for_subscribers(self, executor: SingleThreadedExecutor) -> None:
        needed = self._settings["wait_for_subscribers"]
        deadline = time.monotonic() + self._settings["wait_timeout"]
        while self._images.get_subscription_count() < needed:
            if time.monotonic() > deadline:
                raise SourceError(
                    f"{self._images.get_subscription_count()} of {needed} subscribers of "
                    f"{self._images.topic_name} appeared in {self._settings['wait_timeout']:g} s. "
                    "Start them, check remappings and ROS_DOMAIN_ID, or lower "
                    "wait_for_subscribers."
                )
            _spin_until(executor, time.monotonic() + 0.05)
        _spin_until(executor, time.monotonic() + _SETTLING_TIME)

    def _read_ahead(self) -> Iterator[Image]:
        """The source's images, the first of them read now."""
        images = iter(self._source)
        return chain(list(islice(images, self._settings["preload"])), images)

    def _play(self, images: Iterator[Image], executor: SingleThreadedExecutor) -> int:
        """Play the images once; returns their number."""
        rate = self._settings["rate"]
        start, first_stamp, played = time.monotonic(), None, 0
        for image in images:
            if first_stamp is None:
                start, first_stamp = time.monotonic(), image.stamp
            offset = played / rate if rate else image.stamp - first_stamp
            late = time.monotonic() - (start + offset)
            if late > 0.0:
                start += late  # a camera that stalls does not make up for it in a burst
            _spin_until(executor, start + offset)
            self._publish(image)
            played += 1
        return played

    def _publish(self, image: Image) -> None:
        now = self._settings["stamp"] == "now"
        stamp = self.get_clock().now().to_msg() if now else stamp_from_seconds(image.stamp)
        header = Header(stamp=stamp, frame_id=self._settings["frame_id"])
        pixels = _encoded(image.pixels, self._settings["encoding"])
        self._images.publish(image_message(pixels, header))
        if self._info is not None:
            self._info.header = header
            self._infos.publish(self._info)


def _spin_until(executor: SingleThreadedExecutor, deadline: float) -> None:
    """Serve the executor until a time of the monotonic clock; raises when asked to stop."""
    while True:
        left = deadline - time.monotonic()
        executor.spin_once(timeout_sec=max(left, 0.0))
        if not executor.context.ok():
            raise ExternalShutdownException
        if left <= 0.0:
            return


def _encoded(pixels: UInt8Array, encoding: str) -> UInt8Array:
    if encoding == "mono8" and pixels.ndim == 3:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    if encoding == "rgb8" and pixels.ndim == 2:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), np.uint8)
    return pixels


def _camera_info(calibration: dict[str, Any] | None) -> CameraInfo | None:
    """The CameraInfo of a calib.json, without header; None for none.

    Raises ConfigurationError when the calibration lacks something.
    """
    if calibration is None:
        return None
    try:
        fx, fy, cx, cy = (float(calibration[name]) for name in ("fx", "fy", "cx", "cy"))
        model = str(calibration.get("distortion_model", "none"))
        distortion = [float(value) for value in calibration.get("distortion", [])]
        return CameraInfo(
            width=int(calibration["width"]),
            height=int(calibration["height"]),
            distortion_model=_MODELS.get(model, model),
            d=distortion or [0.0] * 5,
            k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
            r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"calib.json of the source is not complete: {error!r}; it needs width, height, fx, fy, "
            "cx, cy, distortion_model and distortion, or must be taken away."
        ) from error


def main(args: Sequence[str] | None = None) -> int:
    """Play the source to its end."""
    return running.run(PlayerNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
