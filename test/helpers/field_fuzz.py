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

"""Recordings, videos, image folders and CameraInfos as the field damages them.

Each is one that is whole, with bytes, fields, stamps or its end changed. What may come of it is
images or one sentence; fewer images than before only with a word about it. 2,000 of them:

    PYTHONPATH=test python -m helpers.field_fuzz 2000 [FIRST_SEED]
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import zstandard
from rosbags.rosbag2 import StoragePlugin

from aliked_ros.camera import CameraModel
from aliked_ros.errors import AlikedError
from aliked_ros.io.image_messages import ENCODINGS
from aliked_ros.sources import open_source
from helpers import bags

IMAGES = 6
TIMEOUT = 120  # seconds for one
SIZE = (64, 48)
_START = 1_700_000_000 * 10**9
_PERIOD = 50_000_000
Random = np.random.Generator


def picture(number: int) -> Any:
    return np.full((SIZE[1], SIZE[0]), 20 * number, np.uint8)


def odd_number(rng: Random) -> int:
    return int(rng.choice([0, 1, 7, 63, 65, 128, 8193, 2**16, 2**31 - 1]))


def odd_stamp(rng: Random, stamp: int) -> int:
    changed = [0, stamp - _PERIOD, stamp + 3600 * 10**9, stamp - 2 * _PERIOD, (2**31 - 1) * 10**9]
    return int(rng.choice([*changed, stamp + 10**16]))


def odd_float(rng: Random) -> float:
    return float(rng.choice([0.0, -1.0, np.nan, np.inf, 1e300, 1e-300, 90.0]))


def entries(rng: Random | None) -> list[bags.Entry]:
    """A stereo pair with CameraInfos; with ``rng``, one thing in one message is odd."""
    found: list[bags.Entry] = []
    k = np.array([[90.0, 0.0, 32.0], [0.0, 90.0, 24.0], [0.0, 0.0, 1.0]])
    for index in range(IMAGES):
        stamp = _START + index * _PERIOD
        for side, shift in (("left", 0.0), ("right", -9.0)):
            p = np.hstack([k, [[shift], [0.0], [0.0]]])
            found.append((f"/{side}/image_rect", stamp, bags.image(picture(index), stamp, "mono8")))
            found.append((f"/{side}/camera_info", stamp, bags.camera_info(stamp, SIZE, k, p=p)))
    found.append(("/tf", _START, bags.header(1)))
    if rng is None:
        return found
    for _ in range(rng.integers(1, 4)):
        message = found[rng.integers(0, len(found) - 1)][2]
        kind = rng.integers(0, 4)
        if kind == 0:
            own = message.header.stamp
            sec, nanosec = divmod(odd_stamp(rng, own.sec * 10**9 + own.nanosec), 10**9)
            own.sec, own.nanosec = min(sec, 2**31 - 1), nanosec
        elif kind == 1:
            setattr(message, str(rng.choice(["width", "height"])), odd_number(rng))
        elif hasattr(message, "encoding"):
            message.encoding = str(rng.choice([*ENCODINGS, "16UC1", "?", ""]))
            message.step = odd_number(rng) if kind == 2 else message.step
        else:
            message.d = np.array([odd_float(rng) for _ in range(rng.integers(0, 15))])
            values = getattr(message, str(rng.choice(["k", "p", "r"])))
            values[rng.integers(0, len(values))] = odd_float(rng)
            models = ["plumb_bob", "equidistant", "rational_polynomial", "x", ""]
            message.distortion_model = str(rng.choice(models))
    return found


def bend(rng: Random, data: bytes) -> bytes:
    """The bytes of a file, cut off, or with some changed, zeroed, lost or doubled."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not changed:
            break
        begin = int(rng.integers(0, len(changed)))
        length = int(rng.choice([1, 4, 64, 4096]))
        kind = rng.integers(0, 5)
        if kind == 0:
            del changed[begin:]
        elif kind == 1:
            changed[begin] = int(rng.integers(0, 256))
        elif kind == 2:
            changed[begin : begin + length] = bytes(min(length, len(changed) - begin))
        elif kind == 3:
            del changed[begin : begin + length]
        else:
            changed[begin:begin] = changed[begin : begin + length]
    return bytes(changed)


