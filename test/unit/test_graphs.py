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

"""Published graphs: those of today's networks, filled without PyTorch, refusing what is odd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from aliked_ros.errors import ModelError, WeightsError
from aliked_ros.models import graphs
from aliked_ros.models.graphs import LIGHTGLUE, AlikedGraphs, LightGlueGraphs
from aliked_ros.models.registry import weights_path
from aliked_ros.networks.checkpoint import read_state_dict


def saved(path: Path, state: dict[str, np.ndarray]) -> str:
    """A checkpoint of one's own, as PyTorch writes it."""
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(value) for name, value in state.items()}, path)
    return str(path)


def test_every_graph_that_can_be_asked_for_is_published() -> None:
    pytest.importorskip("torch")
    from aliked_ros.models import export

    for variant, part, _ in export.published():
        graphs.template(variant, part)


def test_both_encoders_are_whole_onnx_files() -> None:
    """Every other program reads them, too."""
    networks = AlikedGraphs("aliked-n16")
    for channels in (1, 3):
        model = onnx.load_from_string(networks.encoder(channels))
        onnx.checker.check_model(model, full_check=True)
        assert model.graph.input[0].type.tensor_type.shape.dim[3].dim_value == channels
    matcher = LightGlueGraphs()
    for content in (matcher.embedding, *matcher.layers, *matcher.assignments):
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)


def test_a_checkpoint_of_ones_own_takes_the_same_way(tmp_path: Path) -> None:
    state = read_state_dict(weights_path("aliked-n16"))
    state["desc_head.agg_weights"] = 2 * state["desc_head.agg_weights"]
    own = AlikedGraphs(saved(tmp_path / "own.pth", state))
    published = AlikedGraphs("aliked-n16")
    assert own.encoder(3) == published.encoder(3)
    assert own.aggregation != published.aggregation


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("block2.bn1.weight"), "lacks 'block2.bn1.weight'"),
        (lambda s: s.update(extra=np.zeros(3, np.float32)), "1 tensors have no place .*extra"),
        (
            lambda s: s.update({"block1.conv2.weight": np.zeros((16, 16, 5, 5), np.float32)}),
            r"conv2\.weight is \(16, 16, 5, 5\), not \(16, 16, 3, 3\)",
        ),
        (lambda s: s.pop("conv1.weight"), "is not an ALIKED checkpoint"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, change, said: str) -> None:
    state = read_state_dict(weights_path("aliked-n16"))
    change(state)
    with pytest.raises(WeightsError, match=said):
        AlikedGraphs(saved(tmp_path / "odd.pth", state)).encoder(3)


def test_a_damaged_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "share_path", lambda name: tmp_path / name)
    with pytest.raises(ModelError, match=r"layer\.onnx is missing or damaged .*install .* again"):
        graphs.template.__wrapped__(LIGHTGLUE, "layer")
