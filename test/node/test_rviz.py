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

"""The views for rviz and Foxglove: what they show is what the nodes publish, in their types."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers import ROOT

RVIZ = ROOT / "rviz"
VIEWS = ["frontend", "odometry"]
# rviz_default_plugins' displays and the messages they take (its plugins_description.xml); None =
# without a topic.
DISPLAYS = {
    "Axes": None,
    "Image": "sensor_msgs/msg/Image",
    "MarkerArray": "visualization_msgs/msg/MarkerArray",
    "Odometry": "nav_msgs/msg/Odometry",
    "Path": "nav_msgs/msg/Path",
    "PointCloud2": "sensor_msgs/msg/PointCloud2",
    "PoseArray": "geometry_msgs/msg/PoseArray",
}
# Foxglove's panels, and the keys of their settings that a stored layout uses.
PANELS = {"3D", "DiagnosticSummary", "Image", "Plot", "Tab"}


def view(name: str) -> dict[str, Any]:
    return yaml.safe_load((RVIZ / f"{name}.rviz").read_text(encoding="utf-8"))


def displays_of(items: list[dict[str, Any]], shown: bool = True) -> Iterator[tuple[dict, bool]]:
    """The displays, and whether each one is shown at start."""
    for item in items:
        visible = shown and item["Enabled"]
        if item["Class"] == "rviz_common/Group":
            yield from displays_of(item["Displays"], visible)
        else:
            yield item, visible


def topics_of(name: str) -> dict[str, str]:
    """Topics of an rviz file with the types of the displays that show them."""
    found = {}
    for display, _ in displays_of(view(name)["Visualization Manager"]["Displays"]):
        library, kind = display["Class"].split("/")
        assert library == "rviz_default_plugins"
        if DISPLAYS[kind] is not None:
            found[display["Topic"]["Value"]] = DISPLAYS[kind]
    return found


@pytest.fixture(scope="module")
def layout() -> dict[str, Any]:
    return json.loads((RVIZ / "frontend.foxglove.json").read_text(encoding="utf-8"))


def configured(layout: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [value for key, value in layout["configById"].items() if key.startswith(f"{kind}!")]


@pytest.mark.parametrize("name", VIEWS)
def test_rviz_hears_what_the_nodes_say(name: str):
    assert set(topics_of(name)) == {
        "/aliked_frontend/tracks/image", "/aliked_frontend/tracks/markers",
        "/odometry/odometry", "/odometry/path", "/odometry/keyframes", "/odometry/map",
    }  # fmt: skip
    displays = list(displays_of(view(name)["Visualization Manager"]["Displays"]))
    for display, _ in displays:
        if "Topic" in display:  # our outputs: reliable, and gone when they are gone
            assert display["Topic"]["Reliability Policy"] == "Reliable"
            assert display["Topic"]["Durability Policy"] == "Volatile"


def test_without_any_tf_each_view_shows_what_is_in_its_own_frame():
    manager = {name: view(name)["Visualization Manager"] for name in VIEWS}
    frames = {name: item["Global Options"]["Fixed Frame"] for name, item in manager.items()}
    assert frames == {"frontend": "camera", "odometry": "odom"}  # the nodes' defaults
    shown = {
        name: {
            display["Topic"]["Value"].rpartition("/")[2]
            for display, visible in displays_of(item["Displays"])
            if visible and "Topic" in display
        }
        for name, item in manager.items()
    }
    assert shown["frontend"] == {"image", "markers"}
    assert shown["odometry"] == {"image", "path", "keyframes", "odometry", "map"}


def test_the_two_views_differ_in_nothing_else():
    def bare(item: Any) -> Any:
        """Without what is switched, and without the point of view."""
        if isinstance(item, dict):
            left_out = ("Enabled", "Value", "Fixed Frame", "Views")
            return {key: bare(value) for key, value in item.items() if key not in left_out}
        return [bare(value) for value in item] if isinstance(item, list) else item

    first, second = (bare(copy.deepcopy(view(name))) for name in VIEWS)
    assert first == second


def panels_in(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif node is not None:
        assert node["direction"] in ("row", "column")
        assert 0 < node["splitPercentage"] < 100
        yield from panels_in(node["first"])
        yield from panels_in(node["second"])


def test_every_foxglove_panel_has_settings_and_a_place(layout: dict[str, Any]):
    placed = list(panels_in(layout["layout"]))
    for tab in configured(layout, "Tab"):
        for item in tab["tabs"]:
            assert item["title"]
            placed += panels_in(item["layout"])
    assert sorted(placed) == sorted(layout["configById"])
    assert {key.split("!")[0] for key in placed} == PANELS


def shown_in_foxglove(layout: dict[str, Any]) -> dict[str, str]:
    """Topics of the layout with their types; only annotations need a package of their own."""
    found = {}
    for image in configured(layout, "Image"):
        found[image["imageMode"]["imageTopic"]] = "sensor_msgs/msg/Image"
        for topic in image["imageMode"].get("annotations", {}):
            found[topic] = "foxglove_msgs/msg/ImageAnnotations"
    for space in configured(layout, "3D"):
        for topic in space["topics"]:
            found[topic] = topics_of("frontend")[topic]
    for summary in configured(layout, "DiagnosticSummary"):
        found[summary["topicToRender"]] = "diagnostic_msgs/msg/DiagnosticArray"
    return found


def test_foxglove_shows_what_rviz_shows_and_more(layout: dict[str, Any]):
    topics = shown_in_foxglove(layout)
    assert set(topics_of("frontend")) < set(topics)
    assert {"/image", "/aliked_frontend/annotations", "/diagnostics"} < set(topics)
    followed = [space["followTf"] for space in configured(layout, "3D")]
    assert followed == ["camera", "odom"]


def script_of(layout: dict[str, Any]) -> tuple[str, set[str]]:
    """Output topic and fields of the layout's script."""
    (script,) = layout["userNodes"].values()
    source = script["sourceCode"]
    (output,) = re.findall(r'export const output = "(.+)";', source)
    fields = re.findall(r"^  (\w+): number;$", source, re.M)
    assert fields == re.findall(r'^    (\w+): of\("\1"\),$', source, re.M)
    return output, set(fields)


