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


"""A gyroscope's rotations, its alignment with the camera, and what it predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from aliked_ros.frontend.alignment import Alignment
from aliked_ros.frontend.flow import follow
from aliked_ros.frontend.following import Rows, begin, carry, nothing
from aliked_ros.frontend.gyroscope import LONGEST_GAP, Gyroscope
from aliked_ros.frontend.prediction import Prediction, Turn, expected, own_motion
from aliked_ros.types import Features, UInt8Array
from helpers.gyroscope import CAMERA_FROM_IMU, camera, filled, orientation, rates, results

Images = Callable[[int], UInt8Array]
IMAGES = np.arange(0.0, 6.0, 0.1)
SAMPLES = np.arange(-0.5, 6.5, 0.005)
LENSES = {
    "pinhole": camera(),
    "distorted": camera("plumb_bob", (-0.25, 0.08, 0.001, -0.0005, 0.0)),
    "fisheye": camera("equidistant", (0.02, -0.01, 0.003, 0.0)),
}


def _degrees(rotation: np.ndarray, other: np.ndarray) -> float:
    return float(np.degrees(Rotation.from_matrix(rotation.T @ other).magnitude()))


def _true_turn(before: float, now: float) -> np.ndarray:
    """Of directions in the camera's frame."""
    return (orientation(now).inv() * orientation(before)).as_matrix()


def _measured(gyroscope: Gyroscope, before: float, now: float) -> np.ndarray:
    turned = gyroscope.rotation(before, now)
    assert turned is not None
    return CAMERA_FROM_IMU @ turned @ CAMERA_FROM_IMU.T


@pytest.mark.parametrize(("rate", "limit"), [(100.0, 0.1), (200.0, 0.03), (1000.0, 0.005)])
def test_rotations_between_any_stamps(rate: float, limit: float) -> None:
    """The ends lie between samples; also back in time, and over seconds."""
    stamps = np.arange(0.0, 4.0, 1.0 / rate)
    gyroscope = filled(stamps, rates(stamps))
    for before, now in ((1.0017, 1.1003), (0.5, 3.4999), (2.2, 1.9), (1.0, 1.0)):
        assert _degrees(_measured(gyroscope, before, now), _true_turn(before, now)) < limit


def test_gaps_are_not_bridged_unless_short() -> None:
    kept = (SAMPLES < 1.0) | ((SAMPLES > 1.05) & (SAMPLES < 2.0)) | (SAMPLES > 2.3)
    gyroscope = filled(SAMPLES[kept], rates(SAMPLES[kept]))
    assert _degrees(_measured(gyroscope, 0.9, 1.2), _true_turn(0.9, 1.2)) < 0.5
    assert gyroscope.rotation(1.9, 2.4) is None
    assert gyroscope.rotation(2.15, 2.15) is None, "in the middle of the gap"
    assert _measured(gyroscope, 2.4, 2.6) is not None


def test_late_samples_are_extrapolated_but_not_far() -> None:
    gyroscope = filled(SAMPLES, rates(SAMPLES))
    end = gyroscope.newest
    assert (
        _degrees(_measured(gyroscope, end - 0.1, end + 0.01), _true_turn(end - 0.1, end + 0.01))
        < 0.2
    )
    assert gyroscope.rotation(end - 0.1, end + LONGEST_GAP + 0.01) is None
    assert gyroscope.rotation(SAMPLES[0] - LONGEST_GAP - 0.01, 0.0) is None
    assert Gyroscope().rotation(0.0, 1.0) is None


def test_bad_samples_and_a_clock_that_is_set() -> None:
    gyroscope = filled(SAMPLES, rates(SAMPLES))
    expected_turn = gyroscope.rotation(1.0, 2.0)
    gyroscope.add(SAMPLES[-1] + 0.005, (np.nan, 0.0, 0.0))
    gyroscope.add(SAMPLES[-1] - 0.01, (9.0, 9.0, 9.0))  # late
    gyroscope.add(SAMPLES[-1], (9.0, 9.0, 9.0))  # twice
    assert np.array_equal(gyroscope.rotation(1.0, 2.0), expected_turn)
    for stamp in np.arange(-100.0, -99.0, 0.005):
        gyroscope.add(stamp, (0.0, 0.0, 1.0))
    assert gyroscope.rotation(1.0, 2.0) is None
    assert gyroscope.rotation(-99.9, -99.4) is not None


