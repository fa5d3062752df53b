"""Everything that imports rclpy: nodes, message conversions, parameters. Holds no vision."""
