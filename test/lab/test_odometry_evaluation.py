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

"""``evaluate odometry``: its figures are evo's, what fails has a row, what it cannot do it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers import ROOT
from helpers.data import copy_sequence

pytest.importorskip("pycolmap", reason="make setup GROUP=test")
pytest.importorskip("evo", reason="make setup GROUP=test")

from evo.core import metrics, sync
from evo.tools import file_interface

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ConfigurationError, SourceError
from aliked_ros.evaluation.odometry import (
    METRICS,
    TRUTH,
    evaluate_odometry,
    plot_odometry,
)
from aliked_ros.evaluation.result_table import ResultTable
from aliked_ros.evaluation.run import Run
from aliked_ros.evaluation.sequences import offered_mode

CONFIG = FrontendConfig(max_keypoints=400, matcher="nearest")
POSED, ATE, RPE = METRICS


def evaluate(
    sequence: Path, output: Path, *names: str, limit: int | None = None, **options
) -> ResultTable:
    return evaluate_odometry(
        Run(str(sequence), names, CONFIG, output, lambda *_: None, limit), **options
    )


@pytest.fixture(scope="module")
def run(shared, tmp_path_factory) -> tuple[ResultTable, Path]:
    """The peers that take a second, on 30 images with depth."""
    folder = tmp_path_factory.mktemp("run")
    sequence = shared / "data" / "tum_fr1_xyz"
    return evaluate(sequence, folder, "orb", "gftt+lk", limit=30, first=5), folder


def test_the_figures_are_those_of_evo_on_the_files_that_are_written(run):
    outcome, folder = run
    for method, name in (("orb", "orb"), ("gftt+lk", "gftt_lk")):
        truth = file_interface.read_tum_trajectory_file(folder / TRUTH)
        assert truth.num_poses == 25
        found = file_interface.read_tum_trajectory_file(folder / f"odometry_{name}.txt")
        assert found.num_poses == 30
        truth, found = sync.associate_trajectories(truth, found)
        found.align(truth)
        for metric, figure in ((metrics.APE, ATE), (metrics.RPE, RPE)):
            error = metric(metrics.PoseRelation.translation_part)
            error.process_data((truth, found))
            rmse = 100 * error.get_statistic(metrics.StatisticsType.rmse)
            estimate = outcome.estimate(figure, method)
            assert estimate.value == pytest.approx(rmse, rel=1e-6)
            assert estimate.low < estimate.value < estimate.high
        assert outcome.estimate(POSED, method).value == 1.0
        assert outcome.estimate(ATE, method).value < 5.0  # cm


def test_pictures_and_tables_are_written_and_a_second_run_measures_nothing_again(run, shared):
    outcome, folder = run
    plot_odometry(outcome, folder)
    names = {path.name for path in folder.iterdir()}
    assert {"results.json", "rows.csv", "trajectories.png", "odometry_orb.txt", TRUTH} <= names
    assert outcome.facts["mode"] == "rgbd"
    before = (folder / "odometry_orb.txt").stat().st_mtime_ns
    sequence = shared / "data" / "tum_fr1_xyz"
    again = evaluate(sequence, folder, "orb", "gftt+lk", limit=30, first=5)
    assert again.rows == outcome.rows
    assert (folder / "odometry_orb.txt").stat().st_mtime_ns == before


def test_where_nothing_moves_each_method_has_a_row_that_says_so(shared, tmp_path):
    outcome = evaluate(shared / "data" / "vamr_box_210", tmp_path, "orb", "gftt+lk", limit=12)
    assert outcome.facts["mode"] == "mono"
    plot_odometry(outcome, tmp_path)
    assert [outcome.estimate(POSED, name).value for name in outcome.methods] == [0.0, 0.0]
    assert not outcome.estimate(ATE, "orb").units
    assert "orb failed: the back-end found no pose" in outcome.as_text()


def test_a_sequence_is_evaluated_by_the_best_that_it_offers(shared):
    modes = {
        name: offered_mode(str(shared / "data" / name))
        for name in ("tum_fr1_xyz", "kitti_00_first40", "vamr_box_210")
    }
    assert list(modes.values()) == ["rgbd", "stereo", "mono"]


def test_what_is_missing_is_named(shared, tmp_path):
    data = shared / "data"
    output = tmp_path / "out"
    with pytest.raises(SourceError, match="has no calibration"):
        evaluate(data / "realsense_desk" / "rgb", output, "orb")
    with pytest.raises(SourceError, match="image"):  # and the layouts that are known
        evaluate(data / "oxford_affine", output, "orb")
    with pytest.raises(SourceError, match="depth"):
        evaluate(data / "kitti_00_first40", output, "orb", mode="rgbd")
    with pytest.raises(ConfigurationError, match="mode is 'fisheye'"):
        evaluate(data / "kitti_00_first40", output, "orb", mode="fisheye")
    with pytest.raises(SourceError, match="at least 10"):
        evaluate(data / "kitti_00_first40", output, "orb", limit=5)
    sequence = data / "tum_fr1_xyz"
    (tmp_path / "untrue").mkdir()
    folder = copy_sequence(sequence, tmp_path / "untrue", "frames.csv", "calib.json")
    with pytest.raises(SourceError, match="no known ground truth"):
        evaluate(folder, output, "orb", mode="mono", limit=20)
    with pytest.raises(ConfigurationError, match="nothing"):
        evaluate(sequence, output, "nothing", limit=20)
    assert np.all([not output.exists() or not list(output.glob("odometry_*"))])


def test_a_camera_that_rolls_fast_keeps_its_place(shared, tmp_path):
    """Every third image of fr1_xyz, turned by 12 degrees each: no pose jumps to and fro."""
    sequence = tmp_path / "turned"
    tool = [sys.executable, ROOT / "tools" / "turn_sequence.py"]
    source = shared / "data" / "tum_fr1_xyz"
    subprocess.run([*tool, source, sequence], check=True, capture_output=True)
    outcome = evaluate(sequence, tmp_path / "output", "aliked+lightglue", limit=20)
    assert outcome.estimate(POSED, "aliked+lightglue").value == 1.0
    assert outcome.estimate(RPE, "aliked+lightglue").value < 2.0  # cm; 3.5 with teeth
