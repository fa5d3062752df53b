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

"""The networks in PyTorch, as published: the reference, on the CPU a backend too.

(With a GPU, ``backend: torch`` is ``torch_device``.)
"""

from __future__ import annotations

import numpy as np

from aliked_ros.backends.cpu.dkd import spread
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.models.registry import weights_path
from aliked_ros.system.cpu import cores
from aliked_ros.types import Features, Float32Array, Matches, UInt8Array

try:
    import torch

    from aliked_ros.networks import aliked, lightglue
except ImportError as error:
    raise BackendError(
        "backend is 'torch', but PyTorch is not installed; set it to 'auto', or "
        "install it: make setup GROUP=train, or pip install torch."
    ) from error


class TorchBackend:
    """Eager float32 on the CPU."""

    def __init__(self, config: FrontendConfig) -> None:
        if config.precision == "bfloat16":
            raise BackendError("The torch backend runs in float32; set precision to 'auto'.")
        self._device = torch.device("cpu")
        torch.set_num_threads(config.threads or cores())
        self.description = f"torch: PyTorch {torch.__version__}, float32, cpu"
        self.identity = {
            "backend": "torch",
            "runtime": f"PyTorch {torch.__version__}",
            "precision": "float32",
            "device": "cpu",
        }

    def load_extractor(self, model: str) -> TorchExtractor:
        """See ``Backend``."""
        network = aliked.ALIKED.from_checkpoint(weights_path(model))
        return TorchExtractor(network, self._device)

    def load_matcher(self) -> TorchLightGlue:
        """See ``Backend``."""
        network = lightglue.LightGlue.from_checkpoint(weights_path("aliked-lightglue"))
        return TorchLightGlue(network, self._device)

    def release(self) -> None:
        """See ``Backend``; the networks stay where they are."""

    def close(self) -> None:
        """See ``Backend``; nothing is held here."""


class TorchExtractor:
    """ALIKED in its sparse form, or in the dense form that was published, on any device."""

    def __init__(self, network: aliked.ALIKED, device: torch.device, dense: bool = False) -> None:
        self._network, self._device, self._dense = network, device, dense

    @torch.inference_mode()
    def extract(
        self, pixels: UInt8Array, mask: UInt8Array | None, top_k: int, threshold: float, grid: int
    ) -> tuple[Float32Array, Float32Array, Float32Array]:
        """See ``FeatureNetwork``."""
        image = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)
        image = image.reshape(1, *image.shape[:2], -1).permute(0, 3, 1, 2).float() / 255
        padded, window = aliked.pad(image.expand(-1, 3, -1, -1))
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        valid = None if mask is None else torch.from_numpy(mask != 0).to(self._device)
        if self._dense:
            features, score_map = self._network.dense_maps(padded)
        else:
            levels = self._network.levels(padded)
            score_map = self._network.score_map(levels)
        score_map = score_map[0, 0, rows, columns]
        candidates = score_map.numel() if grid else top_k
        keypoints, scores = aliked.detect(score_map, candidates, threshold, valid)
        if grid:
            x, y = keypoints.cpu().numpy().round().astype(np.int64).T
            kept = torch.from_numpy(spread(x, y, pixels.shape, top_k, grid)).to(self._device)
            keypoints, scores = keypoints[kept], scores[kept]
        if self._dense:
            descriptors = self._network.describe_dense(features[..., rows, columns], keypoints)
        else:
            descriptors = self._network.describe(levels, keypoints, window)
        return keypoints.cpu().numpy(), scores.cpu().numpy(), descriptors.cpu().numpy()


class TorchLightGlue:
    """LightGlue as published, on any device."""

    def __init__(self, network: lightglue.LightGlue, device: torch.device) -> None:
        self._network, self._device = network, device

    @torch.inference_mode()
    def match(
        self,
        reference: Features,
        current: Features,
        match_threshold: float,
        depth_confidence: float,
        width_confidence: float,
    ) -> Matches:
        """See ``MatchNetwork``."""
        pair = (reference, current)
        keypoints0, keypoints1 = (
            lightglue.normalize_keypoints(
                torch.from_numpy(f.keypoints).to(self._device), f.width, f.height
            )
            for f in pair
        )
        descriptors0, descriptors1 = (
            torch.from_numpy(f.descriptors).to(self._device) for f in pair
        )
        assignment, rows, layers = self._network(
            (keypoints0, keypoints1),
            (descriptors0, descriptors1),
            depth_confidence,
            width_confidence,
        )
        i, j, probability = lightglue.filter_matches(assignment, match_threshold)
        indices = [r[k].cpu().numpy().astype(np.uint32) for r, k in zip(rows, (i, j), strict=True)]
        return Matches(indices[0], indices[1], probability.cpu().numpy(), layers=layers)
