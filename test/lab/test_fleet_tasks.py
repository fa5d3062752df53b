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

"""A batch without Ray: plans, addresses, parts, and that joined parts equal one run."""

from __future__ import annotations

import os
import resource
from contextlib import closing
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed: make setup GROUP=fleet")
pytest.importorskip("fsspec", reason="fsspec is not installed: make setup GROUP=fleet")

import fsspec
import pyarrow.parquet as pq

from aliked_ros.cli.main import app
from aliked_ros.errors import ConfigurationError, OutputError, SourceError
from aliked_ros.fleet import work
from aliked_ros.fleet.cost import Cost, overhead
from aliked_ros.fleet.plan import Plan, name_of, plan_of, read_plan
from aliked_ros.fleet.reductions import REDUCTIONS
from aliked_ros.fleet.report import deviations
from aliked_ros.fleet.storage import Store, checksum, expand, fingerprint, on_this_machine
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.sources import open_source
from aliked_ros.sources.virtual import VirtualCamera
from helpers.fleet import Here

SETTINGS = {"max_keypoints": 128}
MAPPED = {"operations": ["record"], "reductions": ["map"]}
IMAGES = 9


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small images of a moving camera, one of them unreadable."""
    folder = tmp_path_factory.mktemp("recording") / "run"
    folder.mkdir()
    camera = VirtualCamera(length=IMAGES, size=(160, 128), noise=0.3)
    for index, image in enumerate(camera):
        cv2.imwrite(str(folder / f"{index:02}.png"), image.pixels[..., ::-1])
    (folder / "04.png").write_bytes(b"no picture")
    return folder


def plan_for(recording: Path | str, output: Path | str, **changes: object) -> Plan:
    plan = Plan((str(recording),), str(output), ("track", "keyframes"), frontend=SETTINGS)
    return replace(plan, **changes)  # type: ignore[arg-type]


def run(plan: Plan) -> dict[str, object]:
    """The tasks of the only recording, one after another; the last part first."""
    ((name, recording),) = plan.named_recordings().items()
    return run_one(plan, name, recording)


def run_one(plan: Plan, name: str, recording: str) -> dict[str, object]:
    found = work.survey(plan, plan.key, name, recording)
    if found.manifest is not None:
        return found.manifest
    numbers = range(len(found.parts))
    parts = {n: work.extract(plan, found, n, lambda _: None) for n in reversed(numbers)}
    return work.finish(plan, plan.key, found, [parts[n] for n in numbers], lambda _: None)


def contents(folder: Path) -> dict[str, bytes]:
    """The results' bytes; manifests have times in them."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != work.MANIFEST
    }


