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

"""Everything that imports rclpy: nodes, message conversions, parameters. Holds no vision."""

import sys

from aliked_ros.console.executables import end_quietly_on_interrupt
from aliked_ros.system.middleware import MiddlewareError, require_middleware

if sys.argv[:1] == ["-m"]:  # python -m aliked_ros.ros.PROGRAM, whose own module comes next
    end_quietly_on_interrupt()
try:
    require_middleware()
except MiddlewareError as error:  # rclpy's import would end the process, too, with no remedy
    raise SystemExit(f"error: {error}") from None
