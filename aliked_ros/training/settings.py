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

"""The training configuration file (``aliked_ros train CONFIG.yaml``)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from aliked_ros.errors import ConfigurationError
from aliked_ros.networks.constants import LIGHTGLUE_DIM
from aliked_ros.training.distortions import Distortions, Share
from aliked_ros.training.losses import LossSettings

Kind = Literal["homography", "depth", "megadepth"]
Evaluation = Literal["epipolar", "homography", "turned"]
Part = Literal[
    "block1", "block2", "block3", "block4", "conv1", "conv2", "conv3", "conv4", "score_head",
    "desc_head",
]  # fmt: skip
Matcher = Literal["nearest", "lightglue"]
Precision = Literal["32-true", "bf16-mixed"]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=64)]  # pixels
NEW = "new"


def _listed(value: Any) -> Any:
    """A list, also if a single item was written without one."""
    return value if isinstance(value, (list, tuple)) else [value]


@dataclass(frozen=True, slots=True)
class Data:
    """A source of pairs.

    kind, source: ``homography`` makes pairs from single images of any source that
    ``aliked_ros track`` accepts; ``depth`` needs such a source with depth images and a calibration;
    ``megadepth`` a scene's .npz with its images and depths (MegaDepth as prepared by D2-Net and
    LoFTR). first, count: range of its images; null: to the end. poses: for depth, a trajectory in
    TUM format; null: the source's ground truth. largest_gap: for depth, largest distance of a
    pair's images. overlap: for megadepth, least and largest share of common points. distortions:
    see ``Distortions``; with depth only the light changes. keep: for validation, least share of the
    start's correct matches for a checkpoint to become the best one (null: this source counts for
    choosing the best).
    """

    source: str
    kind: Kind = "homography"
    first: Annotated[int, Field(ge=0)] = 0
    count: Annotated[int, Field(ge=1)] | None = None
    poses: str | None = None
    largest_gap: Annotated[int, Field(ge=1)] = 10
    overlap: tuple[Share, Share] = (0.1, 0.7)
    distortions: Distortions = field(default_factory=Distortions)
    keep: Annotated[float, Field(gt=0)] | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of the result with the start, after training.

    kind, source: ``epipolar``, a sequence's images from ``first`` on, in pairs ``gap`` apart;
    ``homography``, a folder as for that evaluation; ``turned``, every ``gap``-th image from
    ``first`` on and its rotation by 90 degrees. matcher, top_k: as in the evaluations.
    """

    source: str
    kind: Evaluation = "epipolar"
    first: Annotated[int, Field(ge=0)] = 0
    gap: Annotated[int, Field(ge=1)] = 10
    matcher: Matcher = "nearest"
    top_k: Annotated[int, Field(ge=1)] = 1000

    @property
    def name(self) -> str:
        """For the table."""
        images = f", from image {self.first} on"
        which = {
            "epipolar": f"{images}, {self.gap} apart",
            "homography": "",
            "turned": f"{images}, turned by 90°",
        }[self.kind]
        return f"{Path(self.source).name}{which}, {self.matcher}"