@pytest.mark.parametrize("images", [True, False], ids=["images", "no images"])
def test_memory_is_bounded(images: bool) -> None:
    gyroscope = Gyroscope(keep=1.0)
    for stamp in np.arange(0.0, 20.0, 0.005):
        gyroscope.add(stamp, (0.0, 0.0, 0.1))
        if images:
            gyroscope.rotation(stamp - 0.1, stamp)
    assert len(gyroscope._pending) <= 202
    assert len(gyroscope.samples(0.0, 99.0)[0]) <= 401
    assert gyroscope.rotation(19.0, 19.9) is not None


def test_bias_is_learnt_at_rest_only() -> None:
    rng = np.random.default_rng(0)
    bias = np.array([0.02, -0.01, 0.03])
    still = filled(SAMPLES, bias + rng.normal(0.0, 0.005, (len(SAMPLES), 3)))
    still.rest(1.0, 1.2)
    assert not still.bias.any(), "too short"
    still.rest(1.0, 3.0)
    assert np.abs(still.bias - bias).max() < 0.002
    for stamp in np.arange(6.5, 8.0, 0.005):
        still.add(stamp, bias)
    assert _degrees(_measured(still, 6.6, 7.9), np.eye(3)) < 0.2
    turning = filled(SAMPLES, rates(SAMPLES))
    turning.rest(1.0, 3.0)
    assert not turning.bias.any()


@pytest.mark.parametrize("lens", LENSES)
def test_far_points_are_carried_through_the_lens(lens: str) -> None:
    model = LENSES[lens]
    rng = np.random.default_rng(1)
    before = rng.uniform((0, 0), (640, 480), (200, 2)).astype(np.float32)
    rotation = Rotation.from_rotvec([0.1, -0.25, 0.3]).as_matrix()
    rays = np.column_stack([model.normalize(before), np.ones(len(before))]) @ rotation.T
    known = rays[:, 2] > 0.1
    there = Turn(model, rotation).carried(before)
    with np.errstate(all="ignore"):
        there_by_hand = model.project((rays[:, :2] / rays[:, 2:]).astype(np.float32))
    assert np.nanmax(np.abs(there - there_by_hand)[known]) < 0.01
    back = Turn(model, rotation.T).carried(there)
    inside = known & ((there > 0) & (there < [639, 479])).all(1)
    assert np.count_nonzero(inside) > 30
    assert np.abs(back - before)[inside].max() < 0.05


def test_points_that_turn_behind_the_camera_have_no_place() -> None:
    turn = Turn(camera(), Rotation.from_rotvec([0.0, 2.0, 0.0]).as_matrix())
    points = np.array([[320.0, 240.0]], np.float32)
    assert np.isnan(turn.carried(points)).all()
    moved = np.array([[3.0, 4.0]], np.float32)
    assert np.allclose(expected(points, moved, moved, turn), points + moved)


def test_what_the_turn_does_not_explain_goes_on() -> None:
    """A camera that turns to and fro, and rolls, while the scene moves by 5 pixels an image."""
    model = camera()
    vectors = ([0.0, 0.2, 0.0], [0.0, -0.15, 0.6])
    turns = [Turn(model, Rotation.from_rotvec(vector).as_matrix()) for vector in vectors]
    points = np.array([[300.0, 200.0], [400.0, 300.0]], np.float32)
    own = np.array([5.0, 0.0], np.float32)
    after = turns[0].carried(points) + own
    left = own_motion(points, after, turns[0])
    predicted = expected(after, after - points, left, turns[1])
    assert np.allclose(predicted, turns[1].carried(after + own), atol=0.01)


def _rows(points: np.ndarray) -> Rows:
    count = len(points)
    features = Features(
        points, np.ones(count, np.float32), np.zeros((count, 4), np.float32), 640, 480, ""
    )
    noise, unknown = np.tile(0.04 * np.eye(2), (count, 1, 1)), np.full(count, np.nan, np.float32)
    return begin(features, np.arange(count), np.arange(1, count + 1, dtype=np.uint64), noise,
                 unknown, nothing())  # fmt: skip


