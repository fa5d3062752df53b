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

"""The networks in eager PyTorch on the CPU: the reference.

(With a GPU, ``backend: torch`` is ``gpu.torch``.)
"""

from __future__ import annotations

import numpy as np

from aliked_ros.backends.cpu.dkd import spread
from aliked_ros.backends.cpu.lightglue import LayeredLightGlue
from aliked_ros.backends.cpu.runtime import Array, Network
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.models.registry import weights_path
from aliked_ros.networks import fold
from aliked_ros.system.cpu import cores
from aliked_ros.types import Features, Float32Array, UInt8Array

try:
    import torch
    from torch import nn

    from aliked_ros.networks import lightglue
    from aliked_ros.networks.aliked import CELL, FoldedALIKED
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
        return TorchExtractor(model)

    def load_matcher(self) -> LayeredLightGlue:
        """See ``Backend``."""
        return load_lightglue("aliked-lightglue")

    def release(self) -> None:
        """See ``Backend``; the networks stay where they are."""

    def close(self) -> None:
        """See ``Backend``; nothing is held here."""


class TorchExtractor:
    """ALIKED in eager PyTorch."""

    users = 1

    def __init__(self, model: str) -> None:
        """``model``: a name, or a checkpoint's path."""
        state, shape = fold.read_aliked(weights_path(model))
        self._network = FoldedALIKED(fold.extractor(state, 3), shape)

    @torch.inference_mode()
    def extract(
        self,
        pixels: UInt8Array,
        mask: UInt8Array | None,
        top_k: int,
        threshold: float,
        grid: int,
        reference: Features | None = None,
    ) -> tuple[Float32Array, Float32Array, Float32Array]:
        """See ``FeatureNetwork``. With a ``grid``, of every local maximum."""
        height, width = pixels.shape[:2]
        room = (height // CELL) * (width // CELL)
        image = torch.from_numpy(np.ascontiguousarray(pixels)).reshape(1, height, width, -1)
        *arrays, count = self._network(
            image.expand(-1, -1, -1, 3),
            torch.ones(height, width) if mask is None else torch.from_numpy(mask),
            torch.tensor([threshold]),
            torch.zeros(room if grid else min(top_k, room)),
        )
        keypoints, scores, descriptors = (array[: int(count)].numpy() for array in arrays)
        if grid:
            x, y = keypoints.round().astype(np.int64).T
            kept = spread(x, y, pixels.shape, top_k, grid)
            return keypoints[kept], scores[kept], descriptors[kept]
        return keypoints, scores, descriptors


def load_lightglue(model: str) -> LayeredLightGlue:
    """LightGlue in eager PyTorch; ``model``: of a LightGlue, a name or a checkpoint's path."""
    state, shape = fold.read_lightglue(weights_path(model))
    layers = range(shape.layers)
    return LayeredLightGlue(
        shape,
        fold.angles(state),
        _network(lightglue.Embedding(fold.embedding(state))),
        [_network(lightglue.Layer(fold.layer(state, i, shape.layers))) for i in layers],
        [_network(lightglue.Assignment(fold.assignment(state, i))) for i in layers],
    )


def _network(module: nn.Module) -> Network:
    @torch.inference_mode()
    def run(*inputs: Array) -> list[Array]:
        outputs = module(*(torch.from_numpy(np.ascontiguousarray(x)) for x in inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return [output.numpy() for output in outputs]

    return run
