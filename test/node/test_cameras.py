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

"""Several cameras in one process: loaded networks are shared, and nothing else is."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame
from aliked_ros.backends import shared as sharing
from aliked_ros.backends.shared import SharedBackends
from aliked_ros.configuration import SETTINGS, FrontendConfig
from aliked_ros.errors import WeightsError
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.io.images import grey
from aliked_ros.ros.conversions import image_message
from aliked_ros.ros.parameters import DECLARATIONS, Change
from aliked_ros.sources.virtual import VirtualCamera
from aliked_ros.types import FrameResult, Image
from helpers.ros import RELIABLE, Probe, RosProcess, refusals

MODULE = "aliked_ros.ros.cameras_node"
LENGTH = 10
CONFIG = FrontendConfig(max_keypoints=128, matcher="lightglue")
NEAREST = FrontendConfig(max_keypoints=128, matcher="nearest")


@pytest.fixture(scope="module")
def sequences() -> dict[str, list[Image]]:
    """Two cameras that differ in what they see, in size and in colour."""
    front = list(VirtualCamera(length=LENGTH, size=(320, 240)))
    left = [
        Image(grey(image.pixels), image.stamp)
        for image in VirtualCamera(length=LENGTH, size=(352, 256), seed=5)
    ]
    return {"front": front, "left": left}


@pytest.fixture(scope="module")
def alone(sequences: dict[str, list[Image]]) -> dict[str, list[FrameResult]]:
    """What a pipeline of its own makes of each camera's images."""
    results = {}
    for name, images in sequences.items():
        pipeline = Pipeline(CONFIG)
        results[name] = [pipeline.process(image) for image in images]
        pipeline.close()
        assert min(int((r.tracks.lengths > 1).sum()) for r in results[name][1:]) > 40
    return results


def test_cameras_that_work_at_once_get_what_each_gets_alone(sequences, alone):
    backends = SharedBackends()
    results: dict[str, list[FrameResult]] = {}
    together = threading.Barrier(len(sequences))

    def work(name: str) -> None:
        pipeline = Pipeline(CONFIG, open_backend=backends.open)
        together.wait()
        results[name] = [pipeline.process(image) for image in sequences[name]]
        pipeline.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in sequences]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, expected in alone.items():
        for result, lone in zip(results[name], expected, strict=True):
            np.testing.assert_array_equal(result.features.keypoints, lone.features.keypoints)
            np.testing.assert_array_equal(result.features.descriptors, lone.features.descriptors)
            np.testing.assert_array_equal(
                result.matches.current_indices, lone.matches.current_indices
            )
            np.testing.assert_array_equal(result.tracks.ids, lone.tracks.ids)
    assert len(backends) == 0, "both have closed theirs"


def test_networks_are_loaded_once_and_freed_by_their_last_user(sequences):
    backends = SharedBackends()
    first, second = (backends.open(CONFIG) for _ in range(2))
    other = backends.open(FrontendConfig(max_keypoints=128, matcher="nearest", threads=1))
    pipelines = [
        Pipeline(config, open_backend=lambda *_, backend=backend: backend)
        for config, backend in ((CONFIG, first), (NEAREST, second), (NEAREST, other))
    ]
    assert len(backends) == 2, "another number of threads is another backend"
    networks = first.engine.networks
    assert second.engine.networks is networks
    extractor, matcher = (weakref.ref(networks[name]) for name in ("aliked-n16", "lightglue"))
    assert (extractor().users, matcher().users) == (2, 1)

    pipelines[0].close()
    gc.collect()
    assert matcher() is None, "only the first had LightGlue"
    assert extractor() is not None
    assert len(pipelines[1].process(sequences["left"][0]).features) > 100
    first.close()  # a second time: nothing more to give back
    assert extractor().users == 1
    pipelines[1].close()
    gc.collect()
    assert extractor() is None
    assert len(backends) == 1
    pipelines[2].close()
    assert len(backends) == 0


def test_every_setting_that_a_backend_is_made_for_counts():
    fixed = {item.name for item in DECLARATIONS if item.change is not Change.ANYTIME}
    loaded_by_name = {"model", "matcher"}
    around_the_networks = {"detection"}
    expected = (fixed & set(SETTINGS)) - loaded_by_name - around_the_networks
    assert set(sharing._KEY) == expected