@pytest.mark.parametrize("vector", [(0.0, 0.25, 0.0), (0.1, -0.1, 0.6)])
@pytest.mark.parametrize("lens", ["pinhole", "distorted"])
def test_flow_follows_a_sudden_turn(
    lens: str, vector: tuple[float, float, float], tum_images: Images
) -> None:
    """New tracks of a real image that the camera turns on from within one image."""
    model = LENSES[lens]
    before = cv2.cvtColor(tum_images(0), cv2.COLOR_RGB2GRAY)
    turn = Turn(model, Rotation.from_rotvec(vector).as_matrix())
    now = turn.turned(before)
    points = cv2.goodFeaturesToTrack(before, 300, 0.01, 8).reshape(-1, 2)
    there = turn.carried(points)
    stays = ((there > 12) & (there < [627, 467])).all(1)
    rows = _rows(points[stays])
    moved, found, _ = carry(rows, before, now, None, turn, last=turn)
    errors = np.linalg.norm(moved.points - there[stays], axis=1)[found]
    assert found.mean() > 0.9
    assert np.median(errors) < 0.2
    still = Turn(model, np.eye(3))
    assert np.array_equal(still.turned(before)[20:-20, 20:-20], before[20:-20, 20:-20])
    assert turn.turned(np.full_like(before, 200)).min() == 200, "no black frame"
    moved, found, _ = carry(rows, before, now, None)
    right = found & (np.linalg.norm(moved.points - there[stays], axis=1) < 2.0)
    assert right.mean() < 0.5, "without it most are lost"


def test_a_wrong_turn_costs_no_tracks(tum_images: Images) -> None:
    """Flow that loses most of them by the turn is repeated without it."""
    pixels = tum_images(0)
    before = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    rows = _rows(cv2.goodFeaturesToTrack(before, 300, 0.01, 8).reshape(-1, 2))
    wrong = Turn(camera(), Rotation.from_rotvec([0.0, 0.3, 0.2]).as_matrix())
    moved, found, _ = carry(rows, before, before, None, wrong)
    assert found.mean() > 0.95
    assert np.abs(moved.points - rows.points)[found].max() < 0.1
    points = rows.points.astype(np.float32)
    alone = follow(wrong.turned(before), before, wrong.placed(points))
    assert alone.found.mean() < 0.5, "by the turn alone most are lost"


def _aligned(
    gyroscope: Gyroscope, alignment: Alignment | None = None, stamps: np.ndarray = IMAGES
) -> Prediction:
    """What is known after a sequence of images."""
    prediction = Prediction()
    prediction.use(gyroscope, alignment)
    model = camera()
    for result in results(stamps):
        prediction.begin(result.index, result.stamp, model)
        prediction.compare(result)
    return prediction


