# Copyright 2026 aliked_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""What the launch files share: arguments, nodes, and the checks before anything starts.

Runs in the Python of ``ros2 launch``, which may be the system's: it imports nothing that comes from
requirements/robot.txt. An error raised while nodes run would leave them running, so all errors of
the arguments are raised before the first node starts.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from functools import partial
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetLaunchConfiguration,
)
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from rclpy.exceptions import InvalidNamespaceException, InvalidTopicNameException
from rclpy.validate_namespace import validate_namespace
from rclpy.validate_topic_name import validate_topic_name

from aliked_ros.errors import ConfigurationError
from aliked_ros.ros import parameters, transports
from aliked_ros.ros.parameter_file import check_parameter_file
from launch import LaunchContext

SWITCH = ["true", "false", "True", "False"]  # as YAML and as Python write them
_SHARE = FindPackageShare("aliked_ros")
_LARGE_MESSAGES = PathJoinSubstitution([_SHARE, "launch", "large_messages.launch.py"])
_RESPAWN_DELAY = 2.0  # seconds
_TOPICS = ("image", "camera_info", "mask", "right_image", "right_camera_info", "depth_image")
_TRANSPORTS = ("image_transport", "video_messages", "depth_transport")
# What rviz shows, as in rviz/*.rviz; a namespace changes their names.
_SHOWN = (
    "/aliked_frontend/tracks/image",
    "/aliked_frontend/tracks/markers",
    "/odometry/keyframes",
    "/odometry/map",
    "/odometry/odometry",
    "/odometry/path",
)
_PARAMETER_FILE = "params_file"


def frontend(**fixed: Any) -> list[Any]:
    """Arguments, front-end, odometry and rviz.

    fixed: arguments that the launch file sets itself; they are not offered.
    """
    offered = [*_frontend_arguments(), *common_arguments()]
    return [
        *(SetLaunchConfiguration(name, value) for name, value in fixed.items()),
        *(argument for argument in offered if argument.name not in fixed),
        IncludeLaunchDescription(_LARGE_MESSAGES),
        OpaqueFunction(function=partial(_frontend_nodes, fixed=fixed)),
    ]


def cameras() -> list[Any]:
    """Arguments of one process for several cameras, and the process."""
    return [
        *_camera_arguments(),
        *common_arguments(),
        IncludeLaunchDescription(_LARGE_MESSAGES),
        OpaqueFunction(function=_cameras_node),
    ]


def rig() -> list[Any]:
    """Arguments of one process for the cameras of a rig, and the process."""
    return [
        *_camera_arguments(),
        *_rig_arguments(),
        *common_arguments(),
        IncludeLaunchDescription(_LARGE_MESSAGES),
        OpaqueFunction(function=_rig_node),
    ]


def common_arguments() -> list[DeclareLaunchArgument]:
    """Arguments of every launch file that starts a front-end."""
    file = [PathJoinSubstitution([_SHARE, "config", LaunchConfiguration("profile")]), ".yaml"]
    return _declared(
        ("namespace", "", None, "Namespace of all nodes"),
        ("profile", "cpu", ["cpu", "desktop", "robot"],
         "Parameters: config/PROFILE.yaml of this package"),
        (_PARAMETER_FILE, file, None, "Your own parameter file, instead of a profile"),
        ("map", "", None,
         "Map to load and save to, a .mcap file; empty: as the parameter file says"),
        ("use_sim_time", "false", SWITCH,
         "Take the time from /clock: simulation, or a recording that plays it"),
        ("respawn", "true", SWITCH, "Start the front-end again when its process has ended"),
        ("log_level", "info", ["debug", "info", "warn", "error", "fatal"],
         "Least severity that is logged"),
    )  # fmt: skip


def _camera_arguments() -> list[DeclareLaunchArgument]:
    return _declared(
        ("cameras", "", None,
         "Names of the cameras, as in front,left; each is the namespace of its front-end; empty: "
         "as the parameter file says"),
        ("image", "image", None, "Camera image topic in each camera's namespace"),
        ("camera_info", "camera_info", None, "CameraInfo topic in each camera's namespace"),
    )  # fmt: skip


def _rig_arguments() -> list[DeclareLaunchArgument]:
    return _declared(
        ("images", "", None,
         "Instead of image: one topic for each camera, as in /a/image,/b/image"),
        ("camera_infos", "", None, "Instead of camera_info: one topic for each camera"),
        ("camchain", "", None,
         "Kalibr's camchain.yaml: the cameras' poses, in the order of cameras; empty: as the "
         "parameter file says, else tf"),
        ("rig_frame", "", None,
         "Frame of the poses; empty: as the parameter file says, else that of the first camera"),
    )  # fmt: skip


