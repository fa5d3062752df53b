"""The nodes' common end: a signal that comes at any moment."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rclpy.context import Context
from ros_helpers import environment

from aliked_ros.ros.running import shut_down

pytestmark = pytest.mark.ros

# What rclpy's signal thread does, at the worst moment: the wake-up has come and gone, the executor
# sleeps again, and then the context is shut down.
SLEEPER = """
import threading, sys
from rclpy.node import Node
from aliked_ros.ros import running

class Sleeper(Node):
    def run(self, executor):
        threading.Timer(1.0, self.context.handle.shutdown).start()
        executor.spin()
    def close(self):
        print("closed")

sys.exit(running.run(lambda: Sleeper("sleeper")))
"""


def test_a_node_without_timers_sees_a_shutdown_that_did_not_wake_it():
    ended = subprocess.run(
        [sys.executable, "-c", SLEEPER],
        env=environment(), capture_output=True, text=True, timeout=20.0, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "closed\n"), ended.stderr


class Signalled(Context):
    """A context that a signal shuts down just after we saw that it was not."""

    def try_shutdown(self) -> None:
        if self.ok():
            self.handle.shutdown()  # the signal's
            self.handle.shutdown()  # ours, which rcl refuses


def test_a_shutdown_that_a_signal_began_is_none_that_failed():
    context = Signalled()
    context.init()
    with pytest.raises(RuntimeError, match="shutdown"):
        Signalled.try_shutdown(context)
    context = Signalled()
    context.init()
    shut_down(context)
    assert not context.ok()
