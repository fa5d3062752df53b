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

"""Parameters of the nodes: declared from tables, checked, described."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.validate_topic_name import validate_topic_name

from aliked_ros.configuration import Setting, Value
from aliked_ros.errors import ConfigurationError

_NAMES = {
    "node": "aliked_frontend or /robot1/aliked_frontend",
    "topic": "image or /camera/image_raw",
}


class Change(Enum):
    """When a parameter may be set."""

    AT_START = "at start only"
    UNCONFIGURED = "while unconfigured"
    ANYTIME = "at any time"


class Settings(Protocol):
    """A node's parameters by name."""

    def __getitem__(self, name: str) -> Any:
        """Current value of a parameter."""
        ...


@dataclass(frozen=True, slots=True)
class Declaration(Setting):
    """One parameter.

    needs: a ROS package of messages without which it cannot be true. names: what it is the name
    of, ``node`` or ``topic``, if it is not empty.
    """

    change: Change = Change.AT_START
    needs: str = ""
    names: str = ""

    def descriptor(self) -> ParameterDescriptor:
        """What ``ros2 param describe`` shows."""
        constraint = ""
        if self.choices or self.unit:
            constraint = f"{self.constraint[:1].upper()}{self.constraint[1:]}. "
        descriptor = ParameterDescriptor(
            description=self.help,
            additional_constraints=f"{constraint}May be set {self.change.value}.",
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
        """The value in this parameter's type (a number is welcome as a text, a whole one as float).

        Raises ConfigurationError for another type, a value that is not permitted, or a package
        that is not installed.
        """
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        elif kind is str and type(value) in (int, float) and self.other is not None:
            value = str(value)  # YAML's 3 for '3'
        if type(value) is not kind:
            raise ConfigurationError(
                f"parameter {self.name} is {value!r}; it must be of type {kind.__name__}."
            )
        self.check(value, f"parameter {self.name}")
        if self.names and value:
            try:
                validate_topic_name(str(value))
            except InvalidTopicNameException as error:
                raise ConfigurationError(
                    f"parameter {self.name} is {value!r}; it must be the name of a {self.names}, "
                    f"such as {_NAMES[self.names]}."
                ) from error
        if self.needs and value:
            try:
                importlib.import_module(f"{self.needs}.msg")
            except ImportError as error:
                package = self.needs.replace("_", "-")
                off = "false" if self.default is False else "empty"
                raise ConfigurationError(
                    f"parameter {self.name} needs ROS's package {self.needs} ({error}); install "
                    f"it (apt install ros-$ROS_DISTRO-{package}), or leave it {off}."
                ) from error
        return value


def given_value(node: Node, declaration: Declaration) -> Value:
    """The user's value of a parameter not declared yet, else its default.

    Raises ConfigurationError for a bad one. (rclpy itself raises before one can see a value of
    another type, so the parameter is declared without a type for a moment.)
    """
    free = ParameterDescriptor(dynamic_typing=True)
    parameter = node.declare_parameter(declaration.name, declaration.default, free)
    node.undeclare_parameter(declaration.name)
    return declaration.checked(parameter.value)


def declare_known(node: Node, declarations: Sequence[Declaration]) -> dict[str, Any]:
    """Declare the parameters of a node that cannot start with bad values; returns the values.

    Raises ConfigurationError for the first value that is not valid.
    """
    values: dict[str, Any] = {}
    for item in declarations:
        values[item.name] = given_value(node, item)
        node.declare_parameter(
            item.name, values[item.name], item.descriptor(), ignore_override=True
        )
    return values