def test_a_pipeline_that_cannot_load_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(tmp_path))
    monkeypatch.setenv("ALIKED_ROS_WEIGHTS", str(tmp_path))
    backends = SharedBackends()
    for _ in range(2):  # in the first, libraries may start threads of their own
        threads = threading.active_count()
        with pytest.raises(WeightsError):
            Pipeline(CONFIG, open_backend=backends.open)
        assert len(backends) == 0
    assert threading.active_count() == threads


def test_cameras_of_different_sizes_do_not_make_each_other_load_again(sequences):
    backends = SharedBackends()
    users = [backends.open(NEAREST) for _ in range(3)]
    networks = [user.load_extractor("aliked-n16") for user in users]
    front, left = (sequences[name][0].pixels for name in ("front", "left"))
    images = [front, left, cv2.resize(left, (192, 160)), cv2.resize(left, (256, 128))]
    shared = users[0].engine.networks["aliked-n16"]

    def encoders() -> list[int]:
        for network, image in zip([*networks, networks[0]], images, strict=True):
            network.extract(image, None, 64, 0.0, 0)
        return [id(encoder) for encoder in shared._encoders.values()]

    assert encoders() == encoders()
    for user in users[1:]:
        user.close()
    networks[0].extract(cv2.resize(left, (128, 128)), None, 64, 0.0, 0)
    assert len(shared._encoders) == 2, "those of the cameras that went are freed"
    users[0].close()


def test_a_gpus_memory_is_given_back_when_the_last_camera_rests(sequences, monkeypatch):
    backends, released = SharedBackends(), []
    first, second = (backends.open(NEAREST) for _ in range(2))
    monkeypatch.setattr(first.engine.backend, "release", lambda: released.append(True))
    pixels = sequences["left"][0].pixels
    networks = [user.load_extractor("aliked-n16") for user in (first, second)]
    for network in networks:
        network.extract(pixels, None, 64, 0.0, 0)
    first.release()
    assert not released, "the second is at work"
    networks[0].extract(pixels, None, 64, 0.0, 0)
    second.release()
    assert not released, "the first is at work again"
    first.release()
    assert released == [True]
    for user in (first, second):
        user.close()


def test_who_has_waited_longest_is_next():
    backends = SharedBackends()
    user = backends.open(NEAREST)
    turns, order = user.engine.turns, []

    def take(name: str) -> None:
        with turns:
            order.append(name)

    threads = []
    with turns:
        for name in "abc":
            asked = turns._tickets
            threads.append(threading.Thread(target=take, args=(name,)))
            threads[-1].start()
            while turns._tickets == asked:
                time.sleep(0.001)
    take("the one before, again")
    for thread in threads:
        thread.join()
    assert order == ["a", "b", "c", "the one before, again"]
    user.close()


# The node


class CameraProbe(Probe):
    """A probe that is the camera of one front-end."""

    def __init__(self, name: str, topic: str) -> None:
        super().__init__(f"{name}/aliked_frontend")
        self.images = self.node.create_publisher(ImageMessage, topic, RELIABLE)


def message(image: Image) -> ImageMessage:
    stamp = Time(sec=100 + int(image.stamp), nanosec=int(image.stamp % 1 * 1e9))
    return image_message(image.pixels, Header(stamp=stamp))


@pytest.fixture
def probes() -> Iterator[dict[str, CameraProbe]]:
    topics = {
        "front": "/front/image_raw",
        "left": "/elsewhere/image",
        "broken": "/broken/image_raw",
    }
    probes = {name: CameraProbe(name, topic) for name, topic in topics.items()}
    yield probes
    for probe in probes.values():
        probe.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RosProcess]]:
    """A function that starts a process, which does not outlive the test."""
    started = []

    def start(module: str, *arguments: str, **env: str) -> RosProcess:
        started.append(RosProcess(module, tmp_path / "log", *arguments, **env))
        return started[-1]

    yield start
    for process in started:
        process.process.kill()
        process.process.wait()


