"""Start the front-end on a camera.

ros2 launch aliked_ros frontend.launch.py image:=/camera/image_raw
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription

SHARE = FindPackageShare("aliked_ros")
LARGE_MESSAGES = PathJoinSubstitution([SHARE, "launch", "large_messages.launch.py"])
SWITCH = ["true", "false"]
# What rviz shows, as in rviz/*.rviz; a namespace changes their names.
SHOWN = (
    "/aliked_frontend/tracks/image",
    "/aliked_frontend/tracks/markers",
    "/odometry/keyframes",
    "/odometry/map",
    "/odometry/odometry",
    "/odometry/path",
)


def nodes(context: LaunchContext) -> list[Node]:
    """The nodes; an argument that was not given leaves the parameter file's value."""

    def given(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    image, right_image = LaunchConfiguration("image"), LaunchConfiguration("right_image")
    parameters = {name: given(name) for name in ("input", "sync", "image_transport") if given(name)}
    if given("autostart"):
        parameters["autostart"] = given("autostart") == "true"
    time = [{"use_sim_time": True}] if given("use_sim_time") == "true" else []
    log_level = ["--ros-args", "--log-level", LaunchConfiguration("log_level")]
    frontend = Node(
        package="aliked_ros",
        executable="frontend_node",
        name="aliked_frontend",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            *([parameters] if parameters else []),
            *time,
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
        arguments=log_level,
        output="screen",
    )
    odometry = Node(
        package="aliked_ros",
        executable="odometry_node",
        name="odometry",
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("params_file"), *time],
        arguments=log_level,
        output="screen",
        condition=IfCondition(LaunchConfiguration("odometry")),
    )
    view = "odometry.rviz" if given("odometry") == "true" else "frontend.rviz"
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        parameters=time,
        arguments=["-d", PathJoinSubstitution([SHARE, "rviz", view])],
        remappings=[(topic, [LaunchConfiguration("namespace"), topic]) for topic in SHOWN],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    return [frontend, odometry, rviz]


def generate_launch_description() -> LaunchDescription:
    """The front-end, its topics remapped, its parameters from a profile or a file."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("image", default_value="image", description="Camera image topic"),
            DeclareLaunchArgument(
                "camera_info", default_value="camera_info", description="Its CameraInfo topic"
            ),
            DeclareLaunchArgument(
                "mask",
                default_value="mask",
                description="Mask topic, mono8: no features where it is 0",
            ),
            DeclareLaunchArgument(
                "input",
                default_value="",
                choices=["", "mono", "stereo", "rgbd"],
                description="What is paired with the images; empty: as the parameter file says",
            ),
            DeclareLaunchArgument(
                "right_image",
                default_value="right/image",
                description="With input stereo: right image topic, both rectified",
            ),
            DeclareLaunchArgument(
                "right_camera_info",
                default_value="right/camera_info",
                description="With input stereo: CameraInfo topic of the right camera",
            ),
            DeclareLaunchArgument(
                "depth_image",
                default_value="depth/image",
                description="With input rgbd: depth image topic, registered to the images",
            ),
            DeclareLaunchArgument(
                "sync",
                default_value="",
                choices=["", "exact", "approximate"],
                description="With input stereo or rgbd: pair equal stamps, or near ones; "
                "empty: as the parameter file says",
            ),
            DeclareLaunchArgument(
                "image_transport",
                default_value="",
                choices=["", "raw", "compressed"],
                description="'compressed' subscribes to IMAGE/compressed; "
                "empty: as the parameter file says",
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="Namespace of all nodes"
            ),
            DeclareLaunchArgument(
                "profile",
                default_value="cpu",
                choices=["cpu", "desktop", "robot"],
                description="Parameters: config/PROFILE.yaml of this package",
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=[
                    PathJoinSubstitution([SHARE, "config", LaunchConfiguration("profile")]),
                    ".yaml",
                ],
                description="Your own parameter file, instead of a profile",
            ),
            DeclareLaunchArgument(
                "autostart",
                default_value="",
                choices=["", *SWITCH],
                description="Configure and activate at start; 'false' leaves it to a lifecycle "
                "manager; empty: as the parameter file says",
            ),
            DeclareLaunchArgument(
                "odometry",
                default_value="false",
                choices=SWITCH,
                description="Start the reference back-end, too: visual odometry",
            ),
            DeclareLaunchArgument(
                "rviz",
                default_value="false",
                choices=SWITCH,
                description="Start rviz, too: the tracks, with odometry path and map as well",
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="false",
                choices=SWITCH,
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
