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

"""Training: resumes exactly, the same on two processes, says what is wrong, learns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers import ROOT

pytest.importorskip("lightning_fabric", reason="make setup GROUP=test")

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ConfigurationError, ModelError, OutputError, SourceError, WeightsError
from aliked_ros.evaluation.layouts import homography_pairs
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.models.registry import entry_of, weights_path
from aliked_ros.networks.aliked import ALIKED
from aliked_ros.training.comparison import check, turned
from aliked_ros.training.distortions import Distortions
from aliked_ros.training.extraction import detect
from aliked_ros.training.pairs import open_pairs
from aliked_ros.training.settings import Comparison, Data, Network, TrainingSettings, read_settings
from aliked_ros.training.trainer import BEST, LAST, STATE, start_network, train
from aliked_ros.types import Image

pytestmark = pytest.mark.usefixtures("training_cache")
TINY = Network(channels=(8, 8, 16, 16), dim=32, kernel=3, samples=4)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> str:
    """A folder of pictures with shapes: corners wherever one looks."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for number in range(6):
        picture = np.full((140, 180, 3), 128, np.uint8)
        for _ in range(12):
            corners = rng.integers((0, 0), (180, 140), (rng.integers(3, 6), 2))
            cv2.fillPoly(picture, [corners.astype(np.int32)], rng.integers(0, 256, 3).tolist())
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    return str(folder)


def _settings(images: str, output: Path, **changes) -> TrainingSettings:
    data = Data(images)
    base = TrainingSettings(
        train=(data,), output=output, start="new", network=TINY, size=(96, 64), steps=4,
        keypoints=40, random=20, validate_every=2, pairs=2, train_statistics=False,
    )  # fmt: skip
    return replace(base, **changes)


def _curve(settings: TrainingSettings, **options) -> list[float]:
    losses = []
    train(settings, report=lambda _, found: losses.append(found["total"]), accelerator="cpu",
          **options)  # fmt: skip
    return losses


def test_a_run_that_was_stopped_goes_on_exactly(images, tmp_path):
    validated = {"validation": (Data(images),)}
    whole = _curve(_settings(images, tmp_path / "whole", **validated))
    first = _curve(_settings(images, tmp_path / "parts", steps=2, **validated))
    rest = _curve(_settings(images, tmp_path / "parts", **validated))
    assert len(whole) == 4
    assert first + rest == whole  # bit for bit
    states = [torch.load(tmp_path / name / LAST, weights_only=True) for name in ("whole", "parts")]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert _curve(_settings(images, tmp_path / "parts", **validated)) == []  # it is done
    with pytest.raises(ConfigurationError, match=r"differs in batch \(1, now 2\).*--restart"):
        _curve(_settings(images, tmp_path / "parts", batch=2, **validated))
    again = _curve(_settings(images, tmp_path / "parts", batch=2, **validated), restart=True)
    assert len(again) == 4


def test_only_the_chosen_part_learns_and_validation_that_gets_no_better_ends_it(images, tmp_path):
    """By the checkpoint; and by what TensorBoard finds, a picture of the matches too."""
    settings = _settings(
        images, tmp_path, steps=9, validate_every=1, patience=2, trained=("score_head",),
        validation=(Data(images),), learning_rate=1e-6,
    )  # fmt: skip
    outcome = train(settings, accelerator="cpu")
    assert (outcome.steps, outcome.stopped) == (2, "no better for 2 validations")
    begin, end = start_network(settings).state_dict(), torch.load(tmp_path / LAST)
    changed = {name for name, value in end.items() if not torch.equal(value, begin[name])}
    assert changed
    assert all(name.startswith("score_head.") for name in changed)
    curves = EventAccumulator(str(tmp_path / "curves")).Reload()
    assert len(curves.Scalars("validation/correct")) == 3
    shown = cv2.imdecode(
        np.frombuffer(curves.Images("matches/0")[-1].encoded_image_string, np.uint8),
        cv2.IMREAD_COLOR,
    )
    assert shown.shape == (64, 2 * 96, 3)
    assert shown.std() > 10


