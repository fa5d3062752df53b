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

"""What is made of all recordings together, once each of them is done.

A reduction is a row of REDUCTIONS: its file in the output, and the function that makes it from the
plan, the manifests by name, the failures, and ``spread`` (``run.Tasks``), which runs functions on
the cluster. ``plan.REDUCTIONS`` names the operation whose files it reads.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from aliked_ros.errors import ConfigurationError, OutputError
from aliked_ros.fleet.operations import DATABASE_FILE, POSES_FILE, RECORDING_FILE
from aliked_ros.fleet.plan import Plan
from aliked_ros.fleet.report import report_page
from aliked_ros.fleet.storage import Store, is_local

Manifests = dict[str, dict[str, Any]]

DATABASE, REPORT, MAP = "colmap.db", "report.html", "map.mcap"
VOCABULARY, TRAINING = "vocabulary.bin", "training.yaml"
_MERGING = ".merging"  # folder of half-joined databases
_MOST_IMAGES = 50_000  # of the vocabulary: 1.6 GB of codes for 1000 keypoints an image
_HELD_BACK = 10  # one of so many recordings validates the training


def _report(plan: Plan, manifests: Manifests, failures: list[dict[str, str]], _: Any) -> None:
    store = Store(plan.output)
    with store.writing(REPORT) as path:
        path.write_text(report_page(plan, store, manifests, failures), encoding="utf-8")


def _colmap(plan: Plan, manifests: Manifests, _: Any, spread: Any) -> None:
    """One database: neighbours are joined two by two, so each is copied log2(N) times."""
    level: list[Any] = [f"{name}/{DATABASE_FILE}" for name in sorted(manifests)]
    step = 0
    while len(level) > 1:
        joined = [
            spread(merge_databases, plan.output, f"{_MERGING}/{step}-{n}.db", *level[n : n + 2])
            for n in range(0, len(level) - 1, 2)
        ]
        level, step = joined + level[len(joined) * 2 :], step + 1
    store, last = Store(plan.output), level[0]
    name = last if isinstance(last, str) else spread.get(last)
    with store.reading(name) as whole, store.writing(DATABASE) as path:
        shutil.copyfile(whole, path)
    store.remove(_MERGING)


def merge_databases(output: str, target: str, first: str, second: str) -> str:
    """Join two COLMAP databases of the output folder; returns the name of the new one."""
    import pycolmap

    store = Store(output)
    with ExitStack() as stack:
        paths = [stack.enter_context(store.reading(name)) for name in (first, second)]
        with store.writing(target) as path:
            try:
                _merge(pycolmap, [*paths, path])
            except (RuntimeError, ValueError) as error:
                raise OutputError(f"cannot join {first} and {second}: {error}") from error
    return target


def _merge(pycolmap: Any, paths: list[Path]) -> None:
    with ExitStack() as stack:
        pycolmap.Database.merge(
            *(stack.enter_context(pycolmap.Database.open(path)) for path in paths)
        )


def _map(plan: Plan, manifests: Manifests, _: Any, spread: Any) -> None:
    """What ``aliked_ros map merge`` makes of all recordings' keyframes."""
    spread.get(spread(merge_maps, plan.output, sorted(manifests)))


def merge_maps(output: str, names: list[str]) -> None:
    """One map of the recordings of these names; OutputError if two have the same epochs."""
    from aliked_ros.exporting.maps import MapFile, definitions_of, write_map
    from aliked_ros.frontend.places import KeyframeDatabase

    store, database = Store(output), KeyframeDatabase(max_places=1 << 31)
    definitions = None
    for name in names:
        with store.reading(f"{name}/{RECORDING_FILE}") as path:
            loaded = MapFile(path).load(database)
            definitions = definitions or definitions_of(path)
        if loaded.added < loaded.places:
            raise OutputError(
                f"the epochs of {name} are those of another recording by chance, so a map cannot "
                "tell their keyframes apart; rename its file."
            )
    assert definitions is not None
    places, vectors = database.snapshot()
    with store.writing(MAP) as path, path.open("wb") as file:
        write_map(file, places, vectors, definitions)


