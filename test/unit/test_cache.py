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

"""Files are replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aliked_ros.system.cache import atomic_path, cache_dir, remove_leftovers


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "result.npz"
    with atomic_path(target) as written:
        written.write_text("new")
        assert written.suffix == ".npz"
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_path(target) as written:  # noqa: PT012
        written.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for content in ("first", "second"):
        with atomic_path(target) as written:
            written.mkdir()
            (written / f"{content}.onnx").write_text(content)
    assert [path.name for path in target.iterdir()] == ["second.onnx"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_comes_back_when_its_successor_cannot_take_its_place(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old.onnx").touch()
    with pytest.raises(FileNotFoundError), atomic_path(target):
        pass  # nothing was written, so nothing can be renamed
    assert [path.name for path in target.iterdir()] == ["old.onnx"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_never_replaces_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "precious").touch()
    monkeypatch.chdir(folder)
    for target in (folder, Path("."), Path("..")):
        with pytest.raises(IsADirectoryError), atomic_path(target) as written:
            written.write_text("new")
    assert list(tmp_path.rglob("*")) == [folder, folder / "precious"]


def test_an_old_folder_outlives_a_way_back_that_fails_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old.onnx").touch()
    rename = Path.rename

    def to_target_fails(path: Path, goal: Path) -> Path:
        if goal == target:
            raise PermissionError
        return rename(path, goal)

    monkeypatch.setattr(Path, "rename", to_target_fails)
    with pytest.raises(PermissionError), atomic_path(target) as written:
        written.mkdir()
    assert [path.name for path in tmp_path.rglob("*.onnx")] == ["old.onnx"]


def test_a_linked_folder_is_replaced_and_what_it_led_to_stays(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").touch()
    target = tmp_path / "model"
    target.symlink_to(other)
    with atomic_path(target) as written:
        written.mkdir()
    assert not target.is_symlink()
    assert sorted(tmp_path.rglob("*")) == [target, other, other / "precious"]


def test_leftovers_of_killed_processes_go_after_a_while(tmp_path: Path) -> None:
    target = tmp_path / "model"
    (tmp_path / ".model.01234567").mkdir()
    (tmp_path / ".model.01234567" / "half.onnx").touch()
    (tmp_path / ".model.89abcdef").mkdir()
    (tmp_path / ".another.01234567").mkdir()
    for old in (".model.01234567", ".another.01234567"):
        os.utime(tmp_path / old, (0, 0))
    remove_leftovers(target)
    assert {path.name for path in tmp_path.iterdir()} == {".model.89abcdef", ".another.01234567"}


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("ALIKED_ROS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "aliked_ros"
