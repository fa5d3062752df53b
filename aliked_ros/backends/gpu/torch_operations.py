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

"""Stages of LightGlue as PyTorch does them best on a GPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from aliked_ros.networks.constants import DIM, HEAD_DIM, HEADS
from aliked_ros.networks.lightglue import Operations, split_heads

# with a mask and any number of rows; not cuDNN's, which may not have been tried with such strides
_FUSED = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class GpuOperations(Operations):
    """A third of the launches, and attention whose N×N weights never are in memory."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """See ``Operations``."""
        return F.linear(x, weight.T, bias)

    def rotate(self, qkv: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Operations``."""
        cosine, sine = (r[:, None] for r in rotation.chunk(2, dim=-1))
        heads = qkv[..., : 2 * DIM].unflatten(-1, (2 * HEADS, HEAD_DIM)).transpose(1, 2)
        a, b = heads.chunk(2, dim=-1)
        rotated = (torch.addcmul(a * cosine, b, sine, value=-1), torch.addcmul(b * cosine, a, sine))
        query, key = torch.cat(rotated, dim=-1).chunk(2, dim=1)
        return query, key, split_heads(qkv[..., 2 * DIM :])

    def attend(self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor) -> Tensor:
        """See ``Operations``."""
        with sdpa_kernel(_FUSED):
            return F.scaled_dot_product_attention(query, key, value, attn_mask=padding, scale=1.0)
