"""The file that says what is trained on what, and how (``aliked_ros train CONFIG.yaml``)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from aliked_ros.errors import ConfigurationError
from aliked_ros.training.distortions import Distortions
from aliked_ros.training.losses import LossSettings

KINDS = ("homography", "depth", "megadepth")
EVALUATIONS = ("epipolar", "homography", "turned")
PARTS = (
    "block1", "block2", "block3", "block4", "conv1", "conv2", "conv3", "conv4", "score_head",
    "desc_head",
)  # fmt: skip
MATCHERS = ("nearest", "lightglue")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
NEW = "new"


@dataclass(frozen=True, slots=True)
class Data:
    """Where pairs come from.

    kind, source: ``homography`` makes them of single images, of whatever ``aliked_ros track``
    takes; ``depth`` takes them from such a source with depth images and a calibration;
    ``megadepth`` from a scene's .npz, its images and depths (MegaDepth as D2-Net and LoFTR have
    prepared it). first, count: which of its images; null: to the end. poses: depth, a trajectory in
    TUM's format; null: the source's ground truth. largest_gap: depth, images from the first to the
    second of a pair. overlap: megadepth, least and largest share of a pair's points that both
    images show. distortions: see ``Distortions``; where there is depth only the light is changed.
    keep: validation, the share of the start's correct matches here, below which a checkpoint is not
    the best one whatever it gains elsewhere (null: what it gains here counts).
    """

    source: str
    kind: str = "homography"
    first: int = 0
    count: int | None = None
    poses: str | None = None
    largest_gap: int = 10
    overlap: tuple[float, float] = (0.1, 0.7)
    distortions: Distortions = field(default_factory=Distortions)
    keep: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the result is compared with the start on, when training has ended.

    kind, source: ``epipolar``, the sequence's images from ``first`` on, in pairs ``gap`` apart;
    ``homography``, a folder as for that evaluation; ``turned``, every ``gap``-th image from
    ``first`` on and itself turned by 90 degrees. matcher, top_k: as of the evaluations.
    """

    source: str
    kind: str = "epipolar"
    first: int = 0
    gap: int = 10
    matcher: str = "nearest"
    top_k: int = 1000

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
    """Sizes of a network that starts from nothing; the default is N16's.

    channels: of the four blocks. dim: of the descriptors, a multiple of 4. kernel: K of SDDH's
    patch, odd. samples: M deformable positions of SDDH.
    """

    channels: tuple[int, int, int, int] = (16, 32, 64, 128)
    dim: int = 128
    kernel: int = 3
    samples: int = 16


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Everything a training run depends on.

    start: a model's name, a checkpoint, or ``new``. network: of a new one. trained: parts of the
    network that learn (``PARTS``), empty = all; the others stay as they are. train, validation:
    data; their pairs are mixed evenly. compare: evaluations of the result and the start. size:
    width and height of the images. steps: of the optimiser. batch: pairs a process works on at
    once; accumulate: such batches for one step. learning_rate: of Adam, reached after ``warm_up``
    steps, then constant. clip: largest norm of the gradient. keypoints, random: detected, and drawn
    anywhere, in each image. precision: of Lightning Fabric. train_statistics: let batch
    normalisation follow the data; null: only for new networks, since a few images would spoil what
    many have given. validate_every, patience: steps, and validations without a better one that end
    it (0: never). pairs: of validation. seed: of everything that is drawn. loss: see
    ``LossSettings``.
    """

    train: tuple[Data, ...]
    output: Path
    start: str = "aliked-n16"
    network: Network = field(default_factory=Network)
    trained: tuple[str, ...] = ()
    validation: tuple[Data, ...] = ()
    compare: tuple[Comparison, ...] = ()
    size: tuple[int, int] = (320, 240)
    steps: int = 500
    batch: int = 1
    accumulate: int = 1
    learning_rate: float = 1e-4
    warm_up: int = 20
    clip: float = 1.0
    keypoints: int = 400
    random: int = 200
    precision: str = "32-true"
    train_statistics: bool | None = None
    validate_every: int = 50
    patience: int = 0
    pairs: int = 20
    seed: int = 0
    loss: LossSettings = field(default_factory=LossSettings)

    def __post_init__(self) -> None:
        """Raise ConfigurationError for a value that cannot be."""
        if not self.train:
            raise ConfigurationError("train names no data; give at least one source of images.")
        for data in (*self.train, *self.validation):
            if data.kind not in KINDS:
                raise ConfigurationError(f"kind is {data.kind!r}; choose {' or '.join(KINDS)}.")
        if self.validation and all(data.keep is not None for data in self.validation):
            raise ConfigurationError(
                "every validation source has keep, so none says which checkpoint is the best; "
                "leave it out of one."
            )
        for part in self.trained:
            if part not in PARTS:
                raise ConfigurationError(
                    f"trained has {part!r}; the parts of the network are {', '.join(PARTS)}."
                )
        for task in self.compare:
            for name, value, known in (
                ("kind", task.kind, EVALUATIONS), ("matcher", task.matcher, MATCHERS),
            ):  # fmt: skip
                if value not in known:
                    raise ConfigurationError(
                        f"compare: {name} is {value!r}; choose {' or '.join(known)}."
                    )
        if self.precision not in PRECISIONS:
            raise ConfigurationError(
                f"precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}."
            )
        for name in ("steps", "batch", "accumulate", "keypoints", "validate_every", "pairs"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.network.dim % 4 or self.network.kernel % 2 == 0:
            raise ConfigurationError(
                f"network has dim {self.network.dim} and kernel {self.network.kernel}; dim must be "
                "a multiple of 4, kernel odd."
            )
        if min(self.size) < 64:
            raise ConfigurationError(f"size is {self.size}; each side must be at least 64 pixels.")

    def as_dict(self) -> dict[str, Any]:
        """What a run cannot go on with when it differs: all but where results go."""
        content = asdict(self)
        del content["output"], content["compare"]
        return content


def read_settings(path: Path) -> TrainingSettings:
    """Read a YAML file; ConfigurationError names a key that does not exist and the nearest."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}.") from error
    if not isinstance(content, Mapping):
        raise ConfigurationError(
            f"{path} holds no settings; expected keys like 'train' and 'output'."
        )
    settings: TrainingSettings = _build(TrainingSettings, content, str(path))
    return settings


_LISTED: dict[str, Any] = {"train": Data, "validation": Data, "compare": Comparison}
_NESTED: dict[str, Any] = {
    "network": Network,
    "loss": LossSettings,
    "distortions": Distortions,
}


def _build(kind: Any, content: Any, where: str) -> Any:
    """A data class of a table; each key must be a field's."""
    if not isinstance(content, Mapping):
        raise ConfigurationError(f"{where} is {content!r}; expected a table of keys.")
    known = [one.name for one in fields(kind)]
    values = {}
    for key, value in content.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
            raise ConfigurationError(f"{where} has no key {key!r}; {meant}")
        values[key] = _value(key, value, f"{where}: {key}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigurationError(f"{where}: {error}.") from error


def _value(key: str, value: Any, where: str) -> Any:
    if key in _NESTED and not is_dataclass(value):
        return _build(_NESTED[key], value, where)
    if key in _LISTED:
        rows = value if isinstance(value, list) else [value]
        return tuple(_build(_LISTED[key], row, where) for row in rows)
    if key == "output":
        return Path(str(value)).expanduser()
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str) and key in ("learning_rate", "clip"):
        return float(value)  # YAML 1.1 reads 1e-4 as text
    return value
