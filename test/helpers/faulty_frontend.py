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

"""The front-end's node on a device that fails, or hangs, while a file says so.

The file is named by ALIKED_ROS_FAULT; it holds ``fail`` or ``hang``, and is absent or empty else.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from aliked_ros.backends.create import create_backend
from aliked_ros.ros import running
from aliked_ros.ros.frontend_node import FrontendNode

FILE = Path(os.environ["ALIKED_ROS_FAULT"])


def fault() -> str:
    return FILE.read_text(encoding="utf-8") if FILE.exists() else ""


class Network:
    """ALIKED on the device."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def extract(self, *given: Any, **more: Any) -> Any:
        if fault() == "fail":
            raise RuntimeError("the accelerator is gone")
        while fault() == "hang":
            time.sleep(0.02)
        return self._network.extract(*given, **more)


class Device:
    """The CPU's backend in all but its faults."""

    def __init__(self, *given: Any) -> None:
        self._backend = create_backend(*given)

    def load_extractor(self, model: str) -> Network:
        return Network(self._backend.load_extractor(model))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


if __name__ == "__main__":
    raise SystemExit(running.run(partial(FrontendNode, open_backend=Device)))