def _frontend_arguments() -> list[DeclareLaunchArgument]:
    as_in_file = "empty: as the parameter file says"
    return _declared(
        ("image", "image", None, "Camera image topic"),
        ("camera_info", "camera_info", None, "Its CameraInfo topic"),
        ("mask", "mask", None, "Mask topic, mono8: no features where it is 0"),
        ("camera_source", "", None,
         f"'camera:0', 'realsense' or 'virtual': read it here, not from IMAGE; {as_in_file}"),
        ("input", "", ["", "mono", "stereo", "rgbd"],
         f"What is paired with the images; {as_in_file}"),
        ("right_image", "right/image", None,
         "With input stereo: right image topic, both rectified"),
        ("right_camera_info", "right/camera_info", None,
         "With input stereo: CameraInfo topic of the right camera"),
        ("depth_image", "depth/image", None,
         "With input rgbd: depth image topic, registered to the images"),
        ("sync", "", ["", "exact", "approximate"],
         f"With input stereo or rgbd: pair equal stamps, or near ones; {as_in_file}"),
        ("image_transport", "", ["", "raw", "compressed", *transports.VIDEO],
         f"'compressed' subscribes to IMAGE/compressed, the others to a video; {as_in_file}"),
        ("video_messages", "", ["", *transports.VIDEO_MESSAGES],
         f"The video's topic and type: IMAGE/ffmpeg or IMAGE/foxglove; {as_in_file}"),
        ("depth_transport", "", ["", "raw", *transports.DEPTH_SUFFIXES],
         f"'compressedDepth' subscribes to DEPTH_IMAGE/compressedDepth; {as_in_file}"),
        ("imu_topic", "", None,
         f"Imu topic: predicts where features go when the camera turns; {as_in_file}"),
        ("autostart", "", ["", *SWITCH],
         "Configure and activate at start; 'false' leaves it to a lifecycle manager; "
         f"{as_in_file}"),
        ("odometry", "false", SWITCH, "Start the reference back-end, too: visual odometry"),
        ("rviz", "false", SWITCH,
         "Start rviz, too: the tracks, with odometry path and map as well"),
    )  # fmt: skip


def _declared(*rows: tuple[str, Any, list[str] | None, str]) -> list[DeclareLaunchArgument]:
    """Arguments of these names, defaults, choices (None: any value) and descriptions."""
    return [
        DeclareLaunchArgument(name, default_value=default, choices=choices, description=text)
        for name, default, choices, text in rows
    ]


def _given(context: LaunchContext, name: str) -> str:
    return str(LaunchConfiguration(name).perform(context))


def _is_on(context: LaunchContext, name: str) -> bool:
    """Whether an argument with the choices ``SWITCH`` is true."""
    return _given(context, name).lower() == "true"


def _namespace(context: LaunchContext) -> str:
    """That of the nodes, below one that a file which includes ours has pushed."""
    namespace = _given(context, "namespace")
    pushed = str(LaunchConfiguration("ros_namespace", default="").perform(context))
    return namespace if namespace.startswith("/") else f"{pushed}/{namespace}".strip("/")


def _frontend_nodes(context: LaunchContext, fixed: Container[str]) -> list[Node]:
    """The nodes; an argument that is empty and not fixed leaves the parameter file's value."""

    def given(name: str) -> str:
        return _given(context, name)

    odometry, rviz = _is_on(context, "odometry"), _is_on(context, "rviz")
    _check_names(context, _TOPICS)
    nodes = {"aliked_frontend": parameters.FRONTEND_NAMES}
    if odometry:
        nodes["odometry"] = parameters.ODOMETRY_NAMES
    check_parameter_file(given(_PARAMETER_FILE), _namespace(context), nodes)
    if rviz and not is_installed("rviz2"):
        raise ConfigurationError(
            "rviz is true, but rviz2 is not installed here: apt install ros-$ROS_DISTRO-rviz2, or "
            "leave rviz false; 'ros2 run aliked_ros aliked_ros view' shows the tracks in a browser."
        )

    values: dict[str, Any] = {
        name: ParameterValue(given(name), value_type=str)  # a plain text is read as YAML
        for name in ("camera_source", "input", "sync", *_TRANSPORTS, "map", "imu_topic")
        if given(name) or name in fixed
    }
    if given("autostart"):
        values["autostart"] = _is_on(context, "autostart")
    time = _time(context)
    started = [
        Node(
            package="aliked_ros",
            executable="frontend_node",
            name="aliked_frontend",
            namespace=given("namespace"),
            parameters=[given(_PARAMETER_FILE), *([values] if values else []), *time],
            remappings=[
                *transports.remappings("image", given("image")),
                ("camera_info", given("camera_info")),
                *transports.remappings("right/image", given("right_image")),
                ("right/camera_info", given("right_camera_info")),
                *transports.remappings("depth/image", given("depth_image")),
                ("mask", given("mask")),
            ],
            **_process(context),
        )
    ]
    if odometry:
        started.append(
            Node(
                package="aliked_ros",
                executable="odometry_node",
                name="odometry",
                namespace=given("namespace"),
                parameters=[given(_PARAMETER_FILE), *time],
                arguments=_log_level(context),
                output="screen",
            )
        )
    if rviz:
        view = "odometry.rviz" if odometry else "frontend.rviz"
        started.append(
            Node(
                package="rviz2",
                executable="rviz2",
                parameters=time,
                arguments=["-d", PathJoinSubstitution([_SHARE, "rviz", view])],
                remappings=[(topic, given("namespace") + topic) for topic in _SHOWN],
            )
        )
    return started


