"""The entry points of all programs. Imports nothing that takes long, or that may be missing."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from aliked_ros.packages import missing


def end_quietly_on_interrupt() -> None:
    """Let Ctrl-C end the process, with nothing to clean up yet: not a traceback of an import."""
    signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(0))


def _program(module: str, function: str = "main") -> Callable[[], Any]:
    """An entry point: imports the program's module, and calls a function of it."""

    def run() -> Any:
        before = signal.getsignal(signal.SIGINT)
        end_quietly_on_interrupt()
        try:
            start = getattr(import_module(module), function)
        except ImportError as error:
            print(f"error: {missing(error)}", file=sys.stderr)
            return 1
        signal.signal(signal.SIGINT, before)
        return start()

    return run


aliked_ros = _program("aliked_ros.cli")
build_engine = _program("aliked_ros.cli", "build_engine")
frontend_node = _program("aliked_ros.ros.frontend_node")
cameras_node = _program("aliked_ros.ros.cameras_node")
dataset_player = _program("aliked_ros.ros.player")
odometry_node = _program("aliked_ros.ros.odometry_node")
recorder = _program("aliked_ros.ros.recorder")
demo = _program("aliked_ros.ros.demo")
soak = _program("aliked_ros.ros.soak")
