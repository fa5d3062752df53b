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


"""``evaluate places``: its thresholds, its truth, and a short run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("evo", reason="make setup GROUP=test")
pytest.importorskip("pycolmap", reason="make setup GROUP=test")

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import SourceError
from aliked_ros.evaluation import places
from aliked_ros.evaluation.places import (
    evaluate_places,
    least_score,
    plot_places,
    precision_by_recall,
)
from aliked_ros.evaluation.run import Run

CONFIG = FrontendConfig(max_keypoints=300, matcher="nearest")


def test_an_answer_counts_down_to_the_score_at_which_enough_are_right():
    scores = np.array([90, 80, 70, 60, 50])
    right = np.array([True, True, False, True, True])
    assert least_score(scores, right, 1.0) == 80
    assert least_score(scores, right, 0.75) == 50
    assert least_score(scores, ~right, 1.0) == float("inf")
    recall, precision = precision_by_recall(scores, right, 5)
    assert recall.tolist() == [0.2, 0.4, 0.4, 0.6, 0.8]
    assert precision[-1] == pytest.approx(0.8)


def test_a_desk_and_a_photograph_are_found_and_strangers_are_not(
    shared: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(places, "_FLIGHT", (240, 60))
    monkeypatch.setattr(places, "_STRANGERS", 4)
    data = shared / "data"
    desk_and_strangers = Run(
        str(data / "tum_fr1_xyz"), ["aliked+nearest", "orb"], CONFIG, tmp_path, lambda *_: None,
        limit=40,
    )  # fmt: skip
    table = evaluate_places(desk_and_strangers, strangers=str(data / "kitti_00_first40"))
    plot_places(table, tmp_path)
    assert (tmp_path / "places.png").stat().st_size > 10_000
    ours = [row for row in table.rows if row["method"] == "aliked+nearest"]
    desk = [row for row in ours if row["scene"] == "sequence"]
    assert len(desk) == 20
    assert np.mean([row["recall_100"] for row in desk]) > 0.8
    strangers = [row for row in ours if row["scene"] == "strangers"]
    assert len(strangers) == 4
    assert all(row["right"] is None for row in strangers)
    assert max(row["inliers"] for row in strangers) < min(row["inliers"] for row in desk)


def test_a_sequence_without_depth_is_refused(shared: Path, tmp_path: Path):
    with pytest.raises(SourceError, match="no depth images"):
        evaluate_places(
            Run(str(shared / "data" / "vamr_box_210"), ["orb"], CONFIG, tmp_path, lambda *_: None)
        )
