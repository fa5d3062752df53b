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

"""Folded weights (``fold``) as tensors and parameters of PyTorch's modules."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from aliked_ros.networks.fold import Array, Weights


def tensors(weights: Weights) -> dict[str, Tensor]:
    """The weights as tensors, by name."""
    return {name: torch.from_numpy(np.ascontiguousarray(w)) for name, w in weights.items()}


def parameter(array: Array) -> nn.Parameter:
    """An array as parameter of a module."""
    return nn.Parameter(torch.from_numpy(np.ascontiguousarray(array)))


def part(weights: Weights, name: str) -> Weights:
    """The weights of a submodule, without its name before them."""
    start = f"{name}."
    return {n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)}


class Weighted(nn.Module):
    """A module whose parameters are those of the weights that belong to no submodule."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        for name, weight in weights.items():
            if "." not in name:
                self.register_parameter(name, parameter(weight))
