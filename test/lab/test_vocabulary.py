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

"""Vocabularies: words tell places apart, and files hold what DBoW2's and FBoW's readers expect.

The readers themselves are not built here; the tests follow the formats that they read.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from aliked_ros.cli.main import app
from aliked_ros.errors import ConfigurationError, OutputError, SourceError
from aliked_ros.exporting.vocabulary import Vocabulary, score, train
from aliked_ros.exporting.vocabulary_files import load, save
from aliked_ros.types import Features, FrameResult, Matches, Tracks, UInt8Array

PLACES, VIEWS, POINTS = 12, 4, 150


def flipped(codes: UInt8Array, share: float, rng: np.random.Generator) -> UInt8Array:
    return codes ^ np.packbits(rng.random((len(codes), 256)) < share, axis=1)


@pytest.fixture(scope="module")
def images() -> list[UInt8Array]:
    """Four views of each of twelve places; their codes differ by 10 % of the bits."""
    rng = np.random.default_rng(0)
    places = [rng.integers(0, 256, (POINTS, 32), dtype=np.uint8) for _ in range(PLACES)]
    return [flipped(place, 0.1, rng) for place in places for _ in range(VIEWS)]


@pytest.fixture(scope="module")
def vocabulary(images: list[UInt8Array]) -> Vocabulary:
    return train(images, 6, 4, 1)


def test_scores_tell_places_apart(images, vocabulary):
    """Also for views that were not trained with."""
    rng = np.random.default_rng(1)
    bags = vocabulary.bags(images)
    assert np.asarray(bags.sum(1)).ravel() == pytest.approx(1)
    for place in range(PLACES):
        seen = vocabulary.bags([flipped(images[place * VIEWS], 0.1, rng)])
        scores = score(seen, bags).reshape(PLACES, VIEWS)
        assert scores[place].min() > np.delete(scores, place, 0).max()
    assert score(bags[[0]], bags)[0] == pytest.approx(1)
    assert score(bags[[0]], vocabulary.bags([images[0][:0]])) == [0]


def test_words_weigh_by_how_rare_they_are(images, vocabulary):
    found = np.array([np.bincount(vocabulary.nodes(i), minlength=len(vocabulary.parents)) > 0
                      for i in images])  # fmt: skip
    leaves = np.flatnonzero(vocabulary.leaf)
    assert set(np.flatnonzero(found.any(0))) <= set(leaves)
    seen = found[:, leaves].sum(0)
    expected = np.log(len(images) / np.maximum(seen, 1)) * (seen > 0)
    np.testing.assert_allclose(vocabulary.weights[leaves], expected, rtol=1e-6)
    assert not vocabulary.weights[~vocabulary.leaf].any()


def test_a_descriptor_goes_to_the_nearest_child(images, vocabulary):
    children, begins = vocabulary.children
    for code, leaf in zip(images[0][:20], vocabulary.nodes(images[0][:20]), strict=True):
        node = 0
        while len(below := children[begins[node] : begins[node + 1]]):
            assert len(below) <= 6
            node = below[np.unpackbits(vocabulary.codes[below] ^ code, axis=1).sum(1).argmin()]
        assert node == leaf


def test_training_is_reproducible(images, vocabulary):
    for part in (len(images[0]), 1000, 10**9):  # however the codes are shared out
        again = train(images, 6, 4, 1, part=part)
        for name in ("parents", "codes", "weights"):
            np.testing.assert_array_equal(getattr(again, name), getattr(vocabulary, name))


@pytest.mark.parametrize("suffix", [".txt", ".bin"])
def test_dbow2_files_come_back(vocabulary, tmp_path, suffix):
    save(vocabulary, tmp_path / f"voc{suffix}")
    read = load(tmp_path / f"voc{suffix}")
    assert (read.branching, read.depth) == (6, 4)
    for name in ("parents", "codes", "weights", "leaf"):
        np.testing.assert_array_equal(getattr(read, name), getattr(vocabulary, name))


def test_text_is_what_orb_slam_reads(vocabulary, tmp_path):
    save(vocabulary, tmp_path / "voc.txt")
    text = (tmp_path / "voc.txt").read_text()
    assert not text.endswith("\n")  # or its reader makes another word of it
    header, *lines = text.split("\n")
    assert header == "6 4 0 0"
    assert len(lines) == len(vocabulary.parents) - 1
    parent, leaf, *code, weight = lines[-1].split()
    assert (int(parent), leaf) == (vocabulary.parents[-1], "1")
    assert bytes(map(int, code)) == vocabulary.codes[-1].tobytes()
    assert float(weight) == pytest.approx(vocabulary.weights[-1])


def test_binary_is_what_orb_slam_forks_read(vocabulary, tmp_path):
    save(vocabulary, tmp_path / "voc.bin")
    data = (tmp_path / "voc.bin").read_bytes()
    count = len(vocabulary.parents)
    assert struct.unpack_from("<IIiiii", data) == (count, 41, 6, 4, 0, 0)
    assert len(data) == 24 + 41 * (count - 1)
    parent, code, weight, leaf = struct.unpack_from("<I32sf?", data, 24 + 41 * (count - 2))
    assert (parent, leaf) == (vocabulary.parents[-1], True)
    assert code == vocabulary.codes[-1].tobytes()
    assert weight == vocabulary.weights[-1]


def test_fbow_is_what_its_reader_walks(images, vocabulary, tmp_path):
    save(vocabulary, tmp_path / "voc.fbow")
    data = (tmp_path / "voc.fbow").read_bytes()
    signature, name, alignment, blocks = struct.unpack_from("<Q50s2xII", data)
    code_size, block_size, codes_begin, children_begin, total, kind, size, k = struct.unpack_from(
        "<QQQQQiiI", data, 72
    )
    assert (signature, name.rstrip(b"\0")) == (55824124, b"binary256")
    assert (alignment, code_size, size, kind, k) == (8, 32, 32, 0, 6)
    assert block_size % alignment == codes_begin % alignment == 0
    assert len(data) == 128 + total == 128 + blocks * block_size
    words = np.cumsum(vocabulary.leaf) - 1
    for code, leaf in zip(images[5][:50], vocabulary.nodes(images[5][:50]), strict=True):
        number, marked = 0, 0
        while not marked:
            begin = 128 + number * block_size
            count, _ = struct.unpack_from("<HH", data, begin)
            codes = np.frombuffer(data, np.uint8, 32 * count, begin + codes_begin).reshape(-1, 32)
            best = int(np.unpackbits(codes ^ code, axis=1).sum(1).argmin())
            number, weight = struct.unpack_from("<If", data, begin + children_begin + 8 * best)
            number, marked = number & 0x7FFFFFFF, number >> 31
        assert number == words[leaf]
        assert weight == vocabulary.weights[leaf]


def test_bad_settings_and_files_are_refused(images, vocabulary, tmp_path):
    with pytest.raises(ConfigurationError, match="branching is 21; choose 2 to 20"):
        train(images, 21, 4)
    with pytest.raises(ConfigurationError, match="depth is 0; choose 1 to 10"):
        train(images, 6, 0)
    with pytest.raises(SourceError, match="no two different ones"):
        train([np.zeros((9, 32), np.uint8)])
    with pytest.raises(SourceError, match="0 descriptors of 0 images"):
        train([])
    with pytest.raises(OutputError, match=r"suffix \.txt or \.bin"):
        save(vocabulary, tmp_path / "voc.yml")
    with pytest.raises(SourceError, match=r"give a \.txt or \.bin"):
        load(tmp_path / "voc.fbow")
    with pytest.raises(SourceError, match="No such file"):
        load(tmp_path / "voc.txt")
    save(vocabulary, tmp_path / "voc.bin")
    save(vocabulary, tmp_path / "voc.txt")
    for name, size in (("voc.bin", 500), ("voc.bin", 10), ("voc.txt", 300), ("voc.txt", 3)):
        data = (tmp_path / name).read_bytes()
        damaged = tmp_path / f"damaged{name[3:]}"
        damaged.write_bytes(data[:size])
        with pytest.raises(SourceError, match="is not a vocabulary, or damaged"):
            load(damaged)
    (tmp_path / "loop.txt").write_text("6 4 0 0\n" + "\n".join(["7 1 " + "0 " * 32 + "1"] * 3))
    with pytest.raises(SourceError, match="a node comes before its parent"):
        load(tmp_path / "loop.txt")


def record_place(path: Path, seed: int, encoding: str | None) -> None:
    """Ten images of one place: the same tracks, descriptors with a little noise."""
    from rclpy.serialization import serialize_message
    from std_msgs.msg import Header

    from aliked_msgs.msg import FeatureFrame
    from aliked_ros.ros.conversions import feature_frame, stamp_from_seconds
    from aliked_ros.ros.recording import Recording

    rng = np.random.default_rng(seed)
    place = rng.normal(size=(POINTS, 128))
    ids = np.arange(1, POINTS + 1, dtype=np.uint64)
    recording = Recording(path)
    recording.add_topic("/aliked_frontend/features", FeatureFrame)
    for index in range(10):
        descriptors = (place + rng.normal(0, 0.3, place.shape)).astype(np.float32)
        features = Features(
            np.zeros((POINTS, 2), np.float32), np.ones(POINTS, np.float32), descriptors, 640, 480,
            "aliked-n16",
        )  # fmt: skip
        tracks = Tracks(ids, np.ones(POINTS, np.uint32), 1)
        result = FrameResult(index, index / 10, features, Matches.empty(), tracks)
        message = feature_frame(result, Header(stamp=stamp_from_seconds(index / 10)), encoding)
        recording.add("/aliked_frontend/features", serialize_message(message), index, index)
    recording.finish()


def test_commands_train_on_recordings_and_test_them(tmp_path):
    """From codes and from floats alike; the same descriptors give the same files."""
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    for name, encoding in (("codes", "binary256"), ("floats", "float32"), ("none", None)):
        for seed in range(3):
            record_place(tmp_path / f"{name}{seed}.mcap", seed, encoding)
    run = CliRunner()
    for name in ("codes", "floats"):
        recordings = [str(tmp_path / f"{name}{seed}.mcap") for seed in range(3)]
        outputs = ["--output", str(tmp_path / f"{name}.txt"), "--output", str(tmp_path / "a.fbow")]
        done = run.invoke(app, ["vocabulary", "train", *recordings, *outputs, "--json"])
        assert done.exit_code == 0, done.output
        facts = json.loads(done.stdout)
        assert (facts["images"], facts["descriptors"]) == (30, 30 * POINTS)
        assert 20 < facts["words"] < 30 * POINTS / 10
    assert (tmp_path / "codes.txt").read_bytes() == (tmp_path / "floats.txt").read_bytes()
    tested = ["vocabulary", "test", str(tmp_path / "codes.txt"), *recordings, "--every", "2"]
    done = run.invoke(app, [*tested, "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["pairs of one place"] == 3 * 10
    assert facts["pairs of two places"] == 3 * 25
    assert facts["share of one place above that percentile"] == 1
    for recordings, words in (
        (["codes0"], "no two of the 10 images show two places; give more images"),
        (["none0"], "has no descriptors; record with publish_descriptors: true"),
    ):
        paths = [str(tmp_path / f"{name}.mcap") for name in recordings]
        done = run.invoke(app, ["vocabulary", "test", str(tmp_path / "codes.txt"), *paths])
        assert done.exit_code == 2
        assert words in done.stderr


def test_a_vocabulary_of_images_and_recordings_together(shared, tmp_path):
    """Images need no recording; those of another model do not fit a recording's features."""
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    record_place(tmp_path / "a.mcap", 0, "float32")
    folder = str(shared / "data" / "vamr_box_210" / "images")
    given = ["vocabulary", "train", "--output", str(tmp_path / "voc.bin"), "--every", "30"]
    run = CliRunner()
    done = run.invoke(app, [*given, str(tmp_path / "a.mcap"), "--images", folder, "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["images"] >= 3
    assert facts["words"] > 10
    done = run.invoke(
        app, [*given, str(tmp_path / "a.mcap"), "--images", folder, "--model", "aliked-t16"]
    )
    assert done.exit_code == 2
    assert "--images has features of aliked-t16" in done.stderr
    done = run.invoke(app, given)
    assert done.exit_code == 2
    assert "give recordings, or --images" in done.stderr


def test_a_vocabulary_file_is_never_half_written(vocabulary, tmp_path):
    target = tmp_path / "missing" / "voc.txt"
    save(vocabulary, target)  # makes the folder, as other results do
    assert [one.name for one in target.parent.iterdir()] == ["voc.txt"]
    assert Path(target).read_text().startswith("6 4 0 0")
