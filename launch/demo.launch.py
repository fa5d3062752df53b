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

"""Show the front-end at work: a virtual camera, or a recording, in a loop.

ros2 launch aliked_ros demo.launch.py
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, LogInfo
from launch.conditions import UnlessCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

from aliked_ros.ros.launching import SWITCH, is_installed
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
                "'realsense' or 'virtual'",
            ),
            DeclareLaunchArgument(
                "loop",
                default_value="true",
                choices=SWITCH,
                description="Start again after the last image",
            ),
            DeclareLaunchArgument(
                "rviz",
                default_value="true" if is_installed("rviz2") else "false",
                choices=SWITCH,
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
