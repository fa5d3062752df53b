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

"""Weights as they are trained → weights as they are run: the same function, fewer operations.

- Batch normalisation is folded into the convolution before it.
- SELU(x) = λ·ELU(x; α), and λ is folded into the next linear layer: runtimes fuse ELU into a
  convolution, SELU they do not.
- The score head's first layer is cut into one part per feature level.
- LightGlue's output projections are folded into the first linear layer of the feed-forward part.
- The four feature levels leave the encoder without their common factor λ: they are only read
  through an L2 normalisation, which cancels it.

Each function returns the weights of one module of ``aliked`` or ``lightglue`` (and of the published
graph made from it) by name, in float32. NumPy only: a robot folds without PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aliked_ros.errors import WeightsError
from aliked_ros.networks.checkpoint import State, read_state_dict
from aliked_ros.networks.constants import DIM, HEAD_DIM, HEADS, SELU_SCALE

Array = NDArray[Any]
Weights = Mapping[str, Array]

_EPSILON = 1e-5  # of batch normalisation
_HALF = re.compile(r"^(self_attn|cross_attn)\.(\d+)(?=\.)")
PIXEL_SCALE = 256.0
"""Whole graphs read pixels over it: a power of two, so 8-bit values are exact in half precision."""


@dataclass(frozen=True, slots=True)
class AlikedShape:
    """Sizes of one variant, all readable from a checkpoint.

    channels: of the four blocks. dim: descriptor dimension. kernel: K of SDDH's patch.
    samples: M deformable positions of SDDH.
    """

    channels: tuple[int, int, int, int]
    dim: int
    kernel: int
    samples: int

    @classmethod
    def of_checkpoint(cls, state: Weights, path: Path) -> AlikedShape:
        """Sizes of the network that ``state`` belongs to; WeightsError if it is no ALIKED."""
        try:
            c1, c2, c3, c4 = (state[f"conv{i}.weight"].shape[1] for i in (1, 2, 3, 4))
            samples, dim, _ = state["desc_head.agg_weights"].shape
            kernel = state["desc_head.offset_conv.0.weight"].shape[-1]
        except (KeyError, ValueError, IndexError) as error:
            raise WeightsError(f"{path} is not an ALIKED checkpoint: {error!r}.") from error
        return cls((c1, c2, c3, c4), dim, kernel, samples)


@dataclass(frozen=True, slots=True)
class LightGlueShape:
    """Sizes of a LightGlue checkpoint: dimension of the descriptors it takes, number of layers."""

    input_dim: int
    layers: int

    @classmethod
    def of_checkpoint(cls, state: Weights, path: Path) -> LightGlueShape:
        """Sizes of the network that ``state`` belongs to; WeightsError if it is no LightGlue."""
        try:
            input_dim = state["input_proj.weight"].shape[1]
        except (KeyError, IndexError) as error:
            raise WeightsError(f"{path} is not a LightGlue checkpoint: {error!r}.") from error
        heads = {name.split(".")[1] for name in state if name.startswith("log_assignment.")}
        return cls(input_dim, len(heads))


def read_aliked(path: Path) -> tuple[State, AlikedShape]:
    """Tensors of an ALIKED checkpoint, and its sizes; WeightsError if it is none."""
    state = read_state_dict(path)
    return state, AlikedShape.of_checkpoint(state, path)


def read_lightglue(path: Path) -> tuple[State, LightGlueShape]:
    """Tensors of a LightGlue checkpoint, named as in the official file, and its sizes.

    WeightsError if it is none.
    """
    state = read_state_dict(path)
    # thresholds are a formula (exit_threshold); some copies of the file store them as well
    state.pop("confidence_thresholds", None)
    # the authors' other files name a layer's halves self_attn.N and cross_attn.N
    # and have a number "r" that no layer reads
    state = {
        _HALF.sub(r"transformers.\2.\1", name): value
        for name, value in state.items()
        if not name.endswith(".r")
    }
    return state, LightGlueShape.of_checkpoint(state, path)


def _convolution(
    state: Weights, conv: str, norm: str | None = None, scale: float = SELU_SCALE
) -> dict[str, Array]:
    """``conv`` followed by ``norm``, for an input that lacks the factor ``scale``."""
    weight = state[f"{conv}.weight"] * np.float32(scale)
    if norm is None:
        bias = state.get(f"{conv}.bias")
        return _within(conv, {"weight": weight} | ({} if bias is None else {"bias": bias}))
    deviation = np.sqrt(state[f"{norm}.running_var"] + np.float32(_EPSILON))
    gain = state[f"{norm}.weight"] / deviation
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
    return _within(conv, {"weight": weight * gain[:, None, None, None], "bias": bias})


def _within(prefix: str, weights: Weights) -> dict[str, Array]:
    return {f"{prefix}.{name}": value for name, value in weights.items()}


def encoder(state: Weights, channels: int) -> dict[str, Array]:
    """``aliked.Encoder`` for images of 3 channels (RGB) or 1 (grey).

    A grey image stands for three equal channels: the first convolution's are summed.
    """
    weights = _convolution(state, "block1.conv1", "block1.bn1", scale=1 / 255)
    if channels == 1:
        weights["block1.conv1.weight"] = weights["block1.conv1.weight"].sum(1, keepdims=True)
    weights |= _convolution(state, "block1.conv2", "block1.bn2")
    for block in ("block2", "block3", "block4"):
        for i in (1, 2):
            conv, norm = f"{block}.conv{i}", f"{block}.bn{i}"
            if f"{conv}.offset_conv.weight" in state:
                weights |= _convolution(state, f"{conv}.offset_conv")
                weight, bias = _convolution(state, f"{conv}.regular_conv", norm).values()
                weights |= _within(conv, {"weight": weight, "bias": bias[:, None, None]})
            else:
                weights |= _convolution(state, conv, norm)
        weights |= _convolution(state, f"{block}.downsample")
    for i in range(1, 5):
        weights |= _convolution(state, f"conv{i}")
    parts = np.split(state["score_head.0.weight"] * np.float32(SELU_SCALE), 4, axis=1)
    return weights | {f"score_first.{i}": part for i, part in enumerate(parts)}


def score_tail(state: Weights) -> list[Array]:
    """The score head's three 3×3 convolutions (8→4, 4→4, 4→1), for ELU inputs without λ."""
    return [state[f"score_head.{i}.weight"] * np.float32(SELU_SCALE) for i in (2, 4, 6)]


