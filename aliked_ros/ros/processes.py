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

"""Nodes as child processes in a ROS domain of their own: for demo, soak test and benchmark."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from aliked_msgs.msg import FrontendStatus
from aliked_ros.errors import AlikedError
from aliked_ros.ros.compatibility import THIS_MACHINE_ONLY
from aliked_ros.system.share import share_path
from aliked_ros.system.transport import profile_variable

FRONTEND = "aliked_frontend"
_FIRST_PORT, _PORTS = 7400, 250  # of a DDS domain
_claims: list[socket.socket] = []
_TERMINATED = 128 + signal.SIGTERM  # a shell's status of a process that SIGTERM ended
_STOP_TIMEOUT = 15.0  # seconds for a process to end after SIGINT


class ProcessError(AlikedError):
    """A child process that failed."""


class Child:
    """A process, its output in a log file."""

    def __init__(
        self,
        name: str,
        module: str,
        parameters: dict[str, str | int | float],
        log: Path,
        parameter_file: Path | None = None,
    ) -> None:
        self.name = name
        self._log = log
        command = [sys.executable, "-m", module, "--ros-args"]
        if parameter_file is not None:
            command += ["--params-file", str(parameter_file)]
        for key, value in parameters.items():
            command += ["-p", f"{key}:={json.dumps(value)}"]  # JSON is a part of YAML
        with log.open("wb") as output:
            # A session of its own: Ctrl-C reaches only us, and we end them in order.
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ended(self) -> bool:
        """Whether it ended regularly. Raises ProcessError with its last words when it failed."""
        status = self._process.poll()
        if status:
            raise ProcessError(f"the {self.name} ended with status {status}: {self._last_words()}")
        return status is not None

    def check(self) -> None:
        """Raise ProcessError when it is not running any more."""
        if self.ended():
            raise ProcessError(f"the {self.name} ended too early: {self._last_words()}")

    def stop(self) -> None:
        """Ask it to end, wait, and kill it when it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = lines[-1] if lines else "it said nothing"
        return f"{said} (all of it: {self._log})"


class Watcher:
    """Follows the front-end's status from a node of this process."""

    def __init__(self, domain: int) -> None:
        self.status = FrontendStatus()
        rclpy.init(domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("watcher")
        self.node.create_subscription(FrontendStatus, f"{FRONTEND}/status", self._keep, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def wait(
        self, condition: Callable[[], bool], timeout: float, failure: str, *needed: Child
    ) -> None:
        """Spin until a condition holds; ProcessError when time runs out or a needed child ends."""
        deadline = time.monotonic() + timeout
        while not condition():
            self._executor.spin_once(timeout_sec=0.1)
            for child in needed:
                child.check()
            if time.monotonic() > deadline:
                raise ProcessError(f"{failure} (waited {timeout:.0f} s).")

    def wait_for_start(self, timeout: float, *needed: Child) -> None:
        """Spin until the front-end is active; ProcessError with the reason when it cannot be."""

        def active() -> bool:
            if self.status.state == "unconfigured" and self.status.last_error:
                raise ProcessError(self.status.last_error)
            return bool(self.status.state == "active")

        self.wait(active, timeout, "the front-end did not become active", *needed)

    def spin(self, seconds: float) -> None:
        """Receive for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left)

    def close(self) -> None:
        """Leave the domain."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()

    def _keep(self, status: FrontendStatus) -> None:
        self.status = status


def free_domain() -> int:
    """A ROS domain without nodes on this machine; the next call here gets another one.

    Raises ProcessError when there is none.
    """
    # DDS: a domain has 250 UDP ports, of which a node takes two or more. Domains to 101: those
    # whose ports are free on every Linux.
    for domain in random.sample(range(1, 102), 101):
        first = _FIRST_PORT + _PORTS * domain
        try:
            with ExitStack() as taken:
                for port in range(first, first + _PORTS):
                    last = taken.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                    last.bind(("", port))
                _claims.append(last.dup())  # for as long as this process lives
        except OSError:
            continue
        return domain
    raise ProcessError("every ROS domain from 1 to 101 has nodes on this machine; end some.")


def join_private_domain() -> int:
    """Set up this process and its children for an unused domain of this machine."""
    domain = free_domain()
    profile = str(share_path("config/fastdds_large_messages.xml"))
    os.environ |= {"ROS_DOMAIN_ID": str(domain), profile_variable(): profile, **THIS_MACHINE_ONLY}
    return domain


@contextmanager
def children() -> Iterator[Callable[..., Child]]:
    """A function that starts children; all are stopped, latest first, when the block ends.

    So they are when this process gets SIGTERM, which ends it with status 143. For the main thread.
    Raises ProcessError when one of them did not end well after a block that did.
    """
    started: list[Child] = []
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(_TERMINATED))

    def start(*arguments: Any) -> Child:
        with _no_interrupt():  # or a child that runs already would not be among them
            started.append(Child(*arguments))
        return started[-1]

    try:
        yield start
    finally:
        for child in reversed(started):
            child.stop()
        signal.signal(signal.SIGTERM, before)
    for child in started:
        child.ended()


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C and SIGTERM count when the block has ended. For the main thread."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
