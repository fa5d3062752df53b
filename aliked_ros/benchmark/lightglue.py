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

"""LightGlue (Lindenberger et al., arXiv 2306.13643) as published, to compare with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.matcher import LightGlueMatcher
from aliked_ros.models.registry import weights_path
from aliked_ros.networks.checkpoint import load_strictly
from aliked_ros.networks.constants import DIM, HEAD_DIM, HEADS, exit_threshold
from aliked_ros.networks.fold import read_lightglue
from aliked_ros.types import Features, Matches


def rotate(encoding: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """Rotary encoding of B×heads×N×64 by cosines and sines B×1×N×64 (each value twice)."""
    cosine, sine = encoding
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cosine + torch.stack([-odd, even], dim=-1).flatten(-2) * sine


class FourierEncoding(nn.Module):
    """Learnable Fourier features of the normalised position, as rotation angles (section 3.1)."""

    def __init__(self) -> None:
        super().__init__()
        self.Wr = nn.Linear(2, HEAD_DIM // 2, bias=False)

    def forward(self, keypoints: Tensor) -> tuple[Tensor, Tensor]:
        """B×N×2 normalised positions → cosines and sines, each B×1×N×64."""
        angle = self.Wr(keypoints)[:, None].repeat_interleave(2, dim=-1)
        return angle.cos(), angle.sin()


def feed_forward() -> nn.Sequential:
    """The update from a point's state and the message it received, concatenated."""
    return nn.Sequential(
        nn.Linear(2 * DIM, 2 * DIM), nn.LayerNorm(2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM)
    )


def split_heads(x: Tensor) -> Tensor:
    """B×N×256 → B×4×N×64."""
    return x.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """B×4×N×64 → B×N×256."""
    return x.transpose(1, 2).flatten(-2)


class SelfBlock(nn.Module):
    """Self-attention with rotary encoding."""

    def __init__(self) -> None:
        super().__init__()
        self.Wqkv = nn.Linear(DIM, 3 * DIM)
        self.out_proj = nn.Linear(DIM, DIM)
        self.ffn = feed_forward()

    def forward(self, x: Tensor, encoding: tuple[Tensor, Tensor]) -> Tensor:
        # the checkpoint interleaves q, k, v within each head's channels
        q, k, v = self.Wqkv(x).unflatten(-1, (HEADS, HEAD_DIM, 3)).transpose(1, 2).unbind(-1)
        q, k = rotate(encoding, q), rotate(encoding, k)
        context = F.scaled_dot_product_attention(q, k, v.contiguous())
        message = self.out_proj(join_heads(context))
        return x + self.ffn(torch.cat([x, message], dim=-1))


