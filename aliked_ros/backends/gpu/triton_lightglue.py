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

"""Stages of LightGlue as Triton kernels, for PyTorch on NVIDIA GPUs.

A block of a layer is five launches: a matrix product, attention, a product, normalisation with
GELU, a product. Attention rotates queries and keys as it reads them, reads the number of points on
the device, and writes the states beside the context, where the next product wants them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

from aliked_ros.backends.gpu import triton_attention as kernels
from aliked_ros.backends.gpu.torch_operations import GpuOperations
from aliked_ros.backends.gpu.triton_aliked import compare
from aliked_ros.networks import lightglue
from aliked_ros.networks.constants import DIM, HEAD_DIM, HEADS
from aliked_ros.networks.fold import Array, LightGlueShape
from aliked_ros.networks.lightglue import FeedForward

_QUERIES = {2: 64, 4: 32}  # rows whose context one program computes, by bytes of a number
_KEYS = 32  # rows that it reads at a time
_ROWS = 4  # rows that one program normalises
_POINTS = 64  # positions that one program encodes
_COUNTED = 1024  # rows that are counted at a time


class TritonOperations(GpuOperations):
    """``GpuOperations`` with these kernels."""

    def rows(self, like: Tensor, count0: Tensor, count1: Tensor) -> tuple[Any, Any]:
        """See ``Operations``: the counts stay as they are."""
        return None, (count0, count1)

    def encode(
        self,
        keypoints0: Tensor,
        keypoints1: Tensor,
        size: Tensor,
        angles: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        """See ``Operations``."""
        rows = len(keypoints0)
        rotation = keypoints0.new_empty(2, rows, HEAD_DIM, dtype=dtype)
        kernels.encode[triton.cdiv(rows, _POINTS), 2](
            keypoints0, keypoints1, size, angles, rotation, rows, block=_POINTS
        )
        return rotation

    def attend_self(self, x: Tensor, qkv: Tensor, rotation: Tensor, padding: Any) -> Tensor:
        """See ``Operations``."""
        return _attend(x, qkv, rotation, padding, crossing=False)

    def attend_other(self, x: Tensor, qk_v: Tensor, padding: Any) -> Tensor:
        """See ``Operations``."""
        return _attend(x, qk_v, qk_v, padding, crossing=True)

    def residual(self, x: Tensor, y: Tensor, ffn: FeedForward) -> Tensor:
        """See ``Operations``."""
        rows, hidden, moved = y.shape[0] * y.shape[1], torch.empty_like(y), torch.empty_like(x)
        kernels.norm_gelu[(triton.cdiv(rows, _ROWS),)](
            y, ffn.gain, ffn.shift, x, ffn.bias2, hidden, moved, rows, block=_ROWS
        )
        moved.view(rows, DIM).addmm_(hidden.view(rows, 2 * DIM), ffn.weight2)
        return moved

    def undecided(
        self, confidence: Tensor, threshold: float, valid: Any, count0: Tensor, count1: Tensor
    ) -> Tensor:
        """See ``Operations``."""
        share = confidence.new_empty(1, dtype=torch.float32)
        kernels.count_undecided[(1,)](
            confidence, threshold, count0, count1, share, confidence.shape[1], block=_COUNTED
        )
        return share


def _attend(
    x: Tensor, projected: Tensor, rotation: Tensor, counts: tuple[Tensor, Tensor], crossing: bool
) -> Tensor:
    rows, block = x.shape[1], _QUERIES[x.itemsize]
    joined = x.new_empty(2, rows, 2 * DIM)
    kernels.attend[triton.cdiv(rows, block), HEADS, 2](
        x, projected, rotation, *counts, joined, rows,
        crossing=crossing, block=block, keys=_KEYS,
    )  # fmt: skip
    return joined


@torch.inference_mode()
def check(
    place: torch.device,
    half: bool = False,
    rows: int = 100,
    counts: tuple[int, int] = (90, 30),
) -> None:
    """Compile all kernels, and compare two layers with plain operations, on noise.

    rows: for each image, of which ``counts`` are valid. Raises RuntimeError where a result is
    wrong, and whatever Triton, its compiler or the GPU raises.
    """
    random, shape, layers = np.random.default_rng(0), LightGlueShape(128, 9), range(2)
    weights = _noise(random, shape.input_dim)
    weights["matcher.layers.1.exits"] *= 4  # or all would be undecided
    inputs = lightglue.segment_inputs(shape, layers, rows, half)
    for name, tensor in inputs.items():
        if tensor.ndim == 2:
            spread = 64.0 if name.startswith("keypoints") else 1.0
            tensor.copy_(torch.from_numpy(random.standard_normal(tensor.shape) * spread))
    for count, name in zip(counts, ("count0", "count1"), strict=True):
        inputs[name][0] = count
    given = [tensor.to(place) for tensor in inputs.values()]
    with place:
        found, expected = (
            lightglue.segment(weights, layers, shape, half, operations).to(place)(*given)
            for operations in (TritonOperations(), lightglue.PLAIN)
        )
    compare("rotations", 2e-3 if half else 1e-4, found[1:2], expected[1:2])
    if min(counts):  # what attends to no point is never matched: it need only be finite
        states = [[r[0][i, :n] for i, n in enumerate(counts)] for r in (found, expected)]
        compare("states of LightGlue", 3e-2 if half else 1e-3, *states)
        compare("undecided shares", 1e-2, found[2:], expected[2:])
    if not bool(found[0].isfinite().all()):  # a match is never sought there, but NaN would spread
        raise RuntimeError("Triton self-test failed: states behind the points are not finite")


def _noise(random: np.random.Generator, input_dim: int) -> dict[str, Array]:
    """Weights of two layers that keep the size of what they are multiplied with."""
    ffn = {
        "ffn.weight1": (2 * DIM, 2 * DIM), "ffn.bias1": (2 * DIM,), "ffn.gain": (2 * DIM,),
        "ffn.shift": (2 * DIM,), "ffn.weight2": (2 * DIM, DIM), "ffn.bias2": (DIM,),
    }  # fmt: skip
    block = {"qkv": (DIM, 3 * DIM), "qkv_bias": (3 * DIM,), **ffn}
    layer = {"qk_v": (DIM, 2 * DIM), "qk_v_bias": (2 * DIM,), **ffn}
    last = {
        **layer, **{f"block.{name}": size for name, size in block.items()},
        "exits": (DIM, 1), "exits_bias": (1,),
    }  # fmt: skip
    shapes = {
        "angles": (2, HEAD_DIM // 2), "embedding.weight": (input_dim, DIM),
        "embedding.bias": (DIM,), **{f"embedding.block.{n}": size for n, size in block.items()},
        **{f"matcher.layers.0.{n}": size for n, size in layer.items()},
        **{f"matcher.layers.1.{n}": size for n, size in last.items()},
    }  # fmt: skip
    return {
        name: (random.standard_normal(size) / size[0] ** 0.5).astype(np.float32)
        for name, size in shapes.items()
    }
