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

"""What the commands share: options, and how they print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aliked_ros.configuration import SETTINGS, FrontendConfig
from aliked_ros.console.options import Command, shared_options
from aliked_ros.errors import BackendError

if TYPE_CHECKING:
    from rich.console import Console

    from aliked_ros.backends.base import Backend

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

MaskFile = Annotated[
    Path | None,
    typer.Option("--mask", dir_okay=False, help="Picture of the images' size: black is ignored."),
]
MaskStatic = Annotated[
    bool,
    typer.Option(
        "--mask-static/--no-mask-static",
        help="Ignore what is fixed to the image while the camera moves.",
    ),
]


EXTRACTION = {
    "model": "--model",
    "max_keypoints": "--top-k",
    "score_threshold": "--threshold",
    "backend": "--backend",
    "precision": "--precision",
    "threads": "--threads",
}
MATCHING = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        "matcher", "match_threshold", "depth_confidence", "width_confidence", "min_similarity",
    )
}  # fmt: skip


def help_of(name: str) -> str:
    """The help of a setting."""
    return SETTINGS[name].full_help


def frontend_options(offered: dict[str, str], **fixed: Any) -> Callable[[Command], Command]:
    """Give a command options of the front-end; it gets them checked, as its ``config``.

    offered: setting → option. fixed: settings that are not offered, where they differ from the
    defaults.
    """
    options = {}
    for name, flag in offered.items():
        default = SETTINGS[name].default
        options[name] = Annotated[type(default), typer.Option(flag, help=help_of(name))], default
    return shared_options(options, "config", lambda **settings: FrontendConfig(**settings, **fixed))


def require_ros(who: str, otherwise: str = "") -> None:
    """BackendError, unless ROS 2 and the messages can be imported."""
    absent = [name for name in ("rclpy", "aliked_msgs") if find_spec(name) is None]
    if absent:
        raise BackendError(
            f"{who} ROS 2 ({' and '.join(absent)} not found): run 'make setup', or build the "
            f"workspace with colcon and source it. {otherwise}".rstrip()
        )


@contextmanager
def open_backend(config: FrontendConfig) -> Iterator[Backend]:
    """The inference backend; closed when the block ends."""
    from aliked_ros.backends.create import create_backend

    with closing(create_backend(config, say)) as backend:
        yield backend


def console() -> Console:
    """Standard error, for progress."""
    from rich.console import Console

    return Console(stderr=True)


def say(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr, flush=True)


def text_of(path: Path | None) -> str | None:
    """A path for JSON."""
    return None if path is None else str(path)


def show(facts: dict[str, Any], as_json: bool) -> None:
    """Print facts as JSON, or one a line, those of a group indented."""
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
        if value is not None:
            print(f"{name.replace('_', ' '):<{width}}  {value}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {one}" for key, one in value.items()) + ")"
    return str(value).replace("_", " ")
