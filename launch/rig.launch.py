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

"""Start the front-ends of a rig's cameras, which process images of the same moment together.

ros2 launch aliked_ros rig.launch.py cameras:=front,left image:=image_raw camchain:=camchain.yaml
"""

from launch.actions import DeclareLaunchArgument

from aliked_ros.ros.launching import rig
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """One process for all cameras."""
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
                "images",
                default_value="",
                description="Instead of image: one topic for each camera, as in /a/image,/b/image",
            ),
            DeclareLaunchArgument(
                "camera_infos",
                default_value="",
                description="Instead of camera_info: one topic for each camera",
            ),
            DeclareLaunchArgument(
                "camchain",
                default_value="",
                description="Kalibr's camchain.yaml: the cameras' poses, in the order of cameras; "
                "empty: as the parameter file says, else tf",
            ),
            DeclareLaunchArgument(
                "rig_frame",
                default_value="",
                description="Frame of the poses; empty: as the parameter file says, else that of "
                "the first camera",
            ),
            *rig(),
        ]
    )
