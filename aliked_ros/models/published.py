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

"""Which graphs are published, and what bounds those of whole networks."""

from __future__ import annotations

from aliked_ros.networks.fold import AlikedShape

LIGHTGLUE = "aliked-lightglue"

Expected = dict[str, tuple[str, tuple[int, ...]]]
"""The weights that a graph lacks: NumPy type and shape by name."""

VARIANTS = {
    AlikedShape((8, 16, 32, 64), 64, 3, 16): "aliked-t16",
    AlikedShape((16, 32, 64, 128), 128, 3, 16): "aliked-n16",  # N16rot too
    AlikedShape((16, 32, 64, 128), 128, 3, 32): "aliked-n32",
}
"""Folders of ALIKED's published graphs by the sizes of the network."""

LARGEST_TOP_K = 3840
"""Most keypoints that TensorRT's TopK gives."""

SMALLEST_SIDE = 33
"""Pixels: the coarsest level, of stride 32, needs two rows and columns to be read between."""

SEGMENT_LAYERS = 3
"""LightGlue layers between two checks of the exit criterion."""

_LAYERS = 9  # of LightGlue


def segments(precision: str) -> dict[str, range]:
    """LightGlue's parts as whole graphs, by the names of their files: the layers of each."""
    starts = range(0, _LAYERS, SEGMENT_LAYERS)
    parts = (range(start, min(start + SEGMENT_LAYERS, _LAYERS)) for start in starts)
    return {f"layers_{part[0]}_{part[-1]}-{precision}": part for part in parts}


def matcher_parts(precision: str) -> dict[str, range]:
    """LightGlue's graphs in their order, by names: each segment, and the matches after it.

    The layers of each: for the matches only the one that they are taken after.
    """
    found = {}
    for name, layers in segments(precision).items():
        found[name.partition("-")[0]] = layers
        found[f"matches_{layers[-1]}"] = layers[-1:]
    return found
