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

"""The cost of a training step with the sparse and the dense neural reprojection error.

``python -m aliked_ros.training.cost`` measures both in separate processes, in turns. Memory is the
process's peak above its size before the first step.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor

from aliked_ros.benchmark.timing import machine
from aliked_ros.models.registry import weights_path
from aliked_ros.networks.aliked import ALIKED
from aliked_ros.sources.virtual import VirtualCamera
from aliked_ros.training.distortions import Distortions
from aliked_ros.training.extraction import Detections, detect
from aliked_ros.training.losses import LossSettings, dense_nre_loss, sparse_nre_loss
from aliked_ros.training.pairs import HomographyPairs
from aliked_ros.training.warps import Warp

SIZE, KEYPOINTS, ROUNDS = (640, 480), 1000, 3
FORMS = ("sparse", "dense")


def measure(form: str, rounds: int) -> dict[str, float]:
    """Median seconds per step, and GiB; the first step is not timed."""
    network = ALIKED.from_checkpoint(weights_path("aliked-n16"))
    image = VirtualCamera(length=1).render(0).pixels
    pair = HomographyPairs([image], SIZE, Distortions(), seed=0)[0]
    images = torch.stack([pair.first, pair.second])
    before, seconds = _peak(), []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        found = detect(network, images, KEYPOINTS)
        maps = network.dense_maps(images)[0] if form == "dense" else (None, None)
        forth = _nre(found[0], found[1], pair.first_to_second, maps[1])
        back = _nre(found[1], found[0], pair.second_to_first, maps[0])
        torch.autograd.backward(forth + back)
        seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds[1:]), "gib": (_peak() - before) / 2**30}


def _nre(a: Detections, b: Detections, warp: Warp, dense: Tensor | None) -> Tensor:
    warped, visible = warp(a.keypoints)
    settings = LossSettings()
    if dense is None:
        return sparse_nre_loss(a.descriptors, b.descriptors, warped, visible, b.keypoints,
                               settings.threshold, settings.t_des)  # fmt: skip
    return dense_nre_loss(a.descriptors, dense, warped, visible, settings.t_des)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def main(arguments: list[str]) -> None:
    """Measure the form given as argument; without one, both in processes, and their ratio."""
    if arguments:
        print(json.dumps(measure(arguments[0], ROUNDS)))
        return
    found: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    for _ in range(2):
        for form in FORMS:
            command = [sys.executable, "-m", "aliked_ros.training.cost", form]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[form].append(json.loads(text.splitlines()[-1]))
    cost = {
        form: {key: min(run[key] for run in runs) for key in runs[0]}
        for form, runs in found.items()
    }
    ratio = {key: cost["dense"][key] / cost["sparse"][key] for key in cost["dense"]}
    print(json.dumps({"machine": machine(), **cost, "dense / sparse": ratio}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
