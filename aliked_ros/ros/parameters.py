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

"""The node's parameters: declared from one table, checked, and described for docs/parameters.md.

The settings of the pipeline come from :mod:`aliked_ros.configuration`, with its defaults, limits
and descriptions; the node adds its own. ``python -m aliked_ros.ros.parameters`` prints the
reference page.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node

from aliked_ros.configuration import FrontendConfig, choices, is_checkpoint, names, ranges
from aliked_ros.errors import ConfigurationError

Value = bool | int | float | str


class Change(Enum):
    """When a parameter may be set."""

    AT_START = "at start only"
    UNCONFIGURED = "while unconfigured"
    ANYTIME = "at any time"


@dataclass(frozen=True, slots=True)
class Declaration:
    """One parameter: its default (which also fixes its type), meaning and limits (inclusive).

    needs: a ROS package of messages without which it cannot be true.
    """

    name: str
    default: Value
    description: str
    change: Change
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    needs: str = ""

    @property
    def constraint(self) -> str:
        """The permitted values in words; empty when the type says it all."""
        if self.choices:
            own = ", or a checkpoint's path (.pth)" if self.name == "model" else ""
            return "one of " + ", ".join(self.choices) + own
        return f"{self.limits[0]:g} to {self.limits[1]:g}" if self.limits else ""

    def descriptor(self) -> ParameterDescriptor:
        """What ``ros2 param describe`` shows."""
        descriptor = ParameterDescriptor(
            description=self.description,
            additional_constraints=f"{_sentence(self.constraint)} " * bool(self.choices)
            + f"May be set {self.change.value}.",
            read_only=self.change is Change.AT_START,
        )
        if self.limits is not None:
            low, high = self.limits
            if isinstance(self.default, int):
                descriptor.integer_range = [
                    IntegerRange(from_value=int(low), to_value=int(high), step=1)
                ]
            else:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(low), to_value=float(high))
                ]
        return descriptor

    def checked(self, value: Any) -> Value:
        """The value in this parameter's type (a whole number is welcome as a float).

        Raises ConfigurationError for another type, a value outside the limits, or a package that
        is not installed.
        """
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ConfigurationError(
                f"parameter {self.name} is {value!r}; it must be of type {kind.__name__}."
            )
        own = self.name == "model" and is_checkpoint(str(value))
        if self.choices and value not in self.choices and not own:
            raise ConfigurationError(
                f"parameter {self.name} is {value!r}; choose {self.constraint}."
            )
        if self.limits and not self.limits[0] <= value <= self.limits[1]:  # also refuses NaN
            raise ConfigurationError(
                f"parameter {self.name} is {value}; it must lie in {self.constraint}."
            )
        if self.needs and value:
            try:
                importlib.import_module(f"{self.needs}.msg")
            except ImportError as error:
                package = self.needs.replace("_", "-")
                raise ConfigurationError(
                    f"parameter {self.name} needs ROS's package {self.needs} ({error}); install "
                    f"it (apt install ros-$ROS_DISTRO-{package}), or leave it false."
                ) from error
        return value  # type: ignore[no-any-return]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" + "." * (not text.endswith("."))


def given_value(node: Node, declaration: Declaration) -> Value:
    """The user's value of a parameter not declared yet, else its default.

    Raises ConfigurationError for a bad one. (rclpy itself raises before one can see a value of
    another type, so the parameter is declared without a type for a moment.)
    """
    free = ParameterDescriptor(dynamic_typing=True)
    parameter = node.declare_parameter(declaration.name, declaration.default, free)
    node.undeclare_parameter(declaration.name)
    return declaration.checked(parameter.value)


def declare(node: Node, declarations: Sequence[Declaration]) -> dict[str, Any]:
    """Declare the parameters of a node that cannot start with bad ones; returns the values.

    Raises ConfigurationError for the first value that is not valid, and warns of unknown names.
    """
    warn_of_unknown_names(node, [item.name for item in declarations])
    return declare_known(node, declarations)


def declare_known(node: Node, declarations: Sequence[Declaration]) -> dict[str, Any]:
    """As ``declare``, for a node that looks at unknown names itself."""
    values: dict[str, Any] = {}
    for item in declarations:
        values[item.name] = given_value(node, item)
        node.declare_parameter(
            item.name, values[item.name], item.descriptor(), ignore_override=True
        )
    return values


_LIVE_SETTINGS = frozenset(
    (
        "grid",
        "recover_tracks",
        "keyframe_tracked",
        "keyframe_parallax",
        "keyframe_interval",
        "keyframe_count",
        "epipolar_band",
        "max_disparity",
        "mask_static",
        "score_threshold",
        "match_threshold",
        "depth_confidence",
        "width_confidence",
        "min_similarity",
        "verification",
        "inlier_threshold",
    )
)


def _pipeline_declarations() -> list[Declaration]:
    """The settings of FrontendConfig; their descriptions are the entries of its docstring."""
    # (getdoc: from Python 3.13 on a docstring has lost its indentation)
    entries = re.findall(r"^(\w+): (.+(?:\n {4}.+)*)", inspect.getdoc(FrontendConfig) or "", re.M)
    descriptions = {name: " ".join(text.split()).replace("``", "'") for name, text in entries}
    defaults = FrontendConfig()
    return [
        Declaration(
            name,
            getattr(defaults, name),
            _sentence(descriptions.get(name, "")),
            Change.ANYTIME if name in _LIVE_SETTINGS else Change.UNCONFIGURED,
            ranges().get(name),
            choices().get(name, ()),
        )
        for name in names()
    ]


def _thresholds(
    name: str, figure: str, warn: float, error: float, largest: float
) -> tuple[Declaration, Declaration]:
    """The two levels of one figure in ``/diagnostics``; see docs/operations.md."""
    first, second = (
        Declaration(
            f"diagnostics.{name}_{level}",
            default,
            f"/diagnostics: {level.upper()} {figure}; 0 = off.",
            Change.ANYTIME,
            (0.0, largest),
        )
        for level, default in (("warn", warn), ("error", error))
    )
    return first, second


DECLARATIONS: tuple[Declaration, ...] = (
    *_pipeline_declarations(),
    Declaration(
        "autostart",
        True,
        "Configure and activate at start, without a lifecycle manager.",
        Change.AT_START,
    ),
    Declaration(
        "input",
        "mono",
        "'stereo' pairs image with right/image, both rectified; 'rgbd' with depth/image, "
        "registered to it.",
        Change.UNCONFIGURED,
        choices=("mono", "stereo", "rgbd"),
    ),
    Declaration(
        "sync",
        "exact",
        "Which stamps are one moment: 'exact' = equal ones (a rig that triggers both sensors), "
        "'approximate' = the nearest within sync_tolerance.",
        Change.UNCONFIGURED,
        choices=("exact", "approximate"),
    ),
    Declaration(
        "sync_tolerance",
        0.02,
        "Largest distance of two stamps that sync 'approximate' pairs, seconds; keep it below half "
        "the time between two images.",
        Change.UNCONFIGURED,
        (0.0, 10.0),
    ),
    Declaration(
        "sync_wait",
        0.1,
        "Seconds an image waits for its right or depth image before it goes on alone.",
        Change.UNCONFIGURED,
        (0.001, 10.0),
    ),
    Declaration(
        "image_transport",
        "raw",
        "'raw' subscribes to image, 'compressed' to image/compressed (and right/image/compressed; "
        "depth is always raw).",
        Change.UNCONFIGURED,
        choices=("raw", "compressed"),
    ),
    Declaration(
        "input_reliability",
        "best_effort",
        "QoS of the image subscriptions; 'reliable' receives nothing from best-effort cameras.",
        Change.UNCONFIGURED,
        choices=("best_effort", "reliable"),
    ),
    Declaration(
        "stamps",
        "header",
        "Stamps of images and results: 'header' = the camera's own; 'arrival' = when an image "
        "arrives, for drivers that leave the stamp 0 or repeat it. With it pairs need "
        "sync: approximate.",
        Change.UNCONFIGURED,
        choices=("header", "arrival"),
    ),
    Declaration(
        "input_depth",
        1,
        "QoS of the image subscriptions: images kept waiting; more than 1 makes results older.",
        Change.UNCONFIGURED,
        (1, 100),
    ),
    Declaration(
        "rectified",
        False,
        "Images are rectified: use P of CameraInfo, without distortion, instead of K and D (stereo "
        "always does).",
        Change.UNCONFIGURED,
    ),
    Declaration(
        "mask_file",
        "",
        "Image file of the images' size: no features where it is 0 (parts of the robot, say).",
        Change.UNCONFIGURED,
    ),
    Declaration(
        "mask_border",
        False,
        "Rectified images: no features in the border that rectification left empty, from "
        "CameraInfo's K, D, R and P.",
        Change.UNCONFIGURED,
    ),
    Declaration(
        "publish_descriptors",
        True,
        "Put the descriptors into ~/features.",
        Change.ANYTIME,
    ),
    Declaration(
        "descriptor_encoding",
        "float32",
        "Type of the descriptors in ~/features; 'float16' halves the message.",
        Change.ANYTIME,
        choices=("float32", "float16"),
    ),
    Declaration(
        "publish_matches",
        True,
        "Publish ~/matches.",
        Change.ANYTIME,
    ),
    Declaration(
        "publish_vins",
        False,
        "Publish ~/vins_feature, for VINS-Fusion's estimator.",
        Change.UNCONFIGURED,
    ),
    Declaration(
        "publish_rtabmap",
        False,
        "Publish ~/rtabmap_features, for rtabmap's rgbd_image; needs rtabmap_msgs.",
        Change.UNCONFIGURED,
        needs="rtabmap_msgs",
    ),
    Declaration(
        "status_period",
        1.0,
        "Seconds between two messages on ~/status and /diagnostics.",
        Change.ANYTIME,
        (0.05, 60.0),
    ),
    *_thresholds("max_silence", "after so many seconds without an image", 5.0, 15.0, 3600.0),
    *_thresholds("max_refused", "above this share of images refused", 0.01, 0.5, 1.0),
    *_thresholds(
        "min_tracked", "below this share of keypoints that continue a track", 0.1, 0.0, 1.0
    ),
    *_thresholds("min_rate", "below so many images processed a second", 0.0, 0.0, 1000.0),
    *_thresholds(
        "max_latency", "above so many seconds from received to published, mean", 0.0, 0.0, 60.0
    ),
    *_thresholds("max_dropped", "above this share of images dropped", 0.0, 0.0, 1.0),
    *_thresholds("max_memory", "above so many MB of the node's process", 0.0, 0.0, 1e6),
    Declaration(
        "trail_length",
        15,
        "Length of the tails in ~/tracks/image and ~/annotations, frames.",
        Change.UNCONFIGURED,
        (1, 1000),
    ),
    Declaration(
        "picture_rate",
        10.0,
        "At most so many pictures a second on ~/tracks/image, ~/tracks/markers and ~/annotations, "
        "which people look at; 0 = one for each image.",
        Change.ANYTIME,
        (0.0, 1000.0),
    ),
    Declaration(
        "draw_text",
        True,
        "Write a line of text into ~/tracks/image: rate, features, tracked, inliers, model, "
        "backend.",
        Change.ANYTIME,
    ),
    Declaration(
        "draw_legend",
        True,
        "Draw the colour scale of the track lengths into ~/tracks/image.",
        Change.ANYTIME,
    ),
)

FRONTEND_NAMES = frozenset(item.name for item in DECLARATIONS)
ODOMETRY_NAMES = frozenset(("frontend", "frame_id", "ray_noise", "inverse_depth_noise"))
_TOPIC_NAMES = ("image", "camera_info", "mask", "right_image", "right_camera_info", "depth_image")
CAMERAS_NAMES = frozenset(("cameras", *(f"*.{topic}" for topic in _TOPIC_NAMES)))
ALL_NAMES = FRONTEND_NAMES | ODOMETRY_NAMES | CAMERAS_NAMES
"""What a section of a parameter file that is for several nodes may hold."""
_ROS_NAMES = ("use_sim_time", "start_type_description_service", "qos_overrides.*")


def unknown_names(given: Iterable[str], known: Collection[str]) -> list[str]:
    """The names of parameters that neither ROS has nor ``known``, which may hold ``*``."""
    patterns = (*known, *_ROS_NAMES)
    return [name for name in given if not any(fnmatchcase(name, one) for one in patterns)]


def unknown_name(name: str, known: Collection[str]) -> str:
    """How to call an unknown name in a sentence, with the nearest that is known."""
    nearest = get_close_matches(name, known, 1)
    return f"an unknown parameter {name!r}" + (f" ({nearest[0]} is the nearest)" if nearest else "")


def warn_of_unknown_names(node: Node, known: Collection[str]) -> None:
    """Warn of values that were given for parameters which no node here has: mostly misspelt."""
    given = node._parameter_overrides  # rclpy has no other way to learn of those not declared
    for name in unknown_names(given, {*known, *ALL_NAMES}):
        node.get_logger().warning(
            f"A value was given for {unknown_name(name, known)}; it is ignored. Correct the name "
            "in the parameter file or on the command line."
        )


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
        return FrontendConfig(**{name: self[name] for name in names()})

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
            settings = {name: values.get(name, self[name]) for name in names()}
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
    own, thresholds = names(), "diagnostics."
    node = [item for item in DECLARATIONS if item.name not in own]
    for title, declarations in (
        ("The pipeline", _pipeline_declarations()),
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
        "[several cameras](launch.md#several-cameras-in-one-process)."
    )
    return "\n".join(lines) + "\n"


def _row(item: Declaration) -> str:
    default = str(item.default).lower() if isinstance(item.default, bool) else item.default
    shown = "empty" if default == "" else f"`{default}`"
    values = ", ".join(filter(None, (type(item.default).__name__, item.constraint)))
    return f"| `{item.name}` | {shown} | {values} | {item.change.value} | {item.description} |"


if __name__ == "__main__":
    print(reference(), end="")
