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

"""A device's engine and memory, and what goes on when it fails: in pipelines, and in a node."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from unittest.mock import patch

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time as TimeMessage
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_ros.backends.base import create_backend
from aliked_ros.backends.fallback import FallbackBackend
from aliked_ros.backends.gpu.backend import DeviceBackend
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.ros.conversions import image_message
from aliked_ros.ros.frontend_node import FrontendNode
from aliked_ros.types import Image
from helpers.device import OnnxDevice
from helpers.ros import DOMAIN, Probe, environment


def test_from_a_lost_device_the_tracks_go_on_on_the_cpu(tum_images) -> None:
    device, said = OnnxDevice(), []

    def with_fallback(config, progress):
        return FallbackBackend(
            DeviceBackend(config, device),
            "TensorRT",
            lambda reason: create_backend(FrontendConfig(backend="cpu")),
            said.append,
        )

    config = FrontendConfig(max_keypoints=256, precision="float32")
    pipeline = Pipeline(config, open_backend=with_fallback)
    results = [pipeline.process(Image(tum_images(i), float(i))) for i in range(2)]
    assert pipeline.identity["backend"] == "tensorrt"
    device.failure = BackendError("running x failed: the GPU was lost; restart.")
    results += [pipeline.process(Image(tum_images(i), float(i))) for i in range(2, 4)]
    assert pipeline.identity["backend"] == "cpu"
    assert pipeline.backend.startswith("cpu: ")
    assert said == [
        "TensorRT failed, going on on the CPU: running x failed: the GPU was lost; restart."
    ]
    assert (device.memory, device.closed) == (0, True), "the GPU's memory is given back"
    # of one epoch: the first image after it is matched against the last one before it
    assert {result.tracks.epoch for result in results} == {results[0].tracks.epoch}
    for result in results[1:]:
        assert (result.tracks.lengths > 1).sum() > 100
    assert results[-1].tracks.lengths.max() == 4
    pipeline.close()


def test_without_fallback_a_lost_device_is_an_error_with_the_cause(tum_images) -> None:
    device = OnnxDevice()
    pipeline = Pipeline(
        FrontendConfig(matcher="nearest", max_keypoints=256, precision="float32"),
        open_backend=lambda config, progress: DeviceBackend(config, device),
    )
    pipeline.process(Image(tum_images(0)))
    device.failure = BackendError("running x failed: the GPU was lost; restart.")
    with pytest.raises(BackendError, match="the GPU was lost"):
        pipeline.process(Image(tum_images(1), 1.0))
    pipeline.close()
    assert device.memory == 0


@pytest.fixture
def probe() -> Iterator[Probe]:
    probe = Probe()
    yield probe
    probe.close()


@contextmanager
def node_on(device: OnnxDevice, **parameters: object) -> Iterator[FrontendNode]:
    """The node in this process, on a device that is the CPU."""
    context = Context()
    with patch.dict(os.environ, environment()):
        rclpy.init(context=context, domain_id=DOMAIN)
        node = FrontendNode(
            lambda config, progress: DeviceBackend(config, device, progress),
            context=context,
            parameter_overrides=[Parameter(name, value=v) for name, v in parameters.items()],
        )
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def serve() -> None:
        node.start()
        with suppress(ExternalShutdownException):
            node.serve(executor)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield node
    finally:
        rclpy.shutdown(context=context)
        thread.join()
        node.close()
        executor.shutdown()
        node.destroy_node()


@pytest.mark.ros
@pytest.mark.long
def test_the_node_tells_its_engine_and_gives_memory_back(
    probe: Probe, tum_images: Callable[[int], np.ndarray]
) -> None:
    device = OnnxDevice()
    device_failure = BackendError("running x failed: the GPU was lost; restart the node.")

    def image(number: int) -> ImageMessage:
        stamp = TimeMessage(sec=number + 1)
        return image_message(tum_images(number), Header(stamp=stamp))

    with node_on(device, max_keypoints=256, precision="float32", status_period=0.2) as node:
        probe.wait_for_state("active")
        probe.wait_connected()
        assert len(probe.send(image(0)).keypoints) == 2 * 256
        probe.send(image(1))
        status = probe.wait(lambda: probe.status.engine and probe.status)
        assert status.engine.startswith("aliked-n16_640x480_rgb_k256_float32.engine ")
        assert status.backend == "tensorrt: ONNX Runtime, float32"
        assert status.precision == "float32"
        memory = device.memory

        device.failure = device_failure
        probe.images.publish(image(2))
        probe.wait(lambda: probe.status.frames_refused == 1)
        assert "the GPU was lost" in probe.status.last_error
        assert probe.state() == "active", "it lives on"
        device.failure = None
        probe.send(image(3))

        assert probe.transition("deactivate")
        assert device.memory == 0
        assert probe.transition("activate")
        probe.wait_connected()
        probe.send(image(4))
        probe.send(image(5))
        assert 0 < device.memory <= memory + (1 << 20)
        assert probe.transition("deactivate")
        assert probe.transition("cleanup")
        assert (device.memory, device.closed) == (0, True)
        assert node.context.ok()
