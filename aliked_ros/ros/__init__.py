"""Everything that imports rclpy: nodes, message conversions, parameters. Holds no vision."""

from aliked_ros.middleware import MiddlewareError, require_middleware

try:
    require_middleware()
except MiddlewareError as error:  # rclpy's import would end the process, too, with no remedy
    raise SystemExit(f"error: {error}") from None
