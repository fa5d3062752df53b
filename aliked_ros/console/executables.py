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

"""The entry points of all programs. Imports nothing slow or optional."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from aliked_ros.system.packages import missing


def end_quietly_on_interrupt() -> None:
    """Let Ctrl-C end the process silently while nothing needs cleaning up."""
    signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(0))


def _program(module: str, *command: str) -> Callable[[], Any]:
    """An entry point that imports a module and calls its ``main`` with the command."""

    def run() -> Any:
        before = signal.getsignal(signal.SIGINT)
        end_quietly_on_interrupt()
        try:
            start = import_module(module).main
        except ImportError as error:
            print(f"error: {missing(error)}", file=sys.stderr)
            return 1
        signal.signal(signal.SIGINT, before)
        return start(*command)

    return run


aliked_ros = _program("aliked_ros.cli.main")
build_engine = _program("aliked_ros.cli.main", "models", "build")
frontend_node = _program("aliked_ros.ros.frontend_node")
cameras_node = _program("aliked_ros.ros.cameras_node")
rig_node = _program("aliked_ros.ros.rig_node")
dataset_player = _program("aliked_ros.ros.player")
odometry_node = _program("aliked_ros.ros.odometry_node")
recorder = _program("aliked_ros.ros.recorder")
demo = _program("aliked_ros.cli.main", "demo")
soak = _program("aliked_ros.cli.main", "soak")
