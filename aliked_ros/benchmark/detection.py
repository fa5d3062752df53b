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

"""What the running node gains by optical flow: ``detection: behind`` against ``every``.

Camera, node (profile ``cpu``) and one subscriber to its features share the cores. Every round
starts the node anew with each setting, in a random order, and measures all of its cases.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aliked_ros.benchmark.node import Sample, describe, sample, start_frontend
from aliked_ros.benchmark.timing import interval
from aliked_ros.ros.processes import Watcher, children, join_private_domain
from aliked_ros.types import UInt8Array

SETTINGS: dict[str, dict[str, Any]] = {
    "every": {"detection": "every"},
    "behind": {"detection": "behind"},
    "behind, threads 1": {"detection": "behind", "threads": 1},
}
"""The node's parameters by name; the first is the baseline."""


@dataclass(frozen=True, slots=True)
class Case:
    """A camera: images a second, and their size in pixels.

    settling: seconds before the measurement; networks are compiled for images of another size.
    """

    rate: float
    width: int
    height: int
    settling: float = 1.5


CASES = (Case(30.0, 640, 480, 5.0), Case(60.0, 640, 480), Case(30.0, 1280, 720, 5.0))
"""What each setting is measured with, in this order."""


def detection_suite(
    images: list[UInt8Array], rounds: int, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Latency, images and detections a second, processor time; ratios to the first setting.

    Raises ProcessError.
    """
    order = np.random.default_rng(0)
    samples: dict[tuple[Case, str], list[Sample]] = {
        (case, name): [] for case in CASES for name in SETTINGS
    }
    watcher = Watcher(join_private_domain())
    done = 0
    try:
        for _ in range(rounds):
            for name in order.permutation(list(SETTINGS)):
                with tempfile.TemporaryDirectory() as folder, children() as start:
                    logs = Path(folder)
                    frontend = start_frontend(start, watcher, logs, SETTINGS[name])
                    for case in CASES:
                        sized = [_resized(image, case) for image in images]
                        found = sample(
                            watcher, frontend, sized, case.rate, 1, "features", logs, case.settling
                        )
                        samples[case, name].append(found)
                        done += 1
                        progress(done / (rounds * len(samples)))
    finally:
        watcher.close()
    baseline = next(iter(SETTINGS))
    return {
        "baseline": baseline,
        "setting": "profile cpu, one subscriber to ~/features",
        "cameras": [
            {
                "images_hz": case.rate,
                "size": [case.width, case.height],
                "detections": [
                    _row(name, samples[case, name], samples[case, baseline]) for name in SETTINGS
                ],
            }
            for case in CASES
        ],
    }


def _resized(image: UInt8Array, case: Case) -> UInt8Array:
    return np.asarray(cv2.resize(image, (case.width, case.height)), np.uint8)


def _row(name: str, found: list[Sample], base: list[Sample]) -> dict[str, Any]:
    return describe(name, found, base) | {
        "detections_hz": round(float(np.median([_detections(name, s) for s in found])), 1),
        "latency_of_baseline": interval(
            np.array([_median(s) / _median(b) for s, b in zip(found, base, strict=True)])
        ),
        "cpu_of_baseline": interval(
            np.array([s.cpu_ms / b.cpu_ms for s, b in zip(found, base, strict=True)])
        ),
    }


def _detections(name: str, found: Sample) -> float:
    every = SETTINGS[name]["detection"] == "every"
    return found.processed_hz if every else found.detections_hz


def _median(found: Sample) -> float:
    """Seconds from an image's stamp to its features' arrival; NaN = none arrived."""
    return float(np.median(found.arrived)) if len(found.arrived) else float("nan")
