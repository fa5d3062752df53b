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

"""``evaluate homography`` and ``epipolar``: figures against geometry that is known."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("evo", reason="make setup GROUP=test")

from aliked_ros.cli.main import app
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ConfigurationError, SourceError
from aliked_ros.evaluation.epipolar import (
    Geometry,
    Lens,
    check_tracks,
    consensus,
    coverage,
    evaluate_epipolar,
    survival,
    true_geometry,
)
from aliked_ros.evaluation.homography import (
    corner_error,
    evaluate_homography,
    repeatability,
    transfer_errors,
)
from aliked_ros.evaluation.layouts import homography_pairs
from aliked_ros.evaluation.methods import METHODS, Pairs, open_methods
from aliked_ros.evaluation.run import Run
from aliked_ros.odometry.geometry import Transform
from aliked_ros.types import Features, FrameResult, Matches, Tracks

CONFIG = FrontendConfig(max_keypoints=500, matcher="nearest")
HAS_XFEAT = find_spec("kornia.feature.xfeat") is not None
SHIFT = np.array([[1.02, 0.03, -14.0], [-0.02, 0.98, 9.0], [2e-5, -1e-5, 1.0]])


def quiet(_what: str, _share: float) -> None:
    """No progress bar."""


@pytest.fixture(scope="module")
def warped(tum_images):
    """An image, and what a camera sees of it after a small motion: x2 ~ SHIFT · x1."""
    first = tum_images(0)
    height, width = first.shape[:2]
    return first, cv2.warpPerspective(first, SHIFT, (width, height), flags=cv2.INTER_CUBIC)


def test_every_method_finds_a_known_homography(warped):
    names = [name for name in METHODS if HAS_XFEAT or not name.startswith("xfeat")]
    with open_methods(names, CONFIG) as methods:
        assert [method.name for method in methods] == names
        for method in methods:
            first, second = (method.view(pixels) for pixels in warped)
            assert 300 <= len(first.features) <= 500
            found = method.match(first, second)
            errors = transfer_errors(SHIFT, found.first, found.second)
            assert len(found) > 150, method.name
            assert (errors < 3.0).mean() > 0.9, method.name
            assert corner_error(SHIFT, found.first, found.second, warped[0].shape) < 1.0
            assert repeatability(SHIFT, first, second) > 0.5, method.name
            # measured against another homography, the same matches are wrong
            wrong = SHIFT @ np.diag([1.0, 1.2, 1.0])
            assert (transfer_errors(wrong, found.first, found.second) < 3.0).mean() < 0.2
            assert corner_error(wrong, found.first, found.second, warped[0].shape) > 20.0
            assert repeatability(np.eye(3), first, first) == 1.0


@pytest.mark.skipif(not HAS_XFEAT, reason="kornia has no XFeat before 0.9 (Python 3.10 has 0.8)")
def test_xfeat_has_its_keypoints_where_they_are_in_images_of_any_size(tum_images):
    """It resizes images to multiples of 32; and takes none outside a mask."""
    from aliked_ros.evaluation.xfeat import XFeatDetector

    pixels = tum_images(0)
    detect = XFeatDetector(300)
    whole = detect(pixels).keypoints
    mask = np.zeros(pixels.shape[:2], np.uint8)
    mask[:, :320] = 1
    masked = detect(pixels, mask).keypoints
    assert len(masked) == 300
    assert masked[:, 0].max() < 320
    wider = cv2.resize(pixels, (658, 497), interpolation=cv2.INTER_AREA)
    scale = np.array([658 / 640, 497 / 480])
    there = detect(wider).keypoints
    expected = (whole + 0.5) * scale - 0.5
    distances = there[:, None] - expected
    nearest = np.linalg.norm(distances, axis=2).argmin(axis=1)
    errors = distances[np.arange(len(there)), nearest]
    close = np.linalg.norm(errors, axis=1) < 1.0
    assert close.sum() > 150
    assert np.abs(np.median(errors[close], axis=0)).max() < 0.1


def test_too_few_matches_are_no_homography():
    few = np.zeros((3, 2), np.float32)
    assert corner_error(SHIFT, few, few, (480, 640)) == np.inf
    same = np.zeros((50, 2), np.float32)
    assert corner_error(SHIFT, same, same, (480, 640)) == np.inf


def _copy_pair(shared, folder, names):
    source = shared / "data/oxford_affine/graf"
    folder.mkdir(parents=True)
    for name, target in zip(("img1.png", "img2.png", "H_1_2.txt"), names, strict=True):
        shutil.copyfile(source / name, folder / target)


@pytest.mark.parametrize(
    ("scene", "names", "kind"),
    [
        ("graf", ("img1.png", "img2.png", "H1to2p"), "viewpoint"),
        ("bark", ("img1.png", "img2.png", "H_1_2.txt"), "zoom + rotation"),
        ("v_wall", ("1.png", "2.png", "H_1_2"), "viewpoint"),
        ("i_lamp", ("1.png", "2.png", "H_1_2"), "light"),
        ("garden", ("1.png", "2.png", "H_1_2"), "other"),
    ],
)
def test_layouts_are_recognised(shared, tmp_path, scene, names, kind):
    _copy_pair(shared, tmp_path / scene, names)
    (pair,) = homography_pairs(tmp_path)
    expected = np.loadtxt(shared / "data/oxford_affine/graf/H_1_2.txt")
    np.testing.assert_array_equal(pair.homography, expected)
    assert (pair.kind, pair.first.name, pair.second.name) == (kind, names[0], names[1])
    assert len(homography_pairs(tmp_path / scene)) == 1  # one scene alone


def test_unknown_layouts_and_broken_files_are_refused(shared, tmp_path):
    with pytest.raises(SourceError, match=r"no known layout.*pairs\.txt.*HPatches"):
        homography_pairs(tmp_path)
    with pytest.raises(SourceError, match="is not a folder"):
        homography_pairs(tmp_path / "nowhere")
    (tmp_path / "pairs.txt").write_text("a.png b.png\n")
    with pytest.raises(SourceError, match=r"pairs\.txt:1 .*IMAGE1 IMAGE2 HOMOGRAPHY"):
        homography_pairs(tmp_path)
    (tmp_path / "pairs.txt").write_text("# none\n")
    with pytest.raises(SourceError, match="lists no pairs"):
        homography_pairs(tmp_path)
    (tmp_path / "pairs.txt").write_text("a.png b.png H\n")
    (tmp_path / "H").write_text("1 0 0\n0 1 0\n0 0 0\n")
    with pytest.raises(SourceError, match="is not a homography"):
        homography_pairs(tmp_path)
    with (
        pytest.raises(ConfigurationError, match=r"no method 'surf'.*aliked"),
        open_methods(["surf"], CONFIG),
    ):
        pass


def test_evaluate_homography_writes_rows_tables_and_plots(shared, tmp_path):
    data = shared / "data/oxford_affine"
    run = CliRunner().invoke(
        app, ["evaluate", "homography", str(data), "--output", str(tmp_path), "--limit", "2",
              "--methods", "aliked+nearest,orb", "--top-k", "300"],
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    assert "aliked+nearest" in run.stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert {"results.json", "rows.csv", "matching.png", "progress.jsonl"} <= names
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["facts"]["machine"]["cores"] >= 1
    config = FrontendConfig(max_keypoints=300, matcher="nearest")
    outcome = evaluate_homography(
        Run(str(data), ["aliked+nearest", "orb"], config, tmp_path, quiet, limit=2)
    )
    assert len(outcome.rows) == 4  # from the ledger
    for row in outcome.rows:
        assert row["correct"] <= row["matches"] <= 300
        assert row["mma_1"] <= row["mma_3"] <= row["mma_5"] <= 1.0


def _two_cameras():
    """Poses of two cameras (world_from_camera), and 200 points' pixels in both."""
    rng = np.random.default_rng(0)
    focal = 500.0
    turn = cv2.Rodrigues(np.array([0.02, -0.05, 0.03]))[0]
    poses = Transform.identity(), Transform(turn, np.array([0.3, 0.05, -0.1]))
    world = rng.uniform((-2, -2, 3), (2, 2, 8), (200, 3))
    local = [pose.inverse()(world) for pose in poses]
    pixels = [focal * points[:, :2] / points[:, 2:] for points in local]
    return poses, pixels, focal


