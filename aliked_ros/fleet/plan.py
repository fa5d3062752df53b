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

"""The plan of a batch: which recordings, what of them, and where to."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from aliked_ros.configuration import SETTINGS, FrontendConfig
from aliked_ros.errors import ConfigurationError, SourceError
from aliked_ros.fleet.storage import expand, is_local
from aliked_ros.models.registry import entry_of

OPERATIONS = ("extract", "track", "keyframes", "record", "odometry", "export")
TRACKING = OPERATIONS[1:]  # they need the images in order
REDUCTIONS = {
    "report": "", "colmap": "export", "map": "record", "vocabulary": "record", "training": "",
}  # with the operation that each builds on  # fmt: skip
TOPICS = ("features", "matches", "keyframes")
DESCRIPTORS = ("float32", "float16", "binary256")
FORMAT = 2  # of the results; another one makes all of them anew
_SEGMENT = 9000  # images: 5 minutes at 30 Hz
NO_MATTER = ("threads", "allow_fallback")  # settings that the results do not depend on


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``batch`` does.

    recordings: as for ``aliked_ros track``, also fsspec URIs, with ``*`` for several.
    output: folder or fsspec URI. operations: of OPERATIONS. reductions: of REDUCTIONS, over all
    recordings. frontend: settings of FrontendConfig; threads is a task's number of cores, 1 unless
    given. limit: most images of a recording. segment: longest part of a recording for one task,
    images. every: one of so many images is exported, and read for the vocabulary. topics: what
    ``record`` writes, of TOPICS. descriptors: their type there, of DESCRIPTORS. gpus: a task's
    share of a GPU, 0 = none; None = one where the cluster has GPUs and the backend can use them.

    Raises ConfigurationError for a value that is not possible.
    """

    recordings: tuple[str, ...]
    output: str
    operations: tuple[str, ...]
    reductions: tuple[str, ...] = ("report",)
    frontend: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    segment: int = _SEGMENT
    every: int = 1
    topics: tuple[str, ...] = TOPICS
    descriptors: str = "float32"
    gpus: float | None = None

    def __post_init__(self) -> None:
        for name in ("recordings", "operations", "topics"):
            if not getattr(self, name):
                raise ConfigurationError(f"the plan has no {name}; give at least one.")
        for what, values, known in (
            ("operation", self.operations, OPERATIONS),
            ("reduction", self.reductions, REDUCTIONS),
            ("topic of a recording", self.topics, TOPICS),
            ("type of descriptors", (self.descriptors,), DESCRIPTORS),
        ):
            for value in values:
                if value not in known:
                    raise ConfigurationError(_unknown(what, value, known))
        for name in ("limit", "segment", "every"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigurationError(f"{name} is {value!r}; give a whole number from 1.")
        if self.gpus is not None and (type(self.gpus) not in (int, float) or self.gpus < 0):
            raise ConfigurationError(f"gpus is {self.gpus!r}; give a number from 0.")
        if not self.output or not isinstance(self.output, str):
            raise ConfigurationError(f"output is {self.output!r}; give a folder or a URI.")
        for name in self.reductions:
            if (needed := REDUCTIONS[name]) and needed not in self.operations:
                raise ConfigurationError(
                    f"the reduction {name!r} joins what the operation {needed!r} writes; add it."
                )
        if "map" in self.reductions:
            if "keyframes" not in self.topics:
                raise ConfigurationError("the reduction 'map' needs 'keyframes' among the topics.")
            if self.descriptors == "binary256":
                raise ConfigurationError(
                    "descriptors is 'binary256', but a map needs floats; set it to 'float16'."
                )
        if "vocabulary" in self.reductions and self.topics == ("matches",):
            raise ConfigurationError(
                "the reduction 'vocabulary' needs 'features' or 'keyframes' among the topics."
            )
        if self.config.detection == "behind":
            raise ConfigurationError(
                "detection is 'behind', whose results depend on the machine's speed; set it to "
                "'every' or a number."
            )

    @property
    def config(self) -> FrontendConfig:
        """The front-end's settings, with a task's number of threads."""
        for name in self.frontend:
            if name not in SETTINGS:
                raise ConfigurationError(_unknown("setting of the front-end", name, SETTINGS))
        try:
            return FrontendConfig(**{"threads": 1, **self.frontend})
        except TypeError as error:  # a text where a number belongs
            raise ConfigurationError(f"frontend: {error}.") from error

    @property
    def basis(self) -> dict[str, Any]:
        """All that the results depend on besides the recording."""
        settings = {n: v for n, v in asdict(self.config).items() if n not in NO_MATTER}
        facts = {
            "format": FORMAT,
            "version": version("aliked_ros"),
            "weights": entry_of(self.config.model).sha256,
            "settings": settings,
            "operations": sorted(set(self.operations)),
            "limit": self.limit,
            "every": self.every if "export" in self.operations else 1,
            "segment": self.segment if "extract" in self.operations else 0,
        }
        if "record" in self.operations:
            facts |= {"topics": sorted(set(self.topics)), "descriptors": self.descriptors}
        return facts

    @property
    def key(self) -> str:
        """Checksum of ``basis``."""
        return hashlib.sha256(json.dumps(self.basis, sort_keys=True).encode()).hexdigest()

    def named_recordings(self) -> dict[str, str]:
        """The recordings by the name of their folder in the output, wildcards expanded.

        Raises SourceError if a wildcard matches nothing, and for a source without an end.
        """
        if "virtual" in self.recordings and self.limit is None:
            raise SourceError("'virtual' has no end; give a limit.")
        named: dict[str, str] = {}
        for pattern in self.recordings:
            found = expand(pattern)
            if not found:
                raise SourceError(f"{pattern} matches no recording.")
            named |= {name_of(recording): recording for recording in found}
        return named


def name_of(recording: str) -> str:
    """The folder of a recording's results: its file's name and a few digits of its address.

    So that two days' ``run.mcap`` keep apart, whatever else is in the plan.
    """
    digest = hashlib.sha256(recording.encode()).hexdigest()[:8]
    stem = re.split(r"[/\\]", re.split(r"#|::", recording)[0].rstrip("/"))[-1]
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', stem).lstrip('.') or 'recording'}-{digest}"


def read_plan(path: Path) -> Plan:
    """Read a plan from YAML; ConfigurationError names what is wrong with it.

    Local paths count from the plan's folder.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigurationError(f"cannot read {path}: {reason}.") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} is no plan: it must be a mapping (see docs/fleet.md).")
    try:
        return plan_of(content, path.parent)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def plan_of(content: Mapping[str, Any], folder: Path = Path()) -> Plan:
    """A plan from the content of its file; folder: what local paths count from."""
    known = [row.name for row in fields(Plan)]
    for name in content:
        if name not in known:
            raise ConfigurationError(_unknown("entry", name, known))
    for name in ("recordings", "output", "operations"):
        if name not in content:
            raise ConfigurationError(f"there is no {name!r}; it is needed.")
    values = dict(content)
    for name in ("recordings", "operations", "reductions", "topics"):
        if name in values:
            values[name] = _texts(name, values[name])
    values["recordings"] = tuple(absolute(one, folder) for one in values["recordings"])
    values["output"] = absolute(str(values["output"] or ""), folder)
    if not isinstance(values.get("frontend", {}), dict):
        raise ConfigurationError("frontend must map settings to values.")
    return Plan(**values)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, Sequence) or not all(isinstance(one, str) for one in listed):
        raise ConfigurationError(f"{name} is {value!r}; give a list of texts.")
    return tuple(dict.fromkeys(listed))


def absolute(address: str, folder: Path = Path()) -> str:
    """The address, absolute where it is a path: a cluster's tasks run in another folder."""
    if not is_local(address) or address in ("", "virtual"):
        return address
    # Path.expanduser raises for a name such as ~old, where there is no such user
    return str((folder / os.path.expanduser(address)).absolute())


def _unknown(what: str, name: Any, known: Any) -> str:
    close = difflib.get_close_matches(str(name), known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(known)}."
    return f"{name!r} is no {what}; {hint}"
