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

"""Where recordings and results lie: local folders, or anything that fsspec has an address for."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from aliked_ros.errors import ConfigurationError, OutputError, SourceError
from aliked_ros.io.results import output_path

_WILDCARDS = "*?["
_BLOCK = 1 << 20  # bytes
_VOLATILE = ("created", "last_accessed", "islink", "mode", "uid", "gid", "ino", "nlink")


def is_local(recording: str) -> bool:
    """Whether a recording is opened where it lies, not fetched first."""
    return "://" not in recording and "::" not in recording


class Store:
    """The output folder; names are relative to it, with ``/``.

    Files are written aside and renamed. Methods raise OutputError if that is impossible.
    """

    def __init__(self, address: str) -> None:
        """Open it; ConfigurationError for an address that fsspec does not know."""
        self.address = address
        try:
            self._files, self._root = url_to_fs(address)
        except (ValueError, ImportError) as error:
            raise ConfigurationError(f"output {address}: {error}.") from error
        self._local = isinstance(self._files, LocalFileSystem)

    def path(self, name: str) -> str:
        """The address of a file, for people."""
        return f"{self.address.rstrip('/')}/{name}"

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local path to write; the file has its name once the block has ended well."""
        if self._local:
            with output_path(Path(self._root, name)) as path:
                yield path
            return
        final = f"{self._root}/{name}"
        aside = str(PurePosixPath(final).with_name(f".{uuid.uuid4().hex[:8]}"))
        with TemporaryDirectory() as folder:
            path = Path(folder, PurePosixPath(name).name)
            yield path
            with self._failing(name):
                self._files.makedirs(str(PurePosixPath(final).parent), exist_ok=True)
                self._files.put_file(str(path), aside)
                self._files.mv(aside, final)

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """A local path of a file, fetched first where it is elsewhere."""
        if self._local:
            yield Path(self._root, name)
            return
        with TemporaryDirectory() as folder:
            path = Path(folder, PurePosixPath(name).name)
            self._files.get_file(f"{self._root}/{name}", str(path))
            yield path

    def write_json(self, name: str, content: Any) -> None:
        """Write an indented JSON file."""
        with self.writing(name) as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def read_json(self, name: str) -> Any:
        """The object in a JSON file; None if there is none, or it is damaged."""
        try:
            content = json.loads(self._files.cat_file(f"{self._root}/{name}"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self._files.exists(f"{self._root}/{name}"))

    def sizes(self, folder: str) -> dict[str, int]:
        """Size in bytes of each file in a folder and those below, by its name there."""
        root = f"{self._root}/{folder}"
        self._files.invalidate_cache()
        try:
            found = self._files.find(root, detail=True)
        except FileNotFoundError:
            return {}
        start = len(self._files._strip_protocol(root).rstrip("/")) + 1
        return {path[start:]: int(facts["size"] or 0) for path, facts in found.items()}

    def remove(self, name: str) -> None:
        """Remove a file or folder, if it is there."""
        with self._failing(name):
            if self._files.exists(path := f"{self._root}/{name}"):
                self._files.rm(path, recursive=True)

    @contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path(name)}: {error.strerror or error}."
            ) from error


def expand(pattern: str) -> list[str]:
    """The recordings that a pattern with ``*``, ``?`` or ``[]`` names, in order of their names.

    Without wildcards: the pattern itself. ``#/image/topic`` stays at each.
    """
    address, mark, topic = pattern.partition("#")
    if not any(one in address for one in _WILDCARDS):
        return [pattern]
    if is_local(address):
        base, *parts = Path(address).expanduser().absolute().parts
        found = sorted(str(path) for path in Path(base).glob(str(Path(*parts))))
        return [path + mark + topic for path in found]
    with _fetching(address):
        files, path = url_to_fs(address)
        _, chain, outer = address.partition("::")
        return [
            f"{files.unstrip_protocol(one) if not chain else _protocol(address) + one}"
            f"{chain}{outer}{mark}{topic}"
            for one in sorted(files.glob(path))
        ]  # fmt: skip


@contextmanager
def on_this_machine(recording: str) -> Iterator[str]:
    """What ``open_source`` opens; what lies elsewhere is fetched, and removed afterwards.

    Raises SourceError if it cannot be fetched.
    """
    if is_local(recording):
        yield recording
        return
    address, mark, topic = recording.partition("#")
    with TemporaryDirectory() as folder:
        with _fetching(address):
            files, path = url_to_fs(address)
            target = Path(folder, PurePosixPath(path.rstrip("/")).name)
            if not address.startswith("http") and files.isdir(path):
                files.get(path.rstrip("/") + "/", f"{target}/", recursive=True)
            else:
                files.get_file(path, str(target))
        yield f"{target}{mark}{topic}"


def fingerprint(recording: str) -> str:
    """Changes when a recording's files do: names, sizes and times. Reads none of them."""
    address = recording.rsplit("#", 1)[0]
    if is_local(recording):
        facts: list[Any] = [
            [name, path.stat().st_size, path.stat().st_mtime_ns]
            for name, path in _files_of(recording)
        ]
    else:
        with _fetching(address):
            files, path = url_to_fs(address)
            whole = {path: files.info(path)}
            if whole[path].get("type") == "directory":
                whole = files.find(path, detail=True)
            facts = [
                [name, sorted((k, str(v)) for k, v in info.items() if k not in _VOLATILE)]
                for name, info in sorted(whole.items())
            ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def checksum(local: str) -> str:
    """SHA-256 of a recording's file; of a folder: of its files' names and checksums.

    local: as ``on_this_machine`` gives it.
    """
    sums = [(name, _sha256(path)) for name, path in _files_of(local)]
    if _path_of(local).is_file():
        return sums[0][1]
    listing = "".join(f"{digest}  {name}\n" for name, digest in sums)
    return hashlib.sha256(listing.encode()).hexdigest()


def _path_of(local: str) -> Path:
    path = Path(local).expanduser()
    if not path.exists():
        path = Path(local.rsplit("#", 1)[0]).expanduser()
    return path.parent if path.suffix == ".csv" else path  # a table lies beside its images


def _files_of(local: str) -> list[tuple[str, Path]]:
    """Name and path of each file of a local recording; none of a source that has no files."""
    if local == "virtual":
        return []
    path = _path_of(local)
    if path.is_file():
        return [(path.name, path)]
    if not path.is_dir():
        raise SourceError(f"{local} does not exist.")
    inside = sorted(one for one in path.rglob("*") if one.is_file())
    return [(one.relative_to(path).as_posix(), one) for one in inside]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}.") from error
    return digest.hexdigest()


def _protocol(address: str) -> str:
    return address.partition("://")[0] + "://"


@contextmanager
def _fetching(address: str) -> Iterator[None]:
    """Whatever a storage's client raises becomes a SourceError; the clients have their own."""
    try:
        yield
    except SourceError:
        raise
    except FileNotFoundError as error:
        raise SourceError(f"cannot fetch {address}: it does not exist.") from error
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"cannot fetch {address}: {text.rstrip('.')}.") from error
