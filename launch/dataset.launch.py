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

"""Play a recording into the front-end, instead of a camera.

ros2 launch aliked_ros dataset.launch.py source:=/path/to/rgbd_dataset_freiburg1_xyz \
    publish:=rgbd odometry:=true rviz:=true
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from aliked_ros.ros.launching import SWITCH, check_number, frontend
from launch import LaunchContext, LaunchDescription

TOPICS = {
    "image": "image",
    "camera_info": "camera_info",
    "right/image": "right_image",
    "right/camera_info": "right_camera_info",
    "depth/image": "depth_image",
}
START_TIMEOUT = 900.0  # seconds: TensorRT engines may have to be built first
# Messages a second. Not IfElseSubstitution, which Humble lacks.
CLOCK = PythonExpression(["100.0 if '", LaunchConfiguration("clock"), "' in 'true True' else 0.0"])


def parameter(argument: str, kind: type) -> ParameterValue:
    """The value of a launch argument, in the parameter's type."""
    return ParameterValue(LaunchConfiguration(argument), value_type=kind)


def check(context: LaunchContext) -> None:
    """Refuse what is no number before anything starts."""
    for name in ("rate", "speed"):
        check_number(context, name)


def generate_launch_description() -> LaunchDescription:
    """The front-end and the player, with whose end all ends."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "source",
                description="Folder, data set (TUM, KITTI, EuRoC), bag or video; 'camera:0', "
                "'realsense' or 'virtual'",
            ),
            DeclareLaunchArgument(
                "publish",
                default_value="mono",
                choices=["mono", "stereo", "rgbd"],
                description="What of it: images, with the right images, or with depth images",
            ),
            DeclareLaunchArgument(
                "rate",
                default_value="0.0",
                description="Images per second; 0 = as they were taken",
            ),
            DeclareLaunchArgument(
                "speed",
                default_value="1.0",
                description="How fast the recording's time goes; 0.5 = half as fast; without rate",
            ),
            DeclareLaunchArgument(
                "loop",
                default_value="false",
                choices=SWITCH,
                description="Start again after the last image",
            ),
            DeclareLaunchArgument(
                "clock",
                default_value="false",
                choices=SWITCH,
                description="Play the recording's own time on /clock, for all nodes here",
            ),
            OpaqueFunction(function=check),
            *frontend(
                camera_source="",
                image_transport="raw",  # what the player publishes, whatever a parameter file says
                depth_transport="raw",
                video_messages="ffmpeg",  # not used
                input=LaunchConfiguration("publish"),
                use_sim_time=LaunchConfiguration("clock"),
            ),
            Node(
                package="aliked_ros",
                executable="dataset_player",
                namespace=LaunchConfiguration("namespace"),
                parameters=[
                    {
                        "source": parameter("source", str),
                        "publish": parameter("publish", str),
                        "rate": parameter("rate", float),
                        "speed": parameter("speed", float),
                        "loop": parameter("loop", bool),
                        "clock": ParameterValue(CLOCK, value_type=float),
                        "wait_timeout": START_TIMEOUT,
                    }
                ],
                remappings=[(topic, LaunchConfiguration(name)) for topic, name in TOPICS.items()],
                output="screen",
                on_exit=Shutdown(reason="the recording has been played, or the player failed"),
            ),
        ]
    )
