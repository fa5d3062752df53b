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

"""TensorRT engines: built once, proven before they are used, rebuilt when anything differs.

Built for real by TensorRT for RTX, which needs no GPU for that.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aliked_ros.backends.gpu import engine_builder, engines
from aliked_ros.backends.gpu.engine_builder import Sides, _timing_cache
from aliked_ros.backends.gpu.engines import (
    Engine,
    EngineRefused,
    Network,
    engines_dir,
    ensure_engine,
    extractor_network,
    find_ranged,
    matcher_networks,
    read_engine,
)
from aliked_ros.backends.gpu.tensorrt_library import (
    WORKSPACE,
    Target,
    TensorRt,
    _cuda_of,
    choose_target,
    load_tensorrt,
    target_here,
)
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError, ConfigurationError
from aliked_ros.models.device_export import DeviceGraph
from aliked_ros.models.registry import MODELS
from aliked_ros.system.nvidia import Gpu, GpuError, explained
from helpers.device import small_network, start_with_graphs

pytest.importorskip("tensorrt_rtx_bindings", reason="make setup GROUP=test")

SMALL = ["--model", "aliked-t16", "--size", "160x128", "--top-k", "256"]
FOR_ADA = ["--compute-capability", "8.9"]


def never(tell: Any) -> DeviceGraph:
    raise AssertionError("the graph is not needed")


@pytest.fixture(scope="module")
def target() -> Target:
    return choose_target(["8.9"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, target: Target) -> Path:
    """A cache with one engine."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as monkeypatch:
        start_with_graphs(folder, monkeypatch)
        assert ensure_engine(small_network(), target).built == "there is none yet"
    return folder


@pytest.fixture
def own_cache(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own with that engine; the engine's path."""
    shutil.copytree(built, tmp_path / "cache", symlinks=True)
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(tmp_path / "cache"))
    return engines_dir() / f"{small_network().name}.engine"


def refusal(network: Network, target: Target) -> str:
    """Why the engine in the cache is not taken: what is reported when it is rebuilt."""
    said: list[str] = []

    def stop() -> DeviceGraph:
        raise InterruptedError

    with pytest.raises(BackendError):
        ensure_engine(replace(network, graph=stop), target, said.append)
    (line,) = said
    assert line.startswith(f"{network.name}.engine is rebuilt: ")
    return line.split(": ", 1)[1]


def test_an_engine_is_built_once_and_described(own_cache: Path, target: Target) -> None:
    engine = ensure_engine(replace(small_network(), graph=never), target)
    assert engine.built == ""
    assert engine.plan == own_cache.read_bytes()
    assert engine.label == f"{own_cache.name} {engine.sha256[:12]}"
    assert engine.inputs["image"].shape == (1, 128, 160, 3)
    assert engine.outputs["descriptors"].shape == (256, 64)
    facts = json.loads(own_cache.with_suffix(".json").read_text())
    network = facts["network"]
    assert network["weights_sha256"] == MODELS["aliked-t16"].sha256
    assert (network["width"], network["height"], network["channels"]) == (160, 128, 3)
    assert (network["top_k"], network["precision"]) == (256, "float16")
    assert facts["tensorrt"] == load_tensorrt().name
    assert (facts["compute_capabilities"], facts["gpu"], facts["cuda"]) == (["8.9"], "", "")
    assert facts["file"] == {"size": len(engine.plan), "sha256": engine.sha256}
    assert not list(engines_dir().glob(".*.engine")), "something was left of writing"


def truncate(engine: Path) -> None:
    os.truncate(engine, engine.stat().st_size // 2)


def change_a_byte(engine: Path) -> None:
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)


def empty(engine: Path) -> None:
    engine.write_bytes(b"")


def remove(engine: Path) -> None:
    engine.unlink()


def remove_json(engine: Path) -> None:
    engine.with_suffix(".json").unlink()


def truncate_json(engine: Path) -> None:
    os.truncate(engine.with_suffix(".json"), 100)


