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

"""``vocabulary``: bags of binary words for ORB-style back-ends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aliked_ros.cli.shared import AsJson, console, show

app = typer.Typer(
    no_args_is_help=True, help="Bags of words for DBoW2 and FBoW: train on recordings, test."
)

Recordings = Annotated[
    list[Path], typer.Argument(help=".mcap files, or folders of 'ros2 bag record', with features.")
]
Every = Annotated[int, typer.Option(min=1, help="One of so many images.")]
Topics = Annotated[
    list[str] | None,
    typer.Option("--topic", help="Topic to read where several have the same type; repeatable."),
]


@app.command(
    "train",
    epilog="Example: aliked_ros vocabulary train a.mcap b.mcap --every 5 --output ALIKEDvoc.txt",
)
def train_vocabulary(
    outputs: Annotated[
        list[Path],
        typer.Option(
            "--output", help="File: .txt, .bin (DBoW2 as in ORB-SLAM) or .fbow; repeatable."
        ),
    ],
    recordings: Annotated[
        list[Path] | None,
        typer.Argument(help=".mcap files, or folders of 'ros2 bag record', with features."),
    ] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--images",
            help="Images to compute features of: a source as for 'track', or 'photographs' for a "
            "virtual camera's flights over scikit-image's photographs; repeatable.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Network for --images.")] = "aliked-n16",
    branching: Annotated[int, typer.Option(help="Children of a node, 2 to 20.")] = 10,
    depth: Annotated[int, typer.Option(help="Levels, 1 to 10.")] = 6,
    per_word: Annotated[
        int, typer.Option(min=1, help="Split a node only for so many descriptors a child.")
    ] = 20,
    every: Every = 1,
    topics: Topics = None,
    as_json: AsJson = False,
) -> None:
    """Make a vocabulary of the binary256 codes of recorded features, or of images."""
    from aliked_ros.console.progress import share_progress
    from aliked_ros.exporting.vocabulary import train
    from aliked_ros.exporting.vocabulary_files import check_suffix, save
    from aliked_ros.exporting.vocabulary_images import extract_images, read_images

    if not recordings and not sources:
        raise typer.BadParameter("give recordings, or --images", param_hint="RECORDINGS")
    for path in outputs:
        check_suffix(path)  # before the work
    with share_progress(console()) as report:
        expected = model if sources else ""
        images = list(read_images(recordings or [], every, topics or (), report, expected))
        if sources:
            images += extract_images(sources, model, every, report)
        vocabulary = train([image.codes for image in images], branching, depth, per_word, report)
    for path in outputs:
        save(vocabulary, path)
    facts = {
        "images": len(images),
        "descriptors": sum(len(image.codes) for image in images),
        "words": vocabulary.words,
        "output": ", ".join(map(str, outputs)),
    }
    show(facts, as_json)


@app.command("test", epilog="Example: aliked_ros vocabulary test ALIKEDvoc.txt a.mcap b.mcap")
def score_pairs(
    vocabulary: Annotated[Path, typer.Argument(help="A .txt or .bin file of DBoW2.")],
    recordings: Recordings,
    every: Every = 1,
    apart: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Images of one recording that share no track show two places if they are so many "
            "seconds apart. Where a recording returns, they may still show one.",
        ),
    ] = 10.0,
    topics: Topics = None,
    as_json: AsJson = False,
) -> None:
    """Compare the scores of pairs of images of one place with those of two places."""
    import numpy as np

    from aliked_ros.console.progress import share_progress
    from aliked_ros.exporting.vocabulary_files import load
    from aliked_ros.exporting.vocabulary_images import pair_scores, read_images

    tree = load(vocabulary)
    with share_progress(console()) as report:
        images = list(read_images(recordings, every, topics or (), report))
        same, other = pair_scores(tree, images, apart)
    limit = float(np.percentile(other, 99))
    facts = {
        "images": len(images),
        "words": tree.words,
        "pairs of one place": len(same),
        "their median score": round(float(np.median(same)), 4),
        "pairs of two places": len(other),
        "their median and 99th percentile": [round(float(np.median(other)), 4), round(limit, 4)],
        "share of one place above that percentile": round(float((same > limit).mean()), 4),
    }
    show(facts, as_json)
