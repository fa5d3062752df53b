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

"""The launch files, loaded and run for real where ROS's ``launch`` is installed.

test_launch_structure.py checks everywhere what they would start.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sensor_msgs.msg import Image as ImageMessage

from helpers import ROOT

if TYPE_CHECKING:
    from helpers.ros import Probe

FILES = sorted(path.name for path in (ROOT / "launch").glob("*.launch.py"))
START = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

arguments = [tuple(argument.split(":=")) for argument in sys.argv[2:]]
arguments.append(("sigterm_timeout", "60"))  # on a busy machine the nodes need their time to end
include = IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=arguments
)
service = LaunchService(noninteractive=True)  # else the terminal has to tell the nodes of Ctrl-C
service.include_launch_description(LaunchDescription([include]))
sys.exit(service.run())
"""


def installed(name: str) -> Path:
    """A launch file as installed, with what it needs to run; skips where that is missing."""
    reason = "needs ROS 2's launch and this package in the ament index (colcon build, sourced)"
    pytest.importorskip("launch_ros", reason=reason)
    packages = pytest.importorskip("ament_index_python.packages", reason=reason)
    try:
        return Path(packages.get_package_share_directory("aliked_ros")) / "launch" / name
    except Exception:  # PackageNotFoundError, or OSError without AMENT_PREFIX_PATH
        pytest.skip(reason)


@pytest.mark.parametrize("name", FILES)
def test_launch_files_load_and_describe_their_arguments(name):
    path = installed(name)
    from launch.actions import DeclareLaunchArgument
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    from launch import LaunchContext

    description = PythonLaunchDescriptionSource(str(path)).get_launch_description(LaunchContext())
    arguments = description.get_launch_arguments()  # of the included files, too
    assert {"large_messages"} <= {argument.name for argument in arguments}
    assert all(isinstance(argument, DeclareLaunchArgument) for argument in arguments)
    assert all(argument.description for argument in arguments)


@contextmanager
def launched(
    tmp_path: Path,
    name: str,
    *arguments: str,
    node: str = "robot1/aliked_frontend",
    state: str = "active",
    **env: str,
) -> Iterator[Probe]:
    """A probe for a node of a launch in the namespace ``robot1``, which must end well."""
    path = installed(f"{name}.launch.py")
    from helpers.ros import Probe, environment

    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", START, str(path), "namespace:=robot1", *arguments],
            env=environment(**env), stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    probe = Probe(node)
    try:
        probe.wait_for_state(state)
        yield probe
    finally:
        probe.close()
        process.send_signal(2)
        status = process.wait(90)
    assert status == 0, log.read_text()
    assert "finished cleanly" in log.read_text()


@pytest.mark.ros
@pytest.mark.long
def test_the_launch_file_starts_the_node_with_its_topics_and_profile(tmp_path):
    arguments = ["image:=/eye/image", "image_transport:=compressed", "profile:=robot"]
    arguments += ["input:=stereo", "right_image:=/other/image", "right_camera_info:=/other/info"]
    arguments += ["mask:=/eye/mask"]
    with launched(tmp_path, "frontend", *arguments) as probe:
        topics = ["/eye/image/compressed", "/other/image/compressed", "/other/info", "/eye/mask"]
        probe.wait(lambda: all(probe.node.count_subscribers(topic) == 1 for topic in topics))
        assert "read-only" in probe.set_parameter("autostart", False)
        assert "unconfigured" in probe.set_parameter("matcher", "lightglue")


@pytest.mark.ros
@pytest.mark.long
def test_the_users_parameter_file_and_fast_dds_profile_are_kept(tmp_path):
    parameters = tmp_path / "mine.yaml"
    parameters.write_text(
        "/**:\n  ros__parameters: {image_transport: compressed, matcher: nearest}\n"
    )
    profile = tmp_path / "mine.xml"
    profile.write_bytes((ROOT / "config" / "fastdds_large_messages.xml").read_bytes())
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    own = dict.fromkeys(names, str(profile))
    with launched(tmp_path, "frontend", f"params_file:={parameters}", **own) as probe:
        assert probe.node.count_subscribers("/robot1/image/compressed") == 1
        environments = [
            (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            for entry in processes_with("__ns:=/robot1")
        ]
    assert environments
    for variables in environments:
        assert {f"{name}={profile}" for name in names} <= set(variables)


@pytest.mark.ros
@pytest.mark.long
def test_stereo_listens_to_two_images_and_leaves_the_start_to_a_manager(tmp_path):
    arguments = ["left_image:=/l/image", "right_image:=/r/image", "right_camera_info:=/r/info"]
    with launched(
        tmp_path, "stereo", *arguments, "autostart:=false", state="unconfigured"
    ) as probe:
        assert probe.transition("configure")
        assert probe.transition("activate")
        for topic in ("/l/image", "/robot1/left/camera_info", "/r/image", "/r/info"):
            assert probe.node.count_subscribers(topic) == 1, topic


@pytest.mark.ros
@pytest.mark.long
def test_demo_shows_the_virtual_camera_to_whoever_looks(tmp_path):
    with launched(tmp_path, "demo", "rviz:=false", "profile:=robot") as probe:
        probe.listen(ImageMessage, "robot1/aliked_frontend/tracks/image")
        probe.wait(lambda: any("tracks/image" in name for name in probe.received))


@pytest.mark.ros
@pytest.mark.long
def test_dataset_is_played_through_the_frontend_into_the_odometry(tmp_path):
    arguments = ["source:=virtual", "rate:=5", "loop:=true", "clock:=true", "odometry:=true"]
    with launched(tmp_path, "dataset", *arguments) as probe:
        probe.wait(lambda: len(probe.features) > 5)
        assert probe.features[-1].normalized, "the player's CameraInfo did not arrive"
        assert max(probe.features[-1].track_lengths) > 2
        assert probe.node.count_publishers("/clock") == 1
        probe.wait(lambda: probe.node.count_publishers("/robot1/odometry/odometry"))
        assert probe.node.count_subscribers("/robot1/aliked_frontend/features") == 2  # and we


@pytest.mark.ros
@pytest.mark.long
def test_cameras_run_in_one_process_each_in_its_namespace(tmp_path):
    arguments = ["cameras:=front,left", "image:=image_raw"]
    with launched(tmp_path, "cameras", *arguments, node="robot1/left/aliked_frontend") as probe:
        probe.wait(lambda: probe.node.count_subscribers("/robot1/front/image_raw") == 1)
        assert probe.node.count_subscribers("/robot1/left/image_raw") == 1
        assert probe.node.count_publishers("/robot1/front/aliked_frontend/features") == 1
        assert len(processes_with("__ns:=/robot1")) == 1


def processes_with(argument: str) -> list[Path]:
    """Folders in /proc of the processes that have this argument."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if argument.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(entry)
        except OSError:  # it has just ended
            continue
    return found
