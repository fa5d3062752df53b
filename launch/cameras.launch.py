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

"""Start the front-ends of several cameras in one process, which loads the networks once.

ros2 launch aliked_ros cameras.launch.py cameras:=front,left image:=image_raw
"""

from aliked_ros.ros.launching import cameras
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """One process; what differs between the cameras is in the parameter file."""
    return LaunchDescription(cameras())
