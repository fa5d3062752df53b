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

"""The training loop: resumes exactly, on one device or, with torchrun, on many.

A step depends only on its number, the seed and the saved state: pairs and random keypoints are
drawn by number, without global random state. So a killed run resumes as if it had not been
interrupted. Lightning Fabric handles devices, precision and gradients of several processes.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from aliked_ros.errors import ConfigurationError, ModelError, OutputError
from aliked_ros.models.registry import weights_path
from aliked_ros.networks.aliked import ALIKED
from aliked_ros.networks.fold import AlikedShape
from aliked_ros.system.cache import atomic_path
from aliked_ros.training.extraction import detect
from aliked_ros.training.frames import Reading
from aliked_ros.training.losses import LossSettings, total_loss
from aliked_ros.training.pairs import Pair, Pairs, open_pairs
from aliked_ros.training.settings import NEW, TrainingSettings
from aliked_ros.training.validation import check_matches, figures, picture

logger = logging.getLogger("aliked_ros.training")

STATE, BEST, LAST, CURVES = "state.ckpt", "best.pth", "last.pth", "curves"
_MANY = 1 << 30  # length of an endless dataset

Report = Callable[[int, dict[str, float]], None]
"""Called after each step with its number and its losses."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The result of a training.

    best: the checkpoint with the most correct matches in validation (without validation, the last).
    steps: total number. before, after: validation of the start and of ``best``, and its ``step``
    (0: none was better than the start); empty without validation.
    stopped: reason for stopping early; empty = none.
    """

    best: Path
    steps: int
    before: dict[str, float]
    after: dict[str, float]
    stopped: str


class _Batch:
    """Pairs and their numbers. Not a dataclass, whose tensors Fabric would move."""

    def __init__(self, pairs: Sequence[Pair], numbers: Sequence[int]) -> None:
        self.pairs, self.numbers = pairs, numbers
        self.names = "; ".join(pair.name for pair in pairs)


class _Ahead:
    """Prepares the pairs of the next batch in threads during a step."""

    def __init__(self, datasets: Sequence[Pairs]) -> None:
        self._datasets = datasets
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "pairs")
        self._coming: dict[int, Future[Pair]] = {}

    def batch(self, numbers: Sequence[int], coming: Sequence[int]) -> _Batch:
        """The pairs of ``numbers``; starts preparing those of ``coming``."""
        for number in (*numbers, *coming):
            if number not in self._coming:
                self._coming[number] = self._pool.submit(self._draw, number)
        return _Batch([self._coming.pop(number).result() for number in numbers], numbers)

    def close(self) -> None:
        """Cancel pending pairs."""
        self._pool.shutdown(cancel_futures=True)

    def _draw(self, number: int) -> Pair:
        return self._datasets[number % len(self._datasets)][number // len(self._datasets)]


class _Losses(nn.Module):
    """The network with its losses as one module, so that processes can share its forward."""

    def __init__(self, network: ALIKED, settings: TrainingSettings) -> None:
        super().__init__()
        self.network = network
        self._keypoints, self._random = settings.keypoints, settings.random
        self._seed = settings.seed << 32
        self._loss: LossSettings = settings.loss

    def forward(self, batch: _Batch) -> dict[str, Tensor]:
        """Mean losses of a batch; the pairs' numbers seed their random keypoints."""
        pairs = batch.pairs
        device = next(self.network.parameters()).device
        images = torch.stack([image for pair in pairs for image in (pair.first, pair.second)])
        seeds = [self._seed + 2 * number + side for number in batch.numbers for side in (0, 1)]
        found = detect(self.network, images.to(device), self._keypoints, self._random, seeds)
        with torch.autocast(device.type, enabled=False):
            losses = [
                total_loss(
                    found[2 * i],
                    found[2 * i + 1],
                    pair.first_to_second,
                    pair.second_to_first,
                    self._loss,
                )
                for i, pair in enumerate(pairs)
            ]
        return {name: torch.stack([one[name] for one in losses]).mean() for name in losses[0]}


