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

"""The networks of PyTorch's device backend, with published weights."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from aliked_ros.models.registry import weights_path
from aliked_ros.networks import fold
from aliked_ros.networks.aliked import FoldedALIKED
from aliked_ros.networks.lightglue import PLAIN, MatchHead, Operations, segment

Kind = TypeVar("Kind", bound=FoldedALIKED)


def device_extractor(kind: type[Kind], model: str, half: bool) -> Kind:
    """ALIKED for RGB images."""
    path = weights_path(model)
    state, shape = fold.read_aliked(path)
    return kind(fold.extractor(state, 3), shape, half)


def distances(points: Tensor, others: Tensor) -> Tensor:
    """Of each to each, N×M, by subtraction: the matrix product's form is off by up to 0.35 px."""
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")


def device_matcher(layers: range, half: bool, operations: Operations = PLAIN) -> nn.Module:
    """These of LightGlue's layers."""
    path = weights_path("aliked-lightglue")
    state, shape = fold.read_lightglue(path)
    weights = fold.matcher(state, layers, shape.layers)
    return segment(weights, layers, shape, half, operations)


def device_match_head(layer: int, half: bool, operations: Operations = PLAIN) -> MatchHead:
    """LightGlue's matches after a layer."""
    state, _ = fold.read_lightglue(weights_path("aliked-lightglue"))
    return MatchHead(fold.match_head(state, layer), half, operations)