def replace_json(engine: Path) -> None:
    engine.with_suffix(".json").write_text("[]")


def edit_json(engine: Path) -> None:
    """To pass it off as one for another GPU."""
    file = engine.with_suffix(".json")
    file.write_text(file.read_text().replace('"8.9"', '"8.6"'))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, r"it has \d+ bytes, \d+ were built"),
        (empty, r"it has 0 bytes, \d+ were built"),
        (change_a_byte, "its content was changed after it was built"),
        (remove, "it cannot be read"),
        (remove_json, r"it has no .*\.json"),
        (truncate_json, r"\.json is damaged"),
        (replace_json, r"\.json is damaged"),
        (edit_json, r"\.json was changed after it was built"),
    ],
)
def test_a_damaged_engine_is_refused_with_the_reason(
    own_cache: Path, target: Target, damage: Any, said: str
) -> None:
    damage(own_cache)
    with pytest.raises(EngineRefused, match=said):
        read_engine(own_cache)


def test_a_refused_engine_is_built_anew(own_cache: Path, target: Target) -> None:
    change_a_byte(own_cache)
    damaged = own_cache.read_bytes()
    said: list[str] = []
    engine = ensure_engine(small_network(), target, said.append)
    assert said[0] == (f"{own_cache.name} is rebuilt: its content was changed after it was built")
    assert own_cache.read_bytes() == engine.plan != damaged
    assert ensure_engine(replace(small_network(), graph=never), target).plan == engine.plan


def test_an_engine_of_another_network_under_this_name_is_refused(
    own_cache: Path, target: Target
) -> None:
    other = small_network(512)
    for suffix in (".engine", ".json"):
        shutil.copy(own_cache.with_suffix(suffix), engines_dir() / f"{other.name}{suffix}")
    assert refusal(other, target) == "its top k is 256, wanted 512"


def rewritten(engine: Path, **changes: Any) -> None:
    """As if it had been built so, the checksum included."""
    file = engine.with_suffix(".json")
    facts = json.loads(file.read_text())
    del facts["checksum"]
    facts |= changes
    file.write_text(json.dumps({**facts, "checksum": engines._checksum(facts)}))


def test_what_differs_is_told_in_a_sentence(own_cache: Path, target: Target) -> None:
    library = target.library.name
    facts = json.loads(own_cache.with_suffix(".json").read_text())
    rewritten(own_cache, tensorrt="TensorRT 10.3.0")
    assert refusal(small_network(), target) == f"it was built by TensorRT 10.3.0, this is {library}"
    rewritten(own_cache, tensorrt=library, format=0)
    assert refusal(small_network(), target) == "it has format 0, this version needs 1"
    rewritten(own_cache, format=1, network=facts["network"] | {"weights_sha256": "0123"})
    assert refusal(small_network(), target) == (
        f"its weights sha256 is 0123, wanted {MODELS['aliked-t16'].sha256}"
    )
    rewritten(own_cache, network=facts["network"], sizes=[[64, 64], [160, 128]])
    assert refusal(small_network(), target).startswith("it takes image sizes")


def test_an_engine_for_other_gpus_is_refused(own_cache: Path) -> None:
    assert refusal(small_network(), choose_target(["8.6"])) == (
        "it was built for compute capability 8.9, not 8.6"
    )
    several = choose_target(["8.6", "8.9", "12.0"])
    assert ensure_engine(small_network(), several).built
    for one in ("8.6", "8.9", "12.0"):
        assert (
            ensure_engine(replace(small_network(), graph=never), choose_target([one])).built == ""
        )
    assert refusal(small_network(), choose_target(["8.0"])).endswith("8.6, 8.9, 12.0, not 8.0")


