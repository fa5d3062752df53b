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
"""Optical flow between detections: on real images, on bad ones, and beside a slow detector."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ConfigurationError, ImageError
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.flow import follow, structure
from aliked_ros.frontend.following import Detection, advance, begin, nothing
from aliked_ros.frontend.fusion import Filters, detection_noise
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.sources import open_source
from aliked_ros.types import Features, FrameResult, Image, UInt8Array

Images = Callable[[int], UInt8Array]
CONFIG = {"max_keypoints": 300, "matcher": "adaptive", "backend": "cpu"}


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    pipeline = Pipeline(FrontendConfig(detection="3", **CONFIG))
    yield pipeline
    pipeline.close()


@pytest.fixture
def behind() -> Iterator[Pipeline]:
    pipeline = Pipeline(FrontendConfig(detection="behind", **CONFIG))
    yield pipeline
    pipeline.close()


def _finish(pipeline: Pipeline) -> None:
    """Wait until the detection in the background has ended, where there is one."""
    background = pipeline._carrier._background
    while background is not None and background._running and not background._running.done():
        time.sleep(0.01)


def _consistent(result: FrameResult) -> None:
    """What every image's result promises, whatever the image."""
    features, ids = result.features, result.tracks.ids
    count = len(features)
    assert len(features.descriptors) == len(features.scores) == len(ids) == count
    assert len(np.unique(ids)) == count
    assert (ids > 0).all()
    assert (np.diff(features.scores) <= 0).all() or result.detection_index is None
    assert np.isfinite(features.keypoints).all()
    assert (features.keypoints >= 0).all()
    assert (features.keypoints <= [features.width - 1, features.height - 1]).all()
    assert features.covariances is not None
    assert features.detection_age is not None
    xx, xy, yy = features.covariances.T
    assert ((xx > 0) & (yy > 0) & (xx * yy > xy**2)).all()
    rows = result.matches.current_indices
    assert (result.tracks.lengths[rows] > 1).all()


def test_flow_finds_a_known_shift(tum_images: Images) -> None:
    """Sub-pixel, and what leaves the image is not found."""
    before = cv2.cvtColor(tum_images(0), cv2.COLOR_RGB2GRAY)
    shift = np.array([3.4, -2.7])
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    now = cv2.warpAffine(before, matrix, before.shape[::-1], flags=cv2.INTER_CUBIC)
    corners = cv2.goodFeaturesToTrack(before, 200, 0.01, 10).reshape(-1, 2)
    flow = follow(before, now, corners)
    assert flow.found.mean() > 0.9
    errors = np.linalg.norm(flow.points - corners - shift, axis=1)[flow.found]
    assert np.median(errors) < 0.05
    edge = np.array([[638.5, 240.0]], np.float32)
    assert not follow(before, now, edge).found.any()


@pytest.mark.parametrize("zoom", [0.95, 1.03, 1.06])
def test_points_stay_where_their_surroundings_grow(tum_images: Images, zoom: float) -> None:
    """As when the camera drives ahead: a window that does not grow slides by its content."""
    before = cv2.cvtColor(tum_images(0), cv2.COLOR_RGB2GRAY)
    centre = np.array([320.0, 240.0])
    matrix = np.column_stack([zoom * np.eye(2), (1.0 - zoom) * centre])
    now = cv2.warpAffine(before, matrix, before.shape[::-1], flags=cv2.INTER_CUBIC)
    corners = cv2.goodFeaturesToTrack(before, 200, 0.01, 10).reshape(-1, 2)
    flow = follow(before, now, corners)
    assert flow.found.mean() > 0.85
    there = zoom * corners + (1.0 - zoom) * centre
    errors = np.linalg.norm(flow.points - there, axis=1)[flow.found]
    assert np.median(errors) < 0.05


def test_rows_keep_the_length_of_their_descriptors() -> None:
    none = nothing()
    known = replace(none, descriptors=np.zeros((0, 128), np.float32))
    assert (none + known + none).descriptors.shape == (0, 128)