def test_mixed_precision_keeps_keypoints_where_they_are(tmp_path, shared):
    """Half-precision coordinates would be off by pixels, and so would the first step's losses."""
    data = Data(str(shared / "data/tum_fr1_xyz"), count=1)
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        settings = TrainingSettings(
            (data,), tmp_path / precision, size=(320, 240), steps=1, random=0, precision=precision
        )
        train(settings, report=lambda _, losses, to=precision: found.update({to: losses}),
              accelerator="cpu")  # fmt: skip
    for name, value in found["32-true"].items():
        assert found["bf16-mixed"][name] == pytest.approx(value, rel=0.1), name


def test_a_checkpoint_that_forgets_is_not_the_best(images, tmp_path):
    """A source with keep asks for a share of its matches; what is gained there counts nothing."""
    guard = Data(images, first=3, keep=5.0)  # no checkpoint has five times the matches
    kept = {}
    for name, validation in (("free", (Data(images),)), ("guarded", (Data(images), guard))):
        settings = _settings(
            images, tmp_path / name, steps=6, validate_every=1, validation=validation,
            learning_rate=3e-3,
        )  # fmt: skip
        outcome = train(settings, accelerator="cpu")
        kept[name] = torch.load(outcome.best)
        if name == "free":
            assert outcome.after["correct"] > outcome.before["correct"]
            assert outcome.after["step"] > 0
        else:
            assert outcome.after == outcome.before
            assert outcome.after["correct"] == outcome.after["correct/0"]
    begin = start_network(settings).state_dict()
    assert all(torch.equal(value, kept["guarded"][name]) for name, value in begin.items())
    assert any(not torch.equal(value, kept["free"][name]) for name, value in begin.items())


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_quarter_turns_are_exact(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
    task = Comparison(str(tmp_path), kind="turned", first=1, gap=1)
    pairs = homography_pairs(turned(task, tmp_path / "pairs"))
    assert len(pairs) == 2
    first, second = (cv2.imread(str(path)) for path in (pairs[0].first, pairs[0].second))
    x, y, _ = pairs[0].homography @ (7, 4, 1)
    assert second.shape[:2] == (30, 20)
    np.testing.assert_array_equal(second[int(y), int(x)], first[4, 7])
    np.testing.assert_array_equal(first, pixels if pixels.ndim == 3 else np.dstack([pixels] * 3))


def _config(images: str, output: Path, **changes) -> Path:
    lines = {
        "output": str(output), "start": "new", "size": "[96, 64]", "steps": 6, "keypoints": 40,
        "random": 20, "validate_every": 1, "pairs": 2, "train_statistics": "false",
        "network": "{channels: [8, 8, 16, 16], dim: 32, samples: 4}",
        "train": f"{{source: {images}}}",
    } | changes  # fmt: skip
    path = output.with_suffix(".yaml")
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return path


@pytest.mark.long
def test_a_killed_run_goes_on_exactly(images, tmp_path):
    """SIGKILL at any moment; what comes out is what an undisturbed run makes."""
    command = [sys.executable, "-m", "aliked_ros.cli", "train", "--accelerator", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed, whole = (_config(images, tmp_path / name, steps=12) for name in ("killed", "whole"))
    state = tmp_path / "killed" / STATE
    with subprocess.Popen([*command, str(killed)], env=environment) as process:
        deadline = time.monotonic() + 300.0
        while not state.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    step = torch.load(state, weights_only=True)["step"]
    assert step < 12
    for config in (killed, whole):
        subprocess.run([*command, str(config)], env=environment, check=True)
    one, two = (torch.load(tmp_path / n / LAST, weights_only=True) for n in ("killed", "whole"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.long
def test_the_result_is_compared_with_the_start(images, tmp_path):
    """By the command: what comes out in JSON, before and after on the same pairs."""
    picture = cv2.imread(f"{images}/0.png")
    for name, by in (("a", 0), ("b", 8), ("c", 16)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.roll(picture, by, axis=1))
        (tmp_path / f"{name}.txt").write_text(f"1 0 {by}\n0 1 0\n0 0 1\n")
    (tmp_path / "pairs.txt").write_text("a.png b.png b.txt\na.png c.png c.txt\n")
    config = _config(images, tmp_path / "own", steps=1,
                     compare=f"{{source: {tmp_path}, kind: homography, top_k: 200}}")  # fmt: skip
    command = [sys.executable, "-m", "aliked_ros.cli", "train", str(config), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (found,) = json.loads(done.stdout)["compared"]
    assert found["evaluation"] == f"{tmp_path.name}, nearest"
    assert found["before"] > 10  # of the published network
    value, low, high = found["change_percent"]
    assert value == pytest.approx(100 * (found["after"] / found["before"] - 1), abs=1.0)
    assert low <= value <= high


@pytest.mark.long
def test_two_processes_are_one_with_twice_the_batch(images, tmp_path):
    """Through torchrun, with gloo on the CPU; by the weights after three steps."""
    arguments = ["-m", "aliked_ros.cli", "train", "--accelerator", "cpu"]
    changes = {"steps": 3, "validate_every": 3}
    two = _config(images, tmp_path / "two", batch=1, **changes)
    one = _config(images, tmp_path / "one", batch=2, **changes)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node", "2"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, *arguments, str(two)], check=True, env=environment)
    subprocess.run([sys.executable, *arguments, str(one)], check=True, env=environment)
    states = [torch.load(tmp_path / name / LAST, weights_only=True) for name in ("two", "one")]
    begin = start_network(read_settings(one)).state_dict()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(value, begin[name]) for name, value in states[0].items())
    # each process has batch statistics of its own; what validation decides is decided for all
    decided = _config(images, tmp_path / "decided", patience=1, train_statistics="true", steps=9,
                      validation=f"{{source: {images}}}")  # fmt: skip
    subprocess.run([*torchrun, *arguments, str(decided)], check=True, env=environment, timeout=300)


def test_a_loss_that_is_not_finite_stops_and_names_the_pair(images, tmp_path):
    settings = _settings(images, tmp_path / "run", learning_rate=1e30, warm_up=0, clip=1e30,
                         validation=(Data(images),))  # fmt: skip
    with pytest.raises(ModelError, match=r"loss of step \d .*pairs: image \d.*learning_rate"):
        _curve(settings)
    kept = torch.load(tmp_path / "run" / LAST, weights_only=True)
    assert all(torch.isfinite(value).all() for value in kept.values())


def test_what_is_in_the_way_is_named(images, tmp_path):
    settings = _settings(images, tmp_path / "run", steps=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write to .*file"):
        train(replace(settings, output=tmp_path / "file"), accelerator="cpu")
    with pytest.raises(ConfigurationError, match="accelerator 'abacus' cannot be used"):
        train(settings, accelerator="abacus")
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / STATE).write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match=r"state\.ckpt is not the state .*--restart"):
        train(settings, accelerator="cpu")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("learning_rat: 1.0e-4", r"no key 'learning_rat'; did you mean 'learning_rate'"),
        ("loss: {temperature: 3}", r"no key 'loss.temperature'; there are reprojection, peak"),
        ("precision: fp8", r"precision is 'fp8'; it should be '32-true' or 'bf16-mixed'"),
        ("steps: 0", "steps is 0; it should be greater than or equal to 1"),
        ("steps: ten", "steps is 'ten'; it should be a valid integer"),
        ("clip: -1", "clip is -1; it should be greater than 0"),
        ("size: [96]", "size.1 is missing"),
        ("train: []", "train is .*at least 1 item"),
        ("train: a/folder", "train.0 is 'a/folder'; expected a table with keys of source, kind"),
        ("train: {kind: depth}", "train.0.source is missing"),
        ("train: {source: x, kind: stereo}", "train.0.kind is 'stereo'; it should be 'homog"),
        ("train: {source: x, distortions: {scale: 0.5}}", "distortions.scale is 0.5; it should"),
        ("validation: {source: x, keep: 0.99}", "every validation source has keep"),
        ("trained: [head]", "trained.0 is 'head'; it should be 'block1'"),
        ("network: {kernel: 4}", "kernel is 4; it must be odd"),
        ("compare: {source: x, kind: pose}", "kind is 'pose'; it should be 'epipolar', 'homogr"),
    ],
)
def test_wrong_settings_are_named(tmp_path, line, said):
    key = line.partition(":")[0]
    lines = {"output": "output: runs/x", "train": "train: {source: images}"}
    path = tmp_path / "config.yaml"
    path.write_text("\n".join((lines | {key: line}).values()))
    with pytest.raises(ConfigurationError, match=said):
        read_settings(path)


def test_data_that_cannot_be_trained_on_is_named(images, tmp_path):
    settings = _settings(images, tmp_path)
    with pytest.raises(SourceError, match="holds no images"):
        open_pairs(Data(str(tmp_path)), settings.size, 5, 0)
    with pytest.raises(SourceError, match="depth"):
        open_pairs(Data(images, kind="depth"), settings.size, 5, 0)
    for kind in ("epipolar", "homography", "turned"):  # before the training, not after it
        with pytest.raises(SourceError, match="gone"):
            check(replace(settings, compare=(Comparison(f"{tmp_path}/gone", kind),)))
    with pytest.raises(SourceError, match=r"6 images; first 0 and gap 10 need at least 11"):
        check(replace(settings, compare=(Comparison(images),)))
    (tmp_path / "no.pth").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"no\.pth"):
        start_network(replace(settings, start=str(tmp_path / "no.pth")))
    with pytest.raises(ConfigurationError, match="no model 'aliked-n17'"):
        start_network(replace(settings, start="aliked-n17"))