@dataclass(frozen=True, slots=True)
class Network:
    """Sizes of a network trained from scratch; the default is N16's.

    channels: of the four blocks. dim: of the descriptors, a multiple of 4. kernel: K of SDDH's
    patch, odd. samples: M deformable positions of SDDH.
    """

    channels: tuple[Count, Count, Count, Count] = (16, 32, 64, 128)
    dim: Annotated[int, Field(ge=4, multiple_of=4)] = 128
    kernel: Annotated[int, Field(ge=1)] = 3
    samples: Count = 16

    def __post_init__(self) -> None:
        """Raise ConfigurationError for an even kernel."""
        if self.kernel % 2 == 0:
            raise ConfigurationError(f"network: kernel is {self.kernel}; it must be odd.")


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """All settings of a training run.

    start: a model's name, a checkpoint, or ``new``. network: sizes of a new one. trained: parts of
    the network to train (``PARTS``), empty = all; others stay fixed. train, validation: data; their
    pairs are mixed evenly. compare: evaluations of the result and the start. size: width and height
    of the images. steps: of the optimiser. batch: pairs per process and batch; accumulate: batches
    per step. learning_rate: of Adam, constant after ``warm_up`` steps. grow: steps over which the
    distortions of training pairs grow from none; large rotations are learnt only this way. clip:
    maximum gradient norm. keypoints, random: detected, and at random positions, in each image.
    precision: of Lightning Fabric. train_statistics: update batch-normalisation statistics; null:
    only for new networks, since a few images would spoil statistics from many. validate_every,
    patience: steps between validations, and validations without improvement that end the training
    (0: never). pairs: of validation. seed: of all random numbers. loss: see ``LossSettings``.
    """

    train: Annotated[tuple[Data, ...], BeforeValidator(_listed), Field(min_length=1)]
    output: Path
    start: str = "aliked-n16"
    network: Network = field(default_factory=Network)
    trained: Annotated[tuple[Part, ...], BeforeValidator(_listed)] = ()
    validation: Annotated[tuple[Data, ...], BeforeValidator(_listed)] = ()
    compare: Annotated[tuple[Comparison, ...], BeforeValidator(_listed)] = ()
    size: tuple[Side, Side] = (320, 240)
    steps: Count = 500
    batch: Count = 1
    accumulate: Count = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    warm_up: Annotated[int, Field(ge=0)] = 20
    grow: Annotated[int, Field(ge=0)] = 0
    clip: Annotated[float, Field(gt=0)] = 1.0
    keypoints: Count = 400
    random: Annotated[int, Field(ge=0)] = 200
    precision: Precision = "32-true"
    train_statistics: bool | None = None
    validate_every: Count = 50
    patience: Annotated[int, Field(ge=0)] = 0
    pairs: Count = 20
    seed: Annotated[int, Field(ge=0)] = 0
    loss: LossSettings = field(default_factory=LossSettings)

    def __post_init__(self) -> None:
        """Raise ConfigurationError for values that do not go together."""
        if self.validation and all(data.keep is not None for data in self.validation):
            raise ConfigurationError(
                "every validation source has keep, so none decides which checkpoint is the best; "
                "remove keep from one."
            )
        if self.start == NEW and self.network.dim != LIGHTGLUE_DIM:
            for task in self.compare:
                if task.matcher == "lightglue":
                    raise ConfigurationError(
                        f"compare: matcher is lightglue, which needs descriptors of "
                        f"{LIGHTGLUE_DIM} dimensions; with dim {self.network.dim} use nearest."
                    )

    def as_dict(self) -> dict[str, Any]:
        """Settings that must be equal to resume a run: all but the output folder."""
        content = asdict(self)
        del content["output"], content["compare"]
        return content


def read_settings(path: Path) -> TrainingSettings:
    """Read a YAML file; ConfigurationError names a key that does not exist and the nearest."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigurationError(f"cannot read {path}: {reason}.") from error
    if not isinstance(content, Mapping):
        raise ConfigurationError(
            f"{path} holds no settings; expected keys like 'train' and 'output'."
        )
    try:
        return TypeAdapter(TrainingSettings).validate_python(dict(content))
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        raise ConfigurationError(f"{path}: {_said(found['loc'], found)}") from error


def _said(where: tuple[int | str, ...], found: Any) -> str:
    """The problem with a key, in a sentence."""
    *above, last = where or ("",)
    table = next((_TABLES[name] for name in reversed(above) if name in _TABLES), TrainingSettings)
    place = ".".join(str(part) for part in where)
    if found["type"] == "unexpected_keyword_argument":
        known = [one.name for one in fields(table)]
        near = difflib.get_close_matches(str(last), known, 1)
        meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
        return f"no key {place!r}; {meant}"
    if found["type"] == "missing":
        return f"{place} is missing."
    if found["type"] == "dataclass_type":
        known = [one.name for one in fields(_TABLES.get(_name(where), TrainingSettings))]
        return f"{place} is {found['input']!r}; expected a table with keys of {', '.join(known)}."
    message = found["msg"].replace("Input should", "it should")
    return f"{place} is {found['input']!r}; {message}."


def _name(where: tuple[int | str, ...]) -> str:
    return next((part for part in reversed(where) if isinstance(part, str)), "")


_TABLES: dict[Any, Any] = {
    "train": Data, "validation": Data, "compare": Comparison, "network": Network,
    "loss": LossSettings, "distortions": Distortions,
}  # fmt: skip
for _table in (TrainingSettings, *_TABLES.values()):
    # for pydantic: refuse unknown keys and values of another type
    _table.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
