"""The launch files, loaded and run where ``launch`` is installed; their data files everywhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from ros_helpers import Probe

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
START = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

arguments = [tuple(argument.split(":=")) for argument in sys.argv[2:]]
include = IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=arguments
)
service = LaunchService()
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


@pytest.mark.parametrize("name", ["frontend", "demo"])
def test_launch_files_load_and_describe_their_arguments(name):
    path = installed(f"{name}.launch.py")
    from launch.actions import DeclareLaunchArgument
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    from launch import LaunchContext

    description = PythonLaunchDescriptionSource(str(path)).get_launch_description(LaunchContext())
    arguments = [item for item in description.entities if isinstance(item, DeclareLaunchArgument)]
    assert arguments
    assert all(argument.description for argument in arguments)


@contextmanager
def launched(tmp_path: Path, *arguments: str, **env: str) -> Iterator[Probe]:
    """A probe for the node ``/robot1/aliked_frontend`` of a launch, which must end well."""
    path = installed("frontend.launch.py")
    from ros_helpers import Probe, environment

    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", START, str(path), "namespace:=robot1", *arguments],
            env=environment(**env), stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    probe = Probe("robot1/aliked_frontend")
    try:
        probe.wait_for_state("active")
        yield probe
    finally:
        probe.close()
        process.send_signal(2)
        status = process.wait(30)
    assert status == 0, log.read_text()
    assert "finished cleanly" in log.read_text()


@pytest.mark.ros
@pytest.mark.long
def test_the_launch_file_starts_the_node_with_its_topics_and_profile(tmp_path):
    arguments = ["image:=/eye/image", "image_transport:=compressed", "profile:=robot"]
    arguments += ["input:=stereo", "right_image:=/other/image", "right_camera_info:=/other/info"]
    arguments += ["mask:=/eye/mask"]
    with launched(tmp_path, *arguments) as probe:
        for topic in ("/eye/image/compressed", "/other/image/compressed", "/other/info"):
            assert probe.node.count_subscribers(topic) == 1, topic
        assert probe.node.count_subscribers("/eye/mask") == 1
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
    with launched(tmp_path, f"params_file:={parameters}", **own) as probe:
        assert probe.node.count_subscribers("/robot1/image/compressed") == 1
        environments = [
            (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            for entry in processes_with("__ns:=/robot1")
        ]
    assert environments
    for variables in environments:
        assert {f"{name}={profile}" for name in names} <= set(variables)


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


@pytest.mark.parametrize("name", ["frontend", "demo"])
def test_launch_files_compile(name):
    compile((LAUNCH / f"{name}.launch.py").read_text(encoding="utf-8"), name, "exec")


def test_data_files_that_launch_names_exist():
    text = (LAUNCH / "frontend.launch.py").read_text(encoding="utf-8")
    assert "fastdds_large_messages.xml" in text
    for file in (
        "config/fastdds_large_messages.xml", "config/cpu.yaml", "config/desktop.yaml",
        "config/robot.yaml", "rviz/frontend.rviz",
    ):  # fmt: skip
        assert (ROOT / file).is_file()


def test_rviz_shows_the_nodes_drawing():
    view = yaml.safe_load((ROOT / "rviz" / "frontend.rviz").read_text(encoding="utf-8"))
    displays = view["Visualization Manager"]["Displays"]
    images = [d for d in displays if d["Class"] == "rviz_default_plugins/Image" and d["Enabled"]]
    assert [image["Topic"]["Value"] for image in images] == ["/aliked_frontend/tracks/image"]