def _noisy(measured: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(2)
    return measured + rng.normal(0.0, 0.02, measured.shape) + (0.01, -0.02, 0.015)


@pytest.mark.parametrize("offset", [0.0, 0.037, -0.12])
def test_rotation_and_offset_are_estimated(offset: float) -> None:
    prediction = _aligned(filled(SAMPLES, _noisy(rates(SAMPLES)), offset))
    mounting = prediction.alignment.mounting
    assert mounting is not None
    assert _degrees(mounting.rotation, CAMERA_FROM_IMU) < 2.0
    assert abs(mounting.offset - offset) < 0.004
    assert "Image stamp" in prediction.alignment.news
    turn = prediction.turn(30, 31)
    assert turn is not None
    assert _degrees(turn.rotation, _true_turn(IMAGES[30], IMAGES[31])) < 1.5


def test_given_rotation_is_used_from_the_second_image_on() -> None:
    gyroscope = filled(SAMPLES, rates(SAMPLES))
    prediction = _aligned(gyroscope, Alignment(CAMERA_FROM_IMU), IMAGES[:2])
    turn = prediction.turn(0, 1)
    assert turn is not None
    assert _degrees(turn.rotation, _true_turn(IMAGES[0], IMAGES[1])) < 0.1
    assert prediction.turn(0, 7) is None
    assert Prediction().turn(0, 1) is None


def test_nothing_is_concluded_from_a_camera_that_does_not_turn() -> None:
    prediction = Prediction()
    prediction.use(filled(SAMPLES, np.zeros((len(SAMPLES), 3))))
    (seen,) = results(np.zeros(1))
    for index, stamp in enumerate(IMAGES.tolist()):
        prediction.begin(index, stamp, camera())
        prediction.compare(replace(seen, index=index, stamp=stamp))
    assert prediction.alignment.mounting is None
    assert prediction.alignment.problem == ""


@pytest.mark.parametrize(
    ("change", "given", "said"),
    [
        (np.degrees(1.0) * np.eye(3), None, "degrees per second"),
        (np.degrees(1.0) * np.eye(3), CAMERA_FROM_IMU, "degrees per second"),
        (0.5 * np.eye(3), None, "0.5 times"),
        (np.diag([1.0, 1.0, -1.0]), None, "left-handed"),
        (np.eye(3)[[1, 0, 2]], CAMERA_FROM_IMU, "left-handed"),
        (np.eye(3), np.eye(3)[[1, 2, 0]] @ CAMERA_FROM_IMU, "wrong by 120"),
    ],
    ids=["degrees", "degrees given", "half", "mirrored", "swapped", "frame"],
)  # fmt: skip
def test_a_wrong_gyroscope_is_named_and_not_used(
    change: np.ndarray, given: np.ndarray | None, said: str
) -> None:
    gyroscope = filled(SAMPLES, _noisy(rates(SAMPLES) @ change.T))
    prediction = _aligned(gyroscope, Alignment(given))
    assert said in prediction.alignment.problem
    assert prediction.turn(30, 31) is None


def test_a_gyroscope_of_something_else_is_named_and_not_used() -> None:
    rng = np.random.default_rng(3)
    walk = np.cumsum(rng.normal(0.0, 0.1, (len(SAMPLES), 3)), axis=0)
    prediction = _aligned(filled(SAMPLES, walk), Alignment(CAMERA_FROM_IMU))
    assert "do not agree" in prediction.alignment.problem
    assert prediction.turn(30, 31) is None


def test_a_gyroscope_that_is_put_right_is_used_again() -> None:
    alignment = Alignment(CAMERA_FROM_IMU)
    wrong = SAMPLES < 3.0
    measured = rates(SAMPLES)
    measured[wrong] = np.degrees(measured[wrong])
    stamps = np.arange(0.0, 20.0, 0.1)
    more = np.arange(SAMPLES[-1] + 0.005, 21.0, 0.005)
    gyroscope = filled(np.concatenate([SAMPLES, more]), np.vstack([measured, rates(more)]))
    prediction = _aligned(gyroscope, alignment, stamps)
    assert prediction.alignment.problem == ""
    assert prediction.turn(150, 151) is not None


def test_kept_tracks_are_counted_against_the_truth() -> None:
    """Those that the next image has, and those that are where they can be."""
    pytest.importorskip("evo", reason="evaluations need evo")
    from aliked_ros.evaluation.gyroscope import kept_between
    from aliked_ros.odometry.geometry import Transform

    def pose_at(stamp: float) -> Transform:
        place = 0.3 * np.array([np.sin(stamp), np.cos(0.7 * stamp), np.sin(1.3 * stamp)])
        return Transform(orientation(stamp).as_matrix(), place)

    first, second = results(np.array([1.0, 1.1]))
    in_view, followed, right = kept_between(first, second, camera(), pose_at)
    assert right == followed > 100
    assert 0.9 * followed < in_view < len(first.features)
    moved = replace(second.features, keypoints=second.features.keypoints + np.float32(15.0))
    _, followed, right = kept_between(first, replace(second, features=moved), camera(), pose_at)
    assert right < 0.3 * followed
    in_view, still_followed, right = kept_between(first, second, camera(), None)
    assert np.isnan(in_view)
    assert np.isnan(right)
    assert still_followed == followed
