"""The folder for fetched weights and exported networks, and writing that never leaves half a file.

Layout: ``weights/`` holds the published checkpoints, ``models/`` the networks exported from them.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """Folder of everything that can be fetched or computed again; not created here.

    ``$ALIKED_ROS_CACHE`` where set, else the user's cache folder (``~/.cache/aliked_ros``).
    """
    chosen = os.environ.get("ALIKED_ROS_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("aliked_ros"))


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` to write a file or folder to; it then replaces ``target``.

    The path has the target's suffix, since some writers choose their format by it. When the block
    raises, what it wrote is removed and ``target`` stays as it was. Missing parent folders are
    created. OSError (read-only folder, full disk) passes through.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    written = target.with_name(f".{target.stem}.{mark}{target.suffix}")
    replaced = target.with_name(f".{target.stem}.{mark}.old")
    try:
        yield written
        if target.is_dir():  # a folder cannot be replaced in one step
            target.rename(replaced)
        try:
            os.replace(written, target)
        except OSError:
            if replaced.exists():
                replaced.rename(target)
            raise
    finally:
        for leftover in (written, replaced):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
