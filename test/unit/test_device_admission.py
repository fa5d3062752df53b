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

"""A GPU's networks serve only after they gave what the CPU gives; else the next way takes over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aliked_ros.backends import admission
from aliked_ros.backends import create as backend
from aliked_ros.backends.admission import Refused
from aliked_ros.backends.cpu.backend import CpuBackend
from aliked_ros.backends.create import create_backend
from aliked_ros.backends.gpu.backend import DeviceBackend
from aliked_ros.cli import doctor
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.types import Matches
from helpers.device import OnnxDevice, WrongDevice

Outputs = dict[str, np.ndarray]
SMALL: dict[str, Any] = {
    "model": "aliked-t16", "matcher": "nearest", "max_keypoints": 256, "image_size": "160x128 grey",
}  # fmt: skip


def shift(outputs: Outputs) -> None:
    outputs["keypoints"][:, 0] += 1


def jump(outputs: Outputs) -> None:
    """As where a division puts some rows' first keypoint at the end of another row."""
    outputs["keypoints"][::20, 0] = 150


def scale_scores(outputs: Outputs) -> None:
    outputs["scores"] *= np.asarray(0.9, np.float32)


def turn_descriptors(outputs: Outputs) -> None:
    outputs["descriptors"][...] = np.roll(outputs["descriptors"], 1, axis=1)


def forget(outputs: Outputs) -> None:
    outputs["count"][...] = 0


def spoil_numbers(outputs: Outputs) -> None:
    outputs["descriptors"][...] = np.nan


def lose_keypoints(outputs: Outputs) -> None:
    outputs["keypoints"][...] = np.nan


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shift, "keypoints in common: 0"),
        (jump, r"keypoints in common: 0\.9\d*, the limit is 0\.9"),
        (scale_scores, "score difference: "),
        (turn_descriptors, "descriptor cosine: "),
        (forget, "keypoints in common: 0"),
        (spoil_numbers, "descriptor cosine: "),
        (lose_keypoints, "keypoints in common: 0"),
    ],
)
def test_wrong_features_are_refused_with_the_worst_difference(
    spoil: Callable[[Outputs], None], said: str, precision: str
) -> None:
    device = WrongDevice(spoil)
    with pytest.raises(Refused, match=rf"engine \w+ gives other results than the CPU .*{said}"):
        DeviceBackend(FrontendConfig(precision=precision, **SMALL), device).load_extractor(
            "aliked-t16"
        )
    assert (device.memory, device.networks) == (0, []), "it is not loaded"


@pytest.mark.parametrize("few", [2, 10, 25])
def test_few_keypoints_are_compared_as_well(few: int) -> None:
    config = FrontendConfig(**SMALL | {"max_keypoints": few})
    DeviceBackend(config, OnnxDevice()).load_extractor("aliked-t16")
    for spoil in (shift, turn_descriptors):
        with pytest.raises(Refused):
            DeviceBackend(config, WrongDevice(spoil)).load_extractor("aliked-t16")


def test_what_serves_says_how_it_compares() -> None:
    device = OnnxDevice()
    ours = DeviceBackend(FrontendConfig(**SMALL), device)
    network = ours.load_extractor("aliked-t16")
    assert "(keypoints in common " in ours.identity["engine"]
    assert "score difference 0.00" in ours.identity["engine"]
    ours.release()
    device.failure = BackendError("computing on the GPU failed: the GPU was lost; restart.")
    with pytest.raises(BackendError, match="the GPU was lost"):  # not a difference
        network.extract(np.zeros((128, 160), np.uint8), None, 256, 0.0, 0)
    device.failure = None
    device.__class__ = WrongDevice  # as after an update of the driver while it was released
    device.spoil = shift  # type: ignore[attr-defined]
    with pytest.raises(Refused):
        network.extract(np.zeros((128, 160), np.uint8), None, 256, 0.0, 0)


def test_wrong_matches_are_refused() -> None:
    rows = np.arange(100, dtype=np.uint32)
    scores = np.ones(100, np.float32)
    right, wrong = Matches(rows, rows, scores), Matches(rows, np.roll(rows, 1), scores)
    few = Matches(rows[:90], rows[:90], scores[:90])
    assert admission.check_matches("x", right, right, "float32") == "matches in common 1"
    for found in (wrong, few, Matches(rows[:0], rows[:0], scores[:0])):
        with pytest.raises(Refused, match=r"x gives other .*\(matches in common: 0.*float32"):
            admission.check_matches("x", found, right, "float16")


