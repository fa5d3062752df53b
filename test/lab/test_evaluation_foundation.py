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

"""What evaluations rest on: intervals, tables, the ledger that resumes, true poses."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from helpers.euroc import BASELINE, START, write_euroc

pytest.importorskip("evo", reason="make setup GROUP=test")

from evo.core.trajectory import PoseTrajectory3D

from aliked_ros.errors import OutputError, SourceError
from aliked_ros.evaluation.ledger import FILE, Ledger, Unit
from aliked_ros.evaluation.poses import has_truth, true_poses
from aliked_ros.evaluation.result_table import Metric, ResultTable
from aliked_ros.evaluation.statistics import area_under_recall, difference_of, mean_of
from aliked_ros.evaluation.trajectories import align, compare_common, key_of, trajectory
from aliked_ros.io.messages import seconds, whole_nanoseconds
from aliked_ros.odometry.geometry import Transform


def test_an_interval_holds_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = [
        estimate.low <= 3.0 <= estimate.high
        for estimate in (mean_of(rng.normal(3.0, 2.0, 40)) for _ in range(200))
    ]
    assert 0.90 <= np.mean(held) <= 0.99
    assert mean_of([]).units == 0
    assert np.isnan(mean_of([np.nan]).value)
    assert mean_of([1.0, np.nan, 3.0]).value == 2.0


def test_neighbours_that_depend_on_each_other_widen_the_interval():
    values = np.repeat(np.random.default_rng(0).normal(0.0, 1.0, 12), 10)
    alone, together = mean_of(values), mean_of(values, blocks=10)
    assert together.high - together.low > 2.0 * (alone.high - alone.low)


def test_few_units_do_not_pretend_to_be_certain():
    """As many units as a block has: the whole sequence drawn again and again would be no sample."""
    values = np.random.default_rng(0).normal(0.0, 1.0, 30)
    assert mean_of(values, blocks=30).high - mean_of(values, blocks=30).low > 0.3
    rows = [
        {"unit": f"{i} {gap}", "method": "m", "gap": gap, "x": float(values[i])}
        for i in range(30)
        for gap in (1, 5)
    ]
    outcome = ResultTable({}, rows, [Metric("x", "x")], ["m"], ("gap",), 1, whole_blocks=10)
    whole = outcome.estimate(outcome.metrics[0], "m")
    part = outcome.estimate(outcome.metrics[0], "m", outcome.parts()[1][1])
    assert part == mean_of(values, blocks=1)
    assert whole == mean_of(np.repeat(values, 2), blocks=10)


def test_a_paired_difference_is_seen_where_the_means_alone_overlap():
    rng = np.random.default_rng(0)
    hardness = rng.normal(100.0, 50.0, 40)  # of the pairs, the same for both
    ours, others = hardness + rng.normal(5.0, 2.0, 40), hardness
    assert mean_of(ours).low < mean_of(others).high
    assert 3.5 < difference_of(ours, others).low < 5.0 < difference_of(ours, others).high < 6.5


def test_other_statistics_than_the_mean_are_bootstrapped_alike():
    rng = np.random.default_rng(1)
    held = {"rms": 0, "median": 0}
    for _ in range(100):
        values = rng.normal(3.0, 2.0, 60)
        for statistic, truth in (("rms", np.sqrt(13.0)), ("median", 3.0)):
            estimate = mean_of(values, statistic=statistic)
            held[statistic] += estimate.low <= truth <= estimate.high
    assert min(held.values()) >= 88
    errors = np.array([3.0, 4.0, np.nan])
    assert mean_of(errors, statistic="rms").value == np.sqrt(12.5)
    assert mean_of([1.0, 2.0, 9.0], statistic="median").value == 2.0
    gap = difference_of(errors, [0.0, 1.0, 5.0], statistic="rms")
    assert (gap.value, gap.units) == (np.sqrt(12.5) - np.sqrt(0.5), 2)


def test_area_under_recall_is_the_integral_of_the_recall():
    errors = np.array([0.5, 1.0, 2.5, 7.0, np.nan, np.inf])
    limits = np.linspace(0.0, 5.0, 50_001)
    recall = [(errors <= limit).mean() for limit in limits]
    expected = np.trapezoid(recall, limits) / 5.0
    assert abs(area_under_recall(errors, 5.0).mean() - expected) < 1e-4


def _rows(method: str, values: list[float | None]) -> list[dict]:
    return [
        {"unit": str(i), "method": method, "kind": "even" if i % 2 == 0 else "odd", "score": value}
        for i, value in enumerate(values)
    ]


def test_a_table_says_who_is_ahead_beyond_chance(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.normal(0.5, 0.2, 60)
    rows = (
        _rows("ours", base.tolist())
        + _rows("worse", (base - 0.1).tolist())
        + _rows("better", (base + 0.1).tolist())
        + _rows("same", (base + rng.normal(0.0, 0.02, 60)).tolist())
        + _rows("fails", [None] * 60)
    )
    methods = ["ours", "worse", "better", "same", "fails"]
    metric = Metric("score", "score", percent=True)
    outcome = ResultTable({"data": "made"}, rows, [metric], methods, groups=("kind",))
    table = {line.split(" | ")[0]: line for line in outcome.as_text().splitlines()[:7]}
    assert "**" in table["| worse"]
    assert "_" in table["| better"]
    assert "*" not in table["| same"] + table["| ours"]
    assert "_" not in table["| same"] + table["| ours"]
    assert table["| fails"] == "| fails | – |"
    assert [name for name, _ in outcome.parts()] == ["all", "kind even", "kind odd"]
    outcome.write(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    found = content["parts"]["all"]["worse"]["score"]
    assert abs(found["first_minus_this"]["value"] - 0.1) < 1e-9
    assert content["parts"]["all"]["fails"]["score"]["estimate"]["value"] is None
    with (tmp_path / "rows.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_units_that_are_done_are_not_run_again(tmp_path):
    runs = []

    def unit(number: int) -> Unit:
        def run() -> list[dict]:
            runs.append(number)
            return [{"unit": str(number), "method": "m", "value": number / 3}]

        return Unit(f"unit {number}", run)

    question = {"data": "d", "top_k": 1000}
    with Ledger(tmp_path, question) as ledger:
        first = ledger.measure([unit(0), unit(1)], lambda _share: None)
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"unit": "unit 2", "rows": [{"unit": "2"')  # killed while it wrote
    with Ledger(tmp_path, question) as ledger:
        assert ledger.resumed == 2
        rows = ledger.measure([unit(0), unit(1), unit(2)], lambda _share: None)
    assert runs == [0, 1, 2]
    assert rows[:2] == first
    with Ledger(tmp_path, question) as ledger:
        assert ledger.resumed == 3
    with pytest.raises(OutputError, match=r"differs in top_k \(1000, now 500\).*--restart"):
        Ledger(tmp_path, question | {"top_k": 500})
    with Ledger(tmp_path, question | {"top_k": 500}, restart=True) as ledger:
        assert ledger.resumed == 0
        with pytest.raises(ValueError, match="two units are called 'unit 3'"):
            ledger.measure([unit(3), unit(3)], lambda _share: None)


def test_a_killed_evaluation_goes_on_where_it_was(shared, tmp_path):
    """SIGKILL in the middle; the second run's figures are those of one that nobody disturbed."""

    def command(name: str) -> list[str]:
        return [
            sys.executable, "-m", "aliked_ros.cli", "evaluate", "homography",
            str(shared / "data/oxford_affine"), "--output", str(tmp_path / name),
            "--methods", "orb,sift", "--limit", "6",
        ]  # fmt: skip

    progress = tmp_path / "killed" / FILE
    with subprocess.Popen(command("killed"), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300.0
        while not progress.exists() or progress.read_bytes().count(b"\n") < 3:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    done = progress.read_bytes().splitlines(keepends=True)[:3]
    outputs = [
        subprocess.run(command(name), capture_output=True, text=True, check=True).stdout
        for name in ("killed", "whole")
    ]
    assert outputs[0] == outputs[1]
    assert progress.read_bytes().splitlines(keepends=True)[:3] == done
    rows = [(tmp_path / name / "rows.csv").read_text() for name in ("killed", "whole")]
    assert rows[0] == rows[1]


def test_true_poses_are_interpolated_and_holes_are_none(tmp_path):
    lines = ["# stamp x y z qx qy qz qw"]
    for stamp, angle in ((0.0, 0.0), (0.05, 10.0), (1.0, 20.0), (1.05, 30.0)):
        turn = Rotation.from_euler("z", angle, degrees=True).as_quat()
        lines.append(" ".join(map(str, (stamp, 2.0 * stamp, 0.0, 0.0, *turn))))
    lines.append("1.06 nan nan nan nan nan nan nan")
    (tmp_path / "groundtruth.txt").write_text("\n".join(lines))
    start, middle, hole, late, after = true_poses(str(tmp_path), [0.0, 0.025, 0.5, 1.05, 1.2])
    assert start.translation[0] == 0.0
    np.testing.assert_allclose(middle.translation, (0.05, 0.0, 0.0))
    expected = Rotation.from_euler("z", 5.0, degrees=True).as_matrix()
    np.testing.assert_allclose(middle.rotation, expected, atol=1e-9)
    assert (hole, after) == (None, None)
    np.testing.assert_allclose(late.translation, (2.1, 0.0, 0.0))


def test_poses_of_kitti_are_those_of_the_tum_file(shared):
    folder = shared / "data/kitti_00_first40"
    times = np.loadtxt(folder / "times.txt")[:40]
    matrices = np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)
    for pose, matrix in zip(true_poses(str(folder), times), matrices, strict=True):
        np.testing.assert_allclose(pose.rotation, matrix[:, :3], atol=1e-5)
        np.testing.assert_allclose(pose.translation, matrix[:, 3], atol=1e-5)


