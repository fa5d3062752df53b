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

"""Other implementations against aliked_ros in one run: image to features, and matching.

The result includes how equal the work is: keypoints and matches in common with the published
implementation.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from aliked_ros.benchmark.timing import interval, measure, summarise
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError, ConfigurationError, ModelError
from aliked_ros.frontend.extractor import create_extractor
from aliked_ros.frontend.matcher import create_matcher
from aliked_ros.io.images import grey
from aliked_ros.models.registry import weights_path
from aliked_ros.system.cpu import cores
from aliked_ros.types import Features, Float32Array, UInt8Array

if TYPE_CHECKING:
    from aliked_ros.networks.aliked import ALIKED

KEYPOINTS, POINTS = 1000, 512
"""Keypoints to extract, and points per image to match."""

_STREAM = 5  # images in a row
_LOOKED_AT = 3  # images and pairs whose results are compared
_SAME = 1.5  # pixels; keypoints within this distance are the same
_RATIO = 0.8  # SIFT's ratio test, as in Lowe's paper

_REFERENCE: dict[str, Any] = {"backend": "cpu", "precision": "float32"}

Pixels = UInt8Array
Pair = tuple[int, int]
Points = NDArray[Any]
"""N×2: keypoints in pixels, or pairs of rows."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to do the work.

    run: from an image to keypoints N×2 in pixels, or from the numbers of two images to matched
        rows M×2. note: a remark, such as known errors; empty = none.
    alike: it computes the baseline's keypoints or matches, so common ones can be counted.
    ours: it is this package's.
    """

    run: Callable[[Any], Points]
    note: str = ""
    alike: bool = True
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """Peers by name, the published implementation first.

    left_out: those that cannot run here, with the reason. inputs: given to the peers in turn.
    """

    title: str
    peers: dict[str, Peer]
    left_out: dict[str, str]
    inputs: list[Any]

    def found(self, count: int) -> dict[str, list[Points]]:
        """Each peer's results for the first inputs."""
        chosen = self.inputs[:count]
        # copied, since some runtimes reuse the buffer
        return {n: [np.array(peer.run(one)) for one in chosen] for n, peer in self.peers.items()}


def peers_suite(
    images: list[Pixels], rounds: int, progress: Callable[[float], None]
) -> dict[str, Any]:
    """ALIKED-N16 with 1000 keypoints and LightGlue with 512 points, by others and by aliked_ros."""
    with works(images) as parts:
        found = [work.found(_LOOKED_AT) for work in parts]
        contenders: dict[str, Callable[[int], object]] = {}
        for number, work in enumerate(parts):
            for name, peer in work.peers.items():
                contenders[f"{number} {name}"] = partial(_run, peer, work.inputs)
        seconds = measure(contenders, rounds, burst=_STREAM, progress=progress)
    return {
        "parts": [
            _table(work, found[number], {n: seconds[f"{number} {n}"] for n in work.peers})
            for number, work in enumerate(parts)
        ]
    }


@contextmanager
def works(images: list[Pixels]) -> Iterator[list[Work]]:
    """Extraction and matching by all peers that run here; their files exist until the block ends.

    images: RGB, one size.
    """
    try:
        from aliked_ros.benchmark import opencv_models
    except ImportError as error:
        raise BackendError(
            f"the benchmark 'peers' needs PyTorch ({error}): make setup GROUP=train"
        ) from error
    before = cv2.getNumThreads()
    cv2.setNumThreads(cores())
    height, width = images[0].shape[:2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        missing = opencv_models.make(folder, width, height, KEYPOINTS, POINTS)
        try:
            yield [_extraction(images, folder, missing), _matching(images, folder, missing)]
        finally:
            cv2.setNumThreads(before)


def _run(peer: Peer, inputs: list[Any], i: int) -> object:
    return peer.run(inputs[i % len(inputs)])


def _extraction(images: list[Pixels], folder: Path, missing: Mapping[str, str]) -> Work:
    import torch

    from aliked_ros.backends.torch import TorchExtractor
    from aliked_ros.benchmark import opencv_models
    from aliked_ros.networks.aliked import ALIKED

    height, width = images[0].shape[:2]
    network = ALIKED.from_checkpoint(weights_path("aliked-n16"))
    published = TorchExtractor(network, torch.device("cpu"), dense=True)
    peers = {
        "torch eager, dense (published)": Peer(
            lambda pixels: published.extract(pixels, None, KEYPOINTS, 0.0, 0)[0]
        )
    }
    left_out = {}
    for name, extract in dense_exports(network, width, height, KEYPOINTS).items():
        peers[name] = Peer(partial(_first, extract))
    name = f"OpenCV {cv2.__version__}, ALIKED (dense export)"
    if opencv_models.ALIKED_FILE in missing:
        left_out[name] = missing[opencv_models.ALIKED_FILE]
    else:
        theirs = opencv_models.open_aliked(folder / opencv_models.ALIKED_FILE, width, height)
        peers[name] = Peer(
            lambda pixels: _positions(theirs, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)),
            note="scales positions by W instead of W − 1: up to 1 px off",
        )
    other = "another kind of features"
    for name, detector in (
        ("OpenCV, ORB", cv2.ORB.create(KEYPOINTS)),
        ("OpenCV, SIFT", cv2.SIFT.create(KEYPOINTS)),
    ):
        detect = partial(_positions, detector)
        peers[name] = Peer(partial(_on_grey, detect), note=other, alike=False)
    for precision in _precisions(left_out):
        extractor = create_extractor(
            FrontendConfig(backend="cpu", precision=precision, max_keypoints=KEYPOINTS)
        )
        peers[f"aliked_ros, {precision}"] = Peer(partial(_keypoints, extractor.extract), ours=True)
    title = f"image to features, {width}×{height}, {KEYPOINTS} keypoints"
    return Work(title, peers, left_out, images)


