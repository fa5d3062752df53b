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

"""Node ``dataset_player``: plays a data set, recording, folder, video or camera as image topics."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice

from builtin_interfaces.msg import Time as Stamp
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from aliked_ros.errors import ConfigurationError, SourceError
from aliked_ros.io.messages import nanoseconds
from aliked_ros.ros import running
from aliked_ros.ros.camera_output import (
    PARTNERS,
    CameraOutput,
    camera_info,
    depth_message,
    encoded,
    right_camera_info,
)
from aliked_ros.ros.conversions import image_message
from aliked_ros.ros.declarations import Declaration
from aliked_ros.ros.pacing import Pacing
from aliked_ros.ros.parameters import declare
from aliked_ros.ros.playback_clock import Playback
from aliked_ros.sources import Source, default_source, open_source
from aliked_ros.system.transport import too_large
from aliked_ros.types import Image, UInt8Array

_DECLARATIONS = (
    Declaration(
        "source",
        "",
        "A folder of images, a folder with a frames.csv, a TUM RGB-D, KITTI or EuRoC folder, a "
        "recording (RECORDING#/image/topic), a video, 'camera:N', 'realsense' or 'virtual'; "
        "empty = $SOURCE, else a sequence of the shared data, else 'virtual'.",
    ),
    Declaration("limit", 0, "Maximum number of images; 0 = all.", limits=(0, 1_000_000)),
    Declaration(
        "publish",
        "mono",
        "'stereo': the right images, too, where the source has them; 'rgbd': the depth images.",
        choices=("mono", "stereo", "rgbd"),
    ),
    Declaration(
        "depth_encoding",
        "16UC1",
        "Encoding of the depth images: 16UC1 = millimetres, 32FC1 = metres.",
        choices=("16UC1", "32FC1"),
    ),
    Declaration(
        "partner_offset",
        0.0,
        "Seconds added to the stamps of right and depth images, as clocks that differ do.",
        limits=(0.0, 3600.0),
    ),
    Declaration(
        "loop",
        False,
        "Start again after the last image. Stamps of the source, and /clock, jump back then.",
    ),
    Declaration(
        "rate",
        0.0,
        "Images per second; 0 = in the time of the source's own stamps.",
        limits=(0.0, 1000.0),
    ),
    Declaration(
        "speed",
        1.0,
        "Seconds of the source's stamps in a second: 0.5 = half as fast; not together with rate.",
        limits=(0.01, 100.0),
    ),
    Declaration("start_paused", False, "Publish nothing until ~/resume or ~/step."),
    Declaration(
        "clock",
        0.0,
        "Messages a second on /clock, in the source's time, for nodes with use_sim_time; 0 = none.",
        limits=(0.0, 1000.0),
    ),
    Declaration(
        "preload",
        0,
        "Number of images to read before playing: a camera takes no processor time for decoding.",
        limits=(0, 10**6),
    ),
    Declaration(
        "stamp",
        "auto",
        "Stamps: 'now' = when published (latencies can be measured), 'dataset' = the source's own, "
        "'auto' = 'dataset' with a clock, else 'now'.",
        choices=("auto", "now", "dataset"),
    ),
    Declaration("frame_id", "camera", "frame_id of the headers."),
    Declaration(
        "encoding",
        "stored",
        "Encoding of the images; 'stored' = mono8 for grey, rgb8 for colour files.",
        choices=("stored", "mono8", "rgb8"),
    ),
    Declaration(
        "reliability",
        "best_effort",
        "QoS of the images; 'best_effort' is what most cameras offer, 'reliable' suits "
        "best-effort and reliable subscribers.",
        choices=("best_effort", "reliable"),
    ),
    Declaration(
        "wait_for_subscribers",
        1,
        "Number of subscribers of the images to wait for.",
        limits=(0, 100),
    ),
    Declaration(
        "wait_timeout",
        60.0,
        "How long to wait for them before giving up with an error.",
        limits=(0.0, 86400.0),
    ),
    Declaration(
        "wait_for_frontend",
        "",
        "Name of a front-end, e.g. aliked_frontend: each image waits until it has processed the "
        "one before, so that a slow machine drops none; empty = play in time.",
        names="node",
    ),
)
_LONGEST_QUEUE = 100  # images that wait for a reliable subscriber which is held up
_ACKNOWLEDGEMENT_TIMEOUT = 5.0  # seconds
_SETTLING_TIME = 0.5  # seconds from our knowing of a subscriber to its knowing of us
_LONGEST_SPIN = 0.5  # seconds without a look whether we are to end
_JUMPS_PERIOD = 5.0  # seconds between two warnings about stamps
_LATEST = 2**31 * 10**9 - 1  # nanoseconds that a stamp holds
_LAST_ANSWER = 0.2  # seconds in which the answer to the last step leaves


class PlayerNode(Node):
    """Publishes ``image`` and what comes with it.

    That is ``camera_info`` where the source has a calibration, and as the parameter ``publish``
    asks ``right/image`` with ``right/camera_info``, or ``depth/image``; ``/clock`` on request.
    Services: ``~/pause``, ``~/resume``, ``~/toggle_paused``, ``~/step``.
    """

    def __init__(self) -> None:
        super().__init__("dataset_player")
        self._handler = running.ToNode(self)
        logging.getLogger("aliked_ros").addHandler(self._handler)
        self._settings = settings = declare(self, _DECLARATIONS)
        if settings["rate"] and settings["speed"] != 1.0:
            raise ConfigurationError(
                f"rate is {settings['rate']:g} and speed {settings['speed']:g}; set one of them."
            )
        if settings["clock"] and settings["stamp"] == "now":
            raise ConfigurationError(
                "/clock has the source's time, so stamp cannot be 'now'; leave one of them at its "
                "default."
            )
        publish = settings["publish"]
        self._source: Source = open_source(
            settings["source"] or default_source(),
            settings["limit"] or None,
            PARTNERS[publish],
        )
        reliable = settings["reliability"] == "reliable"
        qos = QoSProfile(
            depth=_LONGEST_QUEUE if reliable else 10,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        calibration = self._source.calibration
        self._camera = CameraOutput(self, "", qos, camera_info(calibration))
        self._partner = None
        if publish == "stereo":
            self._partner = CameraOutput(self, "right/", qos, right_camera_info(calibration))
            if calibration is not None and calibration.get("stereo_baseline_m") is None:
                self.get_logger().warning(
                    f"{self._source.name} has no baseline: P[3] of right/camera_info is 0, so "
                    "stereo gives no depth."
                )
        elif publish == "rgbd":
            self._partner = CameraOutput(self, "depth/", qos, None)
        self._playback = Playback(
            settings["rate"], settings["speed"], 1.0 / self._source.rate, settings["start_paused"]
        )
        self._pacing = None
        if settings["wait_for_frontend"]:
            self._pacing = Pacing(
                self,
                settings["wait_for_frontend"],
                lambda: self._playback.delay(time.monotonic()),
            )
        self._next: Image | None = None
        self._played = 0
        self._clock_topic = None
        if settings["clock"]:
            self._clock_topic = self.create_publisher(ClockMessage, "/clock", 10)
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self.create_timer(1.0 / settings["clock"], self._publish_clock, clock=steady)
        for name, answer in (
            ("pause", lambda: self._set_paused(True)),
            ("resume", lambda: self._set_paused(False)),
            ("toggle_paused", lambda: self._set_paused(not self._playback.paused)),
            ("step", self._step),
        ):
            self._serve(name, answer)

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Play to the end. Raises SourceError when nobody listens or the source fails."""
        images = self._read_ahead()
        self._wait_for_subscribers(executor)
        began = time.monotonic()
        try:
            self._play(images, executor)
            while self._settings["loop"]:
                self._play(self._read_ahead(), executor)
        except SourceError as error:
            if not self._played:
                raise
            raise SourceError(f"{error} {self._played} images were played before.") from error
        if self._playback.paused:
            _spin_until(executor, time.monotonic() + _LAST_ANSWER)
        if self._settings["reliability"] == "reliable":
            for output in filter(None, (self._camera, self._partner)):
                output.images.wait_for_all_acked(Duration(seconds=_ACKNOWLEDGEMENT_TIMEOUT))
        took = time.monotonic() - began
        skipped = f", {self._source.skipped} unreadable" if self._source.skipped else ""
        self.get_logger().info(
            f"Played {self._played} images of {self._source.name}{skipped} in {took:.1f} s "
            f"({self._played / max(took, 1e-9):.1f} Hz)"
        )

    def close(self) -> None:
        """Leave Python's log."""
        logging.getLogger("aliked_ros").removeHandler(self._handler)

    def _wait_for_subscribers(self, executor: SingleThreadedExecutor) -> None:
        needed = self._settings["wait_for_subscribers"]
        deadline = time.monotonic() + self._settings["wait_timeout"]
        images = self._camera.images
        while images.get_subscription_count() < needed:
            if time.monotonic() > deadline:
                raise SourceError(
                    f"{images.get_subscription_count()} of {needed} subscribers of "
                    f"{images.topic_name} appeared in {self._settings['wait_timeout']:g} s. "
                    "Start them, check remappings and ROS_DOMAIN_ID, or lower "
                    "wait_for_subscribers."
                )
            _spin_until(executor, time.monotonic() + 0.05)
        _spin_until(executor, time.monotonic() + _SETTLING_TIME)

    def _read_ahead(self) -> Iterator[Image]:
        """The source's images, the first of them read now; with a clock, at least one."""
        images = iter(self._source)
        ahead: list[Image] = []
        for image in islice(images, max(self._settings["preload"], self._clock_topic is not None)):
            ahead.append(image)
            if not self.context.ok():
                raise ExternalShutdownException
        if ahead and not self._played:
            self._playback.schedule(_nanoseconds(ahead[0]), time.monotonic())
        return chain(ahead, images)

    def _play(self, images: Iterator[Image], executor: SingleThreadedExecutor) -> None:
        """Play the images once."""
        before = self._played
        for self._next in images:
            self._playback.schedule(_nanoseconds(self._next), time.monotonic())
            if self._played > before:  # else the beginning of a loop
                self._warn_of_jump()
            while self._next is not None:  # a step publishes it, too
                left = self._remaining()
                spin = _LONGEST_SPIN if left is None else min(max(left, 0.0), _LONGEST_SPIN)
                executor.spin_once(timeout_sec=spin)
                if not executor.context.ok():
                    raise ExternalShutdownException
                left = self._remaining()
                if self._next is not None and left is not None and left <= 0.0:
                    self._publish()
        played, length = self._played - before, self._source.length
        if not played:
            raise SourceError(f"{self._source.name} gave no image.")
        if length is not None and played + self._source.skipped < length:
            self.get_logger().warning(
                f"{self._source.name} ended early: after {played} of {length} images"
            )

    def _warn_of_jump(self) -> None:
        jump = self._playback.jump
        if jump:
            self.get_logger().warning(
                f"The stamp of image {self._played + 1} is {abs(jump):g} s "
                f"{'later' if jump > 0.0 else 'earlier'} than the one before: it is played after "
                "the usual interval.",
                throttle_duration_sec=_JUMPS_PERIOD,
            )

    def _own_stamp(self, image: Image) -> Stamp:
        """The image's own stamp, as near as a ROS message comes."""
        own = _nanoseconds(image)
        held = min(max(own, 0), _LATEST)
        if held != own:
            self.get_logger().warning(
                f"Image {self._played} has the stamp {own / 1e9:g} s, ROS holds 1970 to 2038: it "
                f"is published with {held / 1e9:g} s.",
                throttle_duration_sec=_JUMPS_PERIOD,
            )
        return _time(held)

    def _remaining(self) -> float | None:
        """Seconds until the next image is due; None while paused or the front-end is busy."""
        if self._pacing is not None and self._pacing.busy():
            return None
        return self._playback.remaining(time.monotonic())

    def _publish(self) -> None:
        """Publish the next image."""
        assert self._next is not None
        image, self._next = self._next, None
        self._playback.advance()
        self._played += 1
        own = self._settings["stamp"] == "dataset" or self._clock_topic is not None
        stamp = self._own_stamp(image) if own else self.get_clock().now().to_msg()
        if self._pacing is not None:
            self._pacing.published(stamp)
        self._publish_clock()  # first: no image comes from the future
        message = self._message(image.pixels, stamp)
        self._camera.publish(message)
        if self._played == 1:
            self._log_start(message)
        offset = round(self._settings["partner_offset"] * 1e9)
        partner_stamp = _time(min(nanoseconds(stamp) + offset, _LATEST))
        if self._partner is not None and image.right is not None:
            self._partner.publish(self._message(image.right, partner_stamp))
        elif self._partner is not None and image.depth is not None:
            header = self._header(partner_stamp)
            encoding = self._settings["depth_encoding"]
            self._partner.publish(depth_message(image.depth, encoding, header))

    def _log_start(self, message: ImageMessage) -> None:
        length = "images" if self._source.length is None else f"{self._source.length} images"
        self.get_logger().info(
            f"Playing {length} of {self._source.name} on {self._camera.images.topic_name}"
        )
        problem = too_large(len(message.data))
        if problem and self._settings["reliability"] != "reliable":
            self.get_logger().warning(f"The images have {problem}")

    def _publish_clock(self) -> None:
        now = self._playback.time(time.monotonic())
        if self._clock_topic is not None and now is not None:
            self._clock_topic.publish(ClockMessage(clock=_time(min(max(now, 0), _LATEST))))

    def _serve(self, name: str, answer: Callable[[], tuple[bool, str]]) -> None:
        def respond(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            response.success, response.message = answer()
            return response

        self.create_service(Trigger, f"~/{name}", respond)

    def _set_paused(self, paused: bool) -> tuple[bool, str]:
        now = time.monotonic()
        if paused:
            self._playback.pause(now)
        else:
            self._playback.resume(now)
        return True, "paused" if paused else "playing"

    def _step(self) -> tuple[bool, str]:
        """Publish one image; what ``~/step`` answers."""
        if not self._playback.paused:
            return False, "playing: call ~/pause first"
        if self._next is None:
            return False, "not started: still waiting for subscribers of the images"
        stamp = _nanoseconds(self._next)
        self._publish()
        return True, f"image {self._played}, stamp {stamp // 10**9}.{stamp % 10**9:09d}"

    def _message(self, pixels: UInt8Array, stamp: Stamp) -> ImageMessage:
        return image_message(encoded(pixels, self._settings["encoding"]), self._header(stamp))

    def _header(self, stamp: Stamp) -> Header:
        return Header(stamp=stamp, frame_id=self._settings["frame_id"])


def _nanoseconds(image: Image) -> int:
    return round(image.stamp * 1e9) if image.nanoseconds is None else image.nanoseconds


def _time(nanoseconds: int) -> Stamp:
    return Stamp(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def _spin_until(executor: SingleThreadedExecutor, deadline: float) -> None:
    """Serve the executor until a time of the monotonic clock; raises when asked to stop."""
    while True:
        left = deadline - time.monotonic()
        executor.spin_once(timeout_sec=max(left, 0.0))
        if not executor.context.ok():
            raise ExternalShutdownException
        if left <= 0.0:
            return


def main(args: Sequence[str] | None = None) -> int:
    """Play the source to its end."""
    return running.run(PlayerNode, args, _DECLARATIONS, "dataset_player")


if __name__ == "__main__":
    raise SystemExit(main())