def offsets(state: Weights) -> dict[str, Array]:
    """``aliked.Offsets``; patches arrive pixel by pixel, the channels of one pixel side by side."""
    first, second = "desc_head.offset_conv.0", "desc_head.offset_conv.2"
    weight = state[f"{first}.weight"].transpose(2, 3, 1, 0)
    return {
        "weight1": weight.reshape(-1, weight.shape[-1]),
        "bias1": state[f"{first}.bias"],
        "weight2": state[f"{second}.weight"][:, :, 0, 0].T,
        "bias2": state[f"{second}.bias"],
    }


def aggregation(state: Weights) -> dict[str, Array]:
    """``aliked.Aggregation``."""
    aggregate = state["desc_head.agg_weights"]
    return {
        "select": state["desc_head.sf_conv.weight"][:, :, 0, 0].T,
        "aggregate": aggregate.reshape(-1, aggregate.shape[-1]),
    }


def extractor(state: Weights, channels: int) -> dict[str, Array]:
    """``aliked.FoldedALIKED``, ALIKED as one graph; channels: see ``encoder``."""
    weights = encoder(state, channels)
    weights["block1.conv1.weight"] = weights["block1.conv1.weight"] * np.float32(PIXEL_SCALE)
    for name in [n for n in weights if ".offset_conv." in n and n.endswith(".weight")]:
        conv = name.removesuffix(".offset_conv.weight")  # deformable: reads, then one product
        weight = weights[f"{conv}.weight"]
        weights[f"{conv}.weight"] = weight.reshape(len(weight), -1)
    return {
        **weights,
        **{f"score_tail.{i}": weight for i, weight in enumerate(score_tail(state))},
        **_within("desc_head", {**offsets(state), **aggregation(state)}),
    }


def embedding(state: Weights) -> dict[str, Array]:
    """``lightglue.Embedding``."""
    return {
        "weight": state["input_proj.weight"].T,
        "bias": state["input_proj.bias"],
        **_within("block", _self_attention(state, 0)),
    }


def angles(state: Weights) -> Array:
    """Rotation angles (2×32) of a normalised position: angle = position @ angles."""
    return state["posenc.Wr.weight"].T


