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

"""The TensorRT backend above its device: the real networks' graphs, run by ONNX Runtime.

What is not run here is TensorRT's execution of them, and pycuda (test_gpu.py, on a GPU).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aliked_ros.backends.admission import Refused
from aliked_ros.backends.cpu.backend import CpuBackend
from aliked_ros.backends.cpu.compiled import widen_half
from aliked_ros.backends.gpu.backend import BuildProgress, DeviceBackend
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.matcher import LightGlueMatcher
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.types import Features, Image, Matches, UInt8Array
from helpers.device import OnnxDevice, WrongDevice
from helpers.parity import common

CONFIG = FrontendConfig(max_keypoints=256, precision="float32")


@pytest.fixture(scope="module")
def device() -> OnnxDevice:
    return OnnxDevice()


@pytest.fixture(scope="module")
def backend(device: OnnxDevice) -> Iterator[DeviceBackend]:
    backend = DeviceBackend(CONFIG, device)
    yield backend
    backend.close()
    assert (device.memory, device.networks, device.closed) == (0, [], True)


@pytest.fixture(scope="module")
def extractor(backend: DeviceBackend) -> Extractor:
    return Extractor(CONFIG, backend)


@pytest.fixture(scope="module")
def matcher(backend: DeviceBackend) -> LightGlueMatcher:
    return LightGlueMatcher(CONFIG, backend)


@pytest.fixture(scope="module")
def on_the_cpu() -> Iterator[tuple[Extractor, LightGlueMatcher]]:
    backend = CpuBackend(CONFIG)
    yield Extractor(CONFIG, backend), LightGlueMatcher(CONFIG, backend)
    backend.close()


def test_features_are_those_of_the_cpu(
    extractor: Extractor, on_the_cpu: Any, tum_images: Callable[[int], UInt8Array]
) -> None:
    image = tum_images(0)
    mask = np.ones(image.shape[:2], np.uint8)
    mask[:, :320] = 0
    odd = np.ascontiguousarray(image[:333, :450])
    for pixels, where in (
        (image, None), (image, mask), (image, None), (image[..., 1].copy(), None), (odd, None),
    ):  # fmt: skip
        features = extractor.extract(pixels, where)
        expected = on_the_cpu[0].extract(pixels, where)
        share, cosine = common(features, expected)
        assert share >= 0.99
        assert cosine > 0.9999
        assert len(features) == len(expected) == 256
        assert features.descriptors.dtype == np.float32
        assert np.abs(features.scores - expected.scores).max() < 1e-3
        if where is not None:
            assert features.keypoints[:, 0].min() > 317


def test_half_precision_is_widened_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    wide = np.empty(len(finite), np.float32)
    widen_half(finite.view(np.uint16), wide)
    assert (wide == finite.astype(np.float32)).all()
    assert (np.signbit(wide) == np.signbit(finite)).all()


def test_threshold_and_few_features(
    extractor: Extractor, on_the_cpu: Any, tum_images: Callable[[int], UInt8Array]
) -> None:
    middle = float(np.median(extractor.extract(tum_images(0)).scores))
    config = replace(CONFIG, score_threshold=middle)
    for one in (extractor, on_the_cpu[0]):
        one.reconfigure(config)
    try:
        found, expected = (one.extract(tum_images(0)) for one in (extractor, on_the_cpu[0]))
    finally:
        for one in (extractor, on_the_cpu[0]):
            one.reconfigure(CONFIG)
    assert 0 < len(found) < 256
    assert len(found) == len(expected)
    assert common(found, expected)[0] >= 0.99
    black = extractor.extract(np.zeros((480, 640, 3), np.uint8))
    assert len(black.descriptors) == len(black.keypoints)


def test_an_image_with_room_for_few_keypoints(extractor: Extractor) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)  # 441 cells; K is 256
    assert 20 < len(extractor.extract(noise)) <= 256
    network = DeviceBackend(replace(CONFIG, max_keypoints=2000), OnnxDevice())
    small = Extractor(replace(CONFIG, max_keypoints=2000), network).extract(noise)
    assert 20 < len(small) <= 441


def test_a_grid_spreads_the_features(
    extractor: Extractor, tum_images: Callable[[int], UInt8Array]
) -> None:
    def cells(features: Features) -> int:
        return len(np.unique(features.keypoints.astype(int) // 80, axis=0))

    plain = extractor.extract(tum_images(0))
    extractor.reconfigure(replace(CONFIG, grid=8))
    try:
        spread = extractor.extract(tum_images(0))
    finally:
        extractor.reconfigure(CONFIG)
    assert len(spread) == 256
    assert cells(spread) > cells(plain)


def test_matches_are_those_of_the_cpu(
    extractor: Extractor,
    matcher: LightGlueMatcher,
    on_the_cpu: Any,
    tum_images: Callable[[int], UInt8Array],
) -> None:
    whole = replace(CONFIG, depth_confidence=-1.0)
    features = [extractor.extract(tum_images(i)) for i in (0, 10)]
    copies = [replace(f, descriptors=f.descriptors.copy()) for f in features]
    try:
        for one in (matcher, on_the_cpu[1]):
            one.reconfigure(whole)
        expected = on_the_cpu[1].match(*features)
        for pair in (features, copies):  # from the device's memory, and uploaded
            matches = matcher.match(*pair)
            pairs, others = (
                set(zip(m.reference_indices.tolist(), m.current_indices.tolist(), strict=True))
                for m in (matches, expected)
            )
            assert matches.layers == expected.layers == 9
            assert len(expected) > 100
            assert len(pairs & others) >= 0.99 * len(pairs | others)
            assert matches.scores.min() > CONFIG.match_threshold
    finally:
        for one in (matcher, on_the_cpu[1]):
            one.reconfigure(CONFIG)


def test_a_lightglue_with_wrong_matches_does_not_serve() -> None:
    def swap(outputs: dict[str, np.ndarray]) -> None:
        if "matches" in outputs:
            outputs["matches"][...] = outputs["matches"][::-1].copy()

    device = WrongDevice(swap)
    with pytest.raises(Refused, match=r"_matches_8_k256_float32\.engine .*matches in common: 0"):
        DeviceBackend(CONFIG, device).load_matcher()
    assert (device.memory, device.networks) == (0, [])


def test_lightglue_stops_early_on_easy_images_only(
    extractor: Extractor, matcher: LightGlueMatcher, tum_images: Callable[[int], UInt8Array]
) -> None:
    easy = [extractor.extract(tum_images(i)) for i in (0, 1)]
    layers = []
    try:
        for confidence in (0.0, 0.95, 1.0, -1.0):
            matcher.reconfigure(replace(CONFIG, depth_confidence=confidence))
            layers.append(matcher.match(*easy).layers)
    finally:
        matcher.reconfigure(CONFIG)
    assert layers[0] == 3
    assert 3 <= layers[1] < 9
    assert layers[2:] == [9, 9]


def test_images_of_two_sizes_match(
    extractor: Extractor,
    matcher: LightGlueMatcher,
    on_the_cpu: Any,
    tum_images: Callable[[int], UInt8Array],
) -> None:
    whole = extractor.extract(tum_images(0))
    part = extractor.extract(np.ascontiguousarray(tum_images(1)[40:400, 60:500]))
    matches, expected = (m.match(whole, part) for m in (matcher, on_the_cpu[1]))
    assert len(matches) > 80
    assert abs(len(matches) - len(expected)) <= 0.03 * len(expected)
    moved = part.keypoints[matches.current_indices] - whole.keypoints[matches.reference_indices]
    assert np.abs(np.median(moved, axis=0) - np.array((-60, -40))).max() < 15


def test_what_is_on_the_device_is_not_uploaded_again(
    device: OnnxDevice,
    extractor: Extractor,
    matcher: LightGlueMatcher,
    tum_images: Callable[[int], UInt8Array],
) -> None:
    pixels = [tum_images(i) for i in range(6)]
    features = [extractor.extract(image) for image in pixels]
    before = device.uploaded
    extractor.extract(pixels[0])
    assert device.uploaded - before == 1  # the image: nothing is masked, the threshold is there
    matcher.match(features[4], features[5])
    for pair, expected in (
        ((features[4], features[5]), 0),
        ((features[3], features[5]), 0),  # left images of a stereo camera
        ((features[0], features[5]), 1),  # a keyframe, in one piece
    ):
        before = device.uploaded
        matcher.match(*pair)
        assert device.uploaded - before == expected
    changed = replace(features[5], descriptors=features[5].descriptors.copy())
    before = device.uploaded
    matcher.match(features[4], changed)
    assert device.uploaded - before == 1
    matcher.reconfigure(replace(CONFIG, match_threshold=0.9))
    sure = matcher.match(features[4], features[5])
    matcher.reconfigure(CONFIG)
    assert 0 < len(sure) < len(matcher.match(features[4], features[5]))
    assert sure.scores.min() > 0.9


def asked_for(device: OnnxDevice) -> list[str]:
    """What the device was asked for since the last call."""
    asked, device.asked = device.asked, []
    return asked


def same(found: Matches, expected: Matches) -> bool:
    return np.array_equal(found.current_indices, expected.current_indices) and np.array_equal(
        found.reference_indices, expected.reference_indices
    )


def test_lightglue_begins_before_the_features_are_waited_for(
    device: OnnxDevice,
    extractor: Extractor,
    matcher: LightGlueMatcher,
    tum_images: Callable[[int], UInt8Array],
) -> None:
    images = [tum_images(i) for i in range(4)]
    before = extractor.extract(images[0])
    expected = matcher.match(before, extractor.extract(images[1]))
    asked_for(device)
    now = extractor.extract(images[1], reference=before)
    assert asked_for(device) == [
        "write", "run aliked-n16", "copy",  # to the ring
        "fetch", "copy", "copy", "run aliked-lightglue", "wait",
    ]  # fmt: skip
    found = matcher.match(before, now)
    assert asked_for(device)[:2] == ["fetch", "wait"], "whether it is sure after its first segment"
    assert same(found, expected)
    assert found.layers == expected.layers
    # the same pair again: LightGlue's memory holds what came of it the first time
    assert same(matcher.match(before, now), expected)
    assert asked_for(device)[:3] == ["copy", "copy", "run aliked-lightglue"]


def test_what_lightglue_began_in_vain_changes_nothing(
    device: OnnxDevice,
    extractor: Extractor,
    matcher: LightGlueMatcher,
    tum_images: Callable[[int], UInt8Array],
) -> None:
    """An image that is dropped, an epoch that ends, another threshold, a keyframe between."""
    images = [tum_images(i) for i in range(4)]
    first, second, third = (extractor.extract(image) for image in images[:3])
    expected = matcher.match(first, third), matcher.match(second, third)
    dropped = extractor.extract(images[3], reference=second)
    now = extractor.extract(images[2], reference=second)
    assert same(matcher.match(first, now), expected[0]), "with another one than it began with"
    assert same(matcher.match(second, now), expected[1])
    extractor.extract(images[3], reference=second)
    assert same(matcher.match(second, now), expected[1]), "and the current one is another"
    assert len(matcher.match(second, dropped)) > 100
    now = extractor.extract(images[2], reference=second)
    matcher.reconfigure(replace(CONFIG, match_threshold=0.9))
    sure = matcher.match(second, now)
    matcher.reconfigure(CONFIG)
    assert 0 < len(sure) < len(expected[1])
    assert sure.scores.min() > 0.9


def test_lightglue_does_not_begin_where_more_must_be_known(
    backend: DeviceBackend,
    device: OnnxDevice,
    extractor: Extractor,
    matcher: LightGlueMatcher,
    tum_images: Callable[[int], UInt8Array],
) -> None:
    images = [tum_images(i) for i in range(2)]
    before = extractor.extract(images[0])
    expected = matcher.match(before, extractor.extract(images[1]))
    part = np.ascontiguousarray(images[1][40:400, 60:500])
    network = backend.load_extractor(CONFIG.model)
    copied = replace(before, descriptors=before.descriptors.copy())
    for pixels, reference, users, why in (
        (part, before, 1, "the images have two sizes"),
        (images[1], copied, 1, "the reference is not on the device"),
        (images[1], before, 2, "another camera may come between"),
    ):
        network.users = users
        extractor.extract(pixels)  # the network of its size is loaded and compared
        asked_for(device)
        extractor.extract(pixels, reference=reference)
        assert "run aliked-lightglue" not in asked_for(device), why
    network.users = 1
    extractor.reconfigure(replace(CONFIG, grid=8))
    extractor.extract(images[1], reference=before)
    assert "run aliked-lightglue" not in asked_for(device), "what is kept is chosen on the host"
    extractor.reconfigure(CONFIG)
    assert same(matcher.match(before, extractor.extract(images[1])), expected)
    backend.release()
    asked_for(device)
    extractor.extract(images[1], reference=before)
    assert "run aliked-lightglue" not in asked_for(device), "its memory was given back"
    assert same(matcher.match(before, extractor.extract(images[1])), expected)


def test_an_error_between_asking_and_waiting_leaves_the_ring_as_it_was(
    device: OnnxDevice,
    extractor: Extractor,
    matcher: LightGlueMatcher,
    tum_images: Callable[[int], UInt8Array],
) -> None:
    images = [tum_images(i) for i in range(3)]
    before = extractor.extract(images[0])
    expected = matcher.match(before, extractor.extract(images[1]))
    memory = device.memory
    for lost_at in ("run aliked-n16", "run aliked-lightglue", "wait"):
        device.fails_at = lost_at
        with pytest.raises(BackendError, match="for once"):
            extractor.extract(images[1], reference=before)
        assert device.fails_at == ""
        now = extractor.extract(images[1], reference=before)
        assert same(matcher.match(before, now), expected), lost_at
        before = extractor.extract(images[0])  # else the ring would come round to it
    assert device.memory <= memory + 4 * (1 << 20)


@pytest.mark.parametrize(("matcher", "begins"), [("lightglue", True), ("adaptive", False)])
def test_the_pipeline_begins_where_lightglue_is_certain(
    matcher: str, begins: bool, tum_images: Callable[[int], UInt8Array]
) -> None:
    """Not for an image that begins an epoch: older than the one before, or of another size."""
    device, config = OnnxDevice(), replace(CONFIG, matcher=matcher)
    pipeline = Pipeline(config, open_backend=lambda *_: DeviceBackend(config, device))
    network = "run aliked-lightglue"

    def begun(pixels: UInt8Array, stamp: float) -> bool:
        device.asked.clear()
        pipeline.process(Image(pixels, stamp))
        asked = device.asked[: device.asked.index("wait")]
        return network in asked

    assert not begun(tum_images(0), 0.0)
    assert not begun(tum_images(1), 1.0), "it has matched nothing yet: thresholds are not there"
    assert begun(tum_images(2), 2.0) == begins
    assert begun(tum_images(3), 3.0) == begins
    assert not begun(tum_images(4), 1.0)
    assert not begun(np.ascontiguousarray(tum_images(0)[:, :600]), 5.0)
    pipeline.close()
    assert device.memory == 0


def test_more_features_than_fit_are_refused(
    extractor: Extractor, matcher: LightGlueMatcher, tum_images: Callable[[int], UInt8Array]
) -> None:
    some = extractor.extract(tum_images(0))
    many = replace(
        some, **{n: np.repeat(getattr(some, n), 2, axis=0) for n in ("keypoints", "descriptors")}
    )
    with pytest.raises(BackendError, match="512 features and LightGlue is loaded for 256; raise"):
        matcher.match(some, many)


def test_released_memory_comes_back_with_the_next_image(
    tum_images: Callable[[int], UInt8Array],
) -> None:
    device = OnnxDevice()
    backend = DeviceBackend(CONFIG, device)
    extractor, matcher = Extractor(CONFIG, backend), LightGlueMatcher(CONFIG, backend)

    def work() -> int:
        return len(matcher.match(*(extractor.extract(tum_images(i)) for i in (0, 1))))

    first, memory = work(), device.memory
    assert memory > 0
    backend.release()
    assert (device.memory, device.networks) == (0, [])
    assert work() == first
    assert device.memory == memory
    for size in ((100, 120), (130, 150), (160, 180)):  # a camera that changes its mode
        extractor.extract(np.zeros(size, np.uint8))
    assert len(device.networks) == 6 + 2  # LightGlue's, and ALIKED of two sizes
    backend.close()
    assert device.memory == 0


def test_an_engine_is_prepared_for_the_size_that_is_named() -> None:
    config = FrontendConfig(
        "aliked-t16", max_keypoints=256, image_size="160x128 grey", matcher="nearest"
    )
    device = OnnxDevice()
    backend = DeviceBackend(config, device)
    assert backend.identity["engine"] == ""
    extractor = Extractor(config, backend)
    assert backend.identity["engine"].startswith("aliked-t16_160x128_grey_k256_float16.engine ")
    (network,) = device.networks
    extractor.extract(np.zeros((128, 160), np.uint8))
    assert device.networks == [network]
    backend.load_extractor("aliked-t16")  # a camera that comes back
    assert device.networks == [network], "the networks of the first time are its own still"
    backend.close()
    assert device.networks == []
    spread = replace(config, grid=4)
    extractor = Extractor(spread, DeviceBackend(spread, device))
    (network,) = device.networks
    extractor.extract(np.zeros((128, 160), np.uint8))
    assert device.networks == [network], "of more candidates than are kept"


def test_features_that_do_not_fit_beside_the_networks_take_no_memory() -> None:
    """The device is full after the networks, when features are to be kept."""
    config = FrontendConfig(
        "aliked-t16", max_keypoints=256, image_size="160x128 grey", matcher="nearest"
    )
    device = OnnxDevice()
    backend = DeviceBackend(config, device)
    extractor = Extractor(config, backend)
    image = np.random.default_rng(0).integers(0, 255, (128, 160), np.uint8)
    before, device.room = device.memory, 3000  # bytes: for keypoints, not for descriptors
    for _ in range(2):
        with pytest.raises(BackendError, match="memory is full"):
            extractor.extract(image)
        assert device.memory == before
    device.room = None
    assert len(extractor.extract(image)) > 50
    backend.close()
    assert device.memory == 0


@pytest.mark.long
def test_tracks_are_those_of_the_cpu(tum_images: Callable[[int], UInt8Array]) -> None:
    """The whole pipeline over images of a hand-held camera, float16 as on a GPU."""
    counts = {}
    for name, open_backend in {
        "device": lambda config, _: DeviceBackend(config, OnnxDevice()),
        "cpu": lambda config, _: CpuBackend(config),
    }.items():
        config = FrontendConfig(max_keypoints=512)
        pipeline = Pipeline(config, open_backend=open_backend)
        results = [pipeline.process(Image(tum_images(i), float(i))) for i in range(6)]
        counts[name] = [
            (int((r.tracks.lengths > 1).sum()), int(r.matches.inliers.sum()))
            for r in results[1:]
            if r.matches.inliers is not None
        ]
        pipeline.close()
    ours, theirs = (np.array(counts[name]) for name in ("device", "cpu"))
    assert ours.shape == theirs.shape == (5, 2)
    assert theirs.min() > 300
    assert np.abs(ours - theirs).max() <= 0.03 * theirs.max()


def test_a_build_is_told_in_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    lines: list[str] = []
    progress = BuildProgress(lines.append)
    for i in range(101):
        now[0] = i / 5
        progress.report("building x", i / 200)
    assert lines == [
        "building x",
        "building x: 12% after 5 s, about 35 s left",
        "building x: 25% after 10 s, about 30 s left",
        "building x: 38% after 15 s, about 25 s left",
        "building x: 50% after 20 s, about 20 s left",
    ]
