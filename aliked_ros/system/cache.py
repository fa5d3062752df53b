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

"""The cache folder for weights and engines, and atomic writing of files and folders.

Layout: ``weights/`` has the published checkpoints, ``engines/`` the TensorRT engines.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from aliked_ros.errors import OutputError

_URI = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # a Path has one of its slashes left


def cache_dir() -> Path:
    """Folder for everything that can be fetched or computed again; not created here.

    ``$ALIKED_ROS_CACHE`` if set, else the user's cache folder (``~/.cache/aliked_ros``).
    """
    chosen = os.environ.get("ALIKED_ROS_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("aliked_ros"))


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` for a file or folder, which then replaces ``target``.

    The path has the target's suffix, since some writers choose their format by it. If the block
    raises, what it wrote is removed and ``target`` stays unchanged. A folder can be replaced only
    by a folder. Missing parent folders are created. OSError (read-only folder,
    full disk, a folder in a file's place) passes through.
    """
    if not target.name:
        raise _is_a_folder(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    written = target.with_name(f".{target.stem}.{mark}{target.suffix}")
    try:
        yield written
        if not target.is_dir():
            os.replace(written, target)
        elif written.is_file():
            raise _is_a_folder(target)
        else:
            _replace_folder(target, written, target.with_name(f".{target.stem}.{mark}.old"))
    finally:
        _remove(written)


def check_target(target: Path) -> None:
    """Raises OutputError for a URI, a device or a pipe: root could replace /dev/null by a file."""
    other = ""
    if _URI.match(str(target)):
        other = "a URI"
    elif os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target):
        other = "a device or a pipe"
    if other:
        raise OutputError(f"cannot write {target}: it is {other}; give the path of a local file.")


def remove_leftovers(target: Path) -> None:
    """Remove partial files of ``target`` left by killed processes, older than an hour."""
    for leftover in target.parent.glob(f".{target.stem}.*"):
        if time.time() - leftover.lstat().st_mtime > 3600.0:
            _remove(leftover)


def _replace_folder(target: Path, written: Path, aside: Path) -> None:
    """Replace the folder ``target`` by ``written``, in two steps.

    If the second step and its undo fail, the old content stays in ``aside``.
    """
    target.rename(aside)
    try:
        written.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_a_folder(path: Path) -> IsADirectoryError:
    return IsADirectoryError(errno.EISDIR, "is a folder", str(path))
