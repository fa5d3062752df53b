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

"""DISK (Tyszkiewicz et al., NeurIPS 2020) with its LightGlue, for comparison.

The network is kornia's, the weights are the authors' (Apache-2.0), the matcher is this package's
LightGlue with the weights for DISK. It runs on PyTorch, on the CPU.
"""

from __future__ import annotations

import numpy as np
import torch

from aliked_ros.backends.torch import TorchLightGlue
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.models.registry import weights_path
from aliked_ros.networks.lightglue import LightGlue
from aliked_ros.types import Features, Matches, UInt8Array


class DiskDetector:
    """The ``top_k`` best keypoints of an image, with unit descriptors of 128 numbers."""

    def __init__(self, top_k: int) -> None:
        """Load it. Raises BackendError without kornia, WeightsError without the weights."""
        try:
            from kornia.feature import DISK
        except ImportError as error:
            raise BackendError(
                f"the method disk+lightglue needs kornia ({error}): make setup "
                "GROUP=train, or pip install kornia."
            ) from error
        self._network = DISK(desc_dim=128)
        state = torch.load(weights_path("disk"), map_location="cpu", weights_only=True)
        self._network.load_state_dict(state["extractor"])
        self._network.eval()
        self._top_k = top_k

    @torch.inference_mode()
    def __call__(self, pixels: UInt8Array, mask: UInt8Array | None = None) -> Features:
        """Features by descending score, outside a mask's zeros."""
        image = torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255
        image = image.reshape(1, *pixels.shape[:2], -1).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
        found = self._network(image, n=None if mask is not None else self._top_k,
                              pad_if_not_divisible=True)[0]  # fmt: skip
        keypoints = found.keypoints.numpy()
        order = np.argsort(-found.detection_scores.numpy(), kind="stable")
        if mask is not None:
            columns, rows = np.rint(keypoints[order]).astype(int).T
            order = order[mask[rows, columns] != 0]
        order = order[: self._top_k]
        return Features(
            keypoints=keypoints[order],
            scores=found.detection_scores.numpy()[order],
            descriptors=found.descriptors.numpy()[order],
            width=pixels.shape[1],
            height=pixels.shape[0],
            model="disk",
        )


class DiskMatcher:
    """LightGlue with the weights for DISK."""

    def __init__(self, config: FrontendConfig) -> None:
        """Load it; WeightsError without the weights."""
        network = LightGlue.from_checkpoint(weights_path("disk-lightglue"))
        self._network = TorchLightGlue(network, torch.device("cpu"))
        self._config = config

    def match(self, reference: Features, current: Features) -> Matches:
        """See ``Matcher``."""
        if min(len(reference), len(current)) == 0:
            return Matches.empty()
        config = self._config
        return self._network.match(
            reference,
            current,
            config.match_threshold,
            config.depth_confidence,
            config.width_confidence,
        )

    def reconfigure(self, config: FrontendConfig) -> None:
        """See ``Matcher``."""
        self._config = config
