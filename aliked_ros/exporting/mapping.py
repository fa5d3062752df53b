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

"""COLMAP's incremental mapping of an exported database, in a separate process.

So a hang or crash of the C++ library, for example on a degenerate database, becomes an error.
Run as ``python -m aliked_ros.exporting.mapping DATABASE OUTPUT``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pycolmap

from aliked_ros.errors import BackendError, SourceError
from aliked_ros.exporting.colmap import mapping_options, quiet_colmap

_SEED = 0
_NONE = 3  # exit status: no two images give a model


def reconstruct(database: Path, output: Path, timeout: float = 1800.0) -> pycolmap.Reconstruction:
    """The largest model of a database, with a fixed seed; also written to ``output``.

    output: folder, replaced. timeout: seconds. Calibrated cameras stay fixed.
    Raises SourceError if the images give no model, BackendError if COLMAP fails.
    """
    command = [sys.executable, "-m", __name__, str(database), str(output)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise BackendError(
            f"COLMAP's mapping of {database} took longer than {timeout:.0f} s; use fewer images."
        ) from error
    if done.returncode == _NONE:
        raise SourceError(
            f"COLMAP finds no model in {database}: no two images have enough matches that fit "
            "one motion with enough parallax."
        )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BackendError(
            f"COLMAP's mapping of {database} ended with status {done.returncode}: {last}"
        )
    return pycolmap.Reconstruction(output)


def _map(database: Path, output: Path) -> int:
    options = mapping_options(database)
    options.random_seed = _SEED
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    with quiet_colmap():
        models = pycolmap.incremental_mapping(database, database.parent, output, options)
    if not models:
        return _NONE
    largest = max(models.values(), key=lambda model: int(model.num_reg_images()))
    shutil.rmtree(output)
    output.mkdir()
    largest.write(output)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Map a database; returns the exit status."""
    database, output = map(Path, sys.argv[1:] if arguments is None else arguments)
    return _map(database, output)


if __name__ == "__main__":
    raise SystemExit(main())
