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

"""How the front-end's stages scale: one factor varied at a time around the default setting.

Every point is a separate process (``points``). The points of a factor take turns in a new random
order each round; each round gives ratios to the default setting, which is one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aliked_ros.benchmark.points import Burst, Point, Setting
from aliked_ros.benchmark.timing import interval
from aliked_ros.configuration import MODELS, FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.system.cpu import cores
from aliked_ros.types import UInt8Array

STAGES = ("extract", "match", "verify", "track", "total")
DEFAULT = Setting(640, 480, FrontendConfig(max_keypoints=1000))
SIZES = ((320, 240), (640, 480), (1280, 720), (1920, 1080))
KEYPOINTS = (256, 512, 1000, 2048, 4096)

_BURST, _SLOW = 3, 0.5  # consecutive images per measurement; one if they take seconds
_WARM_UP = 4  # images: the first has no match, and libraries initialise
_IMAGES = 24  # of the source, forward and back


@dataclass(frozen=True, slots=True)
class Factor:
    """Settings that differ in one factor, including the default.

    values: by name. default: the default's name. unit: of the names; empty = none. places:
    positions of the values on an axis, for curves; empty = unordered.
    """

    name: str
    unit: str
    values: dict[str, Setting]
    default: str
    places: tuple[float, ...] = ()


def factors() -> list[Factor]:
    """All factors for this machine."""
    config = DEFAULT.config
    every = cores()
    threads = sorted({*(2**n for n in range(every.bit_length()) if 2**n <= every), every})

    def with_config(**settings: Any) -> Setting:
        return replace(DEFAULT, config=replace(config, **settings))

    models = {
        name: with_config(model=name, **({"matcher": "nearest"} if name == "aliked-t16" else {}))
        for name in MODELS
    }
    cpu = {"backend": "cpu"}
    backends = {
        "cpu, bfloat16": with_config(**cpu, precision="bfloat16"),
        "cpu, float32": with_config(**cpu, precision="float32"),
        "cpu, float32, ONNX Runtime": replace(
            with_config(**cpu, precision="float32"), hidden=("openvino",)
        ),
        "torch, float32": with_config(backend="torch"),
        "tensorrt": with_config(backend="tensorrt", allow_fallback=False),
    }
    return [
        Factor(
            "image size",
            "pixels",
            {f"{w}×{h}": replace(DEFAULT, width=w, height=h) for w, h in SIZES},
            f"{DEFAULT.width}×{DEFAULT.height}",
            tuple(w * h / 1e6 for w, h in SIZES),
        ),
        Factor(
            "keypoints",
            "",
            {str(count): with_config(max_keypoints=count) for count in KEYPOINTS},
            str(config.max_keypoints),
            KEYPOINTS,
        ),
        Factor("model", "", models, config.model),
        Factor("backend", "", {"auto": DEFAULT, **backends}, "auto"),
        Factor(
            "threads",
            "",
            {str(count): replace(DEFAULT, cores=count) for count in threads},
            str(every),
            tuple(threads),
        ),
    ]


def scaling_suite(
    images: list[UInt8Array], rounds: int, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Stage times, images a second, memory and cores over size, keypoints, model, ... (factors)."""
    chosen = factors()
    tables = []
    for number, factor in enumerate(chosen):

        def report(share: float, number: int = number) -> None:
            progress((number + share) / len(chosen))

        tables.append(_measured(factor, images[:_IMAGES], rounds, report))
    return {
        "setting": f"{DEFAULT.width}×{DEFAULT.height}, {DEFAULT.config.max_keypoints} keypoints, "
        f"{DEFAULT.config.model}, {DEFAULT.config.matcher}, backend {DEFAULT.config.backend}, "
        f"{cores()} threads",
        "factors": tables,
    }


def _measured(
    factor: Factor, images: list[UInt8Array], rounds: int, report: Callable[[float], None]
) -> dict[str, Any]:
    left_out: dict[str, str] = {}
    bursts: dict[str, list[Burst]] = {name: [] for name in factor.values}
    rows = []
    with ExitStack() as stack:
        points: dict[str, Point] = {}
        counts: dict[str, int] = {}
        for name, setting in factor.values.items():
            try:
                points[name] = stack.enter_context(Point(setting, images))
                last = points[name].run(_WARM_UP).stages["total"][-1]
                counts[name] = 1 if last > _SLOW else _BURST
            except BackendError as error:
                points.pop(name, None)
                left_out[name] = str(error)
        if factor.default not in points:
            raise BackendError(left_out[factor.default])
        same = points[factor.default].backend
        for name in [n for n in points if factor.name == "backend" and n != factor.default]:
            if points[name].backend == same:
                left_out[name] = f"it is what {factor.default!r} selects"
                points.pop(name).close()
        order = np.random.default_rng(0)
        for done, names in enumerate(_turns(points, rounds, order)):
            for name in names:
                bursts[name].append(points[name].run(counts[name]))
            report((done + 1) / rounds)
        base = np.array([burst.per_image for burst in bursts[factor.default]])
        places = dict(zip(factor.values, factor.places, strict=False))
        for name, point in points.items():
            facts = {"name": name, "at": places.get(name), "backend": point.backend}
            facts = {key: value for key, value in facts.items() if value is not None}
            rows.append({**facts, **_row(bursts[name], base, point)})
    return {
        "factor": factor.name,
        "unit": factor.unit,
        "default": factor.default,
        "points": rows,
        "left_out": left_out,
    }


def _turns(
    points: dict[str, Point], rounds: int, order: np.random.Generator
) -> Iterator[list[str]]:
    for _ in range(rounds):
        yield [str(name) for name in order.permutation(list(points))]


def _row(bursts: list[Burst], base: Any, point: Point) -> dict[str, Any]:
    """Figures of one point.

    times_as_long: relative to the default, with its 95 % interval over rounds. cores_busy:
    processor time a second. memory_mib: peak, above the process without the front-end.
    """
    wall = sum(burst.wall for burst in bursts)
    each = np.array([burst.per_image for burst in bursts])
    stages = {name: np.concatenate([burst.stages[name] for burst in bursts]) for name in STAGES}
    means = np.array([np.mean(burst.stages["total"]) for burst in bursts])
    _, low, high = interval(1e3 * means)
    longer, longer_low, longer_high = interval(each / base)
    memory = point.peak_memory()
    return {
        "rounds": len(bursts),
        "images": len(stages["total"]),
        "stages": {name: _percentiles(seconds) for name, seconds in stages.items()},
        "total_low_ms": low,
        "total_high_ms": high,
        "times_as_long": longer,
        "times_as_long_low": longer_low,
        "times_as_long_high": longer_high,
        "images_per_s": round(len(stages["total"]) / wall, 2),
        "cores": point.cores,
        "cores_busy": round(sum(b.processor for b in bursts) / wall, 2),
        "memory_mib": None if memory is None else round(memory),
    }


def _percentiles(seconds: Any) -> dict[str, float]:
    names, ranks = ("median_ms", "p90_ms", "p99_ms"), (50, 90, 99)
    values = np.percentile(seconds, ranks)
    return {name: round(1e3 * float(v), 3) for name, v in zip(names, values, strict=True)}