@pytest.mark.long
def test_a_checkpoint_of_ones_own_is_a_model(images, tmp_path, monkeypatch, tum_images):
    """From training to the pipeline, by its path; exported once, and anew when it changes."""
    monkeypatch.setenv("ALIKED_ROS_WEIGHTS", str(weights_path("aliked-n16").parent))
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(tmp_path / "cache"))
    settings = _settings(images, tmp_path / "own", steps=1, validate_every=1)
    _curve(settings)
    checkpoint = str(tmp_path / "own" / LAST)
    pipeline = Pipeline(
        FrontendConfig(model=checkpoint, matcher="nearest", max_keypoints=200, precision="float32")
    )
    try:
        features = pipeline.process(Image(tum_images(0))).features
        assert features.descriptors.shape == (200, TINY.dim)
        assert pipeline.identity["model_checksum"] == entry_of(checkpoint).sha256
    finally:
        pipeline.close()
    network = ALIKED.from_checkpoint(Path(checkpoint))
    image = torch.from_numpy(tum_images(0).copy()).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        (expected,) = detect(network, image[None], 200)
    distance = torch.cdist(expected.keypoints, torch.from_numpy(features.keypoints)).min(1).values
    # after one step scores are nearly equal: rounding decides which are the last of the best
    assert (distance < 0.1).float().mean() > 0.8
    with pytest.raises(ConfigurationError, match=r"32-dimensional.*LightGlue.*nearest"):
        Pipeline(FrontendConfig(model=checkpoint))
    with pytest.raises(WeightsError, match=r"gone\.pth cannot be read"):
        Pipeline(FrontendConfig(model=str(tmp_path / "gone.pth")))


