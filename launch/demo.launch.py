"""Show the front-end at work: a virtual camera, or a recording, in a loop.

ros2 launch aliked_ros demo.launch.py
"""

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, LogInfo
from launch.conditions import UnlessCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

DATASET = PathJoinSubstitution([FindPackageShare("aliked_ros"), "launch", "dataset.launch.py"])


def rviz_is_installed() -> bool:
    """Whether there is an rviz here: most robots and containers have none."""
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        return False
    return True


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
                default_value="true" if rviz_is_installed() else "false",
                choices=["true", "false"],
                description="Show the tracks in rviz; default: where it is installed",
            ),
            LogInfo(
                msg="Without rviz: 'ros2 run aliked_ros aliked_ros view' shows it in a browser",
                condition=UnlessCondition(LaunchConfiguration("rviz")),
            ),
            IncludeLaunchDescription(
                DATASET, launch_arguments={"source": LaunchConfiguration("source")}.items()
            ),
        ]
    )
