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

"""The parts of a first run on a GPU (``first_gpu_run.py``), each run by a process of its own.

A part is a function in one of these modules: it reports figures as it has them, and fails by
raising. What it needs beside the package lies in the bundle that ``gpu_bundle.py`` writes.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aliked_ros.types import Features, UInt8Array

ROOT = Path(__file__).resolve().parents[2]
RESULTS = "results.jsonl"
SIZE_LIMIT = 60_000_000
"""Bytes of a bundle."""


class Skipped(Exception):
    """The part cannot run here; the text says why."""


def carried() -> dict[str, str]:
    """Variables of a Python that a part starts: it finds what the bundle carries, as the part does.

    (Before the machine's own packages, unlike there. It is given no more than it needs.)
    """
    paths = [os.environ.get("PYTHONPATH", ""), os.environ.get("ALIKED_ROS_CARRIED", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@dataclass(frozen=True, slots=True)
class Run:
    """What a part gets.

    place: "cuda:0", or "cpu" in a rehearsal. name: of the part. output: folder of the results.
    """

    place: str
    name: str
    output: Path

    @property
    def on_gpu(self) -> bool:
        """Whether this is no rehearsal."""
        return self.place != "cpu"

    @property
    def bundle(self) -> Bundle:
        """The data that was carried here."""
        return Bundle(ROOT / "bundle")

    def report(self, **figures: Any) -> None:
        """Append a line to the results at once: the part may be killed later."""
        append(self.output, {"part": self.name, **figures})


@dataclass(frozen=True)
class Bundle:
    """Images, and what the CPU backend finds in them in single precision.

    facts (``bundle.json``): commit, date, top_k, models, images (names), pairs of them.
    """

    folder: Path

    @cached_property
    def facts(self) -> dict[str, Any]:
        """See the class."""
        facts: dict[str, Any] = json.loads((self.folder / "bundle.json").read_text("utf-8"))
        return facts

    @cached_property
    def _arrays(self) -> Any:
        import numpy as np

        return np.load(self.folder / "expected.npz")

    def image(self, name: str) -> UInt8Array:
        """H×W×3, RGB."""
        import cv2
        import numpy as np

        pixels = cv2.imread(str(self.folder / "images" / f"{name}.png"), cv2.IMREAD_COLOR)
        assert pixels is not None, name
        return np.ascontiguousarray(pixels[..., ::-1], np.uint8)

    def images(self) -> list[UInt8Array]:
        """Those of the first one's size, in order."""
        found = [self.image(name) for name in self.facts["images"]]
        return [image for image in found if image.shape == found[0].shape]

    def features(self, model: str, name: str) -> Features:
        """The CPU's features of an image."""
        from aliked_ros.types import Features

        kinds = ("keypoints", "scores", "descriptors")
        keypoints, scores, descriptors = (
            self._arrays[f"{model}/{name}/{kind}"].astype("float32") for kind in kinds
        )
        height, width = self.image(name).shape[:2]
        return Features(keypoints, scores, descriptors, width, height, model)

    def matches(self, one: str, other: str) -> set[tuple[int, int]]:
        """The CPU's matches of two images' aliked-n16 features: pairs of rows."""
        return {(int(i), int(j)) for i, j in self._arrays[f"matches/{one}-{other}"]}


@dataclass(frozen=True, slots=True)
class Part:
    """A function of a module, which may take so many seconds; without a GPU it may be skipped.

    Only the process that runs it imports the module: one that is broken loses its own parts.
    """

    name: str
    module: str
    seconds: float = 60
    needs_gpu: bool = True

    def run(self, run: Run) -> None:
        """Run it in this process."""
        getattr(importlib.import_module(self.module), self.name)(run)


# what matters most comes first
PARTS = (
    Part("versions", "gpu_parts.machine", needs_gpu=False),
    Part("kernels", "gpu_parts.checks", 120, needs_gpu=False),
    Part("parity", "gpu_parts.checks", 150, needs_gpu=False),
    Part("benchmark", "gpu_parts.speed", 150, needs_gpu=False),
    Part("admission", "gpu_parts.checks"),
    Part("sizes", "gpu_parts.checks", 90),
    Part("cuda_graph", "gpu_parts.faults"),
    Part("kernel_table", "gpu_parts.speed", needs_gpu=False),
    Part("attention", "gpu_parts.speed", needs_gpu=False),
    Part("blocks", "gpu_parts.speed", 90),
    Part("threads", "gpu_parts.faults", needs_gpu=False),
    Part("full_memory", "gpu_parts.faults"),
    Part("illegal_access", "gpu_parts.faults"),
    Part("sanitizer", "gpu_parts.faults", 90),
    Part("tests", "gpu_parts.checks"),
)


def find(name: str) -> Part:
    """A part by its name, or "module:function:seconds" of another one; KeyError for none."""
    if ":" not in name:
        return {part.name: part for part in PARTS}[name]
    module, function, seconds = name.split(":")
    return Part(function, module, float(seconds), needs_gpu=False)


def append(output: Path, line: dict[str, Any]) -> None:
    """One line more in the results, whole or not at all."""
    text = json.dumps({"at": round(time.time(), 1), **line}, default=_plain)
    with (output / RESULTS).open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
