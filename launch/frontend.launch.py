"""Start the front-end on a camera.

ros2 launch aliked_ros frontend.launch.py image:=/camera/image_raw
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription

SHARE = FindPackageShare("aliked_ros")
LARGE_MESSAGES = PathJoinSubstitution([SHARE, "config", "fastdds_large_messages.xml"])
# Fast DDS's name for it until Jazzy, and from Kilted on.
PROFILES_FILE = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def frontend(context: LaunchContext) -> list[Node]:
    """The node; an argument that was not given leaves the parameter file's value."""
    image = LaunchConfiguration("image")
    transport = LaunchConfiguration("image_transport").perform(context)
    return [
        Node(
            package="aliked_ros",
            executable="frontend_node",
            name="aliked_frontend",
            namespace=LaunchConfiguration("namespace"),
            parameters=[
                LaunchConfiguration("params_file"),
                *([{"image_transport": transport}] if transport else []),
            ],
            remappings=[
                ("image", image),
                ("image/compressed", [image, "/compressed"]),
                ("camera_info", LaunchConfiguration("camera_info")),
            ],
            arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """One node, its topics remapped, its parameters from a profile or a file."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("image", default_value="image", description="Camera image topic"),
            DeclareLaunchArgument(
                "camera_info", default_value="camera_info", description="Its CameraInfo topic"
            ),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace"),
            DeclareLaunchArgument(
                "profile",
                default_value="cpu",
                choices=["cpu", "desktop", "robot"],
                description="Parameters: config/PROFILE.yaml",
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=[
                    PathJoinSubstitution([SHARE, "config", LaunchConfiguration("profile")]),
                    ".yaml",
                ],
                description="Parameter file instead of a profile",
            ),
            DeclareLaunchArgument(
                "image_transport",
                default_value="",
                choices=["", "raw", "compressed"],
                description="'compressed' subscribes to IMAGE/compressed; "
                "empty: as the parameter file says",
            ),
            DeclareLaunchArgument("log_level", default_value="info", description="Log level"),
            DeclareLaunchArgument(
                "large_messages",
                default_value="true",
                description="Give Fast DDS a shared memory segment for large messages, "
                "unless the environment names a profile of its own",
            ),
            DeclareLaunchArgument("rviz", default_value="false", description="Start rviz, too"),
            *(
                SetEnvironmentVariable(
                    name,
                    EnvironmentVariable(name, default_value=LARGE_MESSAGES),
                    condition=IfCondition(LaunchConfiguration("large_messages")),
                )
                for name in PROFILES_FILE
            ),
            OpaqueFunction(function=frontend),
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", PathJoinSubstitution([SHARE, "rviz", "frontend.rviz"])],
                remappings=[
                    (
                        "/aliked_frontend/tracks/image",
                        [LaunchConfiguration("namespace"), "/aliked_frontend/tracks/image"],
                    )
                ],
                condition=IfCondition(LaunchConfiguration("rviz")),
            ),
        ]
    )