def train(
    settings: TrainingSettings,
    restart: bool = False,
    report: Report = lambda _step, _losses: None,
    accelerator: str = "auto",
    reading: Reading = lambda _name, _done, _of: None,
) -> TrainingResult:
    """Train, or resume training, in ``settings.output``.

    Written there: ``best.pth`` and ``last.pth`` (in the published format: usable as ``model:
    best.pth``), ``state.ckpt`` to resume from, ``curves/`` for TensorBoard. restart: start over.
    reading: called with the progress of reading images.
    Raises ConfigurationError if the folder has a run with other settings, ModelError if a loss is
    not finite (the checkpoints are then from the last validation), SourceError, OutputError.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            num_nodes=max(1, world // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))),
            strategy="ddp" if world > 1 else "auto",
            precision=settings.precision,
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigurationError(f"accelerator {accelerator!r} cannot be used: {error}") from error
    if world > 1:
        fabric.launch()
    result = _Run(fabric, settings, restart, report, reading).go()
    if world > 1:
        # Gloo's threads may still free tensors, which aborts a process that Python is leaving
        # (pytorch issue 190489). Not after an error: the other processes may be waiting.
        torch.distributed.destroy_process_group()
    return result


class _Run:
    """One training under way."""

    def __init__(
        self,
        fabric: Fabric,
        settings: TrainingSettings,
        restart: bool,
        report: Report,
        reading: Reading,
    ) -> None:
        self._fabric, self._settings, self._report = fabric, settings, report
        self._folder = settings.output
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self._folder, error) from error
        network = start_network(settings)
        statistics = settings.train_statistics
        self._statistics = settings.start == NEW if statistics is None else statistics
        self._losses = _Losses(network, settings)
        if settings.trained:
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(name.partition(".")[0] in settings.trained)
        learning = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(learning, lr=settings.learning_rate)
        self._model, self._optimizer = fabric.setup(self._losses, optimizer)
        self._network = network
        with fabric.rank_zero_first(local=True):  # it fills the cache for all
            every = settings.batch * settings.accumulate * fabric.world_size  # pairs a step
            growing = settings.grow * every // len(settings.train)
            self._ahead = _Ahead(
                [
                    open_pairs(
                        data, settings.size, _MANY, _seed(settings, 0, place), reading, growing
                    )
                    for place, data in enumerate(settings.train)
                ]
            )
            self._validation = [
                [
                    *_all(
                        open_pairs(
                            data, settings.size, settings.pairs, _seed(settings, 1, place), reading
                        )
                    )
                ]
                for place, data in enumerate(settings.validation)
            ]
        self._step = 0
        self._before: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._worse = 0  # validations since the best one
        if restart and fabric.is_global_zero:
            for name in (STATE, BEST, LAST):
                (self._folder / name).unlink(missing_ok=True)
        fabric.barrier()
        self._load()

    def go(self) -> TrainingResult:
        """Train to the end."""
        writer = None
        if self._fabric.is_global_zero:
            # discards curves from after the resumed state
            begun = self._step + 1 if self._before or self._step else 0
            writer = SummaryWriter(str(self._folder / CURVES), purge_step=begun)
        try:
            stopped = self._loop(writer)
        finally:
            self._ahead.close()
            if writer is not None:
                writer.close()
        return TrainingResult(
            self._folder / (BEST if self._best else LAST), self._step, self._before, self._best,
            stopped,
        )  # fmt: skip

    def _loop(self, writer: SummaryWriter | None) -> str:
        settings = self._settings
        if not self._before and self._validation:
            self._before = self._best = self._checking(writer)
            self._save(better=True)
        while self._step < settings.steps:
            if settings.patience and self._worse >= settings.patience:
                return f"no better for {self._worse} validations"
            losses = self._one_step()
            self._step += 1
            _write(writer, "loss", losses, self._step)
            self._report(self._step, losses)
            if self._step % settings.validate_every == 0 or self._step == settings.steps:
                self._validate(writer)
        return ""

    def _one_step(self) -> dict[str, float]:
        """One step of the optimiser; the means of the losses over all processes."""
        settings, fabric = self._settings, self._fabric
        self._network.train()
        if not self._statistics:
            _freeze_statistics(self._network)
        rate = settings.learning_rate * min(1.0, (self._step + 1) / max(1, settings.warm_up))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        sums: dict[str, float] = {}
        for part in range(settings.accumulate):
            batch = self._ahead.batch(self._numbers(part), self._numbers(part + 1))
            last = part == settings.accumulate - 1
            with fabric.no_backward_sync(self._model, enabled=not last):
                losses = self._model(batch)
                finite = bool(torch.isfinite(losses["total"]))
                if not finite:
                    logger.error("loss is not finite for %s", batch.names)
                everywhere = fabric.all_reduce(torch.tensor(float(finite)), reduce_op="mean")
                if float(everywhere) < 1.0:  # type: ignore[arg-type]
                    raise self._broken("loss", "another process" if finite else batch.names)
                fabric.backward(losses["total"] / settings.accumulate)
            for name, value in losses.items():
                shared = fabric.all_reduce(value.detach(), reduce_op="mean")
                sums[name] = sums.get(name, 0.0) + float(shared) / settings.accumulate  # type: ignore[arg-type]
        norm = fabric.clip_gradients(
            self._model, self._optimizer, max_norm=settings.clip, error_if_nonfinite=False
        )
        if norm is not None and not torch.isfinite(norm):
            raise self._broken("gradient", batch.names)  # the same in all processes
        self._optimizer.step()
        return sums

    def _broken(self, what: str, names: str) -> ModelError:
        return ModelError(
            f"the {what} of step {self._step + 1} is not finite (pairs: {names}); lower "
            f"learning_rate ({self._settings.learning_rate:g}) or use precision 32-true. "
            f"{self._folder / LAST} is from the last validation."
        )

    def _numbers(self, part: int) -> list[int]:
        """The numbers of this process's pairs in a batch; all processes take consecutive ones."""
        settings, fabric = self._settings, self._fabric
        together = settings.batch * fabric.world_size
        begin = (self._step * settings.accumulate + part) * together
        begin += fabric.global_rank * settings.batch
        return list(range(begin, begin + settings.batch))

    def _validate(self, writer: SummaryWriter | None) -> None:
        better = False
        if self._validation:
            found = self._checking(writer)
            better = found["correct"] > self._best["correct"] and all(
                found[name] >= data.keep * self._before[name]
                for name, data in zip(self._sources(), self._settings.validation, strict=True)
                if data.keep is not None
            )
            self._worse = 0 if better else self._worse + 1
            if better:
                self._best = found
        self._save(better)

    def _sources(self) -> list[str]:
        """Names of the validation sources' figures."""
        return [f"correct/{number}" for number in range(len(self._validation))]

    def _checking(self, writer: SummaryWriter | None) -> dict[str, float]:
        """Validate in one process and share the figures."""
        found = self._figures(writer) if self._fabric.is_global_zero else {}
        return self._fabric.broadcast(found | {"step": self._step})

    def _figures(self, writer: SummaryWriter | None) -> dict[str, float]:
        """Validation figures; writes a picture of each source's first pair for TensorBoard."""
        counted, found = [], {}
        for number, (name, pairs) in enumerate(zip(self._sources(), self._validation, strict=True)):
            checked = [
                check_matches(self._network, pair, self._settings.keypoints) for pair in pairs
            ]
            found[name] = figures(checked)["correct"]
            if self._settings.validation[number].keep is None:
                counted += checked
            if writer is not None:
                shown = picture(pairs[0], checked[0])
                writer.add_image(f"matches/{number}", shown, self._step, dataformats="HWC")
        found |= figures(counted)
        _write(writer, "validation", found, self._step)
        return found

    def _save(self, better: bool) -> None:
        """Write checkpoints and the state to resume from, each atomically."""
        if self._fabric.is_global_zero:
            weights = {name: value.cpu() for name, value in self._network.state_dict().items()}
            state = {
                "settings": self._identity(),
                "step": self._step,
                "network": weights,
                "optimizer": self._optimizer.state_dict(),
                "before": self._before,
                "best": self._best,
                "worse": self._worse,
            }
            try:
                for name, content in ((LAST, weights), (BEST, weights), (STATE, state)):
                    if name != BEST or better:
                        with atomic_path(self._folder / name) as path:
                            torch.save(content, path)
            except (OSError, RuntimeError) as error:  # torch's, for a full disk
                raise _unwritable(self._folder, error) from error
        self._fabric.barrier()

    def _load(self) -> None:
        """Resume from the state in the folder, if there is one."""
        path = self._folder / STATE
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            there, here = state["settings"], self._identity()
        except (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
            raise ConfigurationError(
                f"{path} is not the state of a training; choose another output, or start over with "
                "--restart."
            ) from error
        for name in here:
            if name != "steps" and there.get(name) != here[name]:
                raise ConfigurationError(
                    f"{path} is of a training that differs in {name} ({there.get(name)!r}, now "
                    f"{here[name]!r}); choose another output, or start over with --restart."
                )
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step, self._worse = state["step"], state["worse"]
        self._before, self._best = state["before"], state["best"]

    def _identity(self) -> dict[str, Any]:
        """What must be equal to resume a run."""
        about = self._settings.as_dict() | {"processes": self._fabric.world_size}
        return json.loads(json.dumps(about))  # type: ignore[no-any-return]


def start_network(settings: TrainingSettings) -> ALIKED:
    """The network that training starts from; WeightsError if it is not a checkpoint."""
    if settings.start == NEW:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            sizes = settings.network
            return ALIKED(AlikedShape(sizes.channels, sizes.dim, sizes.kernel, sizes.samples))
    return ALIKED.from_checkpoint(weights_path(settings.start))


def _all(pairs: Pairs) -> Iterator[Pair]:
    return (pairs[index] for index in range(len(pairs)))


def _freeze_statistics(network: nn.Module) -> None:
    """Make batch normalisation use its statistics without updating them."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _write(writer: SummaryWriter | None, group: str, values: dict[str, float], step: int) -> None:
    if writer is not None:
        for name, value in values.items():
            writer.add_scalar(f"{group}/{name}", value, step)


def _seed(settings: TrainingSettings, purpose: int, place: int) -> int:
    """The seed of a source's pairs, by its index in the list."""
    return int(np.random.SeedSequence((settings.seed, purpose, place)).generate_state(1)[0])


def _unwritable(folder: Path, error: OSError | RuntimeError) -> OutputError:
    reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
    return OutputError(f"cannot write to {folder}: {reason}.")
