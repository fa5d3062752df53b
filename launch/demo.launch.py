"""Start the front-end on a recorded sequence (or a virtual camera) instead of a camera.

ros2 launch aliked_ros demo.launch.py source:=/path/to/sequence rviz:=true
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """The player in a loop, and frontend.launch.py with all its arguments."""
    frontend = PathJoinSubstitution(
        [FindPackageShare("aliked_ros"), "launch", "frontend.launch.py"]
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "source",
                default_value="virtual",
                description="Folder, folder with a frames.csv, video, 'camera:N' or 'virtual'",
            ),
            DeclareLaunchArgument(
                "rate", default_value="0.0", description="Images per second; 0 = the source's own"
            ),
            IncludeLaunchDescription(frontend),
            Node(
                package="aliked_ros",
                executable="dataset_player",
                parameters=[
                    {
                        "source": ParameterValue(LaunchConfiguration("source"), value_type=str),
                        "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
                        "loop": True,
                    }
                ],
                output="screen",
            ),
        ]
    )
