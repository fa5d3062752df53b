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

"""A backend until it first fails; from then on the next one, and at last the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from aliked_ros.backends.base import Backend, FeatureNetwork, MatchNetwork, Tell
from aliked_ros.backends.proxy import Proxy
from aliked_ros.errors import BackendError, ModelError


class FallbackBackend:
    """The first backend until it raises BackendError or ModelError, then the second.

    What it returns belongs to no backend, so features of the first go on being matched.
    """

    def __init__(
        self,
        first: Backend,
        name: str,
        make_second: Callable[[BackendError | ModelError], Backend],
        tell: Tell,
    ) -> None:
        """``name``: of the first. make_second: gets its error. tell: gets a sentence about it."""
        self._first, self._name = first, name
        self._second: Backend | None = None
        self._make_second, self._tell = make_second, tell
        self._lock = threading.Lock()

    @property
    def backend(self) -> Backend:
        """The one in use."""
        return self._first if self._second is None else self._second

    @property
    def description(self) -> str:
        """See ``Backend``."""
        return self.backend.description

    @property
    def identity(self) -> dict[str, str]:
        """See ``Backend``."""
        return {"engine": "", **self.backend.identity}

    def load_extractor(self, model: str) -> FeatureNetwork:
        """See ``Backend``."""
        return _Loaded(self, lambda backend: backend.load_extractor(model))

    def load_matcher(self) -> MatchNetwork:
        """See ``Backend``."""
        return _Loaded(self, lambda backend: backend.load_matcher())

    def release(self) -> None:
        """See ``Backend``."""
        self.backend.release()

    def close(self) -> None:
        """See ``Backend``."""
        self.backend.close()

    def fall_back(self, failed: Backend, error: BackendError | ModelError) -> None:
        """Go over to the second backend; raises the error when that is the one that failed."""
        with self._lock:  # one camera may load a network while another's fails
            if failed is self._second:
                raise error
            if self._second is not None:
                return
            second = self._make_second(error)
            cpu = second.description.startswith("cpu")
            where = "on the CPU" if cpu else f"with {second.description}"
            self._tell(f"{self._name} failed, continuing {where}: {error}")
            self._first.close()
            self._second = second


class _Loaded(Proxy[Any]):
    """A network of the backend in use, loaded again from the next one when that takes over."""

    def __init__(self, owner: FallbackBackend, load: Callable[[Backend], Any]) -> None:
        super().__init__(self._call)
        self._owner, self._load = owner, load
        self._loaded: tuple[Backend, Any] | None = None
        self._call(lambda network: None)  # whether it can be loaded shows now

    def _call(self, call: Callable[[Any], Any]) -> Any:
        """Call the network; where it fails, that of the next backend."""
        backend = self._owner.backend
        try:
            return call(self._network(backend))
        except (BackendError, ModelError) as error:
            self._owner.fall_back(backend, error)
        return call(self._network(self._owner.backend))

    def _network(self, backend: Backend) -> Any:
        if self._loaded is None or self._loaded[0] is not backend:
            self._loaded = None  # it must not outlive its backend
            self._loaded = backend, self._load(backend)
        network = self._loaded[1]
        network.users = self.users
        return network
