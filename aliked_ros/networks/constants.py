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

"""Numbers that define ALIKED and LightGlue, shared by PyTorch, graphs and compiled loops."""

import math

SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805
NMS_RADIUS = 2  # pixels, of the non-maximum suppression and of the soft-argmax window
SOFT_ARGMAX_TEMPERATURE = 0.1
PAD_MULTIPLE = 32  # image sides are padded to multiples of the coarsest stride

LIGHTGLUE_DIM = 128  # of the descriptors that LightGlue's published weights are for
DIM = 256  # of a point's state in LightGlue
HEADS = 4
HEAD_DIM = DIM // HEADS


def exit_threshold(layer: int, layers: int) -> float:
    """Confidence from which a point counts as decided after ``layer`` (LightGlue, section 3.3)."""
    return min(max(0.8 + 0.1 * math.exp(-4.0 * layer / layers), 0.0), 1.0)
