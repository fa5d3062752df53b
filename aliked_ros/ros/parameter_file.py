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

"""Checks a parameter file before the nodes that it is for are launched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from aliked_ros.errors import ConfigurationError
from aliked_ros.ros import parameters


def check_parameter_file(path: str, namespace: str, nodes: dict[str, frozenset[str]]) -> set[str]:
    """A parameter file for nodes, each with the names of its parameters; the names that it gives.

    It has to exist, to say something for one of them, and to use only names that they know. What it
    has for other nodes is theirs.
    """
    if not Path(path).is_file():
        raise ConfigurationError(
            f"params_file is {path}, which is not a file; give its full path, or leave it out "
            "to use a profile."
        )
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split())
        raise ConfigurationError(
            f"params_file {path} cannot be read: {problem}; it must be YAML, as those in config/."
        ) from error
    sections = dict(_sections(content, ""))
    full = {"/".join(filter(None, [namespace.strip("/"), name])): name for name in nodes}
    used = {pattern: [n for n in full if _addresses(pattern, n)] for pattern in sections}
    if not any(used.values()):
        found = f"only for {', '.join(sections)}" if sections else "no ros__parameters at all"
        raise ConfigurationError(
            f"params_file {path} has nothing for /{next(iter(full))} ({found}); put its parameters "
            "under /**: ros__parameters:, or under the node's full name."
        )
    for pattern, addressed in used.items():
        if not addressed:
            continue
        if "*" in pattern:  # also for our nodes that are not started now
            known = parameters.ALL_NAMES
        else:
            known = frozenset[str]().union(*(nodes[full[name]] for name in addressed))
        unknown = parameters.unknown_names(sections[pattern], known)
        if unknown:
            name = parameters.unknown_name(unknown[0], known)
            raise ConfigurationError(
                f"params_file {path} has {name} under {pattern}; correct or remove it."
            )
    return {name for pattern, addressed in used.items() if addressed for name in sections[pattern]}


def _sections(content: Any, path: str) -> list[tuple[str, list[str]]]:
    """(pattern of nodes' names, names of the parameters) of a parameter file."""
    if not isinstance(content, dict):
        return []
    found = []
    for key, value in content.items():
        if key == "ros__parameters":
            found.append((path, _flat(value, "")))
        else:
            found += _sections(value, f"{path}/{str(key).strip('/')}")
    return found


def _flat(values: Any, prefix: str) -> list[str]:
    if not isinstance(values, dict):
        return [prefix.rstrip(".")] if prefix else []
    return [name for key, value in values.items() for name in _flat(value, f"{prefix}{key}.")]


def _addresses(pattern: str, name: str) -> bool:
    """Whether a section is for a node: ``*`` is one part of its name, ``**`` any number of them."""

    def match(parts: list[str], rest: list[str]) -> bool:
        if not parts:
            return not rest
        if parts[0] == "**":
            return any(match(parts[1:], rest[count:]) for count in range(len(rest) + 1))
        same = bool(rest) and (parts[0] == "*" or rest[0] in ("*", parts[0]))
        return same and match(parts[1:], rest[1:])

    return match(pattern.strip("/").split("/"), name.split("/"))