def bend_file(rng: Random, path: Path) -> None:
    path.write_bytes(bend(rng, path.read_bytes()))


def recording(rng: Random, folder: Path) -> str:
    """A bag in one of the storages, odd inside or damaged outside."""
    inside = bool(rng.integers(0, 2))
    kept = entries(rng if inside else None)
    path = folder / "run"
    kind = str(rng.choice(["mcap", "db3", "fields", "zstd", "ros1"]))
    if kind == "ros1":
        kept = [entry for entry in kept if hasattr(entry[2], "header")]
        file = bags.write_ros1(path.with_suffix(".bag"), kept)
        if not inside:
            bend_file(rng, file)
        return str(file)
    bags.write(path, kept, StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3)
    file = path / ("run.mcap" if kind == "mcap" else "run.db3")
    if kind == "fields":
        change_fields(rng, file)
    elif kind == "zstd":
        packed = file.with_suffix(".db3.zstd")
        packed.write_bytes(zstandard.compress(file.read_bytes()))
        file.unlink()
        file = packed
    if not inside:
        bend_file(rng, file)
    if rng.integers(0, 3) == 0:
        bend_file(rng, path / "metadata.yaml")
    elif rng.integers(0, 3) == 0:
        (path / "metadata.yaml").unlink()
    return str(path if rng.integers(0, 2) else file)


def change_fields(rng: Random, file: Path) -> None:
    """What other recorders write into rosbag2's tables."""
    value = rng.choice(["unknown", "", "ros2idl", "string data", "cdr", "\x00", "9" * 40])
    table, column = {
        0: ("message_definitions", "encoding"),
        1: ("message_definitions", "encoded_message_definition"),
        2: ("topics", "serialization_format"),
        3: ("topics", "type"),
        4: ("messages", "timestamp"),
        5: ("messages", "data"),
        6: ("topics", "name"),
    }[int(rng.integers(0, 7))]
    row = int(rng.integers(1, 6))
    database = sqlite3.connect(file)
    database.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (str(value), row))
    database.commit()
    database.close()


def video(rng: Random, folder: Path) -> str:
    path = folder / str(rng.choice(["run.mp4", "run.avi", "run.mkv"]))
    code = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 20.0, SIZE)
    for index in range(IMAGES):
        writer.write(cv2.cvtColor(picture(index), cv2.COLOR_GRAY2BGR))
    writer.release()
    bend_file(rng, path)
    return str(path)


def images(rng: Random, folder: Path) -> str:
    """A folder of images, with or without a table and a calibration, something in it damaged."""
    suffix = str(rng.choice([".png", ".jpg", ".pgm", ".bmp", ".tiff", ".webp"]))
    for index in range(IMAGES):
        (folder / f"{index}{suffix}").write_bytes(cv2.imencode(suffix, picture(index))[1].tobytes())
    tables = {
        "frames.csv": "".join(f"{i},{i / 20},{i}{suffix}\n" for i in range(IMAGES)),
        "rgb.txt": "# x\n" + "".join(f"{i / 20} {i}{suffix}\n" for i in range(IMAGES)),
        "calib.json": json.dumps(
            {"width": 64, "height": 48, "fx": 90, "fy": 90, "cx": 32, "cy": 24, "rate_hz": 20}
        ),
    }
    for name in rng.choice(list(tables), rng.integers(0, 3), replace=False):
        (folder / str(name)).write_text(tables[str(name)])
    files = sorted(folder.iterdir())
    for _ in range(rng.integers(1, 4)):
        bend_file(rng, files[rng.integers(0, len(files))])
    return str(folder)


