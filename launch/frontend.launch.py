"""Start the front-end on a camera.

ros2 launch aliked_ros frontend.launch.py image:=/camera/image_raw
"""

from aliked_ros.ros.launching import frontend
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """The front-end, its topics remapped, its parameters from a profile or a file."""
    return LaunchDescription(frontend())