def test_gpu_and_cuda_matter_to_an_engine_of_tensorrt_itself(own_cache: Path) -> None:
    """It is tuned on the GPU that it was built on."""
    library = replace(load_tensorrt(), rtx=False)
    here = Target(library, ("8.9",), "NVIDIA RTX 4000", "12.6")
    rewritten(own_cache, **here.facts | {"gpu": "NVIDIA L4"})
    assert (
        refusal(small_network(), here) == "it was built on a NVIDIA L4, this is a NVIDIA RTX 4000"
    )
    rewritten(own_cache, **here.facts | {"cuda": "13.0"})
    assert refusal(small_network(), here) == "it was built with CUDA 13.0, this is CUDA 12.6"
    jetpack = replace(library, cuda=12)
    targets = [
        target_here(jetpack, Gpu("Orin", (8, 7), (12, 6), gib << 30, processors))
        for processors, gib in ((8, 7), (8, 15), (16, 15))
    ]
    for there, one in itertools.permutations(targets, 2):
        rewritten(own_cache, **there.facts)
        assert (
            refusal(small_network(), one) == f"it was built on a {there.gpu}, this is a {one.gpu}"
        )
    rewritten(own_cache, **here.facts)
    assert ensure_engine(replace(small_network(), graph=never), here).built == ""


