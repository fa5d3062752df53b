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

"""What a node has from configure to cleanup: loaded networks, publishers, the static mask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rclpy.lifecycle import LifecycleNode

from aliked_ros.backends.base import OpenBackend
from aliked_ros.errors import BackendError
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.io.video import import_pyav
from aliked_ros.ros.imu import given_rotation
from aliked_ros.ros.masks import mask_values
from aliked_ros.ros.numbering import Epochs
from aliked_ros.ros.outputs import advertise
from aliked_ros.ros.own_camera import check_source
from aliked_ros.ros.parameters import NodeParameters
from aliked_ros.ros.transports import VIDEO, subscribed
from aliked_ros.sources import read_mask
from aliked_ros.system.cpu import give_back_memory


class Configured:
    """Made at configure, closed at cleanup."""

    def __init__(
        self,
        node: LifecycleNode,
        settings: NodeParameters,
        epochs: Epochs,
        open_backend: OpenBackend,
        progress: Callable[[str], None],
    ) -> None:
        """Load the networks (seconds; minutes to build TensorRT engines), advertise.

        Raises ConfigurationError, and what ``Pipeline`` raises.
        """
        self._node = node
        self._epochs = epochs
        self.config = settings.frontend_config()
        # What would fail at activation is refused now: nonsense, and packages that are missing.
        mask_values(settings["mask_values"])
        given_rotation(settings)
        check_source(settings)
        transport = settings["image_transport"]
        subscribed(transport, settings["video_messages"])
        if transport in VIDEO:
            import_pyav()
        mask_file = settings["mask_file"]
        self.static_mask = read_mask(Path(mask_file)) if mask_file else None
        self._lock = threading.Lock()
        self._closed = False
        self._pipeline = Pipeline(self.config, progress, open_backend)
        try:
            self.publishers = advertise(node, settings)
        except BaseException:
            self._pipeline.close()
            raise

    @property
    def identity(self) -> dict[str, str]:
        """Backend, precision, model and checksum of its weights; some is learnt while working."""
        return self._pipeline.identity | {"backend": self._pipeline.backend}

    @property
    def epoch(self) -> int:
        """The tracker's epoch, counted over the life of the node."""
        return self._epochs.number(self._pipeline.epoch)

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """The pipeline, for one caller at a time; BackendError once it is closed."""
        with self._lock:
            if self._closed:
                raise BackendError(
                    "the node was cleaned up meanwhile; call again when it is active"
                )
            yield self._pipeline

    def close(self) -> None:
        """Take the topics away, free the networks."""
        for _, publisher in self.publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        with self._lock:
            self._closed = True
            self._epochs.retire(self._pipeline.epoch)
            self._pipeline.close()
            del self._pipeline
        give_back_memory()