def test_a_sequence_without_ground_truth_says_what_would_be_one(tmp_path):
    assert not has_truth(str(tmp_path))
    with pytest.raises(SourceError, match=r"no known ground truth.*groundtruth\.txt.*poses\.txt"):
        true_poses(str(tmp_path), [0.0])
    (tmp_path / "groundtruth.txt").write_text("1 2 3\n")
    with pytest.raises(SourceError, match=r"has 3 numbers a line.*qx qy qz qw"):
        true_poses(str(tmp_path), [0.0])


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("groundtruth.txt", "0 1 2 3 0 0 0 0", "quaternion .* length is not 1"),
        ("groundtruth.txt", "0 1 2 3 4 5 6 7", "quaternion .* length is not 1"),
        ("groundtruth.txt", "1305031102175304000 1 2 3 0 0 0 1", "stamps must be in seconds"),
        ("groundtruth.txt", "nan 1 2 3 0 0 0 1", "holds no pose"),
        ("poses.txt", "0 0 0 0 0 0 0 0 0 0 0 0", "not a rotation and a translation"),
        ("poses.txt", "1 0 0 0 0 1 0 0 0 0 -1 0", "not a rotation and a translation"),
        ("poses.txt", "nan 0 0 0 0 1 0 0 0 0 1 0", "holds no pose"),
    ],
)
def test_poses_that_are_none_are_refused(tmp_path, name, line, message):
    (tmp_path / "times.txt").write_text("0.0\n")
    (tmp_path / name).write_text(f"{line}\n")
    with pytest.raises(SourceError, match=message) as refused:
        true_poses(str(tmp_path), [0.0])
    assert name in str(refused.value)