def test_the_examples_can_be_read(shared):
    for path in sorted((ROOT / "config").glob("train_*.yaml")):
        assert read_settings(path).train, path


def _repeatability(network: ALIKED, images: str) -> float:
    """Share of 40 keypoints that a small homography leaves within 2 px of another's."""
    settings = _settings(images, Path())
    data = Data(images, distortions=Distortions(rotation=10.0, scale=1.1, tilt=0.1))
    pairs, shares = open_pairs(data, settings.size, 12, seed=99), []
    for number in range(12):
        pair = pairs[number]
        with torch.no_grad():
            one, two = detect(network, torch.stack([pair.first, pair.second]), 40)
            there, visible = pair.first_to_second(one.keypoints)
            nearest = torch.cdist(there[visible], two.keypoints).min(1).values
        shares.append(float((nearest < 2.0).float().mean()))
    return float(np.mean(shares))


@pytest.mark.long
def test_a_small_network_learns_corners_from_nothing(images, tmp_path):
    settings = _settings(
        images, tmp_path / "corners", steps=120, batch=2, learning_rate=3e-3, validate_every=120,
        train_statistics=None,
    )  # fmt: skip
    before = _repeatability(start_network(settings).eval(), images)
    curve = _curve(settings)
    assert np.mean(curve[-10:]) < 0.7 * np.mean(curve[:10])
    trained = ALIKED.from_checkpoint(tmp_path / "corners" / LAST)
    assert _repeatability(trained, images) > before + 0.15
    assert not (tmp_path / "corners" / BEST).exists()  # nothing was validated
