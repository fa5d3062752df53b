"""Everything that imports rclpy: nodes, message conversions, parameters. Holds no vision."""

import sys

from aliked_ros.executables import end_quietly_on_interrupt
from aliked_ros.middleware import MiddlewareError, require_middleware

if sys.argv[:1] == ["-m"]:  # python -m aliked_ros.ros.PROGRAM, whose own module comes next
    end_quietly_on_interrupt()
try:
    require_middleware()
except MiddlewareError as error:  # rclpy's import would end the process, too, with no remedy
    raise SystemExit(f"error: {error}") from None
