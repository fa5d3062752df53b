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

"""What happens when something goes wrong, and what only a real driver shows."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import Any

import numpy as np

from aliked_ros.errors import BackendError
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.types import UInt8Array
from gpu_parts import Run, Skipped, carried
from gpu_parts.checks import device_backend, noise


def cuda_graph(run: Run) -> None:
    """``CudaGraph`` on the real driver, recording what PyTorch launches."""
    import torch

    from aliked_ros.backends.gpu.cuda_graph import CudaGraph

    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    x = torch.zeros(1 << 20, device=run.place)
    with torch.cuda.stream(stream):
        x.add_(1)  # what the launch needs is loaded
        stream.synchronize()
        x.zero_()
        graph = CudaGraph(stream.cuda_stream, lambda: _unit(x.add_(1)))
        stream.synchronize()
        assert float(x.max()) == 0, "recording computed something"
        begin = time.perf_counter()
        for _ in range(1000):
            graph.launch()
        stream.synchronize()
        seconds = time.perf_counter() - begin
        assert float(x.min()) == float(x.max()) == 1000
        graph.close()
        try:  # a call that waits must not be recorded, and the stream stays usable
            CudaGraph(stream.cuda_stream, torch.cuda.synchronize)
            raise AssertionError("a wait was recorded")
        except (BackendError, RuntimeError) as error:
            refused = str(error)
        x.add_(1)
        stream.synchronize()
    run.report(launch_us=seconds * 1e3, refused=refused[:200])


def threads(run: Run) -> None:
    """One thread computes while the other loads networks of other sizes: nothing changes."""
    with closing(device_backend(run)) as backend:
        image = run.bundle.images()[0]
        extractor = Extractor(backend.config, backend)
        expected = extractor.extract(image)
        ended, failures, runs = threading.Event(), [], 0

        def load() -> None:
            try:
                other = device_backend(run)
                with closing(other):
                    for i in range(4):
                        Extractor(other.config, other).extract(noise(160 + 16 * i, 240, 3))
            except BaseException as error:
                failures.append(error)
            finally:
                ended.set()

        thread = threading.Thread(target=load)
        thread.start()
        while not ended.is_set() or runs < 3:
            found = extractor.extract(image)
            assert np.array_equal(found.keypoints, expected.keypoints), f"run {runs} differs"
            runs += 1
        thread.join()
        assert not failures, failures
        run.report(runs_meanwhile=runs)


def full_memory(run: Run) -> None:
    """With the GPU's memory taken, an error says so; once it is free, the next image works."""
    import torch

    with closing(device_backend(run)) as backend:
        image = run.bundle.images()[0]
        extractor = Extractor(backend.config, backend)
        extractor.extract(image)
        backend.release()
        taken, size = [], torch.cuda.mem_get_info()[0] // 2
        while size > 1 << 20:  # plain allocations, smaller and smaller
            try:
                taken.append(torch.empty(size, dtype=torch.uint8, device=run.place))
            except torch.cuda.OutOfMemoryError:
                size //= 2
        said = _refusal(extractor, image)
        run.report(said=said)
        assert "memory is full" in said
        taken.clear()
        torch.cuda.empty_cache()
        run.report(afterwards=len(extractor.extract(image)))


def illegal_access(run: Run) -> None:
    """A lost GPU becomes an error, not the end of the process."""
    import torch
    import triton
    import triton.language as tl

    @triton.jit
    def stray(pointer):  # type: ignore[no-untyped-def]
        tl.store(pointer + (1 << 44), 1.0)

    backend = device_backend(run)
    extractor = Extractor(backend.config, backend)
    image = run.bundle.images()[0]
    extractor.extract(image)
    stray[(1,)](torch.zeros(1, device=run.place))
    for _ in range(2):
        said = _refusal(extractor, image)
        run.report(said=said)
        assert "the GPU was lost" in said
    backend.close()
    del extractor, backend
    run.report(closed=True)


def sanitizer(run: Run) -> None:
    """NVIDIA's memory checker on sizes that no block divides."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        raise Skipped("compute-sanitizer is not installed")
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", _ODD]
    # without PyTorch's pool, which hides what lies beyond an array
    environment = {**carried(), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("=========")]
    run.report(exit_status=done.returncode, said=lines[-3:])
    print(done.stdout[-5000:], done.stderr[-2000:])
    assert done.returncode == 0, (done.stdout + done.stderr)[-500:]


def _unit(_: object) -> None: ...


def _refusal(extractor: Extractor, image: UInt8Array) -> str:
    """The error of an extraction that must fail."""
    try:
        extractor.extract(image)
    except BackendError as error:
        return str(error)
    raise AssertionError("the extraction did not fail")


_ODD = """
import torch
from aliked_ros.backends.gpu.triton_aliked import TritonALIKED
from aliked_ros.networks.aliked import example_inputs
from helpers.torch_networks import device_extractor
with torch.inference_mode(), torch.device("cuda"):
    network = device_extractor(TritonALIKED, "aliked-t16", half=True).cuda()
    for height, width, top_k in ((45, 70, 33), (97, 131, 77)):
        given = [tensor.cuda() for tensor in example_inputs(height, width, 3, top_k).values()]
        given[0].random_(0, 256)
        network(*given)
torch.cuda.synchronize()
"""
