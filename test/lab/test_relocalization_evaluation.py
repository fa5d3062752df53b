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

"""``evaluate relocalization``: halves, keyframes and errors are what the page says they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("evo", reason="make setup GROUP=test")
pytest.importorskip("pycolmap", reason="make setup GROUP=test")

from scipy.spatial.transform import Rotation

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ConfigurationError, SourceError
from aliked_ros.evaluation.relocalization import (
    METRICS,
    Glance,
    evaluate_relocalization,
    plot_relocalization,
    pose_error,
    split,
)
from aliked_ros.evaluation.result_table import ResultTable
from aliked_ros.evaluation.run import Run
from aliked_ros.odometry.geometry import Transform
from aliked_ros.types import Pose

CONFIG = FrontendConfig(max_keypoints=500, matcher="nearest")


def evaluate(
    sequence: Path, output: Path, *names: str, limit: int | None = None, **options
) -> ResultTable:
    return evaluate_relocalization(
        Run(str(sequence), names, CONFIG, output, lambda *_: None, limit), **options
    )


def transform(rng: np.random.Generator) -> Transform:
    return Transform(Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3))


def test_errors_are_those_of_the_pose_in_the_keyframes_frame():
    rng = np.random.default_rng(0)
    keyframe, query = transform(rng), transform(rng)
    truth = keyframe.inverse() @ query
    turn = Rotation.from_rotvec(np.radians([0.0, 3.0, 0.0])).as_matrix()
    moved = truth.translation + np.array([0.0, 0.03, 0.04])
    pose = Pose(truth.rotation @ turn, moved, metric=True)
    assert pose_error(pose, keyframe, query) == pytest.approx((0.05, 3.0))
    exact = Pose(truth.rotation, truth.translation, metric=True)
    assert pose_error(exact, keyframe, query) == pytest.approx((0.0, 0.0), abs=1e-5)


@pytest.mark.parametrize("hard", ["first", "second"])
def test_the_less_sharp_half_is_asked_for_and_keyframes_spread_over_the_other(hard):
    blurred = np.arange(40) < 20 if hard == "first" else np.arange(40) >= 20
    seen = [Glance(i / 10, 100.0 if low else 300.0, True) for i, low in enumerate(blurred)]
    poses = {i: Transform(np.eye(3), np.array([0.02 * i, 0, 0])) for i in range(40)}
    halves = split(seen, poses)
    assert halves.first == (hard == "first")
    assert halves.queries == np.flatnonzero(blurred).tolist()
    assert halves.sharpness == (100.0, 300.0)
    assert halves.speed == pytest.approx((0.2, 0.2))
    begin = halves.references[0]
    assert halves.keyframes(4) == [begin + 2, begin + 7, begin + 12, begin + 17]
    assert halves.keyframes(1) == [begin + 10]
    assert halves.keyframes(20) == halves.references
    del poses[0]  # images without a true pose are in neither half
    seen[39] = Glance(3.9, 300.0, False)  # nor those without depth
    halves = split(seen, poses)
    assert sorted(halves.queries + halves.references) == list(range(1, 39))


def test_most_images_of_a_desk_are_found_and_what_has_no_descriptors_says_so(shared, tmp_path):
    sequence = shared / "data" / "tum_fr1_xyz"
    outcome = evaluate(sequence, tmp_path, "sift", "gftt+lk", limit=60, every=6, keyframes=(4, 1))
    plot_relocalization(outcome, tmp_path)
    assert (tmp_path / "relocalization.png").stat().st_size > 10_000
    rows = [row for row in outcome.rows if row["method"] == "sift"]
    assert len(rows) == 2 * outcome.facts["queries"] == 10
    for row in rows:
        near = row["error_cm"] is not None and row["error_cm"] <= 5 and row["error_deg"] <= 5
        assert row["5cm_5deg"] == float(near)
        assert row["5cm_5deg"] <= row["50cm_5deg"] <= row["posed"]
    for name, part in outcome.parts()[1:]:
        recall = outcome.estimate(METRICS[2], "sift", part)
        assert recall.units == 5, name
        assert recall.value >= 0.6
    with_four = outcome.parts()[1]
    assert with_four[0] == "keyframes 4"
    median = outcome.estimate(METRICS[4], "sift", with_four[1])
    errors = [row["error_cm"] for row in rows if row["keyframes"] == 4]
    assert median.value == np.median([error for error in errors if error is not None]) < 5.0
    assert "gftt+lk failed: it has no descriptors" in outcome.as_text()
    assert not outcome.estimate(METRICS[0], "gftt+lk").units


def test_a_car_is_found_by_stereo(shared, tmp_path):
    sequence = shared / "data" / "kitti_00_first40"
    outcome = evaluate(sequence, tmp_path, "orb", limit=24, every=4, keyframes=(3,))
    assert outcome.facts["mode"] == "stereo"
    assert outcome.estimate(METRICS[3], "orb").value >= 0.6, "any pose"


def test_what_is_missing_is_named(shared, tmp_path):
    data = shared / "data"
    with pytest.raises(SourceError, match="no scale"):
        evaluate(data / "vamr_box_210", tmp_path, "orb")
    with pytest.raises(ConfigurationError, match="mode is 'fisheye'"):
        evaluate(data / "vamr_box_210", tmp_path, "orb", mode="fisheye")
    with pytest.raises(SourceError, match="at least 20"):
        evaluate(data / "tum_fr1_xyz", tmp_path, "orb", limit=15)
    with pytest.raises(ConfigurationError, match="has 10 images"):
        evaluate(data / "tum_fr1_xyz", tmp_path, "orb", limit=20, keyframes=(11,))
    with pytest.raises(ConfigurationError, match="at least 1"):
        evaluate(data / "tum_fr1_xyz", tmp_path, "orb", keyframes=(0,))