def layer(state: Weights, index: int, layers: int, exits: bool = True) -> dict[str, Array]:
    """``lightglue.Layer`` number ``index`` of ``layers``, with its ``exits`` heads or without.

    The first one's self-attention belongs to ``embedding``.
    """
    cross = f"transformers.{index}.cross_attn"
    scale = np.float32(HEAD_DIM**-0.25)
    query, value = (
        (state[f"{cross}.{part}.weight"], state[f"{cross}.{part}.bias"])
        for part in ("to_qk", "to_v")
    )
    weights = {
        **(_within("block", _self_attention(state, index)) if index > 0 else {}),
        "qk_v": np.concatenate([query[0] * scale, value[0]]).T,
        "qk_v_bias": np.concatenate([query[1] * scale, value[1]]),
        **_within("ffn", _feed_forward(state, f"{cross}.ffn", f"{cross}.to_out")),
    }
    if not exits:
        return weights
    # the last layer has no exit head: it is the exit
    heads = [f"log_assignment.{index}.matchability"]
    heads.append(heads[0] if index == layers - 1 else f"token_confidence.{index}.token.0")
    return {
        **weights,
        "exits": np.concatenate([state[f"{head}.weight"] for head in heads]).T,
        "exits_bias": np.concatenate([state[f"{head}.bias"] for head in heads]),
    }


def assignment(state: Weights, index: int) -> dict[str, Array]:
    """``lightglue.Assignment`` after layer ``index``."""
    head, scale = f"log_assignment.{index}.final_proj", np.float32(DIM**-0.25)
    return {
        "weight": (state[f"{head}.weight"] * scale).T,
        "bias": state[f"{head}.bias"] * scale,
    }


def matcher(state: Weights, numbers: range, layers: int) -> dict[str, Array]:
    """``lightglue.segment``: these of ``layers`` layers, with what comes before the first one."""
    weights: dict[str, Array] = {}
    for i, number in enumerate(numbers):
        # where the matching may end early, of the exit heads the confidence
        exits = number == numbers[-1] != layers - 1
        of_layer = layer(state, number, layers, exits)
        if exits:
            of_layer["exits"] = of_layer["exits"][:, 1:]
            of_layer["exits_bias"] = of_layer["exits_bias"][1:]
        weights |= _within(f"layers.{i}", of_layer)
    if numbers.start:
        return weights
    return {
        **_within("embedding", embedding(state)),
        "angles": angles(state),
        **_within("matcher", weights),
    }


def match_head(state: Weights, index: int) -> dict[str, Array]:
    """``lightglue.MatchHead`` after layer ``index``."""
    head = f"log_assignment.{index}.matchability"
    return {
        **_within("assignment", assignment(state, index)),
        "matchability": state[f"{head}.weight"].T,
        "matchability_bias": state[f"{head}.bias"],
    }


def _even_odd() -> Array:
    """Per head, even channels first: rotating pairs becomes rotating halves."""
    return np.arange(DIM).reshape(HEADS, HEAD_DIM // 2, 2).transpose(0, 2, 1).reshape(-1)


def _self_attention(state: Weights, index: int) -> dict[str, Array]:
    block = f"transformers.{index}.self_attn"
    # rows of Wqkv: head, channel, (q k v)
    weight = state[f"{block}.Wqkv.weight"].reshape(DIM, 3, DIM)
    bias = state[f"{block}.Wqkv.bias"].reshape(DIM, 3)
    order, scale = _even_odd(), np.float32(HEAD_DIM**-0.5)
    return {
        "qkv": np.concatenate([weight[order, 0] * scale, weight[order, 1], weight[:, 2]]).T,
        "qkv_bias": np.concatenate([bias[order, 0] * scale, bias[order, 1], bias[:, 2]]),
        **_within("ffn", _feed_forward(state, f"{block}.ffn", f"{block}.out_proj")),
    }


def _feed_forward(state: Weights, ffn: str, projection: str) -> dict[str, Array]:
    """Residual update from state and attention context, the output projection folded in."""
    first = state[f"{ffn}.0.weight"]
    of_state, of_message = first[:, :DIM], first[:, DIM:]
    of_context = of_message @ state[f"{projection}.weight"]
    return {
        "weight1": np.concatenate([of_state, of_context], axis=1).T,
        "bias1": state[f"{ffn}.0.bias"] + of_message @ state[f"{projection}.bias"],
        "gain": state[f"{ffn}.1.weight"],
        "shift": state[f"{ffn}.1.bias"],
        "weight2": state[f"{ffn}.3.weight"].T,
        "bias2": state[f"{ffn}.3.bias"],
    }