def same(found: Transform | None, truth: Transform) -> None:
    assert found is not None
    np.testing.assert_allclose(found.rotation, truth.rotation, atol=1e-6)
    np.testing.assert_allclose(found.translation, truth.translation, atol=1e-6)


def turned(*angles: float) -> np.ndarray:
    return Rotation.from_euler("xyz", angles).as_matrix()


@pytest.mark.parametrize("given", ["", "mav0", "mav0/cam0"])
def test_poses_of_euroc_are_those_of_cam0(shared, tmp_path, given):
    """Published are the body's; stereo pairs are rectified, which turns the camera."""
    write_euroc(shared / "data/kitti_00_first40", tmp_path)
    body = [Transform(turned(0.1 * i, 0.2, -0.1 * i), np.array([i, 2.0 * i, -1.0])) for i in (0, 1)]
    folder = tmp_path / "mav0" / "state_groundtruth_estimate0"
    folder.mkdir()
    lines = ["#timestamp, p_RS_R_x [m], p_RS_R_y [m], ..., b_a_RS_S_z [m s^-2]"]
    stamps = [START, START + 50_000_000]
    for stamp, pose in zip(stamps, body, strict=True):
        x, y, z, w = Rotation.from_matrix(pose.rotation).as_quat()
        numbers = [*pose.translation, w, x, y, z, *np.zeros(9)]
        lines.append(",".join([str(stamp), *map(str, numbers)]))
    (folder / "data.csv").write_text("\ufeff" + "\n".join(lines) + "\n")
    mounts = []
    for camera in ("cam0", "cam1"):
        text = (tmp_path / "mav0" / camera / "sensor.yaml").read_text().removeprefix("%YAML:1.0")
        matrix = np.reshape(yaml.safe_load(text)["T_BS"]["data"], (4, 4))
        mounts.append(Transform(matrix[:3, :3], matrix[:3, 3]))
    seconds = [stamp / 1e9 for stamp in stamps]
    raw = true_poses(str(tmp_path / given), seconds)
    for found, pose in zip(raw, body, strict=True):
        same(found, pose @ mounts[0])
    rectified = true_poses(str(tmp_path / given), seconds, rectified=True)
    for found, pose in zip(rectified, body, strict=True):
        right = (pose @ mounts[1]).translation
        place = found.inverse()(right[None])[0]
        np.testing.assert_allclose(place, [BASELINE, 0.0, 0.0], atol=1e-6)


