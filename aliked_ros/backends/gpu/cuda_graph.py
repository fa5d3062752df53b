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

"""CUDA graphs, by the driver's own library: pycuda (2026.1) has none."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aliked_ros.errors import BackendError
from aliked_ros.system.nvidia import error_text, explained, load_driver

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may do what they like


class CudaGraph:
    """A recording of what a function launches on a stream, replayed as one launch.

    It reads and writes the same places in memory each time. All calls are made while the context
    is current. (CUDA driver API, "Stream Management" and "Graph Management")
    """

    def __init__(self, stream: int, launch: Callable[[], None]) -> None:
        """Record ``launch``, which computes nothing meanwhile; BackendError where that fails."""
        self._driver: Any = load_driver()
        self._stream = ctypes.c_void_p(stream)
        self._graph, self._executable = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            self._call("cuStreamBeginCapture_v2", self._stream, _THREAD_LOCAL)
            try:
                launch()
            finally:  # else the stream would stay in this state
                self._call("cuStreamEndCapture", self._stream, ctypes.byref(self._graph))
            self._call(
                "cuGraphInstantiateWithFlags",
                ctypes.byref(self._executable),
                self._graph,
                ctypes.c_ulonglong(0),
            )
        except BaseException:
            self.close()
            raise

    def launch(self) -> None:
        """Start what was recorded."""
        self._call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Give back what the graph holds."""
        for destroy, part in (
            ("cuGraphExecDestroy", self._executable),
            ("cuGraphDestroy", self._graph),
        ):
            if part:
                with suppress(BackendError):  # of a lost GPU
                    self._call(destroy, part)
                part.value = None

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            code = getattr(self._driver, name)(*arguments)
        except AttributeError as error:
            raise BackendError(
                f"The NVIDIA driver has no {name}; update it for CUDA graphs."
            ) from error
        if code != 0:
            raise explained(name, [f"CUDA error {code}, {error_text(self._driver, code)}"])