def test_the_picture_is_always_the_same_and_has_enough_to_see() -> None:
    assert (admission.picture(48, 64, 3) == admission.picture(48, 64, 3)).all()
    assert admission.picture(48, 64, 1).shape == (48, 64)
    for shape in ((64, 64, 1), (128, 160, 3)):
        wanted = shape[0] * shape[1] // 64
        assert len(admission.expected_features("aliked-t16", shape, wanted, 0)[0]) > 0.8 * wanted


# What takes over


def offer(monkeypatch: pytest.MonkeyPatch, **wrong: bool) -> list[str]:
    """TensorRT in both precisions and PyTorch, each wrong or right; what is made, in its order."""
    made: list[str] = []

    def way(kind: str) -> Callable[..., DeviceBackend]:
        def make(config: FrontendConfig, progress: Any, reason: str) -> DeviceBackend:
            name = kind + ("32" if config.precision == "float32" else "16")
            made.append(name)
            device = WrongDevice(shift) if wrong.get(name) else OnnxDevice()
            device.kind = kind
            ours = DeviceBackend(config, device, progress)
            ours.identity["reason"] = reason
            return ours

        return make

    monkeypatch.setattr(backend, "_tensorrt", way("tensorrt"))
    monkeypatch.setattr(backend, "_torch", way("torch"))
    monkeypatch.setattr(backend, "torch_on_a_gpu", lambda: True)
    return made


@pytest.mark.parametrize(
    ("wrong", "runs"),
    [
        ((), "tensorrt16"),
        (("tensorrt16",), "tensorrt32"),
        (("tensorrt16", "tensorrt32"), "torch16"),
        (("tensorrt16", "tensorrt32", "torch16"), "cpu"),
    ],
)
def test_the_next_way_takes_over(
    wrong: tuple[str, ...], runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = offer(monkeypatch, **dict.fromkeys(wrong, True))
    said: list[str] = []
    for setting in ({"backend": "auto"}, {"backend": "tensorrt", "allow_fallback": True}):
        made.clear()
        said.clear()
        ours = create_backend(FrontendConfig(**SMALL, **setting), said.append)
        network = ours.load_extractor("aliked-t16")
        picture = admission.picture(128, 160, 1)
        assert len(network.extract(picture, None, 200, 0.0, 0)[0]) == 200
        assert made == [*wrong, runs][: len(made)]
        precision = {"float16": "16", "float32": "32"}.get(ours.identity["precision"], "")
        assert ours.identity["backend"] + precision == runs or ours.identity["backend"] == runs
        lines = [line for line in said if "gives other results than the CPU" in line]
        assert len(lines) == len(wrong)
        if wrong:
            assert "failed: aliked-t16_160x128" in ours.identity["reason"]
        ours.close()


def test_without_permission_wrong_results_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, tensorrt16=True)
    ours = create_backend(FrontendConfig(backend="tensorrt", **SMALL))
    with pytest.raises(BackendError, match="gives other results than the CPU"):
        ours.load_extractor("aliked-t16")
    ours.close()


def test_a_lost_gpu_is_not_tried_in_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    made = offer(monkeypatch)
    ours = create_backend(FrontendConfig(**SMALL))
    network = ours.load_extractor("aliked-t16")
    ours.backend.device.failure = BackendError("running x failed: the GPU was lost; restart.")
    network.extract(admission.picture(128, 160, 1), None, 200, 0.0, 0)
    assert isinstance(ours.backend, CpuBackend)
    assert made == ["tensorrt16"]
    ours.close()


def test_the_doctor_shows_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    # (the doctor's own size and model take a minute here)
    small = FrontendConfig(**SMALL, backend="tensorrt")
    monkeypatch.setattr(doctor, "FrontendConfig", lambda **_: small)
    monkeypatch.setattr(DeviceBackend, "load_matcher", lambda ours: None)
    offer(monkeypatch)
    check = doctor._admission()
    assert check.state == doctor.OK
    assert "aliked-t16_160x128_grey_k256_float16.engine" in check.finding
    assert "descriptor cosine 0.99" in check.finding or "descriptor cosine 1" in check.finding
    offer(monkeypatch, tensorrt16=True)
    check = doctor._admission()
    assert check.state == doctor.WARN
    assert "gives other results than the CPU" in check.finding
