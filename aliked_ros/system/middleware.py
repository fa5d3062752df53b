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

"""The middleware that ``RMW_IMPLEMENTATION`` names, checked before rclpy is imported.

If it is not installed, importing rclpy ends the whole process with status 102.
"""

from __future__ import annotations

import ctypes
import os
from importlib.util import find_spec

from aliked_ros.errors import AlikedError

_VARIABLE = "RMW_IMPLEMENTATION"


class MiddlewareError(AlikedError):
    """ROS's middleware cannot be loaded; the text has problem and remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}.")
        self.problem = problem
        self.remedy = remedy


def require_middleware() -> None:
    """Raise MiddlewareError if ROS is installed, but not the middleware its variable names."""
    name = os.environ.get(_VARIABLE)
    if not name or find_spec("rclpy") is None:
        return
    try:
        ctypes.CDLL(f"lib{name}.so")
    except OSError as error:
        raise MiddlewareError(
            f"{_VARIABLE} is {name}, which cannot be loaded ({error})",
            f"unset {_VARIABLE}, or install it: apt install "
            f"ros-$ROS_DISTRO-{name.replace('_', '-')}",
        ) from error