def _vocabulary(plan: Plan, manifests: Manifests, _: Any, spread: Any) -> None:
    """What ``aliked_ros vocabulary train`` makes of all recordings, from shards of their codes.

    Of very many images, an even share is taken.
    """
    from aliked_ros.exporting.vocabulary import PART, train_shards
    from aliked_ros.exporting.vocabulary_files import save

    total = sum(manifest["images"] for manifest in manifests.values())
    every = max(plan.every, -(-total // _MOST_IMAGES))
    most = max(PART // (plan.config.max_keypoints or PART), 1)  # images of a shard
    shards: list[tuple[Any, Any]] = []
    for name, manifest in sorted(manifests.items()):
        count = -(-manifest["images"] // (every * most))
        made = spread(read_codes, plan.output, name, every, most, count, returns=2 * count)
        shards += zip(made[::2], made[1::2], strict=True)
    counted = [(codes, spread.get(counts)) for codes, counts in shards]
    vocabulary = train_shards(counted, spread)
    with Store(plan.output).writing(VOCABULARY) as path:
        save(vocabulary, path)


def read_codes(output: str, name: str, every: int, most: int, count: int) -> Iterator[Any]:
    """The codes of a recording's images in ``count`` shards of up to ``most`` images.

    Each is given as two arrays, the codes and each image's number of them; the last may be empty.
    """
    from aliked_ros.exporting.vocabulary import as_words
    from aliked_ros.exporting.vocabulary_images import read_images

    with Store(output).reading(f"{name}/{RECORDING_FILE}") as path:
        images = read_images([path], every)
        for _ in range(count):
            codes = [image.codes for image in islice(images, most)]
            yield as_words(np.concatenate([_NO_CODES, *codes]))
            yield np.array([len(one) for one in codes], np.int64)


def _training(plan: Plan, manifests: Manifests, _: Any, __: Any) -> None:
    """Settings for ``aliked_ros train``, whose pairs are drawn from the recordings themselves.

    Pairs with depth where there is a metric trajectory of RGB-D images in one piece, otherwise
    random homographies.
    """
    store, pairs = Store(plan.output), dict[str, dict[str, Any]]()
    for name, manifest in sorted(manifests.items()):
        recording, odometry = manifest["recording"], manifest["figures"].get("odometry", {})
        if not is_local(recording):
            raise ConfigurationError(
                f"{recording} is not local, and 'aliked_ros train' reads only local recordings: "
                "copy it, or leave out the reduction 'training'."
            )
        pairs[name] = {"source": recording}
        if plan.limit is not None:
            pairs[name]["count"] = plan.limit
        whole = odometry.get("metric") and odometry["maps"] == 1
        if whole and odometry["mode"] == "rgbd" and is_local(plan.output):
            poses = str(Path(plan.output, name, POSES_FILE).absolute())
            pairs[name] |= {"kind": "depth", "poses": poses}
    sources = list(pairs.values())
    held_back = sources[_HELD_BACK - 1 :: _HELD_BACK] or sources[1:][-1:]
    settings = {
        "output": "training",
        "train": [one for one in sources if one not in held_back],
        "validation": held_back,
    }
    with store.writing(TRAINING) as path:
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        path.write_text(f"# aliked_ros train {TRAINING}\n{text}", encoding="utf-8")


_NO_CODES = np.empty((0, 32), np.uint8)

Make = Callable[[Plan, Manifests, list[dict[str, str]], Any], None]
REDUCTIONS: dict[str, tuple[str, Make]] = {
    "report": (REPORT, _report),
    "colmap": (DATABASE, _colmap),
    "map": (MAP, _map),
    "vocabulary": (VOCABULARY, _vocabulary),
    "training": (TRAINING, _training),
}
"""By name: file and function."""
