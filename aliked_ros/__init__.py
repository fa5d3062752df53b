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

"""ALIKED features, LightGlue matches and persistent tracks from camera images."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aliked_ros.configuration import FrontendConfig
    from aliked_ros.frontend.pipeline import Pipeline
    from aliked_ros.sources import open_source
    from aliked_ros.types import Features, Matches, Tracks

__version__ = "0.1.0"
__all__ = ["Features", "FrontendConfig", "Matches", "Pipeline", "Tracks", "open_source"]

_HOMES = {
    "Features": "aliked_ros.types",
    "FrontendConfig": "aliked_ros.configuration",
    "Matches": "aliked_ros.types",
    "Pipeline": "aliked_ros.frontend.pipeline",
    "Tracks": "aliked_ros.types",
    "open_source": "aliked_ros.sources",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: entry points must start quickly."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
