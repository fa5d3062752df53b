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

"""Give Fast DDS a shared memory segment for images; included by the other launch files.

An environment that names a profile of its own keeps it.
"""

from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

from aliked_ros.ros.launching import SWITCH
from aliked_ros.system.transport import profile_variable
from launch import LaunchDescription

PROFILE = PathJoinSubstitution(
    [FindPackageShare("aliked_ros"), "config", "fastdds_large_messages.xml"]
)
VARIABLE = profile_variable()


def generate_launch_description() -> LaunchDescription:
    """Set the variable for all nodes that are started after this."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "large_messages",
                default_value="true",
                choices=SWITCH,
                description="Give Fast DDS a shared memory segment that holds images, "
                "unless the environment names a profile of its own",
            ),
            SetEnvironmentVariable(
                VARIABLE,
                EnvironmentVariable(VARIABLE, default_value=PROFILE),
                condition=IfCondition(LaunchConfiguration("large_messages")),
            ),
        ]
    )
