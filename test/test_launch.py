"""The launch files, loaded and run where ``launch`` is installed; their data files everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


@pytest.mark.ros
@pytest.mark.long
def test_the_launch_file_starts_the_node_with_its_topics_and_profile(tmp_path):
    path = installed("frontend.launch.py")
    from ros_helpers import Probe, environment

    arguments = ["image:=/eye/image", "image_transport:=compressed", "profile:=robot"]
    arguments += ["namespace:=robot1"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", START, str(path), *arguments],
            env=environment(), stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    probe = Probe("robot1/aliked_frontend")
    try:
        probe.wait_for_state("active")
        assert probe.node.count_subscribers("/eye/image/compressed") == 1
        assert "read-only" in probe.set_parameter("autostart", False)
        assert "unconfigured" in probe.set_parameter("matcher", "lightglue")
    finally:
        probe.close()
        process.send_signal(2)
        status = process.wait(30)
    assert status == 0, (tmp_path / "log").read_text()
    assert "finished cleanly" in (tmp_path / "log").read_text()


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
