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

"""The published form of ALIKED as one graph, to compare with: nothing in the product uses it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aliked_ros.networks.aliked import ALIKED, detect


class DenseAliked(nn.Module):
    """Image to keypoints, scores, descriptors over the full-resolution feature map."""

    def __init__(self, network: ALIKED, top_k: int) -> None:
        super().__init__()
        self.network, self.top_k = network, top_k

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """1×3×H×W in [0, 1], sides multiples of 32 → N×2 pixels, N, N×dim; N is always top_k."""
        features, score_map = self.network.dense_maps(image)
        keypoints, scores = detect(score_map[0, 0], self.top_k, None)
        return keypoints, scores, self.network.describe_dense(features, keypoints)


def export_dense(network: ALIKED, width: int, height: int, top_k: int) -> bytes:
    """Plain ONNX export of the published form for one image size: content of an ONNX file."""
    from aliked_ros.models.export import trace

    outputs = ["keypoints", "scores", "descriptors"]
    image = torch.zeros(1, 3, height, width)
    model = trace(DenseAliked(network, top_k), {"image": image}, outputs, None)
    return bytes(model.SerializeToString())
