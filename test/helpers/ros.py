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

"""Real nodes in real processes, and a probe in the test's own process that talks to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import rclpy
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_srvs.srv import Trigger

from aliked_msgs.msg import FeatureFrame, FeatureMatches, FrontendStatus
from aliked_ros.ros.processes import free_domain
from aliked_ros.system.transport import profile_variable
from helpers import ROOT

RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
# Loading networks compiles them, and other tests may have the cores.
START_TIMEOUT = 300.0
# For what takes a moment; only a test that fails waits this long.
PATIENCE = 120.0
DOMAIN = free_domain()


def environment(**changes: str) -> dict[str, str]:
    """The environment of a node under test: a domain of its own, field checks on."""
    profile = ROOT / "config" / "fastdds_large_messages.xml"
    return os.environ | {
        "ROS_DOMAIN_ID": str(DOMAIN),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_PYTHON_CHECK_FIELDS": "1",
        profile_variable(): str(profile),
    } | changes  # fmt: skip


_FORKING = """
import json, os, sys
from importlib import import_module

main = import_module(sys.argv[1]).main
for arguments in json.loads(sys.argv[2]):
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.dup2(writer, 1), os.dup2(writer, 2), os.close(reader), os.close(writer)
        sys.exit(main(["--ros-args", *arguments]))
    os.close(writer)
    with open(reader, errors="replace") as output:
        said = output.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, said]), flush=True)
"""


def refusals(module: str, cases: list[list[str]]) -> list[str]:
    """What a node says of each of these parameters, all of which must end it with status 1.

    Each has a process of its own, forked from one that has imported the node's module.
    """
    arguments = [[word for parameter in case for word in ("-p", parameter)] for case in cases]
    done = subprocess.run(
        [sys.executable, "-c", _FORKING, module, json.dumps(arguments)],
        capture_output=True, text=True, env=environment(), timeout=START_TIMEOUT, check=True,
    )  # fmt: skip
    said = []
    for case, line in zip(cases, done.stdout.splitlines(), strict=True):
        status, text = json.loads(line)
        assert status == 1, (case, status, text)
        assert "Traceback" not in text
        said.append(text)
    return said


class RosProcess:
    """A node in a process of its own; its output is in ``log``."""

    def __init__(self, module: str, log: Path, *arguments: str, **env: str) -> None:
        self.log = log
        command = [sys.executable, "-m", module, "--ros-args", *arguments]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(**env),
                start_new_session=True,
            )

    def stop(self, number: int = signal.SIGINT, timeout: float = 60.0) -> int:
        """Send a signal and wait; the exit status."""
        self.process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout: float) -> int:
        try:
            return self.process.wait(timeout)
        finally:
            self.process.kill()
            self.process.wait()

    def alive(self) -> bool:
        return self.process.poll() is None

    def thread_count(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def text(self) -> str:
        return self.log.read_text(errors="replace")


class Probe:
    """Camera, subscriber and service client of the tests."""

    def __init__(self, frontend: str = "aliked_frontend") -> None:
        self.frontend = frontend
        self.context = Context()
        with patch.dict(os.environ, environment()):  # the middleware reads it
            rclpy.init(context=self.context, domain_id=DOMAIN)
            self.node = rclpy.create_node("probe", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.received: dict[str, list[Any]] = defaultdict(list)
        self.times: dict[str, list[float]] = defaultdict(list)
        self.listen(FeatureFrame, f"{frontend}/features")
        self.listen(FeatureMatches, f"{frontend}/matches")
        self.listen(FrontendStatus, f"{frontend}/status")
        self.images = self.node.create_publisher(ImageMessage, "image", RELIABLE)
        self.compressed = self.node.create_publisher(CompressedImage, "image/compressed", RELIABLE)

    def listen(self, kind: type, topic: str, qos: QoSProfile = RELIABLE) -> Any:
        name = topic.removeprefix(f"{self.frontend}/")

        def keep(message: Any) -> None:
            self.times[name].append(time.time())
            self.received[name].append(message)

        return self.node.create_subscription(kind, topic, keep, qos)

    @property
    def features(self) -> list[FeatureFrame]:
        return self.received["features"]

    @property
    def matches(self) -> list[FeatureMatches]:
        return self.received["matches"]

    @property
    def status(self) -> FrontendStatus:
        return self.received["status"][-1] if self.received["status"] else FrontendStatus()

    def spin(self, duration: float) -> None:
        deadline = time.monotonic() + duration
        while time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.02)

    def wait(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Spin until a condition holds; fails the test when it never does."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            assert time.monotonic() < deadline, (
                f"waited {timeout} s in vain; last status: {self.status}"
            )
            self.executor.spin_once(timeout_sec=0.02)
        return value

    def wait_for_state(self, state: str, timeout: float = START_TIMEOUT) -> FrontendStatus:
        """Wait for the next status of this state."""
        self.received["status"].clear()
        self.wait(lambda: self.status.state == state, timeout)
        return self.status

    def wait_connected(self, compressed: bool = False) -> None:
        """Wait until images sent now arrive and what they cause comes back."""
        publisher = self.compressed if compressed else self.images
        self.wait(
            lambda: (
                publisher.get_subscription_count()
                and self.node.count_publishers(f"/{self.frontend}/features")
            )
        )
        self.wait_discovered(self.frontend)

    def wait_discovered(self, node: str) -> None:
        """Wait until a node knows the publishers and subscriptions that the probe has by now.

        They are announced in order: who answers a new client has heard of those before it.
        """
        self.call(GetParameters, f"{node}/get_parameters")

    def wait_arrived(self, *publishers: Publisher) -> None:
        """Wait until reliable subscribers have what was published."""
        for publisher in publishers:
            assert publisher.wait_for_all_acked(Duration(seconds=PATIENCE)), publisher.topic_name

    def send(self, message: ImageMessage | CompressedImage) -> FeatureFrame:
        """Publish an image and wait for the features of just this one."""
        publisher = self.images if isinstance(message, ImageMessage) else self.compressed
        publisher.publish(message)

        def answered() -> FeatureFrame | None:
            stamp = message.header.stamp
            return next((f for f in reversed(self.features) if f.header.stamp == stamp), None)

        return self.wait(answered)

    def call(self, kind: type, name: str, request: Any = None, timeout: float = PATIENCE) -> Any:
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(PATIENCE), f"no service {name}"
        future = client.call_async(kind.Request() if request is None else request)
        self.executor.spin_until_future_complete(future, timeout)
        assert future.done(), f"service {name} does not answer"
        self.node.destroy_client(client)
        return future.result()

    def trigger(self, name: str) -> Trigger.Response:
        return self.call(Trigger, f"{self.frontend}/{name}")

    def transition(self, label: str) -> bool:
        request = ChangeState.Request()
        request.transition.label = label
        return self.call(
            ChangeState, f"{self.frontend}/change_state", request, START_TIMEOUT
        ).success

    def state(self) -> str:
        return self.call(GetState, f"{self.frontend}/get_state").current_state.label

    def set_parameter(self, name: str, value: Any) -> str:
        """Set one parameter; returns why it was refused, or nothing."""
        message: ParameterMessage = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[message])
        result = self.call(SetParameters, f"{self.frontend}/set_parameters", request).results[0]
        return "" if result.successful else result.reason

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
