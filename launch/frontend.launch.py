"""Start the front-end on a camera.

ros2 launch aliked_ros frontend.launch.py image:=/camera/image_raw
ros2 launch aliked_ros frontend.launch.py input:=rgbd image:=/color/image depth_image:=/depth/image
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
    image, right_image = LaunchConfiguration("image"), LaunchConfiguration("right_image")
    given = {
        name: value
        for name in ("input", "image_transport")
        if (value := LaunchConfiguration(name).perform(context))
    }
    return [
        Node(
            package="aliked_ros",
            executable="frontend_node",
            name="aliked_frontend",
            namespace=LaunchConfiguration("namespace"),
            parameters=[
                LaunchConfiguration("params_file"),
                *([given] if given else []),
            ],
            remappings=[
                ("image", image),
                ("image/compressed", [image, "/compressed"]),
                ("camera_info", LaunchConfiguration("camera_info")),
                ("right/image", right_image),
                ("right/image/compressed", [right_image, "/compressed"]),
                ("right/camera_info", LaunchConfiguration("right_camera_info")),
                ("depth/image", LaunchConfiguration("depth_image")),
                ("mask", LaunchConfiguration("mask")),
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
            DeclareLaunchArgument(
                "input",
                default_value="",
                choices=["", "mono", "stereo", "rgbd"],
                description="What is paired with the images; empty: as the parameter file says",
            ),
            DeclareLaunchArgument(
                "right_image", default_value="right/image", description="Right image topic, stereo"
            ),
            DeclareLaunchArgument(
                "right_camera_info",
                default_value="right/camera_info",
                description="Its CameraInfo topic",
            ),
            DeclareLaunchArgument(
                "depth_image",
                default_value="depth/image",
                description="Depth image topic, registered to the images, RGB-D",
            ),
            DeclareLaunchArgument(
                "mask", default_value="mask", description="Mask topic, mono8, 0 = ignore"
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
