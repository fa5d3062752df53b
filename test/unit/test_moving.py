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


"""Moving objects: a texture over a real sequence, and the sequence as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.evaluation.moving import Overlay, standing
from aliked_ros.frontend.moving import LATENCY, MovingObjects
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.types import BoolArray, FrameResult, Image, UInt8Array

Images = Callable[[int], UInt8Array]
CONFIG = FrontendConfig(max_keypoints=500, matcher="nearest", moving_objects="flag")
START = 3  # the first image that shows the texture
COUNT = 18


@pytest.fixture(scope="module")
def kitti(shared_kitti: Images) -> list[tuple[Image, BoolArray]]:
    """A standing camera's images, over which a texture moves from START on."""
    texture = np.ascontiguousarray(shared_kitti(0)[100:210, 300:450])
    images = standing(Image(shared_kitti(20)), COUNT, 30.0)
    return list(Overlay(texture, (4.0, 2.0), START).over(images))


@pytest.fixture(scope="module")
def shared_camera(shared: Path) -> CameraModel:
    """Of fr1_xyz."""
    calibration = json.loads((shared / "data" / "tum_fr1_xyz" / "calib.json").read_text())
    return CameraModel.from_calibration(calibration)


def process(config: FrontendConfig, images: list[Image]) -> list[FrameResult]:
    pipeline = Pipeline(config)
    results = [pipeline.process(image) for image in images]
    pipeline.close()
    return results


def on(result: FrameResult, where: BoolArray) -> BoolArray:
    columns, rows = np.rint(result.features.keypoints).astype(int).T
    return where[rows.clip(0, where.shape[0] - 1), columns.clip(0, where.shape[1] - 1)]


@pytest.fixture(scope="module", params=["every", "2"])
def flagged(
    kitti: list[tuple[Image, BoolArray]], request: pytest.FixtureRequest
) -> tuple[str, list[FrameResult]]:
    """The setting ``detection``, and the results."""
    config = replace(CONFIG, detection=request.param)
    return request.param, process(config, [image for image, _ in kitti])


def test_an_object_is_found_and_keeps_its_numbers(
    kitti: list[tuple[Image, BoolArray]], flagged: tuple[str, list[FrameResult]]
) -> None:
    detection, results = flagged
    found = [number for number, result in enumerate(results) if result.tracks.objects is not None]
    assert START < found[0] <= START + LATENCY + int(detection == "2")
    assert found == list(range(found[0], COUNT))
    for result, (_, where) in zip(results[-4:], kitti[-4:], strict=True):
        moving, inside = ~result.tracks.at_rest, on(result, where)
        near = on(result, cv2.dilate(where.astype(np.uint8), np.ones((17, 17))) != 0)
        assert np.mean(near[moving]) > 0.9, "its edge shows in patches around it"
        assert np.mean(moving[inside]) > 0.6
        assert set(result.tracks.objects[moving]) == {results[found[0]].tracks.objects.max()}
    longest = results[-1].tracks.lengths[~results[-1].tracks.at_rest].max()
    assert longest >= COUNT - found[0] - 3, "its tracks go on"


def test_an_id_is_the_scenes_or_an_objects_for_good(
    flagged: tuple[str, list[FrameResult]],
) -> None:
    _, results = flagged
    scene: set[int] = set()
    objects: set[int] = set()
    lengths: dict[int, int] = {}
    for before, now in pairwise([None, *results]):
        tracks = now.tracks
        assert len(set(tracks.ids.tolist())) == len(tracks.ids)
        assert tracks.ids.min() > 0
        assert len(tracks.ids) == len(now.features) <= CONFIG.max_keypoints
        scene |= set(tracks.ids[tracks.at_rest].tolist())
        objects |= set(tracks.ids[~tracks.at_rest].tolist())
        for track, length in zip(tracks.ids.tolist(), tracks.lengths.tolist(), strict=True):
            assert length == lengths.get(track, 0) + 1
            lengths[track] = length
        if before is None or now.matches.inliers is None:
            continue
        good = now.matches.verified()
        assert tracks.at_rest[good.current_indices].all()
        assert before.tracks.at_rest[good.reference_indices].all()
    assert objects
    assert not scene & objects


