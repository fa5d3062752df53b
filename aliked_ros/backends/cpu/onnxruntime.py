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

"""ONNX Runtime: the portable fallback, float32 only."""

from __future__ import annotations

import onnxruntime

from aliked_ros.backends.cpu.runtime import Array
from aliked_ros.errors import ModelError


class _Network:
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._names = [i.name for i in session.get_inputs()]

    def __call__(self, *inputs: Array) -> list[Array]:
        results: list[Array] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return results


class OnnxRuntime:
    """Loads graphs as ONNX Runtime sessions."""

    bfloat16 = False

    def __init__(self, threads: int, spinning: bool = False) -> None:
        """``spinning``: idle threads keep their cores busy, for one graph that runs alone."""
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        # spinning threads would take the cores from the compiled loops between two graphs
        self._options.add_session_config_entry(
            "session.intra_op.allow_spinning", "1" if spinning else "0"
        )
        self._options.log_severity_level = 3
        self.name = f"ONNX Runtime {onnxruntime.__version__}"

    def load(
        self,
        graph: bytes,
        *,
        bfloat16: bool = False,
        bfloat16_outputs: bool = False,
        shape: tuple[int, ...] | None = None,
    ) -> _Network:
        """See ``Runtime.load``."""
        try:
            session = onnxruntime.InferenceSession(
                graph, self._options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class
            raise ModelError(f"{self.name} cannot load a network: {error}.") from error
        return _Network(session)
