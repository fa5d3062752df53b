"""Reading published checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from aliked_ros.errors import WeightsError


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name; nothing in the file is executed.

    Raises WeightsError when the file is missing, truncated or not a checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"Cannot read the checkpoint {path}: {error}. "
            "Fetch it again with `aliked_ros models fetch --force`."
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} holds no table of tensors; it is not a published checkpoint.")
    return state


def load_strictly(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Fill ``module``; every tensor of both sides must find its partner, or WeightsError."""
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit {type(module).__name__}: {error}") from error
    module.eval()
