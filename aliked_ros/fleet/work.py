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

"""What the tasks of a batch do; each reads a recording and writes files into its folder.

    survey     whether there is anything to do, and in which parts
    extract    features, and matches of neighbours, of one part: parts need no order
    finish     all that needs the order; then the manifest, which says that the recording is done

A task that is repeated writes the same bytes again, or finds them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2

from aliked_ros.backends.base import Backend, ForwardingBackend
from aliked_ros.backends.create import create_backend
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ImageError, SourceError
from aliked_ros.fleet.operations import PASSES, Pass
from aliked_ros.fleet.plan import TRACKING, Plan
from aliked_ros.fleet.remembering import RememberingBackend
from aliked_ros.fleet.storage import Store, checksum, fingerprint, is_local, on_this_machine
from aliked_ros.fleet.tables import (
    FEATURES,
    MATCHES,
    Known,
    TableFile,
    counts_of,
    feature_row,
    match_row,
    read_part,
    written_from,
)
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.matcher import Matcher, build_matcher
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.sources import Source, open_source
from aliked_ros.types import Image

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
Report = Callable[[int], None]
"""Gets the number of images that a task has done so far."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is to do for a recording.

    source: what the results depend on, as a checksum. fingerprint: of the recording's files.
    parts: first image and the one after the last, None = to the end; empty = no parts are needed.
    images: in the recording, None = not known. work: images to go through, in all tasks.
    manifest: of the recording that is done already; None = there is work.
    """

    name: str
    recording: str
    source: str
    fingerprint: str
    parts: tuple[tuple[int, int | None], ...] = ()
    images: int | None = None
    work: int = 0
    manifest: dict[str, Any] | None = None


def survey(plan: Plan, key: str, name: str, recording: str) -> Survey:
    """Look at a recording; key: ``plan.key``, of the machine that began the batch.

    A recording whose files have other times but the same content is done, too.
    Raises SourceError if it cannot be opened.
    """
    store, mark = Store(plan.output), fingerprint(recording)
    found = Survey(name, recording, f"{key} {mark}", mark)
    manifest = store.read_json(f"{name}/{MANIFEST}")
    if manifest and manifest.get("key") == key and _is_whole(store, name, manifest):
        same = manifest["fingerprint"] == mark
        if not same:
            with on_this_machine(recording) as local:
                same = manifest["checksum"] == checksum(local)
            manifest["fingerprint"] = mark
            if same:
                store.write_json(f"{name}/{MANIFEST}", manifest)
        if same:
            return replace(found, manifest=manifest, images=manifest["images"])
    images = open_source(recording, plan.limit).length if is_local(recording) else None
    parts = parts_of(images, plan)
    passes = len(passes_of(plan)) + bool(parts)
    return replace(found, parts=parts, images=images, work=passes * (images or 0))


def parts_of(images: int | None, plan: Plan) -> tuple[tuple[int, int | None], ...]:
    """The parts that a recording's features are extracted in; none if ``finish`` does it all."""
    splits = images is not None and images > plan.segment and plan.config.detection == "every"
    if "extract" not in plan.operations and not splits:
        return ()
    if images is None:
        return ((0, plan.limit),)
    starts = range(0, images, plan.segment)
    ends = [*starts[1:], plan.limit]  # to the end: a video may have more than it announces
    return tuple(zip(starts, ends, strict=True))


def passes_of(plan: Plan) -> list[type[Pass]]:
    """The runs of the front-end that the operations need."""
    return [one for one in PASSES if one.operations & set(plan.operations)]


def extract(plan: Plan, found: Survey, number: int, report: Report) -> dict[str, Any]:
    """Write the features of a part, and what ``finish`` needs of it; returns its figures."""
    store, config = Store(plan.output), plan.config
    begun = time.monotonic()
    first, stop = found.parts[number]
    made_from = f"{found.source} {first} {stop}"
    matching = _matches_ahead(plan)
    names = [_part(found.name, "features", number)]
    if matching:
        names.append(_part(found.name, "matches", number))
    if figures := _written(store, names, made_from):
        return figures
    figures = {"images": 0, "features": 0}
    with ExitStack() as stack:
        source = open_source(stack.enter_context(on_this_machine(found.recording)), stop)
        source.first = first
        backend = stack.enter_context(closing(open_networks(config)))
        extractor = Extractor(config, backend)
        matcher: Matcher | None = build_matcher(config, backend) if matching else None
        files = [
            stack.enter_context(
                TableFile(stack.enter_context(store.writing(name)), schema, made_from)
            )
            for name, schema in zip(names, (FEATURES, MATCHES), strict=False)
        ]
        previous = None
        for image_number, image in _numbered(source):
            report(image_number - first + 1)
            try:
                features = extractor.extract(image.pixels, image.mask)
            except ImageError as error:
                logger.warning("%s: refused image %d: %s", found.recording, image_number, error)
                continue
            files[0].add(**feature_row(image_number, stamp_of(image), features))
            if matcher is not None and previous is not None:
                matches = matcher.match(previous[1], features)
                files[1].add(**match_row(image_number, previous[0], matches))
            previous = image_number, features
            figures["images"] += 1
            figures["features"] += len(features)
    return figures | {"seconds": time.monotonic() - begun}