def _texture(height: int, width: int) -> UInt8Array:
    noise = np.random.default_rng(0).uniform(0, 255, (height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
    return cv2.normalize(smooth, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)


def test_ages_of_new_points_count_images_that_are_not_kept() -> None:
    image = _texture(300, 400)
    points = np.random.default_rng(1).uniform(50, 250, (20, 2)).astype(np.float32)
    descriptors = np.eye(20, 64, dtype=np.float32)
    features = Features(points, np.ones(20, np.float32), descriptors, 400, 300, "aliked-t16")
    noise, unknown = np.tile(np.eye(2), (20, 1, 1)), np.full(20, np.nan, np.float32)
    rows, ids = np.arange(20), np.zeros(20, np.uint64)
    new = begin(features, rows, ids, noise, unknown, nothing())
    new = replace(new, ages=np.arange(20, dtype=np.uint32))  # some come back without a detection
    detection = Detection(
        3, features, noise, unknown, ids[:0], rows[:0], np.zeros((0, 2)), new, 3, ids[:0]
    )
    images = [(number, image) for number in (3, 4, 6, 9)]
    late = advance(detection, images, lambda _first, _second: None)
    assert late.reached == 9
    np.testing.assert_array_equal(late.new.ages, np.arange(20) + 6)
    assert late.new.ages.dtype == np.uint32


@pytest.mark.parametrize("count", [1, 2, 8, 9, 20])
@pytest.mark.parametrize("step", [(0, 0), (15, 0), (12, 8)])
def test_few_neighbours_on_a_line_or_at_one_place(step: tuple[int, int], count: int) -> None:
    image = _texture(300, 400)
    points = (np.array([50, 60]) + np.arange(count)[:, None] * step).astype(np.float32)
    flow = follow(image, np.roll(image, 3, axis=1), points)
    assert flow.found.all()
    assert np.abs(flow.points - points - (3, 0)).max() < 0.02
    assert (np.linalg.eigvalsh(flow.covariances) > 0).all()


def test_neighbours_hold_points_on_an_edge() -> None:
    """A straight edge shows no motion along it; the texture to both sides does."""
    image = _texture(300, 400)
    image[120:150], image[150:180] = 60, 180
    image = cv2.GaussianBlur(image, (0, 0), 1.0)
    shift = np.array([5.3, 2.1], np.float32)
    matrix = np.column_stack([np.eye(2, dtype=np.float32), shift])
    noise = np.random.default_rng(1).normal(0, 2, (2, 300, 400))
    moved = cv2.warpAffine(image, matrix, (400, 300))
    image, moved = (
        np.clip(a + n, 0, 255).astype(np.uint8) for a, n in zip((image, moved), noise, strict=True)
    )
    x, y = np.meshgrid(np.arange(40, 360, 20), (60, 80, 100, 200, 220, 240))
    on_edge = np.column_stack([np.arange(50, 350, 40), np.full(8, 150)])
    points = np.concatenate([on_edge, np.column_stack([x.ravel(), y.ravel()])]).astype(np.float32)
    flow = follow(image, moved, points)
    off = np.linalg.norm(flow.points - points - shift, axis=1)
    held = off[: len(on_edge)][flow.found[: len(on_edge)]]
    assert len(held) >= 4
    assert np.median(held) < 0.2


def test_neighbours_do_not_drag_what_moves_unlike_them() -> None:
    """A small object before a background that moves otherwise."""
    image = _texture(300, 400)
    thing = 255 - image[20:60, 20:60]
    moved = np.roll(image, 4, axis=1)
    image[130:170, 180:220] = thing
    moved[133:173, 178:218] = thing
    x, y = np.meshgrid(np.arange(40, 360, 20), np.arange(40, 260, 20))
    away = np.maximum(np.abs(x - 200), np.abs(y - 150)).ravel() > 30
    others = np.column_stack([x.ravel(), y.ravel()])[away]
    points = np.concatenate([[[200, 150]], others]).astype(np.float32)
    flow = follow(image, moved, points)
    assert flow.found[0]
    assert np.linalg.norm(flow.points[0] - (198, 153)) < 0.2


@pytest.mark.parametrize("level", [0, 255])
def test_flow_finds_nothing_without_texture(tum_images: Images, level: int) -> None:
    before = cv2.cvtColor(tum_images(0), cv2.COLOR_RGB2GRAY)
    points = np.random.default_rng(0).uniform(20, 400, (100, 2)).astype(np.float32)
    flat = np.full_like(before, level)
    assert not follow(before, flat, points).found.any()
    assert not follow(flat, flat, points).found.any()


def test_edges_are_uncertain_along_themselves() -> None:
    patch = np.zeros((1, 15, 15), np.float32)
    patch[0, :, 8:] = 100.0  # a vertical edge
    noise = detection_noise(structure(patch))[0]
    assert noise[1, 1] > 10 * noise[0, 0]


def test_filter_weighs_flow_and_detection() -> None:
    """Of a track that drifts, corrected positions stay nearer to the truth than either source's."""
    rng = np.random.default_rng(1)
    tracks, steps, detected = 500, 0.12, 0.3
    filters = Filters.born(np.tile(detected**2 * np.eye(2), (tracks, 1, 1)))
    first = rng.normal(0, detected, (tracks, 2))  # of the first detection: the track's own point
    position, drift = first.copy(), first.copy()
    each = np.tile(np.eye(2), (tracks, 1, 1))
    for _ in range(30):
        step = rng.normal(0, steps, (tracks, 2))
        position, drift = position + step, drift + step
        filters = filters.step(steps**2 * each)
        detection = rng.normal(0, detected, (tracks, 2))
        change, filters = filters.correct(detection - position, detected**2 * each)
        position = position + change
    error = np.linalg.norm(position - first, axis=1)
    assert np.median(error) < 0.7 * np.median(np.linalg.norm(drift - first, axis=1))
    expected = np.sqrt(np.trace(filters.covariances[0]))
    assert np.sqrt((error**2).mean()) == pytest.approx(expected, rel=0.15), (
        "it knows how good it is"
    )


def test_tracks_go_on_between_detections(pipeline: Pipeline, tum_images: Images) -> None:
    results = [pipeline.process(Image(tum_images(i), i / 30)) for i in range(8)]
    for result in results:
        _consistent(result)
    assert [r.detection_index for r in results] == [0, None, None, 3, None, None, 6, None]
    first, last = results[0], results[-1]
    _, rows, columns = np.intersect1d(first.tracks.ids, last.tracks.ids, return_indices=True)
    assert len(rows) > 100
    _, inliers = cv2.findFundamentalMat(
        first.features.keypoints[rows], last.features.keypoints[columns], cv2.USAC_MAGSAC, 1.0
    )
    assert inliers.mean() > 0.9
    assert set(np.unique(results[2].features.detection_age)) == {2}
    assert 0 in results[3].features.detection_age
    for before, now in pairwise(results):
        common = np.intersect1d(before.tracks.ids, now.tracks.ids)
        assert len(now.matches) == len(common)


def test_same_images_same_tracks(tum_images: Images) -> None:
    runs = []
    for _ in range(2):
        pipeline = Pipeline(FrontendConfig(detection="2", **CONFIG))
        runs.append([pipeline.process(Image(tum_images(i), i / 30)) for i in range(4)])
        pipeline.close()
    for one, other in zip(*runs, strict=True):
        assert (one.tracks.ids == other.tracks.ids).all()
        assert (one.features.keypoints == other.features.keypoints).all()


@pytest.mark.parametrize("name", ["pipeline", "behind"])
@pytest.mark.parametrize("fault", ["black", "white", "blurred", "noise", "repeated"])
def test_bad_images(
    request: pytest.FixtureRequest, name: str, tum_images: Images, fault: str
) -> None:
    """Tracks end or wait, and the scene is found again."""
    pipeline = request.getfixturevalue(name)
    before = [pipeline.process(Image(tum_images(i), i / 30)) for i in range(2)]
    good = tum_images(1)
    bad = {
        "black": np.zeros_like(good),
        "white": np.full_like(good, 255),
        "blurred": cv2.GaussianBlur(good, (0, 0), 12),
        "noise": np.random.default_rng(0).integers(0, 255, good.shape, np.uint8),
        "repeated": good,
    }[fault]
    for i in range(3):  # a burst: none waits for the last one's detection
        _consistent(pipeline.process(Image(bad, (2 + i) / 30)))
    for i in range(2, 5):
        result = pipeline.process(Image(tum_images(i), (3 + i) / 30))
        _consistent(result)
        _finish(pipeline)
    back = np.isin(before[-1].tracks.ids, result.tracks.ids)
    assert back.mean() > 0.4


@pytest.mark.long
@pytest.mark.parametrize("scene", ["tum_fr1_xyz", "realsense_desk/rgb"])
def test_more_tracks_come_back_from_darkness_than_with_detection_in_every_image(
    shared: Path, scene: str
) -> None:
    """Five black images. Of the second after them: a detection behind them has come by then."""
    images = [image.pixels for image in open_source(str(shared / "data" / scene), 37)]
    found = {}
    for detection in ("every", "3", "behind"):
        config = CONFIG | {"max_keypoints": 512}
        pipeline = Pipeline(FrontendConfig(detection=detection, **config))
        for i in range(27, 30):
            before = pipeline.process(Image(images[i], i / 30))
            if detection != "every":
                _finish(pipeline)
        for i in range(30, 35):
            dark = pipeline.process(Image(np.zeros_like(images[i]), i / 30))
            assert not np.isin(before.tracks.ids, dark.tracks.ids).any()
        for i in range(35, 37):
            if detection != "every":
                _finish(pipeline)
            after = pipeline.process(Image(images[i], i / 30))
        pipeline.close()
        alive = before.tracks.ids[before.tracks.lengths > 1]
        found[detection] = np.isin(alive, after.tracks.ids).sum()
    assert found["every"] > 100
    assert min(found["3"], found["behind"]) > found["every"], found


@pytest.mark.parametrize("detection", ["999", "behind"])
def test_jumps_ask_for_a_detection_at_once(
    detection: str, tum_images: Images, shared_kitti: Images
) -> None:
    """Real sequences, cut: within a room, to another scene and back."""
    pipeline = Pipeline(FrontendConfig(detection=detection, **CONFIG))
    parts = (tum_images, (0, 1, 80, 81)), (shared_kitti, (0, 1)), (tum_images, (82, 83))
    cuts = [images(number) for images, numbers in parts for number in numbers]
    jumps = {2, 4, 6}
    detected = []
    for i, pixels in enumerate(cuts):
        result = pipeline.process(Image(pixels, i / 30))
        _consistent(result)
        _finish(pipeline)
        detected.append(result.detection_index)
        if i - (detection == "behind") in jumps:
            assert len(result.features) > 150
    if detection == "behind":  # whenever it is free
        assert detected == [0, None, *range(1, 7)]
    else:
        assert [i for i in detected if i is not None] == [0, *sorted(jumps)]
    pipeline.close()


def test_tracks_go_on_as_fast_after_lost_images(tum_images: Images) -> None:
    """Images that a busy machine leaves out make the next step longer, as the stamps say."""
    pipeline = Pipeline(FrontendConfig(detection="999", **CONFIG))
    for number in (0, 1, 2, 3, 8):
        crop = np.ascontiguousarray(tum_images(0)[:, 20 * number : 20 * number + 400])
        result = pipeline.process(Image(crop, number / 30))
        if number == 3:
            before = result.features.keypoints[result.features.keypoints[:, 0] > 110]
    pipeline.close()
    assert result.detection_index is None
    assert len(result.features) > 0.7 * len(before) > 70


def test_irregular_stamps_of_a_regular_motion_cost_few_tracks(tum_images: Images) -> None:
    """Such as the times at which images arrive, or a driver that repeats a stamp."""
    even = np.arange(6) / 30
    late, repeated = even.copy(), even.copy()
    late[1::2] += 0.025
    repeated[3] = repeated[2]
    left = []
    for stamps in (even, late, repeated):
        pipeline = Pipeline(FrontendConfig(detection="999", **CONFIG))
        for number, stamp in enumerate(stamps.tolist()):
            crop = np.ascontiguousarray(tum_images(0)[:, 20 * number : 20 * number + 400])
            result = pipeline.process(Image(crop, stamp))
        pipeline.close()
        assert result.detection_index is None
        left.append(len(result.features))
    assert min(left) > 0.95 * left[0] > 150, left


def test_tracks_that_fade_ask_for_a_detection(tum_images: Images) -> None:
    """Before half of the last detection's are lost, however few an image loses."""
    pipeline = Pipeline(FrontendConfig(detection="999", **CONFIG))
    results = [pipeline.process(Image(tum_images(2 * i), i / 15)) for i in range(25)]
    pipeline.close()
    last = results[0]
    for before, result in pairwise(results):
        if result.detection_index is not None:
            last = result
        assert len(result.features) >= 0.5 * len(last.features)
        assert len(result.features) > 0.5 * len(before.features), "no image loses half"
    assert last.index > 0


def test_masked_points_end(pipeline: Pipeline, tum_images: Images) -> None:
    pipeline.process(Image(tum_images(0), 0.0))
    mask = np.full(tum_images(0).shape[:2], 255, np.uint8)
    mask[:, :320] = 0
    result = pipeline.process(Image(tum_images(1), 0.1, mask))
    assert (result.features.keypoints[:, 0] >= 319.5).all()
    assert len(result.features) > 30


def test_other_size_begins_an_epoch(pipeline: Pipeline, tum_images: Images) -> None:
    pipeline.process(Image(tum_images(0), 0.0))
    with pytest.raises(ImageError, match="10×10"):
        pipeline.process(Image(np.zeros((10, 10), np.uint8), 0.05))
    assert pipeline.process(Image(tum_images(1), 0.1)).tracks.epoch == 0
    result = pipeline.process(Image(tum_images(2)[:400, :500], 0.2))
    assert result.tracks.epoch == 1
    assert (result.tracks.lengths == 1).all()
    _consistent(result)


def test_right_image_is_followed_too(shared: Path) -> None:
    """KITTI: between detections the disparities are those that a detection would find."""
    folder = shared / "data" / "kitti_00_first40"
    flowing = Pipeline(FrontendConfig(detection="3", **CONFIG))
    every = Pipeline(FrontendConfig(**CONFIG))
    for image in islice(open_source(str(folder), 3, "right"), 3):
        assert image.right is not None
        result, reference = flowing.process(image), every.process(image)
    flowing.close()
    every.close()
    assert result.detection_index is None
    assert result.right_x is not None
    assert reference.right_x is not None
    points, there = result.features.keypoints, reference.features.keypoints
    distance = np.linalg.norm(points[:, None] - there[None], axis=2)
    rows, columns = np.nonzero(distance < 1.0)
    disparity = points[rows, 0] - result.right_x[rows]
    expected = there[columns, 0] - reference.right_x[columns]
    known = np.isfinite(disparity) & np.isfinite(expected)
    assert np.count_nonzero(known) > 50
    assert np.median(np.abs(disparity - expected)[known]) < 0.3


@pytest.mark.parametrize("word", ["", "never", "0", "-1", "1.5", "1000"])
def test_detection_is_checked(word: str) -> None:
    with pytest.raises(ConfigurationError, match="detection"):
        FrontendConfig(detection=word)


class _Gate:
    """Holds extraction while it is closed, and fails where told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.failure, self.calls = threading.Event(), None, 0
        self.open.set()
        extract = Extractor.extract

        def held(*arguments: Any, **options: Any):
            self.calls += 1
            assert self.open.wait(30)
            if self.failure is not None:
                raise self.failure
            return extract(*arguments, **options)

        monkeypatch.setattr(Extractor, "extract", held)


def test_late_detection_is_carried_to_the_newest_image(
    behind: Pipeline, tum_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points of image 1 that are known only at image 7 lie where image 7 shows them."""
    gate = _Gate(monkeypatch)
    right = np.zeros(tum_images(0).shape[:2], np.uint8)
    right[:, 320:] = 255
    first = behind.process(Image(tum_images(0), 0.0, right))
    assert first.detection_index == 0
    gate.open.clear()
    results = [behind.process(Image(tum_images(i), i / 30)) for i in range(1, 7)]
    for age, result in enumerate(results, 1):
        _consistent(result)
        assert np.isin(result.tracks.ids, first.tracks.ids).all(), "no image waits"
        assert (result.features.detection_age == age).all()
    assert gate.calls == 2, "one at a time"
    gate.open.set()
    _finish(behind)
    late = behind.process(Image(tum_images(7), 7 / 30))
    _consistent(late)
    assert late.detection_index == 1
    fresh = late.tracks.lengths == 1
    assert fresh.sum() > 60
    assert (late.features.detection_age[fresh] == 6).all()
    reference = Pipeline(FrontendConfig(**CONFIG))
    there = reference.process(Image(tum_images(7))).features.keypoints
    reference.close()
    points = late.features.keypoints[fresh]
    assert np.median(np.linalg.norm(points[:, None] - there[None], axis=2).min(1)) < 0.7
    _finish(behind)
    after = behind.process(Image(tum_images(8), 8 / 30))
    assert np.isin(late.tracks.ids, after.tracks.ids).mean() > 0.7
    assert (after.features.detection_age[after.tracks.lengths > 1] == 1).any(), "corrected"


def test_images_go_before_the_detection(
    behind: Pipeline, tum_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a camera's rate is held while the networks use all cores."""
    seen = []
    extract = Extractor.extract

    def noted(extractor: Extractor, pixels: UInt8Array, mask: UInt8Array | None = None):
        found = extract(extractor, pixels, mask)  # starts the networks' threads
        seen.extend(_nice(int(task)) for task in os.listdir("/proc/self/task"))
        return found

    monkeypatch.setattr(Extractor, "extract", noted)
    behind.process(Image(tum_images(0)))
    _finish(behind)
    ours = _nice(threading.get_native_id())
    assert ours == min(seen)
    assert max(seen) > ours


def _nice(task: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, task)


def test_memory_is_bounded_while_a_detection_hangs(
    behind: Pipeline, tum_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _Gate(monkeypatch)
    behind.process(Image(tum_images(0)[:128, :128], 0.0))
    gate.open.clear()
    for i in range(1, 101):
        result = behind.process(Image(tum_images(i % 3)[:128, :128], i / 30))
    assert len(behind._carrier._images) <= 64
    assert (result.features.detection_age == 100).all()
    assert behind.detecting > 0.0
    gate.open.set()
    _finish(behind)
    late = behind.process(Image(tum_images(0)[:128, :128], 10.0))
    _consistent(late)
    assert late.detection_index in (1, late.index), "carried there, or one of its own"
    assert len(late.features) > 30


def test_an_image_waits_where_a_detection_came_too_late(
    behind: Pipeline,
    tum_images: Images,
    shared_kitti: Images,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow machine would be blind for ever: no point lives until its detection has ended."""
    gate = _Gate(monkeypatch)
    behind.process(Image(tum_images(0), 0.0))
    gate.open.clear()
    behind.process(Image(tum_images(1), 1 / 30))
    for i in range(2, 17):
        result = behind.process(Image(shared_kitti(0), i / 30))
    assert len(result.features) < 30
    gate.open.set()
    _finish(behind)
    result = behind.process(Image(shared_kitti(0), 17 / 30))
    _consistent(result)
    assert result.detection_index == result.index
    assert len(result.features) > 200
    assert result.tracks.epoch == 0


def test_failed_detection_costs_no_image(
    behind: Pipeline, tum_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _Gate(monkeypatch)
    first = behind.process(Image(tum_images(0), 0.0))
    gate.failure = RuntimeError("the accelerator is gone")
    failures = []
    for i in range(1, 5):
        result = behind.process(Image(tum_images(i), i / 30))
        _consistent(result)
        _finish(behind)
        failures.append(result.detection_failure)
    assert failures == [None, *[gate.failure] * 3], "each is noted, and the next one tried"
    assert (result.features.detection_age == 4).all()
    assert np.isin(first.tracks.ids, result.tracks.ids).mean() > 0.6
    gate.failure = None
    for i in range(5, 8):
        result = behind.process(Image(tum_images(i), i / 30))
        _finish(behind)
    assert result.detection_failure is None
    assert result.detection_index is not None


def test_the_first_image_of_an_epoch_has_features(
    behind: Pipeline, tum_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever still runs; where its own detection fails it is refused, and the next is first."""
    gate = _Gate(monkeypatch)
    gate.failure = RuntimeError("the accelerator is gone")
    with pytest.raises(RuntimeError, match="accelerator"):
        behind.process(Image(tum_images(0), 0.0))
    gate.failure = None
    before = [behind.process(Image(tum_images(i), i / 30)) for i in range(1, 3)]
    behind.reset()  # while image 2 is in work
    assert behind.detecting == 0.0, "its result is not wanted"
    after = behind.process(Image(tum_images(3), 0.1))
    back = behind.process(Image(tum_images(4), 0.05))
    small = behind.process(Image(tum_images(5)[:400, :500], 0.2))
    for epoch, result in enumerate((before[0], after, back, small)):
        _consistent(result)
        assert result.tracks.epoch == epoch
        assert result.detection_index == result.index
        assert len(result.features) > 200
        assert (result.tracks.lengths == 1).all()
        assert (result.features.detection_age == 0).all()
    _finish(behind)
    assert behind.process(Image(tum_images(6)[:400, :500], 0.3)).tracks.lengths.max() == 2