def _cameras_node(context: LaunchContext) -> list[Node]:
    """The process; it has no name given here, since that would be the name of all in it."""
    return _process_of_cameras(context, "cameras_node", parameters.CAMERAS_NAMES, {})


def _rig_node(context: LaunchContext) -> list[Node]:
    """As ``_cameras_node``, with the topics of each camera and the extrinsics."""
    values: dict[str, Any] = {
        name: _given(context, name) for name in ("camchain", "rig_frame") if _given(context, name)
    }
    names = _list(context, "cameras")
    for argument, topic in (("images", "image"), ("camera_infos", "camera_info")):
        topics = _list(context, argument)
        if topics and len(topics) != len(names):
            raise ConfigurationError(
                f"{argument} has {len(topics)} topics, cameras has {len(names)} names; give a "
                f"topic for each, in the same order: {argument}:=/front/{topic},/left/{topic}."
            )
        if len(set(topics)) < len(topics):
            raise ConfigurationError(
                f"{argument} has a topic twice: {', '.join(topics)}; each camera has its own."
            )
        for name, given in zip(names, topics, strict=False):
            _check_topic(argument, given)
            values[f"{name}.{topic}"] = given
    return _process_of_cameras(context, "rig_node", parameters.RIG_NAMES, values)


def _process_of_cameras(
    context: LaunchContext, executable: str, known: frozenset[str], values: dict[str, Any]
) -> list[Node]:
    _check_names(context, ("image", "camera_info"))
    file = _given(context, _PARAMETER_FILE)
    nodes = {f"aliked_{executable.removesuffix('_node')}": known}
    names = _list(context, "cameras")
    parameters.check_camera_names(names)
    nodes |= {f"{name}/aliked_frontend": parameters.FRONTEND_NAMES for name in names or ["*"]}
    if "cameras" not in check_parameter_file(file, _namespace(context), nodes) and not names:
        raise ConfigurationError(
            "cameras is empty, and the parameter file names none either; name the cameras: "
            "cameras:=front,left."
        )
    image, map_file = _given(context, "image"), _given(context, "map")
    values = ({"cameras": names} if names else {}) | values
    values |= {"map": map_file} if map_file else {}
    return [
        Node(
            package="aliked_ros",
            executable=executable,
            namespace=_given(context, "namespace"),
            parameters=[file, *([values] if values else []), *_time(context)],
            remappings=[
                *transports.remappings("image", image),
                ("camera_info", _given(context, "camera_info")),
            ],
            **_process(context),
        )
    ]


def _list(context: LaunchContext, name: str) -> list[str]:
    """An argument's parts between commas."""
    return [part.strip() for part in _given(context, name).split(",") if part.strip()]


def _time(context: LaunchContext) -> list[dict[str, bool]]:
    return [{"use_sim_time": True}] if _is_on(context, "use_sim_time") else []


def _log_level(context: LaunchContext) -> list[str]:
    return ["--ros-args", "--log-level", _given(context, "log_level")]


def _process(context: LaunchContext) -> dict[str, Any]:
    """What all front-ends' processes have in common."""
    return {
        "arguments": _log_level(context),
        "output": "screen",
        "respawn": _is_on(context, "respawn"),
        "respawn_delay": _RESPAWN_DELAY,
    }


# Checks: each raises ConfigurationError


def is_installed(package: str) -> bool:
    """Whether a ROS package is in the ament index."""
    try:
        get_package_prefix(package)
    except (OSError, PackageNotFoundError):
        return False
    return True


def check_number(context: LaunchContext, name: str) -> None:
    """An argument that has to be a number, 0 or more."""
    text = _given(context, name)
    try:
        valid = 0.0 <= float(text) < math.inf
    except ValueError:
        valid = False
    if not valid:
        raise ConfigurationError(f"{name} is {text!r}; it must be a number, 0 or more: {name}:=10.")


def _check_names(context: LaunchContext, topics: Sequence[str]) -> None:
    namespace = _given(context, "namespace")
    try:
        if namespace:
            validate_namespace("/" + namespace.removeprefix("/"))
    except InvalidNamespaceException as error:
        raise ConfigurationError(
            f"namespace is {namespace!r}, which is not a valid namespace "
            f"({_first_line(error)}); write it like robot1."
        ) from error
    for name in topics:
        _check_topic(name, _given(context, name))


def _check_topic(name: str, topic: str) -> None:
    try:
        validate_topic_name(topic)
    except InvalidTopicNameException as error:
        raise ConfigurationError(
            f"{name} is {topic!r}, which is not a valid topic ({_first_line(error)}); write it "
            f"like /camera/image_raw."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(":. ")
