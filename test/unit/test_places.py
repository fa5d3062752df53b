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


"""Places: remembered compactly, found by their looks, thinned where neighbours cover them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.appearance import encode
from aliked_ros.frontend.covariance import pose_covariance
from aliked_ros.frontend.loops import LoopFinder
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.frontend.places import MAX_FEATURES, KeyframeDatabase, Place
from aliked_ros.types import (
    Candidate,
    Features,
    FrameResult,
    Keyframe,
    Matches,
    Pose,
    Tracks,
    UInt8Array,
)
from helpers.places import synthetic_place

CONFIG = FrontendConfig(max_keypoints=400, matcher="nearest")


@pytest.fixture(scope="module")
def pipeline(shared: Path) -> Iterator[Pipeline]:
    with closing(Pipeline(CONFIG)) as pipeline:
        calibration = json.loads((shared / "data" / "tum_fr1_xyz" / "calib.json").read_text())
        pipeline.camera = CameraModel.from_calibration(calibration)
        yield pipeline


def place_of(pipeline: Pipeline, pixels: UInt8Array, index: int, epoch: int = 0) -> Place:
    """A place whose keypoints are untracked."""
    features = pipeline.extract(pixels)
    none = np.zeros(len(features), np.uint32)
    camera = pipeline.camera
    assert camera is not None
    result = FrameResult(
        index, index / 30, features, Matches.empty(), Tracks(none.astype(np.uint64), none, epoch),
        normalized=camera.normalize(features.keypoints) if camera.fits(640, 480) else None,
    )  # fmt: skip
    return Place.of(result, index * 33_000_000, "camera", pixels, camera)


def test_an_image_finds_its_place_among_others(pipeline, tum_images, shared_kitti):
    database = KeyframeDatabase()
    for index in range(0, 60, 10):
        database.add(place_of(pipeline, tum_images(index), index, epoch=1))
    for index in range(0, 40, 4):
        database.add(place_of(pipeline, shared_kitti(index), index, epoch=2))
    features = pipeline.extract(tum_images(63))
    found = database.candidates(features, 3)
    assert {place.epoch for place in found} == {1}
    assert database.candidates(features, 1, lambda place: place.epoch == 1)[0].epoch == 2
    assert not database.candidates(features, 1, lambda place: place.epoch == 1, least=20)


def test_a_place_is_compact_and_its_rows_are_those_of_its_keyframe(pipeline, tum_images):
    place = place_of(pipeline, tum_images(0), 4)
    features = pipeline.extract(tum_images(0))
    keyframe = place.keyframe()
    assert np.array_equal(keyframe.features.keypoints, features.keypoints[:MAX_FEATURES])
    assert np.allclose(keyframe.features.descriptors, features.descriptors, atol=1e-3)
    assert place.thumbnail.startswith(b"\xff\xd8")
    arrays = (place.features.keypoints, place.descriptors, place.normalized, place.ids)
    assert sum(array.nbytes for array in arrays) + len(place.thumbnail) < 150_000


def test_each_place_is_kept_once_and_nothing_is_found_among_none(pipeline, tum_images):
    database = KeyframeDatabase()
    features = pipeline.extract(tum_images(0))
    assert database.candidates(features, 3) == []
    place = place_of(pipeline, tum_images(0), 4)
    assert database.add(place)
    assert not database.add(place)
    assert len(database) == 1
    black = pipeline.extract(np.zeros((480, 640), np.uint8))
    assert database.candidates(black, 3) == [] or len(black) > 0
    assert not encode(np.zeros((0, 128), np.float32)).any()
    assert np.linalg.norm(encode(np.eye(64, dtype=np.float32))) == pytest.approx(1.0)  # T16


def test_redundant_places_go_first_and_the_way_stays_covered():
    database = KeyframeDatabase(max_places=40)
    # 30 that share nine tenths with the next, then 10 that share nothing
    for index in range(30):
        database.add(synthetic_place(index, first_track=1 + 20 * index))
    for index in range(30, 40):
        database.add(synthetic_place(index, first_track=10_000 + 500 * index))
    database.thin(25)
    kept = [place.index for place in database]
    assert kept[-10:] == list(range(30, 40))
    steps = np.diff(kept[:15])
    assert steps.max() <= 5, "every removed view is shared by the neighbours"
    database.add(synthetic_place(99, first_track=90_000))
    assert len(database) == 26
    bounded = KeyframeDatabase(max_places=10)
    for index in range(35):
        bounded.add(synthetic_place(index, first_track=1 + 500 * index))
        assert len(bounded) <= 10
    assert 34 in [place.index for place in bounded]


def test_a_loop_takes_two_consecutive_keyframes_and_has_the_true_pose(
    pipeline, tum_images, shared_kitti
):
    database = KeyframeDatabase()

    def found(pixels: UInt8Array, index: int, epoch: int):
        place = place_of(pipeline, pixels, index, epoch)
        database.add(place)
        return finder.find(place)

    finder = LoopFinder(database, pipeline.find_candidate)
    for index in (0, 5, 10, 15):
        assert found(tum_images(index), index, 1) is None, "recent keyframes are no loops"
    for index in range(0, 24, 2):
        assert found(shared_kitti(index), index + 100, 2) is None, "another scene"
    assert found(tum_images(2), 200, 3) is None, "one keyframe may be an accident"
    loop = found(tum_images(7), 201, 3)
    assert loop is not None
    assert loop.earlier.epoch == 1
    assert loop.candidate.inliers >= 30
    assert loop.place.key[1:] == (3, 201)
    if loop.candidate.pose is not None:
        assert loop.covariance is not None
        assert np.linalg.eigvalsh(loop.covariance).min() > -1e-12


@pytest.mark.parametrize("metric", [True, False])
def test_covariances_are_those_of_repeated_measurements(metric: bool):
    """The spread of poses estimated from noisy keypoints, many times."""
    from aliked_ros.frontend.relocalization import _metric, _up_to_scale  # what makes the poses

    rng = np.random.default_rng(1)
    focal, count = 500.0, 150
    rotation = Rotation.from_rotvec([0.02, -0.1, 0.05]).as_matrix()
    translation = np.array([0.3, -0.1, 0.05])
    points = np.column_stack([rng.uniform(-1.5, 1.5, (count, 2)), rng.uniform(2.0, 5.0, count)])
    there = points[:, :2] / points[:, 2:]
    inside = (points - translation) @ rotation
    poses, guesses = [], []
    for _ in range(60):
        here = inside[:, :2] / inside[:, 2:] + rng.normal(0, 0.6 / focal, (count, 2))
        pose = _metric(points, here, 1 / focal) if metric else _up_to_scale(there, here, 1 / focal)
        assert pose is not None
        turn = Rotation.from_matrix(pose.rotation @ rotation.T).as_rotvec()
        length = 1.0 if metric else np.linalg.norm(translation)
        poses.append(np.concatenate([pose.translation - translation / length, turn]))
        rows = np.arange(count, dtype=np.uint32)
        none = np.zeros(count, np.float32)
        features = Features(
            (there * focal).astype(np.float32), none, np.zeros((count, 0), np.float32), 640, 480, ""
        )
        keyframe = Keyframe(
            0, 0.0, features, Tracks(rows.astype(np.uint64), rows, 0),
            normalized=there.astype(np.float32),
            depth=points[:, 2].astype(np.float32) if metric else None,
        )  # fmt: skip
        matches = Matches(rows, rows, none, np.ones(count, bool))
        covariance = pose_covariance(
            Candidate(keyframe, matches, Pose(pose.rotation, pose.translation, metric)),
            here.astype(np.float32),
            focal,
        )
        guesses.append(np.sqrt(np.diag(covariance)))
    ratio = np.mean(guesses, axis=0) / np.std(poses, axis=0)
    assert ratio.min() > 0.5, ratio
    assert ratio.max() < 2.0, ratio
