"""The common ``main`` of the nodes: start, spin until asked to stop, leave nothing behind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from aliked_ros.errors import AlikedError

# Raised for arguments or a parameter file that ROS itself cannot read (RCLError is a RuntimeError).
_BAD_ARGUMENTS = (InvalidParameterTypeException, InvalidParameterValueException, RuntimeError)


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
    read, with one line on standard error.
    """
    program = "aliked_ros"
    try:
        rclpy.init(args=args)
        node = make()
    except (AlikedError, *_BAD_ARGUMENTS) as error:
        print(f"{program}: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    status = 0
    try:
        node.run(executor)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except AlikedError as error:
        node.get_logger().fatal(str(error))
        status = 1
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return status
