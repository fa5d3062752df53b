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

"""What Fast DDS's shared memory can carry without loss, from the environment."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from aliked_ros.system.share import share_path

DEFAULT_SEGMENT = 512 << 10  # bytes
# Fast DDS 2 (Jazzy and before) and 3 (Kilted and later).
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def middleware() -> str:
    """The name of ROS's middleware."""
    return os.environ.get("RMW_IMPLEMENTATION") or "rmw_fastrtps_cpp"


def profile() -> str | None:
    """The Fast DDS profile that the environment names."""
    return next(filter(None, map(os.environ.get, PROFILE_VARIABLES)), None)


def profile_variable() -> str:
    """The variable that this distribution's Fast DDS reads; from Kilted on the old one warns."""
    distribution = os.environ.get("ROS_DISTRO")
    if distribution is not None:
        return PROFILE_VARIABLES[distribution >= "kilted"]
    try:  # ROS from wheels
        return PROFILE_VARIABLES[int(version("ros-fastrtps").partition(".")[0]) >= 3]
    except PackageNotFoundError:
        return PROFILE_VARIABLES[0]


def profile_command() -> str:
    """The shell command for a larger segment."""
    return f"export {profile_variable()}={share_path('config/fastdds_large_messages.xml')}"


def segment_size(file: str) -> int:
    """The largest segment that a profile sets, 0 = none. Raises OSError or ValueError."""
    try:
        elements = ElementTree.parse(file).iter()
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    sizes = [int(e.text or 0) for e in elements if e.tag.rpartition("}")[2] == "segment_size"]
    return max(sizes, default=0)


@cache
def segment() -> int | None:
    """Size of this process's segment in bytes; None = not Fast DDS, or a profile not ours."""
    if "fastrtps" not in middleware():
        return None
    file = profile()
    if file is None:
        return DEFAULT_SEGMENT
    try:
        return segment_size(file) or DEFAULT_SEGMENT
    except (OSError, ValueError):
        return None


def too_large(size: int) -> str:
    """A sentence about messages of ``size`` bytes being too large for this process's transport."""
    limit = segment()
    if limit is None or size < limit:
        return ""
    return (
        f"{size / 1e6:.1f} MB each, more than Fast DDS's shared memory segment of "
        f"{limit / 1e6:.1f} MB: some get lost. In the terminal of every node, the camera's too: "
        f"{profile_command()}"
    )
