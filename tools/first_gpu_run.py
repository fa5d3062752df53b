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

"""Try the networks on a GPU that nobody has tried: do they work, are they right, how fast.

    python3 tools/first_gpu_run.py --output FOLDER

Run it in a bundle (`make gpu-bundle`): the machine needs no network, data or ROS, only Python with
PyTorch, Triton, NumPy, OpenCV, SciPy, numba, PyYAML, psutil and pytest. Every part is a process of
its own with its own limit, so that a crash or a hang loses no other part. FOLDER/results.jsonl gets
each figure as soon as it is there, and one line with the state of each part; FOLDER/log.txt has
what the parts print. Without a GPU the same run is a rehearsal: parts that need one are skipped.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import gpu_parts
from gpu_parts import ROOT

SKIPPED = 77  # exit status of a part that cannot run here
LEAST = 5.0  # seconds below which no part is started


def main() -> int:
    """The number of parts that did not pass, or the exit status of the one part it ran."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--limit", type=float, default=480.0, help="seconds in all (480)")
    parser.add_argument("--parts", help="only these, e.g. parity,benchmark")
    parser.add_argument("--run", nargs=2, metavar=("PART", "PLACE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    output = options.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    if options.run:
        name, place = options.run
        return run_here(name, place, output)
    with tempfile.TemporaryDirectory(prefix="gpu_run_") as work:
        return run_all(output, options.limit, options.parts, unpack(Path(work)))


def unpack(work: Path) -> dict[str, str]:
    """Make ready what the bundle carries; the variables for the parts."""
    site, weights = work / "site", work / "cache" / "weights"
    weights.mkdir(parents=True)
    shutil.copytree(ROOT / "bundle" / "site", site)
    for wheel in sorted((ROOT / "bundle" / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(site)
    for packed_weights in sorted((ROOT / "bundle" / "weights").iterdir()):
        if packed_weights.suffix == ".xz":
            with lzma.open(packed_weights) as source:
                (weights / packed_weights.stem).write_bytes(source.read())
        else:
            (weights / packed_weights.name).symlink_to(packed_weights)
    # the machine's own packages before the carried ones, which may be for another Python
    paths = [str(ROOT / "tools"), str(ROOT), str(ROOT / "test"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "ALIKED_ROS_CACHE": str(work / "cache"),
        "ALIKED_ROS_WEIGHTS": "",
        "ALIKED_ROS_CARRIED": str(site),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "TRITON_CACHE_DIR": str(work / "triton"),
    }


def run_all(output: Path, limit: float, chosen: str | None, variables: dict[str, str]) -> int:
    """Every part in its turn while there is time; the number of those that did not pass."""
    begin, failed, place = time.monotonic(), 0, "cuda:0"
    for name in chosen.split(",") if chosen else [part.name for part in gpu_parts.PARTS]:
        part = gpu_parts.find(name)
        left = limit - (time.monotonic() - begin)
        if left < LEAST:
            state: dict[str, Any] = {"state": "skipped", "reason": "no time was left"}
        elif part.needs_gpu and place == "cpu":
            state = {"state": "skipped", "reason": "there is no GPU here"}
        else:
            state = run_child(name, place, output, min(part.seconds, left), variables)
        gpu_parts.append(output, {"part": part.name, **state})
        failed += state["state"] not in ("passed", "skipped")
        print(f"{part.name}: {state['state']} {state.get('reason', '')}".rstrip(), flush=True)
        if part.name == "versions" and no_gpu(output / gpu_parts.RESULTS):
            place = "cpu"
            print("There is no GPU here: this is a rehearsal on the CPU.", flush=True)
    seconds = time.monotonic() - begin
    gpu_parts.append(output, {"part": "all", "seconds": round(seconds, 1), "not_passed": failed})
    print(f"{failed} parts did not pass; results: {output / gpu_parts.RESULTS}")
    return failed


def no_gpu(results: Path) -> bool:
    """Whether the part ``versions`` found that there is none; not where it could not tell."""
    lines = map(json.loads, results.read_text(encoding="utf-8").splitlines())
    return [line["gpu"] for line in lines if "gpu" in line][-1:] == [None]


def run_child(
    name: str, place: str, output: Path, limit: float, variables: dict[str, str]
) -> dict[str, Any]:
    """Run one part in a process of its own, which is killed at its limit: what became of it."""
    command = [sys.executable, __file__, "--output", str(output), "--run", name, place]
    begin = time.monotonic()
    log = output / "log.txt"
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n== {name}\n")
        file.flush()
        start = file.tell()
        child = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=variables, start_new_session=True
        )
        try:
            code = child.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # with all that it started, also when this process is interrupted
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    state: dict[str, Any] = {"seconds": round(time.monotonic() - begin, 1)}
    if code == 0:
        return {"state": "passed", **state}
    text = log.read_bytes()[start:].decode(errors="replace")
    said = " ".join(text.strip().splitlines()[-1:])[:500]
    if code == SKIPPED:
        return {"state": "skipped", "reason": said, **state}
    if code is None:
        return {"state": "timed out", "reason": f"after {limit:.0f} s", **state}
    if code < 0:
        return {"state": "crashed", "reason": signal.Signals(-code).name, "said": said, **state}
    return {"state": "failed", "reason": said, **state}


def run_here(name: str, place: str, output: Path) -> int:
    """One part in this process: its exit status."""
    sys.path.append(os.environ["ALIKED_ROS_CARRIED"])
    part = gpu_parts.find(name)
    try:
        part.run(gpu_parts.Run(place, part.name, output))
    except gpu_parts.Skipped as reason:
        print(reason)
        return SKIPPED
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
