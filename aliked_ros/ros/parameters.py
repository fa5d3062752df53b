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

"""The parameters of a running node: unknown names, checks, and docs/parameters.md.

``python -m aliked_ros.ros.parameters`` prints that page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node

from aliked_ros.configuration import SETTINGS, FrontendConfig
from aliked_ros.errors import ConfigurationError
from aliked_ros.ros.declarations import Change, Declaration, declare_known, given_value
from aliked_ros.ros.frontend_parameters import DECLARATIONS

FRONTEND_NAMES = frozenset(item.name for item in DECLARATIONS)
ODOMETRY_NAMES = frozenset(
    (
        "frontend", "rig", "frame_id", "base_frame", "camera_pose", "publish_tf",
        "imu_topic", "gravity_wait", "ray_noise", "inverse_depth_noise",
    )
)  # fmt: skip
_TOPIC_NAMES = ("image", "camera_info", "mask", "right_image", "right_camera_info", "depth_image")
CAMERAS_NAMES = frozenset(("cameras", *(f"*.{topic}" for topic in _TOPIC_NAMES)))
RIG_NAMES = CAMERAS_NAMES | frozenset(
    ("camchain", "rig_frame", "sync_tolerance", "sync_wait", "min_similarity", "inlier_threshold")
)
ALL_NAMES = FRONTEND_NAMES | ODOMETRY_NAMES | RIG_NAMES
"""What a section of a parameter file that is for several nodes may hold."""
_CAMERA_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")  # a namespace, and a part of parameters' names
_QOS = "qos_overrides."
_ROS_NAMES = ("use_sim_time", "start_type_description_service", f"{_QOS}*")


def unknown_names(given: Iterable[str], known: Collection[str]) -> list[str]:
    """The names of parameters that neither ROS has nor ``known``, which may hold ``*``."""
    patterns = (*known, *_ROS_NAMES)
    return [name for name in given if not any(fnmatchcase(name, one) for one in patterns)]


def unknown_name(name: str, known: Collection[str]) -> str:
    """How to call an unknown name in a sentence, with the nearest that is known."""
    nearest = get_close_matches(name, known, 1)
    return f"an unknown parameter {name!r}" + (f" ({nearest[0]} is the nearest)" if nearest else "")


def check_camera_names(names: Sequence[str]) -> None:
    """Raises ConfigurationError for names of cameras that cannot be used, or a name twice."""
    for name in names:
        if not _CAMERA_NAME.fullmatch(name):
            raise ConfigurationError(
                f"cameras has {name!r}; a name has letters, digits and _, and begins with a letter."
            )
    if len(set(names)) < len(names):
        raise ConfigurationError(f"cameras has a name twice: {', '.join(names)}.")


def warn_of_unknown_names(node: Node, known: Collection[str]) -> None:
    """Warn of values given for parameters that no node of ours has; most are misspelt."""
    given = node._parameter_overrides  # rclpy has no public way to get those not declared
    qos = next((name for name in given if name.startswith(_QOS)), None)
    if qos is not None:
        node.get_logger().warning(
            f"A value was given for {qos}; it is ignored, as are all {_QOS}*. The front-end has "
            "input_reliability and input_depth instead."
        )
    for name in unknown_names(given, {*known, *ALL_NAMES}):
        node.get_logger().warning(
            f"A value was given for {unknown_name(name, known)}; it is ignored. Correct the name "
            "in the parameter file or on the command line."
        )


def declare(node: Node, declarations: Sequence[Declaration]) -> dict[str, Any]:
    """Declare the parameters of a node that cannot start with bad values; returns the values.

    Raises ConfigurationError for the first value that is not valid, and warns of unknown names.
    """
    warn_of_unknown_names(node, [item.name for item in declarations])
    return declare_known(node, declarations)


@dataclass
class NodeParameters:
    """The declared parameters of one node.

    A bad value in the parameter file or on the command line does not end the node: the default
    takes its place, and :meth:`frontend_config` refuses with the reason until a good one is set.

    configured: whether the node is configured now, which locks ``Change.UNCONFIGURED``.
    """

    node: Node
    configured: Callable[[], bool]
    _problems: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Declare everything."""
        warn_of_unknown_names(self.node, FRONTEND_NAMES)
        for declaration in DECLARATIONS:
            value = declaration.default
            try:
                value = given_value(self.node, declaration)
            except ConfigurationError as error:
                self._problems[declaration.name] = str(error)
            self.node.declare_parameter(
                declaration.name, value, declaration.descriptor(), ignore_override=True
            )
        self.node.add_on_set_parameters_callback(self._check)

    def __getitem__(self, name: str) -> Any:
        """Current value of a parameter."""
        return self.node.get_parameter(name).value

    def frontend_config(self) -> FrontendConfig:
        """The pipeline's settings; ConfigurationError names every value that is not valid."""
        if self._problems:
            raise ConfigurationError(" ".join(self._problems.values()))
        return FrontendConfig(**{name: self[name] for name in SETTINGS})

    def accept(self, parameters: Sequence[Any]) -> None:
        """Forget the bad values that these parameters had at start; they have been set since."""
        for parameter in parameters:
            self._problems.pop(parameter.name, None)

    def _check(self, parameters: Sequence[Any]) -> SetParametersResult:
        """Refuse, with the reason, what is not valid or cannot change now."""
        by_name = {declaration.name: declaration for declaration in DECLARATIONS}
        values = {p.name: p.value for p in parameters if p.name in by_name}
        try:
            for name, value in values.items():
                declaration = by_name[name]
                locked = declaration.change is Change.UNCONFIGURED and self.configured()
                # The value it has is welcome at any time: ros2 param load sets them all.
                if declaration.checked(value) != self[name] and locked:
                    raise ConfigurationError(
                        f"parameter {name} may be set {declaration.change.value}: "
                        f"{_transitions(self.node, 'deactivate', 'cleanup')}; set it; "
                        f"{_transitions(self.node, 'configure', 'activate')}."
                    )
            settings = {name: values.get(name, self[name]) for name in SETTINGS}
            FrontendConfig(**settings)
        except ConfigurationError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def _transitions(node: Node, *labels: str) -> str:
    """The commands that take a node through lifecycle transitions."""
    name = node.get_fully_qualified_name()
    return " && ".join(f"ros2 lifecycle set {name} {label}" for label in labels)


