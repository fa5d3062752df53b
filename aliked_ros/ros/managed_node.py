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

"""A lifecycle node that answers every request and survives its own failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from aliked_ros.errors import AlikedError
from aliked_ros.ros.parameters import refused_read_only
from aliked_ros.ros.reporter import Reporter
from aliked_ros.ros.warnings import passed_through_us, reason

_LOG_PERIOD = 5.0  # seconds between two log entries about failed callbacks


class EndedError(AlikedError):
    """A node ends itself; the text says why."""


NodeT = TypeVar("NodeT", bound="ManagedNode")
Transition = Callable[[NodeT, LifecycleState], TransitionCallbackReturn]


def reported(callback: Transition[NodeT]) -> Transition[NodeT]:
    """A transition whose exceptions are reported; rclpy turns them into a silent ERROR."""

    @wraps(callback)
    def reporting(self: NodeT, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return callback(self, state)
        except Exception as error:
            if self.context.ok():  # else the node is shutting down
                self.reporter.fail(
                    f"{callback.__name__.removeprefix('on_')} failed: {reason(error)}"
                )
            raise

    return reporting


class ManagedNode(LifecycleNode):
    """A lifecycle node for :func:`aliked_ros.ros.running.run`.

    state: of the lifecycle, for people. reporter: set by the subclass, which also has the
    parameter ``autostart``.
    """

    reporter: Reporter

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.state = "unconfigured"
        self._answer_impossible_transitions()

    def close(self) -> None:
        """End threads and free memory, whatever state the node is in."""
        raise NotImplementedError

    def publish_status(self) -> None:
        """Publish the node's status."""
        raise NotImplementedError

    def parameters_set(self, parameters: Sequence[Parameter]) -> None:
        """Some parameters have new values."""
        raise NotImplementedError

    def enter(self, state: str) -> None:
        """Take over a state of the lifecycle."""
        self.state = state
        self.reporter.step = ""
        self.publish_status()

    @reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a failed transition: free everything, back to unconfigured."""
        self.close()
        self.enter("unconfigured")
        return TransitionCallbackReturn.SUCCESS

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Start as the parameter ``autostart`` says, then serve until shutdown."""
        self.start()
        self.serve(executor)

    def start(self) -> None:
        """Configure and activate, if the parameter ``autostart`` says so."""
        if not self.get_parameter("autostart").value:
            self.get_logger().info(
                "Unconfigured: autostart is false; a lifecycle manager, or ros2 lifecycle set "
                f"{self.get_fully_qualified_name()} configure (then activate), starts it"
            )
            return
        success = TransitionCallbackReturn.SUCCESS
        started = self.trigger_configure() == success and self.trigger_activate() == success
        if not started and self.context.ok():  # the failed transition has said why
            self.get_logger().error(
                f"Not started: the node stays {self.state}. Fix the cause, then configure "
                "and activate it (ros2 lifecycle set)."
            )

    def serve(self, executor: SingleThreadedExecutor) -> None:
        """Answer until shutdown."""
        while self.context.ok():
            try:
                executor.spin()
            except (ExternalShutdownException, EndedError):
                raise
            except Exception as error:
                if not self.context.ok():
                    raise
                self._survive(error)

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """As rclpy's; values take effect at once, and a read-only one is refused with advice."""
        # Not add_post_set_parameters_callback, which Humble lacks.
        result = super().set_parameters_atomically(parameter_list)
        if result.successful:
            self.parameters_set(parameter_list)
        elif "read-only" in result.reason:
            result.reason = refused_read_only([parameter.name for parameter in parameter_list])
        return result

    def set_parameters(self, parameter_list: list[Parameter]) -> list[SetParametersResult]:
        """Set each parameter by itself."""
        return [self.set_parameters_atomically([parameter]) for parameter in parameter_list]

    def _survive(self, error: Exception) -> None:
        """A failed callback does not end the node."""
        if passed_through_us(error):
            sentence = f"A callback failed, the node continues: {reason(error)}"
        else:  # a request that rclpy cannot read, a parameter of no known type, say
            sentence = (
                f"ROS could not read something it received ({error}); it is ignored, and a caller "
                "gets no answer. Look for a program built for another version of the interfaces."
            )
        self.reporter.statistics.error(sentence)
        self.get_logger().warning(sentence, throttle_duration_sec=_LOG_PERIOD)

    def _answer_impossible_transitions(self) -> None:
        """Answer ``success: false`` where rclpy would let the exception end the executor."""
        service = next(s for s in self.services if s.srv_type is ChangeState)
        change_state = service.callback

        def answer(request: ChangeState.Request, response: ChangeState.Response) -> Any:
            try:
                return change_state(request, response)
            except RuntimeError as error:  # RCLError: no such transition from this state
                self.get_logger().warning(
                    f"Transition {request.transition.label or request.transition.id} is not "
                    f"possible in state {self.state}: {error}"
                )
                response.success = False
                return response

        service.callback = answer