@pytest.fixture(scope="module")
def whole(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one task."""
    output = tmp_path_factory.mktemp("whole")
    run(plan_for(recording, output))
    return output


# Plans


def test_a_plan_is_read_with_paths_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(
        "recordings: [bags/*.mcap, 's3://fleet/run.mcap#/image', virtual]\n"
        "output: results\noperations: track\nfrontend: {max_keypoints: 500}\n"
    )
    plan = read_plan(tmp_path / "plan.yaml")
    assert plan.recordings == (
        f"{tmp_path}/bags/*.mcap", "s3://fleet/run.mcap#/image", "virtual",
    )  # fmt: skip
    assert plan.output == f"{tmp_path}/results"
    assert plan.operations == ("track",)
    assert plan.config.max_keypoints == 500
    assert plan.config.threads == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"operation": ["track"]}, "did you mean 'operations'"),
        ({"operations": ["tracks"]}, "did you mean 'track'"),
        ({"operations": []}, "no operations"),
        ({"frontend": {"max_keypoint": 5}}, "did you mean 'max_keypoints'"),
        ({"frontend": {"max_keypoints": "many"}}, "max_keypoints|frontend"),
        ({"frontend": {"detection": "behind"}}, "depend on the machine's speed"),
        ({"segment": 0}, "segment is 0"),
        ({"limit": "all"}, "limit is 'all'"),
        ({"reductions": ["colmap"]}, "operation 'export'"),
        ({"reductions": ["map"]}, "operation 'record'"),
        ({"topics": ["feature"]}, "did you mean 'features'"),
        ({"descriptors": "float64"}, "choose from|did you mean 'float"),
        (MAPPED | {"topics": ["features"]}, "needs 'keyframes'"),
        (MAPPED | {"descriptors": "binary256"}, "needs floats"),
        ({"recordings": 3}, "recordings is 3"),
    ],
)
def test_a_wrong_plan_is_refused_by_name(change: dict[str, object], said: str) -> None:
    content = {"recordings": ["a"], "output": "out", "operations": ["track"]} | change
    with pytest.raises(ConfigurationError, match=said):
        plan_of(content)


def test_results_depend_on_settings_but_not_on_threads(tmp_path: Path) -> None:
    plan = plan_for("virtual", tmp_path)
    assert plan.key == replace(plan, frontend=SETTINGS | {"threads": 4}).key
    assert plan.key == replace(plan, segment=5).key
    assert plan.key != replace(plan, frontend={"max_keypoints": 64}).key
    assert plan.key != replace(plan, operations=("track",)).key


def test_recordings_of_one_name_keep_apart() -> None:
    names = [name_of(f"s3://fleet/{day}/run.mcap#/image") for day in ("mon", "tue")]
    assert len(set(names)) == 2
    assert all(name.startswith("run.mcap-") for name in names)


@pytest.mark.parametrize("operations", [("track",), ("extract", "track")])
def test_parts_cover_a_recording_once(tmp_path: Path, operations: tuple[str, ...]) -> None:
    plan = plan_for("virtual", tmp_path, operations=operations, segment=4)
    assert work.parts_of(10, plan) == ((0, 4), (4, 8), (8, None))
    assert work.parts_of(4, plan) == (((0, None),) if "extract" in operations else ())
    assert work.parts_of(None, replace(plan, operations=("track",))) == ()


# Addresses


def test_wildcards_name_recordings_here_and_elsewhere(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a.mcap", "b.mcap", "c.txt"):
        (tmp_path / name).write_text("")
        memory.pipe_file(f"/bags/{name}", b"")
    assert expand(f"{tmp_path}/*.mcap#/image") == [
        f"{tmp_path}/a.mcap#/image", f"{tmp_path}/b.mcap#/image",
    ]  # fmt: skip
    found = expand("memory://bags/*.mcap")
    assert [address.rpartition("/")[2] for address in found] == ["a.mcap", "b.mcap"]
    assert all(fsspec.core.url_to_fs(address)[0].exists(address) for address in found)
    with pytest.raises(SourceError, match="matches no recording"):
        plan_for(f"{tmp_path}/*.bag", tmp_path).named_recordings()


def test_recordings_in_an_archive_are_fetched_and_removed(recording: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "day.tar", "w") as archive:
        archive.add(recording, "run")
    address = f"tar://run::{tmp_path}/day.tar"
    with on_this_machine(address) as local:
        assert {path.name for path in Path(local).iterdir()} == set(os.listdir(recording))
        assert checksum(local) == checksum(str(recording))
    assert not Path(local).exists()
    for address, said in (
        ("memory://none.mcap", "it does not exist"), ("nowhere://a.mcap", "Protocol not known")
    ):  # fmt: skip
        with pytest.raises(SourceError, match=f"cannot fetch .*{said}"), on_this_machine(address):
            pass


def test_recordings_are_fetched_from_a_web_server(recording: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = partial(Silent, directory=str(recording))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/00.png"
        mark = fingerprint(address)
        with on_this_machine(address) as local:
            assert Path(local).read_bytes() == (recording / "00.png").read_bytes()
        assert fingerprint(address) == mark
        assert fingerprint(address.replace("00", "01")) != mark
        server.shutdown()


def test_a_changed_recording_is_noticed(recording: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in recording.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    marks = fingerprint(str(copy)), checksum(str(copy))
    os.utime(copy / "00.png", (1, 1))
    assert fingerprint(str(copy)) != marks[0]
    assert checksum(str(copy)) == marks[1]
    (copy / "00.png").write_bytes(b"other")
    assert checksum(str(copy)) != marks[1]


def test_a_failed_file_leaves_nothing(tmp_path: Path) -> None:
    for address in (str(tmp_path), "memory://out"):
        store = Store(address)
        with pytest.raises(ZeroDivisionError), store.writing("run/file") as path:
            path.write_text(str(1 / 0))
        assert store.sizes("run") == {}
        store.write_json("run/file", {"a": 1})
        assert store.read_json("run/file") == {"a": 1}
        assert list(store.sizes("run")) == ["file"]
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken"):
        Store(str(tmp_path)).write_json("taken/file", {})


# Joining


@pytest.mark.parametrize("segment", [2, 4])
def test_joined_parts_are_the_bytes_of_one_run(
    recording: Path, whole: Path, tmp_path: Path, segment: int
) -> None:
    manifest = run(plan_for(recording, tmp_path, segment=segment))
    assert manifest["images"] == IMAGES - 1
    assert contents(tmp_path) == contents(whole)


def test_tracks_are_those_of_the_pipeline(recording: Path, whole: Path) -> None:
    plan = plan_for(recording, whole)
    table = pq.read_table(next(whole.glob("*/tracks.parquet")))
    pipeline = Pipeline(plan.config)
    results = [pipeline.process(image) for image in open_source(str(recording))]
    pipeline.close()
    for name, of in (
        ("id", lambda r: r.tracks.ids), ("x", lambda r: r.features.keypoints[:, 0]),
        ("score", lambda r: r.features.scores), ("length", lambda r: r.tracks.lengths),
    ):  # fmt: skip
        expected = np.concatenate([of(result) for result in results])
        np.testing.assert_array_equal(table.column(name).to_numpy(), expected)
    assert sorted(set(table.column("image").to_pylist())) == [0, 1, 2, 3, 5, 6, 7, 8]
    rows = pq.read_table(next(whole.glob("*/keyframes.parquet"))).to_pylist()
    assert [row["frame"] for row in rows] == [r.index for r in results if r.is_keyframe]


def test_features_are_those_of_extract(recording: Path, tmp_path: Path) -> None:
    from aliked_ros.backends.create import create_backend

    plan = plan_for(recording, tmp_path, operations=("extract",), segment=4)
    run(plan)
    rows = pq.read_table(next(tmp_path.glob("*/features"))).to_pylist()
    backend = create_backend(plan.config)
    extractor = Extractor(plan.config, backend)
    images = list(open_source(str(recording)))
    assert len(rows) == len(images)
    for row, image in zip(rows, images, strict=True):
        features = extractor.extract(image.pixels)
        for name in ("keypoints", "scores", "descriptors"):
            expected = getattr(features, name).reshape(-1)
            np.testing.assert_array_equal(np.array(row[name], np.float32), expected)
    backend.close()


def test_only_what_is_missing_or_changed_is_done(recording: Path, tmp_path: Path) -> None:
    plan = plan_for(recording, tmp_path, segment=4)
    ((name, one),) = plan.named_recordings().items()
    run(plan)
    before = contents(tmp_path)
    again = work.survey(plan, plan.key, name, one)
    assert again.manifest is not None
    manifest, tracks = tmp_path / name / work.MANIFEST, tmp_path / name / "tracks.parquet"
    assert again.manifest["basis"]["settings"]["max_keypoints"] == 128
    for path, content in (
        (manifest, manifest.read_bytes().replace(plan.key.encode(), b"of an older version")),
        (manifest, b"[]"),
        (tracks, tracks.read_bytes()[:-9]),
    ):
        whole = path.read_bytes()
        path.write_bytes(content)
        assert work.survey(plan, plan.key, name, one).manifest is None
        path.write_bytes(whole)
    assert work.survey(plan, plan.key, name, one).manifest == again.manifest
    tracks.unlink()
    (tmp_path / name / ".left.parquet").write_text("by a killed task")
    assert work.survey(plan, plan.key, name, one).manifest is None
    run(plan)
    assert contents(tmp_path) == before
    other = replace(plan, frontend={"max_keypoints": 64})
    assert work.survey(other, other.key, name, one).manifest is None


def test_parts_of_a_killed_run_are_used_again(recording: Path, tmp_path: Path) -> None:
    plan = plan_for(recording, tmp_path, segment=4)
    ((name, one),) = plan.named_recordings().items()
    found = work.survey(plan, plan.key, name, one)
    work.extract(plan, found, 0, lambda _: None)
    path = tmp_path / name / "features" / "00000.parquet"
    written = path.stat().st_mtime_ns
    assert work.extract(plan, found, 0, lambda _: None)["seconds"] == 0.0
    assert path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:-9])  # as a full disk leaves it
    assert work.extract(plan, found, 0, lambda _: None)["seconds"] > 0.0
    shorter = replace(plan, segment=3)
    found = work.survey(shorter, shorter.key, name, one)
    assert work.extract(shorter, found, 0, lambda _: None)["images"] == 3


def test_a_worker_loads_its_networks_once(tmp_path: Path) -> None:
    plan = plan_for("virtual", tmp_path)
    backend = work.open_networks(plan.config)
    network = backend.load_extractor(plan.config.model)
    with closing(Pipeline(plan.config, open_backend=lambda config, _: work.open_networks(config))):
        pass  # a task ends
    again = work.open_networks(plan.config)
    assert again.load_extractor(plan.config.model) is network


@pytest.mark.parametrize("task", ["extract", "finish"])
def test_a_full_disk_is_reported_and_leaves_no_half_file(
    recording: Path, whole: Path, tmp_path: Path, task: str
) -> None:
    plan = plan_for(recording, tmp_path, segment=4 if task == "extract" else 100)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*parquet"):
            run(plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert not [name for name in left if name.startswith(".") or name == "tracks.parquet"]
    run(plan)  # goes on once there is space
    assert contents(tmp_path) == contents(whole)


def test_results_may_lie_elsewhere(recording: Path, whole: Path) -> None:
    memory = fsspec.filesystem("memory")
    run(plan_for(recording, "memory://results", segment=4))
    found = {
        path.removeprefix("/results/"): memory.cat_file(path)
        for path in memory.find("/results")
        if not path.endswith(work.MANIFEST)
    }
    assert found == contents(whole)


# Recordings, and what is made of all of them


def messages(path: Path) -> dict[str, list[str]]:
    """By topic, what the front-end published, as text: NaN is no number.

    Without epochs, which tell runs apart.
    """
    from rclpy.serialization import deserialize_message

    from aliked_msgs.msg import FeatureFrame, FeatureMatches, Keyframe
    from aliked_ros.io.bags import stream_mcap

    kinds = {"features": FeatureFrame, "matches": FeatureMatches, "keyframes": Keyframe}
    found: dict[str, list[str]] = {topic: [] for topic in kinds}
    for _, channel, message in stream_mcap(path):
        topic = channel.topic.removeprefix("/aliked_frontend/")
        if topic in kinds:
            one = deserialize_message(message.data, kinds[topic])
            if topic == "features":
                one.epoch = 0
            elif topic == "keyframes":
                one.features.epoch = 0
            found[topic].append(str(one))
    return found


@pytest.mark.ros
def test_a_recording_is_what_the_recorder_writes_of_a_running_node(
    shared: Path, tmp_path: Path
) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from helpers.ros import Probe, RosProcess

    sequence, output = shared / "data" / "tum_fr1_xyz", tmp_path / "node.mcap"
    plan = plan_for(sequence, tmp_path / "batch", operations=("record",), limit=6, segment=4)
    run(plan)
    probe = Probe()
    frontend = RosProcess(
        "aliked_ros.ros.frontend_node", tmp_path / "frontend", "-p", "max_keypoints:=128",
        "-p", "threads:=1", "-p", "input:=rgbd", "-p", "input_reliability:=reliable",
        "-p", "sync:=exact",
    )  # fmt: skip
    probe.wait_for_state("active")
    recorder = RosProcess(
        "aliked_ros.ros.recorder", tmp_path / "recorder", "-p", f"output:={output}"
    )
    probe.wait(lambda: "Recording to" in recorder.text())
    player = RosProcess(
        "aliked_ros.ros.player", tmp_path / "player", "-p", f"source:={sequence}",
        "-p", "limit:=6", "-p", "publish:=rgbd", "-p", "depth_encoding:=32FC1",
        "-p", "reliability:=reliable", "-p", "wait_for_frontend:=aliked_frontend",
        "-p", "stamp:=dataset",
    )  # fmt: skip
    assert player.wait(300.0) == 0, player.text()
    probe.wait(lambda: len(probe.features) == 6)
    probe.spin(1.0)
    for process in (recorder, frontend):
        assert process.stop() == 0, process.text()
    probe.close()
    published, recorded = messages(output), messages(next(tmp_path.rglob("recording.mcap")))
    assert list(map(len, recorded.values())) == [6, 6, 1]
    assert recorded == published


@pytest.fixture(scope="module")
def two(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, Any]]:
    """Two recordings with keyframes, and their manifests."""
    output = tmp_path_factory.mktemp("two")
    data = shared / "data"
    plan = Plan(
        (str(data / "tum_fr1_xyz"), str(data / "kitti_00_first40")), str(output), ("record",),
        ("map", "vocabulary", "training"), SETTINGS | {"matcher": "nearest"}, limit=8,
        topics=("keyframes",),
    )  # fmt: skip
    return plan, {n: run_one(plan, n, one) for n, one in plan.named_recordings().items()}


def reduce(plan: Plan, manifests: dict[str, Any], name: str) -> Path:
    """The file of a reduction, made here."""
    file, make = REDUCTIONS[name]
    make(plan, manifests, [], Here())
    left = [path.name for path in Path(plan.output).iterdir() if path.name.startswith(".")]
    assert not left
    return Path(plan.output, file)


def command(*arguments: object) -> None:
    assert app([*map(str, arguments)], standalone_mode=False) in (None, 0)


def test_one_map_is_that_of_map_merge(two: tuple[Plan, dict[str, Any]], tmp_path: Path) -> None:
    from aliked_ros.exporting.maps import MapReader

    plan, manifests = two
    made = reduce(plan, manifests, "map")
    recordings = [Path(plan.output, name, "recording.mcap") for name in sorted(manifests)]
    command("map", "merge", *recordings, "--output", tmp_path / "merged.mcap")
    assert made.read_bytes() == (tmp_path / "merged.mcap").read_bytes()
    with MapReader(made) as reader:
        places = list(reader.places())
    assert len({place.epoch for place in places}) == 2
    assert all(place.camera is not None and place.normalized is not None for place in places)
    assert any(place.depth is not None for place in places)


def test_one_vocabulary_is_that_of_the_command(
    two: tuple[Plan, dict[str, Any]], tmp_path: Path
) -> None:
    plan, manifests = two
    made = reduce(plan, manifests, "vocabulary")
    recordings = [Path(plan.output, name, "recording.mcap") for name in sorted(manifests)]
    command("vocabulary", "train", *recordings, "--output", tmp_path / "one.bin")
    assert made.read_bytes() == (tmp_path / "one.bin").read_bytes()


def test_training_reads_what_is_made_for_it(
    two: tuple[Plan, dict[str, Any]], tmp_path: Path
) -> None:
    from aliked_ros.training.pairs import open_pairs
    from aliked_ros.training.settings import read_settings

    plan, manifests = two
    of_depth = next(name for name in manifests if "tum" in name)
    metric = {"mode": "rgbd", "metric": True, "maps": 1}
    poses = Path(plan.output, of_depth, "trajectory.tum")
    truth = Path(manifests[of_depth]["recording"], "groundtruth_tum.txt")
    poses.write_bytes(truth.read_bytes())
    manifests[of_depth]["figures"]["odometry"] = metric
    settings = read_settings(reduce(plan, manifests, "training"))
    (validation,) = settings.validation
    (train,) = settings.train
    assert {validation.kind, train.kind} == {"depth", "homography"}
    for data in (validation, train):
        pair = open_pairs(data, (96, 64), 2, 0)[1]
        assert pair.first.shape == (3, 64, 96)
    remote = {"a": manifests[of_depth] | {"recording": "s3://fleet/a.mcap"}}
    with pytest.raises(ConfigurationError, match="not local"):
        reduce(plan, remote, "training")


# Cost and report


def test_the_cost_of_many_hours() -> None:
    cost = Cost(extract=0.1, track=0.4, features=5e5, tracks=1e4, recording=6e5).of(1.08e9)
    assert cost["extract_core_hours"] == pytest.approx(30_000)
    assert cost["track_core_hours"] == pytest.approx(120_000)
    assert cost["features_tb"] == pytest.approx(540)
    assert overhead(plain=0.1, ratio=1.0, once=108.0) == pytest.approx(0.01)  # of 10,800 s
    assert overhead(plain=0.1, ratio=1.02, once=0.0) == pytest.approx(0.02)


def test_outliers_come_first() -> None:
    figures = {f"run{n}": {"features an image": 900.0 + n} for n in range(6)}
    figures["dark"] = {"features an image": 40.0}
    found = {name: max(row.values(), default=0.0) for name, row in deviations(figures).items()}
    assert max(found, key=lambda name: found[name]) == "dark"
    assert found["dark"] > 3.5 > found["run5"]