def test_plots_read_fields_that_the_status_has(layout: dict[str, Any]):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from aliked_msgs.msg import FrontendStatus

    fields = FrontendStatus.get_fields_and_field_types()
    output, stages = script_of(layout)
    assert {"stage_names", "stage_last"} <= fields.keys()
    paths = [path["value"] for plot in configured(layout, "Plot") for path in plot["paths"]]
    assert len(paths) == len(set(paths)) > 10
    for path in paths:
        topic, _, field = path.partition(".")
        if topic == output:
            assert field in stages
        else:
            assert topic == "/aliked_frontend/status"
            assert fields[field] in ("float", "double", "uint32", "uint64"), field


def test_the_script_knows_every_stage_of_the_docs(layout: dict[str, Any]):
    page = (ROOT / "docs" / "topics.md").read_text(encoding="utf-8")
    table = page.partition("### Stage times")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`.+?) \|", table, re.M)
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert {"total", "draw"} < named
    assert script_of(layout)[1] == named


@pytest.mark.ros
@pytest.mark.long
def test_running_nodes_publish_all_of_it(tmp_path: Path, layout: dict[str, Any]):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    from helpers.ros import Probe, RosProcess

    wanted = shown_in_foxglove(layout)
    if not (annotated := find_foxglove()):
        wanted = {topic: kind for topic, kind in wanted.items() if "foxglove" not in kind}
    probe = Probe()  # it is the camera, too
    processes = [
        RosProcess(
            "aliked_ros.ros.frontend_node", tmp_path / "frontend",
            "-p", "backend:=cpu", "-p", "matcher:=nearest",
        ),
        RosProcess("aliked_ros.ros.odometry_node", tmp_path / "odometry"),
    ]  # fmt: skip
    try:
        probe.wait_for_state("active")

        def published() -> dict[str, list[str]]:
            topics = dict(probe.node.get_topic_names_and_types())
            return {name: topics[name] for name in topics if probe.node.count_publishers(name)}

        probe.wait(lambda: set(wanted) <= published().keys())
        assert {topic: published()[topic] for topic in wanted} == {
            topic: [kind] for topic, kind in wanted.items()
        }
        assert ("/aliked_frontend/annotations" in published()) == annotated
        for process in processes:
            assert process.stop() == 0, process.text()
    finally:
        probe.close()
        for process in processes:
            process.process.kill()


def find_foxglove() -> bool:
    """Whether foxglove_msgs is installed."""
    from aliked_ros.ros.foxglove import message_type

    return message_type() is not None