def test_dropped_objects_leave_whole_results(
    kitti: list[tuple[Image, BoolArray]], flagged: tuple[str, list[FrameResult]]
) -> None:
    detection, whole = flagged
    config = replace(CONFIG, detection=detection, moving_objects="drop")
    results = process(config, [image for image, _ in kitti])
    for before, now, full in zip([None, *results], results, whole, strict=False):
        assert now.tracks.objects is None
        assert len(now.tracks.ids) == len(now.tracks.lengths) == len(now.features)
        assert len(now.features.scores) == len(now.features.descriptors) == len(now.features)
        if before is None:
            continue
        matches, kept = now.matches, slice(None)
        if matches.inliers is not None:
            kept = matches.inliers
        rows = matches.reference_indices[kept], matches.current_indices[kept]
        np.testing.assert_array_equal(before.tracks.ids[rows[0]], now.tracks.ids[rows[1]])
        if full.tracks.objects is not None:
            assert len(now.features) < len(full.features)
    where = kitti[-1][1]
    assert np.mean(on(results[-1], where)) < 0.5 * np.mean(on(whole[-1], where))


@pytest.mark.parametrize("detection", ["every", "2"])
def test_a_scene_at_rest_has_none_and_keeps_its_tracks(
    tum_images: Images, shared_camera: CameraModel, detection: str
) -> None:
    config = replace(CONFIG, detection=detection)
    images = [Image(tum_images(i), i / 30) for i in range(11)]
    results, plain = [], []
    for setting, kept in (("flag", results), ("ignore", plain)):
        pipeline = Pipeline(replace(config, moving_objects=setting))
        pipeline.camera = shared_camera
        kept += [pipeline.process(image) for image in images]
        pipeline.close()
    for one, other in zip(results, plain, strict=True):
        assert one.tracks.objects is None
        np.testing.assert_array_equal(one.tracks.ids, other.tracks.ids)
        np.testing.assert_array_equal(one.features.keypoints, other.features.keypoints)
        assert one.keyframe_reason == other.keyframe_reason


def test_a_pattern_one_period_off_is_no_object() -> None:
    """Its points jump together, once; the camera moves on."""
    random = np.random.default_rng(0)
    scene = np.column_stack([random.uniform(-300, 300, (300, 2)), random.uniform(300, 900, 300)])
    moving = MovingObjects(CONFIG)
    chains = np.zeros(300, np.uint64)
    near = np.argsort(np.linalg.norm(scene[:, :2] - 100.0, axis=1))[:20]
    for number in range(14):
        points = 500.0 * (scene[:, :2] + [6.0 * number, 2.0 * number]) / scene[:, 2:]
        points += random.normal(0.0, 0.2, points.shape)
        agreeing = chains != 0
        if number >= 6:
            points[near] += [0.0, 14.0]
            agreeing[near] &= number != 6
        chains, objects = moving.update(chains, points, agreeing, (640, 480))
        assert not objects.any()


def test_an_image_that_fails_halfway_is_passed_over(
    kitti: list[tuple[Image, BoolArray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BackendError("out of memory")

    pipeline = Pipeline(CONFIG)
    images = [image for image, _ in kitti]
    for image in images[:6]:
        pipeline.process(image)
    with monkeypatch.context() as patched:
        patched.setattr(pipeline._recovery, "recover", fail)
        with pytest.raises(BackendError):
            pipeline.process(images[6])
    results = [pipeline.process(image) for image in images[7:]]
    pipeline.close()
    assert results[-1].tracks.objects is not None


@pytest.mark.parametrize("detection", ["every", "2"])
def test_matches_are_of_the_rows_of_both_results(
    kitti: list[tuple[Image, BoolArray]], detection: str
) -> None:
    """Also where objects are dropped from only one of them."""
    pipeline = Pipeline(replace(CONFIG, detection=detection))
    before, flagged = pipeline.process(kitti[0][0]), 0
    for number, (image, _) in enumerate(kitti[1:]):
        setting = ("drop", "flag")[number % 2]
        pipeline.reconfigure(replace(CONFIG, detection=detection, moving_objects=setting))
        now = pipeline.process(image)
        good = now.matches.verified()
        assert len(good) > 0
        np.testing.assert_array_equal(
            before.tracks.ids[good.reference_indices], now.tracks.ids[good.current_indices]
        )
        flagged += now.tracks.objects is not None
        before = now
    pipeline.close()
    assert flagged > 0


def test_switching_it_off_ends_the_objects(kitti: list[tuple[Image, BoolArray]]) -> None:
    pipeline = Pipeline(replace(CONFIG, detection="2"))
    for image, _ in kitti[:-2]:
        result = pipeline.process(image)
    assert result.tracks.objects is not None
    pipeline.reconfigure(replace(CONFIG, detection="2", moving_objects="ignore"))
    for image, _ in kitti[-2:]:
        assert pipeline.process(image).tracks.objects is None
    pipeline.close()
