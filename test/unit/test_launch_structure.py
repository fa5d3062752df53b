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

"""What the launch files start, with which arguments, parameters and topics; without ROS's launch.

A stand-in of the part of ``launch`` and ``launch_ros`` that they use carries them out as ROS does,
except that nodes are noted down instead of started. test_launch.py starts them for real.
"""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from aliked_ros.ros import cameras_node, odometry_node, parameters, player, rig_node
from helpers import ROOT

FILES = sorted(path.name.removesuffix(".launch.py") for path in (ROOT / "launch").glob("*.py"))
STARTED = [name for name in FILES if name != "large_messages"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DECLARED = {
    "frontend_node": parameters.DECLARATIONS,
    "odometry_node": odometry_node._DECLARATIONS,
    "dataset_player": player._DECLARATIONS,
    "cameras_node": (),
    "rig_node": rig_node._DECLARATIONS,
}
TOPICS = {"camera_info", "right/camera_info", "mask", "depth/image", "depth/image/compressedDepth",
          *(f"{side}image{transport}" for side in ("", "right/")
            for transport in ("", "/compressed", "/ffmpeg", "/foxglove"))}  # fmt: skip


@dataclass
class Context:
    """What has been set so far, and what was started."""

    values: dict[str, str]
    declared: dict[str, Declare] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    nodes: list[Started] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def node(self, executable: str) -> Started:
        (found,) = [node for node in self.nodes if node.executable == executable]
        return found


@dataclass
class Started:
    """A node as it would have been started, everything resolved."""

    package: str
    executable: str
    name: str
    namespace: str
    files: list[str]
    parameters: dict[str, Any]
    remappings: dict[str, str]
    arguments: list[str]
    environment: dict[str, str]
    respawn: bool
    on_exit: Any


# Substitutions: resolve to a string


@dataclass
class Configuration:
    name: str
    default: str | None = None

    def perform(self, context: Context) -> str:
        if self.default is not None:
            return context.values.get(self.name, self.default)
        return context.values[self.name]


@dataclass
class PathJoin:
    parts: list[Any]

    def perform(self, context: Context) -> str:
        return "/".join(text(part, context) for part in self.parts)


@dataclass
class PackageShare:
    package: str

    def perform(self, context: Context) -> str:
        assert self.package == "aliked_ros"
        return str(ROOT)


@dataclass
class Variable:
    name: str
    default_value: Any

    def perform(self, context: Context) -> str:
        default = text(self.default_value, context)
        return context.environment.get(self.name, os.environ.get(self.name, default))


@dataclass
class Expression:
    parts: list[Any]

    def perform(self, context: Context) -> str:
        return str(eval("".join(text(part, context) for part in self.parts)))


def text(value: Any, context: Context) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return "".join(text(part, context) for part in value)
    return value.perform(context)


# Actions: change the context


@dataclass
class Declare:
    name: str
    description: str
    default_value: Any = None
    choices: list[str] | None = None

    def execute(self, context: Context) -> None:
        context.declared.setdefault(self.name, self)
        if self.name not in context.values:
            assert self.default_value is not None, f"argument {self.name} is required"
            context.values[self.name] = text(self.default_value, context)
        value = context.values[self.name]
        assert self.choices is None or value in self.choices, f"{self.name}:={value}"


@dataclass
class Include:
    file: Any
    launch_arguments: Any = ()

    def execute(self, context: Context) -> None:
        given = {name: text(value, context) for name, value in self.launch_arguments}
        context.values.update(given)
        included = Context(context.values, {}, context.environment, context.nodes)
        execute(Path(text(self.file, context)), included)
        assert set(given) <= set(included.declared), "the included file does not know these"
        for name, argument in included.declared.items():  # launch wants it, set before or not
            assert argument.default_value is not None or name in given, f"{name} is not handed on"
        context.declared = included.declared | context.declared


@dataclass
class Set:
    name: str
    value: Any

    def execute(self, context: Context) -> None:
        context.values[self.name] = text(self.value, context)


@dataclass
class Shutdown:
    reason: str


@dataclass
class SetVariable:
    name: str
    value: Any
    condition: If

    def execute(self, context: Context) -> None:
        if self.condition.holds(context):
            context.environment[self.name] = text(self.value, context)


@dataclass
class Log:
    msg: str
    condition: Unless

    def execute(self, context: Context) -> None:
        if self.condition.holds(context):
            context.said.append(self.msg)


@dataclass
class Opaque:
    function: Callable[[Context], list[Any]]

    def execute(self, context: Context) -> None:
        for action in self.function(context) or []:
            action.execute(context)


@dataclass
class If:
    value: Configuration

    def holds(self, context: Context) -> bool:
        return {"true": True, "false": False}[text(self.value, context).lower()]


class Unless(If):
    def holds(self, context: Context) -> bool:
        return not super().holds(context)


@dataclass
class Parameter:
    value: Any
    value_type: type

    def evaluate(self, context: Context) -> Any:
        given = text(self.value, context)
        value = given if self.value_type is str else yaml.safe_load(given)
        assert isinstance(value, self.value_type), f"{value!r} is no {self.value_type.__name__}"
        return value


@dataclass
class Node:
    package: str
    executable: str
    name: str = ""
    namespace: Any = ""
    parameters: list[Any] = field(default_factory=list)
    remappings: list[tuple[str, Any]] = field(default_factory=list)
    arguments: list[Any] = field(default_factory=list)
    output: str = "log"
    respawn: bool = False
    respawn_delay: float = 0.0
    on_exit: Any = None

    def execute(self, context: Context) -> None:
        files, values = [], {}
        for item in self.parameters:
            if not isinstance(item, dict):
                files.append(text(item, context))
                continue
            assert item, "launch_ros refuses an empty dictionary"
            for name, value in item.items():
                known = isinstance(value, Parameter)
                values[name] = value.evaluate(context) if known else value
        context.nodes.append(
            Started(
                self.package, self.executable, self.name, text(self.namespace, context), files,
                values, {topic: text(value, context) for topic, value in self.remappings},
                [text(value, context) for value in self.arguments], dict(context.environment),
                self.respawn, self.on_exit,
            )
        )  # fmt: skip


MODULES = {
    "launch": {"LaunchDescription": list, "LaunchContext": Context},
    "launch.actions": {
        "DeclareLaunchArgument": Declare, "IncludeLaunchDescription": Include,
        "LogInfo": Log, "OpaqueFunction": Opaque, "SetEnvironmentVariable": SetVariable,
        "SetLaunchConfiguration": Set, "Shutdown": Shutdown,
    },
    "launch.conditions": {"IfCondition": If, "UnlessCondition": Unless},
    "launch.substitutions": {
        "EnvironmentVariable": Variable, "PythonExpression": Expression,
        "LaunchConfiguration": Configuration, "PathJoinSubstitution": PathJoin,
    },
    "launch_ros": {},
    "launch_ros.actions": {"Node": Node},
    "launch_ros.parameter_descriptions": {"ParameterValue": Parameter},
    "launch_ros.substitutions": {"FindPackageShare": PackageShare},
}  # fmt: skip


def content(path: Path) -> dict[str, Any]:
    """The names in a launch file."""
    modules = {name: ModuleType(name) for name in MODULES}
    for name, members in MODULES.items():
        vars(modules[name]).update(members)
    with patch.dict(sys.modules, modules):
        sys.modules.pop("aliked_ros.ros.launching", None)  # it may have been made of the real ones
        return runpy.run_path(str(path))


def execute(path: Path, context: Context) -> None:
    for entity in content(path)["generate_launch_description"]():
        entity.execute(context)


def launched(name: str, **arguments: str) -> Context:
    """What ``ros2 launch aliked_ros NAME.launch.py`` does with these arguments."""
    context = Context(dict(arguments))
    execute(ROOT / "launch" / f"{name}.launch.py", context)
    unknown = set(arguments) - set(context.declared)
    assert not unknown, f"{name}.launch.py has no argument {', '.join(unknown)}"
    return context


def required(name: str) -> dict[str, str]:
    cameras = {"cameras": "front,left"}
    return {"dataset": {"source": "virtual"}, "cameras": cameras, "rig": cameras}.get(name, {})


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(ROOT))  # where no package is installed
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def rviz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment has an rviz."""
    index = tmp_path / "prefix" / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "rviz2").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "prefix"))


def executables() -> set[str]:
    return set(re.findall(r'"(\w+) = aliked_ros', (ROOT / "setup.py").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", FILES)
def test_every_argument_is_described(name: str) -> None:
    declared = launched(name, **required(name)).declared
    assert declared
    for argument in declared.values():
        assert len(argument.description) > 8, argument.name
        assert argument.description[0].isupper() or argument.description[0] == "'"
        assert not argument.description.endswith(".")
        if argument.default_value in ("true", "false"):
            assert argument.choices == ["true", "false", "True", "False"], argument.name


@pytest.mark.usefixtures("rviz")
@pytest.mark.parametrize("name", STARTED)
@pytest.mark.parametrize("switch", ["", "true"])
def test_what_is_started_exists_and_knows_its_parameters(name: str, switch: str) -> None:
    arguments = required(name)
    for argument in launched(name, **arguments).declared.values():
        if switch and argument.choices and switch in argument.choices:
            arguments[argument.name] = switch
    for node in launched(name, **arguments).nodes:
        assert all(Path(file).is_file() for file in node.files), node.files
        if node.package == "rviz2":
            view = node.arguments[node.arguments.index("-d") + 1]
            assert Path(view).is_file()
            continue
        assert node.package == "aliked_ros"
        assert node.executable in executables()
        declared = {item.name: item for item in DECLARED[node.executable]}
        for parameter, value in node.parameters.items():
            if parameter == "use_sim_time":
                assert value is True
            elif parameter == "cameras":
                assert value == ["front", "left"]
            else:
                declared[parameter].checked(value)
        assert set(node.remappings) <= TOPICS


@pytest.mark.parametrize("name", STARTED)
@pytest.mark.parametrize(
    ("distribution", "variable"),
    [
        ("humble", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("jazzy", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("kilted", "FASTDDS_DEFAULT_PROFILES_FILE"),
        ("lyrical", "FASTDDS_DEFAULT_PROFILES_FILE"),
    ],
)
def test_every_node_has_room_for_large_messages_unless_it_is_not_wanted(
    name: str, distribution: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DISTRO", distribution)
    profile = str(ROOT / "config" / "fastdds_large_messages.xml")
    assert Path(profile).is_file()
    nodes = launched(name, **required(name)).nodes
    assert nodes
    assert all(node.environment == {variable: profile} for node in nodes)
    without = launched(name, **required(name), large_messages="false").nodes
    assert all(node.environment == {} for node in without)
    monkeypatch.setenv(variable, "mine.xml")
    own = launched(name, **required(name)).nodes
    assert all(node.environment == {variable: "mine.xml"} for node in own)


def test_frontend_has_the_topics_and_the_profile_that_were_asked_for(tmp_path: Path) -> None:
    started = launched("frontend", image="/eye/image", profile="robot", namespace="robot1").nodes
    (node,) = started
    assert (node.name, node.namespace) == ("aliked_frontend", "robot1")
    assert node.remappings["image"] == "/eye/image"
    for transport in ("compressed", "ffmpeg", "foxglove"):
        assert node.remappings[f"image/{transport}"] == f"/eye/image/{transport}"
    assert node.files == [str(ROOT / "config" / "robot.yaml")]
    assert node.parameters == {}, "what was not asked for is the parameter file's"
    mine = tmp_path / "mine.yaml"
    mine.write_text("/**: {ros__parameters: {max_keypoints: 300}}")
    (own,) = launched("frontend", params_file=str(mine), autostart="false", sync="exact").nodes
    assert own.files == [str(mine)]
    assert own.parameters == {"autostart": False, "sync": "exact"}


def test_switches_may_be_written_as_in_python() -> None:
    run = launched(
        "frontend", use_sim_time="True", odometry="True", autostart="False", respawn="False"
    )
    node = run.node("frontend_node")
    assert node.parameters == {"autostart": False, "use_sim_time": True}
    assert not node.respawn
    assert run.node("odometry_node").parameters == {"use_sim_time": True}
    play = launched("dataset", source="/data", clock="True", loop="True").node("dataset_player")
    assert (play.parameters["clock"], play.parameters["loop"]) == (100.0, True)


def test_stereo_and_rgbd_are_the_frontend_on_two_topics() -> None:
    stereo = launched("stereo", left_image="/l", right_image="/r", right_camera_info="/i").nodes[0]
    assert stereo.parameters == {"input": "stereo"}
    assert (stereo.remappings["image"], stereo.remappings["right/image"]) == ("/l", "/r")
    assert stereo.remappings["camera_info"] == "left/camera_info"
    assert stereo.remappings["right/camera_info"] == "/i"
    rgbd = launched("rgbd", image="/colour", depth_image="/depth", odometry="true")
    frontend = rgbd.node("frontend_node")
    assert frontend.parameters == {"input": "rgbd"}
    assert frontend.remappings["image"] == "/colour"
    assert frontend.remappings["depth/image"] == "/depth"
    assert frontend.remappings["camera_info"] == "rgb/camera_info"
    assert rgbd.node("odometry_node").namespace == frontend.namespace


@pytest.mark.usefixtures("rviz")
def test_dataset_plays_what_the_frontend_listens_to() -> None:
    run = launched(
        "dataset", source="/data/fr1", publish="rgbd", rate="10.0", clock="true", image="/eye",
        namespace="robot1", odometry="true", rviz="true",
    )  # fmt: skip
    frontend, play = run.node("frontend_node"), run.node("dataset_player")
    # the player's images count, whatever camera the parameter file names
    assert frontend.parameters == {
        "camera_source": "", "input": "rgbd", "image_transport": "raw", "depth_transport": "raw",
        "video_messages": "ffmpeg",
        "use_sim_time": True,
    }  # fmt: skip
    assert {k: play.parameters[k] for k in ("source", "publish", "rate", "loop", "clock")} == {
        "source": "/data/fr1", "publish": "rgbd", "rate": 10.0, "loop": False, "clock": 100.0,
    }  # fmt: skip
    assert play.namespace == frontend.namespace == "robot1"
    assert play.remappings.items() <= frontend.remappings.items()
    assert play.remappings["image"] == "/eye"
    for executable in ("odometry_node", "rviz2"):
        assert run.node(executable).parameters == {"use_sim_time": True}
    with pytest.raises(AssertionError, match="source is required"):
        launched("dataset")


def test_the_front_end_comes_back_and_a_played_recording_ends_all() -> None:
    for name in STARTED:
        for node in launched(name, **required(name)).nodes:
            assert node.respawn == (node.executable not in ("odometry_node", "dataset_player"))
            assert (node.on_exit is not None) == (node.executable == "dataset_player")
    assert not launched("frontend", respawn="false").nodes[0].respawn


@pytest.mark.parametrize(
    ("name", "overwritten"),
    [
        ("stereo", {"image", "camera_info", "input"}),
        ("rgbd", {"input"}),
        ("dataset", {"camera_source", "input", "image_transport", "video_messages"}),
        ("demo", {"camera_source", "input", "image_transport", "use_sim_time"}),
    ],
)
def test_arguments_that_a_file_sets_itself_are_not_offered(name: str, overwritten: set) -> None:
    offered = set(launched(name, **required(name)).declared)
    assert offered & set(launched("frontend").declared)
    assert not offered & overwritten


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("frontend", {"rviz": "true"}, "rviz2 is not installed"),
        ("stereo", {"rviz": "true", "odometry": "true"}, "rviz2 is not installed"),
        ("demo", {"rviz": "true"}, "rviz2 is not installed"),
        ("dataset", {"rate": "abc"}, "rate is 'abc'"),
        ("dataset", {"speed": "-1"}, "speed is '-1'"),
        ("demo", {"rate": "nan"}, "rate is 'nan'"),
        ("frontend", {"namespace": "1st"}, "namespace is '1st'"),
        ("rgbd", {"depth_image": "a b"}, "depth_image is 'a b'"),
        ("cameras", {"image": ""}, "image is ''"),
        ("cameras", {"cameras": ""}, "cameras is empty"),
        ("rig", {"cameras": " , "}, "cameras is empty"),
        ("rig", {"cameras": "front,left,front"}, "cameras has a name twice"),
        ("cameras", {"cameras": "front,le/ft"}, "cameras has 'le/ft'"),
        ("rig", {"images": "/a,/b,/c"}, "images has 3 topics, cameras has 2 names"),
        ("rig", {"images": "/a,/a"}, "images has a topic twice"),
        ("frontend", {"params_file": "/absent.yaml"}, "/absent.yaml, which is not a file"),
        ("cameras", {"params_file": str(ROOT)}, "which is not a file"),
    ],
)
def test_nothing_starts_when_an_argument_is_wrong(
    name: str, arguments: dict[str, str], words: str
) -> None:
    context = Context(required(name) | arguments)
    with pytest.raises(Exception, match=re.escape(words)) as raised:  # AlikedError, of this import
        execute(ROOT / "launch" / f"{name}.launch.py", context)
    assert not context.nodes
    assert str(raised.value).count(".") >= 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("/**: {ros__parameters: {max_keypoint: 5}}", "max_keypoints is the nearest"),
        (
            "/**: {ros__parameters: {diagnostics: {min_rate_wran: 5.0}}}",
            "diagnostics.min_rate_warn",
        ),
        ("aliked_frontend: {ros__parameters: {max_keypoints: 5}}", "only for /aliked_frontend"),
        ("robot1: {aliked_frontend: {ros__parameters: {sorce: 5}}}", "'sorce'"),
        ("/*/aliked_frontend: {ros__parameters: {matchr: nearest}}", "matcher is the nearest"),
        ("max_keypoints: 5", "no ros__parameters"),
        ("", "no ros__parameters"),
        ("[", "cannot be read"),
    ],
)
def test_a_parameter_file_that_would_leave_defaults_is_refused(
    content: str, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(Exception, match=re.escape(words)):
        launched("frontend", params_file=str(file), namespace="robot1")


def test_a_parameter_file_for_the_whole_robot_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "robot.yaml"
    file.write_text(
        """
