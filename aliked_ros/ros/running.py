"""The common ``main`` of the nodes: start, spin until asked to stop, leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node

from aliked_ros.errors import AlikedError

_LOOK_PERIOD = 0.5  # seconds


class Runnable(Protocol):
    """What :func:`run` needs of a node."""

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Work until done, or until interrupted by an exception of the executor."""
        ...

    def close(self) -> None:
        """End threads and files; called once, also after a failure."""
        ...


def run(make: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Run one node to its end; returns the process's exit status.

    0 after a regular end, SIGINT or SIGTERM; 1 after an AlikedError or arguments that ROS cannot
    read, with one line that says so.
    """
    try:
        rclpy.init(args=args)
    except RuntimeError as error:  # RCLError: arguments or a parameter file it cannot read
        return _fail(error)
    node = None
    try:
        node = make()
        # rclpy wakes the executor before it shuts the context down: one that looked in between
        # sleeps on, and a node without a timer would do so for ever.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(_LOOK_PERIOD, lambda: None, clock=steady)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            node.run(executor)
        finally:
            node.close()
            executor.shutdown()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except AlikedError as error:
        return _fail(error)
    except RuntimeError:  # RCLError: a signal shut the context down in the middle of something
        if rclpy.ok():
            raise
    finally:
        if node is not None:
            node.destroy_node()
        shut_down()
    return 0


def shut_down(context: Context | None = None) -> None:
    """Shut a context down (None: the default one), which a signal may do at the same moment."""
    try:
        rclpy.try_shutdown(context=context)
    except RuntimeError:  # RCLError: the signal was first
        rclpy.try_shutdown(context=context)


def _fail(error: Exception) -> int:
    # Not a node's logger: its topic is gone when the context is shut down.
    get_logger("aliked_ros").fatal(str(error))
    return 1
