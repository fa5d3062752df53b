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

"""The peers that are timed against do the same work: about the same keypoints and matches."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.benchmark import peers
from aliked_ros.benchmark.markdown import as_text
from aliked_ros.benchmark.plots import write_plots
from aliked_ros.benchmark.timing import machine, measure

pytest.importorskip("torch", reason="the published form needs torch")
opencv_models = pytest.importorskip("aliked_ros.benchmark.opencv_models")

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def images(shared: Path) -> list[np.ndarray]:
    from aliked_ros.benchmark.suites import _load_images

    return _load_images(str(shared / "data" / "tum_fr1_xyz"))[:4]


@pytest.fixture(scope="module")
def works(images):
    with peers.works(images) as found:
        yield found


@pytest.fixture(scope="module")
def found(works):
    return [work.found(1) for work in works]


def test_all_peers_of_this_machine_run(works):
    extraction, matching = works
    assert not [name for name in extraction.left_out if "OpenCV" in name]
    assert not [name for name in matching.left_out if "OpenCV" in name]
    assert len(extraction.peers) >= 7
    assert len(matching.peers) >= 8


def test_they_find_the_published_keypoints(works, found):
    published, *_ = results = list(found[0].items())
    for name, keypoints in results:
        if not works[0].peers[name].alike:
            continue
        shares = [peers.same_keypoints(a, b) for a, b in zip(published[1], keypoints, strict=True)]
        assert min(shares) > (0.95 if "bfloat16" in name else 0.998), name
        assert all(len(one) == peers.KEYPOINTS for one in keypoints), name


def test_opencv_differs_by_its_known_error_alone(images, found):
    (name,) = [name for name in found[0] if "ALIKED" in name]
    height, width = images[0].shape[:2]
    theirs = found[0][name][0] * ((width - 1) / width, (height - 1) / height)
    published = found[0]["torch eager, dense (published)"][0]
    nearest = np.linalg.norm(published[:, None] - theirs[None], axis=2).min(axis=1)
    assert np.percentile(nearest, 99) < 0.01
    raw = np.linalg.norm(published[:, None] - found[0][name][0][None], axis=2).min(axis=1)
    assert np.percentile(raw, 99) > 0.5


def test_they_find_the_published_matches(works, found):
    published, *_ = results = list(found[1].items())
    for name, pairs in results:
        if works[1].peers[name].alike:
            shares = [peers.same_matches(a, b) for a, b in zip(published[1], pairs, strict=True)]
            assert min(shares) > 0.97, name
        else:
            assert min(map(len, pairs)) > 50, name


def test_the_suite_gives_a_ratio_for_each(works, images, monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "works", lambda _images: nullcontext(works))
    monkeypatch.setattr(peers, "measure", partial(measure, warm_up=0))
    for name in ("_STREAM", "_LOOKED_AT"):
        monkeypatch.setattr(peers, name, 1)
    suite = peers.peers_suite(images, 1, lambda _share: None)
    results = {"machine": machine(), "source": "fr1", "suites": {"peers": suite}}
    text = as_text(results)
    for part, work in zip(suite["parts"], works, strict=True):
        assert [row["name"] for row in part["timings"]] == list(work.peers)
        for row in part["timings"]:
            assert row["name"] in text
            assert row["of_ours"] > 0.0
            assert row["speedup"] > 0.0
    assert "W − 1" in text
    assert "WARNING" not in text
    (path,) = write_plots(results, tmp_path)
    assert cv2.imread(str(path)) is not None


def test_a_network_that_ends_the_process_costs_the_peer_alone(tmp_path, monkeypatch):
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    missing = opencv_models.make(tmp_path, 64, 64, 10, 10)
    assert set(missing) == {opencv_models.ALIKED_FILE, opencv_models.LIGHTGLUE_FILE}
    assert all("signal 11" in reason for reason in missing.values())


def test_images_without_enough_features_are_refused(tmp_path):
    blank = [np.zeros((64, 64, 3), np.uint8)] * 3
    with pytest.raises(peers.ConfigurationError, match="--source"):
        peers._matching(blank, tmp_path, {})