def refused_read_only(names: Sequence[str]) -> str:
    """The answer to setting parameters of ``Change.AT_START``; rclpy's own has no remedy."""
    fixed = {item.name for item in DECLARATIONS if item.change is Change.AT_START}
    named = next((name for name in names if name in fixed), ", ".join(names))
    return (
        f"parameter {named} is read-only: it is read when the node starts. Put it into the "
        f"parameter file, or start the node with --ros-args -p {named}:=VALUE."
    )


def reference() -> str:
    """The page docs/parameters.md."""
    lines = [
        "# Parameters of `aliked_frontend`",
        "",
        "Written by `python -m aliked_ros.ros.parameters > docs/parameters.md`; a test keeps it "
        "current.",
        "",
        "Give them in a parameter file (`config/*.yaml` holds three profiles), on the command line "
        "(`--ros-args -p max_keypoints:=512`), or with `ros2 param set`. A bad value never ends "
        "the node: `ros2 param set` answers with the reason; at start the node stays "
        "`unconfigured` and says the reason in its log, in `~/status` and in `/diagnostics`, "
        "until a good value is set and it is configured again. Those of the pipeline are "
        "`FrontendConfig`'s in Python and, some of them, options of the command line. What a "
        "threshold does: [operations](operations.md#thresholds).",
        "",
    ]
    thresholds = "diagnostics."
    node = [item for item in DECLARATIONS if item.name not in SETTINGS]
    for title, declarations in (
        ("The pipeline", [item for item in DECLARATIONS if item.name in SETTINGS]),
        ("The node", [item for item in node if not item.name.startswith(thresholds)]),
        ("Thresholds", [item for item in node if item.name.startswith(thresholds)]),
    ):
        lines += [
            f"## {title}",
            "",
            "| parameter | default | type, values | may be set | meaning |",
        ]
        lines += ["|---|---|---|---|---|", *map(_row, declarations), ""]
    lines.append(
        "Parameters of the other nodes: [player](player_recorder.md#dataset_player), "
        "[recorder](player_recorder.md#recorder), [odometry](odometry.md#topics), "
        "[several cameras](launch.md#several-cameras-in-one-process), [rigs](rigs.md#parameters)."
    )
    return "\n".join(lines) + "\n"


def _row(item: Declaration) -> str:
    default = str(item.default).lower() if isinstance(item.default, bool) else item.default
    shown = "empty" if default == "" else f"`{default}`"
    values = ", ".join(filter(None, (type(item.default).__name__, item.constraint)))
    return f"| `{item.name}` | {shown} | {values} | {item.change.value} | {item.help} |"


if __name__ == "__main__":
    print(reference(), end="")