def test_the_workspace_has_a_limit(
    own_cache: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one a builder may take all memory, which kills what else runs on a small board."""
    limits = []

    @contextmanager
    def timing_cache(library: TensorRt, config: Any, folder: Path) -> Any:
        limits.append(config.get_memory_pool_limit(library.module.MemoryPoolType.WORKSPACE))
        yield

    monkeypatch.setattr(engine_builder, "_timing_cache", timing_cache)
    small = replace(target, workspace=64)
    assert refusal(small_network(), small) == "its workspace is 1024 MiB, wanted 64"
    engine = ensure_engine(small_network(), small)
    assert limits == [64 << 20]
    assert read_engine(engine.path)[1]["workspace"] == 64
    assert FrontendConfig().workspace == WORKSPACE == target.workspace


def test_of_several_wheels_that_of_the_module_tells_the_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)

    def install(major: int, version: str) -> None:
        folder = tmp_path / f"tensorrt_cu{major}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: tensorrt-cu{major}\nVersion: {version}\n"
        )

    assert _cuda_of("tensorrt", "10.3.0") is None
    install(12, "10.3.0")
    install(13, "11.0.0")
    assert _cuda_of("tensorrt", "10.3.0") == 12
    assert _cuda_of("tensorrt", "11.0.0") == 13
    install(11, "10.3.0")
    assert _cuda_of("tensorrt", "10.3.0") == 12, "not the oldest"


class Interrupted(BaseException):
    pass


def test_an_interrupted_build_leaves_what_was_there(own_cache: Path, target: Target) -> None:
    before = own_cache.read_bytes(), own_cache.with_suffix(".json").read_text()
    shares: list[float] = []

    def interrupt(what: str, share: float) -> None:
        assert what == f"building {small_network().name} with {target.library.name}"
        shares.append(share)
        if len(shares) > 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        ensure_engine(small_network(), target, report=interrupt, again=True)
    assert shares[-1] < 1.0, "the build had ended"
    assert (own_cache.read_bytes(), own_cache.with_suffix(".json").read_text()) == before
    assert {f.suffix for f in engines_dir().iterdir()} == {".engine", ".json", ""}
    assert ensure_engine(replace(small_network(), graph=never), target).built == ""


def test_ctrl_c_waits_for_the_builder_to_stop(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends while TensorRT builds crashes."""
    stopped = threading.Event()

    def build(doing: Any, graph: Any, target: Any, sides: Any, work: Any, *_: Any) -> bytes:
        time.sleep(0.3)  # until the main thread waits
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        work.cancelled.wait()
        time.sleep(0.3)  # TensorRT looks at it now and then
        stopped.set()
        return b""

    monkeypatch.setattr(engine_builder, "_build", build)
    graph = DeviceGraph("", b"", {}, {}, {})
    with pytest.raises(KeyboardInterrupt):
        engine_builder.build_plan("x", graph, target, None, lambda *_: None, tmp_path)
    assert stopped.is_set()


def test_progress_only_grows_and_ends(own_cache: Path, target: Target) -> None:
    shares: list[float] = []
    ensure_engine(small_network(), target, report=lambda _, share: shares.append(share), again=True)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(set(shares)) > 2


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "aliked_ros.cli", "models", "build", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_commands_build_once(own_cache: Path) -> None:
    own_cache.unlink()
    processes = [command(*SMALL, *FOR_ADA, "--json") for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    said = sorted(json.loads(out)[str(own_cache)] for out, _ in outputs)
    assert said == ["built: it cannot be read (No such file or directory)", "fits"]


def test_ctrl_c_ends_the_command_and_leaves_nothing(own_cache: Path) -> None:
    """While it waits for another builder, which is us: in the end it would build."""
    lock = engines_dir() / ".lock"
    shutil.rmtree(engines_dir())
    engines_dir().mkdir()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = command(*SMALL, *FOR_ADA)
        files = Path(f"/proc/{process.pid}/fd")
        deadline = time.monotonic() + 300.0
        while all(file.resolve() != lock for file in files.iterdir()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=300)
    assert (process.returncode, error.splitlines()[-1]) == (130, "interrupted")
    assert [file.name for file in engines_dir().iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (SMALL, r"no compute capability is named.*--compute-capability 8\.9"),
        ([*SMALL, "--compute-capability", "9.0"], r"does not build for .* 9\.0; it does for 7\.5"),
        ([*SMALL, *FOR_ADA, "--max-size", "64x64"], r"from 160x128 to 64x64; no side"),
        (["--size", "640", *FOR_ADA], "write it as 640x480"),
        (["--size", "640x480", "--model", "aliked", *FOR_ADA], "model is 'aliked'; choose one of"),
    ],
)
def test_the_command_says_what_is_wrong(own_cache: Path, arguments: list[str], said: str) -> None:
    process = command(*arguments)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 2
    assert re.search(said, error), error
    assert len(error.strip().splitlines()) == 1


def test_the_executable_for_ros2_run_is_the_same_command(own_cache: Path) -> None:
    executable = Path(sys.executable).with_name("build_engine")
    said = subprocess.check_output([executable, *SMALL, *FOR_ADA], text=True)
    assert said.strip() == f"{own_cache}: fits"


def test_one_engine_for_a_range_of_sizes(own_cache: Path, target: Target) -> None:
    sides = Sides((160, 128), (192, 160))
    engine = ensure_engine(extractor_network("aliked-t16", sides, 3, 256, "float16"), target)
    assert engine.inputs["image"].shape == (1, None, None, 3)
    for size, found in (((160, 128), sides), ((192, 150), sides), ((193, 150), None)):
        assert find_ranged("aliked-t16", size, 3, 256, "float16") == found
    assert find_ranged("aliked-t16", (160, 128), 1, 256, "float16") is None
    with pytest.raises(ConfigurationError, match="no side may get smaller"):
        Sides((160, 128), (320, 100))
    for sizes in ([[300, 200], [160, 128]], [["a", 1], [2, 3]], [[160, 128]], 5):
        rewritten(engine.path, sizes=sizes)  # as somebody may have written it
        assert find_ranged("aliked-t16", (160, 128), 3, 256, "float16") is None
    few = Sides((64, 48), (96, 64))
    with pytest.raises(ConfigurationError, match="64x48 pixels has room for 336 at most"):
        ensure_engine(extractor_network("aliked-t16", few, 3, 337, "float16"), target)


@pytest.mark.long
def test_every_network_builds_for_the_gpus_of_robots(own_cache: Path) -> None:
    """ALIKED-N16 and LightGlue, half and single precision, with no GPU here."""
    target = choose_target(["8.6", "8.9", "12.0"])
    for precision in ("float16", "float32"):
        networks = [
            extractor_network("aliked-n16", (640, 480), 3, 1024, precision),
            *matcher_networks(1024, precision),
        ]
        for network in networks:
            engine = ensure_engine(network, target)
            assert isinstance(engine, Engine)
            assert ensure_engine(replace(network, graph=never), target).sha256 == engine.sha256


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engines").touch()
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(tmp_path))
    with pytest.raises(BackendError, match=r"cannot be written: .* ALIKED_ROS_CACHE"):
        ensure_engine(small_network(), target)