def finish(
    plan: Plan, key: str, found: Survey, parts: list[dict[str, Any]], report: Report
) -> dict[str, Any]:
    """Run the front-end over the whole recording, as far as asked for; returns the manifest.

    parts: the figures of all parts.
    """
    store, begun = Store(plan.output), time.monotonic()
    written = [_part(found.name, "features", n) for n in range(len(found.parts))]
    if "extract" not in plan.operations:
        written = []
    figures: dict[str, Any] = {}
    with on_this_machine(found.recording) as local:
        digest = checksum(local)
        for number, kind in enumerate(passes_of(plan)):
            more = _after(number * (found.images or 0), report)
            figures |= _run(plan, kind, local, found, store, written, more)
    if "extract" in plan.operations:
        counts = {name: sum(part[name] for part in parts) for name in ("images", "features")}
        if not counts["images"]:
            raise SourceError(f"{found.recording} gave no image that could be processed.")
        figures = counts | figures
    files = {name.partition("/")[2] for name in written}
    for name in store.sizes(found.name).keys() - files:  # parts, and what killed tasks left
        store.remove(f"{found.name}/{name}")
    for folder in {"features", "matches"} - {name.partition("/")[0] for name in files}:
        store.remove(f"{found.name}/{folder}")
    sizes = store.sizes(found.name)
    manifest = {
        "recording": found.recording,
        "checksum": digest,
        "fingerprint": found.fingerprint,
        "key": key,
        "version": plan.basis["version"],
        "basis": plan.basis,
        "images": figures.pop("images", 0),
        "figures": figures,
        "seconds": {
            "extract": round(sum(part["seconds"] for part in parts), 3),
            "finish": round(time.monotonic() - begun, 3),
        },
        "files": {name: sizes[name] for name in sorted(files)},
    }
    store.write_json(f"{found.name}/{MANIFEST}", manifest)
    return manifest


def stamp_of(image: Image) -> int:
    """An image's stamp in nanoseconds."""
    return round(image.stamp * 1e9) if image.nanoseconds is None else image.nanoseconds


def _run(
    plan: Plan, kind: type[Pass], local: str, found: Survey, store: Store, written: list[str],
    report: Report,
) -> dict[str, Any]:  # fmt: skip
    """One run of the front-end; adds the files to ``written`` and returns the figures."""
    memory: RememberingBackend | None = None

    def opened(config: FrontendConfig, _: Any) -> Backend:
        nonlocal memory
        memory = RememberingBackend(open_networks(config))
        return memory

    refused = 0
    with ExitStack() as stack:
        one = kind(plan, found.name, local, found.images, store, stack)
        source = one.source
        pipeline = stack.enter_context(closing(Pipeline(plan.config, open_backend=opened)))
        assert memory is not None
        one.prepare(pipeline)
        known = _known(store, found, plan) if one.pixels_as_stored else iter(())
        latest = next(known, None)
        for number, image in _numbered(source):
            report(number + 1)
            while latest is not None and latest.image < number:
                latest = next(known, None)
            same = latest and (latest.image, latest.stamp) == (number, stamp_of(image))
            memory.recall(latest if same else None)
            try:
                result = pipeline.process(image)
            except ImageError as error:
                refused += 1
                logger.warning("%s: refused image %d: %s", found.recording, number, error)
                continue
            one.add(number, stamp_of(image), image, result)
        if not one.images:
            raise SourceError(f"{found.recording} gave no image that could be processed.")
        figures = one.finish() | {
            "images": one.images,
            "refused": refused,
            "skipped": source.skipped,
            "backend": pipeline.identity,
        }
        written += [f"{found.name}/{name}" for name in one.files]
    return figures


def _after(done: int, report: Report) -> Report:
    return lambda images: report(done + images)


def _known(store: Store, found: Survey, plan: Plan) -> Iterator[Known]:
    """What the parts know, image by image; one part at a time is fetched."""
    if plan.config.detection != "every":
        return
    for number in range(len(found.parts)):
        with ExitStack() as stack:
            paths: list[Path | None] = [
                stack.enter_context(store.reading(_part(found.name, kind, number)))
                for kind in ("features", "matches")[: 1 + _matches_ahead(plan)]
            ]
            yield from read_part(*[*paths, None][:2])  # type: ignore[arg-type]


def _matches_ahead(plan: Plan) -> bool:
    """Whether a part's neighbours are matched: LightGlue does not depend on the past."""
    config = plan.config
    return config.matcher == "lightglue" and bool(set(plan.operations) & set(TRACKING))


def _part(name: str, kind: str, number: int) -> str:
    return f"{name}/{kind}/{number:05d}.parquet"


def _written(store: Store, names: list[str], source: str) -> dict[str, Any] | None:
    """The figures of files that an earlier run, or a killed one, wrote; None if some are not."""
    there = store.sizes(names[0].partition("/")[0])
    for name in reversed(names):  # the features last: they are counted
        if name.partition("/")[2] not in there:
            return None
        with store.reading(name) as path:
            if not written_from(path, source):
                return None
            images, features = counts_of(path)
    return {"images": images, "features": features, "seconds": 0.0}


def _is_whole(store: Store, name: str, manifest: dict[str, Any]) -> bool:
    return bool(manifest["files"].items() <= store.sizes(name).items())


def _numbered(source: Source) -> Iterator[tuple[int, Image]]:
    """The images with their numbers in the recording, where unreadable ones count."""
    for count, image in enumerate(source, source.first):
        yield count + source.skipped, image


class _Kept(ForwardingBackend):
    """A backend that a worker keeps from one task to the next, with the networks it has loaded."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.load_extractor = lru_cache(backend.load_extractor)
        self.load_matcher = lru_cache(backend.load_matcher)

    def close(self) -> None:
        """Nothing: the next task goes on with it."""


@lru_cache(maxsize=1)
def open_networks(config: FrontendConfig) -> Backend:
    """The backend that this process keeps: the same one until the settings change."""
    cv2.setNumThreads(config.threads)
    return _Kept(create_backend(config))