def _matching(images: list[Pixels], folder: Path, missing: Mapping[str, str]) -> Work:
    from aliked_ros.benchmark import opencv_models

    extractor = create_extractor(FrontendConfig(max_keypoints=POINTS, **_REFERENCE))
    features = [extractor.extract(pixels) for pixels in images]
    # never the same image twice in a row, so that aliked_ros cannot reuse anything either
    pairs = [
        (i, i + 1)
        for i in range(0, len(images) - 1, 2)
        if len(features[i]) == len(features[i + 1]) == POINTS
    ]
    if not pairs:
        raise ConfigurationError(
            f"No two images in a row have {POINTS} keypoints; give the benchmark 'peers' images "
            "with more in them (--source)."
        )
    peers: dict[str, Peer] = {}
    left_out: dict[str, str] = {}

    def add(name: str, ours: bool, note: str = "", **settings: Any) -> None:
        settings = {"backend": "cpu", **settings}
        matcher = create_matcher(FrontendConfig(max_keypoints=POINTS, **settings))

        def match(pair: Pair) -> Points:
            found = matcher.match(features[pair[0]], features[pair[1]])
            return np.stack([found.reference_indices, found.current_indices], axis=1)

        alike = settings.get("matcher") != "nearest"
        peers[name] = Peer(match, note=note, alike=alike, ours=ours)

    whole: dict[str, Any] = {"depth_confidence": -1.0}
    add("torch eager LightGlue, 9 layers (published)", False, backend="torch", **whole)
    add("torch eager LightGlue, early stop (published)", False, backend="torch")
    name = f"OpenCV {cv2.__version__}, LightGlue, 9 layers"
    if opencv_models.LIGHTGLUE_FILE in missing:
        left_out[name] = missing[opencv_models.LIGHTGLUE_FILE]
    else:
        theirs = opencv_models.open_lightglue(folder / opencv_models.LIGHTGLUE_FILE)
        peers[name] = Peer(
            partial(_opencv_matches, theirs, features),
            note="normalises x by the width and y by the height, the published form both by the "
            "longer side",
        )
    for precision in _precisions(left_out):
        add(f"aliked_ros, LightGlue, {precision}, 9 layers", True, precision=precision, **whole)
        add(f"aliked_ros, LightGlue, {precision}, early stop", True, precision=precision)
    nearest = "the same features, no LightGlue"
    add("aliked_ros, nearest neighbours", True, note=nearest, matcher="nearest")
    orb, sift = cv2.ORB.create(POINTS), cv2.SIFT.create(POINTS)
    for name, detector, matcher in (
        ("OpenCV, ORB, brute force, mutual", orb, cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)),
        ("OpenCV, SIFT, brute force, ratio test", sift, cv2.BFMatcher(cv2.NORM_L2)),
    ):
        tables = [detector.detectAndCompute(grey(pixels), None)[1] for pixels in images]
        tables = [table[:POINTS] for table in tables]
        match = _mutual if detector is orb else _by_ratio
        peers[name] = Peer(
            partial(match, matcher, tables), note="another kind of features", alike=False
        )
    return Work(f"matching, {POINTS} points an image", peers, left_out, pairs)


