"""Children of demo, soak test and benchmark: none is left behind."""

from __future__ import annotations

import signal

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from aliked_ros.ros import processes


def test_ctrl_c_while_a_child_starts_still_ends_it(monkeypatch):
    made = []

    class Slow:
        def __init__(self) -> None:
            signal.raise_signal(signal.SIGINT)  # the process is there, we do not know it yet
            made.append(self)
            self.stopped = False

        def stop(self) -> None:
            self.stopped = True

        def ended(self) -> bool:
            return True

    monkeypatch.setattr(processes, "Child", Slow)
    with pytest.raises(KeyboardInterrupt), processes.children() as start:
        start()
    assert [child.stopped for child in made] == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
