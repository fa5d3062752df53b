"""What a method's failure on a sequence is: a row that says why, while the others go on."""

from __future__ import annotations

import cv2

from aliked_ros.errors import AlikedError

FAILURES = (AlikedError, ArithmeticError, ValueError, RuntimeError, cv2.error)
"""What libraries raise for data that they cannot digest, and this package on purpose."""


def reason_of(error: BaseException) -> str:
    """Why it failed, in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AlikedError) else f"{type(error).__name__}: {text}"