class CrossBlock(nn.Module):
    """Cross-attention whose queries serve as keys of the other direction."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qk = nn.Linear(DIM, DIM)
        self.to_v = nn.Linear(DIM, DIM)
        self.to_out = nn.Linear(DIM, DIM)
        self.ffn = feed_forward()

    def forward(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        scale = HEAD_DIM**-0.25
        qk0, qk1 = (split_heads(self.to_qk(x)) * scale for x in (x0, x1))
        v0, v1 = (split_heads(self.to_v(x)) for x in (x0, x1))
        if qk0.dtype == torch.float16:  # as the published code, where it may use flash attention
            context0 = F.scaled_dot_product_attention(qk0, qk1, v1, scale=1.0)
            context1 = F.scaled_dot_product_attention(qk1, qk0, v0, scale=1.0)
        else:
            similarity = qk0 @ qk1.transpose(-1, -2)
            context0 = similarity.softmax(-1) @ v1
            context1 = similarity.transpose(-1, -2).softmax(-1) @ v0
        m0, m1 = (self.to_out(join_heads(context)) for context in (context0, context1))
        x0 = x0 + self.ffn(torch.cat([x0, m0], dim=-1))
        x1 = x1 + self.ffn(torch.cat([x1, m1], dim=-1))
        return x0, x1


class TransformerLayer(nn.Module):
    """One self- and one cross-attention block."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = SelfBlock()
        self.cross_attn = CrossBlock()

    def forward(
        self,
        x0: Tensor,
        x1: Tensor,
        encoding0: tuple[Tensor, Tensor],
        encoding1: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        return self.cross_attn(self.self_attn(x0, encoding0), self.self_attn(x1, encoding1))


class MatchAssignment(nn.Module):
    """Similarity and matchability into a soft assignment (section 3.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.matchability = nn.Linear(DIM, 1)
        self.final_proj = nn.Linear(DIM, DIM)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Log-assignment B×N0×N1 (without the published form's dustbin row and column)."""
        y0, y1 = (self.final_proj(x) / DIM**0.25 for x in (x0, x1))
        similarity = y0 @ y1.transpose(-1, -2)
        z0, z1 = (F.logsigmoid(self.matchability(x)) for x in (x0, x1))
        certainty = z0 + z1.transpose(-1, -2)
        return similarity.log_softmax(-1) + similarity.log_softmax(-2) + certainty


class TokenConfidence(nn.Module):
    """How sure each point is that its match, or having none, is final."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Sequential(nn.Linear(DIM, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.token(x).squeeze(-1)


class LightGlue(nn.Module):
    """The matcher; parameters are named as in the published checkpoint."""

    def __init__(self, input_dim: int, layers: int) -> None:
        super().__init__()
        self.layers = layers
        self.input_proj = nn.Linear(input_dim, DIM)
        self.posenc = FourierEncoding()
        self.transformers = nn.ModuleList(TransformerLayer() for _ in range(layers))
        self.log_assignment = nn.ModuleList(MatchAssignment() for _ in range(layers))
        self.token_confidence = nn.ModuleList(TokenConfidence() for _ in range(layers - 1))

    @classmethod
    def from_checkpoint(cls, path: Path) -> LightGlue:
        """The matcher in a published checkpoint, in evaluation mode; WeightsError if it is none."""
        state, shape = read_lightglue(path)
        network = cls(shape.input_dim, shape.layers)
        load_strictly(network, state, path)
        return network

    def forward(
        self,
        keypoints: tuple[Tensor, Tensor],
        descriptors: tuple[Tensor, Tensor],
        depth_confidence: float,
        width_confidence: float,
    ) -> tuple[Tensor, tuple[Tensor, Tensor], int]:
        """Log-assignment of the points still in play, their original rows, layers run.

        keypoints: two tensors N×2 from ``normalize_keypoints``; descriptors: two N×input_dim.
        depth_confidence, width_confidence: published 0.95 and 0.99; negative switches it off.
        """
        x = [self.input_proj(d[None]) for d in descriptors]
        encoding = [self.posenc(k[None]) for k in keypoints]
        rows = [torch.arange(d.shape[0], device=d.device) for d in descriptors]
        total = sum(len(r) for r in rows)
        for layer in range(self.layers):
            if min(len(r) for r in rows) == 0:
                break
            x[0], x[1] = self.transformers[layer](x[0], x[1], encoding[0], encoding[1])
            if layer == self.layers - 1 or max(depth_confidence, width_confidence) < 0:
                continue
            threshold = exit_threshold(layer, self.layers)
            confidence = [self.token_confidence[layer](y)[0] for y in x]
            undecided = sum(int((c < threshold).sum()) for c in confidence)
            if 0 <= depth_confidence < 1 - undecided / total:
                break
            if width_confidence < 0:
                continue
            for i in (0, 1):
                matchable = self.log_assignment[layer].matchability(x[i])[0, :, 0].sigmoid()
                keep = (matchable > 1 - width_confidence) | (confidence[i] <= threshold)
                x[i], rows[i] = x[i][:, keep], rows[i][keep]
                encoding[i] = tuple(e[:, :, keep] for e in encoding[i])
        return self.log_assignment[layer](x[0], x[1])[0], (rows[0], rows[1]), layer + 1


def normalize_keypoints(keypoints: Tensor, width: int, height: int) -> Tensor:
    """Pixels to about [-1, 1]: centred, divided by half the longer side."""
    size = keypoints.new_tensor([width, height])
    return (keypoints - size / 2) / (size.max() / 2)


def filter_matches(log_assignment: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mutual best pairs above ``threshold``: rows of image 0, rows of image 1, probabilities."""
    if 0 in log_assignment.shape:
        none = torch.zeros(0, dtype=torch.long, device=log_assignment.device)
        return none, none, log_assignment.new_zeros(0)
    best, forward = log_assignment.max(1)
    backward = log_assignment.argmax(0)
    probability = best.exp()
    rows = torch.arange(len(forward), device=forward.device)
    kept = rows[(backward[forward] == rows) & (probability > threshold)]
    return kept, forward[kept], probability[kept]


class PublishedLightGlue:
    """LightGlue as published, on any device; see ``MatchNetwork``."""

    users = 1

    def __init__(self, network: LightGlue, device: torch.device, half: bool = False) -> None:
        """``half``: autocast to half precision, with flash attention where PyTorch has it."""
        self._network, self._device, self._half = network, device, half

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
            normalize_keypoints(torch.from_numpy(f.keypoints).to(self._device), f.width, f.height)
            for f in pair
        )
        descriptors0, descriptors1 = (
            torch.from_numpy(f.descriptors).to(self._device) for f in pair
        )
        with torch.autocast(self._device.type, torch.float16, enabled=self._half):
            assignment, rows, layers = self._network(
                (keypoints0, keypoints1),
                (descriptors0, descriptors1),
                depth_confidence,
                width_confidence,
            )
        i, j, probability = filter_matches(assignment, match_threshold)
        indices = [r[k].cpu().numpy().astype(np.uint32) for r, k in zip(rows, (i, j), strict=True)]
        return Matches(indices[0], indices[1], probability.float().cpu().numpy(), layers=layers)


def create_published_matcher(config: FrontendConfig) -> LightGlueMatcher:
    """LightGlue as published, in eager PyTorch on the CPU."""
    network = LightGlue.from_checkpoint(weights_path("aliked-lightglue"))
    matcher = PublishedLightGlue(network, torch.device("cpu"))
    backend: Any = SimpleNamespace(load_matcher=lambda: matcher)
    return LightGlueMatcher(config, backend)