def test_a_graph_that_tensorrt_cannot_build_is_told_in_one_line(
    own_cache: Path, target: Target
) -> None:
    graph = small_network().graph()
    for onnx in (b"", graph.onnx[:-1000]):
        bad = replace(small_network(), graph=lambda onnx=onnx: replace(graph, onnx=onnx))
        with pytest.raises(
            BackendError, match=r"^building aliked-t16_160x128.* failed: "
        ) as raised:
            ensure_engine(bad, target, again=True)
        assert "\n" not in str(raised.value)


def test_a_builder_that_is_none_says_what_tensorrt_logged(own_cache: Path, target: Target) -> None:
    """All that the bindings say is that pybind11's factory function returned nothing."""
    said = "CUDA initialization failure with error: 35: CUDA driver version is insufficient"

    class WithoutBuilder:
        def __getattr__(self, name: str) -> Any:
            return getattr(target.library.module, name)

        def Builder(self, logger: Any) -> None:
            logger.log(self.ILogger.Severity.ERROR, said)
            raise TypeError("pybind11::init(): factory function returned nullptr")

    without = replace(target, library=replace(target.library, module=WithoutBuilder()))
    with pytest.raises(BackendError, match=r"^building .* failed: the NVIDIA driver is too old"):
        ensure_engine(small_network(), without, again=True)


def test_a_damaged_timing_cache_is_begun_anew(tmp_path: Path) -> None:
    """TensorRT's; the one for RTX has none."""
    library = TensorRt(False, "10.3.0", 12, None)
    given: list[bytes | None] = []

    class Config:
        """As the bindings are: a damaged cache is None, and None cannot be set."""

        def create_timing_cache(self, content: bytes) -> bytes | None:
            return None if content == b"damaged" else content

        def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
            if cache is None:
                raise TypeError("incompatible function arguments")
            given.append(cache)
            return cache != b"of another GPU"

        def get_timing_cache(self) -> Any:
            return SimpleNamespace(serialize=lambda: b"measured")

    file = tmp_path / "timing_10.3.0.cache"
    for content, set_to in (
        (b"damaged", [b""]), (b"of another GPU", [b"of another GPU", b""]), (b"fine", [b"fine"]),
    ):  # fmt: skip
        file.write_bytes(content)
        with _timing_cache(library, Config(), tmp_path):
            pass
        assert (given, file.read_bytes()) == (set_to, b"measured")
        given.clear()


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("cuMemAlloc failed: out of memory", "the GPU's memory is full"),
        ("[defaultAllocator.cpp::allocate::31] Error Code 1: OutOfMemory", "memory is full"),
        ("cudaError 35: CUDA driver version is insufficient for CUDA runtime", "driver is too old"),
        ("cuStreamSynchronize failed: unspecified launch failure", "the GPU was lost"),
        ("cuCtxPushCurrent failed: an illegal memory access was encountered", "the GPU was lost"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "another process alone"),
        ("Error Code 7: BuildCanceled (Build canceled by user In next)", "was interrupted"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", "memory is full"),
        ("CUDA error: device-side assert triggered", "the GPU was lost"),
        ("something new", "something new"),
    ],
)
def test_what_the_gpu_libraries_say_is_explained(said: str, cause: str) -> None:
    for form in ([said], RuntimeError(said)):
        text = str(explained("running x.engine", form))
        assert text.startswith("running x.engine failed: ")
        assert cause in text
        assert said in text, "the original is kept"
        assert "; " in text, "a remedy follows"


def test_without_tensorrt_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(GpuError, match=r"TensorRT is not installed .*JetPack 6\.1.*pip install"):
        load_tensorrt()
