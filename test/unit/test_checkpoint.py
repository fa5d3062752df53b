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

"""Checkpoints are read without PyTorch, as PyTorch reads them, and nothing in them is run."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from aliked_ros.errors import WeightsError
from aliked_ros.models.registry import MODELS, weights_path
from aliked_ros.networks.checkpoint import read_state_dict


class Command:
    """Runs a command where an unsuspecting reader unpickles it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def archive(path: Path, content: object) -> Path:
    """A file laid out as PyTorch's, with another pickle in it."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
    return path


@pytest.mark.parametrize("model", MODELS)
def test_published_checkpoints_are_read_as_pytorch_reads_them(model: str) -> None:
    torch = pytest.importorskip("torch")
    expected = torch.load(weights_path(model), map_location="cpu", weights_only=True)
    found = read_state_dict(weights_path(model))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def test_views_and_other_precisions_are_read_as_pytorch_reads_them(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    whole = torch.arange(24.0).reshape(4, 6)
    state = {
        "whole": whole, "transposed": whole.T, "column": whole[1:, 2], "none": whole[:0],
        "half": whole.half() / 7, "bfloat16": whole.bfloat16() / 7, "double": whole.double() / 7,
        "count": torch.tensor(5), "flags": whole > 3,
        "parameter": torch.nn.Parameter(whole + 1),
    }  # fmt: skip
    torch.save({"model": state, "step": 7, "note": "of a training"}, tmp_path / "a.pth")
    found = read_state_dict(tmp_path / "a.pth")
    for name, tensor in state.items():
        expected = tensor.detach().float() if tensor.is_floating_point() else tensor
        np.testing.assert_array_equal(found[name], expected.numpy())
        assert found[name].dtype == expected.numpy().dtype


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "run"
    hostile = archive(tmp_path / "hostile.pth", {"weight": Command(marker)})
    with pytest.raises(WeightsError, match=r"asks for \w+\.system, which no tensor needs"):
        read_state_dict(hostile)
    assert not marker.exists()


def test_a_tensor_outside_its_storage_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.zeros(100)}, tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as source,
        zipfile.ZipFile(tmp_path / "short.pth", "w") as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content[:200] if name.endswith("data/0") else content)
    with pytest.raises(WeightsError, match="lies outside its storage"):
        read_state_dict(tmp_path / "short.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cut off, damaged, or no PyTorch checkpoint"),
        (b"not a checkpoint", "cut off, damaged, or no PyTorch checkpoint"),
        (None, "No such file"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "odd.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"odd\.pth: .*{said}"):
        read_state_dict(path)


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    for content in ([1, 2], {"weight": 3.0}):
        with pytest.raises(WeightsError, match="holds no table of tensors"):
            read_state_dict(archive(tmp_path / "other.pth", content))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_checkpoint_that_was_cut_off_is_refused(tmp_path: Path, share: float) -> None:
    content = weights_path("aliked-t16").read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match="cut off, damaged"):
        read_state_dict(path)
