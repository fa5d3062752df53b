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

"""Start the front-end on an RGB-D camera.

ros2 launch aliked_ros rgbd.launch.py image:=/camera/color/image_raw \
    camera_info:=/camera/color/camera_info depth_image:=/camera/aligned_depth_to_color/image_raw
"""

from launch.actions import DeclareLaunchArgument

from aliked_ros.ros.launching import frontend
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """The front-end on colour and depth; the topics' defaults are those of rtabmap."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "image", default_value="rgb/image", description="Colour or grey image topic"
            ),
            DeclareLaunchArgument(
                "camera_info",
                default_value="rgb/camera_info",
                description="Its CameraInfo topic",
            ),
            DeclareLaunchArgument(
                "depth_image",
                default_value="depth/image",
                description="Depth image topic, registered to the images, 16UC1 or 32FC1",
            ),
            *frontend(input="rgbd"),
        ]
    )