def processed(probe: CameraProbe, images: list[Image]) -> list[FeatureFrame]:
    """What comes of a camera's images, one after another."""
    probe.wait_connected()
    probe.received["features"].clear()
    return [probe.send(message(image)) for image in images]


@pytest.mark.ros
@pytest.mark.long
def test_each_camera_is_a_front_end_of_its_own(tmp_path, start, probes, sequences, alone):
    parameters = tmp_path / "cameras.yaml"
    parameters.write_text(
        """
/**:
  ros__parameters: {max_keypoints: 128, matcher: lightglue, status_period: 0.1}
aliked_cameras:
  ros__parameters:
    cameras: [front, left, broken, nowhere]
    left: {image: /elsewhere/image}
    nowhere: {image: not a topic}
/broken/aliked_frontend:
  ros__parameters: {mask_file: absent.png}
""",
        encoding="utf-8",
    )
    arguments = ["--params-file", str(parameters), "-r", "image:=image_raw"]
    process = start(MODULE, *arguments)
    front, left, broken = probes.values()
    front.wait_for_state("active")
    left.wait_for_state("active")
    broken.wait(lambda: "absent.png" in broken.status.last_error)
    assert broken.state() == "unconfigured"
    assert "Camera nowhere is left out: nowhere's image is 'not a topic'" in process.text()

    # both at once: each gets what it gets alone
    for probe in (front, left):
        probe.wait_connected()
    for index in range(LENGTH):
        sent = {name: message(images[index]) for name, images in sequences.items()}
        for name in sequences:
            probes[name].images.publish(sent[name])
        for name in sequences:
            probe, stamp = probes[name], sent[name].header.stamp
            probe.wait(lambda p=probe, s=stamp: p.features and p.features[-1].header.stamp == s)
            lone, result = alone[name][index], probe.features[-1]
            assert list(result.keypoints) == lone.features.keypoints.ravel().tolist()
            assert list(result.track_ids) == lone.tracks.ids.tolist()

    # one is taken away, another is mended: the first goes on
    assert left.transition("deactivate")
    assert left.transition("cleanup")
    assert front.status.state == "active"
    epoch = front.features[-1].epoch
    again = processed(front, sequences["front"])[-1].epoch
    assert again == epoch + 1, "as the stamps jumped back, once"
    assert broken.set_parameter("mask_file", "") == ""
    assert broken.transition("configure")
    assert broken.transition("activate")
    assert len(processed(broken, sequences["left"])) == LENGTH
    assert left.transition("configure")
    assert left.transition("activate")
    assert len(processed(left, sequences["left"])) == LENGTH
    assert process.stop() == 0, process.text()
    assert "Traceback" not in process.text()


@pytest.mark.ros
@pytest.mark.long
def test_a_camera_that_fails_unexpectedly_ends_alone(tmp_path, start, probes, sequences):
    (tmp_path / "failing.py").write_text(
        """
from aliked_ros.ros import cameras_node

class Failing(cameras_node.FrontendNode):
    def start(self):
        if self.get_namespace() == "/left":
            raise RuntimeError("no such luck")
        super().start()

cameras_node.FrontendNode = Failing
raise SystemExit(cameras_node.main())
"""
    )
    arguments = ["-p", "cameras:=[left,front]", "-p", "front.image:=image_raw"]
    arguments += ["-p", "matcher:=nearest", "-p", "max_keypoints:=64"]
    process = start("failing", *arguments, PYTHONPATH=str(tmp_path))
    front = probes["front"]
    front.wait_for_state("active")
    assert len(processed(front, sequences["front"][:3])) == 3
    front.wait(lambda: front.node.count_publishers("/left/aliked_frontend/status") == 0)
    assert process.stop() == 0, process.text()
    assert "This camera has ended: unexpected RuntimeError: no such luck" in process.text()


@pytest.mark.ros
def test_cameras_that_cannot_be_are_named():
    cases = {
        "[]": "parameter cameras",
        "front": "parameter cameras must be a list of names",
        "[front, le/ft]": "cameras has 'le/ft'",
        "[front, front]": "has a name twice",
    }
    said = refusals(MODULE, [[f"cameras:={cameras}"] for cameras in cases])
    for words, text in zip(cases.values(), said, strict=True):
        assert words in text
