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

"""Loaded networks that several pipelines of one process share.

The networks take nearly all of a front-end's memory and depend on no camera, so several cameras
need them only once if they take turns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from aliked_ros.backends.base import Backend, FeatureNetwork, MatchNetwork, Tell
from aliked_ros.backends.create import create_backend
from aliked_ros.backends.proxy import Proxy
from aliked_ros.configuration import SETTINGS, FrontendConfig

_KEY = [name for name, setting in SETTINGS.items() if setting.backend]


class SharedBackends:
    """Hands out backends; those of equal settings have the same networks. For any thread.

    One user at a time runs a network: its results lie in memory that the next call overwrites, and
    a call uses all threads of the backend, so two at once would not finish sooner. Turns are first
    come, first served, so that no camera starves. A turn is one call, not one image: while a
    network runs for one camera, another's geometry is computed.
    """

    def __init__(self) -> None:
        self._engines: dict[tuple[Any, ...], _Engine] = {}
        self._lock = threading.Lock()  # held while something loads, so that it is loaded once

    def __len__(self) -> int:
        """How many different backends are in use."""
        return len(self._engines)

    def open(self, config: FrontendConfig, progress: Tell | None = None) -> SharedBackend:
        """As ``create_backend``. Each user closes what it got; the last one frees the memory."""
        key = tuple(getattr(config, name) for name in _KEY)
        with self._lock:
            engine = self._engines.get(key)
            if engine is None:
                engine = self._engines[key] = _Engine(config, progress)
            backend = SharedBackend(self, engine, progress)
            engine.users.append(backend)
            return backend

    def borrow(self, user: SharedBackend, name: str, load: Callable[[Backend], Any]) -> Any:
        """The user's network of this name, loaded for it when it is the first."""
        engine = user.engine
        with self._lock:
            if name not in engine.networks:
                with engine.loading_for(user):
                    engine.networks[name] = load(engine.backend)
            user.borrowed.add(name)
            engine.count_users(name)
            return engine.networks[name]

    def give_back(self, user: SharedBackend) -> None:
        """Free what nobody else uses; nothing at a second call."""
        engine = user.engine
        with self._lock:
            if user not in engine.users:
                return
            engine.users.remove(user)
            for name in user.borrowed:
                engine.count_users(name)
            if not engine.users:
                engine.backend.close()
                self._engines = {k: e for k, e in self._engines.items() if e is not engine}


class SharedBackend:
    """What one user sees of a backend that others use, too; see ``Backend``."""

    def __init__(
        self, owner: SharedBackends, engine: _Engine, progress: Tell | None = None
    ) -> None:
        self.engine, self.progress = engine, progress
        self.borrowed: set[str] = set()
        self.resting = True
        self._owner = owner

    @property
    def description(self) -> str:
        """See ``Backend``."""
        return self.engine.backend.description

    @property
    def identity(self) -> dict[str, str]:
        """See ``Backend``."""
        return self.engine.backend.identity

    def load_extractor(self, model: str) -> FeatureNetwork:
        """See ``Backend``; another user may have loaded it already."""
        network: FeatureNetwork = self._borrow(model, lambda backend: backend.load_extractor(model))
        return network

    def load_matcher(self) -> MatchNetwork:
        """See ``Backend``; another user may have loaded it already."""
        network: MatchNetwork = self._borrow("lightglue", lambda backend: backend.load_matcher())
        return network

    def _borrow(self, name: str, load: Callable[[Backend], Any]) -> Any:
        """A network whose every call waits for this user's turn."""
        network = self._owner.borrow(self, name, load)

        def use(call: Callable[[Any], Any]) -> Any:
            with self.engine.turns:
                self.resting = False
                return call(network)

        return Proxy[Any](use)

    def release(self) -> None:
        """See ``Backend``; takes effect once every user has asked for it."""
        with self.engine.turns:
            self.resting = True
            if all(user.resting for user in self.engine.users):
                self.engine.backend.release()

    def close(self) -> None:
        """See ``Backend``; what others use stays."""
        self._owner.give_back(self)


class _Turns:
    """A first-come, first-served lock."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._tickets = self._serving = 0

    def __enter__(self) -> None:
        with self._changed:
            ticket = self._tickets
            self._tickets += 1
            self._changed.wait_for(lambda: self._serving == ticket)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._serving += 1
            self._changed.notify_all()


class _Engine:
    """One backend, its loaded networks by name, and who uses them."""

    def __init__(self, config: FrontendConfig, progress: Tell | None) -> None:
        self.networks: dict[str, Any] = {}
        self.users: list[SharedBackend] = []
        self.turns = _Turns()
        self._listener = progress
        self.backend = create_backend(config, self._tell)
        self._listener = None

    def count_users(self, name: str) -> None:
        """Set how many cameras a network serves; drop it when there are none."""
        users = sum(name in user.borrowed for user in self.users)
        if users:
            self.networks[name].users = users
        else:
            del self.networks[name]

    @contextmanager
    def loading_for(self, user: SharedBackend) -> Iterator[None]:
        """Report progress to this user only."""
        self._listener = user.progress
        try:
            yield
        finally:
            self._listener = None

    def _tell(self, step: str) -> None:
        """To the user that a network is loaded for, otherwise to all."""
        listeners = [self._listener] if self._listener else [user.progress for user in self.users]
        for listener in listeners:
            if listener is not None:
                listener(step)
