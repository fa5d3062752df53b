"""Files are replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from aliked_ros.cache import atomic_path, cache_dir


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


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("ALIKED_ROS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "aliked_ros"