/**: {ros__parameters: {use_sim_time: true, diagnostics.min_rate_warn: 3.0, ray_noise: 0.01}}
/robot1/aliked_frontend: {ros__parameters: {matcher: nearest, qos_overrides: {/clock: {}}}}
camera_driver: {ros__parameters: {exposure: 5}}
/**/aliked_cameras: {ros__parameters: {cameras: [front], front: {image: /front/image}}}
"""
    )
    for name in ("frontend", "cameras"):
        assert launched(name, params_file=str(file), namespace="robot1").nodes
    assert {item.name for item in odometry_node._DECLARATIONS} == parameters.ODOMETRY_NAMES
    assert {f"*.{item.name.partition('.')[2]}" for item in cameras_node.declarations("front")} == (
        parameters.CAMERAS_NAMES - {"cameras"}
    )


def test_what_launch_imports_needs_nothing_of_the_robots_environment() -> None:
    """``ros2 launch`` runs in the system's Python, which has ROS, and its NumPy and YAML."""
    code = (
        "import sys\n"
        "from aliked_ros.system.packages import PACKAGES\n"
        "sys.modules.update(dict.fromkeys(PACKAGES.keys() - {'numpy', 'yaml'}))\n"
        "import aliked_ros.ros.parameter_file"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    source = (ROOT / "aliked_ros" / "ros" / "launching.py").read_text(encoding="utf-8")
    ours = set(re.findall(r"^from (aliked_ros\S*) import (\w+)", source, re.M))
    assert ours == {
        ("aliked_ros.errors", "ConfigurationError"),
        ("aliked_ros.ros", "parameters"),
        ("aliked_ros.ros.parameter_file", "check_parameter_file"),
    }


def test_demo_loops_the_virtual_camera_and_shows_it_where_rviz_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    run = launched("demo")
    assert run.node("dataset_player").parameters["source"] == "virtual"
    assert run.node("dataset_player").parameters["loop"] is True
    assert {node.executable for node in run.nodes} == {"frontend_node", "dataset_player"}
    assert "aliked_ros view" in " ".join(run.said)
    (index / "rviz2").touch()
    run = launched("demo")
    assert {node.executable for node in run.nodes} == {"frontend_node", "dataset_player", "rviz2"}
    assert not run.said
    asked = launched("demo", rviz="false")
    assert {node.executable for node in asked.nodes} == {"frontend_node", "dataset_player"}


def test_cameras_are_named_in_the_argument_or_in_the_parameter_file() -> None:
    (node,) = launched("cameras", cameras="front,left", image="image_raw", namespace="rig").nodes
    assert node.parameters == {"cameras": ["front", "left"]}
    assert node.name == "", "it would be the name of every node in the process"
    assert node.remappings["image"] == "image_raw"
    assert node.remappings["image/compressed"] == "image_raw/compressed"
    (node,) = launched("cameras", cameras="front", map="rig.mcap").nodes
    assert node.parameters == {"cameras": ["front"], "map": "rig.mcap"}
    file = str(ROOT / "config" / "cameras.yaml")
    (node,) = launched("cameras", params_file=file).nodes
    assert (node.files, node.parameters) == ([file], {})


def shown(displays: list[Any]) -> set[str]:
    """The topics of displays in a view of rviz, those in groups, too."""
    inner = [shown(display.get("Displays", [])) for display in displays]
    topics = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    return topics.union(*inner)


@pytest.mark.usefixtures("rviz")
@pytest.mark.parametrize(("odometry", "name"), [("false", "frontend"), ("true", "odometry")])
def test_rviz_follows_the_nodes_into_their_namespace(odometry: str, name: str) -> None:
    run = launched("frontend", rviz="true", odometry=odometry, namespace="robot1")
    rviz = run.node("rviz2")
    assert rviz.arguments == ["-d", str(ROOT / "rviz" / f"{name}.rviz")]
    view = yaml.safe_load(Path(rviz.arguments[1]).read_text(encoding="utf-8"))
    topics = shown(view["Visualization Manager"]["Displays"])
    assert "/aliked_frontend/tracks/image" in topics
    assert rviz.remappings == {topic: f"robot1{topic}" for topic in topics}


def test_the_example_of_several_cameras_names_parameters_that_exist() -> None:
    file = yaml.safe_load((ROOT / "config" / "cameras.yaml").read_text(encoding="utf-8"))
    rig = file["/**/aliked_cameras"]["ros__parameters"]
    declared = {item.name for item in parameters.DECLARATIONS}
    for camera in rig.pop("cameras"):
        names = {item.name for item in cameras_node.declarations(camera)}
        assert {f"{camera}.{topic}" for topic in rig.pop(camera)} <= names
    assert not rig
    for node in ("/**", "/**/front/aliked_frontend"):
        assert set(file[node]["ros__parameters"]) <= declared


def commands(pattern: str) -> Iterator[tuple[str, list[str]]]:
    """(name, arguments) of the commands in the documentation and in the launch files."""
    for page in [*PAGES, *sorted((ROOT / "launch").glob("*.py"))]:
        joined = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
        for name, rest in re.findall(pattern + r"([^\n`|#]*)", joined):
            yield name, rest.split()


@pytest.mark.usefixtures("rviz")
def test_documented_commands_are_possible() -> None:
    checked = set()
    for name, words in commands(r"ros2 launch aliked_ros (\w+)\.launch\.py"):
        arguments = dict(word.split(":=") for word in words if ":=" in word)
        possible = dict(arguments)
        if "params_file" in arguments:  # the user's own
            possible["params_file"] = str(ROOT / "config" / "cameras.yaml")
        launched(name, **required(name) | possible)
        assert set(words) - {f"{k}:={v}" for k, v in arguments.items()} <= {"--show-args"}, words
        checked.add(name)
    assert checked == set(STARTED)
    assert {name for name, _ in commands(r"ros2 run aliked_ros (\w+)")} <= executables()
