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

"""The command line, run as a user runs it: a process of its own, on real images."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from aliked_ros.io.results import SUMMARY, TRACKS, VIDEO
from aliked_ros.sources.virtual import VirtualCamera

COMMANDS = (
    "extract", "match", "track", "export", "doctor", "bench", "demo", "soak", "view", "report",
    "batch", "models list", "models fetch", "models build", "vocabulary train", "vocabulary test",
    "map info", "map merge", "map prune", "map show", "evaluate places", "bench places",
)  # fmt: skip
PROGRAM = [sys.executable, "-m", "aliked_ros.cli"]


def run(
    *arguments: str | Path, status: int = 0, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command; its exit status must be the one expected."""
    command = [*PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == status, done.stderr
    return done


def refused(*arguments: str | Path, **options: Any) -> str:
    """The one line that a command says about bad input."""
    done = run(*arguments, status=2, **options)
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert line.startswith("error: ")
    assert "Traceback" not in done.stderr
    return line


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of the virtual camera as files; its ground truth is known."""
    folder = tmp_path_factory.mktemp("images")
    camera = VirtualCamera(noise=0.5)
    for index in range(5):
        pixels = camera.render(8 * index).pixels
        assert cv2.imwrite(str(folder / f"{index}.png"), pixels[..., ::-1])
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_json(command: str) -> None:
    text = run(*command.split(), "--help").stdout
    assert f"Example: aliked_ros {command}" in " ".join(text.split())
    assert ("--json" in text) == (command != "view")


def test_help_loads_nothing_heavy() -> None:
    """So that it comes at once."""
    code = "import runpy, sys; sys.argv = ['aliked_ros', '--help']\n"
    code += "try: runpy.run_module('aliked_ros.cli', run_name='__main__')\n"
    code += "finally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "evaluate" in done.stdout
    loaded = set(done.stderr.split())
    assert "aliked_ros.cli" in loaded
    assert not loaded & {"numpy", "cv2", "openvino", "rclpy", "torch", "scipy", "matplotlib"}


def test_extract(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "features.npz"
    facts = json.loads(
        run("extract", images / "0.png", "--top-k", "300", "--output", output, "--json").stdout
    )
    arrays = np.load(output)
    assert facts["features"] == len(arrays["keypoints"]) == 300
    assert arrays["keypoints"].shape == (300, 2)
    assert arrays["descriptors"].shape == (300, 128)
    assert ((arrays["scores"] > 0) & (arrays["scores"] <= 1)).all()
    assert np.linalg.norm(arrays["descriptors"], axis=1) == pytest.approx(1.0, abs=1e-3)
    assert (arrays["keypoints"] >= 0).all()
    assert (arrays["keypoints"] <= [639, 479]).all()
    assert [file.name for file in output.parent.iterdir()] == ["features.npz"]


def test_extract_threshold_and_small_model(images: Path) -> None:
    def count(*options: str) -> dict[str, Any]:
        arguments = ("extract", images / "0.png", "--model", "aliked-t16", "--json", *options)
        return dict(json.loads(run(*arguments).stdout))

    everything, strong = count(), count("--threshold", "0.5")
    assert everything["dimension"] == 64
    assert 0 < strong["features"] < everything["features"]


@pytest.mark.parametrize("matcher", ["lightglue", "nearest"])
def test_matches_agree_with_the_ground_truth(images: Path, tmp_path: Path, matcher: str) -> None:
    picture, npz = tmp_path / "matches.png", tmp_path / "matches.npz"
    options = ["--matcher", matcher, "--top-k", "500", "--output", picture, "--npz", npz, "--json"]
    facts = json.loads(run("match", images / "0.png", images / "2.png", *options).stdout)
    arrays = np.load(npz)
    matches = arrays["matches"]
    assert facts["inliers"] == len(matches) == len(arrays["scores"]) > 200
    first = np.column_stack([arrays["keypoints0"][matches[:, 0]], np.ones(len(matches))])
    expected = VirtualCamera().homography_between(0, 16) @ first.T
    error = (expected[:2] / expected[2]).T - arrays["keypoints1"][matches[:, 1]]
    assert (np.hypot(*error.T) < 3.0).mean() > 0.95
    run("match", images / "0.png", images / "2.png", *options, "--all")
    assert len(np.load(npz)["matches"]) == facts["matches"] >= facts["inliers"]
    assert cv2.imread(str(picture)).shape == (480, 1280, 3)


def test_an_image_on_its_side_is_matched_turned(images: Path, tmp_path: Path) -> None:
    side, npz = tmp_path / "side.png", tmp_path / "matches.npz"
    cv2.imwrite(str(side), cv2.rotate(cv2.imread(str(images / "2.png")), cv2.ROTATE_180))
    options = ("--top-k", "500", "--npz", npz, "--json")
    facts = json.loads(run("match", images / "0.png", side, *options).stdout)
    assert facts["turned_degrees"] == 180
    arrays = np.load(npz)
    first, second = (arrays[f"keypoints{i}"][arrays["matches"][:, i]] for i in (0, 1))
    expected = (
        VirtualCamera().homography_between(0, 16) @ np.column_stack([first, np.ones(len(first))]).T
    )
    error = (expected[:2] / expected[2]).T - ([639, 479] - second)
    assert len(error) == facts["inliers"] > 200
    assert np.median(np.hypot(*error.T)) < 1.0


def test_images_of_different_scenes_are_called_doubtful(images: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (480, 640), np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), noise)
    done = run("match", images / "0.png", tmp_path / "noise.png", "--json")
    facts = json.loads(done.stdout)
    assert facts["inliers"] < 35
    assert f"{facts['inliers']} of {facts['matches']} matches agree" in done.stderr


def test_masked_parts_have_no_tracks(images: Path, tmp_path: Path) -> None:
    mask = np.zeros((480, 640), np.uint8)
    mask[:, :300] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    options = ("--matcher", "nearest", "--top-k", "100", "--mask-static")
    out = tmp_path / "out"
    run("track", images, "--output", out, "--mask", tmp_path / "mask.png", *options)
    assert np.load(out / TRACKS)["x"].max() < 303.0
    cv2.imwrite(str(tmp_path / "small.png"), mask[:48, :64])
    line = refused("track", images, "--output", out, "--mask", tmp_path / "small.png")
    assert "mask is 64×48 pixels, the image 640×480" in line


def test_the_package_itself_imports_quickly() -> None:
    program = "import sys, aliked_ros; print('numpy' in sys.modules, 'Pipeline' in dir(aliked_ros))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False True\n"


def test_track(images: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for file in images.iterdir():
        (tmp_path / "in" / file.name).write_bytes(file.read_bytes())
    for name in ("1.png", "7.png"):
        (tmp_path / "in" / name).write_bytes(b"broken")
    cv2.imwrite(str(tmp_path / "in" / "6.png"), np.zeros((32, 32), np.uint8))  # too small
    output = tmp_path / "out"
    done = run("track", tmp_path / "in", "--output", output, "--top-k", "300", "--json")
    summary = json.loads(done.stdout)
    assert summary["frames"] == 4
    assert summary["skipped"] == 2
    assert summary["refused"] == 1
    assert "1.png" in done.stderr
    assert summary["tracks"]["max_length"] == 4
    assert summary["complete"]
    written = json.loads((output / SUMMARY).read_text())
    assert written.items() <= summary.items()
    tracks = np.load(output / TRACKS)
    assert len(tracks["frame"]) == len(tracks["id"]) == len(tracks["x"]) == len(tracks["y"]) == 1200
    for frame in range(4):
        ids = tracks["id"][tracks["frame"] == frame]
        assert len(set(ids.tolist())) == len(ids) == 300
    video = cv2.VideoCapture(str(output / VIDEO))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert {file.name for file in output.iterdir()} == {VIDEO, TRACKS, SUMMARY}


def test_limit(images: Path, tmp_path: Path) -> None:
    options = ["--limit", "2", "--matcher", "nearest", "--top-k", "100", "--json"]
    summary = json.loads(run("track", images, "--output", tmp_path / "out", *options).stdout)
    assert summary["frames"] == 2


def test_ctrl_c_keeps_whole_files(tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [*PROGRAM, "track", "virtual", "--limit", "100000", "--output", str(output)]
    command += ["--matcher", "nearest", "--top-k", "100"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 300.0
        while not list(output.glob(".tracks*")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    summary = json.loads((output / SUMMARY).read_text())
    assert not summary["complete"]
    frames = summary["frames"]
    assert frames >= 1
    assert np.load(output / TRACKS)["frame"].max() == frames - 1
    assert cv2.VideoCapture(str(output / VIDEO)).get(cv2.CAP_PROP_FRAME_COUNT) == frames
    assert {file.name for file in output.iterdir()} == {VIDEO, TRACKS, SUMMARY}


def test_full_disk_leaves_no_broken_file(images: Path, tmp_path: Path) -> None:
    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a full disk, writing fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    options = ["--matcher", "nearest", "--top-k", "100"]
    line = refused("track", images, "--output", tmp_path, *options, preexec_fn=small_disk)
    assert VIDEO in line
    names = {file.name for file in tmp_path.iterdir()}
    assert SUMMARY in names
    assert VIDEO not in names
    assert not [name for name in names if name.startswith(".")]


def test_bad_images(images: Path, tmp_path: Path) -> None:
    assert "nowhere.png" in refused("extract", tmp_path / "nowhere.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes((images / "0.png").read_bytes()[:5000])
    assert "broken.png" in refused("extract", broken)
    assert "broken.png" in refused("match", images / "0.png", broken)
    cv2.imwrite(str(tmp_path / "tiny.png"), np.zeros((20, 20), np.uint8))
    assert "20×20" in refused("extract", tmp_path / "tiny.png")


def test_bad_sources(tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert "nowhere" in refused("track", tmp_path / "nowhere", "--output", output)
    assert "no images" in refused("track", tmp_path, "--output", output)
    assert "at least 1" in refused("track", "virtual", "--output", output, "--limit", "0")
    assert not output.exists()
    (tmp_path / "1.png").write_bytes(b"broken")
    line = refused("track", tmp_path, "--output", output)
    assert "none of the 1 images" in line
    assert not output.exists()


def test_bad_outputs(images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    taken = tmp_path / "file" / "below"
    assert "file/below" in refused("extract", images / "0.png", "--output", taken / "f.npz")
    assert "file/below" in refused("track", images, "--output", taken)
    pair = ("match", images / "0.png", images / "1.png", "--matcher", "nearest")
    assert "file/below" in refused(*pair, "--output", taken / "m.png")
    assert not list(tmp_path.glob("*/*"))
    assert ".xyz" in refused(*pair, "--output", tmp_path / "m.xyz")


def test_a_folder_is_not_overwritten_by_a_result(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "precious").touch()
    pair = (images / "0.png", images / "1.png", "--matcher", "nearest")
    for command in (
        ("extract", images / "0.png", "--output", f"{folder}/"),
        ("match", *pair, "--output", folder),
        ("match", *pair, "--npz", folder),
        ("bench", "matcher", "--output", folder),
        ("extract", images / "0.png", "--output", "."),
    ):
        done = run(*command, status=2, cwd=folder)
        assert "is a directory" in " ".join(done.stderr.replace("│", "").split())
        assert "Traceback" not in done.stderr
        assert list(tmp_path.rglob("*")) == [folder, folder / "precious"]


def test_a_failed_start_leaves_no_folder(images: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "ALIKED_ROS_CACHE": str(tmp_path / "cache")}
    environment.pop("ALIKED_ROS_WEIGHTS", None)
    refused("track", images, "--output", tmp_path / "out", env=environment)
    assert not (tmp_path / "out").exists()


def test_matching_options_have_an_effect(images: Path) -> None:
    def matches(*options: str) -> int:
        pair = ("match", images / "0.png", images / "4.png", "--top-k", "300", "--json")
        return int(json.loads(run(*pair, *options).stdout)["matches"])

    assert matches("--match-threshold", "0.99") < matches("--depth-confidence", "-1")
    nearest = ("--matcher", "nearest", "--min-similarity")
    assert matches(*nearest, "0.95") < matches(*nearest, "0.5")


def test_bad_settings(images: Path) -> None:
    pair = ("match", images / "0.png", images / "1.png")
    line = refused(*pair, "--model", "aliked-t16")
    assert "no LightGlue weights" in line
    assert "nearest" in line
    assert "aliked-n16" in refused("extract", images / "0.png", "--model", "superpoint")
    assert "8192" in refused("extract", images / "0.png", "--top-k", "0")
    assert "0 to 1" in refused(*pair, "--min-similarity", "-0.5")
    assert "bfloat16" in refused("extract", images / "0.png", "--precision", "int8")


def test_missing_arguments() -> None:
    done = run("extract", status=2)
    assert "image" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    run("nonsense", status=2)


def test_missing_weights(images: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "ALIKED_ROS_CACHE": str(tmp_path)}
    environment.pop("ALIKED_ROS_WEIGHTS", None)
    line = refused("extract", images / "0.png", env=environment)
    assert "aliked_ros models fetch" in line
    rows = json.loads(run("models", "list", "--json", env=environment).stdout)
    assert all(row["weights"] is None for row in rows)


def test_models() -> None:
    rows = {row["name"]: row for row in json.loads(run("models", "list", "--json").stdout)}
    assert {"aliked-t16", "aliked-n16", "aliked-n16rot", "aliked-n32"} < set(rows)
    assert rows["aliked-lightglue"]["licence"] == "Apache-2.0"
    assert Path(rows["aliked-n16"]["weights"]).is_file()
    assert "aliked-n16:" in run("models", "list").stdout
    fetched = json.loads(run("models", "fetch", "aliked-n16", "--json").stdout)
    assert fetched == {"aliked-n16": rows["aliked-n16"]["weights"]}
    assert "superpoint" in refused("models", "fetch", "superpoint")


def test_doctor() -> None:
    checks = json.loads(run("doctor", "--json").stdout)
    assert {check["state"] for check in checks} <= {"ok", "warn"}
    backend = next(check for check in checks if check["name"] == "backend")
    assert "OpenVINO" in backend["finding"] or "ONNX" in backend["finding"]
    assert "backend: " in run("doctor").stdout


@pytest.mark.ros
def test_demo_refuses_a_bad_source(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="the demo needs ROS 2")
    done = run("demo", "--source", tmp_path / "nowhere", "--output", tmp_path / "out", status=1)
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr
    assert not (tmp_path / "out").exists()


def test_demo_without_ros_says_so(tmp_path: Path) -> None:
    hide = (
        "import sys; sys.modules.update(rclpy=None, aliked_msgs=None); "
        "import aliked_ros.cli.main as c; "
    )
    command = [sys.executable, "-c", hide + "c.main()", "demo", "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "rclpy" in done.stderr
    assert "make setup" in done.stderr


def test_export_says_what_it_cannot_do(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for form in ("colmap", "tum"):
        options = ("--format", form, "--output", output)
        assert "nowhere.mcap" in refused("export", tmp_path / "nowhere.mcap", *options)
        (tmp_path / "broken.mcap").write_bytes(b"broken" * 100)
        assert "is no MCAP file" in refused("export", tmp_path / "broken.mcap", *options)
    assert not output.exists()
    done = run("export", tmp_path / "broken.mcap", "--output", output, "--format", "xyz", status=2)
    assert "colmap" in done.stderr


def test_export_without_pycolmap_says_so(tmp_path: Path) -> None:
    hide = (
        "import sys; sys.modules.update(pycolmap=None); import aliked_ros.cli.main as c; c.main()"
    )
    command = [sys.executable, "-c", hide, "export", "run.mcap", "--format", "colmap"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "pip install pycolmap" in done.stderr


def test_a_changed_size_begins_a_new_epoch(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    picture = cv2.imread(str(images / "0.png"))
    for index, scale in enumerate((1.0, 1.0, 0.5)):
        size = (round(640 * scale), round(480 * scale))
        assert cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(picture, size))
    options = ["--matcher", "nearest", "--top-k", "100", "--json"]
    summary = json.loads(run("track", folder, "--output", tmp_path / "out", *options).stdout)
    assert summary["frames"] == 3
    assert summary["epochs"] == 2
    epochs = np.load(tmp_path / "out" / TRACKS)["epoch"]
    assert epochs[0] < epochs[-1]
    assert cv2.VideoCapture(str(tmp_path / "out" / VIDEO)).get(cv2.CAP_PROP_FRAME_COUNT) == 3
