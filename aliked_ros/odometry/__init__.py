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

"""A reference back-end: visual odometry from feature tracks alone, small enough to read.

It takes the content of a ``FeatureFrame`` (track ids, normalised coordinates, depth if present), or
of a ``RigFrame``, and gives camera poses and a sparse map. It shows that the messages suffice, and
is an example to build on. It has no loop closing and no global map.
"""

from aliked_ros.odometry.estimator import Estimate, Odometry, pixel_size
from aliked_ros.odometry.views import Noise, Observation

__all__ = ["Estimate", "Noise", "Observation", "Odometry", "pixel_size"]
