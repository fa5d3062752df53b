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

"""What ROS's middleware takes from the environment, checked before rclpy is imported.

If the one that ``RMW_IMPLEMENTATION`` names is not installed, importing rclpy ends the process
with status 102. Fast DDS ends it at a domain for which it has no ports.
"""

from __future__ import annotations

import ctypes
import os
from importlib.util import find_spec

from aliked_ros.errors import AlikedError

_VARIABLE = "RMW_IMPLEMENTATION"
_DOMAIN = "ROS_DOMAIN_ID"
_LAST_DOMAIN = 232  # its ports are the last below 65536


class MiddlewareError(AlikedError):
    """ROS's middleware cannot be loaded; the text has problem and remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}.")
        self.problem = problem
        self.remedy = remedy


def require_middleware() -> None:
    """Raise MiddlewareError if ROS is installed, but cannot start in this environment."""
    if find_spec("rclpy") is None:
        return
    name = os.environ.get(_VARIABLE, "")
    if "zenoh" not in name:
        _require_domain(os.environ.get(_DOMAIN, ""))
    if not name:
        return
    try:
        ctypes.CDLL(f"lib{name}.so")
    except OSError as error:
        raise MiddlewareError(
            f"{_VARIABLE} is {name}, which cannot be loaded ({error})",
            f"unset {_VARIABLE}, or install it: apt install "
            f"ros-$ROS_DISTRO-{name.replace('_', '-')}",
        ) from error


def _require_domain(text: str) -> None:
    """What is no number, ROS names itself."""
    try:
        domain = int(text, 0)
    except ValueError:
        return
    if not 0 <= domain <= _LAST_DOMAIN:
        raise MiddlewareError(
            f"{_DOMAIN} is {text}, DDS has the domains 0 to {_LAST_DOMAIN}",
            "set it to a number from 0 to 101",
        )
