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

"""The common ``main`` of the nodes: start, spin until asked to stop, leave nothing behind."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.utilities import remove_ros_args

from aliked_ros.errors import AlikedError
from aliked_ros.ros.declarations import Declaration
from aliked_ros.system.packages import missing

_LOOK_PERIOD = 0.5  # seconds
_PATIENCE = 1.5  # seconds; with what ends regularly after it, 3 at most


class Runnable(Protocol):
    """A ``Node`` for :func:`run`."""

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Work until done, or until interrupted by an exception of the executor."""
        ...

    def close(self) -> None:
        """End threads and files; called once, also after a failure."""
        ...


def run(
    make: Callable[[], Runnable],
    args: Sequence[str] | None = None,
    declarations: Sequence[Declaration] = (),
    name: str = "aliked_ros",
    patience: float | None = _PATIENCE,
) -> int:
    """Run one node to its end; returns the process's exit status.

    0 after a regular end, SIGINT or SIGTERM; 1 after an AlikedError or arguments that ROS cannot
    read, with one line that says so.

    declarations: the node's parameters, for ``--help``. name: the node's, for what is logged before
    it exists. patience: seconds after a signal in which the node may end what it does, a long load,
    say; None: as long as it takes.
    """
    given = sys.argv[1:] if args is None else list(args)
    if {"-h", "--help"} & set(given):
        print(usage(make, declarations))
        return 0
    # rclpy's handler alone: KeyboardInterrupt would come in the middle of anything, such as a
    # compilation whose lock another thread then waits for. Before and after it we just end or, with
    # all the patience, go on: a second Ctrl-C must not cut off what is being written.
    signal.signal(signal.SIGINT, signal.SIG_IGN if patience is None else signal.SIG_DFL)
    try:
        stray = remove_ros_args(args=given)
        rclpy.init(args=None if args is None else list(args))
    except RuntimeError as error:  # RCLError: arguments or a parameter file it cannot read
        return _fail(name, error)
    if stray:
        shut_down()
        return _fail(
            name,
            f"The argument {stray[0]!r} is not one of ROS's; give parameters as --ros-args -p "
            "NAME:=VALUE (--help lists them).",
        )
    if patience is not None:
        threading.Thread(target=_end_in_time, args=(patience,), daemon=True).start()
    node: Node | None = None
    try:
        runnable = make()
        assert isinstance(runnable, Node)
        node = runnable
        # rclpy wakes the executor before it shuts the context down: one that looked in between
        # sleeps on, and a node without a timer would do so for ever.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(_LOOK_PERIOD, lambda: None, clock=steady)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            runnable.run(executor)
        finally:
            runnable.close()
            executor.shutdown()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except AlikedError as error:
        return _fail(name if node is None else node.get_logger().name, error)
    except ImportError as error:
        return _fail(name, missing(error))
    except InvalidParameterTypeException as error:  # of rclpy's own; ours are checked
        return _fail(name, f"{error}. Give true or false, without quotes.")
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


def usage(make: Callable[[], Runnable], declarations: Sequence[Declaration]) -> str:
    """What ``--help`` prints."""
    about = (inspect.getdoc(make) or "").replace("``", "")
    options = "[-p PARAMETER:=VALUE] [-r FROM:=TO] [--params-file FILE]"
    lines = [
        f"usage: ros2 run aliked_ros {Path(sys.argv[0]).stem} [--ros-args {options}]",
        "",
        about,
    ]
    if declarations:
        lines += ["", "parameters:"]
    for item in declarations:
        default = str(item.default).lower() if isinstance(item.default, bool) else item.default
        values = f", {item.constraint}" if item.constraint else ""
        lines += [f"  {item.name} (default: {default!s}{values})", f"      {item.help}"]
    return "\n".join(lines)


class ToNode(logging.Handler):
    """Hands what the core says by Python's logging to a node's log, and so to /rosout."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._log = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        log = self._log.warning if record.levelno >= logging.WARNING else self._log.info
        log(record.getMessage())


def _end_in_time(patience: float) -> None:
    """End the process when it is still busy too long after the context was shut down."""
    while rclpy.ok():
        time.sleep(_LOOK_PERIOD / 5.0)
    time.sleep(patience)
    print(f"Ended while busy, {patience:g} s after it was asked to.", file=sys.stderr, flush=True)
    os._exit(0)


def _fail(name: str, problem: Exception | str) -> int:
    # Not a node's logger: its topic is gone when the context is shut down.
    get_logger(name).fatal(str(problem))
    return 1
