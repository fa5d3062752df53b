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

"""How fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from aliked_ros.backends.gpu.engines import extractor_network, matcher_networks
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.matcher import LightGlueMatcher
from gpu_parts import Run, Skipped
from gpu_parts.checks import device_backend, precisions

ROUNDS = 15


def benchmark(run: Run) -> None:
    """Image to matches against the published code; host time against the GPU's own."""
    with closing(device_backend(run)) as backend:
        extractor = Extractor(backend.config, backend)
        matcher = LightGlueMatcher(backend.config, backend)
        images = run.bundle.images()
        before, seconds = extractor.extract(images[0]), []
        for i in range(200 if run.on_gpu else 2):
            begin = time.perf_counter()
            features = extractor.extract(images[i % len(images)], reference=before)
            middle = time.perf_counter()
            matcher.match(before, features)
            seconds.append((middle - begin, time.perf_counter() - middle))
            before = features
        for name, times in zip(("ALIKED", "LightGlue"), zip(*seconds, strict=True), strict=True):
            ordered = sorted(times)
            run.report(
                stage=name,
                host_ms=1e3 * ordered[len(ordered) // 2],
                host_p99_ms=1e3 * ordered[int(0.99 * len(ordered))],
            )
    for name, network in _networks(run):
        run.report(stage=name, device_ms=1e3 * _time(run, network))
    if run.on_gpu:
        from aliked_ros.benchmark.gpu import device_suite

        run.report(suite=device_suite(run.bundle.images(), ROUNDS, lambda share: None, "torch"))


def kernel_table(run: Run) -> None:
    """Every kernel of ALIKED and of LightGlue's first layers: calls and microseconds of one run."""
    from torch.profiler import ProfilerActivity, profile

    kind = ProfilerActivity.CUDA if run.on_gpu else ProfilerActivity.CPU
    for name, network in _networks(run):
        with _device(run).making("profiling"):
            network()
            with profile(activities=[kind]) as profiled:
                network()
                _wait(run)
        attribute = "self_device_time_total" if run.on_gpu else "self_cpu_time_total"
        rows = [
            (e.key[:100], e.count, float(getattr(e, attribute))) for e in profiled.key_averages()
        ]
        rows.sort(key=lambda row: -row[2])
        run.report(network=name, launches=sum(row[1] for row in rows), kernels=rows[:60])


def attention(run: Run) -> None:
    """Each implementation of attention that PyTorch has, 2 images of 4 heads, half precision."""
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for rows in (512, 1024, 2048) if run.on_gpu else (128,):
        place = torch.device(run.place)
        points = torch.randn(3, 2, 4, rows, 64, device=place).half()
        mask = torch.zeros(2, 1, 1, rows, device=place).half()
        for kind in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"):
            for added in (None, mask):

                def attend(points: Any = points, added: Any = added, kind: str = kind) -> Any:
                    with sdpa_kernel(getattr(SDPBackend, kind)):
                        q, k, v = points
                        return F.scaled_dot_product_attention(q, k, v, attn_mask=added, scale=1.0)

                row = {"rows": rows, "kind": kind, "masked": added is not None}
                try:
                    run.report(**row, us=1e6 * _time(run, attend))
                except Exception as error:  # PyTorch's have no common base but this
                    run.report(**row, refused=str(error)[:200])


def blocks(run: Run) -> None:
    """Both networks with other sizes of the Triton kernels' blocks."""
    from aliked_ros.backends.gpu import triton_aliked, triton_lightglue

    sizes: list[tuple[str, tuple[int, ...]]]
    sizes = [("_PIXELS", (64, 128, 256, 512)), ("_CONVOLVED", (128, 256, 512, 1024))]
    sizes += [("_SLOTS", (8, 16, 32)), ("_ROWS", (8, 16, 32)), ("_CELLS", (32, 64, 128))]
    sizes += [("_NUMBERS", (512, 1024, 2048))]
    tried: list[tuple[Any, str, str, tuple[Any, ...]]] = [
        (triton_aliked, "ALIKED", name, values) for name, values in sizes
    ]
    queries = tuple({2: block, 4: 32} for block in (32, 64, 128))
    for name, values in (("_QUERIES", queries), ("_KEYS", (32, 64)), ("_ROWS", (1, 2, 4, 8))):
        tried.append((triton_lightglue, "LightGlue", name, values))
    for module, title, name, values in tried:
        usual = getattr(module, name)
        for value in values:
            setattr(module, name, value)
            of_aliked, of_lightglue, *_ = _networks(run)
            _, network = of_aliked if title == "ALIKED" else of_lightglue
            row = {"network": title, "block": name.strip("_").lower(), "size": value}
            try:
                run.report(**row, ms=1e3 * _time(run, network))
            except Exception as error:  # a block may want more than a multiprocessor has
                run.report(**row, refused=str(error)[:200])
        setattr(module, name, usual)


def _device(run: Run) -> Any:
    try:
        from aliked_ros.backends.gpu.torch import TorchDevice
    except ImportError as error:
        raise Skipped(str(error)) from error
    return TorchDevice(run.place)


def _networks(run: Run) -> Any:
    """Name, and a function that runs it, of each network."""
    device, top_k = _device(run), run.bundle.facts["top_k"]
    height, width = run.bundle.images()[0].shape[:2]
    precision = precisions(run)[-1]
    wanted = [extractor_network("aliked-n16", (width, height), 3, top_k, precision)]
    for network in [*wanted, *matcher_networks(top_k, precision)]:
        with device.making("loading"):
            module, inputs, _ = device.module(network)
            for name, tensor in inputs.items():
                if name == "image":
                    tensor.random_(0, 256)
                elif tensor.ndim > 1 and name != "mask":
                    tensor.normal_()
        yield network.name, lambda module=module, inputs=inputs: module(*inputs.values())


def _time(run: Run, function: Callable[[], Any]) -> float:
    device = _device(run)
    with device.making("timing"):
        return float(device.time(function, 200 if run.on_gpu else 1))


def _wait(run: Run) -> None:
    if run.on_gpu:
        import torch

        torch.cuda.synchronize()
