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


"""``aliked_ros map ...``: the maps that the front-end saves."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aliked_ros.cli.shared import AsJson, show

if TYPE_CHECKING:
    from aliked_ros.frontend.places import KeyframeDatabase

app = typer.Typer(
    no_args_is_help=True,
    help="Maps of ~/save_map, and recordings of ~/keyframes: look at them, merge and thin them.",
)
_Map = Annotated[Path, typer.Argument(help="A map, or a recording with keyframes (.mcap).")]


@app.command(epilog="Example: aliked_ros map info office.mcap")
def info(path: _Map, as_json: AsJson = False) -> None:
    """What a map holds."""
    from aliked_ros.exporting.maps import MapReader

    with MapReader(path) as reader:
        places = list(reader.places())
        version, cut_off = reader.version, reader.cut_off
    stamps = [place.nanoseconds * 1e-9 for place in places]
    sizes = Counter(f"{one.features.width}x{one.features.height}" for one in places)
    facts: dict[str, Any] = {
        "map": str(path),
        "version": "a recording" if version is None else version,
        "complete": not cut_off,
        "keyframes": len(places),
        "epochs": len({place.epoch for place in places}),
        "models": ", ".join(sorted({place.features.model for place in places})),
        "images": ", ".join(sizes),
        "features": sum(len(place.features) for place in places),
        "calibrated": sum(place.normalized is not None for place in places),
        "with depth": sum(place.depth is not None for place in places),
        "with pose": sum(place.pose is not None for place in places),
        "first": _time(min(stamps)),
        "last": _time(max(stamps)),
        "bytes": path.stat().st_size if path.is_file() else 0,
    }
    show(facts, as_json)


@app.command(epilog="Example: aliked_ros map merge monday.mcap tuesday.mcap --output office.mcap")
def merge(
    paths: Annotated[list[Path], typer.Argument(help="Maps, or recordings with keyframes.")],
    output: Annotated[
        Path, typer.Option(help="Map to write; what it holds already is kept.", dir_okay=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Put the keyframes of several maps of one model into one."""
    from aliked_ros.exporting.maps import MapFile, definitions_of

    database = _everything()
    added = {str(path): _load(path, database) for path in paths}
    with MapFile(output) as file:
        count = file.save(database, definitions_of(paths[0]))
    show({"output": str(output), "keyframes": count, **added}, as_json)


@app.command(epilog="Example: aliked_ros map prune office.mcap --keep 2000 --output small.mcap")
def prune(
    path: _Map,
    keep: Annotated[int, typer.Option(min=1, help="Number of keyframes to keep.")],
    output: Annotated[
        Path | None, typer.Option(help="Map to write; default: the map itself.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remove the keyframes whose view their neighbours share most."""
    from aliked_ros.exporting.maps import MapFile, definitions_of

    database = _everything()
    with MapFile(output or path) as file:
        if output is None:
            file.load(database)
        else:
            _load(path, database)
        removed = database.thin(keep)
        count = file.save(database, definitions_of(path))
    show({"output": str(output or path), "keyframes": count, "removed": removed}, as_json)


@app.command("show", epilog="Example: aliked_ros map show office.mcap --output office.png")
def show_map(
    path: _Map,
    output: Annotated[Path, typer.Option(help="Picture to write.", dir_okay=False)],
    count: Annotated[int, typer.Option(min=1, help="Keyframes to show, spread evenly.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Draw the keyframes of a map on one sheet."""
    import cv2
    import numpy as np

    from aliked_ros.exporting.maps import MapReader
    from aliked_ros.io.drawing import contact_sheet
    from aliked_ros.io.images import decode_image
    from aliked_ros.io.results import write_picture

    with MapReader(path) as reader:
        every = -(-reader.count // count)
        pictures = [
            decode_image(place.thumbnail)
            for number, place in enumerate(reader.places())
            if number % every == 0 and place.thumbnail
        ]
    coloured = [
        one if one.ndim == 3 else np.asarray(cv2.cvtColor(one, cv2.COLOR_GRAY2RGB), np.uint8)
        for one in pictures
    ]
    write_picture(output, contact_sheet(coloured, columns=10))
    show({"output": str(output), "keyframes": len(pictures)}, as_json)


def _everything() -> KeyframeDatabase:
    """A database that drops nothing."""
    from aliked_ros.frontend.places import KeyframeDatabase

    return KeyframeDatabase(max_places=1 << 31)


def _load(path: Path, database: KeyframeDatabase) -> int:
    """Add the places of a map or recording; returns how many were new."""
    from aliked_ros.exporting.maps import MapFile

    return MapFile(path).load(database).added


def _time(stamp: float) -> str:
    return datetime.fromtimestamp(stamp, timezone.utc).isoformat(sep=" ", timespec="seconds")