def dense_exports(
    network: ALIKED, width: int, height: int, top_k: int
) -> dict[str, Callable[[Pixels], list[Any]]]:
    """The plain ONNX export of the published form in both runtimes."""
    from aliked_ros.backends.cpu.onnxruntime import OnnxRuntime
    from aliked_ros.backends.cpu.openvino import OpenVinoRuntime
    from aliked_ros.benchmark.dense import export_dense

    threads = cores()
    found: dict[str, Callable[[Pixels], list[Any]]] = {}
    graph = export_dense(network, width, height, top_k)
    for runtime in (OnnxRuntime(threads, spinning=True), OpenVinoRuntime(threads)):
        try:
            loaded = runtime.load(graph)
        except ModelError:
            continue  # skip a runtime that cannot load the plain export

        def extract(pixels: Pixels, loaded: Any = loaded) -> list[Any]:
            scaled = pixels.astype(np.float32) * np.float32(1 / 255)
            outputs: list[Any] = loaded(np.ascontiguousarray(scaled.transpose(2, 0, 1)[None]))
            return outputs

        found[f"plain dense export, {runtime.name}"] = extract
    return found


def _precisions(left_out: dict[str, str]) -> list[str]:
    """The CPU backend's precisions that this CPU supports."""
    found = []
    for precision in ("float32", "bfloat16"):
        try:
            create_matcher(FrontendConfig(backend="cpu", precision=precision, matcher="nearest"))
        except BackendError as error:
            left_out[f"aliked_ros, {precision}"] = str(error)
        else:
            found.append(precision)
    return found


def _first(extract: Callable[[Pixels], list[Any]], pixels: Pixels) -> Points:
    return np.asarray(extract(pixels)[0])


def _keypoints(extract: Callable[[Pixels], Features], pixels: Pixels) -> Points:
    return extract(pixels).keypoints


def _on_grey(detect: Callable[[Pixels], Points], pixels: Pixels) -> Points:
    return detect(grey(pixels))


def _positions(detector: Any, pixels: Pixels) -> Points:
    found, _ = detector.detectAndCompute(pixels, None)
    return np.asarray(cv2.KeyPoint.convert(found), np.float32)


def _opencv_matches(matcher: Any, features: list[Features], pair: Pair) -> Points:
    first, second = (features[number] for number in pair)
    size = (first.width, first.height)
    matcher.setPairInfo(first.keypoints, second.keypoints, size, size)
    return _rows(matcher.match(first.descriptors, second.descriptors))


def _mutual(matcher: Any, tables: list[Any], pair: Pair) -> Points:
    return _rows(matcher.match(tables[pair[0]], tables[pair[1]]))


def _by_ratio(matcher: Any, tables: list[Any], pair: Pair) -> Points:
    nearest = matcher.knnMatch(tables[pair[0]], tables[pair[1]], k=2)
    return _rows([best for best, second in nearest if best.distance < _RATIO * second.distance])


def _rows(matches: Any) -> Points:
    return np.array([(m.queryIdx, m.trainIdx) for m in matches], np.int64).reshape(-1, 2)


def same_keypoints(ours: Float32Array, theirs: Float32Array) -> float:
    """Share of the first N×2 positions that have one of the second within 1.5 pixels."""
    distance = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    return float((distance.min(axis=1, initial=np.inf) <= _SAME).mean())


def same_matches(ours: Points, theirs: Points) -> float:
    """Share of the first M×2 pairs of rows that are among the second."""
    pairs = {tuple(row) for row in theirs.tolist()}
    return float(np.mean([tuple(row) in pairs for row in ours.tolist()])) if len(ours) else 0.0


def _table(
    work: Work, found: dict[str, list[Points]], seconds: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    """Figures of each peer; ``of_ours``: its time relative to ``ours``."""
    names = list(work.peers)
    share = same_keypoints if found[names[0]][0].dtype.kind == "f" else same_matches
    best = _shipped(work)
    rows = []
    for timing in summarise(seconds):
        name, peer = timing.name, work.peers[timing.name]
        ratio, low, high = interval(seconds[name] / seconds[best])
        row = timing.as_dict() | {"of_ours": ratio, "of_ours_low": low, "of_ours_high": high}
        row["found"] = float(np.median([len(one) for one in found[name]]))
        if peer.alike:
            shares = map(share, found[names[0]], found[name])
            row["in_common"] = round(float(np.mean(list(shares))), 4)
        if peer.note:
            row["note"] = peer.note
        rows.append(row)
    return {
        "title": work.title,
        "baseline": names[0],
        "ours": best,
        "timings": rows,
        "left_out": work.left_out,
    }


def _shipped(work: Work) -> str:
    """Ours with default settings: the fastest precision, LightGlue with early stop."""
    return [n for n, peer in work.peers.items() if peer.ours and peer.alike][-1]
