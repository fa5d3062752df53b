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

"""Deformable convolution as one operator, so that an exporter can map it to a native one.

``torchvision`` carries the operator too, but nothing else of it is needed here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def deform_reads(x: Tensor, offset: Tensor) -> Tensor:
    """The nine bilinear reads of a 3×3 kernel at each pixel of B×C×H×W: B×(C·9)×(H·W).

    offset: B×18×H×W, pairs (dy, dx) for the kernel positions row by row. Outside the image reads 0.
    (Dai et al., arXiv 1703.06211, section 2.1)
    """
    batch, channels, height, width = x.shape
    dy, dx = offset.reshape(batch, 9, 2, height, width).unbind(2)
    tick = torch.arange(9, device=x.device)
    kernel_y = (tick // 3 - 1).reshape(1, 9, 1, 1)
    kernel_x = (tick % 3 - 1).reshape(1, 9, 1, 1)
    rows = torch.arange(height, device=x.device).reshape(1, 1, height, 1)
    columns = torch.arange(width, device=x.device).reshape(1, 1, 1, width)
    grid_x = (columns + kernel_x + dx) * (2.0 / (width - 1)) - 1.0
    grid_y = (rows + kernel_y + dy) * (2.0 / (height - 1)) - 1.0
    grid = torch.stack([grid_x, grid_y], dim=-1).reshape(batch, 9 * height, width, 2)
    reads = F.grid_sample(x, grid, align_corners=True)
    return reads.reshape(batch, channels * 9, height * width)


@torch.library.custom_op("aliked_ros::deform_conv2d", mutates_args=())
def deform_conv2d(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """3×3 deformable convolution, stride 1, padding 1: an opaque node of an exported graph.

    weight: O×C×3×3. x, offset: see ``deform_reads``.
    """
    batch, _, height, width = x.shape
    return (weight.flatten(1) @ deform_reads(x, offset)).reshape(batch, -1, height, width)


@deform_conv2d.register_fake
def _(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], x.shape[2], x.shape[3])
