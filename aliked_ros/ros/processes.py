"""Nodes as child processes in a ROS domain of their own: for demo, soak test and benchmark."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aliked_ros.errors import AlikedError
from aliked_ros.share import share_path

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


def join_private_domain() -> int:
    """Set up this process and its children for a domain of this machine that nobody else uses."""
    domain = random.randrange(1, 102)  # those whose ports are free on every Linux
    profile = str(share_path("config/fastdds_large_messages.xml"))
    os.environ.update(
        ROS_DOMAIN_ID=str(domain),
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
        FASTRTPS_DEFAULT_PROFILES_FILE=profile,
        FASTDDS_DEFAULT_PROFILES_FILE=profile,
    )
    return domain


@contextmanager
def children() -> Iterator[Callable[..., Child]]:
    """A function that starts children; all are stopped, latest first, when the block ends.

    Raises ProcessError when one of them did not end well after a block that did.
    """
    started: list[Child] = []

    def start(*arguments: Any) -> Child:
        started.append(Child(*arguments))
        return started[-1]

    try:
        yield start
    finally:
        for child in reversed(started):
            child.stop()
    for child in started:
        child.ended()
