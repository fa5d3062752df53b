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

"""XFeat (Potje et al., CVPR 2024) with LighterGlue, for comparison.

Both networks are kornia's, the weights are the authors' (Apache-2.0). They run on PyTorch, on the
CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.models.registry import weights_path
from aliked_ros.types import Features, Matches, UInt8Array

_STRIDE = 32  # XFeat resizes images to multiples of this
_PREFIX = "matcher."  # of LighterGlue's parameters; the checkpoint also has the extractor


def _missing(error: ImportError) -> BackendError:
    return BackendError(
        f"the method xfeat+lighterglue needs kornia 0.9 ({error}): make setup GROUP=train with "
        "Python 3.11 or newer, or pip install 'kornia>=0.9'."
    )


class XFeatDetector:
    """The ``top_k`` best keypoints of an image, with unit descriptors of 64 numbers."""

    def __init__(self, top_k: int) -> None:
        """Load it. Raises BackendError without kornia, WeightsError without the weights."""
        try:
            from kornia.feature import XFeat
        except ImportError as error:
            raise _missing(error) from error
        self._network = XFeat(top_k)
        state = torch.load(weights_path("xfeat"), map_location="cpu", weights_only=True)
        self._network.net.load_state_dict(state)
        self._network.eval()
        self._top_k = top_k

    @torch.inference_mode()
    def __call__(self, pixels: UInt8Array, mask: UInt8Array | None = None) -> Features:
        """Features by descending score, outside a mask's zeros."""
        height, width = pixels.shape[:2]
        image = torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255
        image = image.reshape(1, height, width, -1).permute(0, 3, 1, 2)
        every = height * width
        (found,) = self._network.detectAndCompute(image, self._top_k if mask is None else every)
        # It maps pixels of the resized image by corners instead of centres.
        scale = np.array(
            [side / max(side // _STRIDE * _STRIDE, _STRIDE) for side in (width, height)]
        )
        keypoints = (found["keypoints"].numpy() + (scale - 1) / 2).astype(np.float32)
        kept = np.ones(len(keypoints), bool)
        if mask is not None:
            columns, rows = np.rint(keypoints).astype(int).T
            kept = mask[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)] != 0
        rows = np.flatnonzero(kept)[: self._top_k]
        return Features(
            keypoints=keypoints[rows],
            scores=found["scores"].numpy()[rows],
            descriptors=found["descriptors"].numpy()[rows],
            width=width,
            height=height,
            model="xfeat",
        )


class LighterGlueMatcher:
    """A smaller LightGlue with the weights for XFeat, as its authors run it."""

    def __init__(self, config: FrontendConfig) -> None:
        """Load it. Raises BackendError without kornia, WeightsError without the weights."""
        try:
            from kornia.feature import LightGlue

            shape = LightGlue.features["xfeat"]
        except (ImportError, KeyError) as error:
            raise _missing(ImportError(str(error))) from error
        # without the features' name, or kornia would download the weights
        nameless: Any = None
        self._network = LightGlue(nameless, **{**shape, "weights": None})
        state = torch.load(weights_path("xfeat-lighterglue"), map_location="cpu", weights_only=True)
        own = {
            name.removeprefix(_PREFIX): values
            for name, values in state.items()
            if name.startswith(_PREFIX)
        }
        missing, unexpected = self._network.load_state_dict(own, strict=False)
        learned = dict(self._network.named_parameters())
        if unexpected or any(name in learned for name in missing):
            raise BackendError(
                f"kornia's LightGlue does not fit the weights of LighterGlue ({missing}, "
                f"{unexpected}): pip install 'kornia>=0.9'."
            )
        self._network.eval()
        self.reconfigure(config)

    @torch.inference_mode()
    def match(self, reference: Features, current: Features) -> Matches:
        """See ``Matcher``."""
        if min(len(reference), len(current)) == 0:
            return Matches.empty()
        found = self._network(
            {
                f"image{number}": {
                    "keypoints": torch.from_numpy(one.keypoints)[None],
                    "descriptors": torch.from_numpy(one.descriptors)[None],
                    "image_size": torch.tensor([[one.width, one.height]]),
                }
                for number, one in enumerate((reference, current))
            }
        )
        rows = found["matches"][0].numpy().astype(np.uint32)
        return Matches(rows[:, 0], rows[:, 1], found["scores"][0].numpy(), layers=found["stop"])

    def reconfigure(self, config: FrontendConfig) -> None:
        """See ``Matcher``."""
        self._network.conf.filter_threshold = config.match_threshold
