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

"""Reading PyTorch checkpoints without PyTorch, and without running anything that is in them.

A checkpoint (``torch.save``, since PyTorch 1.6) is a zip archive: ``NAME/data.pkl`` is a pickle
whose tensors refer to ``NAME/data/KEY``, the raw values of one storage each. The pickle may build
tensors and plain containers; any other name in it is refused before it is looked up.
"""

from __future__ import annotations

import collections
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aliked_ros.errors import WeightsError
from aliked_ros.io.signatures import head_of, nature

if TYPE_CHECKING:
    from torch import nn

_ZIP = b"PK"  # of a checkpoint
Array = NDArray[Any]
State = dict[str, Array]
"""Tensors by name."""

_STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<u2",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "<i1",
    "ByteStorage": "<u1", "BoolStorage": "?",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _StorageType:
    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    values: Array
    bfloat16: bool


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Array:
    """What ``torch._utils._rebuild_tensor_v2`` does, as a copy of its own."""
    values = storage.values[offset:]
    last = sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if any(n < 0 or s < 0 for n, s in zip(size, stride, strict=True)) or (
        0 not in size and last >= len(values)
    ):
        raise ValueError(f"a tensor of {size} values lies outside its storage")
    strides = [s * values.itemsize for s in stride]
    array = np.array(np.lib.stride_tricks.as_strided(values, size, strides))
    if storage.bfloat16:  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def _rebuild_parameter(tensor: Array, *_: Any) -> Array:
    return tensor


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
}


class _TensorReader(pickle.Unpickler):
    """Builds tensors and plain containers; every other name is refused."""

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder
        self._storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module == "torch" and name in _STORAGES:
            return _StorageType(name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no tensor needs")

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _StorageType(name), str(key), str(), int()):
                if key not in self._storages:
                    content = self._archive.read(f"{self._folder}/data/{key}")
                    values = np.frombuffer(content, _STORAGES[name])
                    self._storages[key] = _Storage(values, name == "BFloat16Storage")
                return self._storages[key]
        raise pickle.UnpicklingError("it holds a reference that is no tensor's storage")


def read_state_dict(path: Path) -> State:
    """Tensors of a checkpoint by name; nothing in the file is executed.

    Floating point values of any precision come as float32, integers as they are.
    Raises WeightsError when the file is missing, damaged or not a checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (pickled,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
            folder = pickled.removesuffix("/data.pkl")
            if f"{folder}/byteorder" in archive.namelist():
                order = archive.read(f"{folder}/byteorder")
                if order != b"little":
                    raise ValueError(f"its byte order is {order.decode(errors='replace')}")
            with archive.open(pickled) as file:
                content = _TensorReader(file, archive, folder).load()
    except Exception as error:  # a damaged pickle can raise anything
        raise WeightsError(
            f"Cannot read the checkpoint {path}: {_reason(error, path)}. "
            "Fetch it again with `aliked_ros models fetch --force`, or save it again with "
            "torch.save(network.state_dict(), FILE)."
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(v, np.ndarray) for v in state.values()):
        raise WeightsError(f"{path} holds no table of tensors; it is not a published checkpoint.")
    return {
        str(name): value.astype(np.float32, copy=False) if value.dtype.kind == "f" else value
        for name, value in state.items()
    }


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, zipfile.BadZipFile):
        head = head_of(path)
        if not head.startswith(_ZIP) and (other := nature(head)):
            return other
        return "it is cut off, damaged, or no PyTorch checkpoint"
    return str(error) or type(error).__name__


def load_strictly(module: nn.Module, state: Mapping[str, Array], path: Path) -> None:
    """Fill ``module``; every tensor of both sides must find its partner, or WeightsError."""
    import torch

    try:
        module.load_state_dict({n: torch.from_numpy(v) for n, v in state.items()}, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit {type(module).__name__}: {error}") from error
    module.eval()


def state_of(module: nn.Module) -> State:
    """The tensors of a network in memory, as ``read_state_dict`` gives those of a file."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
