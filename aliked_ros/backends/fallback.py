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

"""A device as long as it works; from its first failure on, the next way, the CPU at last."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from aliked_ros.backends.base import Backend, FeatureNetwork, MatchNetwork
from aliked_ros.errors import BackendError, ModelError
from aliked_ros.types import Features, Float32Array, Matches, UInt8Array

_Network = TypeVar("_Network")
_Result = TypeVar("_Result")


class FallbackBackend:
    """The first backend until it raises BackendError or ModelError, then the second.

    What it returns belongs to no backend, so features of the first go on being matched.
    """

    def __init__(
        self,
        first: Backend,
        name: str,
        make_second: Callable[[BackendError | ModelError], Backend],
        tell: Callable[[str], None],
    ) -> None:
        """``name``: of the first. make_second: gets its error. tell: gets a sentence on it."""
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
        return _Extractor(self, lambda backend: backend.load_extractor(model))

    def load_matcher(self) -> MatchNetwork:
        """See ``Backend``."""
        return _Matcher(self, lambda backend: backend.load_matcher())

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
            self._tell(f"{self._name} failed, going on {where}: {error}")
            self._first.close()
            self._second = second


class _Loaded(Generic[_Network]):
    """A network of the backend in use, loaded again from the next one when that takes over.

    users: how many cameras it serves, in turn.
    """

    users = 1

    def __init__(self, owner: FallbackBackend, load: Callable[[Backend], _Network]) -> None:
        self._owner = owner
        self._load: Callable[[Backend], _Network] = load
        self._loaded: tuple[Backend, _Network] | None = None
        self.use(lambda network: None)  # whether it can be loaded shows now

    def use(self, call: Callable[[_Network], _Result]) -> _Result:
        """Call the network; where it fails, that of the second backend."""
        backend = self._owner.backend
        try:
            return self._use(backend, call)
        except (BackendError, ModelError) as error:
            self._owner.fall_back(backend, error)
        return self._use(self._owner.backend, call)

    def _use(self, backend: Backend, call: Callable[[_Network], _Result]) -> _Result:
        if self._loaded is None or self._loaded[0] is not backend:
            self._loaded = None  # it must not outlive its backend
            self._loaded = backend, self._load(backend)
        network: Any = self._loaded[1]
        network.users = self.users
        return call(network)


class _Extractor(_Loaded[FeatureNetwork]):
    def extract(
        self, pixels: UInt8Array, mask: UInt8Array | None, top_k: int, threshold: float, grid: int
    ) -> tuple[Float32Array, Float32Array, Float32Array]:
        return self.use(lambda network: network.extract(pixels, mask, top_k, threshold, grid))


class _Matcher(_Loaded[MatchNetwork]):
    def match(
        self,
        reference: Features,
        current: Features,
        match_threshold: float,
        depth_confidence: float,
        width_confidence: float,
    ) -> Matches:
        return self.use(
            lambda network: network.match(
                reference, current, match_threshold, depth_confidence, width_confidence
            )
        )
