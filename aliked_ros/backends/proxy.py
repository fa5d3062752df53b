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

"""Networks whose calls pass through a function: turns and fallback, whatever the methods are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

_Network = TypeVar("_Network")

Use = Callable[[Callable[[_Network], Any]], Any]
"""Gets what to do with the network; returns its result."""


class Proxy(Generic[_Network]):
    """Has the methods of a network; ``use`` makes each call.

    users: see ``FeatureNetwork``.
    """

    users = 1

    def __init__(self, use: Use[_Network]) -> None:
        self._use = use

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def method(*args: Any, **kwargs: Any) -> Any:
            return self._use(lambda network: getattr(network, name)(*args, **kwargs))

        return method