def test_a_kind_of_features_counts_once_however_many_methods_use_it():
    """Three methods of one kind are wrong together; two others are right: these are believed."""
    _, (first, second), _ = _two_cameras()
    rng = np.random.default_rng(2)
    wrong = (first, second + np.array([40.0, -30.0]) + rng.normal(0.0, 0.2, second.shape))
    right = (first, second + rng.normal(0.0, 0.2, second.shape))
    believed = consensus([wrong, wrong, wrong, right, right], ["a", "a", "a", "b", "c"])
    assert np.median(believed.errors(*right)) < 0.5
    misled = consensus([wrong, wrong, wrong, right, right], ["a", "b", "c", "d", "d"])
    assert np.median(misled.errors(*wrong)) < 0.5


def test_flow_between_images_of_unequal_size(warped):
    with open_methods(["gftt+lk"], CONFIG) as (lk,):
        whole, part = lk.view(warped[0]), lk.view(warped[0][:400, :600])
        found = lk.match(whole, part)
    assert len(found) > 200
    assert (found.second <= (599, 399)).all()
    moved = np.linalg.norm(found.first - found.second, axis=1)
    assert (moved < 0.1).mean() > 0.95  # all but those at the cut


def test_true_geometry_measures_the_distance_from_the_epipolar_line():
    poses, (first, second), focal = _two_cameras()
    geometry = true_geometry(*poses, focal)
    assert geometry.errors(first, second).max() < 1e-6
    lines = cv2.computeCorrespondEpilines(first[:, None], 1, geometry.matrix)[:, 0]
    off = second + 5.0 * lines[:, :2]  # along the normal: five pixels from the line
    errors = geometry.errors(first, off)
    assert (errors > 5.0 - 1e-4).all()  # the larger of both images' distances
    back = cv2.computeCorrespondEpilines(off[:, None], 2, geometry.matrix)[:, 0]
    there = np.abs((np.c_[first, np.ones(200)] * back).sum(1))
    np.testing.assert_allclose(errors, np.maximum(there, 5.0), rtol=1e-3)
    along = second + 5.0 * np.c_[-lines[:, 1], lines[:, 0]]
    assert geometry.errors(first, along).max() < 1e-3
    assert true_geometry(poses[0], poses[0], focal) is None
    assert true_geometry(poses[0], None, focal) is None


