"""Start the front-ends of several cameras in one process, which loads the networks once.

ros2 launch aliked_ros cameras.launch.py cameras:=front,left image:=image_raw
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription

SHARE = FindPackageShare("aliked_ros")
LARGE_MESSAGES = PathJoinSubstitution([SHARE, "launch", "large_messages.launch.py"])


def nodes(context: LaunchContext) -> list[Node]:
    """The process; it has no name given here, since that would be the name of all in it."""

    def given(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    image = LaunchConfiguration("image")
    names = [name.strip() for name in given("cameras").split(",") if name.strip()]
    parameters = {"cameras": names} if names else {}
    if given("use_sim_time") == "true":
        parameters["use_sim_time"] = True
    return [
        Node(
            package="aliked_ros",
            executable="cameras_node",
            namespace=LaunchConfiguration("namespace"),
            parameters=[LaunchConfiguration("params_file"), *([parameters] if parameters else [])],
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
    """One process; what differs between the cameras is in the parameter file."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "cameras",
                default_value="",
                description="Names of the cameras, as in front,left; each is the namespace of its "
                "front-end; empty: as the parameter file says",
            ),
            DeclareLaunchArgument(
                "image",
                default_value="image",
                description="Camera image topic in each camera's namespace",
            ),
            DeclareLaunchArgument(
                "camera_info",
                default_value="camera_info",
                description="CameraInfo topic in each camera's namespace",
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="Namespace of all cameras"
            ),
            DeclareLaunchArgument(
                "profile",
                default_value="cpu",
                choices=["cpu", "desktop", "robot"],
                description="Parameters of all cameras: config/PROFILE.yaml of this package",
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=[
                    PathJoinSubstitution([SHARE, "config", LaunchConfiguration("profile")]),
                    ".yaml",
                ],
                description="Your own parameter file, instead of a profile, such as "
                "config/cameras.yaml of this package",
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="false",
                choices=["true", "false"],
                description="Take the time from /clock: simulation, or a recording that plays it",
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=["debug", "info", "warn", "error", "fatal"],
                description="Least severity that is logged",
            ),
            IncludeLaunchDescription(LARGE_MESSAGES),
            OpaqueFunction(function=nodes),
        ]
    )
