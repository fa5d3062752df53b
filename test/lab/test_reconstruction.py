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

"""``evaluate reconstruction``: COLMAP's model is what the figures say it is."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("pycolmap", reason="make setup GROUP=test")
pytest.importorskip("evo", reason="make setup GROUP=test")

import pycolmap

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError, ConfigurationError, SourceError
from aliked_ros.evaluation.reconstruction import (
    METRICS,
    evaluate_reconstruction,
    plot_reconstruction,
)
from aliked_ros.evaluation.result_table import ResultTable
from aliked_ros.evaluation.run import Run
from aliked_ros.exporting.mapping import reconstruct
from helpers.data import copy_sequence

CONFIG = FrontendConfig(max_keypoints=300, matcher="nearest")
BY_NAME = {metric.name: metric for metric in METRICS}


def evaluate(
    sequence: Path, output: Path, *names: str, limit: int | None = None, **options
) -> ResultTable:
    return evaluate_reconstruction(
        Run(str(sequence), names, CONFIG, output, lambda *_: None, limit), **options
    )


@pytest.fixture(scope="module")
def run(shared, tmp_path_factory) -> tuple[ResultTable, Path]:
    """Tracks alone (gftt+lk) and with matches (orb): 10 of 60 images."""
    folder = tmp_path_factory.mktemp("run")
    sequence = shared / "data" / "tum_fr1_xyz"
    return evaluate(sequence, folder, "orb", "gftt+lk", limit=60, every=6), folder


def similarity_residuals(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Distances after the least-squares similarity (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, d, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation, scale = u @ sign @ vt, (d * np.diag(sign)).sum() / (a**2).sum()
    return np.linalg.norm(scale * a @ rotation.T - b, axis=1)


@pytest.mark.parametrize(("method", "name"), [("orb", "orb"), ("gftt+lk", "gftt_lk")])
def test_the_figures_are_those_of_the_model_on_disk(run, shared, method, name):
    outcome, folder = run
    model = pycolmap.Reconstruction(folder / f"colmap_{name}" / "sparse")
    value = {key: outcome.estimate(metric, method).value for key, metric in BY_NAME.items()}
    assert value["registered"] == model.num_reg_images() / 10 == 1.0
    assert value["points"] == model.num_points3D() > 100
    assert value["reprojection_px"] == pytest.approx(model.compute_mean_reprojection_error())
    assert 2.0 <= value["track_length"] <= 10.0  # of 10 images, however often one shows a point
    assert value["track_length"] <= model.compute_mean_track_length() + 1e-9
    (camera,) = model.cameras.values()
    assert camera.params[0] == pytest.approx(517.306408)  # it stays as it was calibrated
    rows = np.loadtxt(shared / "data" / "tum_fr1_xyz" / "groundtruth_tum.txt")
    images = sorted(model.images.values(), key=lambda image: image.name)
    stamps = [float(image.name.removesuffix(".png")) for image in images]
    truth = [rows[np.abs(rows[:, 0] - stamp).argmin(), 1:4] for stamp in stamps]
    centres = np.array([image.projection_center() for image in images])
    errors = 100 * similarity_residuals(centres, np.array(truth))
    assert value["centre_cm_rms"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-3)
    assert value["centre_cm_median"] == pytest.approx(np.median(errors), rel=1e-3)
    assert value["centre_cm_rms"] < 3.0


def test_all_methods_have_the_same_pairs_to_match(run):
    outcome, folder = run
    assert outcome.facts["pairs"] == 9 + 8 + 6 + 2  # 1, 2, 4, 8 apart
    for name in ("orb", "gftt_lk"):
        with pycolmap.Database.open(folder / f"colmap_{name}" / "database.db") as database:
            pairs = {pycolmap.pair_id_to_image_pair(one) for one in database.read_all_matches()[0]}
        assert {abs(a - b) for a, b in pairs} <= {1, 2, 4, 8}
    plot_reconstruction(outcome, folder)
    assert (folder / "reconstruction.png").stat().st_size > 10_000


def test_without_ground_truth_there_is_all_but_the_centre_error(shared, tmp_path):
    (tmp_path / "untrue").mkdir()
    sequence = shared / "data" / "tum_fr1_xyz"
    folder = copy_sequence(sequence, tmp_path / "untrue", "frames.csv", "calib.json")
    outcome = evaluate(folder, tmp_path / "out", "gftt+lk", limit=40, every=8)
    plot_reconstruction(outcome, tmp_path / "out")
    assert outcome.estimate(BY_NAME["registered"], "gftt+lk").value == 1.0
    assert not outcome.estimate(BY_NAME["centre_cm_rms"], "gftt+lk").units
    assert "There is no ground truth: no centre error." in outcome.as_text()


def test_images_that_give_no_model_have_rows_that_say_so(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):  # of nothing, and of something else each
        noise = cv2.resize(rng.integers(0, 255, (60, 80), np.uint8), (640, 480))
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), noise)
    camera = {"width": 640, "height": 480, "fx": 500.0, "fy": 500.0, "cx": 320.0, "cy": 240.0}
    (tmp_path / "calib.json").write_text(json.dumps(camera))
    outcome = evaluate(tmp_path, tmp_path / "out", "orb", "gftt+lk", every=1)
    for name in outcome.methods:
        assert outcome.estimate(BY_NAME["registered"], name).value == 0.0
        assert f"{name} failed: COLMAP finds no model" in outcome.as_text()


def test_a_mapper_that_fails_or_hangs_is_an_error_of_one_line(run, tmp_path):
    with pytest.raises(BackendError, match="ended with status"):
        reconstruct(tmp_path / "nothing" / "database.db", tmp_path / "sparse")
    database = run[1] / "colmap_orb" / "database.db"
    with pytest.raises(BackendError, match=r"took longer than 0 s.*fewer images"):
        reconstruct(database, tmp_path / "sparse", timeout=0.01)


def test_what_is_missing_is_named(shared, tmp_path):
    data = shared / "data"
    with pytest.raises(ConfigurationError, match="every is 0"):
        evaluate(data / "tum_fr1_xyz", tmp_path, "orb", every=0)
    with pytest.raises(SourceError, match="at least 3"):
        evaluate(data / "tum_fr1_xyz", tmp_path, "orb", limit=6, every=3)
    with pytest.raises(SourceError, match="calibration"):
        evaluate(data / "realsense_desk" / "rgb", tmp_path / "out", "orb")
