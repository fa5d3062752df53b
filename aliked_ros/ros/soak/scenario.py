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

"""One run of the soak test: the camera, the faults and what becomes of the images."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import psutil
from builtin_interfaces.msg import Time
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from aliked_msgs.msg import FeatureFrame, FeatureMatches, FrontendStatus, Keyframe
from aliked_msgs.srv import Relocalize
from aliked_ros.ros.conversions import image_message
from aliked_ros.ros.processes import (
    FRONTEND,
    Child,
    ProcessError,
    Watcher,
)
from aliked_ros.ros.soak import faults
from aliked_ros.ros.soak.leak_check import LEAST_LOOKS, Vitals, vitals_of
from aliked_ros.types import UInt8Array

_RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
_CALLS = QoSProfile(depth=1000)  # with fewer, answers to a storm of calls get lost here
_BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
_PATIENCE = 60.0  # seconds without what has to come, after which the node hangs
_PERIOD = 1.0 / 30.0  # seconds between two images: a camera's
_UNDER_WAY = 25  # images; a quarter of the queues on both sides, and they fit into shared memory
# What the graph runtimes keep for each number of keypoints and layers is filled by images with so
# large shares of the keypoints, matched with layers that end at so large shares of certain points.
_SHARES = (0.03, 0.2, 0.45, 1.0)
_DEPTHS = (0.05, 0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, -1.0)
_SETTLING = 0.1  # of a run, which is not looked at: rare things come for the first time
_FIRST_PART = 0.6  # of a run, in which the node stays active
_SENDINGS = 100  # of an image at most, until a detection behind has seen it
_OFTEN = 3  # after so many faults of the second part comes a lifecycle cycle
PARAMETERS: dict[str, Any] = {
    "status_period": 0.1, "input_reliability": "reliable", "input_depth": 100,
    "diagnostics.max_silence_warn": 1.0,
}  # fmt: skip


class Soak:
    """One run: the camera, the faults and the books.

    injected: faults by kind. frames: what became of the images, by the node's counts, and those
    ``ignored`` while it was paused. failures: sentences. active: looks at the node after
    some faults of the first part. resting: when unconfigured, in the second.
    """

    def __init__(self, frames: list[UInt8Array], seed: int, watcher: Watcher, node: Child) -> None:
        self.injected: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self.failures: list[str] = []
        self.active: list[Vitals] = []
        self.resting: list[Vitals] = []
        self._images = frames
        self._rng = random.Random(seed)
        self._watcher, self._node = watcher, node
        self._process = psutil.Process(node.pid)
        self._ros = watcher.node
        self._stamp = time.time_ns()
        self._pixels = cycle([*frames, *frames[-2:0:-1]])  # there and back
        self._marks = 0
        self._sent: Counter[str] = Counter()  # since the last balance: good, bad
        self._base = FrontendStatus()
        self._camera = self._ros.create_publisher(ImageMessage, "image", _RELIABLE)
        self._infos = self._ros.create_publisher(CameraInfo, "camera_info", _RELIABLE)
        self._masks = self._ros.create_publisher(ImageMessage, "mask", _RELIABLE)
        self._clients: dict[str, Any] = {
            name: self._ros.create_client(kind, f"{FRONTEND}/{name}", qos_profile=_CALLS)
            for name, kind in (
                ("reset", Trigger), ("pause", Trigger), ("resume", Trigger),
                ("relocalize", Relocalize), ("change_state", ChangeState),
                ("set_parameters", SetParameters),
            )
        }  # fmt: skip
        self._acts: dict[str, Callable[[], None]] = {
            "corrupt images": self._corrupt_images,
            "encodings and sizes": self._encodings_and_sizes,
            "stamp jumps": self._stamp_jumps,
            "subscribers": self._subscribers,
            "calibration and masks": self._calibration_and_masks,
            "parameters": self._parameters,
            "services": self._services,
            "camera loss": self._camera_loss,
            "lifecycle": self._lifecycle,
        }

    def run(self, seconds: float, progress: Callable[[str, float], None]) -> None:
        """One fault of each kind to warm up, then inject for so long.

        progress: called with what happens and the seconds since the beginning. Raises
        ProcessError when the node dies or hangs.
        """
        self._connect()
        others = [name for name in self._acts if name != "lifecycle"]
        self._rng.shuffle(others)
        for name in ("lifecycle", *others):
            progress(f"warming up: {name}", 0.0)
            self._inject(name)
        progress("warming up: caches", 0.0)
        self._fill_caches()
        begin = time.monotonic()
        number = 0
        while (now := time.monotonic() - begin) < seconds or len(self.active) < LEAST_LOOKS:
            second_part = now > _FIRST_PART * seconds and len(self.active) >= LEAST_LOOKS
            cycle = second_part and number % _OFTEN == 0
            name = "lifecycle" if cycle else self._rng.choice(others)
            number += second_part
            progress(name, now)
            self._inject(name)
            if not second_part and now > _SETTLING * seconds:
                self._level()
                self.active.append(vitals_of(self._process, time.monotonic()))

    def _inject(self, name: str) -> None:
        self.injected[name] += 1
        self._acts[name]()
        self._stream(self._rng.uniform(0.2, 1.0))
        self._balance(name)

    def _fill_caches(self) -> None:
        """Bring about every number of rows and layers that a graph can be asked for."""
        upright = self._images[0]
        pair = (upright, np.ascontiguousarray(upright[::-1]))  # which have no matches
        seen: list[FeatureFrame] = []
        subscription = self._ros.create_subscription(
            FeatureFrame, f"{FRONTEND}/features", seen.append, _RELIABLE
        )

        def frame(pixels: UInt8Array) -> FeatureFrame:
            message = image_message(pixels, self._header())
            self._send(message)
            self._wait(
                lambda: any(found.header.stamp == message.header.stamp for found in seen),
                "hang: no features of an image",
            )
            found = seen[-1]
            seen.clear()
            return found

        def features(pixels: UInt8Array) -> FeatureFrame:
            """Of an image that was detected in; behind the images it is, when sent a few times."""
            first = found = frame(pixels)
            for _ in range(_SENDINGS):
                detected = found.frame_index - min(found.detection_age, default=0)
                if detected >= first.frame_index and len(found.scores):
                    break
                self._watcher.spin(_PERIOD)  # leaves the cores to the detection
                found = frame(pixels)
            return found

        self._wait(lambda: self._ros.count_publishers(f"{FRONTEND}/features"), "hang: no topic")
        self._watcher.spin(0.5)  # discovery
        scores = np.concatenate([features(pixels).scores for pixels in pair])
        for share in _SHARES if scores.size else ():
            threshold = float(np.quantile(scores, 1.0 - share)) if share < 1.0 else 0.0
            for depth in _DEPTHS:
                for name, value in (("score_threshold", threshold), ("depth_confidence", depth)):
                    message = Parameter(name, value=value).to_parameter_msg()
                    self._answer(self._set(message), f"setting {name}")
                for pixels in pair:
                    features(pixels)
        for message in faults.usual_parameters():
            if message.name in ("score_threshold", "depth_confidence"):
                self._answer(self._set(message), f"setting {message.name}")
        self._ros.destroy_subscription(subscription)
        self._balance("warming up")

    def _level(self) -> None:
        """Bring the node into a state that can be compared: these two sizes, a new epoch."""
        for pixels in (self._images[0][::2, ::2, 0].copy(), self._images[0]):
            self._send(image_message(pixels, self._header()))
            self._balance("levelling")

    # Images

    def _stream(self, seconds: float) -> None:
        """Send good images for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._send(self._good())
            self._watcher.spin(_PERIOD)

    def _good(self) -> ImageMessage:
        return image_message(next(self._pixels), self._header())

    def _header(self) -> Header:
        self._stamp += int(_PERIOD * 1e9)
        sec, nanosec = divmod(self._stamp, 10**9)
        return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id="camera")

    def _send(self, message: ImageMessage, kind: str = "good") -> None:
        """Publish an image; a node that lags behind is waited for, or the middleware drops some."""
        self._wait_for_arrivals(sum(self._sent.values()) - _UNDER_WAY + 1)
        self._camera.publish(message)
        self._sent[kind] += 1

    def _connect(self) -> None:
        """Wait until images arrive, and count from there."""
        self._wait(self._camera.get_subscription_count, "the node does not subscribe to images")
        before = self._fresh_status().frames_received
        deadline = time.monotonic() + _PATIENCE
        while self._fresh_status().frames_received == before:
            if time.monotonic() > deadline:
                raise ProcessError(f"hang: the node, {self._watcher.status.state}, gets no images")
            self._camera.publish(self._good())
            self.frames["sent to connect"] += 1
            self._watcher.spin(0.2)
        self._mark()
        self._base = self._settled_status()
        self._sent.clear()

    def _mark(self) -> None:
        """Wait until all images sent so far have arrived: the last one's error says so."""
        self._marks += 1
        message = self._good()
        message.encoding = f"mark {self._marks}"
        self._camera.publish(message)
        self._sent["bad"] += 1
        error = f"encoding {message.encoding!r}"
        self._wait(lambda: error in self._watcher.status.last_error, "hang: an image is lost")

    # The books

    def _balance(self, after: str, paused: bool = False) -> None:
        """Every image sent is accounted for; those sent while ``paused`` may be ignored."""
        if paused:
            self._mark()
        sent = sum(self._sent.values())
        if not paused:
            self._wait_for_arrivals(sent)
        status, base = self._settled_status(), self._base
        counts = {
            name: getattr(status, f"frames_{name}") - getattr(base, f"frames_{name}")
            for name in ("received", "processed", "dropped", "refused")
        }
        if counts["received"] != sent:
            if paused and counts["received"] < sent:
                self.frames["ignored"] += sent - counts["received"]
            else:
                self._fail(
                    f"silent loss after {after}: {sent} images sent, {counts['received']} "
                    f"received; the node is {status.state}"
                )
        if counts["refused"] > self._sent["bad"] or counts["processed"] > self._sent["good"]:
            self._fail(
                f"after {after}: {self._sent['good']} good and {self._sent['bad']} bad images "
                f"sent, {counts['processed']} processed and {counts['refused']} refused"
            )
        self.frames["sent"] += sent
        self.frames["bad"] += self._sent["bad"]
        self.frames.update(counts)
        self._base = status
        self._sent.clear()

    def _wait_for_arrivals(self, count: int) -> None:
        """Wait until so many images have arrived since the last balance, as long as any do."""
        before = -1

        def arrived() -> int:
            return int(self._watcher.status.frames_received - self._base.frames_received)

        def more() -> bool:
            return arrived() > before

        while before < arrived() < count:
            before = arrived()
            self._wait(more, "", allowed=True)

    def _settled_status(self) -> FrontendStatus:
        """A new status in which no image waits or is in work, and none came since the one before.

        Where that never comes, images are lost within the node, which is said.
        """
        deadline = time.monotonic() + _PATIENCE
        before = self._fresh_status()
        while True:
            status = self._fresh_status()
            ended = status.frames_processed + status.frames_dropped + status.frames_refused
            if ended == status.frames_received == before.frames_received:
                return status
            if time.monotonic() > deadline:
                self._fail(
                    f"silent loss: {status.frames_received} images received, but only {ended} "
                    "processed, dropped or refused"
                )
                return status
            before = status

    def _fresh_status(self) -> FrontendStatus:
        """A status made from now on."""
        now = self._ros.get_clock().now().to_msg()

        def fresh() -> bool:
            stamp = self._watcher.status.header.stamp
            return (stamp.sec, stamp.nanosec) > (now.sec, now.nanosec)

        self._wait(fresh, "hang: the node publishes no status")
        return self._watcher.status

    def _wait(self, condition: Callable[[], Any], failure: str, allowed: bool = False) -> None:
        """Wait for what has to come. ``allowed``: that it does not is for the caller to judge."""
        try:
            self._watcher.wait(lambda: bool(condition()), _PATIENCE, failure, self._node)
        except ProcessError:
            self._node.check()  # a dead node is never allowed
            if not allowed:
                raise

    def _fail(self, sentence: str) -> None:
        self.failures.append(sentence)

    # Faults

    def _corrupt_images(self) -> None:
        for _ in range(self._rng.randrange(5, 15)):
            name, message = faults.corrupt(self._rng, self._good())
            self.injected[f"  {name}"] += 1
            self._send(message, "bad")
            if self._rng.random() < 0.3:
                self.injected["  no message"] += 1
                self._camera.publish(faults.cut(self._rng, message))  # ends in the middleware
            self._watcher.spin(self._rng.choice((0.0, 0.02, 0.1)))
            if self._rng.random() < 0.5:
                self._send(self._good())

    def _encodings_and_sizes(self) -> None:
        for _ in range(self._rng.randrange(3, 6)):
            self.injected["  images of another encoding or size"] += 1
            message = faults.varied(self._rng, next(self._pixels), self._header())
            for _ in range(2):
                self._send(message)
                self._watcher.spin(0.1)

    def _stamp_jumps(self) -> None:
        for jump in self._rng.sample(("back", "forward", "zero", "equal"), 3):
            message = self._good()
            if jump == "back":
                message.header.stamp.sec -= 100
            elif jump == "forward":
                message.header.stamp.sec += 10_000_000
            elif jump == "zero":
                message.header.stamp = Time()
            self._send(message)
            if jump == "equal":
                self._send(message)
            self._stream(0.1)

    def _subscribers(self) -> None:
        topics = (
            ("features", FeatureFrame), ("matches", FeatureMatches), ("keyframes", Keyframe),
            ("tracks/image", ImageMessage), ("status", FrontendStatus),
        )  # fmt: skip
        for _ in range(2):
            subscriptions = [
                self._ros.create_subscription(
                    kind, f"{FRONTEND}/{topic}", lambda _: None,
                    self._rng.choice((_RELIABLE, _BEST_EFFORT)),
                )
                for topic, kind in self._rng.choices(topics, k=6)
            ]  # fmt: skip
            self._stream(self._rng.uniform(0.3, 0.8))
            for subscription in subscriptions:
                self._ros.destroy_subscription(subscription)
            self._stream(0.1)

    def _calibration_and_masks(self) -> None:
        height, width = self._images[0].shape[:2]
        for _ in range(6):
            info = faults.corrupt_info(self._rng, width, height)
            mask = faults.corrupt_mask(self._rng, width, height)
            bent = self._rng.random() < 0.3
            self._infos.publish(faults.cut(self._rng, info) if bent else info)
            self._masks.publish(faults.cut(self._rng, mask) if bent else mask)
            self._stream(0.1)
        self._infos.publish(faults.camera_info(width, height))
        whole = self._images[0][..., 0] * 0 + 255
        self._masks.publish(image_message(whole, Header()))

    def _parameters(self) -> None:
        asked: list[tuple[ParameterMessage, bool, Future]] = []
        for _ in range(20):
            good = self._rng.random() < 0.5
            make = faults.good_parameter if good else faults.bad_parameter
            message = make(self._rng)
            asked.append((message, good, self._set(message)))
        client = self._clients["set_parameters"]
        client.remove_pending_request(self._set(faults.unreadable_parameter()))
        self._stream(0.3)
        asked += [(message, True, self._set(message)) for message in faults.usual_parameters()]
        asked.append((message := _status_period(), True, self._set(message)))
        for message, good, future in asked:
            for result in self._answer(future, f"setting {message.name}").results:
                if result.successful != good:
                    self._fail(
                        f"parameter {message.name}: {message.value} was "
                        f"{'refused: ' + result.reason if good else 'accepted'}"
                    )
                elif not good and not result.reason:
                    self._fail(f"parameter {message.name} was refused without a reason")

    def _services(self) -> None:
        self._balance("streaming")
        names = self._rng.choices(("reset", "pause", "resume", "relocalize"), k=12)
        asked = []
        for name in names:
            asked.append((name, self._call(name)))
            if self._rng.random() < 0.5:
                self._send(self._good())
                self._watcher.spin(0.05)
        for name, future in asked:
            answer = self._answer(future, f"~/{name}")
            if not answer.success and name != "relocalize":
                self._fail(f"~/{name} of an active node failed: {answer.message}")
        # Each service has a queue of its own: only now has no pause been left behind.
        self._answer(self._call("resume"), "~/resume")
        self._balance("services", paused="pause" in names)

    def _camera_loss(self) -> None:
        self._stream(0.2)
        self._balance("streaming")
        self._ros.destroy_publisher(self._camera)
        self._watcher.spin(self._rng.uniform(0.5, 2.0))
        self._camera = self._ros.create_publisher(ImageMessage, "image", _RELIABLE)
        self._connect()

    def _lifecycle(self) -> None:
        self._stream(0.2)
        self._balance("streaming")
        self._transition("cleanup", possible=False)
        if self._rng.random() < 0.7:
            self._stream(0.2)  # in the middle of work; who is not listened to is not counted
        self._transition("deactivate")
        if self._rng.random() < 0.3:
            self._transition("activate")
            self._transition("deactivate")
        self._transition("cleanup")
        self._watcher.spin(0.2)
        self.resting.append(vitals_of(self._process, time.monotonic()))
        self._transition("configure")
        self._transition("activate")
        self._connect()

    def _transition(self, label: str, possible: bool = True) -> None:
        request = ChangeState.Request()
        request.transition.label = label
        future = self._clients["change_state"].call_async(request)
        if self._answer(future, f"the transition {label}").success != possible:
            self._fail(f"the transition {label} {'failed' if possible else 'was possible'}")

    def _call(self, name: str) -> Future:
        client = self._clients[name]
        future: Future = client.call_async(client.srv_type.Request())
        return future

    def _set(self, message: ParameterMessage) -> Future:
        request = SetParameters.Request(parameters=[message])
        future: Future = self._clients["set_parameters"].call_async(request)
        return future

    def _answer(self, future: Future, what: str) -> Any:
        self._wait(future.done, f"hang: no answer to {what}")
        return future.result()


def _status_period() -> ParameterMessage:
    messages = (m for m in faults.usual_parameters() if m.name == "status_period")
    message = next(messages)
    message.value.double_value = float(PARAMETERS["status_period"])
    return message
