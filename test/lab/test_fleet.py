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

"""A batch on Ray: kills, damage, a cluster of several nodes; the results are always the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

pytest.importorskip("ray", reason="Ray is not installed: make setup GROUP=fleet")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: make setup GROUP=fleet")
pytest.importorskip("fsspec", reason="fsspec is not installed: make setup GROUP=fleet")

import ray

from aliked_ros.cli.main import app
from aliked_ros.errors import ConfigurationError
from aliked_ros.exporting.vocabulary import as_words, train, train_shards
from aliked_ros.fleet import work
from aliked_ros.fleet.plan import Plan
from aliked_ros.fleet.reductions import REDUCTIONS
from aliked_ros.fleet.run import Cluster, State, Tasks, process, run_batch, running
from aliked_ros.sources.virtual import VirtualCamera
from helpers.fleet import Here

pytestmark = pytest.mark.long

SETTINGS = {"max_keypoints": 128}
OPERATIONS = ("extract", "track")
IMAGES, SEGMENT = 8, 4
PATIENCE = 600.0  # seconds


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders of small images of a moving camera."""
    folders = []
    for seed in range(2):
        folder = tmp_path_factory.mktemp("recordings") / f"run{seed}"
        folder.mkdir()
        for index, image in enumerate(VirtualCamera(length=IMAGES, seed=seed, size=(160, 128))):
            cv2.imwrite(str(folder / f"{index:02}.png"), image.pixels[..., ::-1])
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def expected(recordings: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The results without Ray, task by task."""
    output = tmp_path_factory.mktemp("expected")
    run_here(plan_for(recordings, output))
    return contents(output)


def run_here(plan: Plan) -> dict[str, dict[str, Any]]:
    """The tasks one after another; returns the manifests."""
    manifests = {}
    for name, recording in plan.named_recordings().items():
        found = work.survey(plan, plan.key, name, recording)
        parts = [work.extract(plan, found, n, lambda _: None) for n in range(len(found.parts))]
        manifests[name] = work.finish(plan, plan.key, found, parts, lambda _: None)
    return manifests


def plan_for(recordings: list[Path], output: Path) -> Plan:
    texts = tuple(map(str, recordings))
    return Plan(texts, str(output), OPERATIONS, frontend=SETTINGS, segment=SEGMENT)


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of the tables."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


@pytest.fixture(scope="module")
def nodes() -> Iterator[SimpleNamespace]:
    """A cluster of two nodes with one core each."""
    from ray.cluster_utils import Cluster as Nodes

    options = {"num_cpus": 1, "object_store_memory": 80 << 20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_agent_register_timeout_ms", "120000")
        cluster = None
        try:
            cluster = Nodes(initialize_head=True, head_node_args=options)
            second = cluster.add_node(**options)
            patch.setenv("RAY_ADDRESS", cluster.address)  # for --address auto
            yield SimpleNamespace(cluster=cluster, second=second, address=cluster.address)
        except Exception as error:
            skip_if_too_busy(str(error))
            raise
        finally:
            if cluster is not None:
                cluster.shutdown()


def start(folder: Path, recordings: list[Path], *more: str) -> subprocess.Popen[str]:
    """The command, with a plan."""
    plan = {
        "recordings": list(map(str, recordings)), "output": "results", "segment": SEGMENT,
        "operations": list(OPERATIONS), "frontend": SETTINGS,
    }  # fmt: skip
    (folder / "plan.yaml").write_text(json.dumps(plan))
    command = [
        sys.executable, "-m", "aliked_ros.cli", "batch", str(folder / "plan.yaml"),
        "--json", *more,
    ]  # fmt: skip
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def ended(process: subprocess.Popen[str], status: int) -> dict[str, Any]:
    output, errors = process.communicate(timeout=PATIENCE)
    skip_if_too_busy(errors)
    assert process.returncode == status, errors
    found: dict[str, Any] = json.loads(output)
    return found


def skip_if_too_busy(errors: str) -> None:
    """Ray gives itself 30 seconds to start, and has no setting for it."""
    if "too few while this machine is busy" in errors or "timed out during startup" in errors:
        pytest.skip("this machine is too busy: Ray did not start within its 30 seconds")


def awaited(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """The first true value of a condition while the command runs."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if found := condition():
            return found
        time.sleep(0.2)
    skip_if_too_busy(process.communicate()[1])
    return pytest.fail("nothing happened")


def workers(title: str) -> list[psutil.Process]:
    """Ray's processes below this one, by the beginning of their command line."""
    return [one for one in psutil.Process().children(recursive=True) if has_title(one, title)]


def has_title(process: psutil.Process, title: str) -> bool:
    try:
        return " ".join(process.cmdline()).startswith(title)
    except psutil.Error:  # has ended
        return False


def runs(process: psutil.Process) -> bool:
    """Whether a process has not ended; nobody may have collected its status."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """The first test, since Ray would find the cluster of the others."""
    arguments = ["batch", "track", "virtual", "--limit", "1", "--output", str(tmp_path / "results")]
    arguments.append("--address")
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "aliked_ros.cli", *arguments, "auto"], capture_output=True,
        text=True, timeout=PATIENCE, env={**variables, "RAY_TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: Ray does not start")
    refused = CliRunner().invoke(app, [*arguments, "head:6379"])
    assert refused.exit_code == 2
    assert "auto or ray://HOST:10001" in refused.stderr


def test_after_a_killed_head_a_cluster_does_the_rest(
    recordings: list[Path], expected: dict[str, bytes], nodes: SimpleNamespace, tmp_path: Path
) -> None:
    """Here, then on a cluster; damaged recordings leave the others whole."""
    damaged = tmp_path / "damaged.mcap"
    damaged.write_bytes(b"\x89MCAP0\r\n" + b"nothing" * 50)
    missing = tmp_path / "missing"
    every = [recordings[0], damaged, missing, recordings[1]]
    process = start(tmp_path, every, "--workers", "2")
    first = awaited(lambda: list((tmp_path / "results").glob("*/features/[0-9]*")), process)[0]
    left = psutil.Process(process.pid).children(recursive=True)
    written = first.stat().st_mtime_ns
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 180.0
    while any(map(runs, left)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(runs, left))  # Ray's processes end with the command
    facts = ended(start(tmp_path, every, "--address", "auto"), status=1)
    assert facts["complete"] == 2
    assert first.stat().st_mtime_ns == written
    reasons = {Path(one["recording"]): one["reason"] for one in facts["failures"]}
    assert set(reasons) == {damaged, missing}
    assert "does not exist" in reasons[missing]
    assert contents(tmp_path / "results") == expected
    page = (tmp_path / "results" / "report.html").read_text()
    assert "damaged.mcap" in page
    assert page.count("<figure>") == 2


def test_a_lost_node_and_killed_workers_change_nothing(
    recordings: list[Path], expected: dict[str, bytes], nodes: SimpleNamespace, tmp_path: Path
) -> None:
    lost: list[Any] = []

    def progress(_: State) -> None:
        if not lost and (found := workers("ray::_extract")):
            found[0].kill()
            lost.append(found[0])
        elif len(lost) == 1 and list(tmp_path.rglob("[0-9]*.parquet")):
            lost.append(nodes.second)
            nodes.cluster.remove_node(nodes.second, allow_graceful=False)

    def pid() -> int:
        return os.getpid()

    class Killing(Tasks):
        """Kills a worker while the clusters are being found."""

        started = 0

        def __call__(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            self.started += 1
            if self.started in (10, 60):
                os.kill(self.get(super().__call__(pid)), signal.SIGKILL)
            return super().__call__(function, *arguments, **options)

    before = signal.getsignal(signal.SIGTERM)
    plan = plan_for(recordings, tmp_path)
    facts = run_batch(plan, Cluster(nodes.address), lambda _: None, progress)
    assert len(lost) == 2
    assert facts["complete"] == 2
    assert not facts["failures"]
    assert contents(tmp_path) == expected

    codes = np.random.default_rng(0).integers(0, 256, (24, 100, 32), dtype=np.uint8)
    alone = train(list(codes), 4, 3, 40)
    with running(plan, Cluster(nodes.address), lambda _: None):
        again = process(plan, plan.named_recordings(), progress)
        tasks = Killing(num_cpus=1)
        counts = np.full(6, 100)
        shards = [(ray.put(as_words(part.reshape(-1, 32))), counts) for part in np.split(codes, 4)]
        spread = train_shards(shards, tasks, 4, 3, 40, part=400)
    assert again["unchanged"] == 2
    assert again["reductions"] == facts["reductions"]
    assert tasks.started > 60  # both kills took place
    for name in ("parents", "codes", "weights"):
        np.testing.assert_array_equal(getattr(spread, name), getattr(alone, name))
    with pytest.raises(ConfigurationError, match="is another folder on"):
        run_batch(
            replace(plan, output="memory://here"), Cluster(nodes.address), lambda _: None, progress
        )
    assert signal.getsignal(signal.SIGTERM) is before


def test_odometry_and_one_database_of_all(shared: Path, tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="make setup GROUP=fleet")
    pytest.importorskip("evo", reason="make setup GROUP=fleet")
    data = shared / "data"
    plan = Plan(
        (str(data / "tum_fr1_xyz"), str(data / "kitti_00_first40")), str(tmp_path),
        ("odometry", "export"), ("colmap",), {"max_keypoints": 400, "matcher": "nearest"},
        limit=10,
    )  # fmt: skip
    manifests = run_here(plan)
    for name, manifest in manifests.items():
        poses = (tmp_path / name / "trajectory.tum").read_text().splitlines()
        assert manifest["figures"]["odometry"]["poses"] == len(poses) > 4
    REDUCTIONS["colmap"][1](plan, manifests, [], Here())
    with pycolmap.Database.open(tmp_path / "colmap.db") as database:
        names = [image.name for image in database.read_all_images()]
        assert {name.partition("/")[0] for name in names} == set(manifests)
        assert len(names) == 20
        exported = [manifest["figures"]["export"] for manifest in manifests.values()]
        assert database.num_verified_image_pairs() == sum(e["verified_pairs"] for e in exported)
        assert database.num_keypoints() == sum(e["keypoints"] for e in exported)
    assert not (tmp_path / ".merging").exists()
