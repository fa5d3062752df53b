"""The middleware that ``RMW_IMPLEMENTATION`` names, checked before rclpy is imported.

Where it is not installed, rclpy's import ends the whole process with status 102.
"""

from __future__ import annotations

import ctypes
import os
from importlib.util import find_spec

from aliked_ros.errors import AlikedError

_VARIABLE = "RMW_IMPLEMENTATION"


class MiddlewareError(AlikedError):
    """ROS's middleware cannot be loaded; the text is problem and remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}.")
        self.problem = problem
        self.remedy = remedy


def require_middleware() -> None:
    """Raise MiddlewareError when ROS is here, but not the middleware that its variable names."""
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
