"""The runtimes as guests in a process: what they leave behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

INTERRUPTED = """
import gc, signal
from aliked_ros.inference.openvino_runtime import OpenVinoRuntime

first = OpenVinoRuntime(1)
second = OpenVinoRuntime(1)
del first
gc.collect()
del second
gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_several_runtimes_is_no_crash() -> None:
    pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "interrupted"), done.stderr