def test_poses_of_kitti_are_read_where_they_are_published(shared, tmp_path):
    given = shared / "data/kitti_00_first40"
    sequence = tmp_path / "sequences" / "07"
    sequence.mkdir(parents=True)
    (tmp_path / "poses").mkdir()
    shutil.copyfile(given / "poses.txt", tmp_path / "poses" / "07.txt")
    for name in ("times.txt", "calib.txt"):
        shutil.copyfile(given / name, sequence / name)
    times = np.loadtxt(given / "times.txt")[:40]
    grey = true_poses(str(given), times)
    (sequence / "image_0").symlink_to(given / "image_0")
    for found, pose in zip(true_poses(str(sequence), times), grey, strict=True):
        same(found, pose)
    (sequence / "image_0").unlink()  # the colour camera is 6 cm beside the grey one
    (sequence / "image_2").symlink_to(given / "image_0")
    (sequence / "calib.txt").write_text("P2: 718 0 607 45 0 718 185 -0.1 0 0 1 0.005\n")
    for found, pose in zip(true_poses(str(sequence), times), grey, strict=True):
        place = pose.inverse()(found.translation[None])[0]
        np.testing.assert_allclose(place, [-(45 - 607 * 0.005) / 718, 0.0014, -0.005], atol=1e-4)


def test_a_stamp_is_the_same_before_and_after_a_message(shared):
    times = np.loadtxt(shared / "data/kitti_00_first40/times.txt")
    rng = np.random.default_rng(0)
    for stamp in [*times, 2.5935e-1 + 5e-7, -0.25, *rng.uniform(1.3e9, 1.8e9, 2000)]:
        whole = whole_nanoseconds(stamp)
        sec, nanosec = divmod(whole, 1_000_000_000)
        after = seconds(SimpleNamespace(sec=sec, nanosec=nanosec))
        assert key_of(after) == key_of(stamp)
        assert key_of(float(key_of(abs(stamp)))) == key_of(abs(stamp))  # through a file's name


def test_methods_are_compared_on_the_images_that_all_of_them_have():
    """A drift that grows: who stops half-way is not ahead, and one with ten poses takes no part."""
    stamps = [i / 30 for i in range(100)]
    path = [np.array([np.sin(i / 9), np.cos(i / 7), i / 50]) for i in range(100)]
    truth = trajectory(stamps, [Transform(np.eye(3), place) for place in path])

    def method(images: range, scale: float = 1.0) -> PoseTrajectory3D:
        drift = [np.array([scale * (i / 100) ** 2, 0.0, 0.0]) for i in range(100)]
        cameras = [Transform(np.eye(3), path[i] + drift[i]) for i in images]
        return trajectory([stamps[i] for i in images], cameras)

    found = {
        "whole": method(range(100)),
        "half": method(range(60), 1.2),
        "little": method(range(10)),
    }
    aligned, common = compare_common(truth, found, dict.fromkeys(found, True))
    assert common == 60
    assert set(aligned) == {"whole", "half"}
    assert aligned["half"].ate == pytest.approx(1.2 * aligned["whole"].ate, rel=0.05)
    assert align(truth, found["whole"], True).ate > align(truth, found["half"], True).ate