def camera_info(rng: Random, folder: Path) -> str:
    """A CameraInfo with odd fields, straight to the camera model."""
    whole = SimpleNamespace(
        width=64, height=48, distortion_model="plumb_bob", d=[0.1, 0, 0, 0, 0],
        k=[90.0, 0, 32, 0, 90, 24, 0, 0, 1], p=[90.0, 0, 32, 0, 0, 90, 24, 0, 0, 0, 1, 0],
        binning_x=0, binning_y=0,
        roi=SimpleNamespace(width=0, height=0, x_offset=0, y_offset=0),
    )  # fmt: skip
    for _ in range(rng.integers(1, 4)):
        name = str(rng.choice(["width", "height", "d", "k", "p", "binning_x", "model", "roi"]))
        if name == "model":
            names = ["equidistant", "rational_polynomial", "Inverse Brown Conrady", "?"]
            whole.distortion_model = str(rng.choice(names))
        elif name == "roi":
            whole.roi.width = odd_number(rng)
        elif name == "d":
            whole.d = [odd_float(rng) for _ in range(rng.integers(0, 16))]
        elif name in "kp":
            getattr(whole, name)[rng.integers(0, 9)] = odd_float(rng)
        else:
            setattr(whole, name, odd_number(rng))
    camera = CameraModel.from_info(whole, bool(rng.integers(0, 2)))
    camera.normalize(np.array([[0, 0], [31, 23]], np.float32))
    return ""


KINDS: dict[str, Callable[[Random, Path], str]] = {
    "recording": recording,
    "video": video,
    "images": images,
    "camera_info": camera_info,
}


def look(seed: int, folder: Path, said: list[str]) -> str:
    """One of them: what came of it, or an AssertionError. said: grows by what is warned of."""
    rng = np.random.default_rng(seed)
    kind = list(KINDS)[int(rng.choice(4, p=[0.5, 0.1, 0.2, 0.2]))]
    partner: Any = "right" if kind == "recording" and rng.integers(0, 2) else "none"
    said.clear()
    try:
        spec = KINDS[kind](rng, folder)
        if not spec:
            return f"{kind}: used"
        if kind == "recording":
            spec += "#/left/image_rect"
        source = open_source(spec, partner=partner)
        given = list(source)
    except AlikedError as error:
        sentence = str(error)
        assert "\n" not in sentence, (seed, sentence)
        assert " at 0x" not in sentence, (seed, sentence)
        assert 20 < len(sentence) < 1500, (seed, sentence)
        return f"{kind}: refused"
    assert all(image.pixels.dtype == np.uint8 for image in given)
    # A table that ends after a whole line is a shorter one, and so is a container that has lost
    # the number of its frames; of two of these it may announce too many.
    announced = IMAGES if kind == "recording" else min(IMAGES, source.length or 0)
    announced -= 2 * (kind == "video")
    lost = len(given) < announced
    assert not lost or said or source.skipped, (seed, spec, len(given))
    return f"{kind}: {'partly' if lost else 'whole'}"


def run(seeds: range, show: Callable[[str], None] = lambda _: None) -> Counter[str]:
    """How often each outcome came."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("aliked_ros")
    logger.addHandler(handler)
    logger.propagate = False
    outcomes: Counter[str] = Counter()
    try:
        for seed in seeds:
            folder = Path(tempfile.mkdtemp(prefix="field_fuzz_"))
            signal.alarm(TIMEOUT)
            try:
                outcomes[look(seed, folder, said)] += 1
            except Exception as error:
                show(f"seed {seed}: {type(error).__name__}: {error}")
                outcomes["FAULT"] += 1
            finally:
                signal.alarm(0)
                shutil.rmtree(folder)
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    return outcomes


if __name__ == "__main__":
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    result = run(range(first, first + int(sys.argv[1])), print)
    for name, count in sorted(result.items()):
        print(f"{count:6d}  {name}")
    raise SystemExit(bool(result["FAULT"]))
