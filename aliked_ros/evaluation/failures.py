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
