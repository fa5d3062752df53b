"""The networks of PyTorch's device backend, with published weights."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from aliked_ros.models.registry import weights_path
from aliked_ros.networks import fold
from aliked_ros.networks.checkpoint import read_state_dict
from aliked_ros.networks.device import DeviceExtractor, matcher

Kind = TypeVar("Kind", bound=DeviceExtractor)


def device_extractor(kind: type[Kind], model: str, half: bool) -> Kind:
    """ALIKED for RGB images."""
    path = weights_path(model)
    state = read_state_dict(path)
    return kind(fold.extractor(state, 3), fold.AlikedShape.of_checkpoint(state, path), half)


def device_matcher(layers: range, half: bool) -> nn.Module:
    """These of LightGlue's layers."""
    path = weights_path("aliked-lightglue")
    state = fold.read_lightglue(path)
    shape = fold.LightGlueShape.of_checkpoint(state, path)
    return matcher(fold.matcher(state, layers, shape.layers), layers, shape, half)