def test_consensus_is_the_geometry_that_most_methods_share():
    _, (first, second), _ = _two_cameras()
    rng = np.random.default_rng(1)
    noisy = second + rng.normal(0.0, 0.3, second.shape)
    nonsense = (rng.uniform(-300, 300, (900, 2)), rng.uniform(-300, 300, (900, 2)))
    found = consensus([(first, noisy), nonsense, (first[::2], noisy[::2])], ["a", "b", "c"])
    assert not found.flat
    assert np.median(found.errors(first, second)) < 0.5
    assert consensus([nonsense], ["a"]) is None
    plane = cv2.perspectiveTransform(first[:, None], SHIFT)[:, 0]
    flat = consensus([(first, plane)], ["a"])
    assert flat.flat
    assert flat.errors(first, plane).max() < 0.5
    assert flat.errors(first, plane + 10.0).min() > 5.0  # also along what was the line


def _result(index: int, ids: list[int], points: list[tuple[float, float]]) -> FrameResult:
    count = len(ids)
    features = Features(
        np.array(points, np.float32).reshape(-1, 2), np.ones(count, np.float32),
        np.zeros((count, 0), np.float32), 640, 480, "made",
    )  # fmt: skip
    tracks = Tracks(np.array(ids, np.uint64), np.ones(count, np.uint32), 1)
    return FrameResult(index, float(index), features, Matches.empty(), tracks)


