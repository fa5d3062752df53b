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

"""Node ``aliked_cameras``: the front-ends of several cameras in one process, networks loaded once.

Each camera has a whole front-end: a :class:`FrontendNode` in a namespace of the camera's name, with
parameters, lifecycle, status and diagnostics of its own, and a thread that serves it. They share
only loaded networks (:mod:`aliked_ros.backends.shared`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rclpy.exceptions import InvalidParameterTypeException, InvalidTopicNameException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.validate_topic_name import validate_topic_name

from aliked_ros.backends.base import OpenBackend
from aliked_ros.backends.shared import SharedBackends
from aliked_ros.errors import ConfigurationError
from aliked_ros.ros import running, transports
from aliked_ros.ros.declarations import Declaration, declare_known
from aliked_ros.ros.frontend_node import FrontendNode
from aliked_ros.ros.managed_node import EndedError
from aliked_ros.ros.parameters import check_camera_names, warn_of_unknown_names
from aliked_ros.ros.warnings import reason
from aliked_ros.system.cpu import limit_heaps

_TOPICS = {
    "image": "image",
    "camera_info": "camera_info",
    "right_image": "right/image",
    "right_camera_info": "right/camera_info",
    "depth_image": "depth/image",
    "mask": "mask",
}
_IMAGES = ("image", "right/image", "depth/image")  # those with compressed forms beside them

CAMERAS = Declaration("cameras", "", "Names of the cameras, a list such as [front, left].")


def declarations(camera: str) -> list[Declaration]:
    """The parameters ``CAMERA.image`` and so on of one camera."""
    return [
        Declaration(
            f"{camera}.{name}",
            topic,
            f"Where this camera's {topic} comes from; relative to /{camera}.",
        )
        for name, topic in _TOPICS.items()
    ]


class CamerasNode(Node):
    """Starts a front-end for each name in the parameter ``cameras``, and serves all of them.

    A failure of one, at its start too, is logged and does not affect the others. One that ends
    itself (``silence_action``) ends the process.
    """

    def __init__(
        self, name: str = "aliked_cameras", own_declarations: Sequence[Declaration] = ()
    ) -> None:
        """``own_declarations``: of the node's parameters beside those of cameras."""
        super().__init__(name)
        backends = SharedBackends()
        self.frontends: dict[str, FrontendNode] = {}  # those that could be made, by name
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._ended: EndedError | None = None
        self.names = names = self._names()
        known = [item.name for name in names for item in declarations(name)]
        warn_of_unknown_names(self, ["cameras", *known, *(item.name for item in own_declarations)])
        self.settings = declare_known(self, own_declarations)
        remappings = {name: self._remappings(name) for name in names}
        for name in names:
            try:
                self.frontends[name] = self._frontend(name, remappings[name], backends)
            except Exception as error:
                if not self.context.ok():
                    raise ExternalShutdownException from error
                self.get_logger().error(f"Camera {name} is left out: {reason(error)}")
        if not self.frontends:
            raise ConfigurationError("No camera could be started; fix the errors above.")

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Serve the cameras until shutdown. Raises EndedError where one of them ends itself."""
        self._threads = [
            threading.Thread(target=self._serve, args=(frontend,))
            for frontend in self.frontends.values()
        ]
        for thread in self._threads:
            thread.start()
        with suppress(ExternalShutdownException):
            executor.spin()
        if self._ended is not None:
            raise self._ended

    def close(self) -> None:
        """End all cameras."""
        running.shut_down(self.context)  # which ends their threads
        for thread in self._threads:
            thread.join()

    def _serve(self, frontend: FrontendNode) -> None:
        """One camera's thread: starts it, serves it, and takes it away."""
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(frontend)
        try:
            with (
                self._starting
            ):  # one after another, so that the later ones find the networks loaded
                if self.context.ok():
                    frontend.start()
            frontend.serve(executor)
        except ExternalShutdownException:
            pass
        except EndedError as error:
            self._ended = error
            running.shut_down(self.context)
        except Exception as error:
            if self.context.ok():
                frontend.get_logger().fatal(f"This camera has ended: {reason(error)}")
        finally:
            frontend.close()
            executor.shutdown()
            frontend.destroy_node()

    def _names(self) -> list[str]:
        try:
            given = self.declare_parameter("cameras", Parameter.Type.STRING_ARRAY).value or []
        except InvalidParameterTypeException as error:
            raise ConfigurationError(
                f"parameter cameras must be a list of names, such as [front, left]: {error}"
            ) from error
        names = [str(name) for name in given]
        if not names:
            raise ConfigurationError(
                "parameter cameras is empty; name the cameras: -p cameras:=[front,left]"
            )
        check_camera_names(names)
        return names

    def _remappings(self, camera: str) -> dict[str, str]:
        """Topics of the front-end that come from elsewhere."""
        values = declare_known(self, declarations(camera))
        remappings: dict[str, str] = {}
        for name, topic in _TOPICS.items():
            given = values[f"{camera}.{name}"]
            if given != topic:
                remappings |= dict(
                    transports.remappings(topic, given) if topic in _IMAGES else [(topic, given)]
                )
        return remappings

    def _frontend(
        self, camera: str, remappings: dict[str, str], backends: SharedBackends
    ) -> FrontendNode:
        """The front-end of one camera; raises ConfigurationError for a topic that cannot be."""
        namespace = f"{self.get_namespace().rstrip('/')}/{camera}"
        # Its own rules come before the process's, which are for all cameras or for this node.
        rules = {"__ns": namespace, "__node": "aliked_frontend"} | remappings
        arguments = ["--ros-args"]
        for topic, given in rules.items():
            try:
                validate_topic_name(given)
            except InvalidTopicNameException as error:
                raise ConfigurationError(f"{camera}'s {topic} is {given!r}: {error}") from error
            arguments += ["-r", f"{topic}:={given}"]
        return self.make_frontend(
            camera, backends.open, context=self.context, namespace=namespace, cli_args=arguments
        )

    def make_frontend(self, camera: str, open_backend: OpenBackend, **options: Any) -> FrontendNode:
        """A camera's front-end; arguments of ``FrontendNode``."""
        return FrontendNode(open_backend, **options)


def main(args: Sequence[str] | None = None) -> int:
    """Run all cameras until SIGINT or SIGTERM."""
    limit_heaps()
    return running.run(CamerasNode, args, (CAMERAS, *declarations("CAMERA")), "aliked_cameras")


if __name__ == "__main__":
    raise SystemExit(main())
