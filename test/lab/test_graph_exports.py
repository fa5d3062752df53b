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

"""Published graphs are what PyTorch exports today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from aliked_ros.errors import ModelError
from aliked_ros.models import graphs
from aliked_ros.models.graphs import LIGHTGLUE, AlikedGraphs

CHECKED = {
    *(f"aliked-n16/{part}" for part in ("encoder_rgb", "offsets", "aggregation")),
    "aliked-n16/extractor_rgb-float16", "aliked-t16/encoder_grey", "aliked-n32/aggregation",
    *(f"{LIGHTGLUE}/{part}" for part in ("embedding", "layer", "layers_3_5-float16")),
    f"{LIGHTGLUE}/matches-float32",
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(CHECKED))
def test_a_published_graph_is_what_pytorch_exports_today(name: str) -> None:
    """Else: make graphs. These differ in what can change; all of them would take four minutes."""
    pytest.importorskip("torch")
    from aliked_ros.models import export

    makers = {f"{variant}/{part}": make for variant, part, make in export.published()}
    assert makers[name]() == graphs.template(*name.split("/"))


@pytest.mark.long
def test_sizes_without_a_published_graph_need_pytorch(tmp_path: Path, monkeypatch) -> None:
    torch = pytest.importorskip("torch")
    from aliked_ros.networks.aliked import ALIKED
    from aliked_ros.networks.fold import AlikedShape

    torch.manual_seed(0)
    path = tmp_path / "small.pth"
    torch.save(ALIKED(AlikedShape((8, 8, 16, 16), 32, 3, 4)).state_dict(), path)
    networks = AlikedGraphs(str(path))
    onnx.checker.check_model(onnx.load_from_string(networks.encoder(1)), full_check=True)
    monkeypatch.setitem(sys.modules, "aliked_ros.models.export", None)  # as without PyTorch
    monkeypatch.delattr("aliked_ros.models.export", raising=False)
    with pytest.raises(ModelError, match=r"No graph is published .* needs PyTorch"):
        networks.encoder(1)


def test_a_process_runs_every_model_without_pytorch_and_onnx() -> None:
    program = """
import sys
sys.modules.update(torch=None, onnx=None)  # an import of them now fails
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.sources import open_source
images = list(open_source("virtual", limit=2))
for model in ("aliked-t16", "aliked-n16", "aliked-n16rot", "aliked-n32"):
    matcher = "lightglue" if model == "aliked-n16" else "nearest"
    pipeline = Pipeline(FrontendConfig(model=model, matcher=matcher, backend="cpu"))
    for image in images:
        result = pipeline.process(image)
    print(model, len(result.features) > 10, len(result.matches) > 10)
    pipeline.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("True True") == 4, done.stdout