def test_a_track_begins_anew_where_it_is_wrong():
    """A camera that stands still, so that each point has to stay; one jumps, one goes and comes."""
    still = Geometry(np.eye(3), flat=True)
    known = {(i, j): still for i in range(6) for j in range(i + 1, 6)}
    frames = [
        _result(0, [7, 3, 5], [(10, 10), (50, 50), (90, 90)]),
        _result(1, [3, 7, 5], [(50, 51), (10, 10), (90, 90)]),
        _result(2, [3, 7], [(70, 50), (10, 10)]),  # 3 jumps; 5 is out of sight
        _result(3, [5, 3, 7, 9], [(90, 90), (70, 50), (11, 10), (1, 1)]),
        _result(4, [7], [(14.5, 10)]),  # crept away from where it was, not from where it is
    ]
    rows = list(check_tracks(frames, Lens(None), known))
    assert [row["tracked_2"] for row in rows] == [0, 3, 1, 3, 0]
    assert [row["right"] for row in rows] == [None, 1.0, 0.5, 1.0, 0.0]
    assert rows[3]["ages"] == [0, 1, 1, 1, 1]  # the new one, 3 since its jump, 5 and 7
    assert rows[3]["age"] == 3.0


def test_coverage_counts_cells_with_a_correct_match():
    second = np.array([(0, 0), (639, 479), (639, 0), (10, 10)], np.float32)
    pairs = Pairs(second, second, np.ones(4, np.float32))
    right = np.array([True, True, False, True])
    assert coverage(pairs, right, (480, 640)) == 2 / 48


def test_evaluate_epipolar_judges_pairs_and_tracks(shared, tmp_path):
    source = str(shared / "data/tum_fr1_xyz")
    methods = ["aliked+nearest", "gftt+lk"]
    nine = Run(source, methods, CONFIG, tmp_path, quiet, limit=9)
    pairs, tracks = evaluate_epipolar(nine, gaps=[1, 5])
    assert len(pairs.rows) == 2 * (8 + 4)
    assert len(tracks.rows) == 2 * 9
    for row in pairs.rows:
        assert row["precision_3"] > 0.8
        assert row["true_precision_3"] > 0.6
        assert 0.2 < row["coverage"] <= 1.0
    for method in methods:
        curve = survival(tracks, method)
        assert (np.diff(curve) <= 1e-9).all()  # over more images never more points
        assert curve[5] > 100
    again, _ = evaluate_epipolar(nine, gaps=[1, 5])
    assert again.rows == pairs.rows
    with pytest.raises(SourceError, match="gave 5 images; the largest gap is 5"):
        evaluate_epipolar(replace(nine, limit=5), gaps=[5])


def test_a_mask_holds_for_every_method(shared, tmp_path):
    source = str(shared / "data/realsense_desk/rgb")
    first = cv2.imread(str(sorted((shared / "data/realsense_desk/rgb").iterdir())[0]))
    mask = np.zeros(first.shape[:2], np.uint8)
    mask[:100, :100] = 255  # with room for few features
    cv2.imwrite(str(tmp_path / "mask.png"), mask)

    def keypoints(name: str, *options: str) -> dict[str, float]:
        run = CliRunner().invoke(
            app, ["evaluate", "epipolar", source, "--output", str(tmp_path / name), "--limit", "3",
                  "--gap", "1", "--methods", "orb,gftt+lk,aliked+adaptive", "--json", *options],
        )  # fmt: skip
        assert run.exit_code == 0, run.output
        assert ("mask" in json.loads(run.stdout)["pairs"]["facts"]) == bool(options)
        with (tmp_path / name / "pairs_rows.csv").open() as file:
            return {row["method"]: float(row["keypoints"]) for row in csv.DictReader(file)}

    masked = keypoints("masked", "--mask", str(tmp_path / "mask.png"), "--mask-static")
    whole = keypoints("whole")
    assert len(whole) == 3
    assert all(masked[method] < 0.7 * whole[method] for method in whole)


def test_a_sequence_without_ground_truth_is_judged_by_consensus(shared, tmp_path):
    source = str(shared / "data/realsense_desk/rgb")
    run = CliRunner().invoke(
        app, ["evaluate", "epipolar", source, "--output", str(tmp_path), "--limit", "6", "--gap",
              "1,2", "--methods", "orb,gftt+lk", "--json"],
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    content = json.loads(run.stdout)
    assert not content["pairs"]["facts"]["true_poses"]
    assert "true_precision_3" not in {m["key"] for m in content["pairs"]["metrics"]}
    names = {path.name for path in tmp_path.iterdir()}
    assert {"pairs_rows.csv", "tracks_results.json", "survival.png", "pairs.png"} <= names
    bad = CliRunner().invoke(app, ["evaluate", "epipolar", source, "--gap", "1,x"])
    assert bad.exit_code == 2
