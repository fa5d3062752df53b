"""Show the front-end at work: a virtual camera, or a recording, in a loop.

ros2 launch aliked_ros demo.launch.py
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

DATASET = PathJoinSubstitution([FindPackageShare("aliked_ros"), "launch", "dataset.launch.py"])


def generate_launch_description() -> LaunchDescription:
    """dataset.launch.py with other defaults."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "source",
                default_value="virtual",
                description="Folder, data set (TUM, KITTI, EuRoC), bag or video; 'camera:0', "
                "or 'virtual'",
            ),
            DeclareLaunchArgument(
                "loop",
                default_value="true",
                choices=["true", "false"],
                description="Start again after the last image",
            ),
            DeclareLaunchArgument(
                "rviz",
                default_value="true",
                choices=["true", "false"],
                description="Show the tracks in rviz; 'false' on a machine without it",
            ),
            IncludeLaunchDescription(
                DATASET, launch_arguments={"source": LaunchConfiguration("source")}.items()
            ),
        ]
    )
