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

"""A reduction of a batch without Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Here:
    """Runs at once what a cluster would."""

    def __call__(self, function: Callable[..., Any], *arguments: Any, returns: int = 1) -> Any:
        result = function(*arguments)
        return result if returns == 1 else list(result)

    def put(self, value: Any) -> Any:
        return value

    def get(self, handle: Any) -> Any:
        return handle
