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


"""What remembering many keyframes costs: memory, time of a query, of saving and of loading."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from aliked_ros.benchmark.timing import machine
from aliked_ros.configuration import FrontendConfig
from aliked_ros.exporting.maps import MapFile
from aliked_ros.frontend.places import MAX_FEATURES, KeyframeDatabase, Place
from aliked_ros.ros.places import DEFINED
from aliked_ros.ros.recording import message_definition
from aliked_ros.types import Features, FrameResult, Matches, Tracks

_QUERIES = 21
_THUMBNAIL = 5000  # bytes: of a JPEG of a usual scene
_WIDTH, _HEIGHT = 640, 480


def time_places(
    count: int, report: Callable[[float], None] = lambda _share: None
) -> dict[str, Any]:
    """Fill a database with synthetic keyframes of MAX_FEATURES random features; time its use."""
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    database = KeyframeDatabase(max_places=count)
    adding = []
    for number in range(count):
        place = _place(number)
        begin = time.perf_counter()
        database.add(place)
        adding.append(time.perf_counter() - begin)
        report(number / count)
    memory = process.memory_info().rss - before
    queries, computing = [], []
    for number in range(_QUERIES):
        features = _features(number * (count // _QUERIES))
        begin, computed = time.perf_counter(), time.thread_time()
        (found,) = database.candidates(features, 1)
        queries.append(time.perf_counter() - begin)
        computing.append(time.thread_time() - computed)  # not what others take of a busy machine
        assert found.index == number * (count // _QUERIES)
    definitions = {name: message_definition(kind) for name, kind in DEFINED.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.mcap"
        with MapFile(path) as file:
            begin, computed = time.perf_counter(), time.process_time()
            file.save(database, definitions)
            saving, saving_cpu = time.perf_counter() - begin, time.process_time() - computed
            size = path.stat().st_size
            del database
            begin, computed = time.perf_counter(), time.process_time()
            loaded = KeyframeDatabase(max_places=count)
            file.load(loaded, FrontendConfig().model)
            loading, loading_cpu = time.perf_counter() - begin, time.process_time() - computed
    return {
        "keyframes": count,
        "features_each": MAX_FEATURES,
        "memory_MB": round(memory / 1e6),
        "add_ms": round(1e3 * float(np.median(adding)), 2),
        "query_ms": round(1e3 * float(np.median(queries)), 1),
        "query_cpu_ms": round(1e3 * float(np.median(computing)), 1),
        "save_s": round(saving, 1),
        "save_cpu_s": round(saving_cpu, 1),
        "load_s": round(loading, 1),
        "load_cpu_s": round(loading_cpu, 1),
        "file_MB": round(size / 1e6),
        "load_average": round(psutil.getloadavg()[0], 1),
        "machine": machine(),
    }


def _features(number: int) -> Features:
    rng = np.random.default_rng(number)
    descriptors = rng.standard_normal((MAX_FEATURES, 128), np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    scale = np.array([_WIDTH - 1, _HEIGHT - 1], np.float32)
    keypoints = rng.random((MAX_FEATURES, 2), np.float32) * scale
    scores = np.ones(MAX_FEATURES, np.float32)
    return Features(keypoints, scores, descriptors, _WIDTH, _HEIGHT, FrontendConfig().model)


def _place(number: int) -> Place:
    features = _features(number)
    ids = np.arange(1, MAX_FEATURES + 1, dtype=np.uint64) + np.uint64(100 * number)
    tracks = Tracks(ids, np.ones(MAX_FEATURES, np.uint32), 1)
    result = FrameResult(
        number, float(number), features, Matches.empty(), tracks,
        normalized=features.keypoints / np.float32(500), depth=np.ones(MAX_FEATURES, np.float32),
    )  # fmt: skip
    place = Place.of(result, number * 1_000_000_000, "camera")
    return replace(place, thumbnail=np.random.default_rng(number).bytes(_THUMBNAIL))
