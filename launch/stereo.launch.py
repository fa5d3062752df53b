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

"""Start the front-end on a rectified stereo camera.

ros2 launch aliked_ros stereo.launch.py left_image:=/left/image_rect right_image:=/right/image_rect
"""

from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration

from aliked_ros.ros.launching import frontend
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """The front-end on two images; the topics' defaults are those of image_pipeline."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "left_image",
                default_value="left/image_rect",
                description="Left image topic, rectified; keypoints are found in it",
            ),
            DeclareLaunchArgument(
                "left_camera_info",
                default_value="left/camera_info",
                description="CameraInfo topic of the left camera",
            ),
            DeclareLaunchArgument(
                "right_image",
                default_value="right/image_rect",
                description="Right image topic, rectified, of the same size",
            ),
            DeclareLaunchArgument(
                "right_camera_info",
                default_value="right/camera_info",
                description="CameraInfo topic of the right camera, whose P holds the baseline",
            ),
            *frontend(
                input="stereo",
                image=LaunchConfiguration("left_image"),
                camera_info=LaunchConfiguration("left_camera_info"),
            ),
        ]
    )
