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

"""Lifecycle node ``aliked_frontend``: camera images in; features, matches and tracks out.

Its lifecycle, services and parameters are here. What processes images is in
:class:`~aliked_ros.ros.session.Session`, which an active node has.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from aliked_ros.backends.base import OpenBackend
from aliked_ros.backends.create import create_backend
from aliked_ros.ros import running
from aliked_ros.ros.configured import Configured
from aliked_ros.ros.frontend_parameters import DECLARATIONS
from aliked_ros.ros.managed_node import EndedError, ManagedNode, reported
from aliked_ros.ros.numbering import Epochs
from aliked_ros.ros.parameters import NodeParameters
from aliked_ros.ros.places import Places
from aliked_ros.ros.reporter import Reporter
from aliked_ros.ros.session import OpenWorker, Session, latest_worker
from aliked_ros.ros.warnings import reason
from aliked_ros.system.cpu import limit_heaps

_OVERLAP = 30.0  # seconds; a node that was killed stays in the graph for 20


class FrontendNode(ManagedNode):
    """The visual front-end as a managed node.

    configure loads the networks; activate starts the threads; deactivate ends them; cleanup and
    shutdown free the networks. A configure that fails leaves the node ``unconfigured`` with the
    reason in its log, in ``~/status`` and in ``/diagnostics``.
    """

    def __init__(
        self,
        open_backend: OpenBackend = create_backend,
        open_worker: OpenWorker = latest_worker,
        **options: Any,
    ) -> None:
        """open_backend: see ``Pipeline``. open_worker: see ``Session``. options: rclpy's."""
        super().__init__("aliked_frontend", **options)
        self._open_backend = open_backend
        self._open_worker = open_worker
        self._configured: Configured | None = None  # from configure to cleanup
        self._session: Session | None = None  # from activate to deactivate
        self._epochs = Epochs()
        self._alone = time.monotonic()  # last time that no other node had this name
        self._silences = 0  # limits that have passed since the last image
        self._settings = NodeParameters(self, lambda: self._configured is not None)
        self.reporter = Reporter(self, self._settings)
        self._places = Places(self, self._settings)
        self._timer = self.create_timer(
            self._settings["status_period"],
            self._on_timer,
            clock=Clock(clock_type=ClockType.STEADY_TIME),  # also while simulated time stands
        )
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/pause", self._on_pause)
        self.create_service(Trigger, "~/resume", self._on_resume)

    def close(self) -> None:
        """End the threads and free the networks, whatever state the node is in."""
        self._end_session()
        self._places.cleanup()
        configured, self._configured = self._configured, None
        if configured is not None:
            configured.close()

    def _end_session(self) -> None:
        session, self._session = self._session, None
        self._places.close()
        if session is not None:
            session.close()

    # Lifecycle

    @reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the networks (seconds; minutes to build TensorRT engines), advertise."""
        self.reporter.statistics.clear()
        self.enter("configuring")
        try:
            configured = Configured(
                self, self._settings, self._epochs, self._open_backend, self._on_progress
            )
        except Exception as error:
            if not self.context.ok():  # shutting down
                raise
            self.reporter.fail(f"configure failed: {reason(error)}")
            self.enter("unconfigured")
            return TransitionCallbackReturn.FAILURE
        self._configured = configured
        self._places.configure(configured.config.model)
        if not self.context.ok():
            raise ExternalShutdownException
        self.reporter.failure = ""
        config, identity = configured.config, configured.identity
        self.get_logger().info(
            f"Configured: {config.model} on {identity['backend']} ({identity['reason']})"
        )
        if config.backend in ("tensorrt", "torch") and identity["backend"].startswith("cpu"):
            self.reporter.warn_of_fallback(identity)
        self.enter("inactive")
        return super().on_configure(state)

    @reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the threads."""
        assert self._configured is not None
        self.reporter.statistics.clear()
        self._session = session = Session(
            self, self._settings, self._configured, self._epochs, self.reporter, self._open_worker
        )
        self._places.open(session)
        result = super().on_activate(state)
        self.reporter.failure = ""
        own = self._settings["camera_source"]
        doing = f"reading {own}" if own else f"waiting for images on {session.inputs.topic}"
        self.get_logger().info(f"Active: {doing}")
        self.enter("active")
        return result

    @reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, end the threads and tracks; give back what a GPU holds of the networks."""
        assert self._configured is not None
        self._end_session()
        with self._configured.pipeline() as pipeline:
            pipeline.release()
        self.get_logger().info("Inactive: images are ignored, the networks stay loaded")
        self.enter("inactive")
        return super().on_deactivate(state)

    @reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the networks, take the topics away."""
        self.close()
        self.get_logger().info("Unconfigured: the networks are freed")
        self.enter("unconfigured")
        return super().on_cleanup(state)

    @reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the threads and free the networks, from any state."""
        self.close()
        self.get_logger().info(
            "Finalized: the networks are freed; start the node again to continue"
        )
        self.enter("finalized")
        return super().on_shutdown(state)

    # Reports

    def _on_progress(self, step: str) -> None:
        """Report a step of a long load, which a shutdown ends here."""
        if not self.context.ok():
            raise ExternalShutdownException
        self.get_logger().info(step)
        self.reporter.step = step
        self.publish_status()

    def publish_status(self) -> None:
        """On ``~/status`` and ``/diagnostics``."""
        if not self.context.ok():
            return
        configured, session = self._configured, self._session
        paused = session is not None and session.inputs.paused
        self.reporter.publish(
            "paused" if paused else self.state,
            self._epochs.number(0) if configured is None else configured.epoch,
            {} if configured is None else configured.identity,
            warnings="" if session is None else str(session.warnings),
            silence="" if session is None else session.inputs.silence(),
        )

    def _on_timer(self) -> None:
        self.publish_status()
        self._check_name()
        session = self._session
        if session is None or session.inputs.paused:
            self._silences = 0
        else:
            self._watch(session)

    def _check_name(self) -> None:
        """Warn of another node of this name, which listeners and callers cannot tell apart."""
        now, own = time.monotonic(), (self.get_name(), self.get_namespace())
        if self.get_node_names_and_namespaces().count(own) < 2:
            self._alone = now
        elif now - self._alone > _OVERLAP:
            self._alone = math.inf
            self.reporter.warn(
                f"Another node has the name {self.get_fully_qualified_name()}, too: their outputs "
                "mix, and services reach either. End one, or rename it with --ros-args -r "
                "__node:=NAME."
            )

    def _watch(self, session: Session) -> None:
        """Do what ``silence_action`` says whenever the limit has passed without an image."""
        limit, action = (
            self._settings[name] for name in ("diagnostics.max_silence_error", "silence_action")
        )
        before = self._silences
        self._silences = int(self.reporter.statistics.silence() / limit) if limit else 0
        if self._silences <= before:
            return
        problem = session.inputs.silence()
        if action == "end":
            raise EndedError(f"{problem} The node ends, as silence_action says.")
        if action == "resubscribe":
            session.inputs.resubscribe()
            self.get_logger().warning(f"{problem} Subscribed again, as silence_action says.")
        elif before == 0:
            self.get_logger().warning(problem)

    # Services and parameters

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._configured is None:
            return _answer(response, False, f"nothing to reset in state {self.state}")
        with self._configured.pipeline() as pipeline:
            pipeline.reset()
        self.publish_status()
        return _answer(response, True, f"tracks restart: epoch {self._configured.epoch}")

    def _on_pause(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._session is None:
            return _answer(response, False, f"nothing to pause in state {self.state}")
        self._session.inputs.paused = True
        self.publish_status()
        return _answer(response, True, "paused: images are ignored until ~/resume")

    def _on_resume(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._session is None:
            return _answer(response, False, f"nothing to resume in state {self.state}")
        if self._session.inputs.paused:
            self.reporter.statistics.resume()
        self._session.inputs.paused = False
        self.publish_status()
        return _answer(response, True, "active")

    def parameters_set(self, parameters: Sequence[Parameter]) -> None:
        """Take over what can change while working."""
        self._settings.accept(parameters)
        self._timer.timer_period_ns = int(self._settings["status_period"] * 1e9)
        if self._configured is not None:
            with self._configured.pipeline() as pipeline:
                pipeline.reconfigure(self._settings.frontend_config())


def _answer(response: Any, success: bool, message: str) -> Any:
    response.success = success
    response.message = message
    return response


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    limit_heaps()
    return running.run(FrontendNode, args, DECLARATIONS, "aliked_frontend")


if __name__ == "__main__":
    raise SystemExit(main())
